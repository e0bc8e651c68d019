//! [`JsonEncoder`]: columns to records, a byte at a time into the caller's buffer.
//!
//! **Invariant:** what it writes, the decoder of the same schema reads back to the same values.

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use tidemill_model::{Error, Kind, Result};
use tidemill_runtime::Encoder;

use super::text;
use crate::format::{TimeFormat, Values, check_encodable, records};

/// Text of a constant length to copy, of which only a part is meant: a copy of constant length is two stores.
#[derive(Debug)]
struct Prefix {
    short: [u8; 32],
    length: usize,
    /// The whole text where it is longer than `short`.
    long: Option<Vec<u8>>,
}

impl Prefix {
    fn of(text: &[u8]) -> Prefix {
        let mut short = [b' '; 32];
        let fits = text.len() <= short.len();
        if let Some(to) = short.get_mut(..text.len()) {
            to.copy_from_slice(text);
        }
        Prefix { short, length: text.len(), long: (!fits).then(|| text.to_vec()) }
    }

    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        if let Some(long) = &self.long {
            out.extend_from_slice(long);
            return;
        }
        out.extend_from_slice(&self.short);
        out.truncate(out.len().wrapping_sub(32).wrapping_add(self.length));
    }
}

/// Writes batches as JSON records.
#[derive(Debug)]
pub(super) struct JsonEncoder {
    names: Vec<String>,
    prefixes: Vec<Prefix>,
    time: TimeFormat,
}

impl JsonEncoder {
    /// An encoder for batches of a schema.
    pub(super) fn of(schema: &Schema, time: TimeFormat) -> Result<JsonEncoder> {
        check_encodable(schema)?;
        let names: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
        let prefixes = names.iter().enumerate().map(|(i, name)| {
            let mut prefix = vec![if i == 0 { b'{' } else { b',' }];
            text::write(name.as_bytes(), 0, name.len(), &mut prefix);
            prefix.push(b':');
            Prefix::of(&prefix)
        });
        Ok(JsonEncoder { prefixes: prefixes.collect(), names, time })
    }

    #[inline]
    fn row(&self, columns: &mut [Values<'_>], row: usize, out: &mut Vec<u8>) -> Result<()> {
        for (i, (prefix, column)) in self.prefixes.iter().zip(&mut *columns).enumerate() {
            prefix.put(out);
            if !put(column, row, out) {
                return Err(unwritable(self.names.get(i).map_or("", String::as_str), row));
            }
        }
        if columns.is_empty() {
            out.push(b'{');
        }
        out.push(b'}');
        Ok(())
    }
}

impl Encoder for JsonEncoder {
    fn encode(&mut self, batch: &RecordBatch, out: &mut Vec<u8>, ends: Option<&mut Vec<u32>>) -> Result<()> {
        records(batch, self.time, out, ends, |columns, row, out| self.row(columns, row, out))
    }
}

/// Appends one value; `false` when JSON has no way to write it.
#[inline]
fn put(column: &mut Values<'_>, row: usize, out: &mut Vec<u8>) -> bool {
    if column.is_null(row) {
        out.extend_from_slice(b"null");
        return true;
    }
    match column.text(row) {
        Some((bytes, start, end)) => {
            text::write(bytes, start, end, out);
            true
        }
        None if column.is_quoted() => {
            out.push(b'"');
            let written = column.put(row, out);
            out.push(b'"');
            written
        }
        None => column.is_finite(row) && column.put(row, out),
    }
}

fn unwritable(name: &str, row: usize) -> Error {
    Error::new(Kind::Data, "D060", format!("column `{name}` of row {row} cannot be written as JSON"))
        .fact("JSON has no NaN and no infinity, and times lie in the years 0001 to 9999; use NULLIF, CASE or a filter")
}
