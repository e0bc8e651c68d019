//! [`Stale`]: intervals that are done and lack rows that came after.
//!
//! **Invariant:** a mark goes away only in the manifest of a run that read its interval again.

use serde::{Deserialize, Serialize};
use tidemill_model::{Interval, Timestamp};

/// The marks of a pipeline, in the order of their intervals, which do not overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stale(Vec<StaleMark>);

/// An interval whose rows do not stand for all that was read since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaleMark {
    /// The interval.
    pub interval: Interval,
    /// How many rows came after it was done.
    pub rows: u64,
    /// When the first of them was seen.
    pub since: Timestamp,
    /// The datasets that they came in.
    pub datasets: Vec<String>,
}

impl Stale {
    /// All marks.
    pub fn iter(&self) -> impl Iterator<Item = &StaleMark> {
        self.0.iter()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Marks an interval once more.
    pub fn mark(&mut self, interval: Interval, rows: u64, dataset: &str, now: Timestamp) {
        let mut mark = StaleMark { interval, rows, since: now, datasets: vec![dataset.to_owned()] };
        self.0.retain(|other| {
            let apart = other.interval.end <= interval.start || interval.end <= other.interval.start;
            if !apart {
                mark.interval.start = mark.interval.start.min(other.interval.start);
                mark.interval.end = mark.interval.end.max(other.interval.end);
                mark.rows += other.rows;
                mark.since = mark.since.min(other.since);
                mark.datasets.extend(other.datasets.iter().cloned());
            }
            apart
        });
        mark.datasets.sort_unstable();
        mark.datasets.dedup();
        self.0.push(mark);
        self.0.sort_unstable_by_key(|mark| mark.interval);
    }

    /// Takes away the marks of what lies within an interval that was read again; a mark that reaches beyond stays for
    /// the part that does.
    pub fn clear(&mut self, interval: Interval) {
        let mut left = Vec::with_capacity(self.0.len());
        for mark in self.0.drain(..) {
            let Interval { start, end } = mark.interval;
            if start < interval.start {
                let end = end.min(interval.start);
                left.push(StaleMark { interval: Interval { start, end }, ..mark.clone() });
            }
            if end > interval.end {
                let start = start.max(interval.end);
                left.push(StaleMark { interval: Interval { start, end }, ..mark });
            }
        }
        self.0 = left;
    }

    /// Whether any part of the interval is marked.
    #[must_use]
    pub fn overlaps(&self, interval: Interval) -> bool {
        self.0.iter().any(|mark| mark.interval.start < interval.end && interval.start < mark.interval.end)
    }
}

#[cfg(test)]
mod tests {
    use super::Stale;
    use tidemill_model::{Interval, Timestamp};

    fn interval(start: i64, end: i64) -> Interval {
        Interval { start: Timestamp(start), end: Timestamp(end) }
    }

    fn marks(stale: &Stale) -> Vec<(i64, i64, u64)> {
        stale.iter().map(|m| (m.interval.start.0, m.interval.end.0, m.rows)).collect()
    }

    #[test]
    fn marks_add_up_and_go_with_what_was_read_again() {
        let mut stale = Stale::default();
        stale.mark(interval(10, 20), 3, "raw", Timestamp(5));
        stale.mark(interval(30, 40), 1, "raw", Timestamp(6));
        stale.mark(interval(10, 20), 4, "rates", Timestamp(7));
        assert_eq!(marks(&stale), [(10, 20, 7), (30, 40, 1)]);
        assert_eq!(stale.iter().next().expect("one").datasets, ["rates", "raw"]);
        assert!(stale.overlaps(interval(19, 21)) && !stale.overlaps(interval(20, 30)));
        stale.clear(interval(0, 15));
        assert_eq!(marks(&stale), [(15, 20, 7), (30, 40, 1)]);
        stale.clear(interval(0, 50));
        assert!(stale.is_empty());
    }
}
