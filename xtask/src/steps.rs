//! [`Steps`]: commands run one after the other, each timed, all reported at the end.
//!
//! **Invariant:** a step that fails is named in the closing line and makes the whole fail; none is skipped silently.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::{repository, say};

/// What was run so far.
#[derive(Debug)]
pub(crate) struct Steps {
    begun: Instant,
    done: Vec<(String, Duration, Result<(), String>)>,
}

impl Steps {
    /// Nothing run yet.
    pub(crate) fn begin() -> Steps {
        Steps { begun: now(), done: Vec::new() }
    }

    /// Runs a step that is a function, and goes on whatever it answers.
    pub(crate) fn run(&mut self, name: &str, step: impl FnOnce() -> Result<(), String>) {
        say::line(&format!("\n== {name}"));
        let begun = now();
        let result = step();
        if let Err(problem) = &result {
            say::problem(problem);
        }
        self.done.push((name.to_owned(), now() - begun, result));
    }

    /// Runs cargo with these words and variables.
    pub(crate) fn cargo(&mut self, name: &str, words: &[&str], variables: &[(&str, &str)]) {
        self.run(name, || cargo(words, variables));
    }

    /// The table of steps and the verdict.
    pub(crate) fn end(self) -> Result<(), String> {
        let failed: Vec<&str> =
            self.done.iter().filter(|(_, _, result)| result.is_err()).map(|(name, _, _)| name.as_str()).collect();
        say::line("");
        for (name, took, result) in &self.done {
            let mark = if result.is_ok() { "=" } else { "x" };
            say::line(&format!("{mark} {name:<12} {:>8}", clock(*took)));
        }
        let total = clock(now() - self.begun);
        if failed.is_empty() {
            say::line(&format!("= All {} steps passed in {total}.", self.done.len()));
            Ok(())
        } else {
            Err(format!("x {} of {} steps failed in {total}: {}.", failed.len(), self.done.len(), failed.join(", ")))
        }
    }
}

/// Runs cargo at the project's root, its output going straight to the terminal.
pub(crate) fn cargo(words: &[&str], variables: &[(&str, &str)]) -> Result<(), String> {
    let mut command = cargo_command(words);
    command.envs(variables.iter().copied());
    say::line(&format!("$ cargo {}", words.join(" ")));
    let status = command.status().map_err(|e| format!("cannot start cargo: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("cargo {} ended with {status}", words.join(" "))) }
}

/// Runs cargo and answers what it printed on standard output.
pub(crate) fn cargo_output(words: &[&str]) -> Result<String, String> {
    let output = cargo_command(words)
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(|e| format!("cannot start cargo: {e}"))?;
    if !output.status.success() {
        return Err(format!("cargo {} ended with {}", words.join(" "), output.status));
    }
    String::from_utf8(output.stdout)
        .map_err(|e| format!("cargo {} printed bytes that are no text: {e}", words.join(" ")))
}

/// Whether cargo knows these words; nothing is shown.
pub(crate) fn answers(words: &[&str]) -> bool {
    cargo_command(words).output().is_ok_and(|output| output.status.success())
}

fn cargo_command(words: &[&str]) -> Command {
    // `cargo run` names itself; the same toolchain must do the rest, or the artefacts would not be shared.
    #[expect(clippy::disallowed_methods, reason = "the build tool is where this variable is meant to be read")]
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(repository::root()).args(words);
    // What cargo tells us about this package is not for the cargo that we start: build scripts of dependencies watch
    // these variables, and the dependencies above them would be built anew each time that the caller changes.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_about_this_package) {
            command.env_remove(name);
        }
    }
    command
}

fn is_about_this_package(name: &str) -> bool {
    let told = ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_MANIFEST_LINKS", "CARGO_PRIMARY_PACKAGE"];
    name.starts_with("CARGO_PKG_")
        || name.starts_with("CARGO_CRATE_")
        || name.starts_with("CARGO_BIN_")
        || told.contains(&name)
}

#[expect(clippy::disallowed_methods, reason = "steps are timed for the person who waits for them")]
fn now() -> Instant {
    Instant::now()
}

fn clock(took: Duration) -> String {
    let seconds = took.as_secs();
    match seconds / 60 {
        0 => format!("{:.1} s", took.as_secs_f64()),
        minutes => format!("{minutes} m {:02} s", seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_step_fails_the_whole_and_is_named() {
        let mut steps = Steps::begin();
        steps.run("good", || Ok(()));
        steps.run("bad", || Err("because".to_owned()));
        steps.run("after", || Ok(()));
        let verdict = steps.end().expect_err("a step failed");
        assert!(verdict.contains("1 of 3 steps failed") && verdict.ends_with(": bad."), "{verdict}");
    }

    #[test]
    fn times_are_short() {
        assert_eq!(clock(Duration::from_millis(1240)), "1.2 s");
        assert_eq!(clock(Duration::from_secs(754)), "12 m 34 s");
    }
}
