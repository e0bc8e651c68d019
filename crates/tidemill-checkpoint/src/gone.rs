//! [`Gone`]: splits that were read and have vanished since, and from when to when their rows are: an interval that needs
//! them cannot be computed again as it was.
//!
//! **Invariant:** it takes as much room as there are stretches of time, and not more for each split beyond the newest few
//! hundred. What is gone stays on record until it is back, or until what it is needed for was computed without it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidemill_model::{Epoch, Interval, SplitId};

/// How many splits of a dataset are kept each by itself, so that one that comes back is known again.
const EACH: usize = 200;

/// What is gone of each dataset of a pipeline.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Gone(BTreeMap<String, OfDataset>);

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct OfDataset {
    /// The newest, each by itself, the oldest of them first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    splits: Vec<GoneSplit>,
    /// What those before them covered, in order; no two touch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ranges: Vec<GoneRange>,
}

/// A split that has vanished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoneSplit {
    /// Its name.
    pub split: SplitId,
    /// What its rows are known again by; `None` when they were never looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<String>,
    /// From when to when its rows are, as far as they are needed.
    pub ranges: Vec<Interval>,
    /// The epoch since which it is on record.
    pub since: Epoch,
}

/// A stretch of time with rows that are gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoneRange {
    /// The stretch.
    pub interval: Interval,
    /// How many splits had rows in it; of a part of a longer stretch, in all of that.
    pub splits: u64,
    /// One of them.
    pub example: SplitId,
    /// The newest epoch in which one of them was put on record.
    pub since: Epoch,
}

impl Gone {
    /// Whether nothing is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether nothing of a dataset is.
    #[must_use]
    pub fn has_all_of(&self, dataset: &str) -> bool {
        !self.0.contains_key(dataset)
    }

    /// The datasets of which something is gone.
    pub fn datasets(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// What is gone of a dataset, in order; no two touch.
    #[must_use]
    pub fn ranges_of(&self, dataset: &str) -> Vec<GoneRange> {
        self.0.get(dataset).map(OfDataset::coalesced).unwrap_or_default()
    }

    /// What is gone of a part of a dataset, as one stretch within it.
    #[must_use]
    pub fn within(&self, dataset: &str, part: Interval) -> Option<GoneRange> {
        let of = self.0.get(dataset)?;
        let inside = |range: GoneRange| Some(GoneRange { interval: range.interval.intersection(&part)?, ..range });
        let splits = of.splits.iter().filter_map(|split| split.as_ranges().filter_map(inside).reduce(GoneRange::hull));
        let ranges = of.ranges.iter().cloned().filter_map(inside);
        ranges.chain(splits).reduce(|one, other| GoneRange { splits: one.splits + other.splits, ..one.hull(other) })
    }

    /// Splits of a dataset have vanished.
    pub fn lose(&mut self, dataset: &str, mut splits: Vec<GoneSplit>) {
        splits.retain(|split| !split.ranges.is_empty());
        if splits.is_empty() {
            return;
        }
        splits.sort_by(|a, b| (&a.ranges, &a.split).cmp(&(&b.ranges, &b.split)));
        let of = self.0.entry(dataset.to_owned()).or_default();
        of.splits.extend(splits);
        let excess = of.splits.len().saturating_sub(EACH);
        for old in of.splits.drain(..excess) {
            of.ranges.extend(old.as_ranges());
        }
        if excess > 0 {
            of.ranges = coalesce(std::mem::take(&mut of.ranges));
        }
    }

    /// A split is there whose rows are told by this; whether it was gone.
    pub fn find(&mut self, dataset: &str, split: &SplitId, told: &str) -> bool {
        let Some(of) = self.0.get_mut(dataset) else { return false };
        let before = of.splits.len();
        of.splits.retain(|gone| gone.split != *split || gone.told.as_deref() != Some(told));
        let found = of.splits.len() < before;
        self.clean();
        found
    }

    /// A part of a dataset was computed without what was gone of it in an epoch: of what is on record since then at the
    /// latest, nothing is needed for that part any more.
    pub fn forget(&mut self, dataset: &str, part: Interval, known: Epoch) {
        let Some(of) = self.0.get_mut(dataset) else { return };
        for split in of.splits.iter_mut().filter(|split| split.since <= known) {
            split.ranges = split.ranges.iter().flat_map(|range| beside(*range, part)).collect();
        }
        of.splits.retain(|split| !split.ranges.is_empty());
        let ranges = std::mem::take(&mut of.ranges).into_iter().flat_map(|range| {
            let parts = if range.since <= known { beside(range.interval, part) } else { vec![range.interval] };
            parts.into_iter().map(move |interval| GoneRange { interval, ..range.clone() })
        });
        of.ranges = ranges.collect();
        self.clean();
    }

    fn clean(&mut self) {
        self.0.retain(|_, of| !of.splits.is_empty() || !of.ranges.is_empty());
    }
}

impl OfDataset {
    fn coalesced(&self) -> Vec<GoneRange> {
        let splits = self.splits.iter().flat_map(GoneSplit::as_ranges);
        coalesce(self.ranges.iter().cloned().chain(splits).collect())
    }
}

impl GoneSplit {
    fn as_ranges(&self) -> impl Iterator<Item = GoneRange> + '_ {
        let range = |interval: &Interval| GoneRange {
            interval: *interval,
            splits: 1,
            example: self.split.clone(),
            since: self.since,
        };
        self.ranges.iter().map(range)
    }
}

impl GoneRange {
    /// From the earlier begin to the later end; splits are not added up.
    fn hull(self, other: GoneRange) -> GoneRange {
        let (start, end) = (self.interval.start.min(other.interval.start), self.interval.end.max(other.interval.end));
        GoneRange { interval: Interval { start, end }, since: self.since.max(other.since), ..self }
    }
}

/// Ranges in order, with those that touch as one.
fn coalesce(mut ranges: Vec<GoneRange>) -> Vec<GoneRange> {
    ranges.sort_by(|a, b| (a.interval, &a.example).cmp(&(b.interval, &b.example)));
    let mut found: Vec<GoneRange> = Vec::new();
    for range in ranges {
        match found.last_mut() {
            Some(last) if last.interval.end >= range.interval.start => {
                last.splits += range.splits;
                *last = last.clone().hull(range);
            }
            _ => found.push(range),
        }
    }
    found
}

/// What of a range lies beside a part of it.
fn beside(range: Interval, part: Interval) -> Vec<Interval> {
    let before = Interval { start: range.start, end: range.end.min(part.start) };
    let after = Interval { start: range.start.max(part.end), end: range.end };
    [before, after].into_iter().filter(|rest| rest.start < rest.end).collect()
}

#[cfg(test)]
mod tests {
    use super::{Gone, GoneSplit};
    use tidemill_model::{Epoch, Interval, SplitId, Timestamp};

    fn interval(start: i64, end: i64) -> Interval {
        Interval { start: Timestamp(start), end: Timestamp(end) }
    }

    fn split(name: &str, ranges: &[(i64, i64)], since: u64) -> GoneSplit {
        let ranges = ranges.iter().map(|(start, end)| interval(*start, *end)).collect();
        GoneSplit { split: SplitId::new(name), told: Some(format!("rows of {name}")), ranges, since: Epoch(since) }
    }

    /// (start, end, splits) of each stretch.
    fn shown(gone: &Gone) -> Vec<(i64, i64, u64)> {
        gone.ranges_of("raw").iter().map(|r| (r.interval.start.0, r.interval.end.0, r.splits)).collect()
    }

    #[test]
    fn stretches_that_touch_are_one_and_a_split_that_is_back_leaves_its_own() {
        let mut gone = Gone::default();
        gone.lose("raw", vec![split("b", &[(10, 20)], 1), split("a", &[(0, 10)], 1), split("c", &[(30, 40)], 1)]);
        gone.lose("raw", vec![split("nothing", &[], 1)]);
        assert_eq!(shown(&gone), [(0, 20, 2), (30, 40, 1)]);
        let found = gone.within("raw", interval(5, 35)).expect("is gone");
        assert_eq!((found.interval, found.splits, found.example.as_str()), (interval(5, 35), 3, "a"));
        assert!(gone.within("raw", interval(20, 30)).is_none() && gone.within("other", interval(0, 99)).is_none());
        assert!(!gone.find("raw", &SplitId::new("b"), "other rows"));
        assert!(gone.find("raw", &SplitId::new("b"), "rows of b"));
        assert_eq!(shown(&gone), [(0, 10, 1), (30, 40, 1)]);
        let text = serde_json::to_string(&gone).expect("writes");
        assert_eq!(serde_json::from_str::<Gone>(&text).expect("reads"), gone);
        assert!(gone.find("raw", &SplitId::new("a"), "rows of a") && gone.find("raw", &SplitId::new("c"), "rows of c"));
        assert!(gone.is_empty() && gone.has_all_of("raw"));
    }

    #[test]
    fn what_was_computed_without_it_is_forgotten_unless_it_vanished_after() {
        let mut gone = Gone::default();
        gone.lose("raw", vec![split("a", &[(0, 30)], 3), split("b", &[(10, 20)], 5)]);
        gone.forget("raw", interval(10, 20), Epoch(3));
        assert_eq!(shown(&gone), [(0, 30, 3)], "a in both its rests, and b");
        gone.forget("raw", interval(10, 20), Epoch(5));
        assert_eq!(shown(&gone), [(0, 10, 1), (20, 30, 1)]);
        assert!(gone.find("raw", &SplitId::new("a"), "rows of a"));
        assert!(gone.is_empty());
    }

    #[test]
    fn thousands_take_little_room() {
        let mut gone = Gone::default();
        let all: Vec<GoneSplit> = (0..5_000).map(|n| split(&format!("{n:05}"), &[(n * 10, n * 10 + 10)], 1)).collect();
        for day in all.chunks(24) {
            gone.lose("raw", day.to_vec());
        }
        assert_eq!(shown(&gone), [(0, 50_000, 5_000)]);
        let bytes = serde_json::to_vec(&gone).expect("writes").len();
        assert!(bytes < 32 << 10, "{bytes}");
        // What is old is a stretch alone; what is newer is known again.
        assert!(!gone.find("raw", &SplitId::new("00007"), "rows of 00007"));
        assert!(gone.find("raw", &SplitId::new("04990"), "rows of 04990"));
        assert_eq!(shown(&gone), [(0, 49_900, 4_990), (49_910, 50_000, 9)]);
        gone.forget("raw", interval(70, 80), Epoch(1));
        assert_eq!(shown(&gone)[..2], [(0, 70, 4_800), (80, 49_900, 4_990)], "of parts the whole number is told");
    }
}
