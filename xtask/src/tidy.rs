//! `cargo xtask tidy`: the rules of the house that no compiler knows, each a function from files to findings.
//!
//! **Invariant:** a rule reads nothing but the [`Repository`] it is given, so that each is tested on files of its own.

mod codes;
mod edges;
mod links;
mod lock;
mod shape;
mod text;

pub(crate) use codes::{PAGE as ERRORS_PAGE, page as errors_page};

use crate::repository::{self, Repository};
use crate::say;

/// What a rule found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// What must be mended.
    pub(crate) broken: Vec<String>,
    /// What should be looked at.
    pub(crate) notes: Vec<String>,
}

impl Findings {
    fn broken(&mut self, place: &str, what: impl std::fmt::Display) {
        self.broken.push(format!("{place}: {what}"));
    }

    fn note(&mut self, place: &str, what: impl std::fmt::Display) {
        self.notes.push(format!("{place}: {what}"));
    }
}

/// A rule of the house.
type Rule = fn(&Repository, &mut Findings);

const RULES: &[(&str, Rule)] = &[
    ("crates depend leftwards, heavy dependencies have one home", edges::rule),
    ("one arrow, one DataFusion, one object_store", lock::rule),
    ("files begin with //! and stay short", shape::rule),
    ("nothing left open, no hosts of registries, files end in a newline", text::rule),
    ("links and named paths exist, pages keep their length", links::rule),
    ("error codes carry the letter of their kind, belong to one crate, and are listed", codes::rule),
];

/// Applies every rule to the project.
pub(crate) fn run() -> Result<(), String> {
    let repository = Repository::read(&repository::root())?;
    let mut broken = 0;
    for (name, rule) in RULES {
        let mut found = Findings::default();
        rule(&repository, &mut found);
        say::line(&format!("{} {name}", if found.broken.is_empty() { "=" } else { "x" }));
        for line in &found.broken {
            say::problem(&format!("    {line}"));
        }
        for line in &found.notes {
            say::line(&format!("  ! {line}"));
        }
        broken += found.broken.len();
    }
    if broken == 0 { Ok(()) } else { Err(format!("tidy: {broken} to mend")) }
}

/// What a rule finds in these files, for its tests.
#[cfg(test)]
fn broken(rule: Rule, files: &[(&str, &str)]) -> Vec<String> {
    let mut found = Findings::default();
    rule(&Repository::of(files), &mut found);
    found.broken
}
