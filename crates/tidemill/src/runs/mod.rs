//! Runs of intervals: which there are ([`Intervals`]), what they wait for ([`Readiness`]), and a [`Worker`] that brings a
//! pipeline up to date, whether a scheduler, a backfill or somebody at a terminal asks for it.
//!
//! **Invariant:** what is run follows from the project, the manifests and the clock. The history of runs is told what
//! happens and never asked.

mod attempt;
mod backfill;
mod intervals;
mod ready;
mod slots;
mod wait;
mod worker;

pub use attempt::{Attempted, News, Quiet, Tell};
pub use backfill::{Backfill, Only, range};
pub use intervals::Intervals;
pub use ready::{Readiness, Waiting};
pub use slots::Slots;
pub use worker::{Picked, Wants, Worked, Worker};
