//! [`Gatherer`]: takes the rows of one partition, in memory as long as there is room.
//!
//! **Invariant:** rows are held only within its reservation. When that is full, rows that lost go first; only if most
//! stay, all go to files.

use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{BatchCoalescer, take_record_batch};
use arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::MemoryReservation;
use futures::TryStreamExt;

use super::decide::{Contest, Kept};
use super::held::Held;
use super::spread::{Part, Spread, Work};

/// Batches are held with about so many rows.
const AT_ONCE: usize = 8_192;

/// See the module.
pub(super) struct Gatherer {
    work: Arc<Work>,
    /// How often its rows were spread before.
    depth: usize,
    waiting: BatchCoalescer,
    held: Held,
    room: MemoryReservation,
    spread: Option<Spread>,
}

/// What was gathered.
pub(super) enum Gathered {
    /// All rows, in memory, and what is reserved for them.
    Held(Held, MemoryReservation),
    /// All rows, in files.
    Spread(Vec<Part>),
}

impl Gatherer {
    pub(super) fn new(work: Arc<Work>, depth: usize, room: MemoryReservation) -> Gatherer {
        let waiting = BatchCoalescer::new(SchemaRef::clone(&work.input), AT_ONCE)
            .with_biggest_coalesce_batch_size(Some(AT_ONCE / 2));
        Gatherer { work, depth, waiting, held: Held::new(), room, spread: None }
    }

    /// Takes all rows of a stream.
    pub(super) async fn drain(&mut self, mut rows: SendableRecordBatchStream) -> Result<()> {
        while let Some(rows) = rows.try_next().await? {
            self.push(rows)?;
        }
        Ok(())
    }

    fn push(&mut self, rows: RecordBatch) -> Result<()> {
        self.waiting.push_batch(rows)?;
        while let Some(rows) = self.waiting.next_completed_batch() {
            self.hold(rows)?;
        }
        Ok(())
    }

    fn hold(&mut self, rows: RecordBatch) -> Result<()> {
        let bytes = Held::bytes_of(&rows);
        if self.room.try_grow(bytes).is_err() {
            self.relieve(false)?;
            if self.room.try_grow(bytes).is_err() {
                // Not even one batch has room: what lost in it goes, so that there is less each time rows are spread.
                let rows = self.winners(rows)?;
                return self.spread()?.add(&rows);
            }
        }
        self.held.add(rows, bytes, &self.work.first)
    }

    /// Makes room: rows that lost go, and if that is little or `all` are to go, the others go to files.
    fn relieve(&mut self, all: bool) -> Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let contest = Contest::new(vec![std::mem::replace(&mut self.held, Held::new())]);
        contest.work(&self.work.first, &self.work.input)?;
        let kept: Vec<Kept> = contest.decided().collect();
        let (before, after) =
            kept.iter().fold((0, 0), |(before, after), kept| (before + kept.all(), after + kept.stay()));
        let files = all || after > before / 2;
        for kept in kept {
            self.room.shrink(kept.bytes);
            let rows = kept.rows(|rows| Ok(rows.clone()))?;
            if files {
                self.spread()?.add(&rows)?;
            } else {
                self.push(rows)?;
            }
        }
        Ok(())
    }

    /// The rows of a batch that lose against none of it.
    fn winners(&self, rows: RecordBatch) -> Result<RecordBatch> {
        let mut alone = Held::new();
        alone.add(rows, 0, &self.work.first)?;
        let contest = Contest::new(vec![alone]);
        contest.work(&self.work.first, &self.work.input)?;
        match contest.decided().next() {
            Some(kept) => kept.rows(|rows| Ok(rows.clone())),
            None => Ok(RecordBatch::new_empty(SchemaRef::clone(&self.work.input))),
        }
    }

    fn spread(&mut self) -> Result<&mut Spread> {
        Ok(match &mut self.spread {
            Some(spread) => spread,
            none => none.insert(Spread::new(Arc::clone(&self.work), self.depth)?),
        })
    }

    /// All rows that came.
    pub(super) fn finish(mut self) -> Result<Gathered> {
        loop {
            // Making room for a batch may bring rows back that wait to become one.
            self.waiting.finish_buffered_batch()?;
            let Some(rows) = self.waiting.next_completed_batch() else { break };
            // The last batch has room for many more rows than it has.
            let all = UInt32Array::from_iter_values(0..rows.num_rows() as u32);
            self.hold(take_record_batch(&rows, &all)?)?;
        }
        if self.spread.is_some() {
            return self.into_files();
        }
        Ok(Gathered::Held(self.held, self.room))
    }

    /// Rows in memory as rows in files.
    pub(super) fn put_out(work: &Arc<Work>, held: Held, room: MemoryReservation) -> Result<Gathered> {
        let mut gatherer = Gatherer::new(Arc::clone(work), 0, room);
        gatherer.held = held;
        gatherer.into_files()
    }

    fn into_files(mut self) -> Result<Gathered> {
        self.relieve(true)?;
        self.spread()?;
        Ok(Gathered::Spread(self.spread.map(Spread::finish).transpose()?.unwrap_or_default()))
    }
}
