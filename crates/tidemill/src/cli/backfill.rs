//! `tidemill backfill` and `tidemill rerun`: intervals that somebody picks, and `tidemill run` of what is due.
//!
//! **Invariant:** what would be run is shown before it is, and nothing is unless somebody says yes.

use std::collections::VecDeque;
use std::io::{BufRead, IsTerminal};
use std::sync::Arc;

use serde_json::json;
use tidemill_checkpoint::Manifest;
use tidemill_model::{Catchup, Error, Interval, Kind, Result, Timestamp};
use tidemill_runtime::exec::StopFlag;
use tidemill_sql::batch::Anew;
use tidemill_sql::language::Pipeline;

use super::failure::{Failure, Outcome};
use super::gone;
use super::numbers::{counted, duration, grouped};
use super::output::Output;
use super::run::stop_on_signal;
use super::telling::{Telling, shown};
use super::work::Work;
use crate::Workspace;
use crate::history::{Cause, History};
use crate::runs::{Backfill, Intervals, Only, Picked, Slots, Tell, Wants, Worked, Worker, range};

/// What was typed.
#[derive(Debug, Clone)]
pub(super) struct Typed {
    pub(super) from: Option<Timestamp>,
    pub(super) to: Option<Timestamp>,
    pub(super) only: Only,
    pub(super) descending: bool,
    pub(super) concurrency: Option<usize>,
    pub(super) dry_run: bool,
    pub(super) yes: bool,
    pub(super) resume: Option<u64>,
    pub(super) from_what_is_left: bool,
}

/// How many ranges are shown at most.
const SHOWN: usize = 10;

/// Runs picked intervals of a pipeline.
pub(super) async fn backfill(workspace: &Workspace, pipeline: &Pipeline, typed: &Typed, output: &Output) -> Outcome {
    let intervals = Intervals::of(workspace, pipeline)?.ok_or_else(|| Failure::Usage(no_intervals(pipeline)))?;
    let record = workspace.checkpoints(&pipeline.name).latest()?;
    let now = workspace.clock.now();
    let by = fingerprint(&intervals);
    let mut asked = match typed.resume {
        Some(number) => {
            let kept = Backfill::of(&workspace.store, number).map_err(Failure::Usage)?;
            if kept.pipeline != pipeline.name {
                let error = Error::new(Kind::Config, "C116", format!("backfill {number} is of `{}`", kept.pipeline));
                return Err(Failure::Usage(error));
            }
            kept
        }
        None => Backfill {
            number: 0,
            pipeline: pipeline.name.clone(),
            range: range(&intervals, &intervals.outlook(record.as_ref(), now), typed.from, typed.to)
                .map_err(Failure::Usage)?,
            only: typed.only,
            descending: typed.descending,
            from_what_is_left: typed.from_what_is_left,
            asked_at: now,
            ledger: record.as_ref().map(|record| record.ledger.clone()).unwrap_or_default(),
        },
    };
    asked.from_what_is_left |= typed.from_what_is_left;
    let mut left = asked.left(&intervals, record.as_ref(), &by);
    let takes = Work::of(workspace, &pipeline.name, record.as_ref(), left.make_contiguous())?;
    let shown = Shown::of(&intervals, (&asked, record.as_ref()), &left, takes);
    if left.is_empty() || typed.dry_run {
        shown.print(output, left.is_empty());
        return Ok(());
    }
    if output.is_human() {
        shown.print(output, false);
    }
    if !typed.yes && !agreed(output)? {
        return Err(Failure::Usage(
            Error::new(Kind::Config, "C119", "nothing was run, as nobody said yes")
                .fact("add --yes, or --dry-run to see only what would be run"),
        ));
    }
    if asked.number == 0 {
        asked = asked.keep(&workspace.store)?;
    }
    let total = left.len() as u64;
    let telling = Telling::new(output, false, Some(total));
    let from_what_is_left = asked.from_what_is_left;
    let wants = Wants::Picked(Picked { runs: left, cause: Cause::Backfill, from_what_is_left });
    let stop = stop_on_signal(output)?;
    let begun = workspace.clock.now();
    let worked = work(workspace, &intervals, (wants, typed.concurrency), &telling, &stop).await?;
    let took = workspace.clock.now().since(begun);
    let (done, failed) = (worked.done.len() as u64, worked.failed.len() as u64);
    if !output.is_human() {
        output.value(&json!({
            "backfill": asked.number,
            "pipeline": pipeline.name,
            "picked": total,
            "done": done,
            "failed": failed,
            "seconds": took.as_secs_f64(),
            "runs": telling.all(),
        }));
    } else {
        output.line(format!("{} of {total} done, {} failed, in {}", grouped(done), grouped(failed), duration(took)));
        if done < total {
            output.note(format!("Next: tidemill backfill {} --resume {}", pipeline.name, asked.number));
        }
    }
    ended(worked)
}

/// Runs an interval again, in whole or from a step on.
pub(super) async fn rerun(
    workspace: &Workspace,
    pipeline: &Pipeline,
    (which, from_step, from_what_is_left): (&str, Option<&str>, bool),
    output: &Output,
) -> Outcome {
    let intervals = Intervals::of(workspace, pipeline)?.ok_or_else(|| Failure::Usage(no_intervals(pipeline)))?;
    let interval = match which.parse::<i64>() {
        Ok(number) => {
            let run = History::look(&workspace.state)?.map(|history| history.run(number)).transpose()?.flatten();
            let run = run.filter(|run| run.pipeline == pipeline.name).ok_or_else(|| {
                Error::new(Kind::Config, "C118", format!("`{}` has no run {number}", pipeline.name))
                    .fact(format!("its runs: tidemill runs {}", pipeline.name))
            });
            run.map_err(Failure::Usage)?.interval
        }
        Err(_) => Interval::parse(which).map_err(Failure::Usage)?,
    };
    let record = workspace.checkpoints(&pipeline.name).latest()?;
    let open = record.as_ref().is_some_and(|record| record.runs.of(interval).is_some());
    let anew = match from_step {
        Some(step) => Anew::From(step.to_owned()),
        None if open => Anew::Rest,
        None => Anew::All,
    };
    if let Some(step) = from_step {
        let names: Vec<&str> = intervals.steps.iter().map(|step| step.name.as_str()).collect();
        if !names.contains(&step) {
            let error = Error::new(Kind::Config, "C123", format!("pipeline `{}` has no step `{step}`", pipeline.name));
            let error = match tidemill_model::nearest(step, names.iter().copied()) {
                Some(meant) => error.label(format!("did you mean `{meant}`?")),
                None => error,
            };
            return Err(Failure::Usage(error.fact(format!("steps: {}", names.join(", ")))));
        }
    }
    let runs = VecDeque::from([(interval, anew)]);
    let telling = Telling::new(output, false, None);
    let stop = stop_on_signal(output)?;
    let wants = Wants::Picked(Picked { runs, cause: Cause::Manual, from_what_is_left });
    let worked = work(workspace, &intervals, (wants, None), &telling, &stop).await?;
    if !output.is_human() {
        output.values(telling.all());
    }
    ended(worked)
}

/// Runs what is due, as a scheduler would now.
pub(super) async fn due(
    workspace: &Workspace,
    pipeline: &Pipeline,
    catchup: Option<Catchup>,
    output: &Output,
) -> Outcome {
    let intervals = Intervals::of(workspace, pipeline)?.ok_or_else(|| Failure::Usage(no_intervals(pipeline)))?;
    let telling = Telling::new(output, false, None);
    let stop = stop_on_signal(output)?;
    let wants = Wants::Due { watched: workspace.clock.now(), catchup };
    let worked = work(workspace, &intervals, (wants, None), &telling, &stop).await?;
    let record = workspace.checkpoints(&pipeline.name).latest()?;
    let now = workspace.clock.now();
    let outlook = intervals.outlook(record.as_ref(), now);
    let missing = outlook.count(&outlook.missing());
    if !output.is_human() {
        output.value(&json!({
            "pipeline": pipeline.name,
            "runs": telling.all(),
            "missing": missing,
            "next": outlook.next().map(|at| at.to_string()),
        }));
    } else {
        if worked.done.is_empty() && worked.failed.is_empty() {
            output.line(format!("= {}: nothing is due that is not done", pipeline.name));
        }
        for waiting in &worked.waiting {
            output.note(format!(". {}  waits {}", self::shown(waiting.interval), waiting.what));
        }
        if missing > 0 {
            output.note(format!("{} missing. Next: tidemill backfill {}", counted(missing, "interval"), pipeline.name));
        } else if let Some(next) = outlook.next() {
            output.note(format!("the next one is due at {}", super::numbers::instant(next)));
        }
    }
    ended(worked)
}

async fn work(
    workspace: &Workspace,
    intervals: &Intervals,
    (wants, concurrency): (Wants, Option<usize>),
    telling: &Arc<Telling>,
    stop: &StopFlag,
) -> Result<Worked> {
    let holder = crate::world::holder(workspace.clock.now());
    let config = &workspace.catalog.project().config;
    let (store, clock) = (Arc::clone(&workspace.store), Arc::clone(&workspace.clock));
    let worker = Worker {
        workspace,
        intervals,
        tell: Arc::clone(telling) as Arc<dyn Tell>,
        history: Some(History::open(&workspace.state)?),
        slots: Slots::new(concurrency.unwrap_or(config.slots), store, config.pools.clone(), &holder, clock),
        stop: stop.clone(),
        holder,
        concurrency,
        patient: true,
    };
    Box::pin(worker.work(wants)).await
}

/// What failed, as the command's own failure.
fn ended(worked: Worked) -> Outcome {
    let failed =
        worked.failed.into_iter().map(|(interval, error)| error.context(format!("interval {}", shown(interval))));
    Error::all(failed.collect()).map_or(Ok(()), |error| Err(error.into()))
}

/// What the rows of runs are computed by.
pub(super) fn fingerprint(intervals: &Intervals) -> String {
    tidemill_sql::batch::fingerprint_of(&intervals.steps)
}

pub(super) fn no_intervals(pipeline: &Pipeline) -> Error {
    let name = &pipeline.name;
    Error::new(Kind::Config, "C055", format!("`{name}` has no intervals of its own"))
        .fact("give it a schedule: trigger = '@hourly'; or, beside another trigger, a grid: grid = '1 hour'")
        .fact(format!("one interval by hand: tidemill run {name} --interval 2026-01-01/1d"))
}

/// Asks at a terminal; without one nobody has agreed.
fn agreed(output: &Output) -> Result<bool> {
    if !std::io::stdin().is_terminal() || !output.is_human() {
        return Ok(false);
    }
    output.note("Proceed? [y/N]");
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).map_err(|e| Error::io("read", "the answer", e))?;
    Ok(matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// What would be run.
struct Shown {
    pipeline: String,
    only: Only,
    count: u64,
    /// Coalesced, in order.
    ranges: Vec<Interval>,
    grid: String,
    work: Work,
    /// How many are refused because files are gone, as far as the newest look knows.
    lacking: u64,
}

impl Shown {
    fn of(
        intervals: &Intervals,
        (asked, record): (&Backfill, Option<&Manifest>),
        left: &VecDeque<(Interval, Anew)>,
        work: Work,
    ) -> Shown {
        let lacks = |cell: &Interval| record.is_some_and(|record| gone::is_lacking(record, *cell));
        let lacking = left.iter().filter(|(cell, _)| !asked.from_what_is_left && lacks(cell)).count() as u64;
        let mut cells: Vec<Interval> = left.iter().map(|(cell, _)| *cell).collect();
        cells.sort();
        let mut ranges: Vec<Interval> = Vec::new();
        for cell in cells {
            match ranges.last_mut() {
                Some(last) if last.end == cell.start => last.end = cell.end,
                _ => ranges.push(cell),
            }
        }
        Shown {
            pipeline: asked.pipeline.clone(),
            only: asked.only,
            count: left.len() as u64,
            ranges,
            grid: intervals.grid.to_string(),
            work,
            lacking,
        }
    }

    fn print(&self, output: &Output, nothing: bool) {
        if !output.is_human() {
            let ranges = self.ranges.iter().map(|r| json!({"start": r.start.to_string(), "end": r.end.to_string()}));
            output.value(&json!({
                "pipeline": self.pipeline,
                "only": self.only.word(),
                "intervals": self.count,
                "ranges": ranges.collect::<Vec<_>>(),
                "work": self.work.as_json(),
                "refused_as_files_are_gone": self.lacking,
            }));
            return;
        }
        if nothing {
            output.line(format!(
                "= {}: nothing to run, no interval is {}",
                self.pipeline,
                match self.only {
                    Only::All => "there",
                    only => only.word(),
                }
            ));
            return;
        }
        output.line(format!("{} of {} ({})", counted(self.count, "interval"), self.pipeline, self.grid));
        for range in self.ranges.iter().take(SHOWN) {
            output.line(format!("  {}", shown(*range)));
        }
        if self.ranges.len() > SHOWN {
            output.line(format!("  … and {} more", counted((self.ranges.len() - SHOWN) as u64, "range")));
        }
        for line in self.work.lines() {
            output.line(format!("  {line}"));
        }
        if self.lacking > 0 {
            let (n, is) = (counted(self.lacking, "interval"), if self.lacking == 1 { "is" } else { "are" });
            output.line(format!("  ! {n} of these {is} refused: files that they were computed from are gone"));
            output.note("Put the files back, or compute these from what is left: --from-what-is-left");
        }
        output.note("Readers keep the rows that stand until an interval's new ones are complete.");
    }
}
