//! [`Telling`]: what happens with runs, a line each for people, an object each for programs.
//!
//! **Invariant:** a run is one line when it has ended; while it goes on it is a line that is redrawn, if that can be.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::ProgressBar;
use serde_json::{Value, json};
use tidemill_model::Interval;
use tidemill_sql::batch::BatchProgress;

use super::numbers::{counted, duration, grouped, instant};
use super::output::Output;
use crate::history::{RunRecord, RunState};
use crate::runs::{News, Tell};

/// Tells a terminal or a log.
#[derive(Debug)]
pub(super) struct Telling {
    output: Output,
    /// Whether the pipeline's name is told too.
    named: bool,
    shown: Arc<Mutex<Shown>>,
    /// What redraws the line, while anything goes on.
    drawing: Mutex<Option<(ProgressBar, tokio::task::JoinHandle<()>)>>,
    /// All that have ended.
    ended: Mutex<Vec<Value>>,
}

/// What the redrawn line shows.
#[derive(Debug, Default)]
struct Shown {
    /// How many intervals there are, if that is known, how many have ended and how many of them failed.
    total: Option<u64>,
    done: u64,
    failed: u64,
    going: BTreeMap<(String, Interval), Arc<BatchProgress>>,
}

impl Shown {
    fn text(&self, named: bool) -> String {
        const WIDTH: u64 = 20;
        let bar = self.total.filter(|total| *total > 0).map_or_else(String::new, |total| {
            let full = (self.done * WIDTH / total).min(WIDTH);
            let (full, rest) = ("█".repeat(full as usize), "·".repeat((WIDTH - full) as usize));
            let failed = if self.failed > 0 { format!(", {} failed", self.failed) } else { String::new() };
            format!("{full}{rest} {} of {total}{failed}   ", self.done)
        });
        let going = self.going.iter().map(|((pipeline, interval), progress)| {
            let name = if named { format!("{pipeline} ") } else { String::new() };
            let (read, wrote) = (grouped(progress.rows_read()), grouped(progress.rows_written()));
            format!("{name}{}: {read} read, {wrote} written", shown(*interval))
        });
        format!("{bar}{}", going.collect::<Vec<_>>().join("   "))
    }
}

impl Telling {
    /// `named` when runs of several pipelines are told, `total` when it is known how many there will be.
    pub(super) fn new(output: &Output, named: bool, total: Option<u64>) -> Arc<Telling> {
        let shown = Arc::new(Mutex::new(Shown { total, ..Shown::default() }));
        let (drawing, ended) = (Mutex::default(), Mutex::default());
        Arc::new(Telling { output: output.clone(), named, shown, drawing, ended })
    }

    /// All runs that have ended, for programs.
    pub(super) fn all(&self) -> Vec<Value> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn draw(&self) {
        let mut drawing = self.drawing.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = self.shown().going.is_empty();
        if idle && let Some((spinner, task)) = drawing.take() {
            task.abort();
            spinner.finish_and_clear();
        }
        if !idle && drawing.is_none() {
            let spinner = self.output.spinner();
            let (drawn, shown, named) = (spinner.clone(), Arc::clone(&self.shown), self.named);
            let task = tokio::spawn(async move {
                loop {
                    let text = shown.lock().unwrap_or_else(PoisonError::into_inner).text(named);
                    drawn.set_message(text);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            });
            *drawing = Some((spinner, task));
        }
    }

    /// Prints a line without tearing the one that is redrawn.
    fn print(&self, print: impl FnOnce()) {
        let drawing = self.drawing.lock().unwrap_or_else(PoisonError::into_inner);
        match drawing.as_ref() {
            Some((spinner, _)) => spinner.suspend(print),
            None => print(),
        }
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name(&self, run: &RunRecord) -> String {
        if self.named { format!("{}  ", run.pipeline) } else { String::new() }
    }

    fn ended(&self, run: &RunRecord, whole: &[(String, String)]) {
        if !self.output.is_human() {
            let value = as_json(run);
            self.output.event(&value);
            self.ended.lock().unwrap_or_else(PoisonError::into_inner).push(value);
            return;
        }
        let took = run.ended.map_or(Duration::ZERO, |ended| ended.since(run.begun));
        let line = match run.state {
            RunState::Done => format!(
                "done     {:>8}   {} rows   generation {}{}",
                duration(took),
                grouped(run.rows_written.unwrap_or(0)),
                run.generation.unwrap_or(0),
                match run.dead {
                    Some(dead) if dead > 0 => format!("   {}", counted(dead, "dead letter")),
                    _ => String::new(),
                }
            ),
            RunState::Stopped => format!("stopped  {:>8}   what it had finished is kept", duration(took)),
            _ => format!(
                "failed   {:>8}   {}{}{}",
                duration(took),
                run.step.as_ref().map_or_else(String::new, |step| format!("{step}: ")),
                run.error.as_deref().unwrap_or(""),
                match run.retry_at {
                    Some(at) => format!("   tried again at {}", instant(at)),
                    None if run.attempt > 1 => format!("   given up after {} attempts", run.attempt),
                    None => String::new(),
                }
            ),
        };
        let mark = match run.state {
            RunState::Done => "=",
            RunState::Stopped => "-",
            _ => "x",
        };
        self.print(|| self.output.line(format!("{mark} {}{}  {line}", self.name(run), shown(run.interval))));
        for (target, why) in whole {
            self.note(format!("  {target} holds the result over all rows before the interval's end, of which write = 'upsert' keeps keys that are gone: {why}"));
        }
    }
}

/// An interval for people: `2026-01-01 02:00:00 - 03:00:00`.
pub(super) fn shown(interval: Interval) -> String {
    let (start, end) = (instant(interval.start), instant(interval.end));
    let same_day = start.split_once(' ').zip(end.split_once(' ')).filter(|(start, end)| start.0 == end.0);
    match same_day {
        Some((_, (_, time))) => format!("{start} - {time}"),
        None => format!("{start} - {end}"),
    }
}

/// A run for programs.
pub(super) fn as_json(run: &RunRecord) -> Value {
    json!({
        "run": run.run,
        "pipeline": run.pipeline,
        "interval": {"start": run.interval.start.to_string(), "end": run.interval.end.to_string()},
        "state": run.state.word(),
        "cause": run.cause.word(),
        "attempt": run.attempt,
        "generation": run.generation,
        "epoch": run.epoch,
        "begun_at": run.begun.to_string(),
        "ended_at": run.ended.map(|at| at.to_string()),
        "rows_read": run.rows_read,
        "rows_written": run.rows_written,
        "dead": run.dead,
        "step": run.step,
        "code": run.code,
        "error": run.error,
        "retry_at": run.retry_at.map(|at| at.to_string()),
    })
}

impl Telling {
    fn note(&self, text: impl AsRef<str>) {
        self.print(|| self.output.note(text));
    }
}

impl Tell for Telling {
    fn tell(&self, news: &News<'_>) {
        match news {
            News::Begun { run, progress } => {
                self.shown().going.insert((run.pipeline.clone(), run.interval), Arc::clone(progress));
                self.draw();
            }
            News::Step { run, step } => {
                if self.output.is_verbose() && step.state != RunState::Running {
                    let rows = step.rows.map_or_else(String::new, |rows| format!("   {} rows", grouped(rows)));
                    let value = step.value.as_ref().map_or_else(String::new, |value| format!("   gave {value}"));
                    self.note(format!("    {}{}  {}{rows}{value}", self.name(run), step.step, step.state.word()));
                }
            }
            News::Ended { run, report } => {
                {
                    let mut shown = self.shown();
                    shown.going.remove(&(run.pipeline.clone(), run.interval));
                    shown.done += u64::from(run.state == RunState::Done);
                    shown.failed += u64::from(run.state == RunState::Failed);
                }
                self.draw();
                let whole = report.iter().flat_map(|report| &report.targets);
                let whole: Vec<(String, String)> =
                    whole.filter_map(|target| Some((target.name.clone(), target.whole_because.clone()?))).collect();
                self.ended(run, &whole);
            }
            News::Note(text) => self.note(text),
        }
    }
}
