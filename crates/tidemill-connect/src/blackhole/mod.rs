//! `blackhole`: a sink that counts rows and drops them, for measuring everything before it.
//!
//! [`Blackhole`] is the connector.
//!
//! **Invariant:** a committable names the rows of its lane and epoch, so that the manifest tells what was dropped.

mod sink;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use tidemill_model::{Error, Kind, OptionSpec, Result};
use tidemill_runtime::{Connector, DatasetSpec, Environment, Sink, SinkTarget, Source};

/// The connector `blackhole`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Blackhole;

impl Connector for Blackhole {
    fn name(&self) -> &'static str {
        "blackhole"
    }

    fn doc(&self) -> &'static str {
        "Counts rows and drops them: for measuring a pipeline without a target."
    }

    fn options(&self) -> &'static [OptionSpec] {
        &[]
    }

    fn discover_schema(&self, spec: &DatasetSpec, _env: &Environment) -> Result<SchemaRef> {
        Err(Error::new(Kind::Config, "C340", format!("`{}` has no columns of its own", spec.name))
            .fact("declare the columns: a blackhole takes any"))
    }

    fn source(&self, spec: &DatasetSpec, _env: &Environment) -> Result<Arc<dyn Source>> {
        Err(Error::new(Kind::Config, "C341", format!("`{}` is a blackhole and cannot be read", spec.name))
            .fact("write with connector = 'files' or 'log' what is to be read again"))
    }

    fn sink(&self, _spec: &DatasetSpec, _target: &SinkTarget, _env: &Environment) -> Result<Arc<dyn Sink>> {
        Ok(Arc::new(sink::BlackholeSink))
    }
}
