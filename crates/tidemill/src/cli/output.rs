//! [`Output`]: the only place that writes to stdout and stderr.
//!
//! **Invariant:** nothing is written to stdout but results; a closed pipe is no error of ours.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use tidemill_model::{Error, Kind};
use tidemill_sql::render;

use super::args::{Common, Format};
use crate::variable;

/// Where and how a command prints.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    pub(crate) format: Format,
    quiet: bool,
    short: bool,
    verbose: bool,
    /// Whether stderr is a terminal that may be redrawn.
    live: bool,
    colour: bool,
}

impl Output {
    pub(crate) fn new(common: &Common) -> Output {
        let plain = variable("NO_COLOR").is_some_and(|v| !v.is_empty()) || variable("TERM").as_deref() == Some("dumb");
        let terminal = std::io::stderr().is_terminal();
        Output {
            format: common.format,
            quiet: common.quiet,
            short: common.short,
            verbose: common.verbose,
            live: terminal && !plain && common.format == Format::Human && !common.quiet,
            colour: terminal && !plain,
        }
    }

    /// Whether more than the essential is asked for.
    pub(crate) fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// Whether results are for people.
    pub(crate) fn is_human(&self) -> bool {
        self.format == Format::Human
    }

    /// A line of result.
    pub(crate) fn line(&self, text: impl AsRef<str>) {
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(text.as_ref().as_bytes()).and_then(|()| out.write_all(b"\n"));
    }

    /// A JSON value as the result: pretty for `json`, one line for `ndjson`.
    pub(crate) fn value(&self, value: &Value) {
        let text = match self.format {
            Format::Ndjson => value.to_string(),
            Format::Human | Format::Json => serde_json::to_string_pretty(value).unwrap_or_default(),
        };
        self.line(text);
    }

    /// Several JSON values as the result: one array for `json`, one line each for `ndjson`.
    pub(crate) fn values(&self, values: Vec<Value>) {
        if self.format == Format::Ndjson {
            values.iter().for_each(|value| self.value(value));
        } else {
            self.value(&Value::Array(values));
        }
    }

    /// A note for people beside the result.
    pub(crate) fn note(&self, text: impl AsRef<str>) {
        if !self.quiet {
            let mut err = std::io::stderr().lock();
            let _ = err.write_all(text.as_ref().as_bytes()).and_then(|()| err.write_all(b"\n"));
        }
    }

    /// A line that is redrawn while something long goes on; drawn nowhere without a terminal.
    pub(crate) fn spinner(&self) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(None, self.target());
        bar.set_style(ProgressStyle::with_template("  {wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar
    }

    /// A bar over `total` rows.
    pub(crate) fn bar(&self, name: &str, total: u64) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(Some(total), self.target());
        let style = ProgressStyle::with_template("  {prefix}  {bar:36}  {human_pos} of {human_len}   {elapsed}")
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("█▌·");
        bar.set_style(style);
        bar.set_prefix(name.to_owned());
        bar
    }

    fn target(&self) -> ProgressDrawTarget {
        if self.live { ProgressDrawTarget::stderr_with_hz(10) } else { ProgressDrawTarget::hidden() }
    }

    /// How often a run reports without a terminal: one line each ten seconds.
    pub(crate) fn reports_every(&self) -> Option<Duration> {
        (!self.live && !self.quiet).then_some(Duration::from_secs(10))
    }

    /// An error and those found with it.
    pub(crate) fn error(&self, error: &Error) {
        let mut err = std::io::stderr().lock();
        let text = if self.short {
            one_line_each(error)
        } else if self.is_human() {
            render(error, self.colour)
        } else {
            format!("{}\n", as_json(error))
        };
        let _ = err.write_all(text.as_bytes());
        if !text.ends_with('\n') {
            let _ = err.write_all(b"\n");
        }
        if self.verbose {
            let mut cause = std::error::Error::source(error);
            while let Some(inner) = cause {
                let _ = writeln!(err, "caused by: {inner}");
                cause = inner.source();
            }
        }
    }
}

fn one_line_each(error: &Error) -> String {
    std::iter::once(error)
        .chain(error.more())
        .map(|error| match error.place() {
            Some(place) => {
                let (line, column) = place.line_column();
                format!("{}:{line}:{column}: {}: {}\n", place.file, error.code(), error.message())
            }
            None => format!("{}: {}\n", error.code(), error.message()),
        })
        .collect()
}

fn as_json(error: &Error) -> Value {
    let one = |error: &Error| {
        let place = error.place().map(|place| {
            let (line, column) = place.line_column();
            json!({"file": *place.file, "line": line, "column": column})
        });
        json!({
            "kind": kind(error.kind()),
            "code": error.code(),
            "message": error.message(),
            "label": error.caret_label(),
            "place": place,
            "facts": error.facts(),
        })
    };
    json!({"errors": std::iter::once(error).chain(error.more()).map(one).collect::<Vec<_>>()})
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Config => "config",
        Kind::Plan => "plan",
        Kind::Data => "data",
        Kind::Unavailable => "unavailable",
        Kind::Fenced => "fenced",
        Kind::Corrupt => "corrupt",
        Kind::Internal => "internal",
    }
}
