//! [`Ledger`]: the intervals done, as ranges.
//!
//! **Invariant:** entries are in order, do not overlap, and two that touch differ in generation or in what computed them;
//! so the ledger of a year of hours done once is one entry.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidemill_model::{Generation, Interval};

/// The intervals that are done and how often each was restated.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ledger {
    entries: Vec<LedgerEntry>,
}

/// A range that is done, all of it in one generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// The range.
    pub interval: Interval,
    /// Which version of its rows stands.
    pub generation: Generation,
    /// What computed it: the fingerprint of the pipeline's steps. Of ledgers that do not say it, empty.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub by: Arc<str>,
}

impl Ledger {
    /// Records that the interval is done in this generation, computed by what has this fingerprint, over whatever stood
    /// there.
    pub fn record(&mut self, interval: Interval, generation: Generation, by: &str) {
        let mut entries = Vec::with_capacity(self.entries.len() + 2);
        for entry in self.entries.drain(..) {
            let Interval { start, end } = entry.interval;
            if start < interval.start {
                let end = end.min(interval.start);
                entries.push(LedgerEntry { interval: Interval { start, end }, ..entry.clone() });
            }
            if end > interval.end {
                let start = start.max(interval.end);
                entries.push(LedgerEntry { interval: Interval { start, end }, ..entry });
            }
        }
        entries.push(LedgerEntry { interval, generation, by: Arc::from(by) });
        entries.sort_unstable_by_key(|entry| entry.interval.start);
        for entry in entries {
            match self.entries.last_mut() {
                Some(last)
                    if last.interval.end == entry.interval.start
                        && (last.generation, &last.by) == (entry.generation, &entry.by) =>
                {
                    last.interval.end = entry.interval.end;
                }
                _ => self.entries.push(entry),
            }
        }
    }

    /// Whether every instant of the interval is done.
    #[must_use]
    pub fn contains(&self, interval: Interval) -> bool {
        self.missing(interval).is_empty()
    }

    /// The greatest generation of any part of the interval; `None` when nothing of it was ever done. A restatement
    /// writes the next one.
    #[must_use]
    pub fn generation_of(&self, interval: Interval) -> Option<Generation> {
        self.overlapping(interval).map(|entry| entry.generation).max()
    }

    /// What computed the interval, if one thing computed all of it.
    #[must_use]
    pub fn by(&self, interval: Interval) -> Option<&str> {
        let mut by = self.overlapping(interval).map(|entry| &*entry.by);
        let first = by.next()?;
        (by.all(|other| other == first) && self.contains(interval)).then_some(first)
    }

    /// The parts of `within` that are not done, in order.
    #[must_use]
    pub fn missing(&self, within: Interval) -> Vec<Interval> {
        let mut gaps = Vec::new();
        let mut from = within.start;
        for entry in self.overlapping(within) {
            if from < entry.interval.start {
                gaps.push(Interval { start: from, end: entry.interval.start });
            }
            from = entry.interval.end;
        }
        if from < within.end {
            gaps.push(Interval { start: from, end: within.end });
        }
        gaps
    }

    /// The parts of `within` that were computed by something else than what has this fingerprint, in order.
    #[must_use]
    pub fn computed_otherwise(&self, within: Interval, by: &str) -> Vec<Interval> {
        let others = self.overlapping(within).filter(|entry| !entry.by.is_empty() && &*entry.by != by);
        let mut parts: Vec<Interval> = Vec::new();
        for entry in others {
            let part =
                Interval { start: entry.interval.start.max(within.start), end: entry.interval.end.min(within.end) };
            match parts.last_mut() {
                Some(last) if last.end == part.start => last.end = part.end,
                _ => parts.push(part),
            }
        }
        parts
    }

    /// All ranges, in order.
    #[must_use]
    pub fn entries(&self) -> &[LedgerEntry] {
        &self.entries
    }

    fn overlapping(&self, interval: Interval) -> impl Iterator<Item = &LedgerEntry> {
        let first = self.entries.partition_point(|entry| entry.interval.end <= interval.start);
        self.entries.iter().skip(first).take_while(move |entry| entry.interval.start < interval.end)
    }
}

#[cfg(test)]
mod tests {
    use tidemill_model::{Generation, Interval, Timestamp};

    use super::Ledger;

    fn interval((start, end): (i64, i64)) -> Interval {
        Interval { start: Timestamp(start), end: Timestamp(end) }
    }

    /// Records (start, end, generation) in turn.
    fn ledger(records: &[(i64, i64, u64)]) -> Ledger {
        let mut ledger = Ledger::default();
        for &(start, end, generation) in records {
            ledger.record(interval((start, end)), Generation(generation), "q");
        }
        ledger
    }

    fn entries(ledger: &Ledger) -> Vec<(i64, i64, u64)> {
        ledger.entries().iter().map(|e| (e.interval.start.0, e.interval.end.0, e.generation.0)).collect()
    }

    /// What is recorded, and the ranges that stand then; each range is (start, end, generation).
    type Case<'a> = (&'a [(i64, i64, u64)], &'a [(i64, i64, u64)]);

    #[test]
    fn ranges_coalesce_and_split() {
        let cases: &[Case<'_>] = &[
            (&[(0, 10, 1)], &[(0, 10, 1)]),
            (&[(0, 10, 1), (10, 20, 1), (20, 30, 1)], &[(0, 30, 1)]),
            (&[(20, 30, 1), (0, 10, 1), (10, 20, 1)], &[(0, 30, 1)]),
            (&[(0, 10, 1), (20, 30, 1)], &[(0, 10, 1), (20, 30, 1)]),
            (&[(0, 10, 1), (10, 20, 2)], &[(0, 10, 1), (10, 20, 2)]),
            (&[(0, 30, 1), (10, 20, 2)], &[(0, 10, 1), (10, 20, 2), (20, 30, 1)]),
            (&[(0, 30, 1), (10, 20, 2), (10, 20, 1)], &[(0, 30, 1)]),
            (&[(0, 10, 1), (20, 30, 1), (5, 25, 2)], &[(0, 5, 1), (5, 25, 2), (25, 30, 1)]),
            (&[(10, 20, 1), (0, 30, 2)], &[(0, 30, 2)]),
            (&[(0, 10, 1), (0, 10, 1)], &[(0, 10, 1)]),
        ];
        for (records, expected) in cases {
            assert_eq!(entries(&ledger(records)), *expected, "{records:?}");
        }
    }

    #[test]
    fn answers_about_an_interval() {
        let done = ledger(&[(0, 10, 1), (10, 20, 3), (30, 40, 2)]);
        /// Interval, contains, generation, missing.
        type Answer<'a> = ((i64, i64), bool, Option<u64>, &'a [(i64, i64)]);
        let cases: &[Answer<'_>] = &[
            ((0, 20), true, Some(3), &[]),
            ((2, 5), true, Some(1), &[]),
            ((15, 35), false, Some(3), &[(20, 30)]),
            ((20, 30), false, None, &[(20, 30)]),
            ((35, 50), false, Some(2), &[(40, 50)]),
            ((-5, 45), false, Some(3), &[(-5, 0), (20, 30), (40, 45)]),
            ((50, 60), false, None, &[(50, 60)]),
        ];
        for &(of, contains, generation, missing) in cases {
            assert_eq!(done.contains(interval(of)), contains, "{of:?}");
            assert_eq!(done.generation_of(interval(of)).map(|g| g.0), generation, "{of:?}");
            let gaps: Vec<(i64, i64)> = done.missing(interval(of)).iter().map(|i| (i.start.0, i.end.0)).collect();
            assert_eq!(gaps, missing, "{of:?}");
        }
    }

    #[test]
    fn what_another_query_computed_is_told() {
        let mut done = ledger(&[(0, 10, 1), (20, 30, 1)]);
        done.record(interval((30, 40)), Generation(1), "other");
        done.record(interval((40, 50)), Generation(2), "third");
        assert_eq!(entries(&done), [(0, 10, 1), (20, 30, 1), (30, 40, 1), (40, 50, 2)]);
        assert_eq!(done.computed_otherwise(interval((0, 45)), "q"), [interval((30, 45))]);
        assert_eq!(done.computed_otherwise(interval((0, 99)), "third"), [interval((0, 10)), interval((20, 40))]);
    }

    #[test]
    fn survives_being_written() {
        let done = ledger(&[(0, 10, 1), (10, 20, 3)]);
        let text = serde_json::to_string(&done).expect("writes");
        assert_eq!(serde_json::from_str::<Ledger>(&text).expect("reads"), done);
    }
}
