//! [`Outlook`]: what of a pipeline's intervals is done, missing, stale or failed at an instant, and which are to be run.
//!
//! **Invariant:** missing = grid − ledger, wherever it is; all of it follows from the record, the project and the instant.
//! Ranges are counted and shown as ranges: cells are looked at one by one only where they are run.

use std::time::Duration;

use tidemill_model::{Catchup, Grid, Interval, Schedule, Timestamp};

use crate::{Manifest, OpenRun};

/// What decides when an interval is due.
#[derive(Debug, Clone, Copy)]
pub struct Rule<'a> {
    /// The pipeline, whose name decides its share of the jitter.
    pub name: &'a str,
    /// The intervals.
    pub grid: &'a Grid,
    /// When to look; without it, an interval is due when it is over.
    pub schedule: Option<&'a Schedule>,
    /// How long rows may come after their time: the largest watermark delay of what is read.
    pub delay: Duration,
    /// Within how much time the run begins.
    pub jitter: Option<Duration>,
    /// The first instant that any interval owns.
    pub start: Option<Timestamp>,
    /// No interval ends after it.
    pub end: Option<Timestamp>,
}

/// The intervals of a pipeline at an instant.
#[derive(Debug, Clone, Copy)]
pub struct Outlook<'a> {
    rule: Rule<'a>,
    record: Option<&'a Manifest>,
    now: Timestamp,
    /// From the first interval there is to the end of the last one that is due; `None` when none is.
    due: Option<Interval>,
}

/// Why an interval is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It was never done.
    Missing,
    /// Rows came after it was done.
    Stale,
    /// So many attempts have failed, and the next one is due.
    Retry(u32),
}

/// An interval to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueRun {
    /// The interval.
    pub interval: Interval,
    /// Why.
    pub why: Why,
}

impl Rule<'_> {
    /// When an interval is due.
    #[must_use]
    pub fn due_at(&self, cell: Interval) -> Timestamp {
        match self.schedule {
            Some(schedule) => schedule.due_at(cell, self.delay, self.jitter, self.name),
            None => cell.end.plus(self.delay),
        }
    }

    /// The last interval that is due at an instant, whatever the pipeline's bounds are.
    #[must_use]
    pub fn last_due(&self, now: Timestamp) -> Option<Interval> {
        let looked = match self.schedule {
            Some(schedule) => schedule.last_at_or_before(now)?,
            None => now,
        };
        let mut cell = self.grid.cell_containing(Timestamp(looked.0.saturating_sub(1)))?;
        // Delay and jitter reach back over a few intervals at most.
        while cell.end > now || self.due_at(cell) > now {
            cell = self.grid.cell_containing(Timestamp(cell.start.0.saturating_sub(1)))?;
        }
        Some(cell)
    }

    /// When the next interval after those due at an instant is due.
    #[must_use]
    pub fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        let after = self.last_due(now).map_or(now, |cell| cell.end);
        let next = self.grid.cell_containing(after)?;
        self.end.is_none_or(|end| next.end <= end).then(|| self.due_at(next))
    }

    fn first_from(&self, at: Timestamp) -> Option<Timestamp> {
        let cell = self.grid.cell_containing(at)?;
        Some(if cell.start == at { at } else { cell.end })
    }
}

impl<'a> Outlook<'a> {
    /// The intervals of a pipeline with this record, at an instant.
    #[must_use]
    pub fn new(rule: Rule<'a>, record: Option<&'a Manifest>, now: Timestamp) -> Outlook<'a> {
        let mut outlook = Outlook { rule, record, now, due: None };
        let Some(last) = rule.last_due(now) else { return outlook };
        let last = match rule.end {
            Some(end) if last.end > end => rule.grid.cell_containing(end).map(|cell| cell.start),
            _ => Some(last.end),
        };
        let begun = || {
            let done = outlook.record?.ledger.entries().first().map(|entry| entry.interval.start);
            let open = outlook.record?.runs.iter().next().map(|run| run.interval.start);
            rule.grid.cell_containing(done.into_iter().chain(open).min()?).map(|cell| cell.start)
        };
        let first = match rule.start {
            Some(start) => rule.first_from(start),
            None => begun().or_else(|| rule.last_due(now).map(|cell| cell.start)),
        };
        outlook.due = first.zip(last).filter(|(first, last)| first < last).map(|(start, end)| Interval { start, end });
        outlook
    }

    /// From the first interval there is to the end of the last one that is due.
    #[must_use]
    pub fn due(&self) -> Option<Interval> {
        self.due
    }

    /// How many intervals are due, done or not.
    #[must_use]
    pub fn count_due(&self) -> u64 {
        self.due.map_or(0, |due| self.rule.grid.count(due))
    }

    /// The ranges that are due and not done, in order, each of whole intervals.
    #[must_use]
    pub fn missing(&self) -> Vec<Interval> {
        let Some(due) = self.due else { return Vec::new() };
        let gaps = match self.record {
            Some(record) => record.ledger.missing(due),
            None => vec![due],
        };
        let mut ranges: Vec<Interval> = Vec::with_capacity(gaps.len());
        for gap in gaps {
            let Some(whole) = self.whole(gap) else { continue };
            match ranges.last_mut() {
                Some(last) if whole.start <= last.end => last.end = last.end.max(whole.end),
                _ => ranges.push(whole),
            }
        }
        ranges
    }

    /// The intervals in a range, in order.
    pub fn cells(&self, range: Interval) -> impl Iterator<Item = Interval> + use<'a> {
        self.rule.grid.cells(range)
    }

    /// How many intervals these ranges have.
    #[must_use]
    pub fn count(&self, ranges: &[Interval]) -> u64 {
        ranges.iter().map(|range| self.rule.grid.count(*range)).sum()
    }

    /// The range from the first to the last interval that has an instant in it.
    fn whole(&self, range: Interval) -> Option<Interval> {
        let start = self.rule.grid.cell_containing(range.start)?.start;
        let end = self.rule.grid.cell_containing(Timestamp(range.end.0 - 1))?.end;
        Some(Interval { start, end })
    }

    /// The intervals that are done and lack rows, as the grid has them.
    #[must_use]
    pub fn stale(&self) -> Vec<Interval> {
        let marks = self.record.iter().flat_map(|record| record.stale.iter());
        let mut cells: Vec<Interval> = marks
            .filter_map(|mark| self.whole(mark.interval))
            .flat_map(|range| self.rule.grid.cells(range).collect::<Vec<_>>())
            .collect();
        cells.dedup();
        cells
    }

    /// Runs that were given up, so that only somebody's word makes them go on.
    pub fn given_up(&self) -> impl Iterator<Item = &'a OpenRun> {
        self.record.into_iter().flat_map(|record| record.runs.iter()).filter(|run| run.is_given_up())
    }

    /// Which intervals are to be run now, the oldest first: those that are missing as far as they are caught up with,
    /// runs that failed and are tried again, and done ones that lack rows. `watched` is since when schedulers have
    /// watched the pipeline, `running` what is being run.
    #[must_use]
    pub fn to_run(&self, catchup: &Catchup, watched: Timestamp, running: &[Interval], at_most: usize) -> Vec<DueRun> {
        let is_running = |cell: Interval| running.iter().any(|running| running.overlaps(&cell));
        let open = |cell: Interval| self.record.and_then(|record| record.runs.of(cell));
        let mut found: Vec<DueRun> = Vec::new();
        let runs = self.record.iter().flat_map(|record| record.runs.iter());
        for run in runs.filter(|run| !is_running(run.interval) && !run.is_given_up()) {
            // Without a failure on record its process has died: it goes on at once.
            let due = run.failure.as_ref().and_then(|failure| failure.retry_at).unwrap_or(self.now);
            if due <= self.now {
                found.push(DueRun { interval: run.interval, why: Why::Retry(run.failed) });
            }
        }
        let stale = self.stale().into_iter().filter(|cell| !is_running(*cell) && open(*cell).is_none());
        found.extend(stale.take(at_most).map(|interval| DueRun { interval, why: Why::Stale }));
        let from = self.caught_up_from(catchup, watched);
        for range in self.missing() {
            let Some(range) = from.map(|from| Interval { start: range.start.max(from), ..range }) else { continue };
            if range.start >= range.end {
                continue;
            }
            let cells = self.rule.grid.cells(range).filter(|cell| !is_running(*cell) && open(*cell).is_none());
            found.extend(cells.take(at_most).map(|interval| DueRun { interval, why: Why::Missing }));
            if found.len() >= at_most.saturating_mul(2) {
                break;
            }
        }
        found.sort_by_key(|run| run.interval);
        found.dedup_by_key(|run| run.interval);
        found.truncate(at_most);
        found
    }

    /// The first instant of the intervals that are run by themselves.
    fn caught_up_from(&self, catchup: &Catchup, watched: Timestamp) -> Option<Timestamp> {
        let first = self.due?.start;
        let at_first = self.rule.last_due(watched);
        Some(match catchup {
            Catchup::All => first,
            Catchup::Since(at) => first.max(*at),
            Catchup::Latest => first.max(at_first.map_or(first, |cell| cell.start)),
            Catchup::None => first.max(at_first.map_or(first, |cell| cell.end)),
        })
    }

    /// When something is next to be done, if nothing else happens: an interval is due or a run is tried again.
    #[must_use]
    pub fn next(&self) -> Option<Timestamp> {
        let retries = self.record.iter().flat_map(|record| record.runs.iter());
        let retries = retries.filter_map(|run| run.failure.as_ref()?.retry_at);
        retries.chain(self.rule.next_due(self.now)).filter(|at| *at > self.now).min()
    }
}

#[cfg(test)]
mod tests;
