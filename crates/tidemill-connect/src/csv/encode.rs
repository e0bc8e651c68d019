//! [`CsvEncoder`]: columns to lines.
//!
//! **Invariant:** NULL is written as nothing and the empty string as `""`, so that they can be told apart.

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use tidemill_model::{Error, Kind, Result};
use tidemill_runtime::Encoder;

use super::CsvFormat;
use crate::format::{TimeFormat, Values, check_encodable, records};

/// Writes batches as CSV records.
#[derive(Debug)]
pub(super) struct CsvEncoder {
    names: Vec<String>,
    time: TimeFormat,
    header: bool,
    delimiter: u8,
}

impl CsvEncoder {
    /// An encoder for batches of a schema.
    pub(super) fn of(format: &CsvFormat, schema: &Schema) -> Result<CsvEncoder> {
        check_encodable(schema)?;
        let names = schema.fields().iter().map(|field| field.name().clone()).collect();
        Ok(CsvEncoder { names, time: format.time, header: format.header, delimiter: format.delimiter })
    }

    /// One row; `is_line` says that nothing but a line break ends it.
    fn row(&self, columns: &mut [Values<'_>], row: usize, out: &mut Vec<u8>, is_line: bool) -> Result<()> {
        let start = out.len();
        for (i, column) in columns.iter_mut().enumerate() {
            if i > 0 {
                out.push(self.delimiter);
            }
            if column.is_null(row) {
                continue;
            }
            match column.text(row) {
                Some((bytes, start, end)) => put_text(bytes.get(start..end).unwrap_or_default(), self.delimiter, out),
                None if column.put(row, out) => {}
                None => {
                    let name = self.names.get(i).map_or("", String::as_str);
                    let message = format!("column `{name}` of row {row} cannot be written as CSV");
                    return Err(Error::new(Kind::Data, "D062", message)
                        .fact("times lie in the years 0001 to 9999; use CASE or a filter"));
                }
            }
        }
        if out.len() == start && is_line {
            let message = format!("row {row} of a single NULL cannot be written as CSV");
            return Err(Error::new(Kind::Data, "D063", message)
                .fact("its line would be empty, and empty lines are no records; write a second column, or use json"));
        }
        Ok(())
    }
}

impl Encoder for CsvEncoder {
    fn encode(&mut self, batch: &RecordBatch, out: &mut Vec<u8>, ends: Option<&mut Vec<u32>>) -> Result<()> {
        let is_line = ends.is_none();
        records(batch, self.time, out, ends, |columns, row, out| self.row(columns, row, out, is_line))
    }

    fn header(&self) -> Vec<u8> {
        let mut line = Vec::new();
        if self.header {
            for (i, name) in self.names.iter().enumerate() {
                if i > 0 {
                    line.push(self.delimiter);
                }
                put_text(name.as_bytes(), self.delimiter, &mut line);
            }
            line.push(b'\n');
        }
        line
    }
}

/// Appends a string, in quotes where it needs them.
fn put_text(text: &[u8], delimiter: u8, out: &mut Vec<u8>) {
    let special = |byte: &u8| *byte == delimiter || matches!(byte, b'"' | b'\n' | b'\r');
    if !text.is_empty() && !text.iter().any(special) {
        out.extend_from_slice(text);
        return;
    }
    out.push(b'"');
    for byte in text {
        if *byte == b'"' {
            out.push(b'"');
        }
        out.push(*byte);
    }
    out.push(b'"');
}
