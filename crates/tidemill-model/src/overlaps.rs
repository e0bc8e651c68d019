//! [`Overlaps`]: of many intervals, how many have an instant of a stretch of time.
//!
//! **Invariant:** asking takes the logarithm of their number, so that years of intervals are weighed against thousands of
//! files at once.

use crate::{Interval, Timestamp};

/// Many intervals, of which some may overlap.
#[derive(Debug, Clone, Default)]
pub struct Overlaps {
    /// In order, and not in that of `ends`.
    starts: Vec<Timestamp>,
    ends: Vec<Timestamp>,
}

impl Overlaps {
    /// These intervals, in any order.
    #[must_use]
    pub fn of(intervals: impl IntoIterator<Item = Interval>) -> Overlaps {
        let (mut starts, mut ends): (Vec<_>, Vec<_>) =
            intervals.into_iter().map(|interval| (interval.start, interval.end)).unzip();
        starts.sort_unstable();
        ends.sort_unstable();
        Overlaps { starts, ends }
    }

    /// How many they are.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.starts.len() as u64
    }

    /// How many of them have an instant of those from `first` to `last`, both included.
    #[must_use]
    pub fn with(&self, first: Timestamp, last: Timestamp) -> u64 {
        let begun = self.starts.partition_point(|start| *start <= last);
        // Whatever is over by the first instant has begun by the last one, and is among those counted above.
        let over = self.ends.partition_point(|end| *end <= first);
        begun.saturating_sub(over) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(start: i64, end: i64) -> Interval {
        Interval { start: Timestamp(start), end: Timestamp(end) }
    }

    fn check(intervals: &[Interval], stretches: &[(i64, i64)]) {
        let overlaps = Overlaps::of(intervals.iter().copied());
        assert_eq!(overlaps.all(), intervals.len() as u64);
        for (first, last) in stretches {
            let one_by_one = intervals.iter().filter(|i| i.start.0 <= *last && *first < i.end.0).count();
            assert_eq!(overlaps.with(Timestamp(*first), Timestamp(*last)), one_by_one as u64, "{first} to {last}");
        }
    }

    #[test]
    fn ends_do_not_belong_to_an_interval_and_both_ends_of_a_stretch_do() {
        let hours = [span(0, 10), span(10, 20), span(30, 40)];
        let counted = |first, last| Overlaps::of(hours).with(Timestamp(first), Timestamp(last));
        assert_eq!([counted(9, 9), counted(9, 10), counted(10, 10), counted(20, 29)], [1, 2, 1, 0]);
        assert_eq!([counted(-5, -1), counted(-5, 0), counted(39, 50), counted(40, 50)], [0, 1, 1, 0]);
        assert_eq!(counted(i64::MIN, i64::MAX), 3, "a stretch without bounds is in all of them");
        assert_eq!(Overlaps::default().with(Timestamp(0), Timestamp(1)), 0);
    }

    #[test]
    fn it_counts_as_looking_at_each_does_whatever_their_order_and_lengths() {
        let mut state = 7_u64;
        let mut draw = |below: i64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            i64::try_from(state >> 33).unwrap_or(0) % below
        };
        for _ in 0..200 {
            let intervals: Vec<Interval> = (0..draw(30))
                .map(|_| {
                    let start = draw(60);
                    span(start, start + 1 + draw(25))
                })
                .collect();
            let stretches: Vec<(i64, i64)> = (0..20)
                .map(|_| {
                    let first = draw(90) - 5;
                    (first, first + draw(30))
                })
                .collect();
            check(&intervals, &stretches);
        }
        // All that there was before an end, as a result over all time reads it.
        check(&[span(i64::MIN, 5), span(i64::MIN, 9)], &[(0, 3), (5, 6), (9, 20), (i64::MIN, i64::MAX)]);
    }
}
