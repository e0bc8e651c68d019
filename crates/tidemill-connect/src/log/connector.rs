//! [`LogConnector`]: opens topics of the project for reading and writing.
//!
//! **Invariant:** opening a dataset touches no file; the topic comes to be when it is first read or written.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use tidemill_model::{Error, Kind, OptionSpec, Result};
use tidemill_runtime::{Connector, DatasetSpec, Environment, Format, Sink, SinkTarget, Source};

use super::config::{LogConfig, OPTIONS};
use super::sink::LogSink;
use super::source::LogSource;

/// The connector `log`.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogConnector;

impl Connector for LogConnector {
    fn name(&self) -> &'static str {
        "log"
    }

    fn doc(&self) -> &'static str {
        "A durable topic in the project's own state folder: partitions, offsets, retention, exactly once by epoch, no server."
    }

    fn default_format(&self) -> Option<&'static str> {
        Some("json")
    }

    fn options(&self) -> &'static [OptionSpec] {
        OPTIONS
    }

    fn discover_schema(&self, spec: &DatasetSpec, _env: &Environment) -> Result<SchemaRef> {
        Err(Error::new(Kind::Config, "C098", format!("table `{}` declares no columns", spec.name))
            .fact("a topic does not know its columns: write them in CREATE TABLE"))
    }

    fn source(&self, spec: &DatasetSpec, env: &Environment) -> Result<Arc<dyn Source>> {
        format_of(spec)?;
        Ok(Arc::new(LogSource::new(LogConfig::of(&spec.settings)?, env.state.clone())))
    }

    fn sink(&self, spec: &DatasetSpec, target: &SinkTarget, env: &Environment) -> Result<Arc<dyn Sink>> {
        let config = LogConfig::of(&spec.settings)?;
        Ok(Arc::new(LogSink::new(config, format_of(spec)?, target, env)?))
    }
}

fn format_of(spec: &DatasetSpec) -> Result<Arc<dyn Format>> {
    spec.format.clone().ok_or_else(|| {
        Error::new(Kind::Config, "C097", format!("table `{}` has no format", spec.name))
            .fact("a topic carries records of bytes: write format = 'json'")
    })
}
