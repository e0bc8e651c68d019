//! [`RunContext`]: what a run needs of the world; [`IntervalReport`]: what it did.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use tidemill_checkpoint::{Checkpoints, Counters};
use tidemill_model::{Clock, Epoch, Generation, Interval, Timestamp};

use super::super::engine::Resources;
use super::programs::Programs;

/// What a run needs of the world.
#[derive(Debug, Clone)]
pub struct RunContext {
    /// The present.
    pub clock: Arc<dyn Clock>,
    /// The pipeline's durable progress.
    pub checkpoints: Arc<Checkpoints>,
    /// Runs the programs of tasks.
    pub programs: Arc<dyn Programs>,
    /// How many lanes.
    pub lanes: usize,
    /// How many bytes operators may hold before they spill.
    pub memory: usize,
    /// The folder for what they spill.
    pub spill: PathBuf,
}

impl RunContext {
    pub(super) fn resources(&self) -> Resources {
        Resources { partitions: self.lanes, memory: self.memory, spill: self.spill.clone() }
    }
}

/// What a run did.
#[derive(Debug, Clone, Serialize)]
pub struct IntervalReport {
    /// The pipeline.
    pub pipeline: String,
    /// The interval.
    pub interval: Interval,
    /// Which version of the interval's rows this is; the first run writes 1.
    pub generation: Generation,
    /// The epoch that made the interval done.
    pub epoch: Epoch,
    /// What each target got.
    pub targets: Vec<TargetReport>,
    /// Steps that an attempt before had done.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<String>,
    /// Counts of this run alone.
    pub counters: Counters,
    /// What was expected of its rows and is not so.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Materialized views of the pipeline: they are kept by its live trigger and were not touched.
    pub views_left_out: Vec<String>,
}

/// What a target got.
#[derive(Debug, Clone, Serialize)]
pub struct TargetReport {
    /// The dataset.
    pub name: String,
    /// How many rows.
    pub rows: u64,
    /// The first instant that was read for it; `None` for all time.
    pub read_from: Option<Timestamp>,
    /// Why its rows belong to no interval, so that they are the result over all rows before the interval's end;
    /// `None` when they are the interval's own.
    pub whole_because: Option<String>,
}

impl TargetReport {
    /// The interval that the rows belong to which the statement failed on: a result over all rows is computed anew as a
    /// whole, and so are they.
    pub(super) fn letters_of(&self, interval: Interval) -> Interval {
        match self.whole_because {
            None => interval,
            Some(_) => Interval { start: Timestamp(i64::MIN), end: Timestamp(i64::MAX) },
        }
    }
}
