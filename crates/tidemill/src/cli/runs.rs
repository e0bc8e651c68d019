//! `tidemill runs`: the runs of intervals as they were, the intervals that are missing, and one run in detail.
//!
//! **Invariant:** what is done, missing or stale is read from the ledger; only attempts and their times from the history.

use std::fmt::Write;

use serde_json::{Value, json};
use tidemill_model::{Error, Interval, Kind, Result};
use tidemill_sql::batch::SOURCE_GONE;
use tidemill_sql::language::Pipeline;

use super::failure::{Failure, Outcome, pipelines};
use super::gone;
use super::grid::Grid;
use super::numbers::{counted, duration, grouped, instant};
use super::output::Output;
use super::telling::{as_json, shown};
use crate::Workspace;
use crate::history::{History, RunRecord, RunState};
use crate::programs::Shell;
use crate::runs::Intervals;

/// Shows the newest runs, and what is missing.
pub(super) fn runs(workspace: &Workspace, only: Option<&str>, last: u32, output: &Output) -> Outcome {
    let picked = pipelines(workspace, only)?;
    let history = History::look(&workspace.state)?;
    let known = match &history {
        Some(history) => history.newest(only, last)?,
        None => Vec::new(),
    };
    let (mut open, mut gone) = (Vec::new(), Vec::new());
    for pipeline in picked {
        open.extend(holes(workspace, pipeline)?);
        let record = workspace.checkpoints(&pipeline.name).latest()?;
        let lines = record.as_ref().map(gone::lines).unwrap_or_default();
        gone.extend(lines.into_iter().map(|line| format!("! {}: {line}", pipeline.name)));
    }
    if !output.is_human() {
        let mut values: Vec<Value> = known.iter().map(as_json).collect();
        values.extend(open.iter().map(Hole::as_json));
        output.values(values);
        return Ok(());
    }
    if known.is_empty() && open.is_empty() {
        output.line("No run of an interval yet. Next: tidemill start, or tidemill backfill PIPELINE");
        return Ok(());
    }
    let header =
        ["", "STATE", "RUN", "PIPELINE", "INTERVAL (UTC)", "TRY", "CAUSE", "TOOK", "READ", "WROTE", "DEAD", "WHY"];
    let mut grid = Grid::new(header).numbers([2, 5, 7, 8, 9, 10]).whole([4]);
    for hole in &open {
        let (mark, state) = hole.state();
        let why = hole.why();
        grid.row([mark, state, "-", &hole.pipeline, &shown(hole.range), "-", "-", "-", "-", "-", "-", &why]);
    }
    for run in &known {
        row(&mut grid, run, workspace);
    }
    output.grid(&grid);
    gone.into_iter().for_each(|line| output.line(line));
    summary(&known, &open, output);
    Ok(())
}

fn row(grid: &mut Grid, run: &RunRecord, workspace: &Workspace) {
    let died = run.state == RunState::Running && !workspace.is_running(&run.pipeline);
    let (mark, state) = match run.state {
        _ if died => ("x", "died"),
        RunState::Running => ("~", "running"),
        RunState::Done => ("=", "done"),
        RunState::Stopped => ("-", "stopped"),
        _ => ("x", run.state.word()),
    };
    let number = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), grouped);
    let end = run.ended.unwrap_or_else(|| workspace.clock.now());
    let mut why = run.error.clone().unwrap_or_default();
    if let Some(step) = &run.step {
        why = format!("{step}: {why}");
    }
    if let Some(at) = run.retry_at {
        let _ = write!(why, " (tried again at {})", instant(at));
    }
    grid.row([
        mark.to_owned(),
        state.to_owned(),
        run.run.to_string(),
        run.pipeline.clone(),
        shown(run.interval),
        run.attempt.to_string(),
        run.cause.word().to_owned(),
        duration(end.since(run.begun)),
        number(run.rows_read),
        number(run.rows_written),
        number(run.dead),
        why,
    ]);
}

fn summary(known: &[RunRecord], open: &[Hole], output: &Output) {
    let count = |what: What| open.iter().filter(|hole| hole.what == what).map(|hole| hole.count).sum::<u64>();
    let (missing, stale, failed) = (count(What::Missing), count(What::Stale), count(What::Failed));
    output.note(format!(
        "{} shown; {missing} missing, {stale} stale, {failed} given up",
        counted(known.len() as u64, "run")
    ));
    let first = |what: What| open.iter().find(|hole| hole.what == what);
    if let Some(hole) = first(What::Failed).or(first(What::Missing)) {
        let Interval { start, end } = hole.range;
        output.note(format!(
            "Next: tidemill backfill {} --from {start} --to {end} --only {}",
            hole.pipeline,
            if hole.what == What::Failed { "failed" } else { "missing" }
        ));
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Missing,
    Stale,
    Failed,
    Waiting,
}

/// Intervals that need a run.
pub(super) struct Hole {
    pub(super) pipeline: String,
    pub(super) what: What,
    pub(super) range: Interval,
    /// How many intervals.
    pub(super) count: u64,
    /// Rows that came late, for what is stale.
    rows: u64,
    error: String,
}

impl Hole {
    fn state(&self) -> (&'static str, &'static str) {
        match self.what {
            What::Missing => ("?", "missing"),
            What::Stale => ("!", "stale"),
            What::Failed => ("x", "given up"),
            What::Waiting => (".", "to retry"),
        }
    }

    fn why(&self) -> String {
        match self.what {
            What::Missing => counted(self.count, "interval"),
            What::Stale => format!("{} came after it was done", counted(self.rows, "row")),
            What::Failed | What::Waiting => self.error.clone(),
        }
    }

    fn as_json(&self) -> Value {
        json!({
            "run": Value::Null,
            "pipeline": self.pipeline,
            "interval": {"start": self.range.start.to_string(), "end": self.range.end.to_string()},
            "state": self.state().1,
            "intervals": self.count,
            "late_rows": (self.what == What::Stale).then_some(self.rows),
            "error": (!self.error.is_empty()).then_some(&self.error),
        })
    }
}

/// What of a pipeline's intervals needs a run.
///
/// # Errors
/// Plan, Unavailable, Corrupt.
pub(super) fn holes(workspace: &Workspace, pipeline: &Pipeline) -> Result<Vec<Hole>> {
    let Some(intervals) = Intervals::of(workspace, pipeline)? else { return Ok(Vec::new()) };
    let record = workspace.checkpoints(&pipeline.name).latest()?;
    let outlook = intervals.outlook(record.as_ref(), workspace.clock.now());
    let hole = |what, range, count| Hole {
        pipeline: pipeline.name.clone(),
        what,
        range,
        count,
        rows: 0,
        error: String::new(),
    };
    let mut found = Vec::new();
    for run in record.iter().flat_map(|record| record.runs.iter()) {
        let Some(failure) = &run.failure else { continue };
        let what = if run.is_given_up() { What::Failed } else { What::Waiting };
        let mut error = format!("{}: {}", failure.step, failure.message);
        if let Some(at) = failure.retry_at {
            let _ = write!(error, " (tried again at {})", instant(at));
        }
        found.push(Hole { error, ..hole(what, run.interval, 1) });
    }
    for mark in record.iter().flat_map(|record| record.stale.iter()) {
        found.push(Hole { rows: mark.rows, ..hole(What::Stale, mark.interval, 1) });
    }
    found.extend(outlook.missing().into_iter().map(|range| hole(What::Missing, range, intervals.grid.count(range))));
    Ok(found)
}

/// Shows one run and its steps.
pub(super) fn run(workspace: &Workspace, pipeline: &str, number: i64, logs: bool, output: &Output) -> Outcome {
    let unknown = || {
        Failure::Usage(
            Error::new(Kind::Config, "C118", format!("`{pipeline}` has no run {number}"))
                .fact(format!("its runs: tidemill runs {pipeline}")),
        )
    };
    let history = History::look(&workspace.state)?.ok_or_else(unknown)?;
    let run = history.run(number)?.filter(|run| run.pipeline == pipeline).ok_or_else(unknown)?;
    let steps = history.steps(number)?;
    let log_of = |step: &str| Shell::log(&workspace.state, pipeline, run.interval.start, step, run.attempt);
    if !output.is_human() {
        let mut value = as_json(&run);
        let steps = steps.iter().map(|step| {
            let log = log_of(&step.step);
            json!({
                "step": step.step,
                "state": step.state.word(),
                "begun_at": step.begun.map(|at| at.to_string()),
                "ended_at": step.ended.map(|at| at.to_string()),
                "rows": step.rows,
                "value": step.value,
                "error": step.error,
                "log": log.is_file().then(|| log.display().to_string()),
            })
        });
        value["steps"] = steps.collect();
        output.value(&value);
        return Ok(());
    }
    let mut grid = Grid::new(["", "STEP", "STATE", "TOOK", "ROWS", "GAVE", "WHY"]).numbers([3, 4]);
    for step in &steps {
        let took =
            step.begun.zip(step.ended).map_or_else(|| "-".to_owned(), |(begun, ended)| duration(ended.since(begun)));
        grid.row([
            match step.state {
                RunState::Done => "=",
                RunState::Kept => ".",
                RunState::Running => "~",
                _ => "x",
            },
            &step.step,
            step.state.word(),
            &took,
            &step.rows.map_or_else(|| "-".to_owned(), grouped),
            step.value.as_deref().unwrap_or(""),
            step.error.as_deref().unwrap_or(""),
        ]);
    }
    output.line(format!(
        "run {number}  {pipeline}  {}  try {}  {}  {}",
        shown(run.interval),
        run.attempt,
        run.cause.word(),
        run.state.word(),
    ));
    output.grid(&grid);
    for step in &steps {
        let log = log_of(&step.step);
        if !log.is_file() {
            continue;
        }
        output.note(format!("what {} printed: {}", step.step, log.display()));
        if logs {
            let text = std::fs::read(&log).map_err(|e| Error::io("read", log.display(), e))?;
            String::from_utf8_lossy(&text).lines().for_each(|line| output.line(format!("  | {line}")));
        }
    }
    if run.state == RunState::Failed {
        if run.code.as_deref() == Some(SOURCE_GONE) {
            output.note("Put the files back under their names, or compute it without their rows:");
            output.note(format!("tidemill rerun {pipeline} {number} --from-what-is-left"));
            return Ok(());
        }
        let from = run.step.as_ref().map_or_else(String::new, |step| format!(" --from-step {step}"));
        output.note(format!("Next: tidemill rerun {pipeline} {number}{from}"));
    }
    Ok(())
}
