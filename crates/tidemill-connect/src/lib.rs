//! The connectors and formats that come with Tidemill: [`connectors`] is the list.
//!
//! Each connector is a folder with the same file names: `mod` (what it is), `config` (its options), `source`, `sink`,
//! `commit`, `tests`. Formats (`json`, `csv`) turn records into columns and back for the connectors that carry records.
//!
//! **Invariant:** a connector answers and never drives: it sees no barriers, lanes or clocks beyond what it is given,
//! and it does not know the other connectors.

mod blackhole;
mod csv;
mod files;
mod format;
pub mod generator;
mod json;
pub mod log;
mod stdout;

use std::sync::Arc;

use tidemill_runtime::Connector;

pub use blackhole::Blackhole;
pub use files::Files;
pub use format::{FORMATS, FormatSpec, format, format_options};
pub use stdout::Stdout;

/// Every connector of this crate, one a line.
#[must_use]
pub fn connectors() -> Vec<Arc<dyn Connector>> {
    vec![
        Arc::new(Blackhole),
        Arc::new(Files),
        Arc::new(generator::GeneratorConnector),
        Arc::new(log::LogConnector),
        Arc::new(Stdout::default()),
    ]
}
