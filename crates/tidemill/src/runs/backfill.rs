//! [`Backfill`]: intervals picked by somebody, on record, so that they can be gone on with after a crash.
//!
//! **Invariant:** which intervals it has done follows from the ledger: those in a newer generation than when it began. So
//! it needs no record of its own progress.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidemill_checkpoint::{BlobStore, Ledger, Manifest, Outlook};
use tidemill_model::{Error, Interval, Kind, Result, Timestamp};
use tidemill_sql::batch::Anew;

use super::Intervals;

/// Which intervals of a range are picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Only {
    /// Those that are not done.
    Missing,
    /// Those whose run has failed.
    Failed,
    /// Those that lack rows which came after they were done.
    Stale,
    /// Those that another query has computed.
    Changed,
    /// All of them.
    All,
}

impl Only {
    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Only::Missing => "missing",
            Only::Failed => "failed",
            Only::Stale => "stale",
            Only::Changed => "changed",
            Only::All => "all",
        }
    }
}

/// A backfill as it was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Backfill {
    /// Its number; 0 while it is not on record.
    #[serde(default)]
    pub number: u64,
    /// The pipeline.
    pub pipeline: String,
    /// The range.
    pub range: Interval,
    /// Which intervals of it.
    pub only: Only,
    /// Whether the latest comes first.
    pub descending: bool,
    /// Whether they are computed although files are gone that they were computed from.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_what_is_left: bool,
    /// When it was asked for.
    pub asked_at: Timestamp,
    /// The ledger at that time.
    pub ledger: Ledger,
}

impl Backfill {
    /// Its intervals that are not done by it yet, in its order.
    #[must_use]
    pub fn left(&self, intervals: &Intervals, record: Option<&Manifest>, by: &str) -> VecDeque<(Interval, Anew)> {
        let none = Ledger::default();
        let ledger = record.map_or(&none, |record| &record.ledger);
        let begun = self.number > 0;
        let redone = |cell: Interval| begun && ledger.generation_of(cell) > self.ledger.generation_of(cell);
        let mut picked: Vec<(Interval, Anew)> = self
            .picked(intervals, record, ledger, by)
            .into_iter()
            .filter(|cell| !redone(*cell))
            .map(|cell| {
                let done = ledger.contains(cell) && matches!(self.only, Only::Stale | Only::Changed | Only::All);
                // An interval that this backfill has begun and not ended goes on where it was.
                let open = record.and_then(|record| record.runs.of(cell));
                let goes_on = begun && open.is_some_and(|open| open.begun_at >= self.asked_at);
                (cell, if done && !goes_on { Anew::All } else { Anew::Rest })
            })
            .collect();
        if self.descending {
            picked.reverse();
        }
        picked.into()
    }

    fn picked(&self, intervals: &Intervals, record: Option<&Manifest>, ledger: &Ledger, by: &str) -> Vec<Interval> {
        let cells = |range: Interval| intervals.grid.cells(range).collect::<Vec<_>>();
        let all = || cells(self.range);
        match self.only {
            Only::All => all(),
            Only::Missing => all().into_iter().filter(|cell| !ledger.contains(*cell)).collect(),
            Only::Failed => {
                let failed = record.into_iter().flat_map(|record| record.runs.iter()).filter(|run| run.failed > 0);
                failed.map(|run| run.interval).filter(|cell| inside(*cell, self.range)).collect()
            }
            Only::Stale => match record {
                Some(record) => all().into_iter().filter(|cell| record.stale.overlaps(*cell)).collect(),
                None => Vec::new(),
            },
            Only::Changed => {
                let changed = ledger.computed_otherwise(self.range, by);
                let mut found: Vec<Interval> =
                    all().into_iter().filter(|cell| changed.iter().any(|range| range.overlaps(cell))).collect();
                found.dedup();
                found
            }
        }
    }

    /// Puts it on record, so that it can be gone on with.
    ///
    /// # Errors
    /// Unavailable.
    pub fn keep(mut self, store: &Arc<dyn BlobStore>) -> Result<Backfill> {
        let listed = store.list("backfills/")?;
        let last =
            listed.iter().filter_map(|name| name.strip_prefix("backfills/")?.strip_suffix(".json")?.parse().ok()).max();
        let mut number: u64 = last.unwrap_or(0) + 1;
        loop {
            self.number = number;
            let bytes = serde_json::to_vec(&self).map_err(|e| Error::internal("a backfill is no JSON").because(e))?;
            if store.create(&name_of(number), &bytes)? {
                return Ok(self);
            }
            number += 1;
        }
    }

    /// The backfill of a number.
    ///
    /// # Errors
    /// Config, when there is none; Corrupt; Unavailable.
    pub fn of(store: &Arc<dyn BlobStore>, number: u64) -> Result<Backfill> {
        let Some(bytes) = store.get(&name_of(number))? else {
            return Err(Error::new(Kind::Config, "C116", format!("there is no backfill {number}"))
                .fact("its number is shown when it begins"));
        };
        serde_json::from_slice(&bytes).map_err(|e| {
            Error::new(
                Kind::Corrupt,
                "X062",
                format!("{} is no backfill that this version knows: {e}", name_of(number)),
            )
            .fact("ask for the same range again: what is done is not done twice with --only missing")
        })
    }
}

fn name_of(number: u64) -> String {
    format!("backfills/{number:08}.json")
}

fn inside(cell: Interval, range: Interval) -> bool {
    range.start <= cell.start && cell.end <= range.end
}

/// The range of a backfill: what was asked for, or all that is due.
///
/// # Errors
/// Config, when it lies before the pipeline's start, is not over, has no whole interval, or nothing is due.
pub fn range(
    intervals: &Intervals,
    outlook: &Outlook<'_>,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
) -> Result<Interval> {
    let usage = |message: String| Error::new(Kind::Config, "C117", message);
    let rule = intervals.rule();
    let due = outlook.due();
    let nothing = || usage(format!("no interval of `{}` is due yet", intervals.pipeline));
    let start = from.or(due.map(|due| due.start)).ok_or_else(nothing)?;
    let end = to.or(due.map(|due| due.end)).ok_or_else(nothing)?;
    if start >= end {
        return Err(usage(format!("{start} is not before {end}")));
    }
    if let Some(first) = rule.start.filter(|first| start < *first) {
        return Err(usage(format!("`{}` starts at {first}, so nothing before belongs to it", intervals.pipeline))
            .fact("move the pipeline's option `start`, and what lies after the new one is missing until it is run"));
    }
    let range = Interval { start, end };
    if let Some(last) = intervals.grid.cells(range).last()
        && due.is_none_or(|due| last.end > due.end)
    {
        let due = due.map_or_else(|| "none".to_owned(), |due| format!("that which ends at {}", due.end));
        return Err(usage(format!("{end} is later than any interval that is due"))
            .fact(format!("the last one that is due is {due}")));
    }
    if intervals.grid.count(range) == 0 {
        return Err(usage(format!("no whole interval lies between {start} and {end}"))
            .fact(format!("intervals of `{}` are {} long: name their bounds", intervals.pipeline, intervals.grid)));
    }
    Ok(range)
}
