//! The formats of records: the visible list [`FORMATS`], and what the text formats share.
//!
//! **Invariant:** a format is chosen by name in one place, and each of its options is declared with it.

mod block;
mod column;
pub(crate) mod number;
mod records;
pub(crate) mod time;
mod values;

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use tidemill_model::{Error, Kind, OptionKind, OptionSpec, Result, Settings, nearest};
use tidemill_runtime::Format;

pub(crate) use block::Block;
pub(crate) use column::{Cells, Column, Columns, Fault, found, refused, sql_type};
pub(crate) use records::records;
pub(crate) use values::{Values, check_encodable};

use crate::csv::CsvFormat;
use crate::debezium::DebeziumFormat;
use crate::json::JsonFormat;

/// A format that datasets can name, and how to make it.
#[derive(Debug, Clone, Copy)]
pub struct FormatSpec {
    /// The word in `format = '…'`.
    pub name: &'static str,
    /// One sentence for the reference page.
    pub doc: &'static str,
    /// Its options.
    pub options: &'static [OptionSpec],
    make: fn(&Settings, &SchemaRef) -> Result<Arc<dyn Format>>,
}

/// Every format, one a line.
pub const FORMATS: &[FormatSpec] = &[
    FormatSpec { name: "json", doc: JSON, options: &[TIMESTAMP_FORMAT], make: JsonFormat::make },
    FormatSpec { name: "debezium_json", doc: DEBEZIUM, options: &[TIMESTAMP_FORMAT], make: DebeziumFormat::make },
    FormatSpec { name: "csv", doc: CSV, options: &[TIMESTAMP_FORMAT, HEADER, DELIMITER], make: CsvFormat::make },
];

const JSON: &str = "One JSON object a record, in files one a line. A missing field is NULL, an unknown one is ignored.";
const DEBEZIUM: &str = "Changes of rows: one object a record with `before`, `after` and `op` (c, r, u, d), also within `payload` as Debezium wraps it. Written by PRIMARY KEY; read as the rows that stand, by PRIMARY KEY or, without one, by `before`.";
const CSV: &str = "Comma-separated values, the declared columns in their order, one record a line.";

const TIMESTAMP_FORMAT: OptionSpec = OptionSpec::optional(
    "timestamp_format",
    OptionKind::OneOf(&["iso", "epoch_s", "epoch_ms", "epoch_us"]),
    Some("iso"),
    "How TIMESTAMP columns are written: ISO 8601 text, or numbers since 1970-01-01 UTC in seconds, milliseconds or microseconds.",
);
const HEADER: OptionSpec = OptionSpec::optional(
    "header",
    OptionKind::Boolean,
    Some("true"),
    "Whether files begin with a line of column names; it must name the declared columns in their order.",
);
const DELIMITER: OptionSpec = OptionSpec::optional(
    "delimiter",
    OptionKind::Text,
    Some(","),
    "The character between values: one ASCII character, or `tab`.",
);

/// The format of a name, for a dataset that declares the columns of `declared`; `settings` are the dataset's, resolved
/// with the format's options among them.
///
/// # Errors
/// Config, for an unknown name or an option that does not fit.
pub fn format(name: &str, settings: &Settings, declared: &SchemaRef) -> Result<Arc<dyn Format>> {
    (spec(name)?.make)(settings, declared)
}

/// The options that a format adds to those of a dataset.
///
/// # Errors
/// Config, for an unknown name.
pub fn format_options(name: &str) -> Result<&'static [OptionSpec]> {
    spec(name).map(|spec| spec.options)
}

fn spec(name: &str) -> Result<&'static FormatSpec> {
    FORMATS.iter().find(|spec| spec.name == name).ok_or_else(|| {
        let names: Vec<&str> = FORMATS.iter().map(|spec| spec.name).collect();
        let error = Error::new(Kind::Config, "C060", format!("unknown format `{name}`"));
        let error = match nearest(name, names.iter().copied()) {
            Some(meant) => error.label(format!("did you mean `{meant}`?")),
            None => error,
        };
        error.fact(format!("formats: {}", names.join(", ")))
    })
}

/// How instants are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum TimeFormat {
    /// ISO 8601 text.
    #[default]
    Iso,
    /// Seconds since 1970.
    EpochSeconds,
    /// Milliseconds since 1970.
    EpochMillis,
    /// Microseconds since 1970.
    EpochMicros,
}

impl TimeFormat {
    /// The one that `timestamp_format` names; its shape has been checked.
    pub(crate) fn of(settings: &Settings) -> TimeFormat {
        match settings.text("timestamp_format") {
            Some("epoch_s") => TimeFormat::EpochSeconds,
            Some("epoch_ms") => TimeFormat::EpochMillis,
            Some("epoch_us") => TimeFormat::EpochMicros,
            _ => TimeFormat::Iso,
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Schema;

    use super::*;

    #[test]
    fn an_unknown_format_names_the_nearest() {
        let none = Arc::new(Schema::empty());
        let error = format("jsn", &Settings::default(), &none).expect_err("refused");
        assert_eq!((error.kind(), error.caret_label()), (Kind::Config, "did you mean `json`?"));
        assert_eq!(format_options("csv").map(|options| options.len()).ok(), Some(3));
    }
}
