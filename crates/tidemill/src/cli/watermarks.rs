//! `tidemill watermarks`: how far time is, which split holds it back and why, and what was left out on the way.
//!
//! **Invariant:** it reads the newest manifests and the project's files alone, so that it may be asked at any time.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tidemill_checkpoint::{Manifest, SourceProgress, SplitProgress};
use tidemill_model::{Error, Span, Timestamp, Watermark};
use tidemill_runtime::exec::{SplitHolding, SplitTime, holding, without_rows};
use tidemill_sql::language::{Pipeline, WatermarkClause};

use super::failure::{Outcome, pipelines};
use super::grid::Grid;
use super::numbers::{counted, duration, grouped, instant};
use super::output::Output;
use super::tables;
use crate::Workspace;

/// How many splits of a source are shown to people one by one.
const SHOWN: usize = 20;

/// A source as its pipeline's newest epoch has it.
struct Source<'a> {
    name: &'a str,
    progress: &'a SourceProgress,
    clause: Option<&'a WatermarkClause>,
    splits: Vec<SplitHolding>,
}

impl Source<'_> {
    fn holder(&self) -> Option<&SplitHolding> {
        self.splits.iter().find(|split| split.holds)
    }

    fn progress_of(&self, split: &SplitHolding) -> SplitProgress {
        self.progress.splits.get(&split.id).cloned().unwrap_or_default()
    }
}

pub(crate) fn watermarks(workspace: &Workspace, only: Option<&str>, output: &Output) -> Outcome {
    let mut values = Vec::new();
    let mut errors = Vec::new();
    let all = pipelines(workspace, only)?;
    let now = workspace.clock.now();
    let mut table = Grid::new(["PIPELINE", "SOURCE", "LAST VALUE", "VALUE TYPE", "UPDATED AT", "ROW COUNT"])
        .numbers([5])
        .whole([2, 4]);
    for (at, pipeline) in all.iter().enumerate() {
        let manifest = match workspace.checkpoints(&pipeline.name).latest() {
            Ok(manifest) => manifest,
            Err(error) => {
                errors.push(error.context(format!("pipeline {}", pipeline.name)));
                continue;
            }
        };
        let sources = manifest.as_ref().map(|manifest| sources(workspace, manifest)).unwrap_or_default();
        if !output.is_human() {
            values.push(as_json(pipeline, manifest.as_ref(), &sources, now));
            continue;
        }
        for last in manifest.iter().flat_map(|manifest| lasts(manifest, &sources)) {
            table.row([
                &pipeline.name,
                last.source,
                &instant(last.value),
                "timestamp",
                &instant(last.updated),
                &grouped(last.rows),
            ]);
        }
        if at > 0 {
            output.line("");
        }
        match &manifest {
            None => output.line(format!("? {}: never run, so it has no time yet", pipeline.name)),
            Some(manifest) => for_people(workspace, pipeline, manifest, &sources, now, output),
        }
    }
    if output.is_human() && !table.is_empty() {
        output.line("");
        output.grid(&table);
    }
    if !output.is_human() {
        output.values(values);
    } else if all.is_empty() {
        output.line("No pipelines yet: write one into pipelines/NAME.sql, or see tidemill init --example orders.");
    }
    Error::all(errors).map_or(Ok(()), |error| Err(error.into()))
}

/// How far a source was read, as the tables have it that are kept by hand.
struct Last<'a> {
    source: &'a str,
    value: Timestamp,
    updated: Timestamp,
    rows: u64,
}

/// The newest event time of each source, or the end of what is done by intervals.
fn lasts<'a>(manifest: &Manifest, sources: &[Source<'a>]) -> Vec<Last<'a>> {
    let updated = manifest.committed_at;
    let by_source = sources.iter().filter_map(|source| {
        let splits = source.progress.splits.values();
        let value = Timestamp(splits.clone().filter_map(|split| split.newest).max()?);
        Some(Last { source: source.name, value, updated, rows: splits.map(|split| split.rows).sum() })
    });
    let mut found: Vec<Last<'a>> = by_source.collect();
    if let Some(done) = manifest.ledger.entries().last() {
        found.push(Last { source: "intervals", value: done.interval.end, updated, rows: manifest.counters.rows_read });
    }
    found
}

fn sources<'a>(workspace: &'a Workspace, manifest: &'a Manifest) -> Vec<Source<'a>> {
    let datasets = &workspace.catalog.project().datasets;
    let of = |(name, progress): (&'a String, &'a SourceProgress)| {
        let clause = datasets.get(name).and_then(|dataset| dataset.watermark.as_ref());
        let delay = clause.map_or(Duration::ZERO, |clause| clause.delay);
        Source { name, progress, clause, splits: holding(progress, delay) }
    };
    manifest.sources.iter().map(of).collect()
}

fn for_people(
    workspace: &Workspace,
    pipeline: &Pipeline,
    manifest: &Manifest,
    sources: &[Source<'_>],
    now: Timestamp,
    output: &Output,
) {
    let timed = || sources.iter().filter(|source| source.clause.is_some());
    let through = timed().map(|source| source.progress.watermark.unwrap_or(Watermark::MIN)).min();
    output.line(format!(
        "{}: complete to {}. Epoch {}, committed {} ago{}.",
        pipeline.name,
        through.map_or_else(|| "-".to_owned(), to),
        grouped(manifest.epoch.0),
        duration(now.since(manifest.committed_at)),
        if workspace.is_running(&pipeline.name) { ", running" } else { "" },
    ));
    if sources.is_empty() && !manifest.ledger.entries().is_empty() {
        output.line("Its runs are of intervals, which end where they are asked to: no split holds time back.");
    }
    for source in sources {
        output.line(why(source));
        output.grid(&of_splits(source, now));
        let left = source.splits.len().saturating_sub(SHOWN);
        if left > 0 {
            output.line(format!("  and {}; --format json has all", counted(left as u64, "more split")));
        }
    }
    tables::lines(&manifest.tables).into_iter().for_each(|line| output.line(line));
    left_out(pipeline, manifest, output);
}

/// Why a source's time is where it is.
fn why(source: &Source<'_>) -> String {
    let name = source.name;
    let Some(clause) = source.clause else {
        return format!("{name} has no WATERMARK, so it tells no time.");
    };
    let (line, _) = clause.place.line_column();
    let delay = format!("the {} of disorder allowed ({}:{line})", Span(clause.delay), clause.place.file);
    if source.progress.watermark == Some(Watermark::MAX) {
        return format!("{name} has ended, so every window is closed.");
    }
    let Some(holder) = source.holder() else {
        return format!(
            "{name} stands at {}, as every split is finished or idle. Its watermark is the newest row less {delay}.",
            to(source.progress.watermark.unwrap_or(Watermark::MIN)),
        );
    };
    let voting = source.splits.iter().filter(|split| split.watermark.is_some()).count();
    match holder.time {
        SplitTime::Empty => format!(
            "{name}: {} holds it back. It has had no row yet, and may have early ones until it counts as idle.",
            holder.id
        ),
        SplitTime::Unfinished => format!(
            "{name}: {} holds it back until it is read to its end: a file promises nothing about the order inside.",
            holder.id
        ),
        _ => {
            let newest = source.progress_of(holder).newest.map_or_else(|| "-".to_owned(), |at| instant(Timestamp(at)));
            let behind = match (voting, holder.behind) {
                (0 | 1, _) | (_, None) => "No other split has rows".to_owned(),
                (_, Some(Duration::ZERO)) => "The others are as far".to_owned(),
                (_, Some(behind)) => format!("The furthest split is {} ahead of it", duration(behind)),
            };
            format!("{name}: {} holds it back. Its newest row is of {newest}, less {delay}. {behind}.", holder.id)
        }
    }
}

fn of_splits(source: &Source<'_>, now: Timestamp) -> Grid {
    let header = ["", "SPLIT", "NEWEST", "WATERMARK", "BEHIND", "ROWS", "OFFSET", "LAST ROW", "STATE"];
    let mut grid = Grid::new(header).numbers([4, 5]).whole([2, 3, 7]);
    let mut splits: Vec<&SplitHolding> = source.splits.iter().collect();
    // Who holds time back stands first, who has nothing to say last.
    splits.sort_by_key(|split| (!split.holds, split.time, split.watermark));
    for split in splits.into_iter().take(SHOWN) {
        let progress = source.progress_of(split);
        let dash = || "-".to_owned();
        let mark = match split.time {
            _ if split.holds => ">",
            SplitTime::Idle => "-",
            SplitTime::Finished => "=",
            SplitTime::Active | SplitTime::Empty | SplitTime::Unfinished => "",
        };
        let last = without_rows(&progress, now).map_or_else(dash, |since| format!("{} ago", duration(since)));
        grid.row([
            mark.to_owned(),
            split.id.to_string(),
            progress.newest.map_or_else(dash, |at| instant(Timestamp(at))),
            split.watermark.filter(|_| split.time == SplitTime::Active).map_or_else(dash, to),
            split.behind.map_or_else(dash, duration),
            grouped(progress.rows),
            progress.offset.as_ref().map_or_else(dash, ToString::to_string),
            last,
            state(split, &progress),
        ]);
    }
    grid
}

fn state(split: &SplitHolding, progress: &SplitProgress) -> String {
    let since = progress.at_end_since.map(|at| format!(" since {}", instant(at))).unwrap_or_default();
    let word = match split.time {
        SplitTime::Active => "active".to_owned(),
        SplitTime::Empty => "no row yet".to_owned(),
        SplitTime::Unfinished if progress.offset.is_none() => "not read yet".to_owned(),
        SplitTime::Unfinished => "being read".to_owned(),
        SplitTime::Idle => format!("idle, at its end{since}"),
        SplitTime::Finished => "finished".to_owned(),
    };
    if split.holds { format!("{word}, holds time back") } else { word }
}

/// What operators left out as late, and what was dead.
fn left_out(pipeline: &Pipeline, manifest: &Manifest, output: &Output) {
    let counters = &manifest.counters;
    let dead: Vec<(&String, u64)> =
        counters.dead_letters.iter().map(|(dataset, reasons)| (dataset, reasons.values().sum())).collect();
    if counters.rows_late == 0 && dead.is_empty() {
        output.line("= No row came late and none was dead.");
        return;
    }
    let mut grid = Grid::new(["", "STEP", "LATE", "DEAD", "KEPT IN"]).numbers([2, 3]);
    for (step, late) in &counters.late_by_step {
        let target = target_of(pipeline, step);
        let home = match pipeline.keeps_late {
            true => format!("{target}.late"),
            false => "nowhere: late = 'drop'".to_owned(),
        };
        grid.row(["!", step, &grouped(*late), "-", &home]);
    }
    let known: u64 = counters.late_by_step.values().sum();
    if counters.rows_late > known {
        grid.row(["!", "(earlier)", &grouped(counters.rows_late - known), "-", "nowhere: counted only"]);
    }
    for (dataset, rows) in &dead {
        grid.row(["!", dataset, "-", &grouped(*rows), &format!("{dataset}.dead_letters")]);
    }
    output.grid(&grid);
    if let Some(step) = counters.late_by_step.keys().find(|_| pipeline.keeps_late) {
        let target = target_of(pipeline, step);
        output.note(format!(
            "Next: tidemill query \"SELECT window_start, event_time, watermark, row FROM {target}.late LIMIT 5\""
        ));
    } else if !dead.is_empty() {
        output.note(format!("Next: tidemill dead-letters {}", pipeline.name));
    }
}

/// The table or view that a step belongs to: its name begins with it.
fn target_of<'a>(pipeline: &'a Pipeline, step: &'a str) -> &'a str {
    let targets = pipeline.inserts.iter().map(|insert| insert.target.as_str());
    let mut targets = targets.chain(pipeline.materialized.iter().map(String::as_str));
    targets.find(|target| step.strip_prefix(*target).is_some_and(|rest| rest.starts_with('.'))).unwrap_or(step)
}

fn to(watermark: Watermark) -> String {
    match watermark {
        Watermark::MAX => "the end".to_owned(),
        other => other.instant().map_or_else(|| "-".to_owned(), instant),
    }
}

fn as_json(pipeline: &Pipeline, manifest: Option<&Manifest>, sources: &[Source<'_>], now: Timestamp) -> Value {
    let counters = manifest.map(|manifest| &manifest.counters);
    let late: BTreeMap<&String, &u64> = counters.into_iter().flat_map(|counters| &counters.late_by_step).collect();
    json!({
        "pipeline": pipeline.name,
        "epoch": manifest.map(|m| m.epoch.0),
        "committed_at": manifest.map(|m| m.committed_at.to_string()),
        "sources": sources.iter().map(|source| source_json(source, now)).collect::<Vec<_>>(),
        "last": manifest.into_iter().flat_map(|manifest| lasts(manifest, sources)).map(|last| json!({
            "source": last.source,
            "last_value": last.value.to_string(),
            "value_type": "timestamp",
            "updated_at": last.updated.to_string(),
            "row_count": last.rows,
        })).collect::<Vec<_>>(),
        "late": if pipeline.keeps_late { "table" } else { "drop" },
        "rows_late": counters.map(|counters| counters.rows_late),
        "late_by_step": late,
        "tables": manifest.map(|manifest| tables::as_json(&manifest.tables)),
        "dead_letters": counters.map(|counters| &counters.dead_letters),
    })
}

fn source_json(source: &Source<'_>, now: Timestamp) -> Value {
    let text = |watermark: Option<Watermark>| watermark.filter(|at| *at > Watermark::MIN).map(|at| at.to_string());
    let splits = source.splits.iter().map(|split| {
        let progress = source.progress_of(split);
        json!({
            "split": split.id.as_str(),
            "state": match split.time {
                SplitTime::Active => "active",
                SplitTime::Empty => "empty",
                SplitTime::Unfinished => "unfinished",
                SplitTime::Idle => "idle",
                SplitTime::Finished => "finished",
            },
            "holds_time_back": split.holds,
            "watermark": text(split.watermark),
            "behind_seconds": split.behind.map(|behind| behind.as_secs_f64()),
            "newest": progress.newest.map(|at| Timestamp(at).to_string()),
            "rows": progress.rows,
            "offset": progress.offset.as_ref().map(ToString::to_string),
            "last_row_at": progress.last_row_at.map(|at| at.to_string()),
            "without_rows_seconds": without_rows(&progress, now).map(|since| since.as_secs_f64()),
            "at_end_since": progress.at_end_since.map(|at| at.to_string()),
        })
    });
    json!({
        "source": source.name,
        "watermark": text(source.progress.watermark),
        "delay_seconds": source.clause.map(|clause| clause.delay.as_secs_f64()),
        "held_back_by": source.holder().map(|split| split.id.as_str()),
        "splits": splits.collect::<Vec<_>>(),
    })
}
