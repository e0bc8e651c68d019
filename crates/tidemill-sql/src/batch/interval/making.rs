//! [`Making`]: a run in the making, and [`Head`], the record that all runs of a runner share.
//!
//! **Invariant:** what a run has done is in its open run alone; the rest is fixed when it begins.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidemill_checkpoint::{Counters, Gone, Manifest, OpenRun};
use tidemill_model::{Epoch, Generation, Interval, Timestamp};

use super::super::engine::Engine;
use super::super::progress::BatchProgress;
use super::super::provider::SPLIT_VANISHED;
use super::super::reading::Heard;
use super::super::sinks::Target;
use super::gone::{Lacks, SOURCE_SILENT};
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
    /// Datasets that list no split at all, where some were seen.
    pub(super) silent: BTreeSet<String>,
}

impl Head {
    /// Whether a run has read the interval, in part of its steps at least, or is reading it.
    pub(super) fn has_read(&self, interval: Interval) -> bool {
        self.read().any(|read| read.overlaps(&interval))
    }

    /// What runs have read or are reading.
    fn read(&self) -> impl Iterator<Item = Interval> {
        let done = self.latest.iter().flat_map(|m| m.ledger.entries()).map(|entry| entry.interval);
        let begun = self.latest.iter().flat_map(|m| m.runs.iter()).filter(|run| !run.steps.is_empty());
        done.chain(begun.map(|run| run.interval)).chain(self.running.iter().copied())
    }

    pub(super) fn has_read_nothing(&self) -> bool {
        self.read().next().is_none()
    }

    /// The end of the latest interval that was read.
    pub(super) fn last_read(&self) -> Option<Timestamp> {
        self.read().map(|read| read.end).max()
    }

    /// The part of a range in which anything was read.
    pub(super) fn clamp(&self, (first, last): (Timestamp, Timestamp)) -> Option<(Timestamp, Timestamp)> {
        let (start, end) = (self.read().map(|read| read.start).min()?, self.last_read()?);
        let (first, last) = (first.max(start), last.min(Timestamp(end.0.saturating_sub(1))));
        (first <= last).then_some((first, last))
    }

    /// From the begin of the first to the end of the last interval that was read.
    pub(super) fn hull(&self) -> Option<Interval> {
        Some(Interval { start: self.read().map(|read| read.start).min()?, end: self.last_read()? })
    }

    /// The end of the latest interval that is done.
    pub(super) fn through(&self) -> Option<Timestamp> {
        self.latest.as_ref().and_then(|m| m.ledger.entries().iter().map(|entry| entry.interval.end).max())
    }

    /// The splits that a run reads: those that were seen, but for what lists nothing now.
    pub(super) fn listed(&self) -> Seen {
        let mut listed = self.seen.clone();
        listed.iter_mut().filter(|(dataset, _)| self.silent.contains(*dataset)).for_each(|(_, splits)| splits.clear());
        listed
    }

    /// What is gone of what runs have read.
    pub(super) fn gone(&self) -> Gone {
        self.latest.as_ref().map(|manifest| manifest.gone.clone()).unwrap_or_default()
    }

    /// Whether a run was given up because a dataset listed nothing, or a split vanished under it: who looks again knows more.
    pub(super) fn waits_for_files(&self) -> bool {
        let runs = self.latest.iter().flat_map(|manifest| manifest.runs.iter()).filter(|run| run.is_given_up());
        let codes = runs.filter_map(|run| run.failure.as_ref()).map(|failure| failure.code.as_str());
        codes.into_iter().any(|code| [SOURCE_SILENT, SPLIT_VANISHED].contains(&code))
    }
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
    /// What it lacks because files are gone.
    pub(super) lacks: Lacks,
    /// The datasets of which results over all rows were computed, and those of which others were.
    pub(super) over_all: BTreeSet<String>,
    pub(super) in_part: BTreeSet<String>,
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
