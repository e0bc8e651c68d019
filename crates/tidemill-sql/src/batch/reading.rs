//! [`Reading`]: what a scan of a dataset needs to know, and [`Gathered`]: what all scans of a run found beside rows.
//!
//! **Invariant:** however often a run reads a dataset, its refused records are gathered once.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::kernels::cmp::{gt_eq, lt};
use arrow::compute::{and, cast, filter_record_batch};
use arrow::datatypes::{DataType, SchemaRef, TimeUnit, TimestampMicrosecondType};
use datafusion::error::DataFusionError;
use tidemill_checkpoint::Counters;
use tidemill_model::{Error, Interval, Kind, Result, Timestamp};
use tidemill_runtime::exec::StopFlag;
use tidemill_runtime::{DeadLetter, Decoder, Gate};

use crate::catalog::Changes;

/// Makes a gate for rows of the first schema that lets the columns of the second one through.
pub(super) type GateMaker = Arc<dyn Fn(&SchemaRef, &SchemaRef) -> Result<Box<dyn Gate>> + Send + Sync>;
/// Makes a decoder of the columns of a schema.
pub(super) type DecoderMaker = Arc<dyn Fn(SchemaRef) -> Result<Box<dyn Decoder>> + Send + Sync>;

/// A dataset as one scan reads it.
#[derive(Clone)]
pub(super) struct Reading {
    /// Its name.
    pub(super) dataset: String,
    /// All its columns, as they are before the gate.
    pub(super) schema: SchemaRef,
    /// Its event-time column.
    pub(super) event_time: Option<String>,
    /// The columns that the gate judges by, the event time among them.
    pub(super) judged: Vec<String>,
    /// Makes its gates.
    pub(super) gate: GateMaker,
    /// Makes its decoders, when its source gives records.
    pub(super) decoder: Option<DecoderMaker>,
    /// How its records change its rows, when it is a changelog.
    pub(super) changes: Option<Changes>,
    /// Only rows whose event time lies here are wanted.
    pub(super) interval: Option<Interval>,
    /// Dead letters whose event time lies outside of this belong to somebody else.
    pub(super) owned: Option<Interval>,
    /// Where refused records and counts go.
    pub(super) gathered: Arc<Gathered>,
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading")
            .field("dataset", &self.dataset)
            .field("interval", &self.interval)
            .finish_non_exhaustive()
    }
}

impl Reading {
    /// The rows of an accepted batch that lie in the interval.
    pub(super) fn within(&self, rows: RecordBatch) -> Result<RecordBatch> {
        let (Some(interval), Some(column)) = (self.interval, &self.event_time) else { return Ok(rows) };
        let broken = |e: arrow::error::ArrowError| Error::internal("rows cannot be divided by time").because(e);
        let times = rows
            .column_by_name(column)
            .ok_or_else(|| Error::internal(format!("the event time {column} was not read")))?;
        let keep = lies_within(times.as_ref(), interval).map_err(broken)?;
        if keep.true_count() == keep.len() { Ok(rows) } else { filter_record_batch(&rows, &keep).map_err(broken) }
    }
}

/// Which instants lie in an interval.
fn lies_within(times: &dyn Array, interval: Interval) -> Result<BooleanArray, arrow::error::ArrowError> {
    let micros = match times.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, None) => None,
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => {
            let plain = times.as_primitive::<TimestampMicrosecondType>().clone().with_timezone_opt(None::<Arc<str>>);
            Some(Arc::new(plain) as _)
        }
        _ => Some(cast(times, &DataType::Timestamp(TimeUnit::Microsecond, None))?),
    };
    let times = micros.as_deref().unwrap_or(times);
    let bound = |at: Timestamp| TimestampMicrosecondArray::new_scalar(at.0);
    and(&gt_eq(&times, &bound(interval.start))?, &lt(&times, &bound(interval.end))?)
}

/// What the scans of a run found beside rows, and how far they are.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    inner: Mutex<Inner>,
    rows_read: AtomicU64,
    /// Rows that statements evaluated where rows may fail: tables that DataFusion reads itself are not counted as read.
    rows_evaluated: AtomicU64,
    stop: StopFlag,
    /// Whether nobody wants the refused records themselves.
    only_counts: bool,
}

#[derive(Debug, Default)]
struct Inner {
    /// The scan of each dataset whose findings count.
    scans: BTreeMap<String, u64>,
    next_scan: u64,
    counters: Counters,
    dead: Vec<DeadLetter>,
}

impl Gathered {
    /// Nothing yet; scans end with an error once `stop` is set.
    #[must_use]
    pub(super) fn new(stop: StopFlag) -> Gathered {
        Gathered { stop, ..Gathered::default() }
    }

    /// As [`Gathered::new`], for queries that record nothing.
    #[must_use]
    pub(super) fn only_counts(stop: StopFlag) -> Gathered {
        Gathered { stop, only_counts: true, ..Gathered::default() }
    }

    /// How many records were read, for progress.
    #[must_use]
    pub(super) fn rows_read(&self) -> u64 {
        self.rows_read.load(Ordering::Relaxed)
    }

    /// How many rows were read or evaluated, whichever is more: what a share of errors is a share of.
    #[must_use]
    pub(super) fn rows_seen(&self) -> u64 {
        self.rows_read().max(self.rows_evaluated.load(Ordering::Relaxed))
    }

    /// Everything, once all scans have ended.
    #[must_use]
    pub(super) fn take(&self) -> (Counters, Vec<DeadLetter>) {
        let mut inner = self.inner();
        (std::mem::take(&mut inner.counters), std::mem::take(&mut inner.dead))
    }

    /// How many records of a dataset were refused so far, by reason.
    #[must_use]
    pub(super) fn refused(&self, dataset: &str) -> BTreeMap<String, u64> {
        self.inner().counters.dead_letters.get(dataset).cloned().unwrap_or_default()
    }

    /// A number for a scan.
    pub(super) fn new_scan(&self) -> u64 {
        let mut inner = self.inner();
        inner.next_scan += 1;
        inner.next_scan
    }

    /// Adds what a scan found; only the first scan of a dataset that asks is heard, for the others found the same.
    pub(super) fn add(&self, scan: u64, reading: &Reading, mut counters: Counters, dead: Vec<DeadLetter>) {
        self.rows_read.fetch_add(counters.rows_read, Ordering::Relaxed);
        let mut inner = self.inner();
        if *inner.scans.entry(reading.dataset.clone()).or_insert(scan) != scan {
            return;
        }
        let owned = |letter: &DeadLetter| match (reading.owned, letter.event_time) {
            (Some(interval), Some(at)) => interval.contains(Timestamp(at)),
            _ => true,
        };
        counters.dead_letters.clear();
        inner.counters.add(&counters);
        for letter in dead.into_iter().filter(owned) {
            inner.counters.count_dead(&letter.dataset, &letter.reason);
            if !self.only_counts {
                inner.dead.push(letter);
            }
        }
    }

    /// Adds rows that a statement evaluated, and those of them that an expression failed on.
    pub(super) fn evaluated(&self, rows: usize, dead: Vec<DeadLetter>) {
        self.rows_evaluated.fetch_add(rows as u64, Ordering::Relaxed);
        if dead.is_empty() {
            return;
        }
        let mut inner = self.inner();
        for letter in &dead {
            inner.counters.count_dead(&letter.dataset, &letter.reason);
        }
        if !self.only_counts {
            inner.dead.extend(dead);
        }
    }

    /// Ends a scan when the run was asked to stop.
    pub(super) fn go_on(&self) -> Result<()> {
        if !self.stop.is_set() {
            return Ok(());
        }
        Err(Error::new(Kind::Unavailable, "U030", "the run was stopped").fact("nothing of it was committed"))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Our error on its way through DataFusion.
pub(super) fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
