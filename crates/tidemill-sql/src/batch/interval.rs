//! [`run_interval`]: a pipeline's INSERTs computed for one interval, committed as one epoch.
//!
//! **Invariant:** the run is visible if and only if its manifest exists; running the same interval again leaves the
//! targets as one run does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use datafusion::common::TableReference;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, LogicalPlan, TableSource, Volatility};
use serde::Serialize;
use tidemill_checkpoint::{Checkpoints, Counters, Manifest, SinkState, TableMet};
use tidemill_model::{Clock, Epoch, Error, Generation, Interval, Kind, Place, Result, Timestamp};
use tidemill_runtime::exec::orphaned;
use tidemill_runtime::{Committable, DeadLetter, Filed, WriteMode, dead_letter_batch, ipc};

use super::engine::{Engine, Resources};
use super::guard::{Guarding, guard};
use super::owned::{Owned, owned};
use super::progress::BatchProgress;
use super::sinks::{Target, entry, prepared};
use super::tables::{Datasets, Manner, outline};
use super::writing::write;
use crate::catalog::{Catalog, Side};
use crate::language::{Insert, OnError, Pipeline, from_datafusion};
use crate::session::guarded::OnItsWay;
use crate::session::{Meaning, WindowSize, insert_columns};

/// What a run needs of the world.
#[derive(Debug, Clone)]
pub struct RunContext {
    /// The present.
    pub clock: Arc<dyn Clock>,
    /// The pipeline's durable progress.
    pub checkpoints: Arc<Checkpoints>,
    /// How far the run is; its stop flag ends the run.
    pub progress: Arc<BatchProgress>,
    /// How many lanes.
    pub lanes: usize,
    /// How many bytes operators may hold before they spill.
    pub memory: usize,
    /// The folder for what they spill.
    pub spill: PathBuf,
}

/// What a run did.
#[derive(Debug, Clone, Serialize)]
pub struct IntervalReport {
    /// The pipeline.
    pub pipeline: String,
    /// The interval.
    pub interval: Interval,
    /// Which version of the interval's rows this is; the first run writes 1.
    pub generation: Generation,
    /// The epoch that committed it.
    pub epoch: Epoch,
    /// What each target got.
    pub targets: Vec<TargetReport>,
    /// Counts of this run alone.
    pub counters: Counters,
    /// Materialized views of the pipeline: they are kept by its live trigger and were not touched.
    pub views_left_out: Vec<String>,
}

/// What a target got.
#[derive(Debug, Clone, Serialize)]
pub struct TargetReport {
    /// The dataset.
    pub name: String,
    /// How many rows.
    pub rows: u64,
    /// The first instant that was read for it; `None` for all time.
    pub read_from: Option<Timestamp>,
    /// Why its rows belong to no interval, so that they are the result over all rows before the interval's end;
    /// `None` when they are the interval's own.
    pub whole_because: Option<String>,
}

impl TargetReport {
    /// The interval that the rows belong to which the statement failed on: a result over all rows is computed anew as a
    /// whole, and so are they.
    fn letters_of(&self, interval: Interval) -> Interval {
        match self.whole_because {
            None => interval,
            Some(_) => Interval { start: Timestamp(i64::MIN), end: Timestamp(i64::MAX) },
        }
    }
}

/// An INSERT with its target. A project has at most one for each target of a pipeline.
struct Step<'a> {
    insert: &'a Insert,
    target: Target,
    reads: BTreeSet<String>,
}

/// Computes what every INSERT of the pipeline owns in the interval, over HISTORY where there is one, and commits it.
///
/// # Errors
/// Plan: the query or the way it is written cannot be run by interval. Fenced: another process works on the pipeline.
/// Whatever sources, sinks and the store answer. After any error the targets are as they were, or as a whole run
/// leaves them, and running again is safe.
pub async fn run_interval(
    catalog: &Catalog,
    pipeline: &str,
    interval: Interval,
    context: &RunContext,
) -> Result<IntervalReport> {
    let pipeline = catalog.project().pipeline(pipeline)?;
    let resources = Resources { partitions: context.lanes, memory: context.memory, spill: context.spill.clone() };
    let engine = Engine::new(&resources, context.clock.now(), catalog.functions())?;
    let latest = context.checkpoints.latest()?;
    let steps = open_targets(catalog, &engine, pipeline, interval)?;
    settle(catalog, &engine, pipeline, latest.as_ref(), &steps, context)?;
    let done = latest.as_ref().and_then(|manifest| manifest.ledger.generation_of(interval));
    let generation = Generation(done.map_or(0, |generation| generation.0) + 1);
    let epoch = latest.as_ref().map_or(Epoch::NONE, |manifest| manifest.epoch).next();
    let has_streamed = latest.as_ref().is_some_and(|m| m.sources.values().any(|source| !source.splits.is_empty()));

    let through = latest.as_ref().and_then(|m| m.ledger.entries().iter().map(|entry| entry.interval.end).max());
    let tables = BTreeMap::new();
    let mut work = Work { catalog, engine: &engine, pipeline, interval, through, context, epoch, tables };
    let mut targets = Vec::new();
    let mut staged = Vec::new();
    for step in &steps {
        may_append(step, done, has_streamed)?;
        let (report, committables) = work.insert(step).await?;
        targets.push(report);
        staged.push(committables);
    }

    let (mut counters, dead) = context.progress.gathered().take();
    counters.rows_written = context.progress.rows_written();
    let failed: Vec<&DeadLetter> = dead.iter().filter(|letter| letter.is_of_statement()).collect();
    pipeline.max_errors.check(&failed, context.progress.gathered().rows_seen(), &format!("the interval {interval}"))?;
    let mut owners: BTreeMap<String, Interval> =
        steps.iter().flat_map(|step| &step.reads).map(|name| (name.clone(), interval)).collect();
    owners.extend(targets.iter().map(|target| (target.name.clone(), target.letters_of(interval))));
    work.dead_letters(&owners, dead, done.is_some())?;
    let manifest = work.manifest(latest, generation, &counters, &steps, &staged);
    context.checkpoints.create(&manifest)?;
    for (step, committables) in steps.iter().zip(&staged) {
        step.target.commit(epoch, committables).map_err(|e| {
            e.fact("the run is on record; running the pipeline again, in any way, finishes its publication first")
        })?;
    }
    context.checkpoints.mark_published(&manifest)?;
    context.checkpoints.prune(&manifest)?;
    Ok(IntervalReport {
        pipeline: pipeline.name.clone(),
        interval,
        generation,
        epoch,
        targets,
        counters,
        views_left_out: pipeline.materialized.clone(),
    })
}

/// Finishes the publication of an interval's run that died after it was recorded. Whoever runs the pipeline in
/// another way calls it first; it does nothing when there is nothing to finish.
///
/// # Errors
/// Whatever the sinks answer.
pub fn finish_interval(catalog: &Catalog, pipeline: &str, checkpoints: &Checkpoints) -> Result<()> {
    let pipeline = catalog.project().pipeline(pipeline)?;
    let Some(latest) = checkpoints.latest()? else { return Ok(()) };
    if prepared(&latest).iter().all(|(_, interval, _)| interval.is_none()) {
        return Ok(());
    }
    // Only to plan: nothing is computed, so nothing spills.
    let resources = Resources { partitions: 1, memory: 0, spill: catalog.environment().state.join("spill") };
    recommit(
        catalog,
        &Engine::new(&resources, catalog.environment().clock.now(), catalog.functions())?,
        pipeline,
        &latest,
        checkpoints,
    )
}

fn open_targets<'a>(
    catalog: &Catalog,
    engine: &Engine,
    pipeline: &'a Pipeline,
    interval: Interval,
) -> Result<Vec<Step<'a>>> {
    if pipeline.inserts.is_empty() {
        let message =
            format!("pipeline `{}` writes no table, so there is nothing to run for an interval", pipeline.name);
        return Err(Error::new(Kind::Plan, "P180", message)
            .at(&pipeline.place)
            .fact("materialized views are kept by its trigger: run it without --interval, or add an INSERT INTO"));
    }
    let targets: BTreeSet<&str> = pipeline.inserts.iter().map(|insert| insert.target.as_str()).collect();
    let mut steps: Vec<Step<'_>> = Vec::new();
    for insert in &pipeline.inserts {
        let (plan, reads) = output(catalog, engine, insert)?;
        if let Some(own) = reads.iter().find(|name| targets.contains(name.as_str())) {
            let message = format!("the pipeline reads `{own}` and writes it too");
            return Err(Error::new(Kind::Plan, "P141", message)
                .at(&insert.place)
                .label("in one run it would be read as it was before")
                .fact(format!(
                    "select from the query that `{own}` is written from, or move this INSERT to another pipeline"
                )));
        }
        let target = Target::open(catalog, &pipeline.name, &insert.target, &plan, Some(interval))
            .map_err(|e| e.at(&insert.place))?;
        steps.push(Step { insert, target, reads });
    }
    Ok(steps)
}

/// What an INSERT writes, planned over names and types, and what it reads.
pub(super) fn output(catalog: &Catalog, engine: &Engine, insert: &Insert) -> Result<(LogicalPlan, BTreeSet<String>)> {
    let others = |name: &TableReference| no_views(catalog, name);
    let found = outline(catalog, engine.state(), Side::History, &others, (&insert.query, &insert.place))?;
    refuse_volatile(&found.plan, &insert.place)?;
    Ok((insert_columns(found.plan, insert, catalog.dataset(&insert.target)?)?, found.datasets))
}

/// Refuses functions that give another answer each time: a rerun would not leave what the run before left.
fn refuse_volatile(plan: &LogicalPlan, place: &Place) -> Result<()> {
    let mut found = None;
    let visited = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                if let Expr::ScalarFunction(call) = part
                    && call.func.signature().volatility == Volatility::Volatile
                {
                    found.get_or_insert_with(|| call.name().to_owned());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    visited.map_err(|e| from_datafusion(&e, place))?;
    let Some(name) = found else { return Ok(()) };
    Err(Error::new(Kind::Plan, "P132", format!("{name}() gives another answer each time it is called"))
        .at(place)
        .label("refused in pipelines")
        .fact("the modes could not agree, and a rerun would differ; compute it from the row's columns, as with md5(…)"))
}

/// Refuses materialized views, as a stream does.
pub(super) fn no_views(catalog: &Catalog, name: &TableReference) -> Result<Option<Arc<dyn TableSource>>> {
    if !catalog.project().materialized.contains_key(name.table()) {
        return Ok(None);
    }
    Err(Error::new(Kind::Plan, "P134", format!("a pipeline cannot read the materialized view `{name}` yet"))
        .fact("put its query into a CREATE VIEW and use that in both places"))
}

/// Commits again what the newest manifest prepared and removes what was staged after it.
fn settle(
    catalog: &Catalog,
    engine: &Engine,
    pipeline: &Pipeline,
    latest: Option<&Manifest>,
    steps: &[Step<'_>],
    context: &RunContext,
) -> Result<()> {
    if let Some(latest) = latest {
        recommit(catalog, engine, pipeline, latest, &context.checkpoints)?;
    }
    let epoch = latest.map_or(Epoch::NONE, |manifest| manifest.epoch);
    for step in steps {
        step.target.abort_after(epoch)?;
    }
    context.checkpoints.clean_after(epoch)
}

/// Commits the newest manifest to its targets, unless all of them are known to have it.
fn recommit(
    catalog: &Catalog,
    engine: &Engine,
    pipeline: &Pipeline,
    latest: &Manifest,
    checkpoints: &Checkpoints,
) -> Result<()> {
    if checkpoints.is_published(latest)? {
        return Ok(());
    }
    for (name, interval, committables) in prepared(latest) {
        let Some(insert) = pipeline.inserts.iter().find(|insert| insert.target == name) else {
            if committables.is_empty() {
                continue;
            }
            return Err(orphaned(&pipeline.name, latest.epoch, &name));
        };
        let (plan, _) = output(catalog, engine, insert)?;
        Target::open(catalog, &pipeline.name, &name, &plan, interval)?.commit(latest.epoch, &committables)?;
    }
    checkpoints.mark_published(latest)
}

/// Whether rows that are only ever added would be there twice.
fn may_append(step: &Step<'_>, done: Option<Generation>, has_streamed: bool) -> Result<()> {
    if step.target.mode != WriteMode::Append || step.target.sink.replaces_interval() {
        return Ok(());
    }
    let name = &step.target.name;
    let message = if done.is_some() {
        format!("`{name}` has the rows of this interval already")
    } else if has_streamed {
        format!("`{name}` has rows of the pipeline's live trigger already")
    } else {
        return Ok(());
    };
    Err(Error::new(Kind::Plan, "P182", message)
        .at(&step.insert.place)
        .label("write = 'append' would add them once more")
        .fact(format!(
            "declare `{name}` with write = 'replace', so that a run replaces its interval's rows, or with write = 'upsert' and a PRIMARY KEY"
        ))
        .fact("or run the interval from another pipeline into a table of its own; nothing was written"))
}

/// A run in the making.
struct Work<'a> {
    catalog: &'a Catalog,
    engine: &'a Engine,
    pipeline: &'a Pipeline,
    interval: Interval,
    /// The end of the latest interval that is done.
    through: Option<Timestamp>,
    context: &'a RunContext,
    epoch: Epoch,
    /// Dataset without event time to what is read of it.
    tables: BTreeMap<String, TableMet>,
}

impl Work<'_> {
    async fn insert(&mut self, step: &Step<'_>) -> Result<(TargetReport, Vec<Committable>)> {
        let manner = Manner {
            side: Side::History,
            start: self.pipeline.start,
            owned: Some(self.interval),
            gathered: Arc::clone(self.context.progress.gathered()),
        };
        self.note_tables(&step.reads).await?;
        let datasets = Datasets::open(self.catalog, self.engine.state(), &manner, &step.reads).await?;
        let place = &step.insert.place;
        let lift = |e| from_datafusion(&e, place);
        let plan = self.plan(step.insert, &datasets)?;
        let owned = owned(plan, self.interval, self.through, self.catalog.project()).map_err(lift)?;
        can_write(&step.target, place, &owned, self.interval)?;
        let physical = self.engine.physical(&self.guarded(&owned.plan, step).map_err(lift)?).await.map_err(lift)?;
        let task = self.engine.task();
        let written = write(physical, task, &step.target.sink, self.epoch, &self.context.progress, &lift).await?;
        let report = TargetReport {
            name: step.target.name.clone(),
            rows: written.rows,
            read_from: owned.from,
            whole_because: owned.whole,
        };
        Ok((report, written.committables))
    }

    /// Notes which version of each table without event time the run reads.
    async fn note_tables(&mut self, reads: &BTreeSet<String>) -> Result<()> {
        for name in reads {
            if self.catalog.dataset(name)?.watermark.is_some() || self.tables.contains_key(name) {
                continue;
            }
            let read_at = self.context.clock.now();
            if let Some(version) = self.catalog.version(name, Side::History).await? {
                let versions = BTreeMap::from([(name.clone(), version.token)]);
                self.tables.insert(name.clone(), TableMet { versions, read_at, failed: None });
            }
        }
        Ok(())
    }

    /// The plan in which rows fail one by one.
    fn guarded(&self, plan: &LogicalPlan, step: &Step<'_>) -> Result<LogicalPlan, DataFusionError> {
        if self.pipeline.on_error == OnError::Fail {
            return Ok(plan.clone());
        }
        let guarding = Guarding {
            project: self.catalog.project(),
            on_error: self.pipeline.on_error,
            way: OnItsWay::to(&step.target.name, &step.insert.place),
            gathered: Arc::clone(self.context.progress.gathered()),
        };
        guard(plan.clone(), self.engine.state(), &guarding)
    }

    fn plan(&self, insert: &Insert, datasets: &Datasets) -> Result<LogicalPlan> {
        let others = |name: &TableReference| no_views(self.catalog, name);
        let plan = datasets.plan(self.catalog, self.engine.state(), &others, (&insert.query, &insert.place))?;
        insert_columns(plan, insert, self.catalog.dataset(&insert.target)?)
    }

    /// Writes the dead letters of each dataset, for the interval that they belong to; after a rerun also where there are
    /// none any more.
    fn dead_letters(&self, owners: &BTreeMap<String, Interval>, dead: Vec<DeadLetter>, rerun: bool) -> Result<()> {
        let mut by_dataset: BTreeMap<String, Vec<DeadLetter>> = BTreeMap::new();
        for (name, interval) in owners {
            if rerun || *interval != self.interval {
                by_dataset.insert(name.clone(), Vec::new());
            }
        }
        for letter in dead {
            by_dataset.entry(letter.dataset.clone()).or_default().push(letter);
        }
        let now = self.context.clock.now();
        for (dataset, mut letters) in by_dataset {
            let Some(interval) = owners.get(&dataset) else { continue };
            letters.sort_by(|a, b| (&a.split, a.position, &a.raw).cmp(&(&b.split, b.position, &b.raw)));
            let filed: Vec<Filed> = letters.into_iter().map(Filed::from).collect();
            let batch = dead_letter_batch(&filed, &self.pipeline.name, self.epoch.0, now.0)?;
            let bytes = ipc::encode_batch(&batch)?;
            self.context.checkpoints.write_interval_dead_letters(&dataset, self.epoch, *interval, &bytes)?;
        }
        Ok(())
    }

    fn manifest(
        &self,
        latest: Option<Manifest>,
        generation: Generation,
        counters: &Counters,
        steps: &[Step<'_>],
        staged: &[Vec<Committable>],
    ) -> Manifest {
        let first = || Manifest::first(&self.pipeline.name, Epoch::NONE, self.context.clock.now());
        let mut manifest = latest.unwrap_or_else(first);
        manifest.epoch = self.epoch;
        manifest.committed_at = self.context.clock.now();
        manifest.ledger.record(self.interval, generation);
        manifest.counters.add(counters);
        let sinks = steps.iter().zip(staged).map(|(step, committables)| {
            let committables = committables.iter().map(|committable| committable.0.clone()).collect();
            (entry(&step.target.name, self.interval), SinkState { committables })
        });
        manifest.sinks = sinks.collect();
        manifest.tables.extend(self.tables.clone());
        manifest
    }
}

/// Whether the way the target is written fits what the run computes.
fn can_write(target: &Target, place: &Place, owned: &Owned, interval: Interval) -> Result<()> {
    let name = &target.name;
    let refuse = |code, message: String| Err(Error::new(Kind::Plan, code, message).at(place));
    let advise = |refused: Result<()>, advice: &str| refused.map_err(|e| e.fact(advice));
    match (&target.mode, &owned.whole) {
        (WriteMode::Upsert { .. }, _) | (WriteMode::Append, None) => Ok(()),
        (WriteMode::Changelog { .. }, _) => advise(
            refuse("P187", format!("`{name}` is a changelog, which only a live trigger writes")),
            "run the pipeline without --interval, or write into a table with write = 'upsert' or 'replace'",
        ),
        (mode, Some(reason)) => {
            let word = if *mode == WriteMode::Append { "append" } else { "replace" };
            let refused =
                refuse("P183", format!("the rows of `{name}` belong to no interval, so write = '{word}' does not fit"));
            let refused = refused.map_err(|e| {
                e.fact(format!("the query means its result over all rows before the interval's end: {reason}"))
            });
            advise(
                refused,
                "use write = 'upsert' with a PRIMARY KEY, or group by a window: TUMBLE(table, time, INTERVAL '…')",
            )
        }
        (WriteMode::Replace { column }, None) => {
            let at = owned.plan.schema().fields().iter().position(|field| field.name() == column);
            let starts = |size: WindowSize, at: Timestamp| size.tiles() && size.last_start(at.0) == Some(at.0);
            match at.and_then(|at| owned.times.get(at)) {
                Some(Meaning::Time { behind }) if behind.is_empty() => Ok(()),
                Some(Meaning::Start { size, .. }) if starts(*size, interval.start) && starts(*size, interval.end) => {
                    Ok(())
                }
                Some(Meaning::Start { size, .. }) => advise(
                    refuse(
                        "P184",
                        format!("windows of {size} do not fit into {interval}, so it cannot replace them in `{name}`"),
                    ),
                    "run an interval that begins and ends where windows do, or use write = 'upsert'",
                ),
                _ => advise(
                    refuse("P185", format!("`{column}` of `{name}` does not say which rows an interval owns")),
                    "name the event time or window_start, unchanged: time_column = '…' on the table",
                ),
            }
        }
    }
}
