//! The project's own automation, in std only so that it builds in a second: [`main`] shows every command.
//!
//! **Invariant:** what CI checks is a command here; no script knows a rule of its own.

mod deny;
mod docs;
mod queries;
mod repository;
mod say;
mod simulate;
mod steps;
mod test;
mod tidy;

use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask COMMAND

  test [--quick]      everything CI asks: format, tidy, clippy, docs, tests, reference pages
                      --quick: format, tidy, and the tests of the light crates only
  tidy                the rules of the house that no compiler knows
  docs [--check]      writes docs/reference/, or says which pages are stale
  simulate [--seeds COUNT] [--from N] [--seed N]
                      the stream executor on a virtual clock with everything failing that can; one seed is told in full
  queries [--count N] [--seed N] [--query N]
                      made-up queries through every mode, compared with DataFusion; one of them alone
  deny [--install]    licences, advisories and duplicate dependencies, by cargo-deny
                      --install: builds cargo-deny first when it is missing
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if let Err(problem) = repository::enter_root() {
        say::problem(&problem);
        return ExitCode::FAILURE;
    }
    let done = match words.as_slice() {
        ["test"] => test::run(test::Extent::Everything),
        ["test", "--quick"] => test::run(test::Extent::Quick),
        ["tidy"] => tidy::run(),
        ["docs"] => docs::write(),
        ["docs", "--check"] => docs::check(),
        ["simulate", words @ ..] => simulate::run(words),
        ["queries", words @ ..] => queries::run(words),
        ["deny"] => deny::run(deny::Missing::Refuse),
        ["deny", "--install"] => deny::run(deny::Missing::Install),
        ["help" | "--help" | "-h"] | [] => {
            say::line(USAGE);
            return ExitCode::SUCCESS;
        }
        other => {
            say::problem(&format!("no such command: cargo xtask {}\n\n{USAGE}", other.join(" ")));
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            say::problem(&problem);
            ExitCode::FAILURE
        }
    }
}
