//! [`DebeziumEncoder`]: changes to records.
//!
//! **Invariant:** each change is one record with both of its sides, of which the one that does not exist is null.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;
use tidemill_model::{Error, Result};
use tidemill_runtime::Encoder;

/// Writes changes.
pub(super) struct DebeziumEncoder {
    after: Box<dyn Encoder>,
    before: Box<dyn Encoder>,
    schema: SchemaRef,
    sides: [Side; 2],
}

impl DebeziumEncoder {
    /// Encoders of the rows after and before a change.
    pub(super) fn new([after, before]: [Box<dyn Encoder>; 2], schema: SchemaRef) -> DebeziumEncoder {
        DebeziumEncoder { after, before, schema, sides: [Side::default(), Side::default()] }
    }
}

/// Records of one side and where each ends.
#[derive(Default)]
struct Side {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Side {
    fn fill(&mut self, encoder: &mut dyn Encoder, rows: &RecordBatch) -> Result<()> {
        self.bytes.clear();
        self.ends.clear();
        encoder.encode(rows, &mut self.bytes, Some(&mut self.ends))
    }

    fn record(&self, row: usize) -> &[u8] {
        let end = |row: usize| self.ends.get(row).map_or(0, |end| *end as usize);
        let start = row.checked_sub(1).map_or(0, end);
        self.bytes.get(start..end(row)).unwrap_or_default()
    }
}

impl Encoder for DebeziumEncoder {
    fn encode(&mut self, batch: &RecordBatch, out: &mut Vec<u8>, mut ends: Option<&mut Vec<u32>>) -> Result<()> {
        let count = self.schema.fields().len();
        let side = |from: usize| {
            let columns = batch.columns().get(from..from + count).unwrap_or_default().to_vec();
            RecordBatch::try_new(Arc::clone(&self.schema), columns)
                .map_err(|e| Error::internal("changes do not have the columns of a changelog").because(e))
        };
        let ops: &StringArray = batch
            .columns()
            .last()
            .and_then(|ops| ops.as_string_opt::<i32>())
            .ok_or_else(|| Error::internal("changes do not say what they are"))?;
        let [after, before] = &mut self.sides;
        after.fill(self.after.as_mut(), &side(0)?)?;
        before.fill(self.before.as_mut(), &side(count)?)?;
        for row in 0..batch.num_rows() {
            let op = ops.value(row);
            out.extend_from_slice(b"{\"before\":");
            out.extend_from_slice(if op == "c" { b"null" } else { before.record(row) });
            out.extend_from_slice(b",\"after\":");
            out.extend_from_slice(if op == "d" { b"null" } else { after.record(row) });
            out.extend_from_slice(b",\"op\":\"");
            out.extend_from_slice(op.as_bytes());
            out.extend_from_slice(b"\"}");
            match &mut ends {
                None => out.push(b'\n'),
                Some(ends) => ends.push(
                    u32::try_from(out.len())
                        .map_err(|_| Error::internal("the records to write do not fit into one block of 4 GiB"))?,
                ),
            }
        }
        Ok(())
    }
}
