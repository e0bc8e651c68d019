//! [`Schedule`]: when to look whether an interval is due.
//!
//! **Invariant:** a schedule says when, never what: the cells of event time are the [`Grid`](super::Grid)'s.

use std::fmt;
use std::time::Duration;

use super::read::Reading;
use crate::hash::stable_hash;
use crate::{Interval, Result, Timestamp};

/// When to look, as instants without end. See the module `schedule` for what can be written and what it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule(pub(super) Reading);

impl Schedule {
    /// Reads `@daily`, `every 15 minutes`, `0 3 * * 1-5`, in a time zone by its IANA name or in UTC.
    ///
    /// # Errors
    /// Config, when the text is no schedule, never fires, or does not go with the zone; and when there is no such zone.
    pub fn parse(text: &str, zone: Option<&str>) -> Result<Schedule> {
        Reading::schedule(text, zone).map(Schedule)
    }

    /// The zone whose clock it follows, if one was given.
    #[must_use]
    pub fn zone(&self) -> Option<&str> {
        self.0.zone.as_ref().map(super::zone::Zone::name)
    }

    /// The first fire strictly after the instant. There is one unless the calendar ends first, in the year 9999.
    #[must_use]
    pub fn next_after(&self, at: Timestamp) -> Option<Timestamp> {
        self.0.rhythm.after(at).next()
    }

    /// The last fire at or before the instant.
    #[must_use]
    pub fn last_at_or_before(&self, at: Timestamp) -> Option<Timestamp> {
        self.0.rhythm.last_at_or_before(at)
    }

    /// When the run of a cell is due: at the first fire at or after the cell's end, or `delay` after the cell's end if
    /// that is later, and then the jitter.
    ///
    /// A cell of the schedule's own grid ends at a fire, so it is due at its end, plus delay, plus jitter. The jitter
    /// is a length below `jitter` that the pipeline's `name` alone decides: pipelines of one schedule do not all begin
    /// at once, and each keeps its own distance from the schedule for good.
    #[must_use]
    pub fn due_at(&self, cell: Interval, delay: Duration, jitter: Option<Duration>, name: &str) -> Timestamp {
        let closed = cell.end.plus(delay);
        let fire = if self.0.rhythm.is_at(cell.end) { Some(cell.end) } else { self.next_after(cell.end) };
        fire.map_or(closed, |fire| fire.max(closed)).plus(offset(jitter, name))
    }
}

/// The part of the jitter that falls to the name: its hash modulo the jitter in microseconds.
fn offset(jitter: Option<Duration>, name: &str) -> Duration {
    let span = jitter.map_or(0, |jitter| u64::try_from(jitter.as_micros()).unwrap_or(u64::MAX));
    Duration::from_micros(stable_hash(&[name.as_bytes()]).checked_rem(span).unwrap_or(0))
}

impl fmt::Display for Schedule {
    /// As it was written, in canonical form: `@daily`, `every 15 minutes`, `0 3 * * 1-5 in Europe/Paris`. Reads back as
    /// the same schedule.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
