//! [`JsonDecoder`]: records to columns, by the template where a record matches it, else exactly.
//!
//! **Invariant:** a record leaves one entry in each column or none in any.

use std::collections::HashMap;

use arrow::datatypes::Schema;
use tidemill_model::Result;
use tidemill_runtime::{Decoded, Decoder, Records};

use super::scan::{self, Entry, Scanner};
use super::template::Template;
use super::text;
use crate::format::number::{self, load};
use crate::format::{Block, Cells, Column, Columns, Fault, TimeFormat, found};

/// Reads blocks of JSON records.
#[derive(Debug)]
pub(super) struct JsonDecoder {
    columns: Columns,
    /// The column of each field name.
    names: HashMap<Vec<u8>, usize>,
    template: Template,
    /// Whether the template was learned from lines, which it must never step over.
    lines: bool,
    /// Room for the exact path to work in.
    entries: Vec<Entry>,
    open: Vec<u8>,
    filled: Vec<Option<(usize, usize)>>,
    plain: Vec<u8>,
}

impl JsonDecoder {
    /// A decoder for the columns of a schema.
    pub(super) fn of(schema: &Schema, time: TimeFormat) -> Result<JsonDecoder> {
        let columns = Columns::of(schema, time)?;
        let names = columns.columns.iter().enumerate().map(|(i, c)| (c.name.as_bytes().to_vec(), i)).collect();
        Ok(JsonDecoder {
            columns,
            names,
            template: Template::default(),
            lines: false,
            entries: Vec::new(),
            open: Vec::new(),
            filled: Vec::new(),
            plain: Vec::new(),
        })
    }

    /// Reads the record at `start` if it has the shape of the template; answers where it ends. Otherwise the columns
    /// hold parts of it.
    #[inline]
    fn by_template(&mut self, bytes: &[u8], start: usize, end: Option<usize>) -> Option<usize> {
        let row = self.columns.rows;
        let columns = self.columns.columns.as_mut_slice();
        let mut at = start;
        let mut opened = false;
        for slot in &self.template.slots {
            let literal = if opened { &slot.next } else { &slot.first };
            if !literal.stands_at(bytes, at) {
                // The record may lack this field and go on with a later one.
                if let Some(column) = slot.column.and_then(|column| columns.get_mut(column)) {
                    column.push_null(row);
                }
                continue;
            }
            opened = true;
            at += literal.len();
            at = match slot.column {
                None => skip(bytes, at, end, &mut self.open)?,
                Some(column) => {
                    let column = columns.get_mut(column)?;
                    match value(&mut column.cells, bytes, at) {
                        Some(end) => end,
                        None if is_null(bytes, at) => {
                            column.push_null(row);
                            at + 4
                        }
                        None => return None,
                    }
                }
            };
        }
        if !opened || !self.template.close.stands_at(bytes, at) {
            return None;
        }
        at += self.template.close.len();
        let ended = match end {
            Some(end) => at == end,
            None => matches!(bytes.get(at), None | Some(b'\n')),
        };
        if !ended {
            return None;
        }
        for column in &self.template.absent {
            columns.get_mut(*column)?.push_null(row);
        }
        self.columns.rows += 1;
        self.template.matched = self.template.matched.saturating_add(1);
        Some(at)
    }

    /// Reads any record, or says why it is bad; the columns then are as before.
    fn exactly(&mut self, record: &[u8]) -> std::result::Result<(), Fault> {
        self.entries.clear();
        if let Err(fault) = Scanner::new(record, 0).record(&mut self.open, &mut self.entries) {
            return Err(unreadable(record, &fault));
        }
        self.filled.clear();
        self.filled.resize(self.columns.columns.len(), None);
        for entry in &mut self.entries {
            entry.column = column_of(&self.names, record, entry, &mut self.plain);
            // Of a repeated field the last one counts.
            if let Some(filled) = entry.column.and_then(|column| self.filled.get_mut(column)) {
                *filled = Some((entry.value.start, entry.value.end));
            }
        }
        self.template.learn(record, &self.entries, self.columns.columns.len());
        let row = self.columns.rows;
        let mut bad: Option<(usize, Fault)> = None;
        for (column, filled) in self.columns.columns.iter_mut().zip(&self.filled) {
            let Some((start, end)) = *filled else {
                column.push_null(row);
                continue;
            };
            if is_null(record, start) {
                column.push_null(row);
            } else if value(&mut column.cells, record, start) != Some(end) {
                column.truncate(row);
                let token = record.get(start..end).unwrap_or_default();
                if unescaped(column, token, &mut self.plain).is_some() {
                    continue;
                }
                // Of several faults the first in the record is told.
                if bad.as_ref().is_none_or(|(at, _)| start < *at) {
                    bad = Some((start, Fault::mistyped(column, record.get(..end).unwrap_or_default(), start)));
                }
            }
        }
        if let Some((_, bad)) = bad {
            self.columns.undo();
            return Err(bad);
        }
        self.columns.rows += 1;
        Ok(())
    }
}

impl Decoder for JsonDecoder {
    fn decode(&mut self, records: &Records) -> Result<Decoded> {
        let mut block = Block::of(records)?;
        let bytes = block.bytes();
        if self.lines != records.ends.is_none() {
            self.lines = records.ends.is_none();
            self.template = Template::default();
        }
        self.columns.start();
        while let Some((start, end)) = block.next() {
            if let Some(end) = self.by_template(bytes, start, end) {
                block.good(end);
                continue;
            }
            self.columns.undo();
            let stop = end.unwrap_or_else(|| block.line_end(start));
            let record = bytes.get(start..stop).unwrap_or_default();
            if end.is_none() && record.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r')) {
                block.skip(stop);
                continue;
            }
            match self.exactly(record) {
                Ok(()) => block.good(stop),
                Err(bad) => block.bad(start, stop, bad.reason, bad.detail),
            }
        }
        Ok(block.decoded(self.columns.finish()?))
    }
}

/// Where a record stops being JSON, in words.
pub(crate) fn unreadable(record: &[u8], fault: &scan::Fault) -> Fault {
    let detail = format!("expected {} at byte {}{}", fault.expected, fault.at, found(record, fault.at));
    Fault { reason: "unreadable JSON".to_owned(), detail }
}

/// Appends the value at `at` to a column; answers where it ends. `None` when it is not of the column's type; the
/// column then may hold a part of it. What follows the value is for the caller to check.
#[inline]
fn value(cells: &mut Cells, bytes: &[u8], at: usize) -> Option<usize> {
    match cells {
        Cells::Text(text) => {
            if bytes.get(at) != Some(&b'"') {
                return None;
            }
            let end = text::read(bytes, at + 1, &mut text.values)?;
            text.end();
            Some(end)
        }
        Cells::Instant(..) | Cells::Date(_) => {
            if bytes.get(at) != Some(&b'"') {
                return None;
            }
            let end = cells.push_bare(bytes, at + 1)?;
            (bytes.get(end) == Some(&b'"')).then_some(end + 1)
        }
        numbers => numbers.push_bare(bytes, at),
    }
}

#[inline]
fn is_null(bytes: &[u8], at: usize) -> bool {
    load(bytes, at) & 0xFFFF_FFFF == u64::from(u32::from_le_bytes(*b"null"))
}

/// Steps over the value at `at` of a field that nobody asked for, without leaving the record.
#[inline]
fn skip(bytes: &[u8], at: usize, end: Option<usize>, open: &mut Vec<u8>) -> Option<usize> {
    match bytes.get(at)? {
        b'"' => text::skip(bytes, at + 1),
        b'-' | b'0'..=b'9' => number::grammar(bytes, at).ok(),
        _ => skip_nested(bytes, at, end, open),
    }
}

fn skip_nested(bytes: &[u8], at: usize, end: Option<usize>, open: &mut Vec<u8>) -> Option<usize> {
    let rest = bytes.get(at..)?;
    let limit = end.or_else(|| memchr::memchr(b'\n', rest).map(|length| at + length)).unwrap_or(bytes.len());
    let mut scanner = Scanner::new(bytes.get(..limit)?, at);
    scanner.value(open).ok()?;
    std::str::from_utf8(bytes.get(at..scanner.at)?).ok()?;
    Some(scanner.at)
}

/// The column that a field fills; its name may be written with escapes.
fn column_of(names: &HashMap<Vec<u8>, usize>, record: &[u8], entry: &Entry, plain: &mut Vec<u8>) -> Option<usize> {
    let name = record.get(entry.key.start + 1..entry.key.end - 1)?;
    if !name.contains(&b'\\') {
        return names.get(name).copied();
    }
    plain.clear();
    text::read(record, entry.key.start + 1, plain)?;
    names.get(plain.as_slice()).copied()
}

/// Appends a time that was written with escapes, which the readers of times do not know: once more, without them.
fn unescaped(column: &mut Column, token: &[u8], plain: &mut Vec<u8>) -> Option<()> {
    if !matches!(column.cells, Cells::Instant(..) | Cells::Date(_)) || !token.contains(&b'\\') {
        return None;
    }
    plain.clear();
    plain.push(b'"');
    text::read(token, 1, plain)?;
    plain.push(b'"');
    (value(&mut column.cells, plain, 0)? == plain.len()).then_some(())
}
