//! The options of `files`, and what they say of the encoding: [`Encoding`].
//!
//! **Invariant:** Parquet is read and written by this connector; every other format comes as a
//! [`Format`] from outside and is carried as lines.

use std::sync::Arc;

use parquet::basic::{Compression, ZstdLevel};
use tidemill_model::{Error, Kind, OptionKind, OptionSpec, Result};
use tidemill_runtime::{DatasetSpec, Format};

/// The options beyond the common ones.
pub(super) const OPTIONS: &[OptionSpec] = &[
    OptionSpec::required(
        "path",
        OptionKind::Text,
        "A file, a folder, a glob (`data/orders/**/*.jsonl`) or an object store's URL (`s3://bucket/orders/`); relative paths start at the project's folder. Names that begin with `.` or `_` are not read.",
    ),
    OptionSpec::optional(
        "bounded",
        OptionKind::Boolean,
        Some("false"),
        "`true` reads the files that exist at the start and ends; `false` also reads files that appear later. A file is read once and must not change: write it under a name that begins with `_`, then rename it.",
    ),
    OptionSpec::optional(
        "compression",
        OptionKind::OneOf(&["zstd", "snappy", "none"]),
        None,
        "How written Parquet is compressed: zstd unless said otherwise.",
    ),
    OptionSpec::optional(
        "partition_by",
        OptionKind::Text,
        None,
        "Columns to write folders by, in this order: `region, day` writes `region=eu/day=2026-01-31/`.",
    ),
];

/// How rows are written in a file.
#[derive(Debug, Clone)]
pub(super) enum Encoding {
    /// Lines that a format reads and writes.
    Lines {
        /// The format.
        format: Arc<dyn Format>,
        /// The end of a written file's name.
        extension: &'static str,
    },
    /// Parquet with this compression.
    Parquet(Compression),
}

impl Encoding {
    /// The encoding that a dataset's options name.
    pub(super) fn of(spec: &DatasetSpec) -> Result<Encoding> {
        let word = spec.settings.text("format");
        match (word, &spec.format) {
            (Some("parquet"), _) => Ok(Encoding::Parquet(match spec.settings.text("compression") {
                Some("snappy") => Compression::SNAPPY,
                Some("none") => Compression::UNCOMPRESSED,
                _ => Compression::ZSTD(ZstdLevel::default()),
            })),
            (Some("csv"), Some(format)) => Ok(Encoding::Lines { format: Arc::clone(format), extension: "csv" }),
            (Some(_), Some(format)) => Ok(Encoding::Lines { format: Arc::clone(format), extension: "jsonl" }),
            _ => Err(Error::new(Kind::Config, "C310", format!("dataset `{}` needs a format", spec.name))
                .fact("add format = 'json' (a record a line), 'csv' or 'parquet'")),
        }
    }

    /// The end of a written file's name.
    pub(super) fn extension(&self) -> &'static str {
        match self {
            Encoding::Lines { extension, .. } => extension,
            Encoding::Parquet(_) => "parquet",
        }
    }
}

/// The columns of `partition_by`, trimmed.
pub(super) fn partition_columns(spec: &DatasetSpec) -> Vec<String> {
    let text = spec.settings.text("partition_by").unwrap_or_default();
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}
