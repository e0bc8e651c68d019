//! The contract of a source: [`Source`] lists [`Split`]s, a [`SplitReader`] answers pulls.
//!
//! Laws that every connector meets (the conformance suite checks them):
//! 1. Opening a split at an offset that a batch carried yields exactly the rows after that batch, in the same order.
//! 2. A split's id and content below an offset never change.
//! 3. `next` never waits for data that is not there yet: it answers `AtEnd`.
//! 4. A batch is at most a few MiB, so that memory stays bounded and barriers are prompt.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use tidemill_model::{Error, Interval, Kind, Offset, Result, SplitId, Timestamp};

use crate::Version;

/// Whether a source ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boundedness {
    /// It ends when all listed splits are finished; its watermark then is the end of time.
    Bounded,
    /// It never ends; more rows or splits may come.
    Unbounded,
}

/// A unit of parallel reading, as the source lists it.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// Its name, stable across restarts.
    pub id: SplitId,
    /// Whether the split has an end of its own (a file) rather than growing for ever (a topic partition).
    ///
    /// A finite split promises nothing about time inside: it holds the source's watermark until it is finished.
    pub finite: bool,
    /// The least event time in it in microseconds, when statistics say so. Finite splits are opened in this order.
    pub min_event_time: Option<i64>,
    /// The greatest event time in it in microseconds, when statistics say so: who reads an interval leaves out splits that
    /// have none of its rows.
    pub max_event_time: Option<i64>,
    /// About how many bytes, for progress and for balancing.
    pub bytes: Option<u64>,
    /// Of a finite split what changes when somebody puts other content under its name, against the law: the next run of an
    /// interval that reads it then knows that its rows are others. `None` when names are never used again.
    pub content: Option<String>,
}

/// What the plan needs of a read; a source may use any of it and must never rely on it for correctness.
#[derive(Debug, Clone, Default)]
pub struct ReadHints {
    /// The columns to produce, in this order, for sources that decode columns themselves ([`Payload::Columns`]).
    /// The engine always gives a schema of columns that the dataset declares.
    pub schema: Option<SchemaRef>,
    /// Only rows whose event time lies here are needed; others may be left out where statistics allow it.
    pub interval: Option<Interval>,
    /// The event-time column, which `interval` is about.
    pub event_time: Option<String>,
    /// Only rows that this may need are needed.
    pub needed: Option<Arc<dyn Needed>>,
}

/// Which rows a reader needs, judged by what statistics say of many rows at once.
pub trait Needed: Send + Sync + fmt::Debug {
    /// The columns that are looked at, as the dataset declares them.
    fn columns(&self) -> &SchemaRef;

    /// For each container of rows (a file, a row group, some pages) whether a row in it may be needed. `rows` says how
    /// many each has, `bounds` what is known of [`Needed::columns`] in each, in their order.
    fn may_be_in(&self, rows: &UInt64Array, bounds: &[ColumnBounds]) -> Vec<bool>;
}

/// What is known of one column in each of several containers of rows.
#[derive(Debug, Clone)]
pub struct ColumnBounds {
    /// No value is less than this, in the column's declared type; NULL where nothing is known.
    pub least: ArrayRef,
    /// No value is greater than this; NULL where nothing is known.
    pub greatest: ArrayRef,
    /// How many values are NULL; NULL where that is not known.
    pub nulls: UInt64Array,
}

/// Something that can be read, split by split.
pub trait Source: Send + Sync + fmt::Debug {
    /// Whether it ends.
    fn boundedness(&self) -> Boundedness;

    /// The splits that exist now. Called at start and then again and again while a pipeline runs, so that new ones
    /// are found; splits that were listed before are listed again while they exist.
    ///
    /// # Errors
    /// Config when what is to be read does not exist, Unavailable when it does not answer.
    fn list_splits(&self) -> Result<Vec<Split>>;

    /// Opens a split after `resume`, or at its beginning.
    ///
    /// # Errors
    /// As `list_splits`; Corrupt when the offset cannot be one of this split's (retention passed it, a file shrank).
    fn open(&self, split: &Split, resume: Option<&Offset>, hints: &ReadHints) -> Result<Box<dyn SplitReader>>;

    /// Whether whoever writes rows of one key in turn finds them in one split in that order, however the source is read.
    /// Only then the last record of a key is known. Conservative default: no.
    fn keeps_order(&self) -> bool {
        false
    }

    /// Which content there is now, cheaply: for those who look rows up in it and want to know when to read it again.
    /// Conservative default: it cannot be told, and nobody reads it again.
    ///
    /// # Errors
    /// As `list_splits`.
    fn version(&self) -> Result<Option<Version>> {
        Ok(None)
    }

    /// The engine has committed an epoch up to these offsets. Only for the outside to see (lag); progress itself is in
    /// the manifest. Conservative default: nothing.
    ///
    /// # Errors
    /// Reported, never fatal.
    fn on_committed(&self, offsets: &[(SplitId, Offset)]) -> Result<()> {
        let _ = offsets;
        Ok(())
    }
}

/// One open split.
pub trait SplitReader: Send {
    /// The next rows, or why there are none now. Blocks only for the reading itself.
    ///
    /// # Errors
    /// Unavailable may be retried by opening the split again at the last offset; Corrupt may not.
    fn next(&mut self) -> Result<Pull>;

    /// Fixes the present end of an endless split: `next` answers rows up to it, then `AtEnd` until this is called
    /// again. A reader on which it was never called follows the split as it grows. Finite splits ignore it.
    ///
    /// # Errors
    /// When the present end cannot be found out.
    fn bound_to_present(&mut self) -> Result<()>;

    /// How many rows were passed over because [`ReadHints::needed`] says that nobody needs them. Conservative default: none.
    fn passed_over(&self) -> u64 {
        0
    }

    /// Ends the reading at an offset that a batch of this split carried once, in this process or another: `next` answers
    /// rows up to exactly there, then `AtEnd` or `Finished`. Called before the first `next`, and then instead of
    /// [`SplitReader::bound_to_present`]. Conservative default: refused, and what was read cannot be computed anew.
    ///
    /// # Errors
    /// Corrupt, when the offset cannot be one of this split's.
    fn stop_at(&mut self, offset: &Offset) -> Result<()> {
        Err(Error::new(Kind::Config, "C150", format!("this source cannot be read again up to offset {offset}"))
            .fact("results over it cannot be computed anew; give the pipeline a new name to begin from the start"))
    }
}

/// The answer to a pull.
#[derive(Debug)]
pub enum Pull {
    /// Rows, at least one record.
    Rows(SourceBatch),
    /// Nothing now; there may be more later.
    AtEnd,
    /// Nothing, ever.
    Finished,
}

/// Rows and the offset after them.
#[derive(Debug, Clone)]
pub struct SourceBatch {
    /// The rows.
    pub payload: Payload,
    /// Where to resume after these rows.
    pub resume: Offset,
    /// When the oldest of these rows arrived in the source, if the source knows: latency is measured from here.
    pub arrived: Option<Timestamp>,
    /// Of columns the number in the split of the first of these rows, where the reader may have passed over rows that
    /// nobody needs; `None` when it follows the rows before.
    pub first: Option<u64>,
}

/// Rows as a connector has them.
#[derive(Debug, Clone)]
pub enum Payload {
    /// Encoded records, for a [`crate::Decoder`].
    Records(Records),
    /// Columns, with exactly the schema of [`ReadHints::schema`].
    Columns(RecordBatch),
}

/// A block of encoded records.
#[derive(Debug, Clone)]
pub struct Records {
    /// The bytes of all records.
    pub data: Bytes,
    /// The end of each record in `data` (exclusive), in order; `None` when records are lines: each ends with `\n`
    /// (the last one may lack it), empty lines are no records.
    pub ends: Option<Vec<u32>>,
    /// How to name a record's position in the split.
    pub positions: Positions,
}

/// How the position of a record in its split is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positions {
    /// The first record has this number, the next one more (topic offsets).
    Numbered(u64),
    /// The block begins at this byte of the split (files); a record's position is where it begins.
    Bytes(u64),
}
