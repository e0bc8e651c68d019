//! The stream executor: a [`Job`] becomes [`Lane`]s and one [`Coordinator`], which a driver steps.
//!
//! Everything here is a state machine that is stepped and never waits, so that threads ([`run`]) and a seeded
//! simulation drive the very same code.
//!
//! **Invariant:** an epoch is visible if and only if its manifest exists; lanes only stage.

mod align;
mod board;
mod command;
mod coordinator;
mod cut;
mod divide;
mod driver;
mod exchange;
mod holding;
mod job;
mod lane;
mod persist;
mod progress;
mod publish;
mod pull;
mod rebuild;
mod reentry;
mod restore;
mod staging;
mod tables;
mod ticks;
mod unfinished;
mod unread;
mod views;
mod wiring;

pub use coordinator::{Coordinator, Probe, Step};
pub use driver::run;
pub use holding::{SplitHolding, SplitTime, holding, without_rows};
pub use job::{Dataflow, Job, Limits, StopFlag, ViewNode, orphaned};
pub use lane::Lane;
pub use progress::{Latencies, Progress, Snapshot, SplitStatus};
pub use rebuild::{Anew, Starts};
pub use reentry::{Entering, Entry, Reentry};
pub use tables::TableStatus;
pub use unread::{Unread, unread};
pub use views::{ViewRows, Views};
