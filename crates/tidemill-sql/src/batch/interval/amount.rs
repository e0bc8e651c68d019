//! [`amount`]: how much of one dataset runs would read, split by split.
//!
//! **Invariant:** a split is counted where a run would read it: where a scan leaves it out, and where the first look reads
//! it to learn its times, follows from the same rules as there.

use std::collections::{BTreeMap, BTreeSet};

use tidemill_checkpoint::Manifest;
use tidemill_model::{Offset, Overlaps, Result, SplitId, Timestamp};
use tidemill_runtime::Split;

use super::super::seen::SplitTimes;
use super::late::{WORTH_LEARNING, is_seen};
use crate::catalog::{Catalog, Side};

/// How much of a dataset is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many splits of it.
    pub splits: u64,
    /// How many of them do not say how large they are.
    pub unsized_splits: u64,
    /// How many of them the first run looks at to learn from when to when their rows are: until then any run may have to
    /// read them.
    pub new_splits: u64,
    /// How often one of them is read at least: once by each scan of each run that may find rows in it.
    pub least_reads: u64,
    /// The same at most.
    pub most_reads: u64,
    /// How many bytes are read at least, those of a split as often as it is read.
    pub least_bytes: u64,
    /// The same at most.
    pub most_bytes: u64,
}

/// What one scan of all runs looks at.
#[derive(Debug)]
pub(super) struct Share {
    /// In how many runs it is made.
    pub(super) runs: u64,
    /// The times that it looks at, one interval for each run; `None` for all rows.
    pub(super) times: Option<Overlaps>,
    /// How often a run makes it at least, to the end of what it reads.
    pub(super) least: u64,
    /// How often at most.
    pub(super) most: u64,
}

/// What is known of the times of a split's rows.
struct Known {
    first: Timestamp,
    last: Timestamp,
    /// Whether no more is known when the split is to be read.
    surely: bool,
}

/// How much of a dataset these scans read. `watched` says whether its late rows are looked for.
pub(super) fn amount(
    catalog: &Catalog,
    dataset: &str,
    watched: bool,
    record: Option<&Manifest>,
    shares: &[Share],
) -> Result<Amount> {
    let source = || catalog.source(dataset, Side::History)?.list_splits();
    let (splits, is_table) = match catalog.files(dataset, Side::History)? {
        Some(Some(files)) => (files, true),
        Some(None) => (source()?, true),
        None => (source()?, false),
    };
    let changes = catalog.changes(dataset, Side::History)?.is_some();
    let timed = catalog.dataset(dataset)?.watermark.is_some() && !changes;
    let looked = match (watched && timed, is_table) {
        (false, _) => Vec::new(),
        (true, false) => splits.clone(),
        // A table that cannot be read as a stream is not looked through for late rows.
        (true, true) => source().unwrap_or_default(),
    };
    let reading = Reading::of(dataset, record, &looked);
    // Of columns only some may be read, and of their files only parts.
    let in_full = catalog.spec(dataset, Side::History)?.format.is_some();
    let mut amount = Amount::default();
    for split in &splits {
        let known = if timed { reading.times(split, is_table) } else { Known::nothing() };
        let (mut least, mut most) = reading.looks(split);
        for share in shares {
            let runs = match share.times.as_ref().filter(|_| timed) {
                Some(times) => times.with(known.first, known.last),
                None => share.runs,
            };
            most += runs * share.most;
            least += if known.surely { runs * share.least } else { 0 };
        }
        if most == 0 {
            continue;
        }
        let least = if in_full { least } else { 0 };
        amount.splits += 1;
        amount.new_splits += u64::from(!known.surely);
        amount.least_reads += least;
        amount.most_reads += most;
        let Some(bytes) = split.bytes else {
            amount.unsized_splits += 1;
            continue;
        };
        amount.least_bytes = amount.least_bytes.saturating_add(bytes.saturating_mul(least));
        amount.most_bytes = amount.most_bytes.saturating_add(bytes.saturating_mul(most));
    }
    Ok(amount)
}

impl Known {
    fn nothing() -> Known {
        Known { first: Timestamp(i64::MIN), last: Timestamp(i64::MAX), surely: true }
    }
}

/// What looks have read of a dataset, and what the next one will.
struct Reading<'a> {
    seen: Option<&'a BTreeMap<SplitId, Offset>>,
    /// The finite splits that the first look of the runs reads.
    learned: BTreeSet<&'a SplitId>,
    /// Whether there is a look at all.
    looks: bool,
}

impl<'a> Reading<'a> {
    fn of(dataset: &str, record: Option<&'a Manifest>, looked: &'a [Split]) -> Reading<'a> {
        let seen = record.and_then(|record| record.seen.get(dataset));
        let nothing_read = record
            .is_none_or(|record| record.ledger.entries().is_empty() && record.runs.iter().all(|r| r.steps.is_empty()));
        let fresh: Vec<&Split> = looked.iter().filter(|split| split.finite && !is_seen(seen, split)).collect();
        let learns = fresh.len() >= WORTH_LEARNING || !(seen.is_none() || nothing_read);
        let learned = fresh.into_iter().filter(|_| learns).map(|split| &split.id).collect();
        Reading { seen, learned, looks: !looked.is_empty() }
    }

    /// How often the look reads a split, at least and at most.
    fn looks(&self, split: &Split) -> (u64, u64) {
        match split.finite {
            _ if !self.looks => (0, 0),
            true => (u64::from(self.learned.contains(&split.id)), u64::from(self.learned.contains(&split.id))),
            // What came since the last look is read of a split that grows.
            false => (u64::from(self.seen.is_none_or(|seen| !seen.contains_key(&split.id))), 1),
        }
    }

    /// From when to when the rows of a split are.
    fn times(&self, split: &Split, is_table: bool) -> Known {
        let least = split.min_event_time.map(Timestamp);
        let most = split.max_event_time.map(Timestamp);
        let mut known = Known::nothing();
        known.first = least.unwrap_or(known.first);
        known.last = most.unwrap_or(known.last);
        if is_table || !split.finite {
            return known;
        }
        known.surely = !self.learned.contains(&split.id);
        let seen = self.seen.filter(|_| is_seen(self.seen, split)).and_then(|seen| seen.get(&split.id));
        if let Some((first, last)) = seen.and_then(|offset| SplitTimes::of(offset).range()) {
            known.first = known.first.max(first);
            known.last = known.last.min(last);
        }
        known
    }
}
