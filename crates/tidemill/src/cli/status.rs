//! `tidemill status`: how far each pipeline is, and how fresh each view, from the newest manifests.

use std::sync::Arc;

use serde_json::{Value, json};
use tidemill_checkpoint::{Counters, Manifest, OpenRun, Pauses, ViewState};
use tidemill_model::{Error, Interval, Span, Timestamp, Watermark};
use tidemill_sql::language::Pipeline;

use super::failure::{Outcome, pipelines};
use super::gone;
use super::grid::Grid;
use super::numbers::{counted, duration, grouped, instant};
use super::output::Output;
use super::tables;
use crate::Workspace;
use crate::runs::Intervals;

struct Row<'a> {
    pipeline: &'a Pipeline,
    running: bool,
    /// Its newest manifest.
    manifest: Option<Manifest>,
    /// Whether there is one and it cannot be read.
    unreadable: bool,
    paused: bool,
    /// Its intervals, when it has some.
    intervals: Option<Intervals>,
}

impl Row<'_> {
    fn state(&self) -> (&'static str, &'static str) {
        match (self.running, &self.manifest) {
            _ if self.unreadable => ("x", "unreadable"),
            (true, _) => ("~", "running"),
            _ if self.paused => ("-", "paused"),
            (false, Some(manifest)) if manifest.runs.iter().any(OpenRun::is_given_up) => ("x", "failing"),
            (false, Some(manifest)) if !manifest.runs.is_empty() => (".", "to retry"),
            (false, Some(_)) if self.intervals.is_some() => ("=", "ok"),
            (false, Some(_)) => ("=", "stopped"),
            (false, None) => ("?", "never run"),
        }
    }

    /// Up to where everything is there: by its intervals without a hole, or by its sources.
    fn complete_to(&self) -> Option<Watermark> {
        if let (Some(intervals), Some(manifest)) = (&self.intervals, &self.manifest) {
            let first = manifest.ledger.entries().first()?.interval.start;
            let begin = intervals.rule().start.unwrap_or(first);
            let far = Interval { start: begin, end: Timestamp(i64::MAX) };
            return manifest.ledger.missing(far).first().map(|gap| Watermark(gap.start.0));
        }
        self.manifest.as_ref()?.sources.values().filter_map(|source| source.watermark).min()
    }

    fn intervals(&self) -> usize {
        let entries = self.manifest.iter().flat_map(|manifest| manifest.ledger.entries());
        entries.map(|entry| self.intervals.as_ref().map_or(1, |of| of.grid.count(entry.interval) as usize)).sum()
    }

    /// Its materialized views with what is known of them.
    fn views(&self) -> impl Iterator<Item = (&String, Option<&ViewState>)> {
        self.pipeline.materialized.iter().map(|view| (view, self.manifest.as_ref().and_then(|m| m.views.get(view))))
    }
}

pub(crate) fn status(workspace: &Workspace, only: Option<&str>, output: &Output) -> Outcome {
    let mut rows = Vec::new();
    let mut errors = Vec::new();
    for pipeline in pipelines(workspace, only)? {
        let (manifest, error) = match workspace.checkpoints(&pipeline.name).latest() {
            Ok(manifest) => (manifest, None),
            Err(error) => (None, Some(error.context(format!("pipeline {}", pipeline.name)))),
        };
        let running = workspace.is_running(&pipeline.name);
        let paused = Pauses::new(Arc::clone(&workspace.store)).paused(&pipeline.name)?.is_some();
        // What is wrong with its queries is the business of `plan`.
        let intervals = Intervals::of(workspace, pipeline).ok().flatten();
        rows.push(Row { pipeline, running, manifest, unreadable: error.is_some(), paused, intervals });
        errors.extend(error);
    }
    let now = workspace.clock.now();
    if !output.is_human() {
        output.values(rows.iter().map(|row| as_json(row, now)).collect());
    } else if rows.is_empty() {
        output.line("No pipelines yet: write one into pipelines/NAME.sql, or see tidemill init --example orders.");
    } else {
        for_people(workspace, &rows, now, output)?;
    }
    Error::all(errors).map_or(Ok(()), |error| Err(error.into()))
}

fn for_people(workspace: &Workspace, rows: &[Row<'_>], now: Timestamp, output: &Output) -> Outcome {
    let pipelines = of_pipelines(rows, now);
    if rows.iter().any(|row| row.views().next().is_some()) {
        output.grids(&[&pipelines, &of_views(rows, now)]);
    } else {
        output.grid(&pipelines);
    }
    for row in rows {
        let failing = row.manifest.iter().flat_map(|manifest| &manifest.tables).filter(|(_, met)| met.failed.is_some());
        let failing = failing.map(|(node, met)| (node.clone(), met.clone())).collect();
        tables::lines(&failing).into_iter().for_each(|line| output.line(line));
    }
    for row in rows {
        for line in row.manifest.as_ref().map(gone::lines).unwrap_or_default() {
            output.line(format!("! {}: {line}", row.pipeline.name));
        }
    }
    let running = rows.iter().filter(|row| row.running).count();
    let never_run = |row: &&Row<'_>| row.state().1 == "never run";
    let never = rows.iter().filter(never_run).count();
    let intervals: usize = rows.iter().map(Row::intervals).sum();
    output.note(format!(
        "{}: {running} running, {never} never run; {} done   {} UTC",
        counted(rows.len() as u64, "pipeline"),
        counted(intervals as u64, "interval"),
        instant(now),
    ));
    for row in rows {
        let (Some(intervals), Some(manifest)) = (&row.intervals, &row.manifest) else { continue };
        let outlook = intervals.outlook(Some(manifest), now);
        let missing = outlook.count(&outlook.missing());
        let stale = outlook.stale().len() as u64;
        let failed = outlook.given_up().count() as u64;
        if missing + stale + failed > 0 {
            output.note(format!(
                "{}: {missing} missing, {stale} stale, {failed} given up. Next: tidemill runs {}",
                row.pipeline.name, row.pipeline.name
            ));
        }
    }
    if let Some(row) = rows.iter().find(never_run) {
        let by_interval = crate::engine::is_by_interval(workspace, row.pipeline)?;
        let how = if by_interval && row.intervals.is_none() { " --interval START/PERIOD" } else { "" };
        output.note(format!("Next: tidemill run {}{how}", row.pipeline.name));
    }
    Ok(())
}

fn of_pipelines(rows: &[Row<'_>], now: Timestamp) -> Grid {
    let header = ["", "STATE", "PIPELINE", "TRIGGER", "EPOCH", "COMMITTED", "COMPLETE TO", "ROWS", "DEAD", "LATE"];
    let mut grid = Grid::new(header).numbers([4, 7, 8, 9]).whole([1, 5, 6]);
    for row in rows {
        let (mark, state) = row.state();
        let of = |shown: &dyn Fn(&Manifest) -> String| row.manifest.as_ref().map_or_else(|| "-".to_owned(), shown);
        grid.row([
            mark.to_owned(),
            state.to_owned(),
            row.pipeline.name.clone(),
            row.pipeline.trigger.to_string(),
            of(&|m| grouped(m.epoch.0)),
            of(&|m| format!("{} ago", duration(now.since(m.committed_at)))),
            through(row.complete_to()),
            of(&|m| grouped(m.counters.rows_read)),
            of(&|m| grouped(Counters::rows_dead(&m.counters))),
            of(&|m| grouped(m.counters.rows_late)),
        ]);
    }
    grid
}

/// How old the newest row in each view is, beside the `latency` that was asked for.
fn of_views(rows: &[Row<'_>], now: Timestamp) -> Grid {
    let mut grid = Grid::new(["", "VIEW", "KEPT BY", "FRESH / ASKED", "COMPLETE TO"]).whole([3, 4]);
    for row in rows {
        let asked = row.pipeline.latency.map_or_else(|| "-".to_owned(), |latency| Span(latency).to_string());
        for (view, state) in row.views() {
            let fresh = state.and_then(|state| state.newest_arrival);
            let fresh = fresh.map_or_else(|| "-".to_owned(), |at| duration(now.since(at)));
            grid.row([
                if state.is_none() { "?" } else { "" },
                view,
                &row.pipeline.name,
                &format!("{fresh} / {asked}"),
                &through(state.and_then(|state| state.complete_to)),
            ]);
        }
    }
    grid
}

fn through(watermark: Option<Watermark>) -> String {
    watermark.map_or_else(|| "-".to_owned(), |w| w.instant().map_or_else(|| w.to_string(), instant))
}

fn as_json(row: &Row<'_>, now: Timestamp) -> Value {
    let manifest = row.manifest.as_ref();
    let views = row.views().map(|(view, state)| {
        let fresh = state.and_then(|state| state.newest_arrival);
        json!({
            "view": view,
            "lag_seconds": fresh.map(|at| now.since(at).as_secs_f64()),
            "complete_to": state.and_then(|state| state.complete_to).map(|w| w.to_string()),
        })
    });
    json!({
        "pipeline": row.pipeline.name,
        "state": row.state().1,
        "trigger": row.pipeline.trigger.to_string(),
        "epoch": manifest.map(|m| m.epoch.0),
        "committed_at": manifest.map(|m| m.committed_at.to_string()),
        "complete_to": row.complete_to().map(|w| w.to_string()),
        "paused": row.paused,
        "intervals": row.intervals.as_ref().map(|intervals| {
            let outlook = intervals.outlook(manifest, now);
            json!({
                "due": outlook.count_due(),
                "missing": outlook.count(&outlook.missing()),
                "stale": outlook.stale().len(),
                "given_up": outlook.given_up().count(),
            })
        }),
        "intervals_done": manifest.map(|m| {
            let done = m.ledger.entries().iter();
            done.map(|e| json!({"interval": e.interval.to_string(), "generation": e.generation})).collect::<Vec<_>>()
        }),
        "gone": manifest.map(gone::as_json),
        "counters": manifest.map(|m| &m.counters),
        "tables": manifest.map(|m| tables::as_json(&m.tables)),
        "latency_asked_seconds": row.pipeline.latency.map(|latency| latency.as_secs_f64()),
        "views": views.collect::<Vec<_>>(),
    })
}
