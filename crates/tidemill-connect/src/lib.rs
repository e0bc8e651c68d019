//! The connectors and formats that come with Tidemill: [`connectors`] is the list.
//!
//! Each connector is a folder with the same file names: `mod` (what it is), `config` (its options), `source`, `sink`,
//! `commit`, `tests`. Formats (`json`, `csv`) turn records into columns and back for the connectors that carry records.
//!
//! **Invariant:** a connector answers and never drives: it sees no barriers, lanes or clocks beyond what it is given,
//! and it does not know the other connectors.

mod blackhole;
mod csv;
mod debezium;
mod files;
mod format;
pub mod generator;
mod json;
pub mod log;
mod stdout;

use std::sync::Arc;

use tidemill_model::Result;
use tidemill_runtime::{Connector, DatasetSpec, Environment};

pub use blackhole::Blackhole;
pub use files::Files;
pub use format::{FORMATS, FormatSpec, format, format_options};
pub use stdout::Stdout;

/// Whether anything is there to be read of a dataset of the connector of this name, looked at without creating it.
/// What cannot be looked at so is there.
///
/// # Errors
/// As reading it would answer.
pub fn is_there(connector: &str, spec: &DatasetSpec, env: &Environment) -> Result<bool> {
    match connector {
        "files" => files::any_file(spec, env),
        "log" => Ok(log::topic_stats(&env.state, spec.settings.text("topic").unwrap_or_default())?.is_some()),
        _ => Ok(true),
    }
}

/// Every connector of this crate, one a line.
#[must_use]
pub fn connectors() -> Vec<Arc<dyn Connector>> {
    vec![
        Arc::new(Blackhole),
        Arc::new(Files::default()),
        Arc::new(generator::GeneratorConnector),
        Arc::new(log::LogConnector),
        Arc::new(Stdout::default()),
    ]
}
