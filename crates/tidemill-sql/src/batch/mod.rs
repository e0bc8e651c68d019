//! Bounded work on DataFusion: runs of intervals and ad hoc queries. Entry points: [`run_interval`], [`query`], [`verify`].
//!
//! **Invariant:** a bounded query sees the rows that a stream would accept, through the same sources, formats and
//! gates, and writes through the same sinks.

mod confined;
mod dataset_exec;
mod engine;
mod estimate;
mod fold;
mod gate_exec;
mod guard;
mod interval;
mod locality;
mod lookup;
mod needed;
mod owned;
mod progress;
mod provider;
mod query;
mod reach;
mod readers;
mod reading;
mod scans;
mod seen;
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
pub use interval::{
    Amount, Anew, Asked, Call, Forecast, Foretold, IntervalReport, NoPrograms, PlannedStep, Programs, RetryAt,
    RunContext, Runner, SOURCE_GONE, StepEvent, StepKind, TargetReport, Unwatched, Watcher, fingerprint_of,
    finish_interval, forecast, plan_interval, run_interval,
};
pub use lookup::Lookups;
pub use progress::BatchProgress;
pub use query::{Answer, query};
pub use unwritten::Unwritten;
pub use verify::{Compared, Difference, DifferenceSide, Differences, Verified, Verifying, moved_on, verify};
pub use views::{Stored, ViewSource};
