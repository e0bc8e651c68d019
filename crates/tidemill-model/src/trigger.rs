//! [`Trigger`]: when a pipeline works.

use std::fmt;

use crate::{Error, Kind, Result, Span};

/// When work happens. A run of one interval is asked for on the command line and is no trigger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trigger {
    /// Until the sources' present end, then stop.
    Once,
    /// One epoch a tick.
    Every(Span),
    /// An epoch each `checkpoint`, without end.
    Continuous,
}

impl Trigger {
    /// Reads `once`, `every 30 seconds`, `continuous`.
    ///
    /// # Errors
    /// Config, when it is none of these.
    pub fn parse(text: &str) -> Result<Trigger> {
        let lower = text.trim().to_ascii_lowercase();
        match lower.as_str() {
            "once" => return Ok(Trigger::Once),
            "continuous" => return Ok(Trigger::Continuous),
            _ => {}
        }
        if let Some(rest) = lower.strip_prefix("every ") {
            let with_number = if rest.trim_start().starts_with(|c: char| c.is_ascii_digit()) {
                rest.to_owned()
            } else {
                format!("1 {rest}")
            };
            let span = Span::parse(&with_number).map_err(|_| {
                Error::new(Kind::Config, "C033", format!("`{text}` is not a trigger"))
                    .fact("write a number and a unit: every 250 ms, every 5 seconds, every minute, every 2 hours")
            })?;
            if span.0.is_zero() {
                return Err(Error::new(Kind::Config, "C033", "a trigger cannot be due every 0 seconds"));
            }
            return Ok(Trigger::Every(span));
        }
        Err(Error::new(Kind::Config, "C033", format!("`{text}` is not a trigger")).fact(
            "triggers: once, every 30 seconds, continuous (one run of an interval: run P --interval START/PERIOD)",
        ))
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trigger::Once => f.write_str("once"),
            Trigger::Every(span) => write!(f, "every {span}"),
            Trigger::Continuous => f.write_str("continuous"),
        }
    }
}
