//! What the coordinator and the lanes say to each other: [`Command`] one way, [`Ack`] the other.
//!
//! **Invariant:** an acknowledgement is whole: every node of its lane has passed the barrier of its epoch.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use tidemill_model::{Epoch, Timestamp, Watermark};

use super::pull::SourceCut;
use super::staging::Staged;
use crate::{ColdFile, Committable, EpochEnd, Filed, LateRow};

/// What the coordinator asks of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// Read on to the end that is present now, and say when it is reached.
    Tick(u64),
    /// Stop reading.
    Rest,
    /// Read rows as they come.
    Follow,
    /// End this epoch here.
    Barrier(Epoch, EpochEnd),
}

/// A chunk of state on its way to the checkpoint store.
#[derive(Debug)]
pub(crate) struct StagedChunk {
    pub(crate) name: String,
    /// Its rows, encoded; `None` when the chunk is gone.
    pub(crate) bytes: Option<Staged>,
    /// Its rows, where readers in this process are shown them.
    pub(crate) rows: Option<RecordBatch>,
}

/// What a lane staged for an epoch.
#[derive(Debug)]
pub(crate) struct Ack {
    pub(crate) lane: usize,
    pub(crate) epoch: Epoch,
    /// Source node to its part.
    pub(crate) sources: BTreeMap<String, SourceCut>,
    /// Operator node to its changed chunks.
    pub(crate) state: BTreeMap<String, Vec<StagedChunk>>,
    /// Where chunks lie that memory had no room for.
    pub(crate) staged: Option<ColdFile>,
    /// Sink node to what it prepared.
    pub(crate) sinks: BTreeMap<String, Committable>,
    /// View and other operator nodes to the watermark they stand at.
    pub(crate) watermarks: BTreeMap<String, Watermark>,
    pub(crate) rows_written: u64,
    /// Operator node to how many rows it left out as late.
    pub(crate) rows_late: BTreeMap<String, u64>,
    /// When the next epoch shall end at the latest.
    pub(crate) due: Option<Timestamp>,
    /// Rows that expressions failed on, each with the node that it failed in.
    pub(crate) dead: Vec<Filed>,
    /// Rows that came late, each with the node that left it out.
    pub(crate) late: Vec<(String, LateRow)>,
    /// When rows of this epoch arrived, with how many.
    pub(crate) arrivals: Vec<(Timestamp, u64)>,
}
