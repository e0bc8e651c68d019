//! The contract of a sink: writers on lanes stage an epoch, one committer publishes it.
//!
//! Laws that every connector meets (the conformance suite checks them):
//! 1. Nothing that was written is visible before `commit` of its epoch.
//! 2. `commit` of the same epoch and committables any number of times, by any process, has the effect of one.
//! 3. After a crash, `abort_after(e)` removes what was staged for later epochs; writing them again is safe.
//! 4. A committable names everything that the commit needs: another process can do it.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};
use tidemill_model::{Epoch, Interval, Result};

use crate::{Batch, Rewrites, TablePart};

/// How rows change the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteMode {
    /// Rows are added.
    Append,
    /// Rows replace the rows of the same key; among several of one key the greatest by `sequence` wins, then the
    /// greatest by the remaining columns in name order. A stored row wins over a smaller one.
    Upsert {
        /// The PRIMARY KEY columns.
        key: Vec<String>,
        /// The column that orders versions of a row, when there is one.
        sequence: Option<String>,
    },
    /// Rows are changes, in the columns of [`crate::changelog_schema`], and are only ever added.
    Changelog {
        /// The PRIMARY KEY columns; all changes of a key must stay in order.
        key: Vec<String>,
    },
    /// The rows of an interval replace all rows of the target whose `column` lies in it.
    Replace {
        /// The target's event-time column.
        column: String,
        /// Only rows of this part are replaced, and all that are written are of it.
        part: TablePart,
    },
    /// The rows of a run replace all rows of the target.
    Overwrite {
        /// Only rows of this part are replaced, and all that are written are of it.
        part: TablePart,
    },
}

impl WriteMode {
    /// The part of the target that is replaced; the whole of it where nothing is said, or nothing is replaced.
    #[must_use]
    pub fn part(&self) -> Option<&TablePart> {
        match self {
            WriteMode::Replace { part, .. } | WriteMode::Overwrite { part } => {
                Some(part).filter(|part| !part.is_whole())
            }
            WriteMode::Append | WriteMode::Upsert { .. } | WriteMode::Changelog { .. } => None,
        }
    }

    /// Whether a run takes away rows that it does not write again, so that one without rows has something to commit, too.
    #[must_use]
    pub fn replaces(&self) -> bool {
        matches!(self, WriteMode::Replace { .. } | WriteMode::Overwrite { .. })
    }
}

/// What a sink is asked to write, known before it opens.
#[derive(Debug, Clone)]
pub struct SinkTarget {
    /// The pipeline, unique in the project.
    pub pipeline: String,
    /// The target dataset, unique in the pipeline's sinks. `pipeline/sink` is the identity of its progress.
    pub sink: String,
    /// The columns of every batch.
    pub schema: SchemaRef,
    /// How rows change the target.
    pub mode: WriteMode,
    /// The interval of this run, for `Replace`.
    pub interval: Option<Interval>,
    /// A folder for staged files, on this machine, owned by this sink; it survives a restart.
    pub staging: std::path::PathBuf,
}

/// A target of rows, opened for one run.
pub trait Sink: Send + Sync + fmt::Debug {
    /// A writer for one lane.
    ///
    /// # Errors
    /// Config or Unavailable.
    fn writer(&self, lane: usize) -> Result<Box<dyn SinkWriter>>;

    /// The committer of the whole sink.
    ///
    /// # Errors
    /// Config or Unavailable; Fenced when another process owns the target.
    fn committer(&self) -> Result<Box<dyn SinkCommitter>>;

    /// The guarantee this path really has, in words for `plan`: "exactly-once: published by epoch".
    fn guarantee(&self) -> String;

    /// Whether appending for [`SinkTarget::interval`] again puts the new rows in the place of those that the run
    /// before appended. Conservative default: it does not, so a rerun of an appending run is refused.
    fn replaces_interval(&self) -> bool {
        false
    }

    /// Whether [`SinkWriter::prepare_anew`] puts rows in the place of whatever is stored under their key. Conservative
    /// default: it does not, so a result that was computed anew is not written here.
    fn overwrites(&self) -> bool {
        false
    }

    /// Whether the target surely holds no rows of this sink. Creates nothing. Conservative default: it may.
    ///
    /// # Errors
    /// Unavailable, Corrupt.
    fn is_unwritten(&self) -> Result<bool> {
        Ok(false)
    }

    /// How much of what the target holds now runs of these intervals write anew, each in a commit of its own, whichever
    /// interval this sink was opened for. Told from names, sizes and statistics: no row is read, nothing is created and no
    /// lock is taken, and the target is looked at once, however many intervals there are. A target that is not there yet
    /// has nothing to write anew, and one that only grows never has. Conservative default: `None`, it is not known.
    ///
    /// # Errors
    /// Unavailable, Corrupt.
    fn rewrites(&self, intervals: &[Interval]) -> Result<Option<Rewrites>> {
        let _ = intervals;
        Ok(None)
    }
}

/// Stages the rows of one lane.
pub trait SinkWriter: Send {
    /// Takes rows of the current epoch.
    ///
    /// # Errors
    /// Unavailable, Data; the epoch fails and nothing of it is visible.
    fn write(&mut self, batch: &Batch) -> Result<()>;

    /// Makes everything written since the last `prepare` durable without making it visible. `None` when there was
    /// nothing.
    ///
    /// # Errors
    /// As `write`.
    fn prepare(&mut self, epoch: Epoch) -> Result<Option<Committable>>;

    /// As `prepare`, for rows of a result that was computed anew: of a sink that [overwrites](Sink::overwrites) they win
    /// over the stored row of their key, whatever that is. That belongs to the committable, as another process may
    /// commit it.
    ///
    /// # Errors
    /// As `write`.
    fn prepare_anew(&mut self, epoch: Epoch) -> Result<Option<Committable>> {
        self.prepare(epoch)
    }
}

/// Publishes epochs.
pub trait SinkCommitter: Send {
    /// Publishes what was prepared for `epoch`, by all lanes; called for each epoch in order, and again for the last
    /// one after a restart. Does nothing when the target says the epoch is there already.
    ///
    /// # Errors
    /// Unavailable may be retried; Fenced may not.
    fn commit(&mut self, epoch: Epoch, committables: &[Committable]) -> Result<()>;

    /// Removes what was staged for epochs after this one. Called once after recovery.
    ///
    /// # Errors
    /// Unavailable.
    fn abort_after(&mut self, epoch: Epoch) -> Result<()>;
}

/// What one lane prepared, as the manifest keeps it; only the connector reads it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Committable(pub serde_json::Value);

impl<T: SinkWriter + ?Sized> SinkWriter for Box<T> {
    fn write(&mut self, batch: &Batch) -> Result<()> {
        (**self).write(batch)
    }

    fn prepare(&mut self, epoch: Epoch) -> Result<Option<Committable>> {
        (**self).prepare(epoch)
    }

    fn prepare_anew(&mut self, epoch: Epoch) -> Result<Option<Committable>> {
        (**self).prepare_anew(epoch)
    }
}

/// Only for convenience in sinks that write columns: the rows of append-only batches.
impl From<RecordBatch> for Batch {
    fn from(rows: RecordBatch) -> Batch {
        Batch::inserts(rows)
    }
}

impl<T: Sink + ?Sized> Sink for Arc<T> {
    fn writer(&self, lane: usize) -> Result<Box<dyn SinkWriter>> {
        (**self).writer(lane)
    }

    fn committer(&self) -> Result<Box<dyn SinkCommitter>> {
        (**self).committer()
    }

    fn guarantee(&self) -> String {
        (**self).guarantee()
    }

    fn replaces_interval(&self) -> bool {
        (**self).replaces_interval()
    }

    fn overwrites(&self) -> bool {
        (**self).overwrites()
    }

    fn is_unwritten(&self) -> Result<bool> {
        (**self).is_unwritten()
    }

    fn rewrites(&self, intervals: &[Interval]) -> Result<Option<Rewrites>> {
        (**self).rewrites(intervals)
    }
}
