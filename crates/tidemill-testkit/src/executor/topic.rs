//! [`Topic`]: rows in splits, arriving while pipelines read; [`TopicSource`] is one process's way to them.
//!
//! **Invariant:** a split only grows; the row at an offset never changes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use fastrand::Rng;
use tidemill_model::{Error, Offset, Result, SplitId, Timestamp};
use tidemill_runtime::{Boundedness, Payload, Pull, ReadHints, Source, SourceBatch, Split, SplitReader};

use super::scenario::Kind;
use super::weather::Process;

/// One row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    /// Its number; no two rows of a scenario have the same.
    pub(super) id: i64,
    /// What it is counted by.
    pub(super) key: i64,
    /// Its event time; `None` makes it a dead letter at the gate.
    pub(super) at: Option<i64>,
}

/// A dataset.
#[derive(Debug)]
pub(super) struct Topic {
    /// What it is made of.
    pub(super) kind: Kind,
    /// Tells its splits from those of others.
    name: String,
    splits: Mutex<Vec<Vec<Row>>>,
}

impl Topic {
    /// A topic with so many empty splits.
    #[must_use]
    pub(super) fn new(name: &str, kind: Kind, splits: usize) -> Arc<Topic> {
        Arc::new(Topic { kind, name: name.to_owned(), splits: Mutex::new(vec![Vec::new(); splits]) })
    }

    /// Adds a row to an endless split.
    pub(super) fn push(&self, split: usize, row: Row) {
        if let Some(rows) = self.splits().get_mut(split) {
            rows.push(row);
        }
    }

    /// Adds a split: an empty one, or a whole file.
    pub(super) fn add_split(&self, rows: Vec<Row>) {
        self.splits().push(rows);
    }

    /// How many splits.
    #[must_use]
    pub(super) fn split_count(&self) -> usize {
        self.splits().len()
    }

    /// The first rows of a split.
    #[must_use]
    pub(super) fn first(&self, id: &SplitId, rows: usize) -> Vec<Row> {
        let splits = self.splits();
        let number = (0..splits.len()).find(|number| self.id(*number) == *id);
        number.and_then(|number| splits[number].get(..rows)).map(<[Row]>::to_vec).unwrap_or_default()
    }

    /// How many rows each split has.
    #[must_use]
    pub(super) fn lengths(&self) -> Vec<(SplitId, usize)> {
        self.splits().iter().enumerate().map(|(number, rows)| (self.id(number), rows.len())).collect()
    }

    fn id(&self, number: usize) -> SplitId {
        SplitId::new(format!("{}-{number:03}", self.name))
    }

    fn splits(&self) -> MutexGuard<'_, Vec<Vec<Row>>> {
        self.splits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The columns of every topic.
#[must_use]
pub(super) fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("key", DataType::Int64, false),
        Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, None), true),
    ]))
}

/// Rows as columns.
///
/// # Errors
/// Internal, if they do not fit together.
pub(super) fn columns(rows: &[Row]) -> Result<RecordBatch> {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.id))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.key))),
        Arc::new(rows.iter().map(|row| row.at).collect::<TimestampMicrosecondArray>()),
    ];
    RecordBatch::try_new(schema(), columns).map_err(|e| Error::internal("rows do not fit together").because(e))
}

/// A topic as one process reads it.
#[derive(Debug)]
pub(super) struct TopicSource {
    /// The topic.
    pub(super) topic: Arc<Topic>,
    /// The process.
    pub(super) process: Arc<Process>,
    /// The most rows in one pull.
    pub(super) batch: usize,
    /// Decides how many there are.
    pub(super) seed: u64,
}

impl Source for TopicSource {
    fn boundedness(&self) -> Boundedness {
        if self.topic.kind == Kind::Bounded { Boundedness::Bounded } else { Boundedness::Unbounded }
    }

    fn list_splits(&self) -> Result<Vec<Split>> {
        self.process.call("the listing of splits", || {
            let splits = self.topic.splits();
            let finite = self.topic.kind != Kind::Endless;
            let split = |(number, rows): (usize, &Vec<Row>)| Split {
                id: self.topic.id(number),
                finite,
                // Some files have statistics, some do not.
                min_event_time: rows.iter().filter_map(|row| row.at).min().filter(|_| finite && number % 2 == 0),
                max_event_time: None,
                bytes: None,
                content: None,
            };
            splits.iter().enumerate().map(split).collect()
        })
    }

    fn open(&self, split: &Split, resume: Option<&Offset>, _: &ReadHints) -> Result<Box<dyn SplitReader>> {
        let from = match resume {
            None => 0,
            Some(offset) => offset.as_number().ok_or_else(|| Error::internal(format!("offset `{offset}`")))? as usize,
        };
        let seed = self.seed ^ split.id.as_str().bytes().fold(0, |hash: u64, b| hash.wrapping_mul(31) ^ u64::from(b));
        let reader = TopicReader {
            topic: Arc::clone(&self.topic),
            process: Arc::clone(&self.process),
            split: split.id.clone(),
            from,
            bound: None,
            batch: self.batch,
            random: Rng::with_seed(seed),
        };
        self.process.call("the opening of a split", || Box::new(reader) as Box<dyn SplitReader>)
    }
}

struct TopicReader {
    topic: Arc<Topic>,
    process: Arc<Process>,
    split: SplitId,
    from: usize,
    bound: Option<usize>,
    batch: usize,
    random: Rng,
}

impl TopicReader {
    fn length(&self) -> usize {
        let known = self.topic.lengths();
        known.into_iter().find(|(id, _)| *id == self.split).map_or(0, |(_, rows)| rows)
    }
}

impl SplitReader for TopicReader {
    fn next(&mut self) -> Result<Pull> {
        let wanted = self.random.usize(1..=self.batch);
        let length = self.length();
        let until = length.min(self.bound.unwrap_or(length)).min(self.from + wanted);
        if until <= self.from {
            let finite = self.topic.kind != Kind::Endless;
            return Ok(if finite { Pull::Finished } else { Pull::AtEnd });
        }
        let rows = self.process.call("a read", || self.topic.first(&self.split, until))?;
        self.process.note_read();
        let payload = Payload::Columns(columns(rows.get(self.from..).unwrap_or_default())?);
        self.from = until;
        Ok(Pull::Rows(SourceBatch {
            payload,
            resume: Offset::number(until as u64),
            arrived: Some(Timestamp(0)),
            first: None,
        }))
    }

    fn bound_to_present(&mut self) -> Result<()> {
        if self.topic.kind == Kind::Endless {
            self.bound = Some(self.length());
        }
        Ok(())
    }
}
