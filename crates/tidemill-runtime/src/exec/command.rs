//! What the coordinator and the lanes say to each other: [`Command`] one way, [`Ack`] the other.
//!
//! **Invariant:** an acknowledgement is whole: every node of its lane has passed the barrier of its epoch.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use bytes::Bytes;
use tidemill_model::{Epoch, Result, Timestamp, Watermark};

use super::pull::SourceCut;
use crate::{ColdFile, Committable, EpochEnd, Filed, LateRow, StateMemory};

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

/// Encoded rows, in memory or in the tier.
#[derive(Debug)]
pub(crate) enum Staged {
    Here(Bytes),
    Parked(ColdFile),
}

/// Encoded state of an epoch beyond so many bytes waits for the epoch in the tier.
const STAGED_HERE: usize = 32 << 20;

impl Staged {
    /// These bytes, after so many that the lane has staged for the epoch in hand.
    pub(crate) fn of(bytes: Bytes, staged: &mut usize, memory: &StateMemory) -> Result<Staged> {
        *staged += bytes.len();
        let share = memory.share();
        if *staged <= STAGED_HERE || !share.is_bounded() {
            return Ok(Staged::Here(bytes));
        }
        let mut file = share.file()?;
        file.write(&bytes)?;
        Ok(Staged::Parked(file.finish()?))
    }

    pub(crate) fn read(&self) -> Result<Bytes> {
        match self {
            Staged::Here(bytes) => Ok(bytes.clone()),
            Staged::Parked(file) => Ok(Bytes::from(file.read()?)),
        }
    }
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
