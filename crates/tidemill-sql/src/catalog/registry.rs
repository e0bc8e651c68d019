//! [`Registry`]: what there is to open datasets with.
//!
//! **Invariant:** nothing here knows a dataset: the facade fills it in once for all projects.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use tidemill_model::{OptionSpec, Result, Settings};
use tidemill_runtime::{Connector, DatasetSpec, Environment, Format, Split, Version};

/// A connector's own way to be read by a bounded query, instead of through its [`Source`](tidemill_runtime::Source).
#[async_trait]
pub trait BatchTables: Send + Sync + fmt::Debug {
    /// The connector it belongs to.
    fn connector(&self) -> &'static str;

    /// Opens the dataset as it is now.
    ///
    /// # Errors
    /// As [`Connector::source`].
    async fn open(&self, spec: &DatasetSpec, env: &Environment) -> Result<Arc<dyn TableProvider>>;

    /// Which content the dataset has now, without reading it. Conservative default: it cannot be told.
    ///
    /// # Errors
    /// As `open`.
    async fn version(&self, spec: &DatasetSpec, env: &Environment) -> Result<Option<Version>> {
        let _ = (spec, env);
        Ok(None)
    }

    /// The files that the dataset consists of now, with their sizes, and with the times of those that are not read where
    /// only other times are asked for. Conservative default: they cannot be told.
    ///
    /// # Errors
    /// As `open`.
    fn files(&self, spec: &DatasetSpec, env: &Environment) -> Result<Option<Vec<Split>>> {
        let _ = (spec, env);
        Ok(None)
    }
}

/// The formats that datasets can name.
#[derive(Debug, Clone)]
pub struct Formats {
    /// The formats of records.
    pub names: Vec<&'static str>,
    /// The formats of columns, which connectors read and write themselves.
    pub columnar: Vec<&'static str>,
    /// The options that a format of records adds to those of a dataset.
    pub options: fn(&str) -> Result<&'static [OptionSpec]>,
    /// Makes a format of records for a dataset with these settings and declared columns.
    pub make: fn(&str, &Settings, &SchemaRef) -> Result<Arc<dyn Format>>,
}

/// What there is to open datasets with; the facade fills in the lists.
#[derive(Debug, Clone)]
pub struct Registry {
    /// The connectors.
    pub connectors: Vec<Arc<dyn Connector>>,
    /// The formats.
    pub formats: Formats,
    /// The connectors that bounded queries read in another way.
    pub tables: Vec<Arc<dyn BatchTables>>,
}

/// What lies at a dataset's place, as far as can be seen without creating it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Something, or nobody can tell.
    There,
    /// Nothing: what stands in the project may be wrong.
    Missing,
    /// Nothing, which is as good as no rows: whoever uses it first creates it.
    Unborn,
}

/// Looks for the dataset of a connector of this name.
pub type Look = fn(&str, &DatasetSpec, &Environment) -> Result<Presence>;
