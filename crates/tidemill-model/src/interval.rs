//! [`Interval`]: a closed-open range of event time that one run owns.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Error, Kind, Result, Span, Timestamp};

/// `[start, end)` of event time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Interval {
    /// The first instant in it.
    pub start: Timestamp,
    /// The first instant after it.
    pub end: Timestamp,
}

impl Interval {
    /// Reads `START/PERIOD` or `START/END`: `2026-11-20T02/1 hour`, `2026-11-20T02/PT1H`, `2026-11-20/2026-11-21`.
    ///
    /// # Errors
    /// Config, when it is neither, or empty.
    pub fn parse(text: &str) -> Result<Interval> {
        let bad = || {
            Error::new(Kind::Config, "C032", format!("`{text}` is not an interval")).fact(
                "write START/PERIOD or START/END: 2026-11-20T02/PT1H, 2026-11-20T02/1 hour, 2026-11-20/2026-11-21",
            )
        };
        let (start, rest) = text.split_once('/').ok_or_else(bad)?;
        let start = Timestamp::parse(start)?;
        let end = if let Ok(end) = Timestamp::parse(rest) {
            end
        } else if let Ok(span) = Span::parse(rest) {
            start.plus(span.0)
        } else {
            let period: jiff::Span = rest.parse().map_err(|_| bad())?;
            let from = jiff::Timestamp::from_microsecond(start.0).map_err(|_| bad())?;
            let zoned = from.to_zoned(jiff::tz::TimeZone::UTC);
            Timestamp(zoned.checked_add(period).map_err(|_| bad())?.timestamp().as_microsecond())
        };
        if end <= start {
            return Err(bad().fact("the end must lie after the start"));
        }
        Ok(Interval { start, end })
    }

    /// Whether the instant lies in it.
    #[must_use]
    pub fn contains(&self, at: Timestamp) -> bool {
        self.start <= at && at < self.end
    }

    /// Whether some instant lies in both. Intervals that merely touch share none.
    #[must_use]
    pub fn overlaps(&self, other: &Interval) -> bool {
        self.intersection(other).is_some()
    }

    /// What lies in both, if anything does.
    #[must_use]
    pub fn intersection(&self, other: &Interval) -> Option<Interval> {
        let both = Interval { start: self.start.max(other.start), end: self.end.min(other.end) };
        (both.start < both.end).then_some(both)
    }

    /// The two as one, if nothing lies between them.
    #[must_use]
    pub fn union_touching(&self, other: &Interval) -> Option<Interval> {
        let touching = self.start <= other.end && other.start <= self.end;
        touching.then(|| Interval { start: self.start.min(other.start), end: self.end.max(other.end) })
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(start: i64, end: i64) -> Interval {
        Interval { start: Timestamp(start), end: Timestamp(end) }
    }

    #[test]
    fn two_intervals_overlap_touch_or_lie_apart() {
        let cases = [
            // other, intersection, union
            (span(0, 10), None, Some(span(0, 20))),
            (span(5, 15), Some(span(10, 15)), Some(span(5, 20))),
            (span(12, 13), Some(span(12, 13)), Some(span(10, 20))),
            (span(10, 20), Some(span(10, 20)), Some(span(10, 20))),
            (span(0, 30), Some(span(10, 20)), Some(span(0, 30))),
            (span(20, 30), None, Some(span(10, 30))),
            (span(21, 30), None, None),
            (span(0, 9), None, None),
        ];
        let this = span(10, 20);
        for (other, intersection, union) in cases {
            for (a, b) in [(this, other), (other, this)] {
                assert_eq!(a.intersection(&b), intersection, "{a} {b}");
                assert_eq!(a.overlaps(&b), intersection.is_some(), "{a} {b}");
                assert_eq!(a.union_touching(&b), union, "{a} {b}");
            }
        }
    }
}
