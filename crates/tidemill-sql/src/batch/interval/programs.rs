//! [`Programs`]: how a run has the programs of its tasks run; [`Watcher`]: who is told what its steps do.
//!
//! **Invariant:** the executor starts no process itself. Whoever does ends it when the run is asked to stop.

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use tidemill_model::{Error, Generation, Interval, Kind, Result};
use tidemill_runtime::exec::StopFlag;

use crate::language::Task;

/// A program that a run asks for.
#[derive(Debug, Clone)]
pub struct Call {
    /// The pipeline.
    pub pipeline: String,
    /// The task.
    pub task: Task,
    /// What the run owns.
    pub interval: Interval,
    /// Which version of the interval's rows it writes.
    pub generation: Generation,
    /// Which attempt of the run this is, from 1.
    pub attempt: u32,
    /// Task to what it gave, of those that are done.
    pub values: BTreeMap<String, String>,
    /// Ends the program when it is set.
    pub stop: StopFlag,
}

/// Runs programs.
#[async_trait]
pub trait Programs: Send + Sync + fmt::Debug {
    /// Runs the program to its end, and answers what it gives to those after it.
    ///
    /// # Errors
    /// Unavailable, when it fails or takes too long: running it again may help. Config, when there is no such program.
    async fn run(&self, call: &Call) -> Result<Option<String>>;
}

/// For pipelines without tasks.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPrograms;

#[async_trait]
impl Programs for NoPrograms {
    async fn run(&self, call: &Call) -> Result<Option<String>> {
        let message = format!("the task `{}` cannot be run here: programs are not run by this process", call.task.name);
        Err(Error::new(Kind::Config, "C110", message).at(&call.task.place))
    }
}

/// What a step does.
#[derive(Debug)]
pub enum StepEvent<'a> {
    /// An attempt before has done it.
    Kept,
    /// It begins.
    Begun,
    /// It stands.
    Done {
        /// How many rows it wrote.
        rows: u64,
        /// What a program gave.
        value: Option<&'a str>,
        /// What was expected of its rows and is not so.
        warnings: &'a [String],
    },
    /// It failed.
    Failed(&'a Error),
}

/// Who is told what the steps of a run do, as they do it.
pub trait Watcher: Send + Sync + fmt::Debug {
    /// A step does something.
    fn step(&self, step: &str, event: &StepEvent<'_>);
}

/// Nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwatched;

impl Watcher for Unwatched {
    fn step(&self, _: &str, _: &StepEvent<'_>) {}
}
