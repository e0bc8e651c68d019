//! `files`: NDJSON, CSV and Parquet files, here or in an object store, read once each and published whole.
//!
//! [`Files`] is the connector. Reading: every file is a split, large ones several; new files are found while running.
//! Writing: rows are staged, and a commit gives the files their names.
//!
//! **Invariant:** a reader sees a written file whole or not at all, and a file's name is a function of its pipeline,
//! dataset, epoch and lane (or of its interval), so that publishing twice is publishing once.

mod chunks;
mod columns;
mod commit;
mod config;
mod encode;
mod flushing;
mod footers;
mod hive;
mod lines;
mod location;
mod merge;
mod pruning;
mod remote;
mod rewrites;
mod row_groups;
mod sink;
mod source;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use tidemill_model::{OptionSpec, Result};
use tidemill_runtime::{Connector, DatasetSpec, Environment, Sink, SinkTarget, Source};

pub(crate) use sink::sync_folder;

/// Whether there is any file to read; only the names are looked at.
pub(crate) fn any_file(spec: &DatasetSpec, env: &Environment) -> Result<bool> {
    match location::Location::parse(spec.settings.text("path").unwrap_or_default(), env)?.list(true) {
        Ok(files) => Ok(!files.is_empty()),
        Err(error) if error.code() == location::NOTHING_THERE => Ok(false),
        Err(error) => Err(error),
    }
}

/// The connector `files`.
#[derive(Debug, Clone, Default)]
pub struct Files {
    footers: Arc<footers::Footers>,
}

impl Connector for Files {
    fn name(&self) -> &'static str {
        "files"
    }

    fn doc(&self) -> &'static str {
        "Files of JSON lines, CSV or Parquet, on this machine or in an object store; each is read once, and written files appear whole."
    }

    fn options(&self) -> &'static [OptionSpec] {
        config::OPTIONS
    }

    fn discover_schema(&self, spec: &DatasetSpec, env: &Environment) -> Result<SchemaRef> {
        source::FilesSource::open(spec, env, &self.footers)?.discover()
    }

    fn source(&self, spec: &DatasetSpec, env: &Environment) -> Result<Arc<dyn Source>> {
        Ok(Arc::new(source::FilesSource::open(spec, env, &self.footers)?))
    }

    fn sink(&self, spec: &DatasetSpec, target: &SinkTarget, env: &Environment) -> Result<Arc<dyn Sink>> {
        Ok(Arc::new(sink::FilesSink::open(spec, target, env)?))
    }
}
