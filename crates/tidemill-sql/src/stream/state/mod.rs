//! State of operators, kept as bytes and stored as what changed: [`Table`] in memory, [`KeyLog`] at rest.
//!
//! Beyond the memory that it shares with others a log moves groups of keys to files of the tier, [`Cold`](cold::Cold).
//!
//! **Invariant:** the cost of a checkpoint follows what changed since the last one; what restoring reads is at most
//! five times what is live.

mod cold;
mod directory;
mod group;
mod keys;
mod log;
mod numbers;
mod ripe;
mod table;
mod time;

pub(super) use keys::sort_by_key;
pub(super) use log::{Give, KeyLog, Layout, log_of};
pub(super) use numbers::Numbers;
pub(super) use ripe::Ripe;
pub(super) use table::hash_of;
pub(super) use time::{stored_time, time_chunk};

/// An error of the tier on its way through what answers DataFusion's.
pub(super) fn lost(error: tidemill_model::Error) -> datafusion::error::DataFusionError {
    datafusion::error::DataFusionError::External(Box::new(error))
}
