//! State of operators, kept as bytes and stored as what changed: [`Table`] in memory, [`KeyLog`] at rest.
//!
//! **Invariant:** the cost of a checkpoint follows what changed since the last one; what restoring reads is at most
//! five times what is live.

mod keys;
mod log;
mod table;

pub(super) use keys::sort_by_key;
pub(super) use log::{KeyLog, Layout, by_log};
