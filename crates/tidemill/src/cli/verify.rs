//! `tidemill verify`: what a pipeline serves and has written, beside the same computed anew, with what differs by key.
//!
//! **Invariant:** exit code 0 says that everything that was compared is equal, and that something was compared.

use std::process::ExitCode;

use serde_json::{Map, Value, json};
use tidemill_model::{Error, Kind};
use tidemill_runtime::exec::StopFlag;
use tidemill_sql::batch::{Compared, Difference, DifferenceSide, Verified};

use super::failure::{Failure, Outcome};
use super::grid::Grid;
use super::numbers::{counted, grouped};
use super::output::Output;
use crate::Workspace;
use crate::verify::{Verification, verify as compute};

pub(crate) async fn verify(workspace: &Workspace, pipeline: &str, output: &Output) -> Outcome<ExitCode> {
    workspace.catalog.project().pipeline(pipeline).map_err(Failure::Usage)?;
    let spinner = output.spinner();
    spinner.set_message(format!("computing anew what {pipeline} serves and has written …"));
    spinner.enable_steady_tick(std::time::Duration::from_millis(250));
    let outcome = Box::pin(compute(workspace, pipeline, &StopFlag::default())).await;
    spinner.finish_and_clear();
    let verification = outcome?;
    if output.is_human() {
        for_people(pipeline, &verification, output);
    } else {
        output.value(&as_json(pipeline, &verification));
    }
    if verification.compared() == 0 {
        let error = Error::new(Kind::Config, "C063", format!("nothing of `{pipeline}` can be compared"));
        let why = verification.targets.iter().filter_map(|target| target.outcome.as_ref().err());
        return Err(why.fold(error, |error, why| error.fact(why.clone())).into());
    }
    Ok(if verification.differences() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The mark and the word for what came of a target.
fn verdict(target: &Verified, late: u64) -> (&'static str, &'static str) {
    match &target.outcome {
        Err(_) => ("-", "not compared"),
        Ok(compared) if compared.differences.total() == 0 => ("=", "equal"),
        Ok(_) if late > 0 => ("!", "drift"),
        Ok(_) => ("x", "differs"),
    }
}

fn for_people(pipeline: &str, verification: &Verification, output: &Output) {
    output.line(format!(
        "Computed epoch {} of {pipeline} anew from {}, compared with what it serves and has written.",
        grouped(verification.epoch.0),
        read(verification),
    ));
    let header =
        ["", "TARGET", "COMPARED", "STREAM", "RECOMPUTED", "EQUAL", "DIFFER", "ONLY STREAM", "ONLY RECOMPUTED"];
    let mut grid = Grid::new(header).numbers(3..9);
    for target in &verification.targets {
        let (mark, word) = verdict(target, verification.late_of(&target.name));
        let kind = if target.is_view { "view" } else { "table" };
        let numbers = match &target.outcome {
            Err(_) => vec!["-".to_owned(); 6],
            Ok(Compared { stored, recomputed, differences: d }) => {
                [*stored, *recomputed, d.equal, d.differ, d.only_stream, d.only_recomputed].map(grouped).to_vec()
            }
        };
        let compared = if target.outcome.is_ok() { target.compared.as_str() } else { word };
        let first = [mark.to_owned(), target.name.clone(), format!("{kind}, {compared}")];
        grid.row(first.into_iter().chain(numbers));
    }
    output.grid(&grid);
    for target in &verification.targets {
        if let Ok(compared) = &target.outcome {
            differences(target, compared, output);
        }
    }
    for target in &verification.targets {
        if let Err(why) = &target.outcome {
            output.line(format!("- {} was not compared: {why}", target.name));
        }
        for note in &target.notes {
            output.line(format!("! {}: {note}", target.name));
        }
    }
    conclusion(pipeline, verification, output);
}

/// What came of it all, in one line.
fn conclusion(pipeline: &str, verification: &Verification, output: &Output) {
    let all: u64 = compared(verification).map(|c| c.differences.equal + c.differences.total()).sum();
    let of = |target: &&Verified| target.outcome.as_ref().map_or(0, |compared| compared.differences.total());
    let came_late = |target: &&Verified| verification.late_of(&target.name) > 0;
    let drifted: u64 = verification.targets.iter().filter(came_late).map(|target| of(&target)).sum();
    let differing = verification.differences() - drifted;
    if differing > 0 {
        output.line(format!("x {} of {} differ.", grouped(differing), counted(all, "row")));
    }
    if drifted > 0 {
        output.line(format!(
            "! {} of {} have drifted: the stream left out {} that came late, and the recomputation has them.",
            grouped(drifted),
            counted(all, "row"),
            counted(verification.late, "row"),
        ));
        output.note(format!("Next: tidemill watermarks {pipeline}"));
    }
    if differing + drifted == 0 && verification.compared() > 0 {
        let late = match verification.late {
            0 => String::new(),
            late => format!(", although {} came late and were left out", counted(late, "row")),
        };
        output.line(format!("= All {} are equal{late}.", counted(all, "row")));
    }
}

fn compared(verification: &Verification) -> impl Iterator<Item = &Compared> {
    verification.targets.iter().filter_map(|target| target.outcome.as_ref().ok())
}

/// The datasets that were read, and from which side.
fn read(verification: &Verification) -> String {
    let mut names: Vec<String> = Vec::new();
    for (name, history) in verification.targets.iter().flat_map(|target| &target.read) {
        let told = if *history { format!("the HISTORY of {name}") } else { name.clone() };
        if !names.contains(&told) {
            names.push(told);
        }
    }
    names.join(", ")
}

fn differences(target: &Verified, compared: &Compared, output: &Output) {
    let shown = &compared.differences.shown;
    let Some(first) = shown.first() else { return };
    output.line("");
    let keys = first.key.iter().map(|(name, _)| name.to_uppercase());
    let keys: Vec<String> = if first.key.is_empty() { vec!["KEY".to_owned()] } else { keys.collect() };
    let mut grid = Grid::new(keys.into_iter().chain(["COLUMN", "STREAM", "RECOMPUTED"].map(str::to_owned)));
    for difference in shown {
        let mut key: Vec<String> = difference.key.iter().map(|(_, value)| text(value.as_deref())).collect();
        if key.is_empty() {
            key.push("(all)".to_owned());
        }
        for (at, (column, stream, recomputed)) in rows_of(difference).into_iter().enumerate() {
            let key = key.iter().map(|value| if at == 0 { value.clone() } else { String::new() });
            grid.row(key.chain([column, stream, recomputed]));
        }
    }
    output.line(format!("{}, by {}:", target.name, by(first)));
    output.grid(&grid);
    let total = compared.differences.total();
    if total > shown.len() as u64 {
        output.line(format!("… and {} more", counted(total - shown.len() as u64, "row")));
    }
}

fn by(first: &Difference) -> String {
    match first.key.as_slice() {
        [] => "its one row".to_owned(),
        key => key.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", "),
    }
}

/// The lines of a difference: column, the stream's value, the recomputed one.
fn rows_of(difference: &Difference) -> Vec<(String, String, String)> {
    let absent = |side| match side {
        DifferenceSide::Stream => (String::new(), "only in the stream".to_owned(), "absent".to_owned()),
        _ => (String::new(), "absent".to_owned(), "only recomputed".to_owned()),
    };
    let values = difference.values.iter().map(|(column, stream, recomputed)| match difference.side {
        DifferenceSide::Both => (column.clone(), text(stream.as_deref()), text(recomputed.as_deref())),
        DifferenceSide::Stream => (column.clone(), text(stream.as_deref()), "only in the stream".to_owned()),
        DifferenceSide::Recomputed => (column.clone(), "only recomputed".to_owned(), text(recomputed.as_deref())),
    });
    let values: Vec<_> = values.collect();
    if values.is_empty() { vec![absent(difference.side)] } else { values }
}

fn text(value: Option<&str>) -> String {
    value.unwrap_or("NULL").to_owned()
}

fn as_json(pipeline: &str, verification: &Verification) -> Value {
    let targets: Vec<Value> =
        verification.targets.iter().map(|target| target_json(target, verification.late_of(&target.name))).collect();
    json!({
        "pipeline": pipeline,
        "epoch": verification.epoch.0,
        "equal": verification.differences() == 0 && verification.compared() > 0,
        "rows_late": verification.late,
        "differences": verification.differences(),
        "targets": targets,
    })
}

fn target_json(target: &Verified, late: u64) -> Value {
    let read: Vec<Value> = target
        .read
        .iter()
        .map(|(dataset, history)| json!({"dataset": dataset, "side": if *history { "history" } else { "live" }}))
        .collect();
    let mut value = json!({
        "target": target.name,
        "kind": if target.is_view { "view" } else { "table" },
        "rows_late": late,
        "verdict": verdict(target, late).1,
        "compared": target.compared,
        "read": read,
        "notes": target.notes,
        "why": target.outcome.as_ref().err(),
    });
    if let (Ok(compared), Some(value)) = (&target.outcome, value.as_object_mut()) {
        let found = &compared.differences;
        value.insert(
            "rows".to_owned(),
            json!({
                "stream": compared.stored,
                "recomputed": compared.recomputed,
                "equal": found.equal,
                "differ": found.differ,
                "only_stream": found.only_stream,
                "only_recomputed": found.only_recomputed,
            }),
        );
        value.insert("shown".to_owned(), found.shown.iter().map(difference_json).collect());
    }
    value
}

fn difference_json(difference: &Difference) -> Value {
    let key: Map<String, Value> = difference.key.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    let values: Map<String, Value> = difference
        .values
        .iter()
        .map(|(name, stream, recomputed)| (name.clone(), json!({"stream": stream, "recomputed": recomputed})))
        .collect();
    let side = match difference.side {
        DifferenceSide::Both => "differs",
        DifferenceSide::Stream => "only_stream",
        DifferenceSide::Recomputed => "only_recomputed",
    };
    json!({"what": side, "key": key, "values": values})
}
