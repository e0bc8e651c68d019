//! Bounded work on DataFusion: runs of intervals and ad hoc queries. Entry points: [`run_interval`], [`query`], [`verify`].
//!
//! **Invariant:** a bounded query sees the rows that a stream would accept, through the same sources, formats and
//! gates, and writes through the same sinks.

mod dataset_exec;
mod engine;
mod estimate;
mod fold;
mod gate_exec;
mod guard;
mod interval;
mod locality;
mod lookup;
mod owned;
mod planned;
mod progress;
mod provider;
mod query;
mod readers;
mod reading;
mod sinks;
mod spill;
mod tables;
#[cfg(test)]
mod tests;
mod unwritten;
mod verify;
mod views;
mod writing;

pub use engine::Resources;
pub use interval::{IntervalReport, RunContext, TargetReport, finish_interval, run_interval};
pub use lookup::Lookups;
pub use planned::{PlannedTarget, plan_interval};
pub use progress::BatchProgress;
pub use query::{Answer, query};
pub use unwritten::Unwritten;
pub use verify::{Compared, Difference, DifferenceSide, Differences, Verified, Verifying, moved_on, verify};
pub use views::{Stored, ViewSource};
