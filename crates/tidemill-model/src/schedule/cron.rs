//! Reads the five fields of a cron into a [`Pattern`]. The fields are parsed by `croner`; when they fire is decided
//! here.
//!
//! **Invariant:** a pattern that is read fires some day; a field that is wrong is named.
//!
//! `croner` could search for the next fire too, by another rule where the clock jumps: it fires once only for a single
//! minute of a single hour, loses `0 1,2 * * *` in a gap and fires it twice where the clock is set back. It also steps
//! through gaps a second at a time, and knows none longer than two hours.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

use super::days::Days;
use super::pattern::Pattern;
use crate::{Error, Kind, Result};

/// The fields: name, what may stand there, the words allowed.
const FIELDS: [(&str, &str, &[&str]); 5] = [
    ("minute", "0-59", &[]),
    ("hour", "0-23", &[]),
    ("day of the month", "1-31, L for the last, 15W for the working day nearest to the 15th", &["L", "W", "LW"]),
    ("month", "1-12 or JAN-DEC", &MONTHS),
    ("day of the week", "0-7 or SUN-SAT, 1#2 for the second Monday, 5L for the last Friday", &WEEKDAYS),
];
const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: [&str; 8] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT", "L"];

/// Whether the text is meant as a cron: nothing else has a `*` or more than three words.
pub(crate) fn is_meant(text: &str) -> bool {
    text.contains('*') || text.split_whitespace().count() > 3
}

/// The canonical text and the pattern.
///
/// # Errors
/// Config, when a field is wrong, when there are not five of them, or when no day is ever named.
pub(super) fn read(text: &str) -> Result<(String, Pattern)> {
    let bad = |message: String| Error::new(Kind::Config, "C064", message);
    let upper = text.to_ascii_uppercase();
    let fields: Vec<&str> = upper.split_whitespace().collect();
    let &[minute, hour, _, _, _] = fields.as_slice() else {
        let error = bad(format!("`{text}` has {} fields, and a cron has five", fields.len()))
            .fact("the fields are minute, hour, day of the month, month, day of the week: 0 3 * * 1-5");
        return Err(if fields.len() > 5 { error.fact("there is no field for seconds or years") } else { error });
    };
    for (at, (name, allowed, words)) in FIELDS.iter().enumerate() {
        if !is_field(&fields, at, words) {
            return Err(bad(format!("`{}` is no {name} of a cron", fields[at])).fact(format!("allowed: {allowed}")));
        }
    }
    let canonical = fields.join(" ");
    let cron = parse(&canonical).ok_or_else(|| bad(format!("`{text}` is not a cron")))?;
    let hours = (0..24).filter(|hour| cron.pattern.hour_match(*hour).unwrap_or(false)).fold(0, |bits, h| bits | 1 << h);
    let minutes = (0..60).filter(|m| cron.pattern.minute_match(*m).unwrap_or(false)).fold(0, |bits, m| bits | 1 << m);
    if hours == 0 || minutes == 0 {
        return Err(bad(format!("`{minute} {hour}` names no time of the day")));
    }
    // All hours one by one are as good as `*`.
    let follows_clock = hour.contains(['*', '/']) || hours == 0xff_ffff;
    let pattern = Pattern { days: days(cron), hours, minutes, follows_clock };
    if !pattern.ever() {
        return Err(bad(format!("`{text}` never fires")).fact("no month has such a day"));
    }
    Ok((canonical, pattern))
}

fn days(cron: Cron) -> Days {
    let pattern = cron.pattern;
    let all_months = (1..=12).all(|month| pattern.month_match(month).unwrap_or(false));
    if pattern.is_dom_wildcard() && pattern.is_dow_wildcard() && all_months {
        Days::ALL
    } else {
        Days::Cron(Box::new(pattern))
    }
}

fn parse(text: &str) -> Option<Cron> {
    CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build().parse(text).ok()
}

/// Whether the field can stand at its place. `croner` replaces names wherever they are and passes over empty elements
/// of lists, so these are looked at first.
fn is_field(fields: &[&str], at: usize, words: &[&str]) -> bool {
    let field = fields[at];
    let words_fit =
        field.split(|c: char| !c.is_ascii_alphabetic()).all(|word| word.is_empty() || words.contains(&word));
    let mut alone = ["*"; 5];
    alone[at] = field;
    words_fit && field.split(',').all(|element| !element.is_empty()) && parse(&alone.join(" ")).is_some()
}
