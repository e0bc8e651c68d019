//! The `delta` connector: Delta Lake tables as sources, as exactly-once sinks, and as tables for DataFusion.
//!
//! **Invariant:** this is the only crate that names deltalake. Every commit to a table carries the application
//! transaction `tidemill/<pipeline>/<sink>` with the epoch as its version, decided on the snapshot it is committed to,
//! so that an epoch is in the table once or not at all.

mod awaited;
mod blocking;
mod commit;
mod config;
mod connector;
mod datafile;
mod durable;
mod latest;
mod listing;
mod merge;
mod probe;
mod problem;
mod provider;
mod rewrite;
mod rewrites;
mod sink;
mod source;
mod stage;
mod table;
#[cfg(test)]
mod tests;
mod types;
mod write;

pub use connector::DeltaConnector;
pub use listing::table_files;
pub use provider::{is_there, table_provider, table_version};
