//! [`WindowSize`]: the length of a window, either exact microseconds or calendar months.
//!
//! **Invariant:** a window's bounds are a pure function of an instant; they tile time without gap or overlap.

use std::fmt;
use std::time::Duration;

use arrow::datatypes::IntervalMonthDayNano;
use tidemill_model::Span;

const DAY: i64 = 86_400_000_000;
/// The first Monday after the epoch: whole weeks start on Mondays.
const MONDAY: i64 = 4 * DAY;

/// How long a window is, where windows begin, and what follows from both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WindowSize {
    /// Windows of so many microseconds, shifted from 1970-01-01T00:00Z (whole weeks: from a Monday).
    Micros {
        /// The length, positive.
        size: i64,
        /// How far the windows are shifted, in `[0, size)`.
        offset: i64,
    },
    /// Windows of so many calendar months, aligned to year 0; 3 are quarters.
    Months {
        /// How many, positive.
        months: i64,
    },
}

impl WindowSize {
    /// The size that an INTERVAL means, with an optional offset.
    ///
    /// # Errors
    /// Text for the user: what cannot be a window's length.
    pub fn new(size: IntervalMonthDayNano, offset: Option<IntervalMonthDayNano>) -> Result<WindowSize, String> {
        if size.months != 0 {
            if size.days != 0 || size.nanoseconds != 0 {
                return Err("a window is either of months or of days and time, not of both".to_owned());
            }
            if size.months < 0 {
                return Err("a window's length must be positive".to_owned());
            }
            if offset.is_some() {
                return Err("windows of months cannot be shifted by OFFSET".to_owned());
            }
            return Ok(WindowSize::Months { months: i64::from(size.months) });
        }
        let size = micros(size)?;
        if size <= 0 {
            return Err("a window's length must be positive".to_owned());
        }
        let shift = match offset {
            None => 0,
            Some(offset) if offset.months != 0 => return Err("OFFSET cannot be in months".to_owned()),
            Some(offset) => micros(offset)?,
        };
        let origin = if size % (7 * DAY) == 0 { MONDAY } else { 0 };
        Ok(WindowSize::Micros { size, offset: (origin + shift).rem_euclid(size) })
    }

    /// The size as the integers that the window functions take: microseconds, offset, months.
    #[must_use]
    pub fn to_parts(self) -> [i64; 3] {
        match self {
            WindowSize::Micros { size, offset } => [size, offset, 0],
            WindowSize::Months { months } => [0, 0, months],
        }
    }

    /// The reverse of [`WindowSize::to_parts`].
    #[must_use]
    pub fn from_parts(parts: [i64; 3]) -> Option<WindowSize> {
        match parts {
            [0, 0, months] if months > 0 => Some(WindowSize::Months { months }),
            [size, offset, 0] if size > 0 && (0..size).contains(&offset) => Some(WindowSize::Micros { size, offset }),
            _ => None,
        }
    }

    /// The window that an instant is in: `[start, end)`. `None` when a bound is outside of time.
    #[must_use]
    pub fn window_of(self, at: i64) -> Option<(i64, i64)> {
        match self {
            WindowSize::Micros { size, offset } => {
                let start = at.checked_sub(at.checked_sub(offset)?.rem_euclid(size))?;
                Some((start, start.checked_add(size)?))
            }
            WindowSize::Months { months } => {
                let index = month_index(at).div_euclid(months) * months;
                Some((month_start(index)?, month_start(index + months)?))
            }
        }
    }

    /// The end of the window that begins at `start`; the end of time when there is none.
    #[must_use]
    pub fn end_of(self, start: i64) -> i64 {
        match self {
            WindowSize::Micros { size, .. } => start.saturating_add(size),
            WindowSize::Months { .. } => self.window_of(start).map_or(i64::MAX, |(_, end)| end),
        }
    }

    /// The start of the earliest window that is still open at a watermark: no window that starts before it will get
    /// another row.
    #[must_use]
    pub fn earliest_open(self, watermark: i64) -> i64 {
        if watermark == i64::MIN || watermark == i64::MAX {
            return watermark;
        }
        self.window_of(watermark).map_or(i64::MIN, |(start, _)| start)
    }
}

impl fmt::Display for WindowSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            WindowSize::Micros { size, .. } => Span(Duration::from_micros(size.unsigned_abs())).fmt(f),
            WindowSize::Months { months: 1 } => f.write_str("1 month"),
            WindowSize::Months { months } => write!(f, "{months} months"),
        }
    }
}

fn micros(interval: IntervalMonthDayNano) -> Result<i64, String> {
    if interval.nanoseconds % 1_000 != 0 {
        return Err("time has microseconds: a length must be a whole number of them".to_owned());
    }
    i64::from(interval.days)
        .checked_mul(DAY)
        .and_then(|days| days.checked_add(interval.nanoseconds / 1_000))
        .ok_or_else(|| "the length is outside of time".to_owned())
}

/// Months since year 0 of an instant (proleptic Gregorian, UTC).
fn month_index(at: i64) -> i64 {
    // Days to civil date after Howard Hinnant: eras of 400 years that begin on the first of March.
    let days = at.div_euclid(DAY) + 719_468;
    let era = days.div_euclid(146_097);
    let day = days.rem_euclid(146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let month = if march_month < 10 { march_month + 2 } else { march_month - 10 };
    let year = year + era * 400 + i64::from(month < 2);
    year * 12 + month
}

/// The first instant of a month; `None` outside of time.
fn month_start(index: i64) -> Option<i64> {
    let (year, month) = (index.div_euclid(12), index.rem_euclid(12));
    let year = if month < 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let march_month = if month < 2 { month + 10 } else { month - 2 };
    let day_of_year = (153 * march_month + 2) / 5;
    let day = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day - 719_468).checked_mul(DAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        tidemill_model::Timestamp::parse(text).expect("a time").0
    }

    fn interval(months: i32, days: i32, micros: i64) -> IntervalMonthDayNano {
        IntervalMonthDayNano::new(months, days, micros * 1_000)
    }

    #[test]
    fn windows_tile_time() {
        let cases = [
            (interval(0, 0, 3_600_000_000), "1969-12-31T23:59:59.999999", "1969-12-31T23", "1970-01-01T00"),
            (interval(0, 7, 0), "2026-11-22T12:00", "2026-11-16", "2026-11-23"),
            (interval(0, 1, 0), "2026-11-22T00:00", "2026-11-22", "2026-11-23"),
            (interval(1, 0, 0), "2024-02-29T23:59", "2024-02-01", "2024-03-01"),
            (interval(3, 0, 0), "2026-11-22T12:00", "2026-10-01", "2027-01-01"),
            (interval(12, 0, 0), "1969-06-01", "1969-01-01", "1970-01-01"),
        ];
        for (size, instant, start, end) in cases {
            let window = WindowSize::new(size, None).expect("a size").window_of(at(instant));
            assert_eq!(window, Some((at(start), at(end))), "{instant}");
        }
    }

    #[test]
    fn offsets_shift_by_any_sign() {
        let day = interval(0, 1, 0);
        for shift in [interval(0, 0, 21_600_000_000), interval(0, 0, -64_800_000_000), interval(0, 1, 21_600_000_000)] {
            let size = WindowSize::new(day, Some(shift)).expect("a size");
            assert_eq!(size.window_of(at("2026-11-22T05:59")), Some((at("2026-11-21T06"), at("2026-11-22T06"))));
        }
    }

    #[test]
    fn parts_are_reversible_and_bad_lengths_refused() {
        for size in [interval(0, 0, 60_000_000), interval(2, 0, 0), interval(0, 14, 0)] {
            let size = WindowSize::new(size, None).expect("a size");
            assert_eq!(WindowSize::from_parts(size.to_parts()), Some(size));
        }
        for bad in [interval(1, 1, 0), interval(0, 0, 0), interval(0, -1, 0), interval(-1, 0, 0)] {
            assert!(WindowSize::new(bad, None).is_err(), "{bad:?}");
        }
        assert!(WindowSize::new(IntervalMonthDayNano::new(0, 0, 1), None).is_err());
    }
}
