//! [`Grid`]: the cells of event time that interval runs own.
//!
//! **Invariant:** the cells tile time: each begins where the one before ends, and every instant is in one.

use std::fmt;
use std::time::Duration;

use super::Schedule;
use super::fires::{Fires, Rhythm};
use super::read::Reading;
use crate::{Interval, Result, Span, Timestamp};

/// Cells of event time, closed-open, between two fires each. Two grids are equal when their cells come from the same
/// rule, however it was written: `@hourly`, `1 hour` and `0 * * * *` are one.
#[derive(Debug, Clone)]
pub struct Grid(Reading);

impl PartialEq for Grid {
    fn eq(&self, other: &Grid) -> bool {
        self.0.rhythm == other.0.rhythm
    }
}

impl Eq for Grid {}

impl Grid {
    /// The cells between two consecutive fires of the schedule.
    #[must_use]
    pub fn of(schedule: &Schedule) -> Grid {
        let mut reading = schedule.0.clone();
        if let Some(length) = reading.text.strip_prefix("every ") {
            reading.text = length.to_owned();
        }
        Grid(reading)
    }

    /// Reads `@hourly`, `1 hour`, `15 minutes`, `1 day`, `0 6 * * *`, in a time zone by its IANA name or in UTC.
    ///
    /// # Errors
    /// Config, as [`Schedule::parse`].
    pub fn parse(text: &str, zone: Option<&str>) -> Result<Grid> {
        Reading::grid(text, zone).map(Grid)
    }

    /// The cell that the instant lies in. There is one in the years 2 to 9997.
    #[must_use]
    pub fn cell_containing(&self, at: Timestamp) -> Option<Interval> {
        let start = self.0.rhythm.last_at_or_before(at)?;
        let end = self.0.rhythm.after(at).next()?;
        Some(Interval { start, end })
    }

    /// The cells that lie wholly inside, in order. Nothing is searched before it is asked for.
    pub fn cells(&self, within: Interval) -> impl Iterator<Item = Interval> + use<'_> {
        let mut fires = self.from(within.start);
        let start = fires.next();
        Cells { start, fires, until: within.end }
    }

    /// How many cells lie wholly inside.
    #[must_use]
    pub fn count(&self, within: Interval) -> u64 {
        if let Rhythm::Even { size, .. } = &self.0.rhythm {
            let (first, last) = (self.from(within.start).next(), self.0.rhythm.last_at_or_before(within.end));
            let apart = first.zip(last).and_then(|(first, last)| last.0.checked_sub(first.0)).unwrap_or(0);
            return u64::try_from(apart / size).unwrap_or(0);
        }
        self.cells(within).count() as u64
    }

    /// Whether the interval is a union of whole cells.
    #[must_use]
    pub fn aligned(&self, interval: Interval) -> bool {
        interval.start < interval.end && self.0.rhythm.is_at(interval.start) && self.0.rhythm.is_at(interval.end)
    }

    /// The usual length of a cell, for people: the one that most of the cells from 2025 on have, the shorter of two.
    /// A day, for the days of a zone; 31 days for months.
    #[must_use]
    pub fn typical(&self) -> Span {
        if let Rhythm::Even { size, .. } = &self.0.rhythm {
            return Span(Duration::from_micros(size.unsigned_abs()));
        }
        // Two years of months are enough, and so are a few days of anything that fires within a day.
        let fires: Vec<Timestamp> = self.0.rhythm.after(Timestamp(1_735_689_599_000_000)).take(25).collect();
        let mut lengths: Vec<Duration> = fires.windows(2).map(|pair| pair[1].since(pair[0])).collect();
        lengths.sort_unstable();
        let mut usual = (0, Duration::ZERO);
        for same in lengths.chunk_by(|a, b| a == b) {
            usual = if same.len() > usual.0 { (same.len(), same[0]) } else { usual };
        }
        Span(usual.1)
    }

    /// The fires at or after the instant.
    fn from(&self, at: Timestamp) -> Fires<'_> {
        self.0.rhythm.after(Timestamp(at.0.saturating_sub(1)))
    }
}

impl fmt::Display for Grid {
    /// As it was written, in canonical form: `@daily`, `15 minutes`, `0 6 * * * in Europe/Paris`. Reads back as the
    /// same grid.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The cells between fires, up to an end.
struct Cells<'a> {
    start: Option<Timestamp>,
    fires: Fires<'a>,
    until: Timestamp,
}

impl Iterator for Cells<'_> {
    type Item = Interval;

    fn next(&mut self) -> Option<Interval> {
        let start = self.start.filter(|start| *start < self.until)?;
        self.start = self.fires.next().filter(|end| *end <= self.until);
        self.start.map(|end| Interval { start, end })
    }
}
