//! [`stage`]: the rows of one statement for one interval, computed and given to the writers of its target.
//!
//! **Invariant:** nothing of it is visible, and it has no epoch yet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use tidemill_checkpoint::TableMet;
use tidemill_model::{Error, Interval, Kind, Result, Timestamp};
use tidemill_runtime::DeadLetter;
use tidemill_runtime::exec::StopFlag;
use tokio::sync::OwnedMutexGuard;

use super::super::engine::Engine;
use super::super::guard::{Guarding, guard};
use super::super::owned::owned;
use super::super::progress::BatchProgress;
use super::super::reading::{Findings, Gathered, Heard};
use super::super::sinks::Target;
use super::super::tables::{Datasets, Manner, outline};
use super::super::writing::{Written, write};
use super::expect::{Judged, Judging, Spool};
use super::fit::can_write;
use super::late::Seen;
use super::report::{RunContext, TargetReport};
use super::steps::{expected_of, no_views};
use crate::catalog::{Catalog, Side};
use crate::language::{Clause, Expectation, Insert, OnEmpty, OnError, Pipeline, from_datafusion};
use crate::session::guarded::OnItsWay;
use crate::session::{insert_columns, with_task_values};

/// Where and for what a statement is computed.
pub(super) struct Staging<'a> {
    pub(super) catalog: &'a Catalog,
    pub(super) engine: &'a Engine,
    pub(super) pipeline: &'a Pipeline,
    pub(super) context: &'a RunContext,
    pub(super) interval: Interval,
    /// The end of the latest interval that is done.
    pub(super) through: Option<Timestamp>,
    pub(super) heard: &'a Arc<Heard>,
    /// The splits that are read of watched datasets.
    pub(super) only: &'a Arc<Seen>,
    pub(super) progress: &'a Arc<BatchProgress>,
    pub(super) target: Target,
    /// How many rows the intervals before have, the latest first.
    pub(super) sizes: Vec<u64>,
    /// What the tasks that are done gave.
    pub(super) values: BTreeMap<String, String>,
    /// Held until it stands, when its result is over all rows.
    pub(super) turn: Option<OwnedMutexGuard<()>>,
}

/// What was computed.
pub(super) struct Staged {
    pub(super) target: Target,
    pub(super) report: TargetReport,
    pub(super) written: Written,
    pub(super) findings: Findings,
    /// Dataset without event time to what was read of it.
    pub(super) tables: BTreeMap<String, TableMet>,
    /// What was expected of its rows and is not so.
    pub(super) warnings: Vec<String>,
    pub(super) turn: Option<OwnedMutexGuard<()>>,
}

impl Staging<'_> {
    /// Computes the statement.
    pub(super) async fn stage(self, insert: &Insert, reads: &BTreeSet<String>) -> Result<Staged> {
        let target = &self.target;
        let gathered = self.progress.gathered(self.heard);
        let manner = Manner {
            side: Side::History,
            start: self.pipeline.start,
            owned: Some(self.interval),
            gathered: Arc::clone(&gathered),
            only: Some(Arc::clone(self.only)),
        };
        let tables = self.tables_met(reads).await?;
        let datasets = Datasets::open(self.catalog, self.engine.state(), &manner, reads).await?;
        let lift = |e| from_datafusion(&e, &insert.place);
        let plan = statement(self.catalog, self.engine, (insert, &self.values), &datasets)?;
        let owned = owned(plan, self.interval, self.through, self.catalog.project()).map_err(lift)?;
        can_write(target, &insert.place, &owned, self.interval)?;
        let guarded = self.guarded(&owned.plan, insert, &gathered).map_err(lift)?;
        let physical = self.engine.physical(&guarded).await.map_err(lift)?;
        let (written, judged) = self.write(insert, physical, &lift).await?;
        let mut findings = gathered.take();
        let failed: Vec<&DeadLetter> = findings.dead.iter().filter(|letter| letter.is_of_statement()).collect();
        self.pipeline.max_errors.check(&failed, gathered.rows_seen(), &format!("the interval {}", self.interval))?;
        for letter in judged.dead {
            findings.counters.count_dead(&letter.dataset, &letter.reason);
            findings.dead.push(letter);
        }
        findings.counters.rows_dropped += judged.dropped;
        findings.counters.rows_warned += judged.warned;
        let report = TargetReport {
            name: target.name.clone(),
            rows: written.rows,
            read_from: owned.from,
            whole_because: owned.whole,
        };
        let (warnings, turn) = (judged.warnings, self.turn);
        Ok(Staged { target: self.target, report, written, findings, tables, warnings, turn })
    }

    /// Gives the rows that may stand to the writers, once they are as is expected.
    async fn write(
        &self,
        insert: &Insert,
        physical: Arc<dyn ExecutionPlan>,
        lift: &(dyn Fn(DataFusionError) -> Error + Sync),
    ) -> Result<(Written, Judged)> {
        let target = &self.target;
        let judging = Judging {
            catalog: self.catalog,
            engine: self.engine,
            dataset: &insert.target,
            time: time_of(self.catalog, &insert.target)?,
            expectations: expected_of(self.pipeline, &insert.target),
            interval: self.interval,
            history: self.sizes.clone(),
        };
        let task = || self.engine.task();
        let (written, mut judged) = if judging.needs_rows() {
            let spool = Spool::fill(physical, task(), &self.context.spill, self.progress, lift).await?;
            let spool = Arc::new(spool);
            let others = beside(self.catalog, self.engine, &judging).await?;
            let mut judged = judging.rows(spool.table()?, &others).await?;
            let stands = judged.stands.take().ok_or_else(|| Error::internal("judged rows are lost"))?;
            (write(stands, task(), &target.sink, self.progress, lift).await?, judged)
        } else {
            (write(physical, task(), &target.sink, self.progress, lift).await?, Judged::default())
        };
        judging.count(written.rows, &mut judged)?;
        self.emptiness(written.rows, &mut judged)?;
        Ok((written, judged))
    }

    /// No rows where the intervals before had some are worth a word: a run that is green and did nothing.
    fn emptiness(&self, rows: u64, judged: &mut Judged) -> Result<()> {
        let mean = self.sizes.iter().sum::<u64>() / (self.sizes.len().max(1) as u64);
        if rows > 0 || mean == 0 || self.pipeline.scheduling.on_empty == OnEmpty::Ignore {
            return Ok(());
        }
        let name = &self.target.name;
        let message =
            format!("`{name}` gets no rows, where the last {} intervals have {mean} on average", self.sizes.len());
        if self.pipeline.scheduling.on_empty == OnEmpty::Fail {
            return Err(Error::new(Kind::Data, "D112", message)
                .at(&self.pipeline.place)
                .fact("nothing of the step was published; on_empty = 'warn' lets it stand"));
        }
        judged.warnings.push(message);
        Ok(())
    }

    /// Which version of each table without event time is read.
    async fn tables_met(&self, reads: &BTreeSet<String>) -> Result<BTreeMap<String, TableMet>> {
        let mut tables = BTreeMap::new();
        for name in reads {
            if self.catalog.dataset(name)?.watermark.is_some() {
                continue;
            }
            let read_at = self.context.clock.now();
            if let Some(version) = self.catalog.version(name, Side::History).await? {
                let versions = BTreeMap::from([(name.clone(), version.token)]);
                tables.insert(name.clone(), TableMet { versions, read_at, failed: None });
            }
        }
        Ok(tables)
    }

    /// The plan in which rows fail one by one.
    fn guarded(
        &self,
        plan: &LogicalPlan,
        insert: &Insert,
        gathered: &Arc<Gathered>,
    ) -> Result<LogicalPlan, DataFusionError> {
        if self.pipeline.on_error == OnError::Fail {
            return Ok(plan.clone());
        }
        let guarding = Guarding {
            project: self.catalog.project(),
            on_error: self.pipeline.on_error,
            way: OnItsWay::to(&insert.target, &insert.place),
            gathered: Arc::clone(gathered),
        };
        guard(plan.clone(), self.engine.state(), &guarding)
    }
}

/// The event time of a table, or the column that its rows are replaced by.
fn time_of(catalog: &Catalog, dataset: &str) -> Result<Option<String>> {
    if let Some(watermark) = &catalog.dataset(dataset)?.watermark {
        return Ok(Some(watermark.column.clone()));
    }
    Ok(catalog.settings(dataset, Side::Live)?.text("time_column").map(str::to_owned))
}

/// The datasets that expectations ask beside their own.
async fn beside(catalog: &Catalog, engine: &Engine, judging: &Judging<'_>) -> Result<Datasets> {
    let mut names = BTreeSet::new();
    for expectation in &judging.expectations {
        let Clause::Query(query) = &expectation.clause else { continue };
        let others = |name: &TableReference| no_views(catalog, name);
        names.extend(
            outline(catalog, engine.state(), Side::History, &others, (query, &expectation.clause_place))?.datasets,
        );
    }
    names.remove(judging.dataset);
    let gathered = Arc::new(Gathered::only_counts(StopFlag::default()));
    let manner = Manner { side: Side::History, start: None, owned: None, gathered, only: None };
    Datasets::open(catalog, engine.state(), &manner, &names).await
}

/// Judges what is expected of a dataset before it is read; answers what is only warned of.
pub(super) async fn judge_input(
    (catalog, engine, pipeline): (&Catalog, &Engine, &Pipeline),
    (dataset, expectations): (&str, &[&Expectation]),
    interval: Interval,
    (sizes, only): (Vec<u64>, &Arc<Seen>),
) -> Result<(Vec<String>, u64)> {
    let gathered = Arc::new(Gathered::only_counts(StopFlag::default()));
    let manner = Manner {
        side: Side::History,
        start: pipeline.start,
        owned: Some(interval),
        gathered,
        only: Some(Arc::clone(only)),
    };
    let table = Datasets::open_one(catalog, engine.state(), &manner, dataset).await?;
    let table =
        if catalog.dataset(dataset)?.watermark.is_some() { table.within(interval) } else { table.as_ref().clone() };
    let judging = Judging {
        catalog,
        engine,
        dataset,
        time: time_of(catalog, dataset)?,
        expectations: expectations.to_vec(),
        interval,
        history: sizes,
    };
    let others = beside(catalog, engine, &judging).await?;
    let table: Arc<dyn TableProvider> = Arc::new(table);
    let mut judged = judging.rows(Arc::clone(&table), &others).await?;
    let rows = judging.rows_in(table, &others).await?;
    judging.count(rows, &mut judged)?;
    Ok((judged.warnings, rows))
}

/// The plan of a statement over opened datasets.
pub(super) fn statement(
    catalog: &Catalog,
    engine: &Engine,
    (insert, values): (&Insert, &BTreeMap<String, String>),
    datasets: &Datasets,
) -> Result<LogicalPlan> {
    let others = |name: &TableReference| no_views(catalog, name);
    let plan = datasets.plan(catalog, engine.state(), &others, (&insert.query, &insert.place))?;
    let plan = with_task_values(plan, values).map_err(|e| from_datafusion(&e, &insert.place))?;
    insert_columns(plan, insert, catalog.dataset(&insert.target)?)
}
