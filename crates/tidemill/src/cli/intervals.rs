//! The part of `tidemill plan` that is about pipelines that are run by intervals: their steps, both clocks, and which
//! intervals are missing, stale, failed or computed by another query.
//!
//! **Invariant:** it says what a run would do, and changes nothing.

use serde_json::{Value, json};
use tidemill_checkpoint::Manifest;
use tidemill_model::{Interval, Result, Span};
use tidemill_sql::batch::{Anew, PlannedStep, StepKind, plan_interval};
use tidemill_sql::language::Pipeline;

use super::backfill::fingerprint;
use super::gone;
use super::numbers::{counted, grouped, instant};
use super::output::Output;
use super::telling::shown;
use super::work::Work;
use crate::Workspace;
use crate::runs::Intervals;

/// How many ranges of a kind are shown.
const SHOWN: usize = 5;

/// Shows a pipeline that is run by intervals; whether it has intervals of its own.
pub(super) fn plan(
    workspace: &Workspace,
    pipeline: &Pipeline,
    values: &mut Vec<Value>,
    output: &Output,
) -> Result<bool> {
    let record = workspace.checkpoints(&pipeline.name).latest()?;
    match Intervals::of(workspace, pipeline)? {
        Some(intervals) => {
            let found = Found::of(workspace, &intervals, record.as_ref())?;
            if output.is_human() {
                output.line(format!("{}  {}  {}", pipeline.name, pipeline.file, pipeline.trigger));
                steps(&intervals.steps, pipeline, output);
                clocks(workspace, &intervals, pipeline, output);
                found.print(workspace, &intervals, record.as_ref(), output);
                delivery(workspace, pipeline, output)?;
            } else {
                values.push(found.as_json(workspace, &intervals, pipeline, record.as_ref()));
            }
            Ok(true)
        }
        None => {
            let planned = plan_interval(&workspace.catalog, &pipeline.name, &workspace.resources())?;
            if output.is_human() {
                output.line(format!("{}  {}  one interval of event time at a time", pipeline.name, pipeline.file));
                steps(&planned, pipeline, output);
                let done = record.iter().flat_map(|m| m.ledger.entries()).map(|e| e.interval.to_string());
                let done: Vec<String> = done.collect();
                output.line(match done.as_slice() {
                    [] => "  Interval none done yet".to_owned(),
                    [only] => format!("  Interval = done {only}"),
                    [first, .., last] => format!("  Interval = {} done, from {first} to {last}", done.len()),
                });
                for line in record.as_ref().map(gone::lines).unwrap_or_default() {
                    output.line(format!("           ! {line}"));
                }
                delivery(workspace, pipeline, output)?;
            } else {
                values.push(json!({
                    "pipeline": pipeline.name,
                    "file": *pipeline.file,
                    "trigger": "interval",
                    "steps": planned.iter().map(step_json).collect::<Vec<_>>(),
                    "targets": targets(&planned),
                    "gone": record.as_ref().map(gone::as_json),
                }));
            }
            Ok(false)
        }
    }
}

fn step_json(step: &PlannedStep) -> Value {
    let (kind, reads) = match &step.kind {
        StepKind::Insert { reads } => ("insert", Some(reads)),
        StepKind::Task => ("task", None),
        StepKind::Expect => ("expect", None),
    };
    json!({"step": step.name, "kind": kind, "reads": reads, "after": step.after, "fingerprint": step.fingerprint})
}

fn targets(steps: &[PlannedStep]) -> Vec<Value> {
    let targets = steps.iter().filter_map(|step| match &step.kind {
        StepKind::Insert { reads } => Some(json!({"target": step.name, "reads": reads})),
        StepKind::Task | StepKind::Expect => None,
    });
    targets.collect()
}

fn steps(planned: &[PlannedStep], pipeline: &Pipeline, output: &Output) {
    let mut label = "Graph   ";
    for step in planned {
        let after: Vec<&str> = step.after.iter().map(String::as_str).collect();
        let line = match &step.kind {
            StepKind::Insert { reads } => {
                let reads: Vec<&str> = reads.iter().map(String::as_str).collect();
                let waits: Vec<&str> = after.into_iter().filter(|name| !reads.contains(name)).collect();
                let waits = if waits.is_empty() { String::new() } else { format!("   after {}", waits.join(", ")) };
                format!("{} > {}{waits}", reads.join(", "), step.name)
            }
            StepKind::Expect => format!("{}, before it is read", step.name),
            StepKind::Task => {
                let after = if after.is_empty() { String::new() } else { format!("   after {}", after.join(", ")) };
                format!("task {}{after}", step.name)
            }
        };
        output.line(format!("  {label} {line}"));
        label = "        ";
    }
    for wait in &pipeline.waits {
        let file = wait.settings.text("file").unwrap_or_default();
        output.line(format!("  Waits    {} for {file}", wait.name));
    }
}

/// When is looked, and which intervals there are.
fn clocks(workspace: &Workspace, intervals: &Intervals, pipeline: &Pipeline, output: &Output) {
    let looks = match &intervals.schedule {
        Some(schedule) => schedule.to_string(),
        None if intervals.upstream.is_empty() => "by hand: tidemill run or backfill".to_owned(),
        None => {
            let upstream: Vec<&str> = intervals.upstream.iter().map(String::as_str).collect();
            format!("when {} has run", upstream.join(" or "))
        }
    };
    output.line(format!("  Looks    {looks}"));
    let delay = if intervals.delay.is_zero() {
        String::new()
    } else {
        format!(", due {} after its end", Span(intervals.delay))
    };
    let jitter =
        pipeline.scheduling.jitter.map_or_else(String::new, |jitter| format!(", begun within {}", Span(jitter)));
    output.line(format!("  Grid     {} of event time in UTC{delay}{jitter}", intervals.grid));
    let next = intervals.rule().next_due(workspace.clock.now());
    let next = next.map_or_else(|| "none".to_owned(), instant);
    output.line(format!("  Next     due at {next}   catchup {}", pipeline.scheduling.catchup));
    if !intervals.upstream.is_empty() && intervals.schedule.is_some() {
        let upstream: Vec<&str> = intervals.upstream.iter().map(String::as_str).collect();
        output.line(format!("  After    {}, interval by interval", upstream.join(", ")));
    }
}

fn delivery(workspace: &Workspace, pipeline: &Pipeline, output: &Output) -> Result<()> {
    for insert in &pipeline.inserts {
        let settings = workspace.catalog.settings(&insert.target, tidemill_sql::Side::Live)?;
        let how = match settings.text("write") {
            Some("replace") => "exactly-once: a run replaces its interval's rows",
            Some("overwrite") => "exactly-once: a run replaces all rows",
            Some("upsert") => "exactly-once: a run merges its rows by key",
            _ => "exactly-once: a run adds its rows once",
        };
        let of = insert.part.as_ref().map(|(part, _)| format!(" where {part}")).unwrap_or_default();
        output.line(format!("  Delivery > {}  {how}{of}", insert.target));
    }
    Ok(())
}

/// What of the intervals needs a run.
struct Found {
    due: u64,
    missing: Vec<Interval>,
    changed: Vec<Interval>,
    /// What it would take to run those that are missing or stale.
    work: Work,
}

impl Found {
    fn of(workspace: &Workspace, intervals: &Intervals, record: Option<&Manifest>) -> Result<Found> {
        let outlook = intervals.outlook(record, workspace.clock.now());
        let by = fingerprint(intervals);
        let changed = record.zip(outlook.due()).map(|(record, due)| record.ledger.computed_otherwise(due, &by));
        let missing = outlook.missing();
        let mut runs: Vec<(Interval, Anew)> =
            missing.iter().flat_map(|range| outlook.cells(*range)).map(|cell| (cell, Anew::Rest)).collect();
        runs.extend(outlook.stale().into_iter().map(|cell| (cell, Anew::All)));
        runs.sort_by_key(|(cell, _)| *cell);
        let work = Work::of(workspace, &intervals.pipeline, record, &runs)?;
        Ok(Found { due: outlook.count_due(), missing, changed: changed.unwrap_or_default(), work })
    }

    fn print(&self, workspace: &Workspace, intervals: &Intervals, record: Option<&Manifest>, output: &Output) {
        let count = |ranges: &[Interval]| intervals.outlook(record, workspace.clock.now()).count(ranges);
        let missing = count(&self.missing);
        let name = &intervals.pipeline;
        output.line(format!(
            "  Interval = {} of {} due are done",
            grouped(self.due - missing.min(self.due)),
            grouped(self.due)
        ));
        let list = |mark: &str, what: String, ranges: &[Interval]| {
            for (at, range) in ranges.iter().take(SHOWN).enumerate() {
                let what = if at == 0 { what.clone() } else { String::new() };
                output.line(format!("           {mark} {what:<12} {}", shown(*range)));
            }
            if ranges.len() > SHOWN {
                output
                    .line(format!("           {mark} … and {} more", counted((ranges.len() - SHOWN) as u64, "range")));
            }
        };
        list("?", format!("{} missing", grouped(missing)), &self.missing);
        for run in record.iter().flat_map(|record| record.runs.iter()) {
            let Some(failure) = &run.failure else { continue };
            let then =
                failure.retry_at.map_or_else(|| "given up".to_owned(), |at| format!("tried again at {}", instant(at)));
            output.line(format!(
                "           x failed       {}  {}: {}, {then}",
                shown(run.interval),
                failure.step,
                failure.message
            ));
        }
        for mark in record.iter().flat_map(|record| record.stale.iter()) {
            output.line(format!(
                "           ! stale        {}  {} of {} came after it was done",
                shown(mark.interval),
                counted(mark.rows, "row"),
                mark.datasets.join(", "),
            ));
        }
        for line in record.map(gone::lines).unwrap_or_default() {
            output.line(format!("           ! {line}"));
        }
        if !self.changed.is_empty() {
            list("~", format!("{} changed", grouped(count(&self.changed))), &self.changed);
            output.line("           another query computed these; they stand until they are run anew:");
            output.line(format!("           tidemill backfill {name} --only changed"));
        }
        let mut label = format!("Work     for {}:", counted(self.work.runs(), "run"));
        for line in self.work.lines() {
            if !label.is_empty() {
                output.line(format!("  {}", std::mem::take(&mut label)));
            }
            output.line(format!("           {line}"));
        }
    }

    fn as_json(
        &self,
        workspace: &Workspace,
        intervals: &Intervals,
        pipeline: &Pipeline,
        record: Option<&Manifest>,
    ) -> Value {
        let outlook = intervals.outlook(record, workspace.clock.now());
        let ranges = |ranges: &[Interval]| -> Vec<Value> {
            ranges.iter().map(|r| json!({"start": r.start.to_string(), "end": r.end.to_string()})).collect()
        };
        let stale = record.iter().flat_map(|record| record.stale.iter());
        let failed = record.iter().flat_map(|record| record.runs.iter()).filter(|run| run.failure.is_some());
        json!({
            "pipeline": pipeline.name,
            "file": *pipeline.file,
            "trigger": pipeline.trigger.to_string(),
            "grid": intervals.grid.to_string(),
            "catchup": pipeline.scheduling.catchup.to_string(),
            "next_due": intervals.rule().next_due(workspace.clock.now()).map(|at| at.to_string()),
            "upstream": intervals.upstream,
            "steps": intervals.steps.iter().map(step_json).collect::<Vec<_>>(),
            "targets": targets(&intervals.steps),
            "due": self.due,
            "missing": {"intervals": outlook.count(&self.missing), "ranges": ranges(&self.missing)},
            "changed": {"intervals": outlook.count(&self.changed), "ranges": ranges(&self.changed)},
            "stale": stale.map(|mark| json!({
                "interval": {"start": mark.interval.start.to_string(), "end": mark.interval.end.to_string()},
                "rows": mark.rows,
                "datasets": mark.datasets,
            })).collect::<Vec<_>>(),
            "failed": failed.map(|run| json!({
                "interval": {"start": run.interval.start.to_string(), "end": run.interval.end.to_string()},
                "attempts": run.failed,
                "step": run.failure.as_ref().map(|failure| &failure.step),
                "retry_at": run.failure.as_ref().and_then(|failure| failure.retry_at).map(|at| at.to_string()),
            })).collect::<Vec<_>>(),
            "work": self.work.as_json(),
            "gone": record.map(gone::as_json),
        })
    }
}
