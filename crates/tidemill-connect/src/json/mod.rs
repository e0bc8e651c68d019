//! The format `json`: [`JsonFormat`], one object a record.
//!
//! **Invariant:** the fast path reads only what the exact path reads to the same values; which of them read a record
//! can be told by nothing but a clock.

mod decode;
mod encode;
mod scan;
mod template;
#[cfg(test)]
mod tests;
mod text;

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use tidemill_model::{Result, Settings};
use tidemill_runtime::{Decoder, Encoder, Format};

pub(crate) use decode::unreadable;
pub(crate) use scan::{Entry, Scanner};

use crate::format::TimeFormat;

/// One JSON object a record; in files one a line.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct JsonFormat {
    time: TimeFormat,
}

impl JsonFormat {
    /// The format with the options of a dataset.
    pub(crate) fn make(settings: &Settings, _declared: &SchemaRef) -> Result<Arc<dyn Format>> {
        Ok(Arc::new(JsonFormat { time: TimeFormat::of(settings) }))
    }
}

impl Format for JsonFormat {
    fn decoder(&self, schema: SchemaRef) -> Result<Box<dyn Decoder>> {
        Ok(Box::new(decode::JsonDecoder::of(&schema, self.time)?))
    }

    fn encoder(&self, schema: SchemaRef) -> Result<Box<dyn Encoder>> {
        Ok(Box::new(encode::JsonEncoder::of(&schema, self.time)?))
    }
}
