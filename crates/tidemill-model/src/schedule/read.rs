//! Reads the text of a schedule or a grid into a [`Reading`].
//!
//! **Invariant:** the text that a reading shows reads back as the same.

use std::fmt;

use super::cron;
use super::days::Days;
use super::fires::Rhythm;
use super::pattern::Pattern;
use super::zone::Zone;
use crate::{Error, Kind, Result, Span};

/// The names with an `@`.
pub(crate) const PRESETS: [&str; 8] =
    ["@hourly", "@daily", "@weekly", "@monthly", "@quarterly", "@yearly", "@midnight", "@annually"];

const DAY: i64 = 86_400_000_000;
const WEEK: i64 = 7 * DAY;
/// Whole weeks begin on Mondays, and 1970-01-01 was a Thursday.
const MONDAY: i64 = 4;

/// What was read: the canonical text, the zone as it was named, and when it fires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reading {
    /// The text without the zone.
    pub(super) text: String,
    /// The zone, also when it is UTC.
    pub(super) zone: Option<Zone>,
    /// When it fires.
    pub(super) rhythm: Rhythm,
}

impl Reading {
    /// A schedule: a name, a cron, or `every` and a length.
    pub(super) fn schedule(text: &str, zone: Option<&str>) -> Result<Reading> {
        let (bare, zone) = split_zone(text, zone)?;
        if let Some(length) = after_every(bare) {
            let (length, rhythm) = every(length, zone.as_ref())?;
            return Ok(Reading { text: format!("every {length}"), zone, rhythm });
        }
        let Some(calendar) = calendar(bare, zone.as_ref())? else {
            let error = Error::new(Kind::Config, "C064", format!("`{text}` is not a schedule"));
            let error = if Span::parse(bare).is_ok() {
                error.label(format!("did you mean `every {bare}`?"))
            } else {
                preset_meant(error, bare)
            };
            return Err(error
                .fact(format!("schedules: {}, every 15 minutes, or a cron (`0 3 * * *`)", PRESETS[..6].join(", "))));
        };
        let (text, rhythm) = calendar;
        Ok(Reading { text, zone, rhythm })
    }

    /// A grid: a name, a cron, or a length.
    pub(super) fn grid(text: &str, zone: Option<&str>) -> Result<Reading> {
        let (bare, zone) = split_zone(text, zone)?;
        let length = after_every(bare).unwrap_or(bare);
        let (text, rhythm) = match calendar(bare, zone.as_ref())? {
            Some(calendar) => calendar,
            None if length.starts_with(|c: char| c.is_ascii_digit()) || length != bare => every(length, zone.as_ref())?,
            None => {
                let error = Error::new(Kind::Config, "C065", format!("`{text}` is not a grid"));
                return Err(preset_meant(error, bare).fact(format!(
                    "grids: {}, a length (15 minutes, 1 hour, 1 day), or a cron (`0 3 * * *`)",
                    PRESETS[..6].join(", ")
                )));
            }
        };
        Ok(Reading { text, zone, rhythm })
    }
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        match &self.zone {
            Some(zone) => write!(f, " in {zone}"),
            None => Ok(()),
        }
    }
}

fn preset_meant(error: Error, text: &str) -> Error {
    match crate::nearest(text, PRESETS) {
        Some(meant) => error.label(format!("did you mean `{meant}`?")),
        None => error,
    }
}

/// The text before ` in ZONE`, and the zone named there or beside it.
fn split_zone<'a>(text: &'a str, beside: Option<&str>) -> Result<(&'a str, Option<Zone>)> {
    let text = text.trim();
    let beside = beside.map(Zone::parse).transpose()?;
    let Some((bare, within)) = text.rsplit_once(" in ") else { return Ok((text, beside)) };
    let within = Zone::parse(within)?;
    match beside {
        Some(beside) if beside != within => Err(Error::new(
            Kind::Config,
            "C066",
            format!("`{text}` has the time zone {within}, and {beside} is given too"),
        )
        .fact("name the time zone once")),
        _ => Ok((bare.trim(), Some(within))),
    }
}

fn after_every(text: &str) -> Option<&str> {
    let (word, rest) = text.split_once(char::is_whitespace)?;
    word.eq_ignore_ascii_case("every").then_some(rest.trim())
}

/// A name or a cron, if the text is meant as one.
fn calendar(text: &str, zone: Option<&Zone>) -> Result<Option<(String, Rhythm)>> {
    let lower = text.to_ascii_lowercase();
    let named = |name: &str, fields: &str| {
        cron::read(fields).map(|(_, pattern)| Some((name.to_owned(), Rhythm::of(pattern, zone))))
    };
    match lower.as_str() {
        "@hourly" => named("@hourly", "0 * * * *"),
        "@daily" | "@midnight" => named("@daily", "0 0 * * *"),
        "@weekly" => Ok(Some(("@weekly".to_owned(), days(7, zone)))),
        "@monthly" => named("@monthly", "0 0 1 * *"),
        "@quarterly" => named("@quarterly", "0 0 1 1,4,7,10 *"),
        "@yearly" | "@annually" => named("@yearly", "0 0 1 1 *"),
        _ if cron::is_meant(text) => cron::read(text).map(|(text, pattern)| Some((text, Rhythm::of(pattern, zone)))),
        _ => Ok(None),
    }
}

/// Midnights so many days apart.
fn days(step: i64, zone: Option<&Zone>) -> Rhythm {
    let origin = if step % 7 == 0 { MONDAY } else { 0 };
    match zone {
        Some(zone) if !zone.is_utc() => Rhythm::of(Pattern::midnights(Days::Every { step, origin }), Some(zone)),
        _ => Rhythm::Even { size: step * DAY, origin: origin * DAY },
    }
}

/// A length, `15 minutes` or `hour`: its canonical text and when it fires.
fn every(text: &str, zone: Option<&Zone>) -> Result<(String, Rhythm)> {
    let bad = |message: String| Error::new(Kind::Config, "C064", message);
    let counted = if text.starts_with(|c: char| c.is_ascii_digit()) { text.to_owned() } else { format!("1 {text}") };
    let unit = counted.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').trim().to_ascii_lowercase();
    let Ok(span) = Span::parse(&counted) else {
        let error = bad(format!("nothing can be due every `{text}`"));
        let calendar = ["month", "quarter", "year"].iter().any(|word| unit.starts_with(word));
        return Err(error.fact(if calendar {
            "months are not equally long: write @monthly, @quarterly, @yearly, or a cron (`0 0 1 */2 *`)"
        } else {
            "write a number and a unit: every 30 seconds, every 15 minutes, every hour, every 2 days"
        }));
    };
    let micros = i64::try_from(span.0.as_micros()).unwrap_or(i64::MAX);
    if micros == 0 || micros % 1_000_000 != 0 {
        return Err(bad(format!("nothing can be due every `{text}`")).fact("write whole seconds, one at least"));
    }
    let shown = match micros / WEEK {
        0 => span.to_string(),
        1 if micros % WEEK == 0 => "1 week".to_owned(),
        weeks if micros % WEEK == 0 => format!("{weeks} weeks"),
        _ => span.to_string(),
    };
    if micros % DAY == 0 && (unit.starts_with('d') || unit.starts_with("week")) {
        return Ok((shown, days(micros / DAY, zone)));
    }
    match zone.filter(|zone| !zone.is_utc()) {
        Some(zone) => Err(not_of_a_zone(text, micros, zone)),
        // Hours that make whole weeks begin where weeks begin.
        None if micros % DAY == 0 => Ok((shown, days(micros / DAY, None))),
        None => Ok((shown, Rhythm::Even { size: micros, origin: 0 })),
    }
}

fn not_of_a_zone(text: &str, micros: i64, zone: &Zone) -> Error {
    let error = Error::new(Kind::Config, "C064", format!("every {text} cannot follow the clock of {zone}"));
    if micros % DAY == 0 {
        let days = Span(std::time::Duration::from_micros(micros.unsigned_abs()));
        return error.fact(format!("hours are always 60 minutes, days of {zone} are not 24 hours: write every {days}"));
    }
    error.fact(format!(
        "days of {zone} have 23 to 25 hours, which cannot be cut into equal pieces: leave the time zone out, or write \
         the local times as a cron, `*/15 * * * *` or `0 */6 * * *`"
    ))
}
