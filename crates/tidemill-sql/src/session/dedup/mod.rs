//! `DEDUP(t, time, INTERVAL 'ttl', PARTITION BY key, …)`: the rows of `t` without those that come less than the ttl after
//! one of their key that stays.
//!
//! **Invariant:** which rows stay is a function of the rows alone: of one key and time the least by the rest of its columns.

mod exec;
mod node;
mod relation;

pub use exec::DedupPlanner;
pub use node::DedupNode;
pub(super) use relation::dedup;
