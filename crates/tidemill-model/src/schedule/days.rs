//! [`Days`]: which days of the calendar a pattern names, counted since 1970-01-01.
//!
//! **Invariant:** a day is a date of the local calendar and knows nothing of zones or hours.

use croner::{CronPattern, Weekday};

/// So many days after 1970-01-01 the calendar repeats: 400 years, a whole number of weeks.
pub(super) const CYCLE: i64 = 146_097;

/// A rule that names days.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Days {
    /// Each day whose distance to `origin` is a multiple of `step`.
    Every {
        /// How many days apart.
        step: i64,
        /// One of them.
        origin: i64,
    },
    /// The days, months and weekdays of a cron. Boxed because croner keeps lists of bits.
    Cron(Box<CronPattern>),
}

impl Days {
    /// Each day.
    pub(super) const ALL: Days = Days::Every { step: 1, origin: 0 };

    /// Whether it names the day.
    pub(super) fn contains(&self, day: i64) -> bool {
        match self {
            Days::Every { step, origin } => (day - origin).rem_euclid(*step) == 0,
            Days::Cron(cron) => {
                let date = Date::of(day);
                in_month(cron, date) && on_day(cron, date, day)
            }
        }
    }

    /// The first day named in `[from, before)`.
    pub(super) fn first(&self, from: i64, before: i64) -> Option<i64> {
        match self {
            Days::Every { step, origin } => Some(from + (origin - from).rem_euclid(*step)).filter(|day| *day < before),
            Days::Cron(cron) => {
                let mut day = from;
                while day < before {
                    let date = Date::of(day);
                    if !in_month(cron, date) {
                        // No month is shorter than 28 days, so this leaps over no day of the next one.
                        day += (29 - i64::from(date.day)).max(1);
                    } else if on_day(cron, date, day) {
                        return Some(day);
                    } else {
                        day += 1;
                    }
                }
                None
            }
        }
    }

    /// The last day named in `[from, before)`.
    pub(super) fn last(&self, from: i64, before: i64) -> Option<i64> {
        match self {
            Days::Every { step, origin } => {
                Some(before - 1 - (before - 1 - origin).rem_euclid(*step)).filter(|day| *day >= from)
            }
            Days::Cron(cron) => {
                let mut day = before - 1;
                while day >= from {
                    let date = Date::of(day);
                    if !in_month(cron, date) {
                        day -= i64::from(date.day);
                    } else if on_day(cron, date, day) {
                        return Some(day);
                    } else {
                        day -= 1;
                    }
                }
                None
            }
        }
    }
}

fn in_month(cron: &CronPattern, date: Date) -> bool {
    cron.month_match(date.month).unwrap_or(false)
}

fn on_day(cron: &CronPattern, date: Date, day: i64) -> bool {
    cron.day_match(date.year, date.month, date.day, weekday(day)).unwrap_or(false)
}

fn weekday(day: i64) -> Weekday {
    // 1970-01-01 was a Thursday.
    match day.rem_euclid(7) {
        0 => Weekday::Thursday,
        1 => Weekday::Friday,
        2 => Weekday::Saturday,
        3 => Weekday::Sunday,
        4 => Weekday::Monday,
        5 => Weekday::Tuesday,
        _ => Weekday::Wednesday,
    }
}

/// A date of the Gregorian calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Date {
    year: i32,
    month: u32,
    day: u32,
}

impl Date {
    /// The date so many days after 1970-01-01, by Hinnant's `civil_from_days`: years that begin in March end in the
    /// leap day, so that a month's place in the year is one division.
    fn of(day: i64) -> Date {
        let since_march_0000 = day + 719_468;
        let cycle = since_march_0000.div_euclid(CYCLE);
        let in_cycle = since_march_0000.rem_euclid(CYCLE);
        let year = (in_cycle - in_cycle / 1_460 + in_cycle / 36_524 - in_cycle / 146_096) / 365;
        let in_year = in_cycle - (365 * year + year / 4 - year / 100);
        let from_march = (5 * in_year + 2) / 153;
        let day = in_year - (153 * from_march + 2) / 5 + 1;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        let year = year + cycle * 400 + i64::from(month <= 2);
        Date { year: year as i32, month: month as u32, day: day as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let epoch = jiff::civil::date(1970, 1, 1);
        for day in -CYCLE..2 * CYCLE {
            let date = Date::of(day);
            let civil = epoch.checked_add(jiff::Span::new().days(day)).expect("a date");
            let expected = (i32::from(civil.year()), civil.month() as u32, civil.day() as u32);
            assert_eq!((date.year, date.month, date.day), expected);
            let sunday_first = civil.weekday().to_sunday_zero_offset() as u32;
            assert_eq!(weekday(day).num_days_from_sunday(), sunday_first, "{civil}");
        }
    }
}
