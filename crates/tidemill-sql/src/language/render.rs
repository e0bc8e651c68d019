//! [`render`]: an error as people read it, with the line it is about, a caret and what to write instead.
//!
//! **Invariant:** the user's own text is shown as it was written; only tabs are widened so that carets stay below it.

use std::fmt::Write as _;
use std::sync::Arc;

use tidemill_model::{Error, Place};

/// More than this many errors at once teach nobody anything.
pub(crate) const MOST: usize = 10;
/// A cause of more lines than this is a library's trace.
const CAUSE_LINES: usize = 5;

const TAB: &str = "    ";

/// An error and those found with it, as text of several lines that ends in a newline. `colour` adds ANSI escapes.
#[must_use]
pub fn render(error: &Error, colour: bool) -> String {
    let all = listed(error);
    let mut out = String::new();
    let paint = Paint { colour };
    for (n, error) in all.iter().take(MOST).enumerate() {
        if n > 0 {
            out.push('\n');
        }
        one(error, &paint, &mut out);
    }
    if all.len() > MOST {
        let _ = writeln!(out, "\nand {} more errors", all.len() - MOST);
    }
    out
}

/// An error and those found with it, each once: two statements over one view find what is wrong in it twice. They are
/// in the order of the files, when all of them have a place there.
#[must_use]
pub fn listed(error: &Error) -> Vec<&Error> {
    let mut all: Vec<&Error> = Vec::new();
    collect(error, &mut all);
    if all.iter().all(|error| error.place().is_some()) {
        all.sort_by_key(|error| error.place().map(|place| (Arc::clone(&place.file), place.span.start)));
    }
    all
}

fn collect<'a>(error: &'a Error, all: &mut Vec<&'a Error>) {
    let same = |other: &&Error| {
        (other.code(), other.message(), other.place()) == (error.code(), error.message(), error.place())
    };
    if !all.iter().any(same) {
        all.push(error);
    }
    for more in error.more() {
        collect(more, all);
    }
}

struct Paint {
    colour: bool,
}

impl Paint {
    fn with(&self, code: &str, text: &str) -> String {
        if self.colour && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bad(&self, text: &str) -> String {
        self.with("1;31", text)
    }

    fn strong(&self, text: &str) -> String {
        self.with("1", text)
    }

    fn gutter(&self, text: &str) -> String {
        self.with("34", text)
    }
}

fn one(error: &Error, paint: &Paint, out: &mut String) {
    let head = format!("error[{}]", error.code());
    let _ = writeln!(out, "{}{}", paint.bad(&head), paint.strong(&format!(": {}", error.message())));
    let margin = match error.place() {
        Some(place) => excerpt(place, error.caret_label(), paint, out),
        None => {
            if !error.caret_label().is_empty() {
                fact(error.caret_label(), 1, paint, out);
            }
            1
        }
    };
    for line in error.facts() {
        fact(line, margin, paint, out);
    }
    if let Some(cause) = std::error::Error::source(error).map(ToString::to_string)
        && let cause = first_words(&cause)
        && !cause.is_empty()
        && !error.message().contains(&cause)
    {
        fact(&format!("cause: {cause}"), margin, paint, out);
    }
}

/// What a library says, up to the hints and traces that it may add to it.
fn first_words(cause: &str) -> String {
    let lines = cause.trim().lines().take_while(|line| {
        let line = line.trim();
        let frame = line.split_once(": ").is_some_and(|(number, _)| number.parse::<u32>().is_ok());
        !line.is_empty() && !frame && !line.to_ascii_lowercase().starts_with("backtrace")
    });
    lines.take(CAUSE_LINES).collect::<Vec<_>>().join("\n").trim_end().to_owned()
}

fn fact(text: &str, margin: usize, paint: &Paint, out: &mut String) {
    for (n, line) in text.lines().enumerate() {
        let mark = if n == 0 { "=" } else { " " };
        let _ = writeln!(out, "{:margin$} {} {line}", "", paint.gutter(mark));
    }
}

/// The line with its caret; answers the width of the gutter.
fn excerpt(place: &Place, label: &str, paint: &Paint, out: &mut String) -> usize {
    let (line, column) = place.line_column();
    let width = line.to_string().len().max(2);
    let row = place.line_text();
    let _ = writeln!(out, "{:width$}{} {}:{line}:{column}", "", paint.gutter("-->"), place.file);
    let bar = paint.gutter("|");
    let _ = writeln!(out, "{:width$} {bar}", "");
    let _ = writeln!(out, "{} {bar} {}", paint.gutter(&format!("{line:>width$}")), row.replace('\t', TAB));

    let before: String = row.chars().take(column - 1).collect();
    let meant = place.text.get(place.span.clone()).unwrap_or("");
    let here = meant.lines().next().unwrap_or("");
    let carets = "^".repeat(columns(here).max(1));
    let pad = " ".repeat(columns(&before));
    let below = if label.is_empty() { carets } else { format!("{carets} {label}") };
    let _ = writeln!(out, "{:width$} {bar} {pad}{}", "", paint.bad(&below));
    let last = line + meant.trim_end().matches('\n').count();
    if last > line {
        fact(&format!("up to line {last}"), width, paint, out);
    }
    width
}

/// How many terminal columns a text takes: tabs as shown here, wide characters two, combining marks none.
#[must_use]
pub fn columns(text: &str) -> usize {
    text.chars().map(|c| if c == '\t' { TAB.len() } else { char_columns(c) }).sum()
}

fn char_columns(c: char) -> usize {
    match u32::from(c) {
        0x0300..=0x036F | 0x200B..=0x200F | 0xFE00..=0xFE0F => 0,
        0x1100..=0x115F
        | 0x2E80..=0x303E
        | 0x3041..=0xA4CF
        | 0xAC00..=0xD7A3
        | 0xF900..=0xFAFF
        | 0xFE30..=0xFE6F
        | 0xFF00..=0xFF60
        | 0xFFE0..=0xFFE6
        | 0x1F300..=0x1FAFF
        | 0x20000..=0x3FFFD => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use tidemill_model::Kind;

    use super::*;

    fn at(text: &str, word: &str) -> Place {
        let start = text.find(word).expect("the word is there");
        Place { file: Arc::from("pipelines/revenue.sql"), text: Arc::from(text), span: start..start + word.len() }
    }

    #[test]
    fn shows_the_line_the_caret_and_the_facts() {
        let text = "\n\nSELECT region, sum(amout) AS revenue";
        let error = Error::new(Kind::Plan, "P104", "no column `amout` in `raw_orders`")
            .at(&at(text, "amout"))
            .label("did you mean `amount`?")
            .fact("columns: order_id, amount");
        let expected = "\
error[P104]: no column `amout` in `raw_orders`
  --> pipelines/revenue.sql:3:20
   |
 3 | SELECT region, sum(amout) AS revenue
   |                    ^^^^^ did you mean `amount`?
   = columns: order_id, amount
";
        assert_eq!(render(&error, false), expected);
    }

    #[test]
    fn carets_stay_below_wide_text_and_tabs() {
        let text = "\tSELECT '日本' , bad";
        let error = Error::new(Kind::Plan, "P100", "no").at(&at(text, "bad"));
        let shown = render(&error, false);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[3], " 1 |     SELECT '日本' , bad");
        // Four for the tab, seven of SELECT, two quotes and two wide characters, the space, the comma and a space.
        assert_eq!(lines[4], format!("   | {}^^^", " ".repeat(4 + 7 + 6 + 3)));
    }

    #[test]
    fn several_lines_and_no_place() {
        let text = "CHECK (a\n  > 0)";
        let error = Error::new(Kind::Plan, "P100", "first")
            .at(&at(text, "a\n  > 0"))
            .and(vec![Error::new(Kind::Config, "C001", "second").fact("do this\nand that")]);
        let expected = "\
error[P100]: first
  --> pipelines/revenue.sql:1:8
   |
 1 | CHECK (a
   |        ^
   = up to line 2

error[C001]: second
  = do this
    and that
";
        assert_eq!(render(&error, false), expected);
    }

    #[test]
    fn causes_come_without_traces_and_nothing_comes_twice() {
        let error = || {
            Error::new(Kind::Corrupt, "X001", "the log is damaged")
                .because("expected value at line 1\nnear `no log`\n   0: delta::read\n             at src/read.rs:7\n")
        };
        let expected = "\
error[X001]: the log is damaged
  = cause: expected value at line 1
    near `no log`
";
        assert_eq!(
            render(&error().and(vec![error(), Error::new(Kind::Corrupt, "X001", "the log is damaged")]), false),
            expected
        );
        let traced = Error::new(Kind::Corrupt, "X001", "no").because("why\n\nbacktrace:   0: main");
        assert_eq!(render(&traced, false), "error[X001]: no\n  = cause: why\n");
    }

    #[test]
    fn a_flood_is_cut() {
        let more = (0..20).map(|n| Error::new(Kind::Plan, "P100", format!("error {n}"))).collect();
        let shown = render(&Error::new(Kind::Plan, "P100", "first").and(more), false);
        assert_eq!(shown.matches("error[").count(), MOST);
        assert!(shown.ends_with("and 11 more errors\n"), "{shown}");
    }

    #[test]
    fn colour_adds_only_escapes() {
        let error = Error::new(Kind::Plan, "P100", "no").at(&at("x y", "y")).label("here").fact("fact");
        let plain = render(&error, false);
        let mut coloured = render(&error, true);
        for code in ["\x1b[1;31m", "\x1b[1m", "\x1b[34m", "\x1b[0m"] {
            coloured = coloured.replace(code, "");
        }
        assert_eq!(plain, coloured);
    }
}
