//! [`Worker`]: runs the intervals of one pipeline that are to be run, several at a time, until nothing is left to do.
//!
//! **Invariant:** it holds the pipeline's lock while it works, and what it left undone is found again by whoever works next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tidemill_checkpoint::{DueRun, Why};
use tidemill_model::{Catchup, Error, Interval, Kind, Result, Timestamp};
use tidemill_runtime::exec::StopFlag;
use tidemill_sql::batch::{Anew, Asked, BatchProgress, IntervalReport, RunContext, Runner};

use super::attempt::{Attempt, Attempted, News, Tell};
use super::ready::{Readiness, Waiting};
use super::slots::Slots;
use super::{Intervals, ready};
use crate::Workspace;
use crate::history::{Cause, History};
use crate::programs::Shell;

/// How many intervals are asked for at once: more would only be looked at again.
const AT_ONCE: usize = 512;
/// How soon it is tried again to publish what is on record and could not be published.
const UNPUBLISHED: Duration = Duration::from_secs(10);
/// How long a worker that is asked to stop and waits for nothing else sleeps at most.
const LOOK: Duration = Duration::from_millis(100);

/// Intervals that somebody picked.
#[derive(Debug, Clone)]
pub struct Picked {
    /// The interval, and how much of it.
    pub runs: VecDeque<(Interval, Anew)>,
    /// Why.
    pub cause: Cause,
    /// Whether they are computed although files are gone that they were computed from.
    pub from_what_is_left: bool,
}

/// What is to be run.
#[derive(Debug, Clone)]
pub enum Wants {
    /// What is due.
    Due {
        /// Since when the pipeline is watched.
        watched: Timestamp,
        /// Which missed intervals are caught up with, if it is not as the pipeline says.
        catchup: Option<Catchup>,
    },
    /// What was picked.
    Picked(Picked),
}

/// What a worker did.
#[derive(Debug, Default)]
pub struct Worked {
    /// Intervals that were run well.
    pub done: Vec<IntervalReport>,
    /// Those that failed, with the last error of each.
    pub failed: BTreeMap<Interval, Error>,
    /// Those of them that are tried again.
    pub again: BTreeSet<Interval>,
    /// Those that wait, and what for.
    pub waiting: Vec<Waiting>,
    /// When there is something to do again, if nothing else happens.
    pub next: Option<Timestamp>,
}

/// Brings a pipeline up to date.
pub struct Worker<'a> {
    /// The project.
    pub workspace: &'a Workspace,
    /// The pipeline's intervals.
    pub intervals: &'a Intervals,
    /// Who is told.
    pub tell: Arc<dyn Tell>,
    /// Where runs are kept for people.
    pub history: Option<History>,
    /// How many runs go on at the same time.
    pub slots: Arc<Slots>,
    /// Ends it after the steps in hand.
    pub stop: StopFlag,
    /// What names this process.
    pub holder: String,
    /// How many intervals may run at the same time, if not as many as the pipeline says.
    pub concurrency: Option<usize>,
    /// Whether it waits for the next attempt of what failed and for what is not there yet.
    pub patient: bool,
}

impl Worker<'_> {
    /// Works until nothing is left to do now; patiently, until nothing is left to wait for either.
    ///
    /// # Errors
    /// Plan and Config, when the pipeline cannot be run at all; Fenced, when another process runs it; Unavailable. What
    /// fails in a run is among what was done.
    pub async fn work(&self, mut wants: Wants) -> Result<Worked> {
        let name = &self.intervals.pipeline;
        let _lock = self.workspace.lock(name)?;
        if let (Some(history), now) = (&self.history, self.workspace.clock.now())
            && let Err(error) = history.died(name, now)
        {
            self.tell.tell(&News::Note(format!("! the history of runs cannot be written: {error}")));
        }
        let context = self.context();
        let runner = Runner::open(&self.workspace.catalog, name, context)?.on_grid(Some(self.intervals.grid.clone()));
        runner.look().await?;
        let mut state = State::default();
        let mut going = FuturesUnordered::new();
        // Runs that go on are never let go of: what they do would go on without the lock.
        let mut failure: Option<Error> = None;
        loop {
            let room = state.at_once(self.concurrency()).saturating_sub(state.going.len());
            if room > 0 && failure.is_none() && !state.blocked && !self.stop.is_set() {
                match self.next(&runner, &mut wants, &mut state, room).await {
                    Ok(chosen) => {
                        for run in chosen {
                            state.going.push(run.interval);
                            going.push(self.attempt(&runner, run));
                        }
                    }
                    Err(error) => failure = Some(error),
                }
            }
            if going.is_empty() {
                let done = failure.is_some() || state.blocked || self.stop.is_set();
                let Some(wake) = self.wakes(&wants, &state).filter(|_| !done) else { break };
                self.sleep_until(wake).await;
                continue;
            }
            match going.next().await {
                Some(Ok(ended)) => {
                    // What could not be published is tried again soon: it is on record.
                    let unpublished = !runner.is_published().await;
                    self.ended(ended, unpublished, &mut state);
                }
                Some(Err(error)) => failure = failure.or(Some(error)),
                None => {}
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
        let record = runner.latest().await;
        let next = self.intervals.outlook(record.as_ref(), self.workspace.clock.now()).next();
        let waiting = state.waiting.iter().map(|waiting| waiting.look_at).min();
        Ok(Worked {
            next: next.into_iter().chain(waiting).chain(state.retries.values().copied()).min(),
            done: state.done,
            again: state.retries.keys().copied().collect(),
            failed: state.failed,
            waiting: state.waiting,
        })
    }

    fn concurrency(&self) -> usize {
        let declared = self.workspace.catalog.project().pipeline(&self.intervals.pipeline);
        self.concurrency.unwrap_or_else(|| declared.map_or(1, |pipeline| pipeline.scheduling.concurrency)).max(1)
    }

    fn context(&self) -> RunContext {
        let resources = self.workspace.resources();
        let environment = self.workspace.catalog.environment();
        RunContext {
            clock: Arc::clone(&self.workspace.clock),
            checkpoints: self.workspace.checkpoints(&self.intervals.pipeline),
            programs: Shell::new(&environment.project, &environment.state),
            lanes: resources.partitions,
            // Intervals that run side by side share what queries may use.
            memory: resources.memory / self.concurrency(),
            spill: resources.spill,
        }
    }

    /// The runs that can begin now.
    async fn next(
        &self,
        runner: &Runner<'_>,
        wants: &mut Wants,
        state: &mut State,
        room: usize,
    ) -> Result<Vec<Chosen>> {
        let now = self.workspace.clock.now();
        let readiness = Readiness::look(self.workspace, self.intervals)?;
        state.waiting.clear();
        let mut chosen = Vec::new();
        match wants {
            Wants::Due { watched, catchup } => {
                let record = runner.latest().await;
                let outlook = self.intervals.outlook(record.as_ref(), now);
                let pipeline = self.workspace.catalog.project().pipeline(&self.intervals.pipeline)?;
                let catchup = catchup.as_ref().unwrap_or(&pipeline.scheduling.catchup);
                let passed: Vec<Interval> = state.going.iter().chain(&state.refused).copied().collect();
                for DueRun { interval, why } in outlook.to_run(catchup, *watched, &passed, AT_ONCE) {
                    if chosen.len() == room {
                        break;
                    }
                    if state.retries.get(&interval).is_some_and(|at| *at > now) {
                        continue;
                    }
                    state.retries.remove(&interval);
                    let (cause, failed, anew) = match why {
                        Why::Missing => (Cause::Schedule, 0, Anew::Rest),
                        Why::Stale => (Cause::Late, 0, Anew::All),
                        Why::Retry(failed) => (Cause::Schedule, failed, Anew::Rest),
                    };
                    let run = Chosen { interval, anew, cause, failed, picked: None };
                    self.choose(&readiness, state, run, now, &mut chosen);
                }
            }
            Wants::Picked(picked) => {
                let record = runner.latest().await;
                let failed = |interval| {
                    let open = record.as_ref().and_then(|record| record.runs.of(interval));
                    open.map_or(0, |open| open.failed)
                };
                let again: Vec<Interval> =
                    state.retries.iter().filter(|(_, at)| **at <= now).map(|(i, _)| *i).collect();
                for interval in again {
                    state.retries.remove(&interval);
                    picked.runs.push_front((interval, Anew::Rest));
                }
                let mut later = VecDeque::new();
                while chosen.len() < room {
                    let Some((interval, anew)) = picked.runs.pop_front() else { break };
                    let (cause, left) = (picked.cause, picked.from_what_is_left);
                    let failed = failed(interval);
                    let run = Chosen { interval, anew: anew.clone(), cause, failed, picked: Some(left) };
                    if self.choose(&readiness, state, run, now, &mut chosen) {
                        later.push_back((interval, anew));
                    }
                }
                picked.runs.extend(later);
            }
        }
        Ok(chosen)
    }

    /// Adds a run if what it reads is there; whether it waits for that.
    fn choose(
        &self,
        readiness: &Readiness<'_>,
        state: &mut State,
        run: Chosen,
        now: Timestamp,
        chosen: &mut Vec<Chosen>,
    ) -> bool {
        match readiness.of(run.interval, now) {
            Ok(None) => chosen.push(run),
            Ok(Some(waiting)) => {
                state.waiting.push(waiting);
                return true;
            }
            Err(error) => {
                self.tell.tell(&News::Note(format!("x {} {}: {error}", self.intervals.pipeline, run.interval)));
                state.refused.insert(run.interval);
                state.failed.insert(run.interval, error);
            }
        }
        false
    }

    async fn attempt(&self, runner: &Runner<'_>, run: Chosen) -> Result<Option<Attempted>> {
        let pipeline = self.workspace.catalog.project().pipeline(&self.intervals.pipeline)?;
        let progress = Arc::new(BatchProgress::new(self.stop.child()));
        let Some(_slot) = self.slots.take(pipeline.scheduling.pool.as_deref(), progress.stop()).await? else {
            return Ok(None);
        };
        if self.stop.is_set() {
            return Ok(None);
        }
        let attempt = Attempt {
            pipeline,
            history: self.history.as_ref(),
            tell: &self.tell,
            clock: &self.workspace.clock,
            holder: &self.holder,
        };
        let asked = Asked {
            anew: run.anew,
            progress,
            timeout: pipeline.scheduling.timeout,
            from_what_is_left: run.picked.unwrap_or_default(),
            // Who has picked it is told; nobody else is there to be told than who looks later.
            keeps_refusal: run.picked.is_none(),
            ..Asked::of(run.interval)
        };
        Ok(Some(attempt.run(runner, asked, (run.cause, run.failed)).await))
    }

    fn ended(&self, ended: Option<Attempted>, unpublished: bool, state: &mut State) {
        let Some(Attempted { interval, run, outcome }) = ended else {
            // It had not begun: a slot was waited for.
            return;
        };
        state.going.retain(|going| *going != interval);
        match outcome {
            Ok(report) => {
                state.whole |= report.targets.iter().any(|target| target.whole_because.is_some());
                state.tried |= report.kept.is_empty();
                state.failed.remove(&interval);
                state.done.push(report);
            }
            Err(error) => {
                if error.kind() == Kind::Fenced {
                    self.stop.stop();
                }
                // What must be mended in the project fails every interval alike.
                state.blocked |= matches!(error.kind(), Kind::Plan | Kind::Config);
                let soon = unpublished.then(|| self.workspace.clock.now().plus(UNPUBLISHED));
                match run.retry_at.or(soon) {
                    Some(at) => drop(state.retries.insert(interval, at)),
                    None => drop(state.refused.insert(interval)),
                }
                state.failed.insert(interval, error);
            }
        }
    }

    /// When to go on, if anything is worth waiting for.
    fn wakes(&self, wants: &Wants, state: &State) -> Option<Timestamp> {
        if !self.patient {
            return None;
        }
        let waiting = state.waiting.iter().map(|waiting| waiting.look_at);
        let picked = matches!(wants, Wants::Picked(picked) if !picked.runs.is_empty());
        let again = picked.then(|| self.workspace.clock.now().plus(ready::AGAIN));
        waiting.chain(state.retries.values().copied()).chain(again).min()
    }

    async fn sleep_until(&self, wake: Timestamp) {
        while !self.stop.is_set() {
            let left = wake.since(self.workspace.clock.now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LOOK)).await;
        }
    }
}

/// A run that is to begin.
struct Chosen {
    interval: Interval,
    anew: Anew,
    cause: Cause,
    failed: u32,
    /// If somebody has picked it, whether it is computed from what is left of its files.
    picked: Option<bool>,
}

#[derive(Default)]
struct State {
    going: Vec<Interval>,
    /// Intervals that are not run again by this worker.
    refused: BTreeSet<Interval>,
    retries: BTreeMap<Interval, Timestamp>,
    waiting: Vec<Waiting>,
    done: Vec<IntervalReport>,
    failed: BTreeMap<Interval, Error>,
    /// Whether the project must be mended before another run makes sense.
    blocked: bool,
    /// Whether a run has ended well.
    tried: bool,
    /// Whether results are over all rows, so that two runs must not overtake each other.
    whole: bool,
}

impl State {
    /// How many intervals may run at the same time: one until it is known that they do not depend on each other.
    fn at_once(&self, concurrency: usize) -> usize {
        if self.tried && !self.whole { concurrency } else { 1 }
    }
}
