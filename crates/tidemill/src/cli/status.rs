//! `tidemill status`: how far each pipeline is, from its newest manifest.

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde_json::{Value, json};
use tidemill_checkpoint::Manifest;
use tidemill_model::{Result, Timestamp, Watermark};
use tidemill_sql::language::Pipeline;

use super::numbers::{counted, duration, grouped, instant};
use super::output::Output;
use crate::Workspace;

struct Row<'a> {
    pipeline: &'a Pipeline,
    running: bool,
    manifest: Option<Manifest>,
}

impl Row<'_> {
    fn state(&self) -> (&'static str, &'static str) {
        match (self.running, &self.manifest) {
            (true, _) => ("~", "running"),
            (false, Some(_)) => ("=", "stopped"),
            (false, None) => ("?", "never run"),
        }
    }

    fn complete_to(&self) -> Option<Watermark> {
        self.manifest.as_ref()?.sources.values().filter_map(|source| source.watermark).min()
    }

    fn intervals(&self) -> usize {
        self.manifest.as_ref().map_or(0, |manifest| manifest.ledger.entries().len())
    }
}

pub(crate) fn status(workspace: &Workspace, only: Option<&str>, output: &Output) -> Result<()> {
    let project = workspace.catalog.project();
    let pipelines: Vec<&Pipeline> = match only {
        Some(name) => vec![project.pipeline(name)?],
        None => project.pipelines.values().collect(),
    };
    let mut rows = Vec::new();
    for pipeline in pipelines {
        let manifest = workspace.checkpoints(&pipeline.name).latest()?;
        // Asking takes the lock for an instant, and only where there is a state folder to ask about.
        let running = manifest.is_some() && workspace.lock(&pipeline.name).is_err();
        rows.push(Row { pipeline, running, manifest });
    }
    let now = workspace.clock.now();
    if output.is_human() {
        table(&rows, now, output);
    } else {
        output.values(rows.iter().map(as_json).collect());
    }
    Ok(())
}

fn table(rows: &[Row<'_>], now: Timestamp, output: &Output) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["", "STATE", "PIPELINE", "TRIGGER", "EPOCH", "COMMITTED", "COMPLETE TO", "ROWS", "DEAD", "LATE"]);
    let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    for row in rows {
        let (mark, state) = row.state();
        let counters = row.manifest.as_ref().map(|manifest| &manifest.counters);
        let count = |of: fn(&tidemill_checkpoint::Counters) -> u64| {
            right(counters.map_or_else(|| "-".to_owned(), |counters| grouped(of(counters))))
        };
        table.add_row([
            Cell::new(mark),
            Cell::new(state),
            Cell::new(&row.pipeline.name),
            Cell::new(row.pipeline.trigger.to_string()),
            right(row.manifest.as_ref().map_or_else(|| "-".to_owned(), |m| grouped(m.epoch.0))),
            Cell::new(
                row.manifest
                    .as_ref()
                    .map_or_else(|| "-".to_owned(), |m| format!("{} ago", duration(now.since(m.committed_at)))),
            ),
            Cell::new(
                row.complete_to()
                    .map_or_else(|| "-".to_owned(), |w| w.instant().map_or_else(|| w.to_string(), instant)),
            ),
            count(|c| c.rows_read),
            count(tidemill_checkpoint::Counters::rows_dead),
            count(|c| c.rows_late),
        ]);
    }
    if rows.is_empty() {
        output.line("No pipelines yet: write one into pipelines/NAME.sql, or see tidemill init --example orders.");
        return;
    }
    output.line(table.trim_fmt());
    let running = rows.iter().filter(|row| row.running).count();
    let never = rows.iter().filter(|row| row.manifest.is_none()).count();
    let intervals: usize = rows.iter().map(Row::intervals).sum();
    output.note(format!(
        "{}: {running} running, {never} never run; {} done   {} UTC",
        counted(rows.len() as u64, "pipeline"),
        counted(intervals as u64, "interval"),
        instant(now),
    ));
    if let Some(row) = rows.iter().find(|row| row.manifest.is_none()) {
        output.note(format!("Next: tidemill run {}", row.pipeline.name));
    }
}

fn as_json(row: &Row<'_>) -> Value {
    let manifest = row.manifest.as_ref();
    json!({
        "pipeline": row.pipeline.name,
        "state": row.state().1,
        "trigger": row.pipeline.trigger.to_string(),
        "epoch": manifest.map(|m| m.epoch.0),
        "committed_at": manifest.map(|m| m.committed_at.to_string()),
        "complete_to": row.complete_to().map(|w| w.to_string()),
        "intervals_done": manifest.map(|m| {
            let done = m.ledger.entries().iter();
            done.map(|e| json!({"interval": e.interval.to_string(), "generation": e.generation})).collect::<Vec<_>>()
        }),
        "counters": manifest.map(|m| &m.counters),
        "views": manifest.map(|m| m.views.keys().collect::<Vec<_>>()),
    })
}
