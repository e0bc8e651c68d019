//! The format `csv`: [`CsvFormat`], the declared columns in their order, one record a line.
//!
//! An unquoted empty value is NULL, `""` the empty string. Quotes are doubled inside quotes (RFC 4180). Files are cut
//! at line breaks wherever a reader resumes, so each line is judged alone: a line that ends inside quotes is a bad
//! record; the lines after it are judged alone, so one that fits the columns is read as a row. In connectors that know where each record ends (`log`), values may have line
//! breaks. Columns go by position, since a reader that resumes in the middle of a file has not seen its header; so a
//! header that names other columns, or the same in another order, is an error and not a guess.
//!
//! **Invariant:** no value gets into another column than the one declared at its place.

mod decode;
mod encode;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use tidemill_model::{Error, Kind, Result, Settings};
use tidemill_runtime::{Decoder, Encoder, Format};

use crate::format::TimeFormat;

/// Values between delimiters, one record a line.
#[derive(Debug, Clone)]
pub(crate) struct CsvFormat {
    declared: SchemaRef,
    time: TimeFormat,
    header: bool,
    delimiter: u8,
}

impl CsvFormat {
    /// The format with the options of a dataset.
    pub(crate) fn make(settings: &Settings, declared: &SchemaRef) -> Result<Arc<dyn Format>> {
        let text = settings.text("delimiter").unwrap_or(",");
        let delimiter = match (text, text.as_bytes()) {
            ("tab", _) => b'\t',
            (_, [byte @ (b'\t' | b' '..=b'~')])
                if !matches!(byte, b'"' | b'.' | b'-' | b'+' | b':') && !byte.is_ascii_alphanumeric() =>
            {
                *byte
            }
            _ => {
                return Err(Error::new(Kind::Config, "C061", format!("the delimiter of csv cannot be `{text}`"))
                    .fact("use one ASCII character that no value needs, such as , ; or |, or the word tab"));
            }
        };
        let declared = Arc::clone(declared);
        Ok(Arc::new(CsvFormat { declared, time: TimeFormat::of(settings), header: settings.is("header"), delimiter }))
    }
}

impl Format for CsvFormat {
    fn decoder(&self, schema: SchemaRef) -> Result<Box<dyn Decoder>> {
        Ok(Box::new(decode::CsvDecoder::of(self, &schema)?))
    }

    fn encoder(&self, schema: SchemaRef) -> Result<Box<dyn Encoder>> {
        Ok(Box::new(encode::CsvEncoder::of(self, &schema)?))
    }
}
