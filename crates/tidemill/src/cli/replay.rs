//! `tidemill replay` and `run --rebuild`: results computed anew over the input on record.
//!
//! **Invariant:** a dry run and the run itself say the same of each target.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use tidemill_model::{Error, Kind, Result, SplitId, Timestamp};
use tidemill_runtime::exec::{Progress, StopFlag};
use tidemill_runtime::{NodeKind, Split};
use tidemill_sql::Side;
use tidemill_sql::batch::Lookups;
use tidemill_sql::language::Pipeline;

use super::numbers::{counted, duration, grouped, instant};
use super::output::Output;
use super::plan::{action_json, action_words};
use super::run::{stop_on_signal, watch};
use crate::rebuild::{self, Beginning, Rebuilt, Request};
use crate::{RunOptions, Workspace, engine};

/// What was asked for.
///
/// # Errors
/// Config, when it is neither `earliest` nor a time nor offsets.
pub(super) fn request(from: &str, only: &[String], whole: bool) -> Result<Request> {
    let from = match (from, from.strip_prefix('@')) {
        ("earliest", _) => Beginning::Earliest,
        (_, Some(file)) => Beginning::Offsets(rebuild::starts_of_file(Path::new(file))?),
        (offsets, _) if offsets.contains('=') => Beginning::Offsets(rebuild::starts(offsets)?),
        (time, _) => Beginning::Time(Timestamp::parse(time).map_err(|_| {
            Error::new(Kind::Config, "C057", format!("`{time}` is no point to replay from"))
                .fact("write earliest, or a time: 2026-11-20, 2026-11-20T14, 2026-11-20T14:30:00")
                .fact("or offsets: raw_orders/raw-orders/3=1200,raw_orders/raw-orders/4=88, or @FILE with them")
        })?),
    };
    Ok(Request::Replay { only: only.iter().cloned().collect(), from, whole })
}

/// Computes anew what another query computed, before a run; whether the run may begin.
pub(super) async fn rebuild(
    workspace: &Workspace,
    pipeline: &str,
    options: &RunOptions,
    stop: &StopFlag,
    output: &Output,
) -> Result<bool> {
    let options = RunOptions { trigger: None, ..options.clone() };
    let done = compute(workspace, pipeline, (&Request::Changed, &options), stop, output).await?;
    match done {
        None => output.note(format!("{pipeline}  nothing to rebuild: the state on record fits the query")),
        Some((Rebuilt { epoch: Some(epoch), targets }, rows, took)) => output.note(format!(
            "= rebuilt {} in {}: {} rows read again, switched in epoch {}",
            names(&targets),
            duration(took),
            grouped(rows),
            grouped(epoch.0),
        )),
        Some((Rebuilt { epoch: None, .. }, ..)) => {
            output.note("stopped before the new results were complete; nothing was changed");
            return Ok(false);
        }
    }
    Ok(true)
}

/// Replays a pipeline.
pub(super) async fn replay(
    workspace: &Workspace,
    pipeline: &Pipeline,
    request: &Request,
    lanes: Option<usize>,
    output: &Output,
) -> Result<()> {
    let stop = stop_on_signal(output)?;
    let options = RunOptions { lanes, ..RunOptions::default() };
    let name = pipeline.name.as_str();
    let done = compute(workspace, name, (request, &options), &stop, output).await?;
    let Some((rebuilt, rows, took)) = done else {
        return Err(never_run(name));
    };
    if !output.is_human() {
        output.value(&json!({
            "pipeline": name,
            "epoch": rebuilt.epoch.map(|epoch| epoch.0),
            "targets": rebuilt.targets,
            "rows_read": rows,
            "seconds": took.as_secs_f64(),
        }));
        return Ok(());
    }
    match rebuilt.epoch {
        Some(epoch) => {
            output.line(format!(
                "= replayed {} in {}: {} rows read, switched in epoch {}",
                names(&rebuilt.targets),
                duration(took),
                grouped(rows),
                grouped(epoch.0),
            ));
            output.note(format!("Next: tidemill run {name}"));
        }
        None => output.line("stopped before the new results were complete; nothing was changed"),
    }
    Ok(())
}

fn names(targets: &std::collections::BTreeSet<String>) -> String {
    match targets.is_empty() {
        true => "nothing".to_owned(),
        false => targets.iter().map(String::as_str).collect::<Vec<_>>().join(", "),
    }
}

fn never_run(pipeline: &str) -> Error {
    Error::new(Kind::Config, "C058", format!("`{pipeline}` has read nothing yet, so there is nothing to replay"))
        .fact(format!("tidemill run {pipeline} begins at the start of its sources"))
}

/// Runs a rebuild with its progress; answers what was done, how many rows were read, and how long it took.
async fn compute(
    workspace: &Workspace,
    pipeline: &str,
    (request, options): (&Request, &RunOptions),
    stop: &StopFlag,
    output: &Output,
) -> Result<Option<(Rebuilt, u64, std::time::Duration)>> {
    let begun = workspace.clock.now();
    let progress = Arc::new(Progress::default());
    let prepared = rebuild::prepare(workspace, pipeline, request, options, &progress)?;
    let Some(prepared) = prepared else { return Ok(None) };
    let before = progress.snapshot().counters.rows_read;
    let (checkpoints, stopped) = (workspace.checkpoints(pipeline), stop.clone());
    let running = tokio::task::spawn_blocking(move || prepared.run(&checkpoints, &stopped));
    let outcome = watch(running, &progress, pipeline, (workspace, &BTreeMap::new), output).await?;
    let outcome = outcome.map_err(|error| beside_history(workspace, pipeline, error))?;
    let rows = progress.snapshot().rows_read.saturating_sub(before);
    Ok(Some((outcome, rows, workspace.clock.now().since(begun))))
}

/// The error of a source that has forgotten rows, with what to do where they are in HISTORY.
fn beside_history(workspace: &Workspace, pipeline: &str, error: Error) -> Error {
    let Ok(plan) = engine::plan(workspace, pipeline) else { return error };
    let datasets = &workspace.catalog.project().datasets;
    let has_history = |name: &String| datasets.get(name).is_some_and(|dataset| dataset.history.is_some());
    let read = plan.graph.nodes.iter().filter(|node| matches!(node.kind, NodeKind::Source(_)));
    let Some(node) = read.map(|node| &node.name).find(|name| has_history(name)) else { return error };
    if !["C151", "C152"].contains(&error.code()) {
        return error;
    }
    error
        .fact(format!("HISTORY of `{node}` is not read for this: nothing says which of its rows lie below a live offset"))
        .fact("give the new query a new table with write = 'upsert' and two new pipelines: one writes the windows before an instant from HISTORY, tidemill run PAST --interval START/PERIOD, the other goes on live from there with start = 'INSTANT'")
        .fact(format!("or take what is left: tidemill replay {pipeline} --from SOURCE/SPLIT=OFFSET --whole"))
}

/// Says what a replay would do.
pub(super) fn dry_run(workspace: &Workspace, pipeline: &Pipeline, request: &Request, output: &Output) -> Result<()> {
    let lookups = Lookups::new(&workspace.catalog, Side::Live);
    let plan = rebuild::plan(workspace, &pipeline.name, request, &lookups)?;
    let changes = rebuild::changes(workspace, &pipeline.name, &plan, request)?;
    let Some(changes) = changes else { return Err(never_run(&pipeline.name)) };
    let mut reads: Vec<Value> = Vec::new();
    let mut lines = Vec::new();
    for node in &plan.graph.leading_to(&changes.anew()).nodes {
        let NodeKind::Source(source) = &node.kind else { continue };
        let Some(progress) = changes.record.sources.get(&node.name) else { continue };
        let listed: Vec<Split> =
            source.source.list_splits().map_err(|e| e.context(format!("reading {}", node.name)))?;
        let begun: Vec<_> = progress.splits.iter().filter(|(_, split)| split.is_begun()).collect();
        let starts = match request {
            Request::Replay { from: Beginning::Offsets(starts), .. } => starts.get(&node.name),
            Request::Replay { .. } | Request::Changed => None,
        };
        let start = |id: &SplitId| starts.and_then(|starts| starts.get(id));
        let whole: Vec<_> = begun.iter().filter(|(id, _)| start(id).is_none()).collect();
        let rows: u64 = whole.iter().map(|(_, split)| split.rows).sum();
        let parts = match begun.len() - whole.len() {
            0 => String::new(),
            parts => format!(", and a part of {}", counted(parts as u64, "split")),
        };
        lines.push(format!("{}: {} rows of {}{parts}", node.name, grouped(rows), counted(whole.len() as u64, "split")));
        for (id, split) in begun {
            let found = listed.iter().find(|listed| listed.id == *id);
            let offset = split.offset.as_ref().map(ToString::to_string);
            if output.is_verbose() || found.is_none() || start(id).is_some() {
                let gone = if found.is_none() { "  x it is gone, so it cannot be read again" } else { "" };
                let to = offset.as_deref().unwrap_or("its end");
                let what = match start(id) {
                    Some(from) => format!("from {from} up to {to}"),
                    None => format!("up to {to}, {} rows", grouped(split.rows)),
                };
                lines.push(format!("  {id} {what}{gone}"));
            }
            reads.push(json!({
                "source": node.name,
                "split": id.to_string(),
                "from": start(id).map(ToString::to_string),
                "up_to": offset,
                "rows": start(id).is_none().then_some(split.rows),
                "bytes": found.and_then(|split| split.bytes),
                "gone": found.is_none(),
            }));
        }
    }
    if !output.is_human() {
        let targets: Vec<Value> = changes.targets.iter().map(|(name, action)| action_json(name, *action)).collect();
        output.value(&json!({
            "pipeline": pipeline.name,
            "epoch": changes.record.epoch.0,
            "query_changed": changes.differs,
            "reads": reads,
            "targets": targets,
        }));
        return Ok(());
    }
    let from = match request {
        Request::Replay { from: Beginning::Time(from), .. } => format!("rows from {} on", instant(*from)),
        Request::Replay { from: Beginning::Offsets(_), .. } => "rows after the offsets given".to_owned(),
        _ => "all rows".to_owned(),
    };
    output.line(format!("{}  {from}, up to epoch {}", pipeline.name, grouped(changes.record.epoch.0)));
    if changes.differs {
        output.line(format!("  x its query changed: tidemill run {} --rebuild comes first", pipeline.name));
    }
    let mut label = "Reads   ";
    for line in lines {
        output.line(format!("  {label} {line}"));
        label = "        ";
    }
    let mut label = "Results ";
    for (target, action) in &changes.targets {
        output.line(format!("  {label} > {target}  {}", action_words(*action)));
        label = "        ";
    }
    output.line("Nothing changed.");
    Ok(())
}
