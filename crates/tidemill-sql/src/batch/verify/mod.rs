//! [`verify`]: what a pipeline serves and has written, beside the same computed anew by the interval executor.
//!
//! **Invariant:** it changes nothing. Both sides are of one epoch: the rows that its manifest names, and the query over all
//! rows that the pipeline's sources have, which is why its caller makes sure that the epoch has read all of them.
//!
//! Memory: both sides of one target are held at once, with some 100 bytes for each row beside its values.

mod classes;
mod compare;
mod settled;
mod upsert;

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use arrow::error::ArrowError;
use datafusion::common::TableReference;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::collect;
use datafusion::sql::sqlparser::ast;
use tidemill_checkpoint::Manifest;
use tidemill_model::{Error, Interval, Kind, Place, Result, Watermark};
use tidemill_runtime::WriteMode;
use tidemill_runtime::exec::StopFlag;

use super::engine::{Engine, Resources};
use super::guard::{Guarding, guard};
use super::interval::no_views;
use super::locality::times;
use super::owned::owned;
use super::query::query;
use super::reading::Gathered;
use super::tables::{Datasets, Manner, outline};
use super::views::ViewSource;
use crate::catalog::{Catalog, Presence, Side};
use crate::language::{Insert, MaterializedView, OnError, Pipeline, from_datafusion};
use crate::session::guarded::OnItsWay;
use crate::session::{Meaning, WindowSize, default_sequence, insert_columns, result_schema};
use crate::stream::holds_back;
use classes::{classes, key_columns, lookups};
use compare::{Sides, compare, fitted};
use settled::{Reached, untold};

pub use compare::{Difference, Differences, Side as DifferenceSide};

/// What a verification needs of the world.
#[derive(Debug)]
pub struct Verifying<'a> {
    /// The project.
    pub catalog: &'a Catalog,
    /// The pipeline.
    pub pipeline: &'a Pipeline,
    /// The epoch that is verified: the newest.
    pub manifest: &'a Manifest,
    /// The rows of its views.
    pub views: &'a dyn ViewSource,
    /// What the computation may use.
    pub resources: Resources,
    /// Ends it.
    pub stop: StopFlag,
}

/// What came of one target.
#[derive(Debug, Clone)]
pub struct Verified {
    /// The table or view.
    pub name: String,
    /// Whether it is a materialized view.
    pub is_view: bool,
    /// What was compared, in words.
    pub compared: String,
    /// What the recomputation read: dataset, and whether from its HISTORY.
    pub read: Vec<(String, bool)>,
    /// What came of it, or why it was not compared.
    pub outcome: Result<Compared, String>,
    /// What a reader of the outcome should know, in sentences.
    pub notes: Vec<String>,
}

/// The comparison of one target.
#[derive(Debug, Clone)]
pub struct Compared {
    /// How many rows are stored.
    pub stored: u64,
    /// How many rows were computed anew.
    pub recomputed: u64,
    /// What differs.
    pub differences: Differences,
}

/// Where results went.
#[derive(Clone, Copy)]
enum To<'a> {
    View(&'a MaterializedView),
    Table(&'a Insert),
}

impl<'a> To<'a> {
    fn name(self) -> &'a str {
        match self {
            To::View(view) => &view.name,
            To::Table(insert) => &insert.target,
        }
    }

    fn query(self) -> (&'a ast::Query, &'a Place) {
        match self {
            To::View(view) => (&view.query, &view.place),
            To::Table(insert) => (&insert.query, &insert.place),
        }
    }
}

/// Computes anew what the pipeline serves and has written, and compares.
///
/// # Errors
/// Plan, at its place; whatever sources, targets and the store answer.
pub async fn verify(verifying: &Verifying<'_>) -> Result<Vec<Verified>> {
    let engine =
        Engine::new(&verifying.resources, verifying.catalog.environment().clock.now(), verifying.catalog.functions())?;
    let project = verifying.catalog.project();
    let views = verifying.pipeline.materialized.iter().filter_map(|name| project.materialized.get(name)).map(To::View);
    let mut verified = Vec::new();
    for target in views.chain(verifying.pipeline.inserts.iter().map(To::Table)) {
        verified.push(Box::pin(verifying.one(&engine, target)).await?);
    }
    Ok(verified)
}

impl Verifying<'_> {
    async fn one(&self, engine: &Engine, target: To<'_>) -> Result<Verified> {
        let others = |name: &TableReference| no_views(self.catalog, name);
        let found = outline(self.catalog, engine.state(), Side::History, &others, target.query())?;
        let from_history = |name: &String| {
            let has = self.catalog.dataset(name).is_ok_and(|dataset| dataset.history.is_some());
            (name.clone(), has)
        };
        let mut verified = Verified {
            name: target.name().to_owned(),
            is_view: matches!(target, To::View(_)),
            compared: String::new(),
            read: found.datasets.iter().map(from_history).collect(),
            outcome: Err(String::new()),
            notes: Vec::new(),
        };
        let by_interval = self.by_interval(target);
        let ended =
            found.datasets.iter().filter(|name| self.has_time(name)).all(|name| self.through(name) == Watermark::MAX);
        let told = if by_interval || ended { None } else { untold(&found.plan, self.catalog.project()) };
        if let Some(why) = told.map_or_else(|| self.unreadable(target), |why| Ok(Some(why)))? {
            verified.outcome = Err(why);
            return Ok(verified);
        }
        let recomputed = self.recomputed(engine, target, &found.datasets, by_interval, &mut verified).await?;
        let stored = self.stored(target, &recomputed, &mut verified).await?;
        self.compare(target, &stored, recomputed, &mut verified)?;
        Ok(verified)
    }

    /// Whether a table has rows of interval runs alone.
    fn by_interval(&self, target: To<'_>) -> bool {
        let streamed = self.manifest.sources.values().any(|source| !source.splits.is_empty());
        matches!(target, To::Table(_)) && !streamed && !self.manifest.ledger.entries().is_empty()
    }

    fn has_time(&self, dataset: &str) -> bool {
        self.catalog.dataset(dataset).is_ok_and(|dataset| dataset.watermark.is_some())
    }

    /// How far a dataset's time was when the epoch ended.
    fn through(&self, dataset: &str) -> Watermark {
        let source = self.manifest.sources.get(dataset);
        source.and_then(|source| source.watermark).unwrap_or(Watermark::MIN)
    }

    /// Why a table cannot be read back; `None` when it can.
    fn unreadable(&self, target: To<'_>) -> Result<Option<String>> {
        let To::Table(insert) = target else { return Ok(None) };
        if self.catalog.presence(&insert.target, Side::Live)? != Presence::There {
            return Ok(None);
        }
        if self.catalog.settings(&insert.target, Side::Live)?.text("changelog") == Some("upsert") {
            return Ok(Some(format!(
                "records of `{}` replace each other by key; what reads it can be verified",
                insert.target
            )));
        }
        if holds_back(self.manifest, &insert.target) {
            return Ok(Some(format!(
                "changes of `{}` are held back by emit_every; they go out later, and when the run ends",
                insert.target
            )));
        }
        match self.catalog.source(&insert.target, Side::Live) {
            Err(error) if error.kind() == Kind::Config => Ok(Some(error.message().to_owned())),
            Err(error) => Err(error),
            Ok(_) => Ok(None),
        }
    }

    /// The rows as the interval executor computes them.
    async fn recomputed(
        &self,
        engine: &Engine,
        target: To<'_>,
        reads: &BTreeSet<String>,
        by_interval: bool,
        verified: &mut Verified,
    ) -> Result<Recomputed> {
        let place = target.query().1;
        let lift = |e| from_datafusion(&e, place);
        let gathered = Arc::new(Gathered::only_counts(self.stop.clone()));
        let manner = Manner {
            side: Side::History,
            start: self.pipeline.start,
            owned: None,
            gathered: Arc::clone(&gathered),
            only: None,
        };
        let datasets = Datasets::open(self.catalog, engine.state(), &manner, reads).await?;
        let others = |name: &TableReference| no_views(self.catalog, name);
        let plan = datasets.plan(self.catalog, engine.state(), &others, target.query())?;
        let plan = match target {
            To::View(_) => plan,
            To::Table(insert) => insert_columns(plan, insert, self.catalog.dataset(&insert.target)?)?,
        };
        let project = self.catalog.project();
        for dataset in lookups(&plan, project) {
            verified.notes.push(format!(
                "depends on arrival: the stream looked up in `{dataset}` as it was when its rows came, this did as it is now"
            ));
        }
        let plans = match by_interval {
            true => self.of_intervals(&plan, verified).map_err(lift)?,
            false => vec![self.of_stream(engine, target, plan.clone(), verified).map_err(lift)?],
        };
        let mut batches = Vec::new();
        for settled in plans {
            let guarded = match self.pipeline.on_error {
                OnError::Fail => settled,
                on_error => {
                    let way = OnItsWay::to(target.name(), place);
                    let guarding = Guarding { project, on_error, way, gathered: Arc::clone(&gathered) };
                    guard(settled, engine.state(), &guarding).map_err(lift)?
                }
            };
            let physical = engine.physical(&guarded).await.map_err(lift)?;
            batches.extend(collect(physical, engine.task()).await.map_err(lift)?);
        }
        let schema = result_schema(&engine.state().optimize(&plan).map_err(lift)?);
        let fitting: std::result::Result<Vec<_>, _> = batches.iter().map(|rows| fitted(rows, &schema)).collect();
        let rows = concat_batches(&schema, &fitting.map_err(broken)?).map_err(broken)?;
        Ok(Recomputed { plan, rows })
    }

    /// What a stream has given out.
    fn of_stream(
        &self,
        engine: &Engine,
        target: To<'_>,
        plan: LogicalPlan,
        verified: &mut Verified,
    ) -> datafusion::common::Result<LogicalPlan> {
        let project = self.catalog.project();
        let watermark = |dataset: &str| self.through(dataset);
        let changes = matches!(target, To::View(_)) || self.pipeline.emit_changes;
        let own = match target {
            To::View(view) => view.settings.span("allowed_lateness"),
            To::Table(_) => None,
        };
        let lateness = own.unwrap_or(self.pipeline.lateness).as_micros();
        let lateness = i64::try_from(lateness).unwrap_or(i64::MAX);
        let changelog =
            |dataset: &str| self.catalog.changes(dataset, Side::Live).is_ok_and(|changes| changes.is_some());
        let (changelog, state) = (&changelog, engine.state());
        let reached = Reached { project, watermark: &watermark, changes, lateness, changelog, state };
        let settled = reached.settled(plan.clone())?;
        let timed = verified.read.iter().map(|(name, _)| name).filter(|name| self.has_time(name));
        verified.compared = match timed.map(|name| self.through(name)).min() {
            Some(at) if settled != plan && at > Watermark::MIN => format!("windows closed by {at}"),
            _ if settled != plan => "windows that are closed".to_owned(),
            _ => "all rows".to_owned(),
        };
        Ok(settled)
    }

    /// What runs of intervals have written.
    fn of_intervals(
        &self,
        plan: &LogicalPlan,
        verified: &mut Verified,
    ) -> datafusion::common::Result<Vec<LogicalPlan>> {
        let project = self.catalog.project();
        let done: Vec<Interval> = self.manifest.ledger.entries().iter().map(|entry| entry.interval).collect();
        verified.compared = match done.as_slice() {
            [only] => format!("the interval {only}"),
            all => format!("{} intervals", all.len()),
        };
        let through = done.iter().map(|interval| interval.end).max();
        let mut plans = Vec::new();
        for interval in &done {
            let found = owned(plan.clone(), *interval, through, project)?;
            if found.whole.is_some() {
                // Each is the result over all rows before the newest end, so that one of them is all.
                plans.clear();
            }
            plans.push(found.plan);
        }
        Ok(plans)
    }

    /// The rows as they are stored, with the columns of the recomputed ones.
    async fn stored(&self, target: To<'_>, computed: &Recomputed, verified: &mut Verified) -> Result<RecordBatch> {
        let schema = computed.rows.schema();
        let batches = match target {
            To::View(view) => {
                let found = self.views.rows(&self.pipeline.name, &view.name)?;
                if found.as_ref().is_some_and(|rows| rows.epoch != self.manifest.epoch) {
                    return Err(moved_on(&self.pipeline.name));
                }
                found.map(|rows| rows.batches).unwrap_or_default()
            }
            To::Table(insert) => {
                let columns: Vec<String> =
                    schema.fields().iter().map(|field| format!("\"{}\"", field.name().replace('"', "\"\""))).collect();
                let sql = format!("SELECT {} FROM \"{}\"", columns.join(", "), insert.target);
                let answer =
                    Box::pin(query(self.catalog, self.views, &sql, &self.resources, self.stop.clone())).await?;
                if !answer.unwritten.is_empty() {
                    verified.notes.push(format!("nothing is there of `{}`", insert.target));
                }
                answer.batches
            }
        };
        let other = |e: ArrowError| {
            Error::new(Kind::Plan, "P193", format!("the stored rows of `{}` have other columns", target.name()))
                .at(target.query().1)
                .because(e)
                .fact("they were written by another query; run the pipeline, which says what to do")
        };
        let fitting: std::result::Result<Vec<_>, _> = batches
            .iter()
            .map(|rows| by_name(rows, &schema, verified.is_view).and_then(|rows| fitted(&rows, &schema)))
            .collect();
        concat_batches(&schema, &fitting.map_err(other)?).map_err(other)
    }

    fn compare(
        &self,
        target: To<'_>,
        stored: &RecordBatch,
        computed: Recomputed,
        verified: &mut Verified,
    ) -> Result<()> {
        let Recomputed { plan, mut rows } = computed;
        let schema = rows.schema();
        let places =
            |names: &[String]| -> Vec<usize> { names.iter().filter_map(|n| schema.index_of(n).ok()).collect() };
        let mut known = key_columns(&plan).filter(|key| !key.is_empty() || is_one_row(&plan));
        match target {
            To::View(view) => {
                if let Some(retention) = view.settings.span("retention") {
                    rows = self.retained(view, retention, &plan, rows, stored).map_err(broken)?;
                }
            }
            To::Table(insert) => {
                let mut mode = self
                    .catalog
                    .write_mode(&insert.target, &schema, insert.part.as_ref())
                    .map_err(|e| e.at(&insert.place))?;
                if let WriteMode::Upsert { sequence: sequence @ None, .. } = &mut mode {
                    *sequence = default_sequence(&plan, self.catalog.project());
                }
                if let WriteMode::Upsert { key, sequence } = mode {
                    let sequence = sequence.and_then(|column| schema.index_of(&column).ok());
                    let key = places(&key);
                    rows = upsert::winners(&rows, &key, sequence).map_err(broken)?;
                    known = Some(key);
                }
            }
        }
        let classes = classes(&plan);
        let exact = |at: &usize| classes[*at] == classes::Class::Exact && !schema.field(*at).data_type().is_floating();
        let key: Vec<usize> = match known {
            Some(key) => key.into_iter().filter(exact).collect(),
            None => (0..schema.fields().len()).filter(exact).collect(),
        };
        let sides = Sides { stored, recomputed: &rows, key: &key, classes: &classes };
        let mut differences = compare(&sides).map_err(broken)?;
        if let To::Table(insert) = target {
            self.without_others(insert, &mut differences, verified);
        }
        let counted = |rows: &RecordBatch| rows.num_rows() as u64;
        verified.outcome = Ok(Compared { stored: counted(stored), recomputed: counted(&rows), differences });
        Ok(())
    }

    /// Rows of a table that others write too are not told apart: only what is missing is a difference then.
    fn without_others(&self, insert: &Insert, differences: &mut Differences, verified: &mut Verified) {
        let writers = self.catalog.project().writers(&insert.target);
        let mut others: Vec<String> = writers
            .into_iter()
            .filter(|writer| writer.name != self.pipeline.name)
            .map(|writer| format!("the pipeline {}", writer.name))
            .collect();
        let streamed = self.manifest.sources.values().any(|source| !source.splits.is_empty());
        if streamed && !self.manifest.ledger.entries().is_empty() {
            others.push(format!("interval runs of {}", self.pipeline.name));
        }
        if others.is_empty() {
            return;
        }
        verified.notes.push(format!(
            "`{}` is also written by {}: {} more or other rows in it are no differences",
            insert.target,
            others.join(" and "),
            differences.only_stream + differences.differ,
        ));
        (differences.only_stream, differences.differ) = (0, 0);
        differences.shown.retain(|shown| shown.side == compare::Side::Recomputed);
    }

    /// The recomputed rows without those that the view has forgotten since.
    fn retained(
        &self,
        view: &MaterializedView,
        retention: std::time::Duration,
        plan: &LogicalPlan,
        rows: RecordBatch,
        stored: &RecordBatch,
    ) -> Result<RecordBatch, ArrowError> {
        let window =
            times(plan, self.catalog.project()).into_iter().enumerate().find_map(|(at, meaning)| match meaning {
                Meaning::Start { size: WindowSize::Session { .. }, .. } => None,
                Meaning::Start { size, .. } => Some((at, false, size)),
                Meaning::End { size, .. } => Some((at, true, size)),
                Meaning::Plain | Meaning::Time { .. } => None,
            });
        let Some((column, is_end, size)) = window else { return Ok(rows) };
        let end_of = |told: i64| if is_end { told } else { size.end_of(told) };
        let ends = |rows: &RecordBatch| -> Vec<Option<i64>> {
            let told = rows.column(column).as_primitive_opt::<TimestampMicrosecondType>();
            told.map_or_else(|| vec![None; rows.num_rows()], |told| told.iter().map(|at| at.map(end_of)).collect())
        };
        let through = self.manifest.views.get(&view.name).and_then(|state| state.complete_to);
        let oldest = match through.and_then(Watermark::instant) {
            Some(at) => at.0.saturating_sub(i64::try_from(retention.as_micros()).unwrap_or(i64::MAX)),
            // The input has ended, and the end of time makes nothing old: what is there is what was kept.
            None => ends(stored).into_iter().flatten().min().map_or(i64::MIN, |end| end - 1),
        };
        let keep: BooleanArray = ends(&rows).into_iter().map(|end| Some(end.is_none_or(|end| end > oldest))).collect();
        if keep.true_count() == keep.len() { Ok(rows) } else { filter_record_batch(&rows, &keep) }
    }
}

/// What the interval executor computed.
struct Recomputed {
    plan: LogicalPlan,
    rows: RecordBatch,
}

/// The columns of a view's rows in the order of its query; those of a table are in that order already.
fn by_name(rows: &RecordBatch, schema: &SchemaRef, is_view: bool) -> Result<RecordBatch, ArrowError> {
    if !is_view {
        return Ok(rows.clone());
    }
    let order: Result<Vec<usize>, ArrowError> =
        schema.fields().iter().map(|field| rows.schema().index_of(field.name())).collect();
    rows.project(&order?)
}

/// Whether a query without a key in its result has one row at most.
fn is_one_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Aggregate(node) => node.group_expr.is_empty(),
        LogicalPlan::Filter(_) | LogicalPlan::SubqueryAlias(_) | LogicalPlan::Sort(_) | LogicalPlan::Projection(_) => {
            plan.inputs().first().is_some_and(|input| is_one_row(input))
        }
        _ => false,
    }
}

/// The pipeline committed an epoch while it was looked at.
#[must_use]
pub fn moved_on(pipeline: &str) -> Error {
    Error::new(Kind::Unavailable, "U031", format!("`{pipeline}` ran while it was verified"))
        .fact("verify it again once it has stopped")
}

fn broken(error: ArrowError) -> Error {
    Error::internal("the two sides cannot be compared").because(error)
}
