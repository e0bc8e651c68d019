//! `tidemill dead-letters`: what a pipeline could not accept, by dataset and reason, with the newest records.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use serde_json::{Value, json};
use tidemill_model::Timestamp;
use tidemill_runtime::exec::StopFlag;
use tidemill_sql::batch::{self, ViewSource};

use super::args::Format;
use super::failure::{Failure, Outcome};
use super::grid::Grid;
use super::numbers::{counted, grouped, instant};
use super::output::Output;
use super::rows;
use crate::Workspace;

/// A dead letter as stored.
struct Letter {
    reason: String,
    detail: String,
    split: String,
    position: i64,
    recorded_at: Timestamp,
    raw: Vec<u8>,
}

#[derive(Default)]
struct Summary {
    rows: u64,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
}

pub(crate) async fn dead_letters(workspace: &Workspace, pipeline: &str, show: usize, output: &Output) -> Outcome {
    workspace.catalog.project().pipeline(pipeline).map_err(Failure::Usage)?;
    if output.format == Format::Ndjson {
        return Ok(export(workspace, pipeline, output).await?);
    }
    let manifest = workspace.checkpoints(pipeline).latest()?;
    let has_run = manifest.is_some();
    let counters = manifest.map(|manifest| manifest.counters).unwrap_or_default();
    let mut letters: BTreeMap<String, Vec<Letter>> = BTreeMap::new();
    for dataset in counters.dead_letters.keys() {
        for batch in workspace.stored().dead_letters(&[pipeline.to_owned()], dataset)? {
            letters.entry(dataset.clone()).or_default().extend(read(&batch));
        }
    }
    if output.is_human() && has_run {
        human(pipeline, &letters, counters.rows_read, show, output);
    } else if output.is_human() {
        output.line(format!("? No dead letters: {pipeline} has not run yet."));
    } else {
        output.value(&as_json(pipeline, &letters, show));
    }
    Ok(())
}

/// Every letter that has not entered again as a line, to be corrected and given back.
async fn export(workspace: &Workspace, pipeline: &str, output: &Output) -> tidemill_model::Result<()> {
    let Some(manifest) = workspace.checkpoints(pipeline).latest()? else { return Ok(()) };
    let project = workspace.catalog.project();
    let named = |name: &&String| project.datasets.contains_key(*name) || project.materialized.contains_key(*name);
    for dataset in manifest.counters.dead_letters.keys().filter(named) {
        let sql = format!(
            "SELECT letter, pipeline, dataset, reason, detail, split, position, event_time, raw, step, attempts \
             FROM \"{dataset}\".dead_letters WHERE replayed_epoch IS NULL AND pipeline = '{pipeline}'"
        );
        let (views, resources) = (workspace.stored(), workspace.resources());
        let answer = batch::query(&workspace.catalog, &views, &sql, &resources, StopFlag::default()).await?;
        rows::print(&answer.schema, &answer.batches, output)?;
    }
    Ok(())
}

/// The letters of a batch that have not entered again.
fn read(batch: &RecordBatch) -> Vec<Letter> {
    let text = |name: &str| batch.column_by_name(name).and_then(|c| c.as_string_opt::<i32>());
    let (Some(reason), Some(detail), Some(split)) = (text("reason"), text("detail"), text("split")) else {
        return Vec::new();
    };
    let position = batch.column_by_name("position").and_then(|c| c.as_primitive_opt::<Int64Type>());
    let at = batch.column_by_name("recorded_at").and_then(|c| c.as_primitive_opt::<TimestampMicrosecondType>());
    let raw = batch.column_by_name("raw").and_then(|c| c.as_binary_opt::<i32>());
    let (Some(position), Some(at), Some(raw)) = (position, at, raw) else { return Vec::new() };
    let replayed = batch.column_by_name("replayed_epoch");
    (0..batch.num_rows())
        .filter(|row| replayed.is_none_or(|epochs| epochs.is_null(*row)))
        .map(|row| Letter {
            reason: reason.value(row).to_owned(),
            detail: detail.value(row).to_owned(),
            split: split.value(row).to_owned(),
            position: position.value(row),
            recorded_at: Timestamp(at.value(row)),
            raw: raw.value(row).to_vec(),
        })
        .collect()
}

fn summaries(letters: &[Letter]) -> Vec<(&str, Summary)> {
    let mut by_reason: BTreeMap<&str, Summary> = BTreeMap::new();
    for letter in letters {
        let summary = by_reason.entry(&letter.reason).or_default();
        summary.rows += 1;
        summary.first = Some(summary.first.map_or(letter.recorded_at, |at| at.min(letter.recorded_at)));
        summary.last = summary.last.max(Some(letter.recorded_at));
    }
    let mut sorted: Vec<_> = by_reason.into_iter().collect();
    sorted.sort_by_key(|(reason, summary)| (std::cmp::Reverse(summary.rows), *reason));
    sorted
}

fn newest(letters: &[Letter], show: usize) -> Vec<&Letter> {
    let mut sorted: Vec<&Letter> = letters.iter().collect();
    sorted.sort_by_key(|letter| std::cmp::Reverse((letter.recorded_at, letter.position)));
    sorted.truncate(show);
    sorted
}

fn human(pipeline: &str, letters: &BTreeMap<String, Vec<Letter>>, read: u64, show: usize, output: &Output) {
    if letters.is_empty() {
        output.line(format!("= No dead letters: every row that {pipeline} read was accepted."));
        return;
    }
    let mut grid = Grid::new(["DATASET", "REASON", "ROWS", "SHARE", "FIRST", "LAST"]).numbers([2, 3]).whole([4, 5]);
    let at = |at: Option<Timestamp>| at.map_or_else(|| "-".to_owned(), instant);
    for (dataset, letters) in letters {
        for (reason, summary) in summaries(letters) {
            grid.row([
                dataset,
                reason,
                &grouped(summary.rows),
                &share(summary.rows, read),
                &at(summary.first),
                &at(summary.last),
            ]);
        }
    }
    output.grid(&grid);
    for (dataset, letters) in letters {
        for letter in newest(letters, show) {
            let raw = String::from_utf8_lossy(&letter.raw);
            output.line(format!(
                "newest {}: {} position {}, {} UTC\n  {}\n  {}",
                letter.reason,
                letter.split,
                grouped(u64::try_from(letter.position).unwrap_or(0)),
                instant(letter.recorded_at),
                raw.trim_end(),
                letter.detail,
            ));
        }
        output.line(format!("{} in {dataset}.dead_letters. Next:", counted(letters.len() as u64, "row")));
        output.line(format!(
            "  tidemill query \"SELECT reason, detail, split, position FROM {dataset}.dead_letters LIMIT 5\""
        ));
    }
    output.line(format!("  tidemill dead-letters replay {pipeline} --dry-run   once what is wrong was corrected"));
}

/// Shares never round to nothing or to everything.
fn share(rows: u64, read: u64) -> String {
    if read == 0 {
        return "-".to_owned();
    }
    let percent = rows as f64 * 100.0 / read as f64;
    if percent < 0.01 { "<0.01 %".to_owned() } else { format!("{percent:.2} %") }
}

fn as_json(pipeline: &str, letters: &BTreeMap<String, Vec<Letter>>, show: usize) -> Value {
    let datasets: Vec<Value> = letters
        .iter()
        .map(|(dataset, letters)| {
            let reasons: Vec<Value> = summaries(letters)
                .into_iter()
                .map(|(reason, summary)| {
                    let text = |at: Option<Timestamp>| at.map(|at| at.to_string());
                    json!({"reason": reason, "rows": summary.rows, "first": text(summary.first), "last": text(summary.last)})
                })
                .collect();
            let shown: Vec<Value> = newest(letters, show)
                .into_iter()
                .map(|letter| {
                    json!({
                        "reason": letter.reason,
                        "detail": letter.detail,
                        "split": letter.split,
                        "position": letter.position,
                        "recorded_at": letter.recorded_at.to_string(),
                        "raw": String::from_utf8_lossy(&letter.raw),
                    })
                })
                .collect();
            json!({"dataset": dataset, "rows": letters.len(), "reasons": reasons, "newest": shown})
        })
        .collect();
    json!({"pipeline": pipeline, "datasets": datasets})
}
