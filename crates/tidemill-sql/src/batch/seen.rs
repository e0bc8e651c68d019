//! [`SplitTimes`]: from when to when the rows of a finite split are, as the record of what was seen has it.
//!
//! **Invariant:** a split whose times are not known, or that has no row with a time, is read by every run.

use tidemill_model::{Interval, Offset, Timestamp};

/// From when to when the rows of a split are, and what its content was told by.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct SplitTimes {
    times: Option<(Timestamp, Timestamp)>,
    content: Option<String>,
}

impl SplitTimes {
    /// Nothing is known but its content.
    pub(super) fn of_content(content: Option<String>) -> SplitTimes {
        SplitTimes { times: None, content }
    }

    /// There is a row of this instant.
    pub(super) fn take(&mut self, at: Timestamp) {
        self.times = Some(self.times.map_or((at, at), |(first, last)| (first.min(at), last.max(at))));
    }

    /// As it is kept: a finite split is seen as a whole, so its offset says this instead.
    pub(super) fn offset(&self) -> Offset {
        let times = self.times.map_or_else(|| "- -".to_owned(), |(first, last)| format!("{} {}", first.0, last.0));
        Offset(format!("whole {times} {}", self.content.as_deref().unwrap_or_default()).trim_end().to_owned())
    }

    pub(super) fn of(offset: &Offset) -> SplitTimes {
        let mut parts = offset.0.split(' ').skip(1);
        let mut time = || parts.next()?.parse().ok().map(Timestamp);
        let times = (time(), time());
        SplitTimes { times: times.0.zip(times.1), content: parts.next().map(str::to_owned) }
    }

    /// From when to when, if that is known.
    pub(super) fn range(&self) -> Option<(Timestamp, Timestamp)> {
        self.times
    }

    /// Whether it is still what was seen.
    pub(super) fn is(&self, content: Option<&str>) -> bool {
        self.content.as_deref() == content
    }

    /// Whether the split may have rows of the interval.
    pub(super) fn may_have(&self, interval: Interval) -> bool {
        self.times.is_none_or(|(first, last)| first < interval.end && interval.start <= last)
    }
}

#[cfg(test)]
mod tests {
    use super::SplitTimes;
    use tidemill_model::{Interval, Timestamp};

    #[test]
    fn times_are_kept_and_leave_splits_out() {
        let mut times = SplitTimes::of_content(Some("a1".to_owned()));
        assert!(SplitTimes::of(&times.offset()).is(Some("a1")) && !times.is(None));
        assert!(SplitTimes::of(&SplitTimes::default().offset()).is(None));
        let interval = |start, end| Interval { start: Timestamp(start), end: Timestamp(end) };
        assert!(SplitTimes::of(&times.offset()).may_have(interval(0, 1)), "what is not known is read");
        for at in [7, -3, 5] {
            times.take(Timestamp(at));
        }
        let kept = SplitTimes::of(&times.offset());
        assert_eq!(kept, times);
        let may = [(-9, -3), (-9, -2), (7, 8), (8, 9)].map(|(start, end)| kept.may_have(interval(start, end)));
        assert_eq!(may, [false, true, true, false]);
    }
}
