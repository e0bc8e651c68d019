//! [`Trigger`]: when a pipeline works.
//!
//! **Invariant:** what a trigger shows reads back as the same trigger.

use std::fmt;

use crate::schedule::{PRESETS, is_cron};
use crate::{Error, Kind, Result, Schedule, Span, nearest};

/// When work happens. A run of one interval is asked for on the command line and is no trigger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trigger {
    /// Until the sources' present end, then stop.
    Once,
    /// One epoch a tick.
    Every(Span),
    /// An epoch each `checkpoint`, without end.
    Continuous,
    /// A run of each interval that is due, looked for by the schedule.
    Scheduled(Box<Schedule>),
    /// A run whenever these datasets, one at least, have new intervals.
    On(Vec<String>),
}

impl Trigger {
    /// Reads `once`, `every 30 seconds`, `continuous`, `@daily` and its like, a cron, `on orders, refunds`. The zone is
    /// for schedules: ticks have none.
    ///
    /// # Errors
    /// Config, when it is none of these, or a schedule that is wrong.
    pub fn parse(text: &str, zone: Option<&str>) -> Result<Trigger> {
        let bare = text.trim();
        let (first, rest) = bare.split_once(char::is_whitespace).unwrap_or((bare, ""));
        match (first.to_ascii_lowercase().as_str(), rest.trim()) {
            ("once", "") => Ok(Trigger::Once),
            ("continuous", "") => Ok(Trigger::Continuous),
            ("every", rest) if !rest.is_empty() => every(text, rest),
            ("on", rest) if !rest.is_empty() => datasets(text, rest),
            (first, _) if PRESETS.contains(&first) || is_cron(bare) => {
                Schedule::parse(bare, zone).map(|schedule| Trigger::Scheduled(Box::new(schedule)))
            }
            _ => Err(unknown(text)),
        }
    }
}

fn every(text: &str, rest: &str) -> Result<Trigger> {
    let counted = if rest.starts_with(|c: char| c.is_ascii_digit()) { rest.to_owned() } else { format!("1 {rest}") };
    let span = Span::parse(&counted).map_err(|_| {
        Error::new(Kind::Config, "C033", format!("`{text}` is not a trigger"))
            .fact("write a number and a unit: every 250 ms, every 5 seconds, every minute, every 2 hours")
    })?;
    if span.0.is_zero() {
        return Err(Error::new(Kind::Config, "C033", "a trigger cannot be due every 0 seconds"));
    }
    Ok(Trigger::Every(span))
}

fn datasets(text: &str, rest: &str) -> Result<Trigger> {
    let bad = || {
        Error::new(Kind::Config, "C033", format!("`{text}` is not a trigger"))
            .fact("name the datasets once each, with commas between them: on orders, refunds")
    };
    let mut names: Vec<String> = Vec::new();
    for name in rest.split(',').map(str::trim) {
        if name.is_empty() || name.contains(char::is_whitespace) || names.iter().any(|known| known == name) {
            return Err(bad());
        }
        names.push(name.to_owned());
    }
    Ok(Trigger::On(names))
}

fn unknown(text: &str) -> Error {
    let mut error = Error::new(Kind::Config, "C033", format!("`{text}` is not a trigger"));
    if let Some(meant) = meant(text.trim()) {
        error = error.label(format!("did you mean `{meant}`?"));
    }
    error.fact(
        "triggers: once, every 30 seconds, continuous, @hourly (or @daily, @weekly, @monthly, @quarterly, @yearly), a cron \
         (`0 3 * * *`), on DATASET (one run of an interval: run P --interval START/PERIOD)",
    )
}

/// What was probably meant: one of the words, or a length without its `every`.
fn meant(text: &str) -> Option<String> {
    if text.is_empty() {
        return None;
    }
    if Span::parse(text).is_ok() {
        return Some(format!("every {text}"));
    }
    match text.split_once(char::is_whitespace) {
        None if text.eq_ignore_ascii_case("on") => Some("on DATASET".to_owned()),
        Some((first, rest)) => nearest(first, ["every"]).map(|every| format!("{every} {}", rest.trim())),
        None => nearest(text, ["once", "continuous"].into_iter().chain(PRESETS)).map(str::to_owned),
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trigger::Once => f.write_str("once"),
            Trigger::Every(span) => write!(f, "every {span}"),
            Trigger::Continuous => f.write_str("continuous"),
            Trigger::Scheduled(schedule) => schedule.fmt(f),
            Trigger::On(datasets) => write!(f, "on {}", datasets.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_shows() {
        let cases = [
            ("once", "once"),
            ("Continuous", "continuous"),
            ("every minute", "every 1 minute"),
            ("EVERY 250ms", "every 250 ms"),
            ("@daily", "@daily"),
            ("@Midnight", "@daily"),
            (" @hourly in europe/paris ", "@hourly in Europe/Paris"),
            ("0 3 * * mon-fri", "0 3 * * MON-FRI"),
            ("on orders", "on orders"),
            ("On orders ,refunds", "on orders, refunds"),
        ];
        for (text, shown) in cases {
            let trigger = Trigger::parse(text, None).expect(text);
            assert_eq!(trigger.to_string(), shown);
            assert_eq!(Trigger::parse(shown, None).expect(shown), trigger);
        }
        let local = Trigger::parse("@daily", Some("Europe/Paris")).expect("reads");
        assert_eq!(local.to_string(), "@daily in Europe/Paris");
        assert_eq!(Trigger::parse("every 5 s", Some("Europe/Paris")).expect("reads").to_string(), "every 5 seconds");
    }

    #[test]
    fn what_is_no_trigger_says_what_was_meant() {
        let cases = [
            ("@houly", "did you mean `@hourly`?"),
            ("hourly", "did you mean `@hourly`?"),
            ("contiuous", "did you mean `continuous`?"),
            ("daily", "did you mean `@daily`?"),
            ("one", "did you mean `once`?"),
            ("evry 5 minutes", "did you mean `every 5 minutes`?"),
            ("5 minutes", "did you mean `every 5 minutes`?"),
            ("now", ""),
            ("", ""),
            ("on", "did you mean `on DATASET`?"),
            ("when it rains", ""),
            ("once more", ""),
            ("continuous 5", ""),
        ];
        for (text, label) in cases {
            let error = Trigger::parse(text, None).expect_err(text);
            assert_eq!((error.code(), error.caret_label()), ("C033", label), "{text}");
        }
        let error = Trigger::parse("now", None).expect_err("refused");
        for word in ["once", "every 30 seconds", "continuous", "@hourly", "@yearly", "`0 3 * * *`", "on DATASET"] {
            assert!(error.facts()[0].contains(word), "{word}: {error}");
        }
    }

    #[test]
    fn what_is_wrong_within_a_trigger_is_named() {
        for text in ["every 0 seconds", "every parsec", "on a,,b", "on a b", "on a, a", "on ,"] {
            assert_eq!(Trigger::parse(text, None).expect_err(text).code(), "C033", "{text}");
        }
        assert_eq!(Trigger::parse("0 25 * * *", None).expect_err("refused").code(), "C064");
        assert_eq!(Trigger::parse("@daily", Some("Europe/Pari")).expect_err("refused").code(), "C066");
    }
}
