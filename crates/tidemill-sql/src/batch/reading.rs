//! [`Reading`]: what a scan of a dataset needs to know, and [`Gathered`]: what the scans of a step found beside rows.
//!
//! **Invariant:** however often a run reads a dataset, its refused records are gathered once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::kernels::cmp::{gt_eq, lt};
use arrow::compute::{and, cast, filter_record_batch};
use arrow::datatypes::{DataType, SchemaRef, TimeUnit, TimestampMicrosecondType};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::Expr;
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
    /// Conditions of which one is true for each row that the gate does not simply accept; `None` when it cannot be told.
    pub(super) refusals: Option<Vec<Expr>>,
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

/// Which scan of each dataset is heard, among all steps of a run.
#[derive(Debug, Default)]
pub(super) struct Heard {
    scans: Mutex<BTreeMap<String, u64>>,
    last: AtomicU64,
}

impl Heard {
    /// The findings in these datasets are on record already.
    pub(super) fn but(recorded: impl IntoIterator<Item = String>) -> Heard {
        let scans = recorded.into_iter().map(|dataset| (dataset, 0)).collect();
        Heard { scans: Mutex::new(scans), last: AtomicU64::new(0) }
    }

    fn is(&self, scan: u64, dataset: &str) -> bool {
        let mut scans = self.scans.lock().unwrap_or_else(PoisonError::into_inner);
        match scans.get(dataset) {
            Some(heard) => *heard == scan,
            None => scans.insert(dataset.to_owned(), scan).is_none(),
        }
    }
}

/// What the scans of a step found beside rows, and how far they are.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    inner: Mutex<Inner>,
    heard: Arc<Heard>,
    /// Records read by all steps of a run, for who watches it.
    all_read: Arc<AtomicU64>,
    rows_read: AtomicU64,
    /// Rows that no statement needs and that were not read therefore.
    passed_over: AtomicU64,
    /// Rows that statements evaluated where rows may fail: tables that DataFusion reads itself are not counted as read.
    rows_evaluated: AtomicU64,
    stop: StopFlag,
    /// Whether nobody wants the refused records themselves.
    only_counts: bool,
}

#[derive(Debug, Default)]
struct Inner {
    /// The datasets whose findings are gathered here.
    heard: BTreeSet<String>,
    counters: Counters,
    dead: Vec<DeadLetter>,
}

/// What was found beside rows.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) counters: Counters,
    pub(super) dead: Vec<DeadLetter>,
    /// The datasets whose refused records these are.
    pub(super) heard: BTreeSet<String>,
}

impl Gathered {
    /// Nothing yet of one step of a run; scans end with an error once `stop` is set.
    #[must_use]
    pub(super) fn of_step(stop: StopFlag, heard: Arc<Heard>, all_read: Arc<AtomicU64>) -> Gathered {
        Gathered { stop, heard, all_read, ..Gathered::default() }
    }

    /// For queries that record nothing.
    #[must_use]
    pub(super) fn only_counts(stop: StopFlag) -> Gathered {
        Gathered { stop, only_counts: true, ..Gathered::default() }
    }

    /// How many records were read.
    #[must_use]
    pub(super) fn rows_read(&self) -> u64 {
        self.rows_read.load(Ordering::Relaxed)
    }

    /// How many rows there were to read or to evaluate, whichever is more: what a share of errors is a share of.
    #[must_use]
    pub(super) fn rows_seen(&self) -> u64 {
        let rows = self.rows_read() + self.passed_over.load(Ordering::Relaxed);
        rows.max(self.rows_evaluated.load(Ordering::Relaxed))
    }

    /// Everything, once all scans have ended.
    #[must_use]
    pub(super) fn take(&self) -> Findings {
        let Inner { heard, counters, dead } = std::mem::take(&mut *self.inner());
        Findings { counters, dead, heard }
    }

    /// How many records of a dataset were refused so far, by reason.
    #[must_use]
    pub(super) fn refused(&self, dataset: &str) -> BTreeMap<String, u64> {
        self.inner().counters.dead_letters.get(dataset).cloned().unwrap_or_default()
    }

    /// A number for a scan.
    pub(super) fn new_scan(&self) -> u64 {
        self.heard.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Adds what a scan found; only the first scan of a dataset that asks is heard, for the others found the same.
    pub(super) fn add(&self, scan: u64, reading: &Reading, mut counters: Counters, dead: Vec<DeadLetter>) {
        self.rows_read.fetch_add(counters.rows_read, Ordering::Relaxed);
        self.all_read.fetch_add(counters.rows_read, Ordering::Relaxed);
        if !self.heard.is(scan, &reading.dataset) {
            return;
        }
        let mut inner = self.inner();
        inner.heard.insert(reading.dataset.clone());
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

    /// Adds rows that a scan passed over, as nobody needs them. A scan that passed over all has looked at its dataset, too.
    pub(super) fn pass_over(&self, scan: u64, reading: &Reading, rows: u64) {
        self.add(scan, reading, Counters::default(), Vec::new());
        self.passed_over.fetch_add(rows, Ordering::Relaxed);
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
        if self.stop.is_set() { Err(stopped()) } else { Ok(()) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The code of a run that was asked to stop.
pub(super) const STOPPED: &str = "U030";

/// The error of a run that was asked to stop.
pub(super) fn stopped() -> Error {
    Error::new(Kind::Unavailable, STOPPED, "the run was stopped").fact("nothing of the step in hand was committed")
}

/// Our error on its way through DataFusion.
pub(super) fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
