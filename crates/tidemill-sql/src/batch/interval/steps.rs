//! [`Step`]: a statement or a program of a pipeline's run, and which steps it comes after.
//!
//! **Invariant:** the order follows from what reads what; steps stand in an order in which each comes after those that it
//! waits for, and planning opens no target and reads no row.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::common::TableReference;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan, TableSource, Volatility};
use tidemill_checkpoint::OpenRun;
use tidemill_model::{Error, Kind, Place, Result};

use super::super::engine::{Engine, Resources};
use super::super::tables::outline;
use super::expect::input_step;
use crate::catalog::{Catalog, Side};
use crate::language::{Expectation, Insert, Pipeline, Task, Violation, from_datafusion};
use crate::session::{insert_columns, result_schema, tasks_asked};

/// A step of a pipeline's run.
pub(super) struct Step<'a> {
    /// Of a statement its target's name.
    pub(super) name: Cow<'a, str>,
    pub(super) work: Work<'a>,
    /// The steps that it comes after.
    pub(super) after: BTreeSet<Cow<'a, str>>,
    /// What its rows depend on, beside the rows that it reads.
    pub(super) fingerprint: String,
    /// Where to point when it has no place of its own.
    nowhere: &'a Place,
}

/// What a step does.
pub(super) enum Work<'a> {
    Insert {
        insert: &'a Insert,
        plan: LogicalPlan,
        reads: BTreeSet<String>,
    },
    Task(&'a Task),
    /// What is expected of a dataset before it is read.
    Expect {
        dataset: &'a str,
        expectations: Vec<&'a Expectation>,
    },
}

impl Step<'_> {
    /// The datasets that a statement reads.
    pub(super) fn reads(&self) -> impl Iterator<Item = &String> {
        let reads = if let Work::Insert { reads, .. } = &self.work { Some(reads) } else { None };
        reads.into_iter().flatten()
    }

    pub(super) fn place(&self) -> &Place {
        match &self.work {
            Work::Insert { insert, .. } => &insert.place,
            Work::Task(task) => &task.place,
            Work::Expect { expectations, .. } => expectations.first().map_or(self.nowhere, |e| &e.place),
        }
    }
}

/// A step as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedStep {
    /// Of a statement its target's name.
    pub name: String,
    /// What it does.
    pub kind: StepKind,
    /// The steps that it comes after.
    pub after: BTreeSet<String>,
    /// What its rows depend on, beside the rows that it reads.
    pub fingerprint: String,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepKind {
    /// It writes a dataset.
    Insert {
        /// The datasets read.
        reads: BTreeSet<String>,
    },
    /// It runs a program.
    Task,
    /// It evaluates what is expected of a dataset before that is read.
    Expect,
}

/// Checks the steps of a pipeline as a run of an interval would, and puts them in order.
///
/// # Errors
/// Plan, each at its place: what is wrong in one statement holds back nothing of the others.
pub fn plan_interval(catalog: &Catalog, pipeline: &str, resources: &Resources) -> Result<Vec<PlannedStep>> {
    let engine = Engine::new(resources, catalog.environment().clock.now(), catalog.functions())?;
    let pipeline = catalog.project().pipeline(pipeline)?;
    let planned = steps(catalog, &engine, pipeline)?.into_iter().map(|step| PlannedStep {
        name: step.name.into_owned(),
        after: step.after.into_iter().map(Cow::into_owned).collect(),
        fingerprint: step.fingerprint,
        kind: match step.work {
            Work::Insert { reads, .. } => StepKind::Insert { reads },
            Work::Task(_) => StepKind::Task,
            Work::Expect { .. } => StepKind::Expect,
        },
    });
    Ok(planned.collect())
}

/// The steps that a run which goes on need not compute again: those that it has done, by what computes them now, and after
/// none that it computes.
pub(super) fn kept(steps: &[Step<'_>], run: &OpenRun) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for step in steps {
        let same = run.steps.get(step.name.as_ref()).is_some_and(|done| done.fingerprint == step.fingerprint);
        if same && step.after.iter().all(|before| kept.iter().any(|name| name == before)) {
            kept.push(step.name.to_string());
        }
    }
    kept
}

/// What the rows of intervals are computed by: the fingerprint of all statements, as the ledger has it.
#[must_use]
pub fn fingerprint_of(steps: &[PlannedStep]) -> String {
    let statements = steps.iter().filter(|step| matches!(step.kind, StepKind::Insert { .. }));
    by(statements.map(|step| (step.name.as_str(), step.fingerprint.as_str())))
}

/// What the rows of a run are computed by.
pub(super) fn by<'s>(steps: impl Iterator<Item = (&'s str, &'s str)>) -> String {
    let mut parts: Vec<String> = steps.map(|(name, fingerprint)| format!("{name} {fingerprint}")).collect();
    parts.sort();
    fingerprint(&parts.join("\n"))
}

/// The steps of a pipeline in their order.
pub(super) fn steps<'a>(catalog: &Catalog, engine: &Engine, pipeline: &'a Pipeline) -> Result<Vec<Step<'a>>> {
    if pipeline.inserts.is_empty() && pipeline.tasks.is_empty() {
        let message =
            format!("pipeline `{}` writes no table, so there is nothing to run for an interval", pipeline.name);
        return Err(Error::new(Kind::Plan, "P180", message)
            .at(&pipeline.place)
            .fact("materialized views are kept by its trigger: run it without --interval, or add an INSERT INTO"));
    }
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for insert in &pipeline.inserts {
        match output(catalog, engine, insert) {
            Ok((plan, reads)) => match of_insert(pipeline, insert, plan, reads) {
                Ok(step) => found.push(step),
                Err(error) => errors.push(error),
            },
            Err(error) => errors.push(error),
        }
    }
    if let Some(error) = Error::all(errors) {
        return Err(error);
    }
    of_inputs(pipeline, &mut found)?;
    for task in &pipeline.tasks {
        let fingerprint = fingerprint(&format!("{:?}", task.settings));
        let after = task.after.iter().map(|(name, _)| Cow::from(name)).collect();
        found.push(Step {
            name: Cow::from(&task.name),
            work: Work::Task(task),
            after,
            fingerprint,
            nowhere: &task.place,
        });
    }
    for task in &pipeline.tasks {
        for (name, _) in &task.before {
            found.iter_mut().filter(|step| step.name == *name).for_each(|step| {
                step.after.insert(Cow::from(&task.name));
            });
        }
    }
    in_order(found)
}

fn of_insert<'a>(
    pipeline: &'a Pipeline,
    insert: &'a Insert,
    plan: LogicalPlan,
    reads: BTreeSet<String>,
) -> Result<Step<'a>> {
    let own = pipeline.inserts.iter().map(|other| other.target.as_str());
    let mut after: BTreeSet<Cow<'a, str>> = own.filter(|target| reads.contains(*target)).map(Cow::from).collect();
    for asked in tasks_asked(&plan).map_err(|e| from_datafusion(&e, &insert.place))? {
        let Some(task) = pipeline.tasks.iter().find(|task| task.name == asked) else {
            let names: Vec<&str> = pipeline.tasks.iter().map(|task| task.name.as_str()).collect();
            let error = Error::new(Kind::Plan, "P118", format!("the pipeline has no task `{asked}`")).at(&insert.place);
            return Err(match tidemill_model::nearest(&asked, names.iter().copied()) {
                Some(meant) => error.label(format!("did you mean `{meant}`?")),
                None => error.fact("task_value('NAME') is what a task of the same file gave: CREATE TASK NAME …"),
            });
        };
        after.insert(Cow::from(&task.name));
    }
    let expected: Vec<String> = expected_of(pipeline, &insert.target).iter().map(|e| text_of(e)).collect();
    let part = insert.part.as_ref().map(|(part, _)| format!("\n{part}")).unwrap_or_default();
    let query = plan.display_indent_schema().to_string();
    let fingerprint = fingerprint(&format!("{query}\n{:?}\n{expected:?}{part}", result_schema(&plan)));
    Ok(Step {
        nowhere: &insert.place,
        name: Cow::from(&insert.target),
        work: Work::Insert { insert, plan, reads },
        after,
        fingerprint,
    })
}

/// What is expected of a dataset.
pub(super) fn expected_of<'a>(pipeline: &'a Pipeline, dataset: &str) -> Vec<&'a Expectation> {
    pipeline.expectations.iter().filter(|expectation| expectation.dataset.0 == dataset).collect()
}

fn text_of(expectation: &Expectation) -> String {
    let place = &expectation.clause_place;
    format!("{} {:?}", place.text.get(place.span.clone()).unwrap_or_default(), expectation.policy)
}

/// Adds the steps that look at what is read before it is.
fn of_inputs<'a>(pipeline: &'a Pipeline, found: &mut Vec<Step<'a>>) -> Result<()> {
    let mut inputs: BTreeMap<&'a str, Vec<&'a Expectation>> = BTreeMap::new();
    for expectation in &pipeline.expectations {
        let (dataset, place) = &expectation.dataset;
        if pipeline.inserts.iter().any(|insert| insert.target == *dataset) {
            continue;
        }
        let is_read = |step: &Step<'_>| matches!(&step.work, Work::Insert { reads, .. } if reads.contains(dataset));
        if !found.iter().any(is_read) {
            return Err(Error::new(
                Kind::Plan,
                "P117",
                format!("pipeline `{}` neither reads nor writes `{dataset}`", pipeline.name),
            )
            .at(place)
            .fact("an expectation stands in the file of the pipeline whose runs it is about"));
        }
        if matches!(expectation.policy, Violation::DeadLetter | Violation::Drop) {
            return Err(Error::new(Kind::Plan, "P116", format!("rows of `{dataset}` are only read here, so an expectation leaves none out"))
                .at(&expectation.clause_place)
                .label("write ON VIOLATION WARN or ON VIOLATION FAIL")
                .fact(format!("to leave rows out as they are read: CONSTRAINT {} CHECK (…) ON VIOLATION DEAD LETTER in CREATE TABLE {dataset}", expectation.name)));
        }
        inputs.entry(dataset).or_default().push(expectation);
    }
    for (dataset, expectations) in inputs {
        let name: Cow<'a, str> = Cow::from(input_step(dataset));
        for step in found.iter_mut() {
            if matches!(&step.work, Work::Insert { reads, .. } if reads.contains(dataset)) {
                step.after.insert(name.clone());
            }
        }
        let texts: Vec<String> = expectations.iter().map(|expectation| text_of(expectation)).collect();
        let nowhere = &pipeline.place;
        let work = Work::Expect { dataset, expectations };
        found.push(Step { name, work, after: BTreeSet::new(), fingerprint: fingerprint(&texts.join("\n")), nowhere });
    }
    Ok(())
}

/// Steps so that each comes after those that it waits for, and otherwise as they are written.
fn in_order(mut waiting: Vec<Step<'_>>) -> Result<Vec<Step<'_>>> {
    let mut ordered: Vec<Step<'_>> = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let ready = |step: &Step<'_>| step.after.iter().all(|name| ordered.iter().any(|other| other.name == *name));
        let Some(next) = waiting.iter().position(ready) else { return Err(cycle(&waiting)) };
        ordered.push(waiting.remove(next));
    }
    Ok(ordered)
}

fn cycle(waiting: &[Step<'_>]) -> Error {
    let by_name: BTreeMap<&str, &Step<'_>> = waiting.iter().map(|step| (step.name.as_ref(), step)).collect();
    // Whoever waits comes after another one that waits, so this walk comes back to where it was.
    let mut way: Vec<&str> = Vec::new();
    let mut at = waiting.first().map_or("", |step| step.name.as_ref());
    while !way.contains(&at) {
        way.push(at);
        let next = by_name.get(at).and_then(|step| step.after.iter().find(|name| by_name.contains_key(name.as_ref())));
        at = next.map_or(at, |next| next.as_ref());
    }
    let begin = way.iter().position(|name| *name == at).unwrap_or(0);
    let mut round = way.split_off(begin);
    let error = if let [only] = round[..] {
        Error::new(Kind::Plan, "P141", format!("the pipeline reads `{only}` and writes it in the same statement"))
            .label("in one run it would be read as it was before")
            .fact(format!("select from the query that `{only}` is written from, or write into another table"))
    } else {
        round.reverse();
        round.push(round.first().copied().unwrap_or_default());
        Error::new(Kind::Plan, "P141", format!("these steps wait for each other: {}", round.join(" > ")))
            .fact("let one of them read another table")
    };
    match by_name.get(at) {
        Some(step) => error.at(step.place()),
        None => error,
    }
}

/// FNV-1a of 64 bits, as 16 hexadecimal digits: stable wherever the same text is hashed.
pub(super) fn fingerprint(text: &str) -> String {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{hash:016x}")
}

/// What an INSERT writes, planned over names and types, and what it reads.
pub(in crate::batch) fn output(
    catalog: &Catalog,
    engine: &Engine,
    insert: &Insert,
) -> Result<(LogicalPlan, BTreeSet<String>)> {
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
pub(in crate::batch) fn no_views(catalog: &Catalog, name: &TableReference) -> Result<Option<Arc<dyn TableSource>>> {
    if !catalog.project().materialized.contains_key(name.table()) {
        return Ok(None);
    }
    Err(Error::new(Kind::Plan, "P134", format!("a pipeline cannot read the materialized view `{name}` yet"))
        .fact("put its query into a CREATE VIEW and use that in both places"))
}
