//! `cargo xtask simulate`: many seeds of the stream executor's simulation, or one of them told step by step.
//!
//! **Invariant:** the program is built beside the crate of all dependencies, so that nothing heavy is built for it.

use std::process::Command;

use crate::steps;

/// Builds the simulator and runs it with these words: `--seeds COUNT`, `--from N`, or `--seed N`.
pub(crate) fn run(words: &[&str]) -> Result<(), String> {
    let packages = ["--package", "tidemill-deps", "--package", "tidemill-testkit"];
    steps::cargo(&[&["build", "--release"], packages.as_slice(), &["--example", "simulate"]].concat(), &[])?;
    let metadata = steps::cargo_output(&["metadata", "--format-version", "1", "--no-deps"])?;
    let target = metadata.split("\"target_directory\":\"").nth(1).and_then(|rest| rest.split('"').next());
    let target = target.ok_or("cargo metadata names no target folder")?;
    let program = format!("{target}/release/examples/simulate");
    let status = Command::new(&program).args(words).status().map_err(|e| format!("cannot start {program}: {e}"))?;
    if status.success() { Ok(()) } else { Err("a simulation found a defect; its seed stands above".to_owned()) }
}
