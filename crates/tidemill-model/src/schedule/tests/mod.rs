//! Virtual decades of schedules.

mod decade;
mod due;
mod jumps;
mod oracle;
mod reading;
mod speed;

use super::{Grid, Schedule};
use crate::{Interval, Timestamp};

/// A schedule, in UTC when the zone is empty.
fn schedule(text: &str, zone: &str) -> Schedule {
    Schedule::parse(text, Some(zone).filter(|zone| !zone.is_empty())).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// A grid, in UTC when the zone is empty.
fn grid(text: &str, zone: &str) -> Grid {
    Grid::parse(text, Some(zone).filter(|zone| !zone.is_empty())).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).expect(text)
}

fn interval(start: &str, end: &str) -> Interval {
    Interval { start: at(start), end: at(end) }
}

/// The first `count` fires after the instant, without `:00Z` at their ends.
fn fires(schedule: &Schedule, after: &str, count: usize) -> Vec<String> {
    let mut last = at(after);
    let next = || {
        last = schedule.next_after(last)?;
        let text = last.to_string();
        Some(text.strip_suffix(":00Z").map_or(text.clone(), str::to_owned))
    };
    std::iter::from_fn(next).take(count).collect()
}

/// Names and patterns of every kind; those of the first list take no zone.
const UTC_ALONE: [&str; 6] = [
    "every 15 minutes",
    "every 7 hours",
    "every 90 minutes",
    "every 36 hours",
    "every 30 seconds",
    "every 100 seconds",
];
const EVERYWHERE: [&str; 24] = [
    "@hourly",
    "@daily",
    "@weekly",
    "@monthly",
    "@quarterly",
    "@yearly",
    "every 1 day",
    "every 2 days",
    "every 10 days",
    "every 2 weeks",
    "0 3 * * 1-5",
    "30 2 * * *",
    "15,45 1,2,3 * * *",
    "*/20 2 * * *",
    "0 */2 * * *",
    "30 * * * *",
    "7 1-23/3 * * *",
    "0 0 L * *",
    "0 0 29 2 *",
    "0 12 15W * *",
    "30 23 * * 5L",
    "0 0 * * 1#2",
    "0 0 13 * 5",
    "0 0 13 * +5",
];
const ZONES: [&str; 10] = [
    "",
    "Europe/Paris",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
    "Africa/Cairo",
    "America/Santiago",
    "America/Havana",
    "Africa/Casablanca",
    "Asia/Tokyo",
];
