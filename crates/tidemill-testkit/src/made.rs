//! [`Made`]: a connector whose rows are made of their numbers, and whose sink keeps what is committed or only counts it.
//!
//! **Invariant:** a row is a pure function of its number, so that nothing has to be kept to know what was read, and a
//! split can be opened anywhere.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use tidemill_model::{Epoch, Error, Offset, OptionSpec, Result, SplitId};
use tidemill_runtime::{
    Batch, Boundedness, Committable, Connector, DatasetSpec, Environment, Payload, Pull, ReadHints, Sink,
    SinkCommitter, SinkTarget, SinkWriter, Source, SourceBatch, Split, SplitReader,
};

/// Makes the rows of these numbers.
pub type MakeRows = Arc<dyn Fn(&[u64]) -> RecordBatch + Send + Sync>;

/// The rows of a table.
#[derive(Clone)]
pub struct MadeTable {
    /// How rows are made.
    pub rows: MakeRows,
    /// How many there are, now.
    pub count: Arc<AtomicU64>,
    /// Whether there may be more later.
    pub endless: bool,
    /// How many splits they are dealt to in turn.
    pub splits: u64,
    /// How many a batch has.
    pub batch: u64,
}

impl MadeTable {
    /// So many rows, in batches of so many, dealt to two splits.
    #[must_use]
    pub fn new(rows: MakeRows, count: u64, batch: u64) -> MadeTable {
        MadeTable { rows, count: Arc::new(AtomicU64::new(count)), endless: false, splits: 2, batch }
    }
}

/// A step of a sink's work, for who wants to hold it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// Rows are written.
    Write,
    /// An epoch is prepared.
    Prepare,
    /// An epoch is committed.
    Commit,
}

/// Called at the beginning of each step; the step takes as long as the call.
pub type Hold = Arc<dyn Fn(Work) + Send + Sync>;

/// The connector `made`.
#[derive(Clone)]
pub struct Made {
    tables: BTreeMap<String, MadeTable>,
    hold: Hold,
    keep: bool,
    kept: Arc<Mutex<Kept>>,
}

/// What sinks hold.
#[derive(Debug, Default)]
struct Kept {
    /// By sink and epoch what each lane staged.
    staged: BTreeMap<(String, Epoch), Vec<Batch>>,
    committed: BTreeMap<String, BTreeMap<Epoch, Vec<Batch>>>,
    rows: u64,
}

impl fmt::Debug for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Made").field("tables", &self.tables.keys()).finish_non_exhaustive()
    }
}

impl Made {
    /// No tables yet; what is written is kept.
    #[must_use]
    pub fn new() -> Made {
        Made { tables: BTreeMap::new(), hold: Arc::new(|_| {}), keep: true, kept: Arc::default() }
    }

    /// With the rows of a table.
    #[must_use]
    pub fn with(mut self, name: &str, table: MadeTable) -> Made {
        self.tables.insert(name.to_owned(), table);
        self
    }

    /// What is written is only counted.
    #[must_use]
    pub fn counting(mut self) -> Made {
        self.keep = false;
        self
    }

    /// Sinks call this at each step of their work.
    #[must_use]
    pub fn held_by(mut self, hold: Hold) -> Made {
        self.hold = hold;
        self
    }

    /// How many rows were committed to all sinks together.
    #[must_use]
    pub fn rows(&self) -> u64 {
        lock(&self.kept).rows
    }

    /// What was committed to a sink, in the order of epochs.
    #[must_use]
    pub fn committed(&self, sink: &str) -> Vec<Batch> {
        lock(&self.kept).committed.get(sink).into_iter().flat_map(BTreeMap::values).flatten().cloned().collect()
    }

    /// How many epochs are staged and not committed.
    #[must_use]
    pub fn staged(&self) -> usize {
        let kept = lock(&self.kept);
        let epochs: std::collections::BTreeSet<Epoch> = kept.staged.keys().map(|(_, epoch)| *epoch).collect();
        epochs.len()
    }
}

impl Default for Made {
    fn default() -> Made {
        Made::new()
    }
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connector for Made {
    fn name(&self) -> &'static str {
        "made"
    }

    fn doc(&self) -> &'static str {
        "Rows made of their numbers, for tests."
    }

    fn options(&self) -> &'static [OptionSpec] {
        &[]
    }

    fn discover_schema(&self, spec: &DatasetSpec, _: &Environment) -> Result<SchemaRef> {
        Err(Error::internal(format!("the columns of {} are declared", spec.name)))
    }

    fn source(&self, spec: &DatasetSpec, _: &Environment) -> Result<Arc<dyn Source>> {
        match self.tables.get(&spec.name) {
            Some(table) => Ok(Arc::new(MadeSource(table.clone()))),
            None => Err(Error::internal(format!("nobody says how the rows of {} are made", spec.name))),
        }
    }

    fn sink(&self, spec: &DatasetSpec, _: &SinkTarget, _: &Environment) -> Result<Arc<dyn Sink>> {
        Ok(Arc::new(KeptSink { name: spec.name.clone(), made: self.clone() }))
    }
}

struct MadeSource(MadeTable);

impl fmt::Debug for MadeSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MadeSource")
    }
}

impl Source for MadeSource {
    fn boundedness(&self) -> Boundedness {
        if self.0.endless { Boundedness::Unbounded } else { Boundedness::Bounded }
    }

    fn list_splits(&self) -> Result<Vec<Split>> {
        let split = |number: u64| Split {
            id: SplitId::new(format!("{number:03}")),
            finite: false,
            min_event_time: None,
            max_event_time: None,
            bytes: None,
            content: None,
        };
        Ok((0..self.0.splits).map(split).collect())
    }

    fn open(&self, split: &Split, resume: Option<&Offset>, hints: &ReadHints) -> Result<Box<dyn SplitReader>> {
        let number = split.id.as_str().parse().map_err(|_| Error::internal("a split without a number"))?;
        let next = resume.and_then(Offset::as_number).unwrap_or(0);
        Ok(Box::new(MadeReader { table: self.0.clone(), split: number, next, schema: hints.schema.clone() }))
    }
}

struct MadeReader {
    table: MadeTable,
    split: u64,
    /// The next row of the split.
    next: u64,
    schema: Option<SchemaRef>,
}

impl SplitReader for MadeReader {
    fn next(&mut self) -> Result<Pull> {
        let MadeTable { splits, batch, .. } = self.table;
        let count = self.table.count.load(Ordering::Relaxed);
        let end = count / splits + u64::from(self.split < count % splits);
        let until = (self.next + batch).min(end);
        if self.next >= until {
            return Ok(if self.table.endless { Pull::AtEnd } else { Pull::Finished });
        }
        let numbers: Vec<u64> = (self.next..until).map(|row| row * splits + self.split).collect();
        let mut rows = (self.table.rows)(&numbers);
        if let Some(schema) = &self.schema {
            let broken = |e| Error::internal("made rows lack a column").because(e);
            let places = schema.fields().iter().map(|field| rows.schema().index_of(field.name()));
            let places = places.collect::<std::result::Result<Vec<_>, _>>().map_err(broken)?;
            let columns = places.into_iter().map(|at| Arc::clone(rows.column(at))).collect();
            rows = RecordBatch::try_new(Arc::clone(schema), columns).map_err(broken)?;
        }
        self.next = until;
        let payload = Payload::Columns(rows);
        Ok(Pull::Rows(SourceBatch { payload, resume: Offset::number(until), arrived: None, first: None }))
    }

    fn bound_to_present(&mut self) -> Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct KeptSink {
    name: String,
    made: Made,
}

impl Sink for KeptSink {
    fn writer(&self, _: usize) -> Result<Box<dyn SinkWriter>> {
        Ok(Box::new(KeptWriter { name: self.name.clone(), made: self.made.clone(), rows: 0, batches: Vec::new() }))
    }

    fn committer(&self) -> Result<Box<dyn SinkCommitter>> {
        Ok(Box::new(KeptCommitter { name: self.name.clone(), made: self.made.clone() }))
    }

    fn guarantee(&self) -> String {
        "exactly-once".to_owned()
    }
}

struct KeptWriter {
    name: String,
    made: Made,
    rows: u64,
    batches: Vec<Batch>,
}

impl SinkWriter for KeptWriter {
    fn write(&mut self, batch: &Batch) -> Result<()> {
        (self.made.hold)(Work::Write);
        self.rows += batch.len() as u64;
        if self.made.keep {
            self.batches.push(batch.clone());
        }
        Ok(())
    }

    fn prepare(&mut self, epoch: Epoch) -> Result<Option<Committable>> {
        (self.made.hold)(Work::Prepare);
        let rows = std::mem::take(&mut self.rows);
        if rows == 0 {
            return Ok(None);
        }
        let staged = std::mem::take(&mut self.batches);
        lock(&self.made.kept).staged.entry((self.name.clone(), epoch)).or_default().extend(staged);
        Ok(Some(Committable(serde_json::json!(rows))))
    }
}

struct KeptCommitter {
    name: String,
    made: Made,
}

impl SinkCommitter for KeptCommitter {
    fn commit(&mut self, epoch: Epoch, committables: &[Committable]) -> Result<()> {
        (self.made.hold)(Work::Commit);
        let mut kept = lock(&self.made.kept);
        let Some(staged) = kept.staged.remove(&(self.name.clone(), epoch)) else { return Ok(()) };
        kept.rows += committables.iter().filter_map(|rows| rows.0.as_u64()).sum::<u64>();
        kept.committed.entry(self.name.clone()).or_default().insert(epoch, staged);
        Ok(())
    }

    fn abort_after(&mut self, after: Epoch) -> Result<()> {
        lock(&self.made.kept).staged.retain(|(name, epoch), _| *name != self.name || *epoch <= after);
        Ok(())
    }
}

/// All rows of append-only batches as one.
///
/// # Errors
/// Internal, when they have different columns.
pub fn together(batches: &[Batch]) -> Result<Option<RecordBatch>> {
    let Some(first) = batches.first() else { return Ok(None) };
    let rows = concat_batches(&first.rows.schema(), batches.iter().map(|batch| &batch.rows));
    rows.map(Some).map_err(|e| Error::internal("rows of one sink differ in their columns").because(e))
}
