//! [`Failure`]: why a command did not do what was asked, by the exit code that says so.
//!
//! **Invariant:** what was typed wrongly is told before anything is done, and by exit code 2.

use std::process::ExitCode;

use tidemill_model::{Error, Kind};
use tidemill_sql::language::Pipeline;

use crate::Workspace;

/// Why a command ended.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Its words are wrong: exit code 2.
    Usage(Error),
    /// It could not be done: exit code 1.
    Failed(Error),
}

/// What a command answers.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Failed(error)
    }
}

impl Failure {
    pub(crate) fn error(&self) -> &Error {
        match self {
            Failure::Usage(error) | Failure::Failed(error) => error,
        }
    }

    /// The same, and where stored bytes lie that are not as they were written: errors about them name files of the state.
    pub(crate) fn with_state(self, workspace: &Workspace) -> Failure {
        let located = |error: Error| match (error.kind(), error.place()) {
            (Kind::Corrupt, None) => error.fact(format!("the project's state is in {}", workspace.state.display())),
            _ => error,
        };
        match self {
            Failure::Usage(error) => Failure::Usage(located(error)),
            Failure::Failed(error) => Failure::Failed(located(error)),
        }
    }

    pub(crate) fn code(&self) -> ExitCode {
        match self {
            Failure::Usage(_) => ExitCode::from(2),
            Failure::Failed(_) => ExitCode::FAILURE,
        }
    }
}

/// The pipelines that a command is about: the one that was named, or all.
pub(crate) fn pipelines<'a>(workspace: &'a Workspace, only: Option<&str>) -> Outcome<Vec<&'a Pipeline>> {
    let project = workspace.catalog.project();
    match only {
        Some(name) => Ok(vec![project.pipeline(name).map_err(Failure::Usage)?]),
        None => Ok(project.pipelines.values().collect()),
    }
}
