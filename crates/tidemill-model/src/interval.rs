//! [`Interval`]: a closed-open range of event time that one run owns.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Error, Kind, Result, Span, Timestamp};

/// `[start, end)` of event time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Interval {
    /// The first instant in it.
    pub start: Timestamp,
    /// The first instant after it.
    pub end: Timestamp,
}

impl Interval {
    /// Reads `START/PERIOD` or `START/END`: `2026-11-20T02/1 hour`, `2026-11-20T02/PT1H`, `2026-11-20/2026-11-21`.
    ///
    /// # Errors
    /// Config, when it is neither, or empty.
    pub fn parse(text: &str) -> Result<Interval> {
        let bad = || {
            Error::new(Kind::Config, "C032", format!("`{text}` is not an interval")).fact(
                "write START/PERIOD or START/END: 2026-11-20T02/PT1H, 2026-11-20T02/1 hour, 2026-11-20/2026-11-21",
            )
        };
        let (start, rest) = text.split_once('/').ok_or_else(bad)?;
        let start = Timestamp::parse(start)?;
        let end = if let Ok(end) = Timestamp::parse(rest) {
            end
        } else if let Ok(span) = Span::parse(rest) {
            start.plus(span.0)
        } else {
            let period: jiff::Span = rest.parse().map_err(|_| bad())?;
            let from = jiff::Timestamp::from_microsecond(start.0).map_err(|_| bad())?;
            let zoned = from.to_zoned(jiff::tz::TimeZone::UTC);
            Timestamp(zoned.checked_add(period).map_err(|_| bad())?.timestamp().as_microsecond())
        };
        if end <= start {
            return Err(bad().fact("the end must lie after the start"));
        }
        Ok(Interval { start, end })
    }

    /// Whether the instant lies in it.
    #[must_use]
    pub fn contains(&self, at: Timestamp) -> bool {
        self.start <= at && at < self.end
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.start, self.end)
    }
}
