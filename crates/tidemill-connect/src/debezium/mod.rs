//! The format `debezium_json`: [`DebeziumFormat`], one change a record, as Debezium and Flink write them.
//!
//! **Invariant:** `before` and `after` are records of the format `json` of the same columns; `before` is null for `c`,
//! `after` is null for `d`.

mod decode;
mod encode;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use tidemill_model::{Error, Result, Settings};
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
    fn decoder(&self, schema: SchemaRef) -> Result<Box<dyn Decoder>> {
        self.change_decoder(schema, false)
    }

    fn change_decoder(&self, schema: SchemaRef, keyed: bool) -> Result<Box<dyn Decoder>> {
        Ok(Box::new(decode::DebeziumDecoder::new(self.rows.decoder(schema)?, keyed)))
    }

    fn encoder(&self, schema: SchemaRef) -> Result<Box<dyn Encoder>> {
        let Some(rows) = changed_schema(&schema) else {
            return Err(Error::internal("rows that are no changes were planned into a changelog"));
        };
        let sides = [self.rows.encoder(Arc::clone(&rows))?, self.rows.encoder(Arc::clone(&rows))?];
        Ok(Box::new(encode::DebeziumEncoder::new(sides, rows)))
    }

    fn is_changelog(&self) -> bool {
        true
    }
}
