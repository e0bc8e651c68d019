//! [`Runner::look`]: rows of intervals that are done, which came since, mark their intervals stale.
//!
//! A run reads no split that was not looked at before, so what is on record as seen is what runs have read. A row that is
//! found later belongs to an interval that is missing, and is read with it, or to one that is done or being run: that one
//! and those whose windows reach back to it lack the row. A look learns from when to when the rows of a split are, too, and
//! runs leave out the splits that have none of theirs, whatever their format.
//!
//! **Invariant:** a row is never taken for one that a run has read when it was not; the other way round costs one run more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema, TimeUnit, TimestampMicrosecondType};
use tidemill_checkpoint::StaleMark;
use tidemill_model::{Error, Interval, Offset, Result, SplitId, Timestamp};
use tidemill_runtime::exec::StopFlag;
use tidemill_runtime::{Intake, Payload, Pull, ReadHints, Source, Split};

use super::super::dataset_exec::Columns;
use super::super::owned::owned;
use super::super::reading::{Gathered, Reading};
use super::super::seen::SplitTimes;
use super::super::tables::{Datasets, Manner};
use super::making::Head;
use super::runner::Runner;
use super::stage::statement;
use super::steps::Work;
use crate::catalog::Side;

/// So many new splits of a dataset are worth reading for their times, though nothing is done yet: each run then leaves out
/// those that have none of its rows.
pub(super) const WORTH_LEARNING: usize = 3;

/// Dataset to the splits that were seen, and up to where.
pub(super) type Seen = BTreeMap<String, BTreeMap<SplitId, Offset>>;

/// Rows that came after a run had begun to read.
#[derive(Debug, Clone)]
pub(super) struct Came {
    /// The look that found them.
    look: u64,
    mark: StaleMark,
}

impl Runner<'_> {
    /// Looks for rows that came since the last look, and marks the intervals that lack them. Answers all marks.
    ///
    /// # Errors
    /// What the sources and the store answer.
    pub async fn look(&self) -> Result<Vec<StaleMark>> {
        let mut head = self.head.lock().await;
        self.look_around(&mut head).await?;
        Ok(head.latest.iter().flat_map(|manifest| manifest.stale.iter().cloned()).collect())
    }

    /// As [`Runner::look`], by who has the lock.
    pub(super) async fn look_around(&self, head: &mut Head) -> Result<()> {
        head.looks += 1;
        let mut came: BTreeMap<(Interval, String), u64> = BTreeMap::new();
        let mut all_seen = head.seen.clone();
        for dataset in &self.watched {
            let Ok(Some((reading, source))) = self.watch(dataset).await else { continue };
            // What cannot be listed cannot be run either, and the run says why.
            let Ok(splits) = source.list_splits() else { continue };
            let seen = self.see((dataset, &reading, &source), &splits, head, &mut came)?;
            all_seen.insert(dataset.clone(), seen);
        }
        let mut marks = Vec::new();
        for ((cell, dataset), rows) in came {
            let changed = BTreeMap::from([(dataset.clone(), cell)]);
            for interval in self.reached(head, cell, changed).await? {
                marks.push((interval, rows, dataset.clone()));
            }
        }
        self.mark(head, &marks, all_seen)
    }

    /// Marks intervals, and takes over what was seen: both, or neither.
    fn mark(&self, head: &mut Head, marks: &[(Interval, u64, String)], seen: Seen) -> Result<()> {
        if marks.is_empty() {
            head.seen = seen;
            return Ok(());
        }
        let now = self.context.clock.now();
        let mut marked = head.latest.as_ref().map(|manifest| manifest.stale.clone()).unwrap_or_default();
        for (interval, rows, dataset) in marks {
            marked.mark(*interval, *rows, dataset, now);
        }
        let before = std::mem::replace(&mut head.seen, seen);
        if let Err(error) = self.record_marks(head, marked) {
            head.seen = before;
            return Err(error);
        }
        let came = marks.iter().map(|(interval, rows, dataset)| Came {
            look: head.looks,
            mark: StaleMark { interval: *interval, rows: *rows, since: now, datasets: vec![dataset.clone()] },
        });
        let came: Vec<Came> = came.collect();
        head.came.extend(came);
        Ok(())
    }

    /// Looks at the splits of a dataset that were not seen, counts rows of intervals that were read, and answers what is
    /// seen now.
    fn see(
        &self,
        (dataset, reading, source): (&str, &Reading, &Arc<dyn Source>),
        splits: &[Split],
        head: &Head,
        came: &mut BTreeMap<(Interval, String), u64>,
    ) -> Result<BTreeMap<SplitId, Offset>> {
        let known = head.seen.get(dataset);
        let fresh: Vec<&Split> = splits.iter().filter(|split| !split.finite || !is_seen(known, split)).collect();
        let unread = known.is_none() || head.has_read_nothing();
        let learns = fresh.iter().filter(|split| split.finite).count() >= WORTH_LEARNING;
        let mut seen = known.cloned().unwrap_or_default();
        // What is gone comes as something new if it comes back.
        seen.retain(|id, _| splits.iter().any(|split| split.id == *id));
        for split in fresh {
            if split.finite && unread && !learns {
                seen.insert(split.id.clone(), SplitTimes::of_content(split.content.clone()).offset());
                continue;
            }
            let from = seen.get(&split.id).filter(|_| !split.finite).cloned();
            // What was written anew lacks rows that it had, too.
            let before = seen.get(&split.id).filter(|_| split.finite && !unread).map(SplitTimes::of);
            let range = before.and_then(|times| head.clamp(times.range()?));
            for cell in range.into_iter().flat_map(|range| self.cells_of(range)) {
                if head.has_read(cell) {
                    came.entry((cell, dataset.to_owned())).or_default();
                }
            }
            let mut counted = Counted {
                runner: self,
                head,
                dataset,
                rows: came,
                judge: !unread,
                decode: split.finite || !unread,
                times: SplitTimes::of_content(split.content.clone()),
                last: None,
            };
            let offset = count(reading, source, split, from.as_ref(), &mut counted)?;
            let times = counted.times;
            let offset = if split.finite { Some(times.offset()) } else { offset.or(from) };
            if let Some(offset) = offset {
                seen.insert(split.id.clone(), offset);
            }
        }
        Ok(seen)
    }

    /// Marks the intervals done after one that stands now, whose results look back at its rows in tables of the pipeline
    /// itself: they were computed without them.
    pub(super) async fn mark_those_after(&self, head: &mut Head, interval: Interval) -> Result<()> {
        let read_after = |other: &Interval| other.start >= interval.end;
        let later = head.latest.iter().flat_map(|m| m.ledger.entries()).any(|entry| entry.interval.end > interval.end);
        if !later && !head.running.iter().any(read_after) {
            return Ok(());
        }
        let own = self.pipeline.inserts.iter().map(|insert| (insert.target.clone(), interval)).collect();
        let reached = self.reached(head, interval, own).await?;
        let marks: Vec<(Interval, u64, String)> =
            reached.into_iter().filter(read_after).map(|after| (after, 0, "its own tables".to_owned())).collect();
        head.looks += 1;
        let seen = head.seen.clone();
        self.mark(head, &marks, seen)
    }

    /// Marks that a run which began at a look must leave: its rows were not among those that it read.
    pub(super) fn came_after(head: &Head, look: u64) -> impl Iterator<Item = &StaleMark> {
        head.came.iter().filter(move |came| came.look > look).map(|came| &came.mark)
    }

    /// A dataset that is watched: what reads it, unless DataFusion does so itself without splits.
    async fn watch(&self, dataset: &str) -> Result<Option<(Reading, Arc<dyn Source>)>> {
        if self.catalog.changes(dataset, Side::History)?.is_some() {
            return Ok(None);
        }
        let manner = Manner {
            side: Side::History,
            start: self.pipeline.start,
            owned: None,
            gathered: Arc::new(Gathered::only_counts(StopFlag::default())),
            only: None,
        };
        let engine = self.engine()?;
        let table = Datasets::open_one(self.catalog, engine.state(), &manner, dataset).await?;
        Ok(Some((table.reading().clone(), self.catalog.source(dataset, Side::History)?)))
    }

    /// The intervals from that of one instant to that of another.
    fn cells_of(&self, (first, last): (Timestamp, Timestamp)) -> Vec<Interval> {
        let mut cells = vec![self.cell_of(first)];
        while let Some(cell) = cells.last().copied().filter(|cell| cell.end <= last) {
            let next = self.cell_of(cell.end);
            if next.start <= cell.start {
                break;
            }
            cells.push(next);
        }
        cells
    }

    /// The intervals that were read and whose results depend on rows of a cell in these datasets, on whatever way through
    /// the steps: their own, and those that look back.
    async fn reached(
        &self,
        head: &Head,
        cell: Interval,
        mut changed: BTreeMap<String, Interval>,
    ) -> Result<BTreeSet<Interval>> {
        let mut found: BTreeSet<Interval> =
            BTreeSet::from([cell]).into_iter().filter(|cell| head.has_read(*cell)).collect();
        let Some(end) = head.last_read() else { return Ok(found) };
        let engine = self.engine()?;
        for step in &self.steps {
            let Work::Insert { insert, reads, .. } = &step.work else { continue };
            let of = reads.iter().filter_map(|name| changed.get(name).copied());
            let Some(rows) =
                of.reduce(|one, other| Interval { start: one.start.min(other.start), end: one.end.max(other.end) })
            else {
                continue;
            };
            let manner = Manner {
                side: Side::History,
                start: self.pipeline.start,
                owned: Some(cell),
                gathered: Arc::new(Gathered::only_counts(StopFlag::default())),
                only: None,
            };
            let datasets = Datasets::open(self.catalog, engine.state(), &manner, reads).await?;
            let plan = statement(self.catalog, &engine, (insert, &BTreeMap::new()), &datasets)?;
            let mut last = rows.end;
            let mut at = self.cell_of(rows.start);
            loop {
                let next = self.cell_of(at.end);
                if next.start <= at.start || next.start >= end {
                    break;
                }
                at = next;
                let lift = |e| crate::language::from_datafusion(&e, &insert.place);
                let needs = owned(plan.clone(), at, None, self.catalog.project()).map_err(lift)?;
                // A result over all rows is written anew as a whole by whoever runs next.
                if needs.whole.is_some() || needs.from.is_some_and(|from| from >= rows.end) {
                    break;
                }
                if head.has_read(at) {
                    found.insert(at);
                }
                last = last.max(at.end);
            }
            changed.insert(insert.target.clone(), Interval { start: rows.start, end: last });
        }
        Ok(found)
    }
}

pub(super) fn is_seen(known: Option<&BTreeMap<SplitId, Offset>>, split: &Split) -> bool {
    let seen = known.and_then(|known| known.get(&split.id));
    seen.is_some_and(|offset| SplitTimes::of(offset).is(split.content.as_deref()))
}

impl Head {
    /// Whether a run has read the interval, in part of its steps at least, or is reading it.
    fn has_read(&self, interval: Interval) -> bool {
        self.read().any(|read| read.overlaps(&interval))
    }

    /// What runs have read or are reading.
    fn read(&self) -> impl Iterator<Item = Interval> {
        let done = self.latest.iter().flat_map(|m| m.ledger.entries()).map(|entry| entry.interval);
        let begun = self.latest.iter().flat_map(|m| m.runs.iter()).filter(|run| !run.steps.is_empty());
        done.chain(begun.map(|run| run.interval)).chain(self.running.iter().copied())
    }

    fn has_read_nothing(&self) -> bool {
        self.read().next().is_none()
    }

    /// The end of the latest interval that was read.
    fn last_read(&self) -> Option<Timestamp> {
        self.read().map(|read| read.end).max()
    }

    /// The part of a range in which anything was read.
    fn clamp(&self, (first, last): (Timestamp, Timestamp)) -> Option<(Timestamp, Timestamp)> {
        let (start, end) = (self.read().map(|read| read.start).min()?, self.last_read()?);
        let (first, last) = (first.max(start), last.min(Timestamp(end.0.saturating_sub(1))));
        (first <= last).then_some((first, last))
    }
}

/// Counts rows of intervals that were read before.
struct Counted<'c, 'r> {
    runner: &'c Runner<'r>,
    head: &'c Head,
    dataset: &'c str,
    rows: &'c mut BTreeMap<(Interval, String), u64>,
    /// Whether anything is counted.
    judge: bool,
    /// Whether rows are looked at: otherwise the split is only read to its end, to know where that is.
    decode: bool,
    times: SplitTimes,
    /// The cell of the row before, and whether it was read.
    last: Option<(Interval, bool)>,
}

impl Counted<'_, '_> {
    fn row(&mut self, at: Timestamp) {
        self.times.take(at);
        if !self.judge {
            return;
        }
        let (cell, read) = match self.last {
            Some((cell, read)) if cell.contains(at) => (cell, read),
            _ => {
                let cell = self.runner.cell_of(at);
                let read = self.head.has_read(cell);
                self.last = Some((cell, read));
                (cell, read)
            }
        };
        if read {
            *self.rows.entry((cell, self.dataset.to_owned())).or_default() += 1;
        }
    }
}

/// Reads the event times of a split from an offset to its present end, and answers the offset there.
fn count(
    reading: &Reading,
    source: &Arc<dyn Source>,
    split: &Split,
    from: Option<&Offset>,
    counted: &mut Counted<'_, '_>,
) -> Result<Option<Offset>> {
    let Some(time) = &reading.event_time else { return Ok(None) };
    let broken = |e: &dyn std::fmt::Display| Error::internal(format!("event times cannot be read: {e}"));
    let field = reading.schema.field_with_name(time).map_err(|e| broken(&e))?.clone();
    let columns = Columns::new(reading, Arc::new(Schema::new(vec![field]))).map_err(|e| broken(&e))?;
    let hints = ReadHints {
        schema: Some(Arc::clone(&columns.decoded)),
        event_time: Some(time.clone()),
        ..ReadHints::default()
    };
    let decoder = reading.decoder.as_ref().map(|make| make(Arc::clone(&columns.decoded))).transpose()?;
    let gate = (reading.gate)(&columns.decoded, &columns.accepted)?;
    let mut intake = Intake::new(&reading.dataset, Some(time), decoder, gate);
    let mut reader = source.open(split, from, &hints)?;
    reader.bound_to_present()?;
    let (mut offset, mut rows_before) = (None, 0);
    loop {
        let Pull::Rows(batch) = reader.next().map_err(|e| e.context(format!("reading split {}", split.id)))? else {
            return Ok(offset);
        };
        offset = Some(batch.resume);
        if !counted.decode {
            continue;
        }
        let in_columns = if let Payload::Columns(rows) = &batch.payload { rows.num_rows() as u64 } else { 0 };
        let taken = intake.take(&split.id, rows_before, batch.payload)?;
        rows_before += in_columns;
        // A refused row with a time belongs to its interval as any other.
        taken.dead.iter().filter_map(|letter| letter.event_time).for_each(|at| counted.row(Timestamp(at)));
        let rows = columns.output(taken.rows.rows)?;
        let times = cast(rows.column(0), &DataType::Timestamp(TimeUnit::Microsecond, None)).map_err(|e| broken(&e))?;
        let times = times.as_primitive::<TimestampMicrosecondType>();
        for row in (0..times.len()).filter(|row| times.is_valid(*row)) {
            counted.row(Timestamp(times.value(row)));
        }
    }
}
