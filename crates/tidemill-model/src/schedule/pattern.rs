//! [`Pattern`]: the local times at which something fires: days, hours and minutes.
//!
//! **Invariant:** times here are seconds of the local clock since 1970-01-01T00:00 and know nothing of zones. At least
//! one hour, one minute and one day are named.

use super::days::{CYCLE, Days};

/// Seconds of a day of the calendar.
pub(super) const DAY: i64 = 86_400;

/// Days, hours and minutes; every combination of them is a local time that fires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    /// The days.
    pub(super) days: Days,
    /// The hours, bit 0 for 00.
    pub(super) hours: u32,
    /// The minutes, bit 0 for :00.
    pub(super) minutes: u64,
    /// Whether it fires as often as the clock shows its times, rather than once for each of them.
    pub(super) follows_clock: bool,
}

impl Pattern {
    /// Midnight of these days.
    pub(super) fn midnights(days: Days) -> Pattern {
        Pattern { days, hours: 1, minutes: 1, follows_clock: false }
    }

    /// Whether there is any day that it names.
    pub(super) fn ever(&self) -> bool {
        self.days.first(0, CYCLE).is_some()
    }

    /// The first local time in `[from, before)`.
    pub(super) fn first(&self, from: i64, before: i64) -> Option<i64> {
        let from = from + (-from).rem_euclid(60);
        let (day, minute) = (from.div_euclid(DAY), from.rem_euclid(DAY) / 60);
        let today = if self.days.contains(day) { self.minute_from(minute as u32) } else { None };
        let found = match today {
            Some(minute) => day * DAY + i64::from(minute) * 60,
            None => {
                let day = self.days.first(day + 1, (before - 1).div_euclid(DAY) + 1)?;
                day * DAY + i64::from(self.minute_from(0)?) * 60
            }
        };
        Some(found).filter(|found| *found < before)
    }

    /// The last local time in `[from, before)`.
    pub(super) fn last(&self, from: i64, before: i64) -> Option<i64> {
        let (day, minute) = ((before - 1).div_euclid(DAY), (before - 1).rem_euclid(DAY) / 60);
        let today = if self.days.contains(day) { self.minute_until(minute as u32) } else { None };
        let found = match today {
            Some(minute) => day * DAY + i64::from(minute) * 60,
            None => {
                let day = self.days.last(from.div_euclid(DAY), day)?;
                day * DAY + i64::from(self.minute_until(1_439)?) * 60
            }
        };
        Some(found).filter(|found| *found >= from)
    }

    /// The distance in minutes between its times and the first of them, if they are as far apart from each other as the
    /// last is from the first of the next day, every day.
    pub(super) fn even(&self) -> Option<(i64, i64)> {
        if self.days != Days::ALL {
            return None;
        }
        let mut times = Vec::new();
        let mut next = self.minute_from(0);
        while let Some(time) = next {
            times.push(i64::from(time));
            next = if time < 1_439 { self.minute_from(time + 1) } else { None };
        }
        let first = *times.first()?;
        times.push(first + 1_440);
        let step = times.get(1)? - first;
        times.windows(2).all(|pair| pair[1] - pair[0] == step).then_some((step, first))
    }

    /// The first minute of the day named at or after this one.
    fn minute_from(&self, minute: u32) -> Option<u32> {
        let (hour, minute) = (minute / 60, minute % 60);
        let rest = self.minutes >> minute;
        if self.hours >> hour & 1 == 1 && rest != 0 {
            return Some(hour * 60 + minute + rest.trailing_zeros());
        }
        let later = self.hours >> (hour + 1);
        (later != 0).then(|| (hour + 1 + later.trailing_zeros()) * 60 + self.minutes.trailing_zeros())
    }

    /// The last minute of the day named at or before this one.
    fn minute_until(&self, minute: u32) -> Option<u32> {
        let (hour, minute) = (minute / 60, minute % 60);
        let rest = self.minutes & (u64::MAX >> (63 - minute));
        if self.hours >> hour & 1 == 1 && rest != 0 {
            return Some(hour * 60 + rest.ilog2());
        }
        let earlier = self.hours & ((1 << hour) - 1);
        (earlier != 0 && self.minutes != 0).then(|| earlier.ilog2() * 60 + self.minutes.ilog2())
    }
}
