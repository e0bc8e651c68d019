//! [`SplitTimes`]: from when to when the rows of a finite split are, as the record of what was seen has it.
//!
//! **Invariant:** a split whose times are not known, or that has no row with a time, is read by every run.

use tidemill_model::{Interval, Offset, Timestamp};

/// How a record of a finite split begins, which no offset of a growing one does.
const WHOLE: &str = "whole";
/// What stands for what is not known.
const UNKNOWN: &str = "-";

/// From when to when the rows of a split are, and what it and its rows are told by.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct SplitTimes {
    times: Option<(Timestamp, Timestamp)>,
    content: Option<String>,
    told: Option<Told>,
}

/// What the rows of a split are known again by, in whatever order they are counted: how many have a time, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Told {
    rows: u64,
    sum: u64,
}

impl SplitTimes {
    /// Nothing is known but its content: its rows are not looked at.
    pub(super) fn of_content(content: Option<String>) -> SplitTimes {
        SplitTimes { times: None, content, told: None }
    }

    /// The same, of which each row is told now.
    pub(super) fn read(self) -> SplitTimes {
        SplitTimes { times: None, told: Some(Told::default()), ..self }
    }

    /// There is a row of this instant.
    pub(super) fn take(&mut self, at: Timestamp) {
        self.times = Some(self.times.map_or((at, at), |(first, last)| (first.min(at), last.max(at))));
        if let Some(told) = &mut self.told {
            told.rows += 1;
            told.sum = told.sum.wrapping_add(mixed(at));
        }
    }

    /// As it is kept: a finite split is seen as a whole, so its offset says this instead.
    pub(super) fn offset(&self) -> Offset {
        let times = self.times.map_or_else(|| "- -".to_owned(), |(first, last)| format!("{} {}", first.0, last.0));
        let content = self.content.as_deref().unwrap_or(UNKNOWN);
        let told = self.told().unwrap_or_else(|| UNKNOWN.to_owned());
        Offset(format!("{WHOLE} {times} {content} {told}"))
    }

    pub(super) fn of(offset: &Offset) -> SplitTimes {
        let mut parts = offset.0.split(' ').skip(1);
        let mut time = || parts.next()?.parse().ok().map(Timestamp);
        let times = (time(), time());
        let mut word = || parts.next().filter(|word| *word != UNKNOWN);
        let content = word().map(str::to_owned);
        let told = word().and_then(|word| {
            let (rows, sum) = word.split_once('.')?;
            Some(Told { rows: rows.parse().ok()?, sum: u64::from_str_radix(sum, 16).ok()? })
        });
        SplitTimes { times: times.0.zip(times.1), content, told }
    }

    /// The same, if the offset is that of a finite split.
    pub(super) fn of_finite(offset: &Offset) -> Option<SplitTimes> {
        (offset.0.split(' ').next() == Some(WHOLE)).then(|| SplitTimes::of(offset))
    }

    /// From when to when, if that is known.
    pub(super) fn range(&self) -> Option<(Timestamp, Timestamp)> {
        self.times
    }

    /// Whether its rows were looked at, so that one without times has none.
    pub(super) fn is_read(&self) -> bool {
        self.told.is_some() || self.times.is_some()
    }

    /// What its rows are known again by.
    pub(super) fn told(&self) -> Option<String> {
        self.told.map(|told| format!("{}.{:x}", told.rows, told.sum))
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

/// A number that an instant decides, and near ones differ in: the last steps of SplitMix64. Part of what is on record, so
/// it never changes.
fn mixed(at: Timestamp) -> u64 {
    let mut bits = at.0.cast_unsigned().wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::SplitTimes;
    use tidemill_model::{Interval, Offset, Timestamp};

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

    #[test]
    fn rows_are_known_again_in_any_order_and_no_others_are() {
        let of = |content: &str, rows: &[i64]| {
            let mut times = SplitTimes::of_content(Some(content.to_owned())).read();
            rows.iter().for_each(|at| times.take(Timestamp(*at)));
            SplitTimes::of(&times.offset()).told().expect("was read")
        };
        assert_eq!(of("a", &[1, 2, 3]), of("b", &[3, 1, 2]));
        for others in [&[][..], &[1, 2], &[1, 2, 4], &[1, 2, 3, 3], &[0, 2, 4]] {
            assert_ne!(of("a", &[1, 2, 3]), of("a", others), "{others:?}");
        }
    }

    #[test]
    fn what_was_not_looked_at_is_told_from_what_has_no_row() {
        let unread = SplitTimes::of_content(None);
        let kept = |times: &SplitTimes| SplitTimes::of_finite(&times.offset()).expect("is finite");
        assert!(!kept(&unread).is_read() && kept(&unread).told().is_none());
        let empty = kept(&unread.read());
        assert!(empty.is_read() && empty.range().is_none());
        assert!(SplitTimes::of_finite(&Offset::number(7)).is_none());
    }
}
