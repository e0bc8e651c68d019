//! The real `tidemill` binary, run as a process of its own.
//!
//! **Invariant:** it is the one that was built beside these tests, never one that is installed.

use std::fs::File;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// What a process left.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// The result, which is one JSON value.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// The binary's path.
pub(crate) fn path() -> PathBuf {
    let tests = std::env::current_exe().expect("this test has a path");
    let folder = tests.parent().and_then(Path::parent).expect("target/PROFILE/deps");
    let path = folder.join("tidemill");
    assert!(
        path.is_file(),
        "{} is missing: build it first with `cargo build --release --package tidemill`, or run `cargo xtask test`",
        path.display(),
    );
    path
}

/// A command in a project.
pub(crate) fn command(project: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(path());
    command.arg("-C").arg(project).args(words).env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

/// Runs a command to its end.
pub(crate) fn run(project: &Path, words: &[&str]) -> Ran {
    run_command(&mut command(project, words))
}

/// Runs any command to its end.
pub(crate) fn run_command(command: &mut Command) -> Ran {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    Ran {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A process that does not outlive its test, however that ends.
#[derive(Debug)]
pub(crate) struct Running(Child);

impl Deref for Running {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended cannot be killed, and need not be.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a command and leaves it running; what it says goes to the end of a file.
pub(crate) fn start(project: &Path, words: &[&str], said: &Path) -> Running {
    let file = File::options().create(true).append(true).open(said).expect("a file for what it says");
    let other = file.try_clone().expect("the same file");
    let mut command = command(project, words);
    command.stdout(Stdio::from(file)).stderr(Stdio::from(other));
    Running(command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}")))
}

/// Asks a process to end, as a service manager does, and waits for it; answers its exit code.
pub(crate) fn terminate(child: &mut Child) -> Option<i32> {
    let asked = Command::new("kill").arg("-TERM").arg(child.id().to_string()).status();
    assert!(asked.expect("kill").success(), "the process could be asked");
    child.wait().expect("it ends").code()
}
