//! [`WindowSize`]: the length of windows and how far apart they begin, in exact microseconds or calendar months.
//!
//! **Invariant:** a window's bounds are a pure function of an instant; those of one step and length tile time.

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
    /// Windows of so many microseconds, shifted from 1970-01-01T00:00Z (steps of whole weeks: from a Monday).
    Micros {
        /// The length, positive.
        size: i64,
        /// From one window's start to the next one's, positive; the length where windows tile time.
        slide: i64,
        /// How far the windows are shifted, in `[0, slide)`.
        offset: i64,
    },
    /// Windows of so many calendar months, aligned to year 0; 3 are quarters.
    Months {
        /// How many, positive.
        size: i64,
        /// From one window's start to the next one's, in months, positive.
        slide: i64,
    },
    /// Sessions, whose bounds follow from rows; only their ends are sorted by time here, as if into windows of this
    /// length. Who makes them holds the watermark back, so they are behind nothing.
    Session {
        /// The least silence between two of them, positive.
        gap: i64,
    },
}

impl WindowSize {
    /// The size that an INTERVAL means, with an optional offset: windows that tile time.
    ///
    /// # Errors
    /// Text for the user: what cannot be a window's length.
    pub fn new(size: IntervalMonthDayNano, offset: Option<IntervalMonthDayNano>) -> Result<WindowSize, String> {
        WindowSize::sliding(size, size, offset)
    }

    /// Windows of a length that begin every `slide`.
    ///
    /// # Errors
    /// Text for the user: what cannot be a window's length or step.
    pub fn sliding(
        slide: IntervalMonthDayNano,
        size: IntervalMonthDayNano,
        offset: Option<IntervalMonthDayNano>,
    ) -> Result<WindowSize, String> {
        if size.months != 0 || slide.months != 0 {
            let mixed = |of: IntervalMonthDayNano| of.days != 0 || of.nanoseconds != 0;
            if mixed(size) || mixed(slide) {
                return Err("a window is either of months or of days and time, not of both".to_owned());
            }
            if size.months <= 0 || slide.months <= 0 {
                return Err("a window's length must be positive".to_owned());
            }
            if offset.is_some() {
                return Err("windows of months cannot be shifted by OFFSET".to_owned());
            }
            return Ok(WindowSize::Months { size: i64::from(size.months), slide: i64::from(slide.months) });
        }
        let (size, slide) = (micros(size)?, micros(slide)?);
        if size <= 0 || slide <= 0 {
            return Err("a window's length must be positive".to_owned());
        }
        let shift = match offset {
            None => 0,
            Some(offset) if offset.months != 0 => return Err("OFFSET cannot be in months".to_owned()),
            Some(offset) => micros(offset)?,
        };
        let origin = if slide % (7 * DAY) == 0 { MONDAY } else { 0 };
        Ok(WindowSize::Micros { size, slide, offset: (origin + shift).rem_euclid(slide) })
    }

    /// Whether each of these windows lies in one of `outer`, so that both end together at the latest.
    #[must_use]
    pub fn fits_into(self, outer: WindowSize) -> bool {
        match (self, outer) {
            (
                WindowSize::Micros { size, slide, offset },
                WindowSize::Micros { size: of, slide: step, offset: shift },
            ) => size == slide && of % size == 0 && step % size == 0 && (shift - offset) % size == 0,
            (WindowSize::Micros { size, slide, offset }, WindowSize::Months { .. }) => {
                size == slide && DAY % size == 0 && offset == 0
            }
            (WindowSize::Months { size, slide }, WindowSize::Months { size: of, slide: step }) => {
                size == slide && of % size == 0 && step % size == 0
            }
            _ => false,
        }
    }

    /// Sessions that end after so long a silence.
    ///
    /// # Errors
    /// Text for the user: what cannot be a gap.
    pub fn session(gap: IntervalMonthDayNano) -> Result<WindowSize, String> {
        if gap.months != 0 {
            return Err("the gap of sessions cannot be in months, which differ in length".to_owned());
        }
        match micros(gap)? {
            gap if gap > 0 => Ok(WindowSize::Session { gap }),
            _ => Err("the gap of sessions must be positive".to_owned()),
        }
    }

    /// The size as the integers that the window functions take: length, step, offset, unit.
    #[must_use]
    pub fn to_parts(self) -> [i64; 4] {
        match self {
            WindowSize::Micros { size, slide, offset } => [size, slide, offset, 0],
            WindowSize::Months { size, slide } => [size, slide, 0, 1],
            WindowSize::Session { gap } => [gap, gap, 0, 2],
        }
    }

    /// The reverse of [`WindowSize::to_parts`].
    #[must_use]
    pub fn from_parts(parts: [i64; 4]) -> Option<WindowSize> {
        match parts {
            [size, slide, offset, 0] if size > 0 && slide > 0 && (0..slide).contains(&offset) => {
                Some(WindowSize::Micros { size, slide, offset })
            }
            [size, slide, 0, 1] if size > 0 && slide > 0 => Some(WindowSize::Months { size, slide }),
            [gap, _, 0, 2] if gap > 0 => Some(WindowSize::Session { gap }),
            _ => None,
        }
    }

    /// Whether a row is in exactly one window, whose bounds follow from its time.
    #[must_use]
    pub fn tiles(self) -> bool {
        match self {
            WindowSize::Micros { size, slide, .. } | WindowSize::Months { size, slide } => size == slide,
            WindowSize::Session { .. } => false,
        }
    }

    /// The last window that begins no later than an instant: `[start, end)`. Where windows tile time it is the one that
    /// the instant is in. `None` when a bound is outside of time.
    #[must_use]
    pub fn window_of(self, at: i64) -> Option<(i64, i64)> {
        let start = self.last_start(at)?;
        Some((start, self.checked_end(start)?))
    }

    /// The start of the last window that begins no later than an instant.
    #[must_use]
    pub fn last_start(self, at: i64) -> Option<i64> {
        match self {
            WindowSize::Micros { slide, offset, .. } => at.checked_sub(at.checked_sub(offset)?.rem_euclid(slide)),
            WindowSize::Months { slide, .. } => month_start(month_index(at).div_euclid(slide) * slide),
            WindowSize::Session { gap } => at.checked_sub(at.rem_euclid(gap)),
        }
    }

    /// The start of the window after the one that begins at `start`.
    #[must_use]
    pub fn next_start(self, start: i64) -> Option<i64> {
        match self {
            WindowSize::Micros { slide, .. } => start.checked_add(slide),
            WindowSize::Months { slide, .. } => month_start(month_index(start) + slide),
            WindowSize::Session { gap } => start.checked_add(gap),
        }
    }

    fn checked_end(self, start: i64) -> Option<i64> {
        match self {
            WindowSize::Micros { size, .. } | WindowSize::Session { gap: size } => start.checked_add(size),
            WindowSize::Months { size, .. } => month_start(month_index(start) + size),
        }
    }

    /// The end of the window that begins at `start`; the end of time when there is none.
    #[must_use]
    pub fn end_of(self, start: i64) -> i64 {
        self.checked_end(start).unwrap_or(i64::MAX)
    }

    /// The start of the window that ends at `end`; of a session only a time that its end follows by at most the gap.
    #[must_use]
    pub fn start_of(self, end: i64) -> Option<i64> {
        match self {
            WindowSize::Micros { size, .. } => end.checked_sub(size),
            WindowSize::Months { size, .. } => month_start(month_index(end) - size),
            WindowSize::Session { .. } => self.last_start(end.checked_sub(1)?),
        }
    }

    /// The start of the earliest window that is still open at a watermark, or of the earliest that has a row of that
    /// time: windows that start before it end no later than that.
    #[must_use]
    pub fn earliest_open(self, watermark: i64) -> i64 {
        if watermark == i64::MIN || watermark == i64::MAX {
            return watermark;
        }
        let start = match self {
            WindowSize::Micros { size, slide, .. } => {
                watermark.checked_sub(size).and_then(|at| self.last_start(at)?.checked_add(slide))
            }
            WindowSize::Months { size, slide } => {
                month_start(((month_index(watermark) - size).div_euclid(slide) + 1) * slide)
            }
            WindowSize::Session { .. } => Some(watermark),
        };
        start.unwrap_or(i64::MIN)
    }

    /// The starts of the windows that an instant is in, in order; none when windows leave gaps and it lies in one.
    pub fn starts_at(self, at: i64) -> impl Iterator<Item = i64> {
        let first = self.earliest_open(at);
        std::iter::successors(Some(first), move |start| self.next_start(*start)).take_while(move |start| *start <= at)
    }

    /// The pane that an instant is in: `[start, end)`, where starts and ends of windows are the only bounds of panes, so
    /// that each window is a run of whole panes: one each slide where that divides the length, else two. `None` in a gap
    /// between windows.
    #[must_use]
    pub fn pane_of(self, at: i64) -> Option<(i64, i64)> {
        let base = self.last_start(at)?;
        let (size, slide) = self.lengths();
        let after = |units| self.after(base, units);
        match size % slide {
            0 => Some((base, after(slide)?)),
            part if at < after(part)? => Some((base, after(part)?)),
            _ if size < slide => None,
            part => Some((after(part)?, after(slide)?)),
        }
    }

    /// The number of the pane that an instant is in; panes that follow each other have numbers that do.
    #[must_use]
    pub fn pane_number(self, at: i64) -> Option<i64> {
        let base = self.last_start(at)?;
        let (size, slide) = self.lengths();
        let number = match self {
            WindowSize::Months { .. } => month_index(base).div_euclid(slide),
            _ => base.div_euclid(slide),
        };
        match size % slide {
            0 => Some(number),
            part => Some(2 * number + i64::from(at >= self.after(base, part)?)),
        }
    }

    /// How many panes a window has.
    #[must_use]
    pub fn panes(self) -> i64 {
        let (size, slide) = self.lengths();
        if size % slide == 0 { size / slide } else { 2 * (size / slide) + 1 }
    }

    /// Length and step, in microseconds or months.
    fn lengths(self) -> (i64, i64) {
        match self {
            WindowSize::Micros { size, slide, .. } | WindowSize::Months { size, slide } => (size, slide),
            WindowSize::Session { gap } => (gap, gap),
        }
    }

    fn after(self, base: i64, units: i64) -> Option<i64> {
        match self {
            WindowSize::Months { .. } => month_start(month_index(base) + units),
            _ => base.checked_add(units),
        }
    }
}

impl fmt::Display for WindowSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = |of: i64| Span(Duration::from_micros(of.unsigned_abs()));
        let months = |of: i64| if of == 1 { "1 month".to_owned() } else { format!("{of} months") };
        match *self {
            WindowSize::Micros { size, slide, .. } if size == slide => micros(size).fmt(f),
            WindowSize::Micros { size, slide, .. } => write!(f, "{} every {}", micros(size), micros(slide)),
            WindowSize::Months { size, slide } if size == slide => f.write_str(&months(size)),
            WindowSize::Months { size, slide } => write!(f, "{} every {}", months(size), months(slide)),
            WindowSize::Session { gap } => write!(f, "{} of silence", micros(gap)),
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

    #[test]
    fn hopping_windows_overlap_or_leave_gaps() {
        let minutes = |n: i64| interval(0, 0, n * 60_000_000);
        let hop = |slide, size| WindowSize::sliding(minutes(slide), minutes(size), None).expect("a size");
        let starts = |size: WindowSize, at: i64| -> Vec<i64> {
            size.starts_at(at * 60_000_000).map(|start| start / 60_000_000).collect()
        };
        assert_eq!(starts(hop(5, 7), 6), [0, 5]);
        assert_eq!(starts(hop(5, 2), 3), [] as [i64; 0]);
        assert_eq!(starts(hop(5, 2), 1), [0]);
        assert_eq!(starts(hop(5, 10), 0), [-5, 0]);
        assert_eq!(hop(5, 10).earliest_open(10 * 60_000_000), 5 * 60_000_000, "a window closes at its end");
        let quarters = WindowSize::sliding(interval(1, 0, 0), interval(3, 0, 0), None).expect("a size");
        let starts: Vec<i64> = quarters.starts_at(at("2024-02-29T12:00")).collect();
        assert_eq!(starts, [at("2023-12-01"), at("2024-01-01"), at("2024-02-01")]);
        assert!(WindowSize::sliding(interval(0, 1, 0), interval(1, 0, 0), None).is_err());
    }

    #[test]
    fn every_window_is_a_run_of_whole_panes() {
        for (slide, size) in [(1, 5), (5, 7), (5, 2), (3, 3), (4, 10), (7, 7 * 24), (10, 15)] {
            let size = WindowSize::Micros { size, slide, offset: 1 % slide };
            for start in (-50..50).filter(|at| size.last_start(*at) == Some(*at)) {
                let (mut at, mut panes) = (start, 0);
                let first = size.pane_number(start).expect("a pane");
                while at < size.end_of(start) {
                    let (from, to) = size.pane_of(at).expect("a pane");
                    assert_eq!((from, size.pane_number(at)), (at, Some(first + panes)), "{size:?}");
                    assert!((from..to).all(|inside| size.starts_at(inside).eq(size.starts_at(from))), "{size:?}");
                    (at, panes) = (to, panes + 1);
                }
                assert_eq!((at, panes), (size.end_of(start), size.panes()), "{size:?}");
            }
        }
    }
}
