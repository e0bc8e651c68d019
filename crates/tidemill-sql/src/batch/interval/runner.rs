//! [`Runner`]: runs intervals of one pipeline, step by step, one or several at a time.
//!
//! **Invariant:** steps of all runs compute side by side, and stand one after the other: the next epoch is taken, prepared,
//! recorded and published under one lock. Whatever instant the process dies at, the next one finds each step done or not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tidemill_checkpoint::{Counters, Manifest, OpenRun, StepDone};
use tidemill_model::{Epoch, Error, Generation, Grid, Interval, Kind, Result, Span, Timestamp};
use tidemill_runtime::exec::StopFlag;
use tokio::sync::Mutex;

use super::super::engine::Engine;
use super::super::progress::BatchProgress;
use super::super::reading::{Heard, STOPPED, stopped};
use super::super::sinks::Target;
use super::fit::may_append;
use super::gone::{Lacks, is_refusal};
use super::making::{Head, Made, Making, Shared};
use super::programs::{Call, StepEvent, Unwatched, Watcher};
use super::report::{IntervalReport, RunContext};
use super::settle::recommit;
use super::stage::{Staging, judge_input};
use super::stand::is_worth_a_record;
use super::steps::{Step, Work, by, kept, steps};
use crate::catalog::Catalog;
use crate::language::Pipeline;

/// How many steps of one run compute at the same time: each of them uses all lanes, and more only share them.
const STEPS_AT_ONCE: usize = 4;

/// What of an interval is computed, if something of it is on record already.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Anew {
    /// What is not done: all of it, or the steps that an attempt before has not finished.
    #[default]
    Rest,
    /// All steps.
    All,
    /// This step and those that come after it.
    From(String),
}

/// A run that is asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// What it owns.
    pub interval: Interval,
    /// How much of it.
    pub anew: Anew,
    /// Who is told what its steps do.
    pub watcher: Arc<dyn Watcher>,
    /// How far it is; its stop flag ends it.
    pub progress: Arc<BatchProgress>,
    /// After how long the attempt is stopped and counts as failed.
    pub timeout: Option<Duration>,
    /// Whether it is computed although files are gone that it was computed from.
    pub from_what_is_left: bool,
    /// Whether it is put on record that it was refused because files are gone, so that it is not tried again by itself.
    pub keeps_refusal: bool,
}

impl Asked {
    /// What is not done of an interval.
    #[must_use]
    pub fn of(interval: Interval) -> Asked {
        let progress = Arc::new(BatchProgress::new(StopFlag::default()));
        Asked {
            interval,
            anew: Anew::Rest,
            watcher: Arc::new(Unwatched),
            progress,
            timeout: None,
            from_what_is_left: false,
            keeps_refusal: false,
        }
    }
}

/// Decides from the number of failed attempts, the first one's begin and the error when a run is tried again.
pub type RetryAt<'a> = &'a (dyn Fn(u32, Timestamp, &Error) -> Option<Timestamp> + Send + Sync);

/// Computes what the pipeline owns in an interval, over HISTORY where there is one.
///
/// # Errors
/// Plan: the query or the way it is written cannot be run by interval. Fenced: another process works on the pipeline.
/// Whatever sources, sinks and the store answer. After any error the targets are as they were, or as whole steps leave
/// them, and running again is safe.
pub async fn run_interval(
    catalog: &Catalog,
    pipeline: &str,
    asked: Asked,
    context: &RunContext,
) -> Result<IntervalReport> {
    let asked = Asked { anew: Anew::All, ..asked };
    Runner::open(catalog, pipeline, context.clone())?.run(&asked, &|_, _, _| None).await
}

/// Runs intervals of a pipeline. The pipeline must be locked while it lives.
pub struct Runner<'a> {
    pub(super) catalog: &'a Catalog,
    pub(super) pipeline: &'a Pipeline,
    pub(super) context: RunContext,
    pub(super) steps: Vec<Step<'a>>,
    pub(super) head: Mutex<Head>,
    /// Datasets with event time that others write: rows of intervals that are done may come to them.
    pub(super) watched: BTreeSet<String>,
    grid: Option<Grid>,
    /// Held by whoever computes a result over all rows.
    pub(super) turns: Arc<Mutex<()>>,
}

impl<'a> Runner<'a> {
    /// Plans the steps, and publishes what a dead process has left half published.
    ///
    /// # Errors
    /// Plan, at its place; whatever sinks and the store answer.
    pub fn open(catalog: &'a Catalog, pipeline: &str, context: RunContext) -> Result<Runner<'a>> {
        let pipeline = catalog.project().pipeline(pipeline)?;
        let engine = Engine::new(&context.resources(), context.clock.now(), catalog.functions())?;
        let steps = steps(catalog, &engine, pipeline)?;
        let latest = context.checkpoints.latest()?;
        if let Some(latest) = &latest {
            recommit(catalog, &engine, pipeline, latest, &context.checkpoints)?;
        }
        context.checkpoints.clean_after(latest.as_ref().map_or(Epoch::NONE, |manifest| manifest.epoch))?;
        let own: BTreeSet<&str> = pipeline.inserts.iter().map(|insert| insert.target.as_str()).collect();
        let mut watched = BTreeSet::new();
        for step in &steps {
            let Work::Insert { reads, .. } = &step.work else { continue };
            for name in reads.iter().filter(|name| !own.contains(name.as_str())) {
                if catalog.dataset(name)?.watermark.is_some() {
                    watched.insert(name.clone());
                }
            }
        }
        let seen = latest.as_ref().map(|manifest| manifest.seen.clone()).unwrap_or_default();
        let head = Head {
            latest,
            published: true,
            seen,
            looks: 0,
            came: Vec::new(),
            running: Vec::new(),
            silent: BTreeSet::new(),
        };
        Ok(Runner {
            catalog,
            pipeline,
            context,
            steps,
            head: Mutex::new(head),
            watched,
            grid: pipeline.scheduling.grid.clone(),
            turns: Arc::default(),
        })
    }

    /// The interval of the pipeline's grid that an instant lies in; of a pipeline without one, the hour.
    pub(super) fn cell_of(&self, at: Timestamp) -> Interval {
        const HOUR: i64 = 3_600_000_000;
        let start = at.0.div_euclid(HOUR).saturating_mul(HOUR);
        let hour = Interval { start: Timestamp(start), end: Timestamp(start.saturating_add(HOUR)) };
        self.grid.as_ref().and_then(|grid| grid.cell_containing(at)).unwrap_or(hour)
    }

    /// The same with these intervals, for a pipeline whose grid is that of another one.
    #[must_use]
    pub fn on_grid(self, grid: Option<Grid>) -> Runner<'a> {
        Runner { grid: grid.or(self.grid), ..self }
    }

    /// Whether its intervals are those of a grid.
    pub(super) fn has_grid(&self) -> bool {
        self.grid.is_some()
    }

    /// What the rows of an interval are computed by: the fingerprint of all statements.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let statements = self.steps.iter().filter(|step| matches!(step.work, Work::Insert { .. }));
        by(statements.map(|step| (step.name.as_ref(), step.fingerprint.as_str())))
    }

    pub(super) fn engine(&self) -> Result<Engine> {
        Engine::new(&self.context.resources(), self.context.clock.now(), self.catalog.functions())
    }

    /// Whether all targets have what is on record.
    pub async fn is_published(&self) -> bool {
        self.head.lock().await.published
    }

    /// The newest manifest.
    pub async fn latest(&self) -> Option<Manifest> {
        self.head.lock().await.latest.clone()
    }

    /// Runs an interval. When it fails, that is recorded with the time at which it is tried again, unless the project
    /// must be mended first or another process owns the pipeline.
    ///
    /// # Errors
    /// As [`run_interval`]; of several steps that failed, all.
    pub async fn run(&self, asked: &Asked, retry: RetryAt<'_>) -> Result<IntervalReport> {
        let mut making = self.begin(asked).await?;
        let outcome = Box::pin(self.finish(&mut making, asked, retry)).await;
        let mut head = self.head.lock().await;
        if let Some(at) = head.running.iter().position(|running| *running == asked.interval) {
            head.running.swap_remove(at);
        }
        if head.running.is_empty() {
            head.came.clear();
        }
        outcome
    }

    async fn finish(&self, making: &mut Making<'_>, asked: &Asked, retry: RetryAt<'_>) -> Result<IntervalReport> {
        for name in &making.kept {
            making.watcher.step(name, &StepEvent::Kept);
        }
        let failures = match (making.lacks.refusal.take(), asked.timeout) {
            (Some((step, error)), _) => {
                making.watcher.step(&step, &StepEvent::Failed(&error));
                vec![(step, error)]
            }
            (None, None) => self.work(making).await,
            (None, Some(timeout)) => self.work_within(making, timeout).await,
        };
        if failures.is_empty() {
            return Ok(IntervalReport {
                pipeline: self.pipeline.name.clone(),
                interval: asked.interval,
                generation: making.run.generation,
                epoch: making.epoch,
                targets: std::mem::take(&mut making.targets),
                kept: std::mem::take(&mut making.kept),
                counters: std::mem::take(&mut making.counters),
                warnings: std::mem::take(&mut making.warnings),
                views_left_out: self.pipeline.materialized.clone(),
            });
        }
        let is_told = !asked.keeps_refusal && failures.iter().any(|(_, error)| is_refusal(error));
        if !is_told && failures.iter().all(|(_, error)| is_worth_a_record(error)) {
            self.record_failure(making, &failures, retry).await?;
        }
        let many = failures.len() > 1;
        let named = failures.into_iter().map(|(step, error)| {
            if many || self.steps.len() > 1 { error.context(format!("step {step}")) } else { error }
        });
        Err(Error::all(named.collect()).unwrap_or_else(|| Error::internal("a run failed without a reason")))
    }

    /// Takes a run up where the record has it.
    async fn begin<'r>(&self, asked: &'r Asked) -> Result<Making<'r>> {
        let mut head = self.head.lock().await;
        self.look_around(&mut head).await?;
        let latest = head.latest.as_ref();
        let done = latest.and_then(|manifest| manifest.ledger.generation_of(asked.interval));
        let open = latest.and_then(|manifest| manifest.runs.of(asked.interval));
        let now = self.context.clock.now();
        let next = Generation(done.map_or(0, |generation| generation.0) + 1);
        let mut run = match (open, &asked.anew) {
            (Some(open), Anew::Rest | Anew::From(_)) => open.clone(),
            (Some(open), Anew::All) => {
                OpenRun { wrote: open.wrote.clone(), ..OpenRun::new(asked.interval, open.generation.max(next), now) }
            }
            (None, _) => OpenRun::new(asked.interval, next, now),
        };
        if let Anew::From(from) = &asked.anew {
            self.keep_before(&mut run, from, open.is_none() && done.is_some(), latest)?;
        }
        let kept = kept(&self.steps, &run);
        run.steps.retain(|name, _| kept.contains(name));
        // What an attempt before has read of what others write is older than this look.
        let reads_watched = |step: &Step<'_>| matches!(&step.work, Work::Insert { reads, .. } if reads.iter().any(|name| self.watched.contains(name)));
        let reads_all =
            !self.steps.iter().any(|step| kept.iter().any(|name| *name == step.name) && reads_watched(step));
        let again = done.is_some() || !run.wrote.is_empty();
        if asked.from_what_is_left && reads_all {
            run.from_what_is_left.get_or_insert(latest.map_or(Epoch::NONE, |manifest| manifest.epoch));
        }
        let lacks = if asked.from_what_is_left || run.from_what_is_left.is_some() {
            Lacks::default()
        } else {
            self.lacks(&head, (asked.interval, again), &kept).await
        };
        let engine = Engine::new(&self.context.resources(), run.begun_at, self.catalog.functions())?;
        let epoch = latest.map_or(Epoch::NONE, |manifest| manifest.epoch);
        let has_streamed = latest.is_some_and(|m| m.sources.values().any(|source| !source.splits.is_empty()));
        let mut targets = BTreeMap::new();
        for step in &self.steps {
            let Work::Insert { insert, plan, .. } = &step.work else { continue };
            if run.steps.contains_key(step.name.as_ref()) {
                continue;
            }
            let target = Target::open(self.catalog, &self.pipeline.name, insert, plan, Some(asked.interval));
            let target = target.map_err(|e| e.at(&insert.place))?;
            // Told before any step of the run is computed: none of it is tried then.
            let stood = done.is_some() || run.wrote.contains(step.name.as_ref());
            may_append(&target, &insert.place, stood, has_streamed)?;
            // What a dead process has staged for this interval. Under the lock, as no run beside this one may publish.
            target.abort_after(epoch)?;
            targets.insert(step.name.to_string(), target);
        }
        let sizes = |step: &Step<'_>| {
            let sizes = latest.map(|manifest| manifest.sizes_before(&step.name, asked.interval))?;
            Some((step.name.to_string(), sizes))
        };
        let shared = Shared {
            sizes: self.steps.iter().filter_map(sizes).collect(),
            engine,
            interval: asked.interval,
            generation: run.generation,
            attempt: run.failed + 1,
            heard: Arc::new(Heard::but(run.steps.values().flat_map(|done| done.heard.iter().cloned()))),
            targets,
            through: head.through(),
            only: Arc::new(head.listed()),
            progress: Arc::clone(&asked.progress),
        };
        let look = head.looks;
        head.running.push(asked.interval);
        Ok(Making {
            look,
            reads_all,
            looks_back: !kept.is_empty(),
            lacks,
            over_all: BTreeSet::new(),
            in_part: BTreeSet::new(),
            shared: Arc::new(shared),
            watcher: asked.watcher.as_ref(),
            epoch,
            run,
            kept,
            targets: Vec::new(),
            counters: Counters::default(),
            warnings: Vec::new(),
        })
    }

    /// Leaves as done what does not come after a step. Of an interval that is done all steps are.
    fn keep_before(&self, run: &mut OpenRun, from: &str, all: bool, latest: Option<&Manifest>) -> Result<()> {
        if !self.steps.iter().any(|step| step.name == from) {
            let names: Vec<&str> = self.steps.iter().map(|step| step.name.as_ref()).collect();
            let error =
                Error::new(Kind::Config, "C111", format!("pipeline `{}` has no step `{from}`", self.pipeline.name));
            return Err(match tidemill_model::nearest(from, names.iter().copied()) {
                Some(meant) => error.label(format!("did you mean `{meant}`?")),
                None => error,
            }
            .fact(format!("steps: {}", names.join(", "))));
        }
        let mut anew: BTreeSet<&str> = BTreeSet::from([from]);
        for step in &self.steps {
            if step.after.iter().any(|before| anew.contains(before.as_ref())) {
                anew.insert(step.name.as_ref());
            }
        }
        if all {
            // What a task gave is not on record any more: whoever comes after it needs it again.
            let needed = self.steps.iter().filter(|step| matches!(step.work, Work::Task(_))).filter(|task| {
                let asks = |step: &&Step<'a>| anew.contains(step.name.as_ref()) && step.after.contains(&task.name);
                self.steps.iter().any(|step| asks(&step))
            });
            anew.extend(needed.map(|task| task.name.as_ref()).collect::<Vec<_>>());
            let by = latest.and_then(|manifest| manifest.ledger.by(run.interval));
            run.by = by.filter(|by| *by != self.fingerprint()).map(str::to_owned);
        }
        for step in &self.steps {
            if anew.contains(step.name.as_ref()) {
                run.steps.remove(step.name.as_ref());
            } else if all {
                let epoch = latest.map_or(Epoch::NONE, |manifest| manifest.epoch);
                let (fingerprint, at) = (step.fingerprint.clone(), self.context.clock.now());
                run.steps.insert(
                    step.name.to_string(),
                    StepDone { epoch, fingerprint, heard: BTreeSet::new(), rows: 0, at, value: None },
                );
            }
        }
        Ok(())
    }

    /// As [`Runner::work`], but when it takes too long it is stopped, and that is why it failed.
    async fn work_within(&self, making: &mut Making<'_>, timeout: Duration) -> Vec<(String, Error)> {
        let progress = Arc::clone(&making.shared.progress);
        let mut working = Box::pin(self.work(making));
        if let Ok(failures) = tokio::time::timeout(timeout, &mut working).await {
            return failures;
        }
        progress.stop().stop();
        let late = |step: String| {
            let message = format!("the run took longer than {} and was stopped", Span(timeout));
            let error = Error::new(Kind::Unavailable, "U062", message);
            (step, error.fact("the pipeline's option `timeout` says how long an attempt may take"))
        };
        working
            .await
            .into_iter()
            .map(|(step, error)| if error.code() == STOPPED { late(step) } else { (step, error) })
            .collect()
    }

    /// Does all steps that can be done, and answers those that failed.
    async fn work(&self, making: &mut Making<'_>) -> Vec<(String, Error)> {
        let is_done = |run: &OpenRun, name: &str| run.steps.contains_key(name);
        let mut waiting: Vec<&Step<'a>> = self.steps.iter().filter(|step| !is_done(&making.run, &step.name)).collect();
        let mut failures: Vec<(String, Error)> = Vec::new();
        let mut computing = FuturesUnordered::new();
        loop {
            let mut at = 0;
            while at < waiting.len() && computing.len() < STEPS_AT_ONCE && !making.shared.progress.stop().is_set() {
                if !waiting[at].after.iter().all(|before| is_done(&making.run, before)) {
                    at += 1;
                    continue;
                }
                let step = waiting.remove(at);
                making.watcher.step(&step.name, &StepEvent::Begun);
                let (shared, values) = (Arc::clone(&making.shared), making.values());
                computing.push(async move { (step, Box::pin(self.make(step, &shared, values)).await) });
            }
            let Some((step, made)) = computing.next().await else { break };
            let stood = match made {
                Ok(made) => self.stand(making, step, made).await,
                Err(error) => Err(error),
            };
            if let Err(error) = stood {
                making.watcher.step(&step.name, &StepEvent::Failed(&error));
                failures.push((step.name.to_string(), error));
            }
        }
        if let (true, Some(step)) = (failures.is_empty(), waiting.first()) {
            failures.push((step.name.to_string(), stopped()));
        }
        failures
    }

    /// Computes a step; nothing of it is visible.
    async fn make(&self, step: &Step<'a>, shared: &Shared, values: BTreeMap<String, String>) -> Result<Made> {
        match &step.work {
            Work::Insert { insert, plan, reads } => {
                let turn = self.turn(plan, insert, shared).await?;
                let (through, only) = match &turn {
                    Some(_) => self.newest(&step.name).await,
                    None => (shared.through, Arc::clone(&shared.only)),
                };
                let target = shared.targets.get(step.name.as_ref()).cloned();
                let staging = Staging {
                    catalog: self.catalog,
                    engine: &shared.engine,
                    pipeline: self.pipeline,
                    context: &self.context,
                    interval: shared.interval,
                    through,
                    heard: &shared.heard,
                    only: &only,
                    turn,
                    progress: &shared.progress,
                    sizes: shared.sizes.get(step.name.as_ref()).cloned().unwrap_or_default(),
                    values,
                    target: target.ok_or_else(|| Error::internal(format!("`{}` was not opened", step.name)))?,
                };
                Ok(Made::Rows(Box::new(Box::pin(staging.stage(insert, reads)).await?)))
            }
            Work::Expect { dataset, expectations } => {
                let sizes = shared.sizes.get(step.name.as_ref()).cloned().unwrap_or_default();
                let (warnings, rows) = Box::pin(judge_input(
                    (self.catalog, &shared.engine, self.pipeline),
                    (dataset, expectations),
                    shared.interval,
                    (sizes, &shared.only),
                ))
                .await?;
                Ok(Made::Judged { warnings, rows })
            }
            Work::Task(task) => {
                let call = Call {
                    pipeline: self.pipeline.name.clone(),
                    task: (*task).clone(),
                    interval: shared.interval,
                    generation: shared.generation,
                    attempt: shared.attempt,
                    values,
                    stop: shared.progress.stop().clone(),
                };
                Ok(Made::Value(self.context.programs.run(&call).await?))
            }
        }
    }
}
