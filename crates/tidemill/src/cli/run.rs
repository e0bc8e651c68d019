//! `tidemill run`: one pipeline here, live or for one interval, with its progress.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tidemill_model::{Error, Interval, Kind, Result, Timestamp};
use tidemill_runtime::exec::{Progress, Snapshot, StopFlag, Views};
use tidemill_serve::{Server, ServerState};
use tidemill_sql::Side;
use tidemill_sql::batch::Asked;
use tidemill_sql::language::Pipeline;
use tokio::signal::unix::{SignalKind, signal};

use super::backfill;
use super::failure::{Failure, Outcome};
use super::numbers::{counted, duration, grouped, instant, rate};
use super::output::Output;
use super::replay;
use super::tables::WatchedTables;
use crate::engine::{self, Live, RunOptions};
use crate::runs::Intervals;
use crate::{Workspace, workspace::served_views};

/// Sets the flag on the first Ctrl-C or SIGTERM; a second Ctrl-C ends the process as usual.
pub(crate) fn stop_on_signal(output: &Output) -> Result<StopFlag> {
    let stop = StopFlag::default();
    let failed = |e| Error::io("listen for", "signals", e);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let (flag, output) = (stop.clone(), output.clone());
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        flag.stop();
        output.note("ending after this epoch …");
    });
    Ok(stop)
}

/// What a run does beside running.
#[derive(Debug, Clone, Copy)]
pub(crate) struct How {
    /// Answers views over HTTP.
    pub(crate) serve: bool,
    /// Computes anew first what another query computed.
    pub(crate) rebuild: bool,
}

/// Runs a pipeline by its trigger, or another one.
pub(crate) async fn live(
    workspace: &Workspace,
    pipeline: &Pipeline,
    options: RunOptions,
    how: How,
    output: &Output,
) -> Outcome {
    let output = &beside_rows(workspace, pipeline, output)?;
    if options.trigger.is_none() && Intervals::of(workspace, pipeline)?.is_some() {
        return Box::pin(backfill::due(workspace, pipeline, None, output)).await;
    }
    if engine::replaces_intervals(workspace, pipeline)?
        || pipeline.inserts.is_empty() && pipeline.materialized.is_empty()
    {
        return Err(Failure::Usage(needs_interval(pipeline)));
    }
    let pipeline = pipeline.name.as_str();
    let stop = stop_on_signal(output)?;
    if how.rebuild && !replay::rebuild(workspace, pipeline, &options, &stop, output).await? {
        return Ok(());
    }
    let published = Arc::new(Views::default());
    let live = Live::open(workspace, pipeline, &options, &published, &stop)?;
    if how.serve {
        let views = served_views(workspace, &[pipeline.to_owned()])?;
        let has_views = !views.is_empty();
        let state = ServerState { published, views: Arc::new(views), clock: Arc::clone(&workspace.clock) };
        let server = Server::bind(workspace.catalog.project().config.listen, state).await?;
        output.note(match has_views {
            true => format!("views at http://{}/v1/views", server.address()),
            false => {
                format!("{pipeline} keeps no materialized view, so http://{} has none to answer", server.address())
            }
        });
        tokio::spawn(server.serve(std::future::pending()));
    }
    let progress = Arc::clone(&live.progress);
    let before = progress.snapshot();
    let begun = workspace.clock.now();
    let after = before.epoch;
    output.note(format!(
        "{pipeline}  {}, {}{}    Ctrl-C ends after an epoch",
        live.trigger,
        counted(options.lanes.unwrap_or(workspace.lanes) as u64, "lane"),
        if after.0 > 0 { format!(", resumed after epoch {}", grouped(after.0)) } else { String::new() },
    ));
    for (table, reasons) in &live.lookups.refused() {
        output.note(not_looked_up(table, reasons));
    }
    let lookups = live.lookups.clone();
    let running = tokio::task::spawn_blocking(move || live.run());
    let outcome = watch(running, &progress, pipeline, (workspace, &|| lookups.refused()), output).await;
    let end = progress.snapshot();
    let took = workspace.clock.now().since(begun);
    let ended = outcome?;
    ended.map_err(|e| match end.epoch.0 {
        0 => e.context(format!("pipeline {pipeline}")),
        epoch => e.context(format!("pipeline {pipeline}, after epoch {}", grouped(epoch))),
    })?;
    report(pipeline, &before, &end, &lookups.refused(), took, output);
    Ok(())
}

/// Records by table and reason.
pub(super) type Refused = BTreeMap<String, BTreeMap<String, u64>>;

fn not_looked_up(table: &str, reasons: &BTreeMap<String, u64>) -> String {
    let reasons: Vec<String> = reasons.iter().map(|(reason, n)| format!("{reason} {}", grouped(*n))).collect();
    format!("! {table}: records that could not be used are not looked up in: {}", reasons.join(", "))
}

fn needs_interval(pipeline: &Pipeline) -> Error {
    let name = &pipeline.name;
    Error::new(Kind::Config, "C055", format!("`{name}` runs one interval of event time at a time"))
        .fact(format!("name it: tidemill run {name} --interval 2026-01-01/1d, or any START/PERIOD or START/END"))
        .fact("or give it intervals of its own: trigger = '@hourly', or grid = '1 hour'")
}

/// Where the report of a run goes: beside the rows, when a table of the pipeline is the standard output.
fn beside_rows(workspace: &Workspace, pipeline: &Pipeline, output: &Output) -> Result<Output> {
    for insert in &pipeline.inserts {
        let connector = workspace.catalog.connector_of(&insert.target, Side::Live).map_err(|e| e.at(&insert.place))?;
        if connector == "stdout" {
            return Ok(output.beside_rows());
        }
    }
    Ok(output.clone())
}

/// Shows a run while it goes on.
pub(super) async fn watch<T>(
    mut running: tokio::task::JoinHandle<Result<T>>,
    progress: &Arc<Progress>,
    pipeline: &str,
    (workspace, refused): (&Workspace, &dyn Fn() -> Refused),
    output: &Output,
) -> Result<Result<T>> {
    let spinner = output.spinner();
    let mut last: Option<(Timestamp, u64)> = None;
    let mut speed = 0.0;
    let mut reported = workspace.clock.now();
    let mut tables = WatchedTables::default();
    loop {
        let waited = tokio::time::timeout(Duration::from_millis(250), &mut running).await;
        let now = workspace.clock.now();
        let shown = progress.snapshot();
        if let Some((at, rows)) = last {
            let seconds = now.since(at).as_secs_f64().max(1e-3);
            let fresh = shown.rows_read.saturating_sub(rows) as f64 / seconds;
            speed = if speed == 0.0 { fresh } else { 0.7 * speed + 0.3 * fresh };
        }
        last = Some((now, shown.rows_read));
        let news = tables.news(&shown.tables);
        let read_again = !news.is_empty();
        news.into_iter().for_each(|news| output.note(news));
        if read_again {
            refused().iter().for_each(|(table, reasons)| output.note(not_looked_up(table, reasons)));
        }
        spinner.set_message(line(&shown, speed, now));
        if output.reports_every().is_some_and(|every| now.since(reported) >= every) {
            reported = now;
            output.note(format!(
                "{} {pipeline} epoch={} rows_s={speed:.0} rows={} dead={} late={}",
                instant(now),
                shown.epoch,
                shown.rows_read,
                shown.counters.rows_dead(),
                shown.counters.rows_late,
            ));
        }
        if let Ok(ended) = waited {
            spinner.finish_and_clear();
            return ended.map_err(|e| Error::internal("the run did not end by itself").because(e));
        }
    }
}

fn line(shown: &Snapshot, speed: f64, now: Timestamp) -> String {
    let committed = shown.committed_at.map_or_else(|| "-".to_owned(), |at| duration(now.since(at)));
    let complete = shown.sources.iter().filter_map(|source| source.watermark).min();
    format!(
        "epoch {}, {committed} ago   {} rows/s   complete to {}   dead {}   late {}",
        grouped(shown.epoch.0),
        rate(speed),
        complete.map_or_else(|| "-".to_owned(), |w| w.instant().map_or_else(|| w.to_string(), instant)),
        grouped(shown.counters.rows_dead()),
        grouped(shown.counters.rows_late),
    )
}

fn report(pipeline: &str, before: &Snapshot, end: &Snapshot, refused: &Refused, took: Duration, output: &Output) {
    let (was, is) = (&before.counters, &end.counters);
    let rows = is.rows_read - was.rows_read;
    let written = is.rows_written - was.rows_written;
    let dead = is.rows_dead() - was.rows_dead();
    let late = is.rows_late - was.rows_late;
    if output.is_human() {
        output.line(format!(
            "= {} in {}: {} rows read, {} written, {} dead, {} late. Continues from epoch {}.",
            counted(end.epochs, "epoch"),
            duration(took),
            grouped(rows),
            grouped(written),
            grouped(dead),
            grouped(late),
            grouped(end.epoch.0),
        ));
        if dead > 0 {
            output.note(format!("Next: tidemill dead-letters {pipeline}"));
        }
        return;
    }
    let millis = |share: f64| end.latencies.quantile(share).map(|latency| latency.as_secs_f64() * 1e3);
    output.value(&json!({
        "pipeline": pipeline,
        "epoch": end.epoch.0,
        "epochs": end.epochs,
        "seconds": took.as_secs_f64(),
        "rows_read": rows,
        "rows_written": written,
        "dead": dead,
        "late": late,
        "refused_in_lookups": refused,
        "latency_ms": {"p50": millis(0.5), "p99": millis(0.99)},
    }));
}

/// Runs one interval.
pub(crate) async fn interval(
    workspace: &Workspace,
    pipeline: &Pipeline,
    (interval, from_what_is_left): (Interval, bool),
    output: &Output,
) -> Result<()> {
    let output = &beside_rows(workspace, pipeline, output)?;
    let pipeline = pipeline.name.as_str();
    let stop = stop_on_signal(output)?;
    let begun = workspace.clock.now();
    let spinner = output.spinner();
    let mut ticking = None;
    let watching = |progress: &Arc<tidemill_sql::batch::BatchProgress>| {
        let (progress, spinner) = (Arc::clone(progress), spinner.clone());
        ticking = Some(tokio::spawn(async move {
            loop {
                let (read, wrote) = (grouped(progress.rows_read()), grouped(progress.rows_written()));
                spinner.set_message(format!("{read} rows read, {wrote} written"));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }));
    };
    let asked = Asked { from_what_is_left, ..Asked::of(interval) };
    let outcome = engine::as_asked(workspace, pipeline, asked, &stop, watching).await;
    if let Some(ticking) = ticking {
        ticking.abort();
    }
    spinner.finish_and_clear();
    let report = outcome.map_err(|e| {
        let context = format!("pipeline {pipeline}, interval {interval}");
        if e.kind() == Kind::Plan { e } else { e.context(context).fact("nothing of this interval was published") }
    })?;
    let took = workspace.clock.now().since(begun);
    if !output.is_human() {
        let mut value =
            serde_json::to_value(&report).map_err(|e| Error::internal("the report cannot be written").because(e))?;
        value["interval"] = json!({"start": interval.start.to_string(), "end": interval.end.to_string()});
        for (target, report) in value["targets"].as_array_mut().into_iter().flatten().zip(&report.targets) {
            target["read_from"] = json!(report.read_from.map(|at| at.to_string()));
        }
        value["seconds"] = json!(took.as_secs_f64());
        output.value(&value);
        return Ok(());
    }
    for target in &report.targets {
        output.line(format!(
            "= {} - {}  done   {}   {} rows to {}   generation {}",
            instant(interval.start),
            instant(interval.end),
            duration(took),
            grouped(target.rows),
            target.name,
            report.generation,
        ));
        if let Some(why) = &target.whole_because {
            output.note(format!("  {} holds the result over all rows before the interval's end, of which write = 'upsert' keeps keys that are gone: {why}", target.name));
        }
    }
    if report.counters.rows_dead() > 0 {
        output.note(format!("{} dead letters. Next: tidemill dead-letters {pipeline}", report.counters.rows_dead()));
    }
    for view in &report.views_left_out {
        output.note(format!("  {view} is kept by the live trigger and was not touched"));
    }
    Ok(())
}
