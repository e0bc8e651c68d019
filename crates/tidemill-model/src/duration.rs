//! [`Span`]: a length of time as people write it, `5 seconds`, `1.5h`, `250 ms`.

use std::fmt;
use std::time::Duration;

use crate::{Error, Kind, Result};

/// A length of time that is read from and shown to people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

const UNITS: &[(&str, u64)] = &[
    ("us", 1),
    ("µs", 1),
    ("microsecond", 1),
    ("ms", 1_000),
    ("millisecond", 1_000),
    ("s", 1_000_000),
    ("sec", 1_000_000),
    ("second", 1_000_000),
    ("m", 60_000_000),
    ("min", 60_000_000),
    ("minute", 60_000_000),
    ("h", 3_600_000_000),
    ("hour", 3_600_000_000),
    ("d", 86_400_000_000),
    ("day", 86_400_000_000),
    ("week", 604_800_000_000),
];

impl Span {
    /// Reads a number and a unit, with or without a space: `5 seconds`, `1 minute`, `250ms`, `1.5 h`.
    ///
    /// # Errors
    /// Config, when the text is not a length of time.
    pub fn parse(text: &str) -> Result<Span> {
        let trimmed = text.trim();
        let bad = || {
            Error::new(Kind::Config, "C031", format!("`{trimmed}` is not a length of time"))
                .fact("write a number and a unit: 250 ms, 5 seconds, 1 minute, 2 hours, 1 day")
        };
        let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let (number, unit) = trimmed.split_at(split);
        let number: f64 = number.parse().map_err(|_| bad())?;
        let unit = unit.trim().to_ascii_lowercase();
        let scale = UNITS
            .iter()
            .find(|(name, _)| unit == *name || (name.len() > 2 && unit.strip_suffix('s') == Some(name)))
            .map(|(_, micros)| *micros)
            .ok_or_else(bad)?;
        let micros = number * scale as f64;
        if !micros.is_finite() || !(0.0..9.0e18).contains(&micros) {
            return Err(bad());
        }
        Ok(Span(Duration::from_micros(micros.round() as u64)))
    }
}

impl fmt::Display for Span {
    /// The largest whole unit: `90 seconds`, `1 minute`, `250 ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        let named =
            [(86_400_000_000_u128, "day"), (3_600_000_000, "hour"), (60_000_000, "minute"), (1_000_000, "second")];
        for (scale, name) in named {
            if micros >= scale && micros.is_multiple_of(scale) {
                let n = micros / scale;
                return write!(f, "{n} {name}{}", if n == 1 { "" } else { "s" });
            }
        }
        if micros.is_multiple_of(1_000) { write!(f, "{} ms", micros / 1_000) } else { write!(f, "{micros} µs") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        let cases = [("5 seconds", 5_000_000), ("1 minute", 60_000_000), ("250ms", 250_000), ("1.5h", 5_400_000_000)];
        for (text, micros) in cases {
            assert_eq!(Span::parse(text).map(|s| s.0.as_micros()).ok(), Some(micros), "{text}");
        }
        for text in ["", "5", "five seconds", "5 parsecs", "-1 s"] {
            assert!(Span::parse(text).is_err(), "{text}");
        }
    }
}
