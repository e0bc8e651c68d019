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
use tidemill_checkpoint::{Gone, StaleMark};
use tidemill_model::{Epoch, Error, Interval, Offset, Result, SplitId, Timestamp};
use tidemill_runtime::exec::StopFlag;
use tidemill_runtime::{Intake, Payload, Pull, ReadHints, Source, Split};

use super::super::dataset_exec::Columns;
use super::super::owned::owned;
use super::super::reading::{Gathered, Reading};
use super::super::seen::SplitTimes;
use super::super::tables::{Datasets, Manner};
use super::gone::lost;
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

/// What a look finds.
struct Found {
    /// Cell and dataset to how many rows of it came.
    came: BTreeMap<(Interval, String), u64>,
    /// What is gone, with what is gone since.
    gone: Gone,
    /// Whether something that was gone is back.
    back: bool,
}

/// A dataset that is looked at.
struct Watched {
    reading: Reading,
    source: Arc<dyn Source>,
    /// Whether a split that has vanished is missed.
    keeps: bool,
}

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
        let mut found = Found { came: BTreeMap::new(), gone: head.gone(), back: false };
        let mut all_seen = head.seen.clone();
        let next = head.latest.as_ref().map_or(Epoch::NONE, |manifest| manifest.epoch).next();
        head.silent.clear();
        let mut all_listed = true;
        for dataset in &self.watched {
            // What cannot be listed cannot be run either, and the run says why.
            let Ok(watched) = self.watch(dataset).await else {
                all_listed = false;
                continue;
            };
            let Some(watched) = watched else { continue };
            let Ok(splits) = watched.source.list_splits() else {
                all_listed = false;
                continue;
            };
            if watched.keeps {
                let lost = lost(head.seen.get(dataset), &splits);
                // Where nothing is at all, a disk may not be mounted: what was seen stays seen until something is there.
                if !lost.is_empty() && !splits.iter().any(|split| split.finite) {
                    head.silent.insert(dataset.clone());
                    continue;
                }
                found.gone.lose(dataset, self.vanished(head, dataset, lost, next).await?);
            }
            let seen = self.see((dataset, &watched), &splits, head, &mut found)?;
            all_seen.insert(dataset.clone(), seen);
        }
        let mut marks = Vec::new();
        for ((cell, dataset), rows) in std::mem::take(&mut found.came) {
            let changed = BTreeMap::from([(dataset.clone(), cell)]);
            for interval in self.reached(head, cell, changed).await? {
                marks.push((interval, rows, dataset.clone()));
            }
        }
        let back = found.back || all_listed && head.silent.is_empty() && head.waits_for_files();
        self.mark(head, &marks, all_seen, (found.gone, back))
    }

    /// Marks intervals, and takes over what was seen and what is gone: all of it, or nothing. What is gone is put on record
    /// at once, as nobody would miss it who knows only what is seen now.
    fn mark(
        &self,
        head: &mut Head,
        marks: &[(Interval, u64, String)],
        seen: Seen,
        (gone, back): (Gone, bool),
    ) -> Result<()> {
        if marks.is_empty() && !back && gone == head.gone() {
            head.seen = seen;
            return Ok(());
        }
        let now = self.context.clock.now();
        let mut marked = head.latest.as_ref().map(|manifest| manifest.stale.clone()).unwrap_or_default();
        for (interval, rows, dataset) in marks {
            marked.mark(*interval, *rows, dataset, now);
        }
        let before = std::mem::replace(&mut head.seen, seen);
        if let Err(error) = self.record_look(head, marked, gone, back) {
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
        (dataset, watched): (&str, &Watched),
        splits: &[Split],
        head: &Head,
        found: &mut Found,
    ) -> Result<BTreeMap<SplitId, Offset>> {
        let known = head.seen.get(dataset);
        let is_fresh = |split: &Split| !split.finite || !is_seen(known, split);
        let unread = known.is_none() || head.has_read_nothing();
        let learns = splits.iter().filter(|split| split.finite && is_fresh(split)).count() >= WORTH_LEARNING;
        let listed: BTreeSet<&SplitId> = splits.iter().map(|split| &split.id).collect();
        let mut seen = known.cloned().unwrap_or_default();
        // What is gone comes as something new if it comes back.
        seen.retain(|id, _| listed.contains(id));
        for split in splits {
            let fresh = is_fresh(split);
            // What was not worth it while nothing was read: should the split vanish, its times say what of.
            let unlearned =
                !fresh && !unread && seen.get(&split.id).is_some_and(|offset| !SplitTimes::of(offset).is_read());
            if !fresh && !unlearned {
                continue;
            }
            if split.finite && unread && !learns {
                seen.insert(split.id.clone(), SplitTimes::of_content(split.content.clone()).offset());
                continue;
            }
            let before = seen.get(&split.id).cloned();
            // What was written anew lacks rows that it had, too.
            let rewritten = before.as_ref().filter(|_| split.finite && fresh && !unread).map(SplitTimes::of);
            let range = rewritten.and_then(|times| head.clamp(times.range()?));
            for cell in range.into_iter().flat_map(|range| self.cells_of(range)) {
                if head.has_read(cell) {
                    found.came.entry((cell, dataset.to_owned())).or_default();
                }
            }
            let judge = fresh && !unread;
            let offset = self.look_into((dataset, watched), (split, before), (head, judge, unread), found)?;
            if let Some(offset) = offset {
                seen.insert(split.id.clone(), offset);
            }
        }
        Ok(seen)
    }

    /// Reads the times of a split's rows, counts those of intervals that were read if these are to be judged, and answers
    /// how far it is seen.
    fn look_into(
        &self,
        (dataset, watched): (&str, &Watched),
        (split, before): (&Split, Option<Offset>),
        (head, judge, unread): (&Head, bool, bool),
        found: &mut Found,
    ) -> Result<Option<Offset>> {
        let from = before.clone().filter(|_| !split.finite);
        let mut counted = Counted {
            runner: self,
            head,
            dataset,
            rows: &mut found.came,
            judge,
            decode: split.finite || !unread,
            times: SplitTimes::of_content(split.content.clone()).read(),
            last: None,
        };
        let read = count(&watched.reading, &watched.source, split, from.as_ref(), &mut counted);
        let times = counted.times;
        match read {
            Ok(offset) if !split.finite => return Ok(offset.or(from)),
            Ok(_) => {}
            // It has vanished since it was listed; the next look finds it gone, if it was seen before.
            Err(_) if !is_listed(watched, split) => return Ok(before),
            Err(error) => return Err(error),
        }
        if let Some(told) = times.told() {
            found.back |= found.gone.find(dataset, &split.id, &told);
        }
        Ok(Some(times.offset()))
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
        let (seen, gone) = (head.seen.clone(), head.gone());
        self.mark(head, &marks, seen, (gone, false))
    }

    /// Marks that a run which began at a look must leave: its rows were not among those that it read.
    pub(super) fn came_after(head: &Head, look: u64) -> impl Iterator<Item = &StaleMark> {
        head.came.iter().filter(move |came| came.look > look).map(|came| &came.mark)
    }

    /// A dataset that is watched: what reads it, unless DataFusion does so itself without splits.
    async fn watch(&self, dataset: &str) -> Result<Option<Watched>> {
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
        let keeps = table.keeps();
        let source = self.catalog.source(dataset, Side::History)?;
        Ok(Some(Watched { reading: table.reading().clone(), source, keeps }))
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

/// Whether a split is still there.
fn is_listed(watched: &Watched, split: &Split) -> bool {
    // When that cannot be told, what went wrong with it says more.
    watched.source.list_splits().map_or(true, |splits| splits.iter().any(|other| other.id == split.id))
}

pub(super) fn is_seen(known: Option<&BTreeMap<SplitId, Offset>>, split: &Split) -> bool {
    let seen = known.and_then(|known| known.get(&split.id));
    seen.is_some_and(|offset| SplitTimes::of(offset).is(split.content.as_deref()))
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
