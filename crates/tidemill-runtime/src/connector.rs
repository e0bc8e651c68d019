//! The contract of a connector: a name, its options, and how to open datasets with it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use tidemill_model::{Clock, OptionSpec, Result, Settings};

use crate::{Format, Sink, SinkTarget, Source};

/// What a connector knows of the world; nothing is read from the environment behind its back.
#[derive(Clone)]
pub struct Environment {
    /// The project's folder; relative paths start here.
    pub project: PathBuf,
    /// The folder of the project's own state (`.tidemill` unless configured).
    pub state: PathBuf,
    /// The present.
    pub clock: Arc<dyn Clock>,
    /// Settings of object stores by URL scheme (`s3` → region, endpoint, keys), from `tidemill.toml`.
    pub stores: std::collections::BTreeMap<String, Vec<(String, String)>>,
}

impl fmt::Debug for Environment {
    /// Without the settings of the stores: there are secrets among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment")
            .field("project", &self.project)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// A dataset as declared: one CREATE TABLE, or its HISTORY.
#[derive(Debug, Clone)]
pub struct DatasetSpec {
    /// Its name in the catalog.
    pub name: String,
    /// The declared columns; empty when none were declared and the connector shall say them.
    pub schema: SchemaRef,
    /// The event-time column of `WATERMARK FOR`.
    pub event_time: Option<String>,
    /// The checked options, those of the connector and the common ones (`connector`, `format`, `write`, …).
    pub settings: Settings,
    /// The format named by `format`, when the connector carries records.
    pub format: Option<Arc<dyn Format>>,
}

/// A kind of external dataset. Connectors are registered in one visible list in the facade crate.
pub trait Connector: Send + Sync + fmt::Debug {
    /// The word in `connector = '…'`.
    fn name(&self) -> &'static str;

    /// One sentence for the reference page.
    fn doc(&self) -> &'static str;

    /// Its options beyond the common ones.
    fn options(&self) -> &'static [OptionSpec];

    /// The format of its records when a dataset names none. Conservative default: the dataset must name one where the
    /// connector carries records.
    fn default_format(&self) -> Option<&'static str> {
        None
    }

    /// The columns of a dataset declared without any, found by looking (a Parquet or Delta schema).
    ///
    /// # Errors
    /// Config: this connector cannot say; declare the columns.
    fn discover_schema(&self, spec: &DatasetSpec, env: &Environment) -> Result<SchemaRef>;

    /// Opens the dataset for reading.
    ///
    /// # Errors
    /// Config: this connector cannot be read, or its options do not fit together.
    fn source(&self, spec: &DatasetSpec, env: &Environment) -> Result<Arc<dyn Source>>;

    /// Opens the dataset for writing.
    ///
    /// # Errors
    /// Config: this connector cannot be written in this mode (the message names the nearest one that works).
    fn sink(&self, spec: &DatasetSpec, target: &SinkTarget, env: &Environment) -> Result<Arc<dyn Sink>>;
}
