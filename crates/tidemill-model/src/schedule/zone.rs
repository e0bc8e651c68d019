//! [`Zone`]: the clock of a place, as [`Stretch`]es of time over which it keeps one distance from UTC.
//!
//! **Invariant:** zones come from the data compiled in and never from the machine, so that cells are the same
//! everywhere.

use std::fmt;

use jiff::tz::{TimeZone, TimeZoneDatabase};

use crate::{Error, Kind, Result, nearest};

/// 0001-01-01T00:00:00Z in seconds: nothing fires before.
pub(super) const FIRST: i64 = -62_135_596_800;
/// 9999-01-01T00:00:00Z in seconds: nothing fires at or after. The clocks of `jiff` end a year later.
pub(super) const LAST: i64 = 253_370_764_800;

/// A time zone and the name that was found for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Zone {
    name: String,
    clock: TimeZone,
}

/// A stretch of time, `[start, end)` in seconds, in which the local clock is `offset` seconds ahead of UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    /// The first second in it.
    pub(super) start: i64,
    /// The first second after it.
    pub(super) end: i64,
    /// Local time minus UTC.
    pub(super) offset: i64,
    /// What `offset` was just before `start`: less than now where the clock jumped forward, leaving a gap.
    pub(super) before: i64,
}

impl Stretch {
    /// All of time, on the clock of UTC.
    pub(super) const UTC: Stretch = Stretch { start: FIRST, end: LAST, offset: 0, before: 0 };
}

impl Zone {
    /// The zone of an IANA name, upper and lower case alike.
    ///
    /// # Errors
    /// Config, when there is none; it names the nearest.
    pub(super) fn parse(name: &str) -> Result<Zone> {
        let name = name.trim();
        let known = TimeZoneDatabase::bundled();
        if let Ok(clock) = known.get(name) {
            let name = clock.iana_name().unwrap_or(name).to_owned();
            return Ok(Zone { name, clock });
        }
        let names: Vec<String> = known.available().map(|name| name.to_string()).collect();
        let mut error = Error::new(Kind::Config, "C066", format!("there is no time zone `{name}`"));
        let near = near(name, &names);
        if let Some(meant) = near.first() {
            error = error.label(format!("did you mean `{meant}`?"));
        }
        let examples = if near.is_empty() { "Europe/Paris, America/New_York, UTC".to_owned() } else { near.join(", ") };
        Err(error.fact(format!("write the zone by its IANA name: {examples}")))
    }

    /// The name, in the spelling of the IANA.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether its clock is the one of UTC and always was.
    pub(super) fn is_utc(&self) -> bool {
        self.stretch(0) == Stretch::UTC
    }

    /// The stretch that the second lies in.
    pub(super) fn stretch(&self, at: i64) -> Stretch {
        // A second that `jiff` does not know is none that is asked for: FIRST and LAST lie well inside its range.
        let instant = |second: i64| jiff::Timestamp::from_second(second).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let offset = |second: i64| i64::from(self.clock.to_offset(instant(second)).seconds());
        // `preceding` answers with what lies strictly before, and a change at this very second begins the stretch.
        let start = self.clock.preceding(instant(at + 1)).next().map_or(FIRST, |change| change.timestamp().as_second());
        let end = self.clock.following(instant(at)).next().map_or(LAST, |change| change.timestamp().as_second());
        let before = if start > FIRST { offset(start - 1) } else { offset(at) };
        Stretch { start: start.max(FIRST), end: end.min(LAST), offset: offset(at), before }
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Up to three names that may have been meant: a city without its continent, or a slip of the pen.
fn near<'a>(name: &str, names: &'a [String]) -> Vec<&'a str> {
    let city = |name: &'a str| name.rsplit('/').next().unwrap_or(name);
    let bare = name.rsplit('/').next().unwrap_or(name).replace(' ', "_");
    let mut found: Vec<&str> =
        names.iter().map(String::as_str).filter(|name| city(name).eq_ignore_ascii_case(&bare)).collect();
    found.extend(nearest(name, names.iter().map(String::as_str)));
    let meant = nearest(&bare, names.iter().map(|name| city(name)));
    found.extend(names.iter().map(String::as_str).filter(|name| meant == Some(city(name))));
    let mut distinct: Vec<&str> = Vec::new();
    for name in found {
        if !distinct.contains(&name) && distinct.len() < 3 {
            distinct.push(name);
        }
    }
    distinct
}
