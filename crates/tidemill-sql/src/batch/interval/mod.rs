//! Runs of intervals: a pipeline's statements and programs as a graph of steps, each of which stands as an epoch of its own.
//!
//! **Invariant:** a step's rows are visible if and only if the manifest of its epoch exists, and the interval is done in
//! the manifest of its last step; running the same interval again leaves the targets as one run does.

mod amount;
mod expect;
mod fit;
mod forecast;
mod gone;
mod late;
mod making;
mod programs;
mod report;
mod runner;
mod settle;
mod stage;
mod stand;
mod steps;
mod turns;

pub use amount::Amount;
pub use forecast::{Forecast, Foretold, forecast};
pub use gone::SOURCE_GONE;
pub use programs::{Call, NoPrograms, Programs, StepEvent, Unwatched, Watcher};
pub use report::{IntervalReport, RunContext, TargetReport};
pub use runner::{Anew, Asked, RetryAt, Runner, run_interval};
pub use settle::finish_interval;
pub use steps::{PlannedStep, StepKind, fingerprint_of, plan_interval};

pub(super) use steps::no_views;
