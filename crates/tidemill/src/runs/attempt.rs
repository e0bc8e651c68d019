//! [`Attempted`]: one attempt of one interval, told to the history and to whoever listens.
//!
//! **Invariant:** a history that cannot be written is said, and the run goes on.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use tidemill_model::{Clock, Error, Interval, Result, Timestamp, Verdict};
use tidemill_sql::batch::{Asked, BatchProgress, IntervalReport, Runner, StepEvent, Watcher};
use tidemill_sql::language::Pipeline;

use crate::history::{Cause, History, RunRecord, RunState, StepRecord};

/// What happens with runs, as it happens.
#[derive(Debug)]
pub enum News<'a> {
    /// A run begins.
    Begun {
        /// As it is kept so far.
        run: &'a RunRecord,
        /// How far it is, from now on.
        progress: &'a Arc<BatchProgress>,
    },
    /// A step of it is somewhere.
    Step {
        /// The run.
        run: &'a RunRecord,
        /// The step.
        step: &'a StepRecord,
    },
    /// It has ended.
    Ended {
        /// As it is kept.
        run: &'a RunRecord,
        /// What it did, when it ended well.
        report: Option<&'a IntervalReport>,
    },
    /// Something that people should know and that stops nothing.
    Note(String),
}

/// Who is told.
pub trait Tell: Send + Sync + std::fmt::Debug {
    /// Something happens.
    fn tell(&self, news: &News<'_>);
}

/// Nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl Tell for Quiet {
    fn tell(&self, _: &News<'_>) {}
}

/// An attempt that has ended.
#[derive(Debug)]
pub struct Attempted {
    /// What it owned.
    pub interval: Interval,
    /// As it is kept.
    pub run: RunRecord,
    /// How it ended.
    pub outcome: Result<IntervalReport>,
}

/// What an attempt is made with.
pub(super) struct Attempt<'a> {
    pub(super) pipeline: &'a Pipeline,
    pub(super) history: Option<&'a History>,
    pub(super) tell: &'a Arc<dyn Tell>,
    pub(super) clock: &'a Arc<dyn Clock>,
    pub(super) holder: &'a str,
}

impl Attempt<'_> {
    /// Runs an interval once, as it is asked for but for who is told.
    pub(super) async fn run(&self, runner: &Runner<'_>, asked: Asked, (cause, failed): (Cause, u32)) -> Attempted {
        let (interval, progress) = (asked.interval, Arc::clone(&asked.progress));
        let begun = self.clock.now();
        let mut run = RunRecord::begun(&self.pipeline.name, interval, (cause, failed + 1), begun);
        run.holder = self.holder.to_owned();
        if let Some(history) = self.history {
            match history.begin(&run.pipeline, interval, (cause, run.attempt), (begun, self.holder)) {
                Ok(number) => run.run = number,
                Err(error) => self.unkept(&error),
            }
        }
        self.tell.tell(&News::Begun { run: &run, progress: &progress });
        let listening = Arc::new(Listening {
            run: run.clone(),
            heard: Mutex::default(),
            history: self.history.cloned(),
            tell: Arc::clone(self.tell),
            clock: Arc::clone(self.clock),
        });
        let asked = Asked { watcher: Arc::clone(&listening) as _, ..asked };
        let retry_at: Mutex<Option<Timestamp>> = Mutex::default();
        let seed = format!("{} {interval}", self.pipeline.name);
        let retry = |failed: u32, first: Timestamp, error: &Error| {
            let verdict = self.pipeline.scheduling.retry.after(failed, first, self.clock.now(), error.kind(), &seed);
            let at = if let Verdict::Retry { at } = verdict { Some(at) } else { None };
            *retry_at.lock().unwrap_or_else(PoisonError::into_inner) = at;
            at
        };
        let outcome = Box::pin(runner.run(&asked, &retry)).await;
        run.ended = Some(self.clock.now());
        run.rows_read = Some(progress.rows_read());
        run.rows_written = Some(progress.rows_written());
        match &outcome {
            Ok(report) => {
                run.state = RunState::Done;
                run.generation = Some(report.generation.0);
                run.epoch = Some(report.epoch.0);
                run.dead = Some(report.counters.rows_dead());
            }
            Err(error) => {
                let stopped = progress.stop().is_set() && error.code() == "U030";
                run.state = if stopped { RunState::Stopped } else { RunState::Failed };
                run.code = Some(error.code().to_owned());
                let (step, message) = listening.failed().unzip();
                run.error = Some(message.unwrap_or_else(|| error.message().to_owned()));
                run.step = step;
                run.retry_at = retry_at.lock().unwrap_or_else(PoisonError::into_inner).take();
            }
        }
        if let (Some(history), true) = (self.history, run.run > 0)
            && let Err(error) = history.end(run.run, &run)
        {
            self.unkept(&error);
        }
        self.tell.tell(&News::Ended { run: &run, report: outcome.as_ref().ok() });
        Attempted { interval, run, outcome }
    }

    fn unkept(&self, error: &Error) {
        self.tell.tell(&News::Note(format!("! the history of runs lacks this one: {error}")));
    }
}

/// What was heard of the steps.
#[derive(Debug, Default)]
struct HeardOf {
    begun: Vec<(String, Timestamp)>,
    /// The first that failed, and what it said.
    failed: Option<(String, String)>,
}

/// Tells what steps do.
#[derive(Debug)]
struct Listening {
    run: RunRecord,
    heard: Mutex<HeardOf>,
    history: Option<History>,
    tell: Arc<dyn Tell>,
    clock: Arc<dyn Clock>,
}

impl Listening {
    fn failed(&self) -> Option<(String, String)> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).failed.clone()
    }
}

impl Watcher for Listening {
    fn step(&self, step: &str, event: &StepEvent<'_>) {
        let now = self.clock.now();
        let mut told = StepRecord {
            step: step.to_owned(),
            state: RunState::Running,
            begun: Some(now),
            ended: None,
            rows: None,
            value: None,
            error: None,
        };
        {
            let mut known = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, at)) = known.begun.iter().find(|(name, _)| name == step) {
                told.begun = Some(*at);
            }
            match event {
                StepEvent::Begun => known.begun.push((step.to_owned(), now)),
                StepEvent::Failed(error) if known.failed.is_none() => {
                    known.failed = Some((step.to_owned(), error.message().to_owned()));
                }
                _ => {}
            }
        }
        match event {
            StepEvent::Begun => {}
            StepEvent::Kept => {
                told.state = RunState::Kept;
                told.begun = None;
            }
            StepEvent::Done { rows, value, warnings } => {
                told.state = RunState::Done;
                told.rows = Some(*rows);
                told.value = value.map(str::to_owned);
                told.ended = Some(now);
                told.error = (!warnings.is_empty()).then(|| warnings.join("; "));
                for warning in *warnings {
                    self.tell.tell(&News::Note(format!("! {} {}: {warning}", self.run.pipeline, self.run.interval)));
                }
            }
            StepEvent::Failed(error) => {
                told.state = RunState::Failed;
                told.error = Some(error.message().to_owned());
                told.ended = Some(now);
            }
        }
        if let (Some(history), true) = (&self.history, self.run.run > 0)
            && let Err(error) = history.step(self.run.run, &told)
        {
            self.tell.tell(&News::Note(format!("! the history of runs lacks a step: {error}")));
        }
        self.tell.tell(&News::Step { run: &self.run, step: &told });
    }
}
