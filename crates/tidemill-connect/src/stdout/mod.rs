//! `stdout`: rows as lines on the standard output, when their epoch is committed.
//!
//! [`Stdout`] is the connector; tests give it another stream than the process's own.
//!
//! **Invariant:** nothing of an epoch is printed before its commit. What was printed cannot be taken back, so a process
//! killed between printing and recording prints those lines again.

mod commit;
mod sink;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::Write;
use std::sync::{Arc, Mutex};

use arrow::datatypes::SchemaRef;
use tidemill_model::{Error, Kind, OptionSpec, Result};
use tidemill_runtime::{Connector, DatasetSpec, Environment, Sink, SinkTarget, Source};

/// Where lines go. Locked for one epoch, so that the lines of two sinks do not mix.
#[derive(Clone)]
pub(crate) struct Stream(pub(crate) Arc<Mutex<dyn Write + Send>>);

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stream")
    }
}

/// The connector `stdout`.
#[derive(Debug, Clone)]
pub struct Stdout {
    stream: Stream,
}

impl Default for Stdout {
    fn default() -> Stdout {
        Stdout::to(Arc::new(Mutex::new(std::io::stdout())))
    }
}

impl Stdout {
    /// The connector with another stream in place of the process's standard output.
    pub fn to(stream: Arc<Mutex<dyn Write + Send>>) -> Stdout {
        Stdout { stream: Stream(stream) }
    }
}

impl Connector for Stdout {
    fn name(&self) -> &'static str {
        "stdout"
    }

    fn doc(&self) -> &'static str {
        "Prints rows, a JSON object a line unless `format` says otherwise, when their epoch is committed."
    }

    fn options(&self) -> &'static [OptionSpec] {
        &[]
    }

    fn discover_schema(&self, spec: &DatasetSpec, _env: &Environment) -> Result<SchemaRef> {
        Err(Error::new(Kind::Config, "C342", format!("`{}` has no columns of its own", spec.name))
            .fact("declare the columns: the standard output takes any"))
    }

    fn source(&self, spec: &DatasetSpec, _env: &Environment) -> Result<Arc<dyn Source>> {
        Err(Error::new(Kind::Config, "C343", format!("`{}` is the standard output and cannot be read", spec.name))
            .fact("write with connector = 'files' or 'log' what is to be read again"))
    }

    fn sink(&self, spec: &DatasetSpec, target: &SinkTarget, _env: &Environment) -> Result<Arc<dyn Sink>> {
        Ok(Arc::new(sink::StdoutSink::open(spec, target, self.stream.clone())?))
    }
}
