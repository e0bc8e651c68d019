//! [`CsvDecoder`]: lines to columns.
//!
//! **Invariant:** a record has exactly as many values as columns were declared, or it is bad; so no value slips into
//! a neighbour's column.

use arrow::datatypes::Schema;
use tidemill_model::{Error, Kind, Result};
use tidemill_runtime::{Decoded, Decoder, Positions, Records};

use super::CsvFormat;
use crate::format::{Block, Cells, Column, Columns, Fault, found};

/// Reads blocks of CSV records.
#[derive(Debug)]
pub(super) struct CsvDecoder {
    columns: Columns,
    declared: Vec<String>,
    /// For each declared column the column that it fills, if anyone asked for it.
    fills: Vec<Option<usize>>,
    header: bool,
    delimiter: u8,
    /// Room for the value at hand, without its quotes.
    plain: Vec<u8>,
}

/// A value between delimiters.
struct Item {
    /// Its bytes in the record, without the quotes around it.
    start: usize,
    end: usize,
    quoted: bool,
    /// Whether quotes are doubled in it.
    doubled: bool,
    /// Where the delimiter, or the end of the record, is.
    next: usize,
}

impl CsvDecoder {
    /// A decoder for some of the declared columns.
    pub(super) fn of(format: &CsvFormat, schema: &Schema) -> Result<CsvDecoder> {
        let columns = Columns::of(schema, format.time)?;
        let declared: Vec<String> = format.declared.fields().iter().map(|field| field.name().clone()).collect();
        if let Some(column) = columns.columns.iter().find(|column| !declared.contains(&column.name)) {
            return Err(Error::new(Kind::Plan, "P061", format!("`{}` is not a declared column", column.name))
                .fact(format!("csv goes by position, so declare every column; declared: {}", declared.join(", "))));
        }
        let fills =
            declared.iter().map(|name| columns.columns.iter().position(|column| column.name == *name)).collect();
        let (header, delimiter) = (format.header, format.delimiter);
        Ok(CsvDecoder { columns, declared, fills, header, delimiter, plain: Vec::new() })
    }

    /// Checks the first line of a file against the declared columns.
    fn check_header(&mut self, line: &[u8]) -> Result<()> {
        let mut names = Vec::new();
        let mut at = 0;
        while let Ok(item) = item(line, at, self.delimiter) {
            self.plain.clear();
            copy(line, &item, &mut self.plain);
            names.push(String::from_utf8_lossy(&self.plain).trim().to_owned());
            at = item.next + 1;
            if item.next >= line.len() {
                break;
            }
        }
        let same = names.len() == self.declared.len()
            && names.iter().zip(&self.declared).all(|(name, declared)| name.eq_ignore_ascii_case(declared));
        if same {
            return Ok(());
        }
        let message = format!("the header of the CSV file is not the list of declared columns: {}", names.join(", "));
        Err(Error::new(Kind::Config, "C062", message)
            .fact(format!("declared: {}", self.declared.join(", ")))
            .fact("declare all columns in the order of the file, or set header = 'false' if the file has no header"))
    }

    /// Reads a record, or says why it is bad; the columns then hold parts of it.
    fn record(&mut self, record: &[u8]) -> std::result::Result<(), Fault> {
        let unreadable = |detail| Fault { reason: "unreadable CSV".to_owned(), detail };
        if let Err(error) = std::str::from_utf8(record) {
            let at = error.valid_up_to();
            return Err(unreadable(format!("expected UTF-8 at byte {at}{}", found(record, at))));
        }
        let row = self.columns.rows;
        let (mut at, mut count) = (0, 0);
        let mut bad: Option<Fault> = None;
        loop {
            let item = item(record, at, self.delimiter)?;
            if let Some(column) = self.fills.get(count).copied().flatten().and_then(|c| self.columns.columns.get_mut(c))
            {
                let fault = fill(column, record, &item, row, &mut self.plain).err();
                // A record with a wrong count of values is told as such, not by what slipped into which column.
                bad = bad.or(fault);
            }
            count += 1;
            if item.next >= record.len() {
                break;
            }
            at = item.next + 1;
        }
        if count != self.fills.len() {
            let expected = self.fills.len();
            return Err(unreadable(format!("expected {expected} values, found {count}")));
        }
        bad.map_or(Ok(()), Err)
    }
}

impl Decoder for CsvDecoder {
    fn decode(&mut self, records: &Records) -> Result<Decoded> {
        let mut block = Block::of(records)?;
        let bytes = block.bytes();
        let mut header = self.header && records.ends.is_none() && records.positions == Positions::Bytes(0);
        self.columns.start();
        while let Some((start, end)) = block.next() {
            let stop = end.unwrap_or_else(|| block.line_end(start));
            let mut record = bytes.get(start..stop).unwrap_or_default();
            if end.is_none() {
                record = record.strip_suffix(b"\r").unwrap_or(record);
                if record.is_empty() {
                    block.skip(stop);
                    continue;
                }
            }
            if header {
                header = false;
                self.check_header(record)?;
                block.skip(stop);
                continue;
            }
            match self.record(record) {
                Ok(()) => {
                    self.columns.rows += 1;
                    block.good(stop);
                }
                Err(fault) => {
                    self.columns.undo();
                    block.bad(start, stop, fault.reason, fault.detail);
                }
            }
        }
        Ok(block.decoded(self.columns.finish()?))
    }
}

/// The value at `at`.
fn item(record: &[u8], at: usize, delimiter: u8) -> std::result::Result<Item, Fault> {
    let unreadable = |expected: &str, at| Fault {
        reason: "unreadable CSV".to_owned(),
        detail: format!("expected {expected} at byte {at}{}", found(record, at)),
    };
    let rest = record.get(at..).unwrap_or_default();
    if rest.first() != Some(&b'"') {
        let length = memchr::memchr2(delimiter, b'"', rest).unwrap_or(rest.len());
        let next = at + length;
        if rest.get(length) == Some(&b'"') {
            return Err(unreadable("quotes around the whole value, not", next));
        }
        return Ok(Item { start: at, end: next, quoted: false, doubled: false, next });
    }
    let start = at + 1;
    let mut end = start;
    let mut doubled = false;
    loop {
        let rest = record.get(end..).unwrap_or_default();
        let Some(length) = memchr::memchr(b'"', rest) else {
            return Err(Fault {
                reason: "line break inside quotes".to_owned(),
                detail: format!(
                    "the quotes opened at byte {at} are not closed on this line; files of csv are read line by line, so use json or parquet for text with line breaks"
                ),
            });
        };
        end += length;
        match record.get(end + 1) {
            Some(b'"') => {
                doubled = true;
                end += 2;
            }
            None => return Ok(Item { start, end, quoted: true, doubled, next: end + 1 }),
            Some(byte) if *byte == delimiter => return Ok(Item { start, end, quoted: true, doubled, next: end + 1 }),
            Some(_) => return Err(unreadable("a delimiter behind the closing quotes", end + 1)),
        }
    }
}

/// Appends the text of a value, doubled quotes once.
fn copy(record: &[u8], item: &Item, out: &mut Vec<u8>) {
    let mut rest = record.get(item.start..item.end).unwrap_or_default();
    if item.doubled {
        while let Some(quote) = memchr::memchr(b'"', rest) {
            out.extend_from_slice(rest.get(..=quote).unwrap_or_default());
            rest = rest.get(quote + 2..).unwrap_or_default();
        }
    }
    out.extend_from_slice(rest);
}

/// Appends a value to a column.
fn fill(
    column: &mut Column,
    record: &[u8],
    item: &Item,
    row: usize,
    plain: &mut Vec<u8>,
) -> std::result::Result<(), Fault> {
    let empty = item.start == item.end;
    if let Cells::Text(text) = &mut column.cells {
        if empty && !item.quoted {
            column.push_null(row);
        } else {
            copy(record, item, &mut text.values);
            text.end();
        }
        return Ok(());
    }
    let (start, end) = trimmed(record, item.start, item.end);
    if start == end {
        column.push_null(row);
        return Ok(());
    }
    if column.cells.push_bare(record, start) == Some(end) {
        return Ok(());
    }
    column.truncate(row);
    // Once more without what lies behind: a date with a blank behind it looks like the beginning of a time.
    let bounded = record.get(..end).unwrap_or_default();
    if column.cells.push_bare(bounded, start) == Some(end) {
        return Ok(());
    }
    column.truncate(row);
    plain.clear();
    let token = bounded.get(start..).unwrap_or_default();
    if spelled_otherwise(&mut column.cells, token, plain) {
        return Ok(());
    }
    column.truncate(row);
    Err(Fault::mistyped(column, bounded, start))
}

/// The same range without the blanks at its ends.
fn trimmed(record: &[u8], mut start: usize, mut end: usize) -> (usize, usize) {
    let blank = |at: usize| matches!(record.get(at), Some(b' ' | b'\t'));
    while start < end && blank(start) {
        start += 1;
    }
    while start < end && blank(end - 1) {
        end -= 1;
    }
    (start, end)
}

/// Appends a value that CSV files spell in ways JSON does not: `+7`, `007`, `.5`, `5.`, `TRUE`, `NaN`, `-inf`.
fn spelled_otherwise(cells: &mut Cells, token: &[u8], plain: &mut Vec<u8>) -> bool {
    let lower = token.to_ascii_lowercase();
    let (sign, digits) = match lower.split_first() {
        Some((b'-', rest)) => (-1.0, rest),
        Some((b'+', rest)) => (1.0, rest),
        _ => (1.0, lower.as_slice()),
    };
    let special = match digits {
        b"nan" => Some(f64::NAN),
        b"inf" | b"infinity" => Some(f64::INFINITY * sign),
        _ => None,
    };
    match (&mut *cells, special) {
        (Cells::Float64(v), Some(value)) => {
            v.push(value);
            return true;
        }
        (Cells::Float32(v), Some(value)) => {
            v.push(value as f32);
            return true;
        }
        (Cells::Date(_) | Cells::Instant(..) | Cells::Text(_), _) => return false,
        (Cells::Boolean(_), _) => plain.extend_from_slice(&lower),
        _ => {
            if sign < 0.0 {
                plain.push(b'-');
            }
            let zeros = digits.iter().take_while(|byte| **byte == b'0').count();
            let rest = digits.get(zeros..).unwrap_or_default();
            let bare = !rest.first().is_some_and(u8::is_ascii_digit);
            // A zero before the point stands for zeros taken away, or for none written if digits follow the point.
            if bare && (zeros > 0 || rest.get(1).is_some_and(u8::is_ascii_digit)) {
                plain.push(b'0');
            }
            plain.extend_from_slice(rest.strip_suffix(b".").unwrap_or(rest));
        }
    }
    cells.push_bare(plain, 0) == Some(plain.len())
}
