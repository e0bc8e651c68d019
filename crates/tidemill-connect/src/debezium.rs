//! The format `debezium_json`: [`DebeziumFormat`], one change a record, as Debezium and Flink write them.
//!
//! **Invariant:** `before` and `after` are records of the format `json` of the same columns; `before` is null for `c`,
//! `after` is null for `d`.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;
use tidemill_model::{Error, Kind, Result, Settings};
use tidemill_runtime::{Decoder, Encoder, Format, changed_schema};

use crate::json::JsonFormat;

/// `{"before": …, "after": …, "op": "u"}`.
#[derive(Debug)]
pub(crate) struct DebeziumFormat {
    rows: Arc<dyn Format>,
}

impl DebeziumFormat {
    /// The format with the options of a dataset.
    pub(crate) fn make(settings: &Settings, declared: &SchemaRef) -> Result<Arc<dyn Format>> {
        Ok(Arc::new(DebeziumFormat { rows: JsonFormat::make(settings, declared)? }))
    }
}

impl Format for DebeziumFormat {
    fn decoder(&self, _schema: SchemaRef) -> Result<Box<dyn Decoder>> {
        Err(Error::new(Kind::Plan, "P060", "a changelog in format `debezium_json` can be written, but not read yet")
            .fact("read the table that the changes are of; or read the records as they are with format = 'json' and the columns `before`, `after`, `op` that you need"))
    }

    fn encoder(&self, schema: SchemaRef) -> Result<Box<dyn Encoder>> {
        let Some(rows) = changed_schema(&schema) else {
            return Err(Error::internal("rows that are no changes were planned into a changelog"));
        };
        Ok(Box::new(DebeziumEncoder {
            after: self.rows.encoder(Arc::clone(&rows))?,
            before: self.rows.encoder(Arc::clone(&rows))?,
            schema: rows,
            sides: [Side::default(), Side::default()],
        }))
    }

    fn is_changelog(&self) -> bool {
        true
    }
}

struct DebeziumEncoder {
    after: Box<dyn Encoder>,
    before: Box<dyn Encoder>,
    schema: SchemaRef,
    sides: [Side; 2],
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

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array};
    use arrow::datatypes::{DataType, Field, Schema};
    use tidemill_runtime::changelog_schema;

    use super::*;

    #[test]
    fn each_change_is_a_record_with_both_sides() {
        let rows = Schema::new(vec![Field::new("k", DataType::Int64, true), Field::new("note", DataType::Utf8, true)]);
        let schema = changelog_schema(&rows);
        let numbers = |of: [i64; 3]| -> ArrayRef { Arc::new(Int64Array::from(of.to_vec())) };
        let text = |of: [Option<&str>; 3]| -> ArrayRef { Arc::new(StringArray::from(of.to_vec())) };
        let columns = vec![
            numbers([1, 2, 3]),
            text([Some("a"), Some("new"), None]),
            numbers([1, 2, 3]),
            text([Some("a"), Some("old"), None]),
            text([Some("c"), Some("u"), Some("d")]),
        ];
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns).expect("changes");
        let format = DebeziumFormat::make(&Settings::default(), &Arc::new(rows)).expect("a format");
        let mut encoder = format.encoder(schema).expect("an encoder");
        let mut out = Vec::new();
        encoder.encode(&batch, &mut out, None).expect("encodes");
        assert_eq!(
            String::from_utf8(out).expect("text"),
            "{\"before\":null,\"after\":{\"k\":1,\"note\":\"a\"},\"op\":\"c\"}\n\
             {\"before\":{\"k\":2,\"note\":\"old\"},\"after\":{\"k\":2,\"note\":\"new\"},\"op\":\"u\"}\n\
             {\"before\":{\"k\":3,\"note\":null},\"after\":null,\"op\":\"d\"}\n"
        );
        let (mut parts, mut ends) = (Vec::new(), Vec::new());
        encoder.encode(&batch, &mut parts, Some(&mut ends)).expect("encodes");
        assert_eq!((ends.len(), parts.len()), (3, ends[2] as usize));
    }
}
