//! Time: [`Timestamp`] in microseconds UTC, [`Watermark`], and the injected [`Clock`].
//!
//! **Invariant:** time is always i64 microseconds since 1970-01-01T00:00:00Z; no other unit crosses an interface.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Error, Kind, Result};

/// An instant, in microseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Reads `2026-01-01`, `2026-01-01T02`, `2026-01-01 02:03`, `2026-01-01T02:03:04.5`, each with or without a
    /// trailing `Z` or offset. Text without an offset is UTC.
    ///
    /// # Errors
    /// Config, when the text is none of these.
    pub fn parse(text: &str) -> Result<Timestamp> {
        let text = text.trim();
        let bad = || {
            Error::new(Kind::Config, "C030", format!("`{text}` is not a time"))
                .fact("write it as 2026-01-31, 2026-01-31T14, or 2026-01-31T14:30:00 (UTC unless it ends in an offset)")
        };
        if let Ok(instant) = text.replacen(' ', "T", 1).parse::<jiff::Timestamp>() {
            return Ok(Timestamp(instant.as_microsecond()));
        }
        let bare = text.strip_suffix('Z').unwrap_or(text).replacen(' ', "T", 1);
        let padded = match bare.split_once('T') {
            Some((day, hour)) if hour.len() == 2 => format!("{day}T{hour}:00:00"),
            Some(_) => bare.clone(),
            None => format!("{bare}T00:00:00"),
        };
        let civil: jiff::civil::DateTime = padded.parse().map_err(|_| bad())?;
        let zoned = civil.to_zoned(jiff::tz::TimeZone::UTC).map_err(|_| bad())?;
        Ok(Timestamp(zoned.timestamp().as_microsecond()))
    }

    /// The instant in UTC in a form of strftime, `%Y-%m-%d`; `None` when there is no such form.
    #[must_use]
    pub fn strftime(self, form: &str) -> Option<String> {
        let instant = jiff::Timestamp::from_microsecond(self.0).ok()?;
        jiff::fmt::strtime::format(form, &instant.to_zoned(jiff::tz::TimeZone::UTC)).ok()
    }

    /// The instant `span` later, saturating at the ends of time.
    #[must_use]
    pub fn plus(self, span: Duration) -> Timestamp {
        let micros = i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        Timestamp(self.0.saturating_add(micros))
    }

    /// How long after `earlier` this is; zero when it is not after.
    #[must_use]
    pub fn since(self, earlier: Timestamp) -> Duration {
        let micros = self.0.saturating_sub(earlier.0);
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            // As many digits of fraction as there are, in threes: the form of every JSON that Tidemill writes.
            Ok(instant) if self.0 % 1_000_000 == 0 => write!(f, "{instant:.0}"),
            Ok(instant) if self.0 % 1_000 == 0 => write!(f, "{instant:.3}"),
            Ok(instant) => write!(f, "{instant:.6}"),
            Err(_) => write!(f, "{} µs", self.0),
        }
    }
}

/// The promise that every row still to come has an event time at or after this.
///
/// A window `[start, end)` closes when the watermark is at or past `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Watermark(pub i64);

impl Watermark {
    /// Nothing is promised.
    pub const MIN: Watermark = Watermark(i64::MIN);
    /// No row will come any more: everything closes.
    pub const MAX: Watermark = Watermark(i64::MAX);

    /// The instant promised, unless nothing or everything is.
    #[must_use]
    pub fn instant(self) -> Option<Timestamp> {
        (self != Watermark::MIN && self != Watermark::MAX).then_some(Timestamp(self.0))
    }

    /// So many microseconds before it; the end of time stays the end.
    #[must_use]
    pub fn behind(self, micros: i64) -> Watermark {
        if self == Watermark::MAX { self } else { Watermark(self.0.saturating_sub(micros)) }
    }
}

impl fmt::Display for Watermark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Watermark::MIN => f.write_str("-"),
            Watermark::MAX => f.write_str("end"),
            Watermark(micros) => Timestamp(micros).fmt(f),
        }
    }
}

/// Where the present comes from. The binary injects the system's clock, tests a virtual one.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The present.
    fn now(&self) -> Timestamp;
}
