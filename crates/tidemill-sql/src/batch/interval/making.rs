//! [`Making`]: a run in the making, and [`Head`], the record that all runs of a runner share.
//!
//! **Invariant:** what a run has done is in its open run alone; the rest is fixed when it begins.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill_checkpoint::{Counters, Manifest, OpenRun};
use tidemill_model::{Epoch, Generation, Interval, Timestamp};

use super::super::engine::Engine;
use super::super::progress::BatchProgress;
use super::super::reading::Heard;
use super::super::sinks::Target;
use super::late::{Came, Seen};
use super::programs::Watcher;
use super::report::TargetReport;
use super::stage::Staged;

/// The newest manifest, as this process left it.
pub(super) struct Head {
    pub(super) latest: Option<Manifest>,
    /// Whether all of its targets have it.
    pub(super) published: bool,
    /// The splits that were looked at; on record with the next manifest.
    pub(super) seen: Seen,
    /// How many looks there were in this process.
    pub(super) looks: u64,
    /// What looks have found, for runs that began before them.
    pub(super) came: Vec<Came>,
    /// The intervals that are being run.
    pub(super) running: Vec<Interval>,
}

/// A run in the making.
pub(super) struct Making<'r> {
    pub(super) run: OpenRun,
    pub(super) shared: Arc<Shared>,
    /// The look that it began with.
    pub(super) look: u64,
    /// Whether it reads all that others write itself, so that it has what came before its look.
    pub(super) reads_all: bool,
    /// Whether any of its results may look back at tables of the pipeline itself.
    pub(super) looks_back: bool,
    pub(super) watcher: &'r dyn Watcher,
    pub(super) epoch: Epoch,
    pub(super) kept: Vec<String>,
    pub(super) targets: Vec<TargetReport>,
    pub(super) counters: Counters,
    pub(super) warnings: Vec<String>,
}

/// What all steps of a run compute with.
pub(super) struct Shared {
    pub(super) engine: Engine,
    pub(super) interval: Interval,
    pub(super) generation: Generation,
    pub(super) attempt: u32,
    pub(super) heard: Arc<Heard>,
    /// The target of each statement that is computed.
    pub(super) targets: BTreeMap<String, Target>,
    pub(super) through: Option<Timestamp>,
    /// Step to how many rows it had in the intervals before, the latest first.
    pub(super) sizes: BTreeMap<String, Vec<u64>>,
    pub(super) progress: Arc<BatchProgress>,
    /// The splits that are read of watched datasets: those that were looked at.
    pub(super) only: Arc<Seen>,
}

/// What a step made.
pub(super) enum Made {
    Rows(Box<Staged>),
    Value(Option<String>),
    /// What is expected of a dataset was looked at: what is only warned of, and how many rows it has.
    Judged {
        warnings: Vec<String>,
        rows: u64,
    },
}
