//! [`Output`]: the only place that writes to stdout and stderr.
//!
//! **Invariant:** nothing is written to stdout but results, and where a run writes rows there, nothing but these; a
//! closed pipe is no error of ours.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use tidemill_model::{Error, Kind};
use tidemill_sql::language::listed;
use tidemill_sql::render;

use super::args::{Common, Format};
use super::grid::Grid;
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
    /// How many columns stdout has, when it is a terminal.
    width: Option<usize>,
    /// Whether stdout is taken by rows, so that what is said of them goes to stderr.
    beside: bool,
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
            width: comfy_table::Table::new().width().map(usize::from),
            beside: false,
        }
    }

    /// The same for a command that writes rows to stdout: its own results go to stderr.
    pub(crate) fn beside_rows(&self) -> Output {
        Output { beside: true, width: None, ..self.clone() }
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
        if self.beside {
            write_line(&mut std::io::stderr().lock(), text.as_ref());
        } else {
            write_line(&mut std::io::stdout().lock(), text.as_ref());
        }
    }

    /// A table as the result.
    pub(crate) fn grid(&self, grid: &Grid) {
        self.grids(&[grid]);
    }

    /// Tables as the result, parted by an empty line.
    pub(crate) fn grids(&self, grids: &[&Grid]) {
        let mut any_cut = false;
        for (at, grid) in grids.iter().enumerate() {
            let (text, was_cut) = grid.text(self.width);
            any_cut |= was_cut;
            self.line(if at == 0 { text } else { format!("\n{text}") });
        }
        if any_cut {
            self.aside("… was cut to the width of the terminal; --format json has all of it");
        }
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

    /// A JSON object of a stream of them, a line each; of one JSON value nothing.
    pub(crate) fn event(&self, value: &Value) {
        if self.format == Format::Ndjson {
            self.value(value);
        }
    }

    /// A note for people beside the result.
    pub(crate) fn note(&self, text: impl AsRef<str>) {
        if !self.quiet {
            write_line(&mut std::io::stderr().lock(), text.as_ref());
        }
    }

    /// A note of less weight, in a terminal dim.
    pub(crate) fn aside(&self, text: impl AsRef<str>) {
        let text = text.as_ref();
        if self.colour { self.note(format!("\x1b[2m{text}\x1b[0m")) } else { self.note(text) }
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
        for error in listed(error).into_iter().filter(|_| self.verbose) {
            let mut cause = std::error::Error::source(error);
            while let Some(inner) = cause {
                let told = inner.to_string();
                if !text.contains(told.trim()) {
                    let _ = writeln!(err, "caused by: {told}");
                }
                cause = inner.source();
            }
        }
    }
}

fn write_line(to: &mut impl Write, text: &str) {
    let _ = to.write_all(text.as_bytes()).and_then(|()| to.write_all(b"\n"));
}

fn one_line_each(error: &Error) -> String {
    listed(error)
        .into_iter()
        .map(|error| {
            let label = match error.caret_label() {
                "" => String::new(),
                label => format!(" ({label})"),
            };
            let text = format!("{}: {}{label}\n", error.code(), error.message());
            match error.place() {
                Some(place) => {
                    let (line, column) = place.line_column();
                    format!("{}:{line}:{column}: {text}", place.file)
                }
                None => text,
            }
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
            "cause": std::error::Error::source(error).map(ToString::to_string),
        })
    };
    json!({"errors": listed(error).into_iter().map(one).collect::<Vec<_>>()})
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
