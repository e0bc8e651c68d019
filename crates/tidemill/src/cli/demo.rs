//! `tidemill demo`: the orders story. It writes the example project to a folder, runs its pipelines as anyone would,
//! and compares what the three modes have with what the generator's model says.
//!
//! **Invariant:** nothing here computes a result of the story; every figure is asked of the project by SQL.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::{Decimal128Type, Int64Type};
use tidemill_connect::generator::{OrdersModel, Truth};
use tidemill_model::{Error, Interval, Kind, Result};
use tidemill_runtime::exec::{Progress, StopFlag, Views};
use tidemill_serve::{Server, ServerState};
use tidemill_sql::{Side, batch};
use tokio::task::JoinHandle;

use super::numbers::grouped;
use super::output::Output;
use super::story::{Mode, Story, Total};
use super::{init, rows, run};
use crate::engine::{self, Live, RunOptions};
use crate::workspace::served_views;
use crate::{SystemClock, Workspace, variable};

/// Says that a folder was made by the demo and may be emptied by it.
const MARK: &str = ".tidemill-demo";
/// How many orders the example makes.
const ROWS: &str = "rows = '1000000'";
/// The interval that the report is about: the whole first day of the generator.
const DAY: &str = "2026-01-01/2026-01-02";

pub(crate) async fn demo(stay: bool, rows: Option<u64>, folder: Option<&Path>, output: &Output) -> Result<ExitCode> {
    let folder = folder.map_or_else(|| std::env::temp_dir().join("tidemill-demo"), Path::to_path_buf);
    let stop = run::stop_on_signal(output)?;
    write_project(&folder, rows)?;
    let workspace = Workspace::open(&folder, Arc::new(SystemClock), &variable)?;
    output.note("The orders story: one definition, three modes, one answer.");

    let published = Arc::new(Views::default());
    let server = serve(&workspace, &published).await?;
    let address = server.address();
    let serving = tokio::spawn(server.serve(std::future::pending()));

    let story = Box::pin(play(&workspace, &published, &stop, output)).await?;
    let Some(story) = story else {
        output.note("the demo was ended before its end; nothing was compared");
        return Ok(ExitCode::FAILURE);
    };
    story.tell(Some(address), stay, output);
    if stay {
        while !stop.is_set() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    serving.abort();
    Ok(if story.agrees() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Writes the example anew; a folder that the demo did not make is left alone.
fn write_project(folder: &PathBuf, rows: Option<u64>) -> Result<()> {
    let has_files = std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    if has_files {
        if !folder.join(MARK).exists() {
            return Err(Error::new(Kind::Config, "C053", format!("{} is not empty", folder.display()))
                .fact("the demo empties only a folder that it made itself; name another: --folder"));
        }
        std::fs::remove_dir_all(folder).map_err(|e| Error::io("empty", folder.display(), e))?;
    }
    let mark = folder.join(MARK);
    std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder.display(), e))?;
    std::fs::write(&mark, "").map_err(|e| Error::io("write", mark.display(), e))?;
    init::write(folder, init::find("orders")?)?;
    if let Some(rows) = rows {
        let file = folder.join("pipelines/ingest.sql");
        let text = std::fs::read_to_string(&file).map_err(|e| Error::io("read", file.display(), e))?;
        if !text.contains(ROWS) {
            return Err(Error::internal("the example no longer says how many rows it makes"));
        }
        let text = text.replace(ROWS, &format!("rows = '{rows}'"));
        std::fs::write(&file, text).map_err(|e| Error::io("write", file.display(), e))?;
    }
    Ok(())
}

/// The server at the project's address, or at a free port when that is taken.
async fn serve(workspace: &Workspace, published: &Arc<Views>) -> Result<Server> {
    let project = workspace.catalog.project();
    let pipelines: Vec<String> = vec!["revenue".to_owned()];
    let state = ServerState {
        published: Arc::clone(published),
        views: Arc::new(served_views(workspace, &pipelines)?),
        clock: Arc::clone(&workspace.clock),
    };
    let mut address = project.config.listen;
    match Server::bind(address, state.clone()).await {
        Ok(server) => Ok(server),
        Err(_) => {
            address.set_port(0);
            Server::bind(address, state).await
        }
    }
}

/// A pipeline that runs in the background.
struct Running {
    name: &'static str,
    progress: Arc<Progress>,
    stop: StopFlag,
    task: JoinHandle<Result<()>>,
}

fn start(workspace: &Workspace, name: &'static str, published: &Arc<Views>) -> Result<Running> {
    let stop = StopFlag::default();
    let live = Live::open(workspace, name, &RunOptions::default(), published, &stop)?;
    let progress = Arc::clone(&live.progress);
    let task = tokio::task::spawn_blocking(move || live.run());
    Ok(Running { name, progress, stop, task })
}

impl Running {
    fn rows_read(&self) -> u64 {
        self.progress.snapshot().counters.rows_read
    }

    /// Waits until the committed epochs hold this many rows. `false`: the demo was ended.
    async fn has_read(&mut self, wanted: u64, stop: &StopFlag, mut watch: impl FnMut()) -> Result<bool> {
        while self.rows_read() < wanted {
            watch();
            if stop.is_set() {
                return Ok(false);
            }
            if self.task.is_finished() {
                self.outcome().await?;
                let read = self.rows_read();
                if read < wanted {
                    let message = format!("{} ended after {read} of {wanted} rows", self.name);
                    return Err(Error::internal(message));
                }
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(true)
    }

    async fn outcome(&mut self) -> Result<()> {
        let outcome = (&mut self.task).await.map_err(|e| Error::internal("a run did not end by itself").because(e))?;
        outcome.map_err(|e| e.context(format!("pipeline {}", self.name)))
    }

    async fn end(mut self) -> Result<()> {
        self.stop.stop();
        if self.task.is_finished() { Ok(()) } else { self.outcome().await }
    }
}

/// Runs the three modes; `None` when the demo was ended early.
async fn play(
    workspace: &Workspace,
    published: &Arc<Views>,
    stop: &StopFlag,
    output: &Output,
) -> Result<Option<Story>> {
    let settings = workspace.catalog.settings("order_events", Side::Live)?;
    let model = OrdersModel::of(settings)?;
    let records = settings.integer("rows").unwrap_or(0);
    let truth = tokio::task::spawn_blocking(move || Truth::of(&model, records));

    let begun = workspace.clock.now();
    // Readers first: what arrives is then seen as it arrives.
    let mut revenue = start(workspace, "revenue", published)?;
    let mut lake = start(workspace, "lake", published)?;
    let mut ingest = start(workspace, "ingest", published)?;
    let bar = output.bar("orders", records);
    let mut told = begun;
    if !ingest
        .has_read(records, stop, || {
            let rows = revenue.rows_read();
            bar.set_position(rows);
            let now = workspace.clock.now();
            if output.reports_every().is_some_and(|every| now.since(told) >= every) {
                told = now;
                output.note(format!("  orders  {} of {}", grouped(rows), grouped(records)));
            }
        })
        .await?
    {
        return Ok(None);
    }
    let sent = ingest.progress.snapshot().counters.rows_written;
    ingest.end().await?;
    if !revenue.has_read(sent, stop, || {}).await? {
        return Ok(None);
    }
    let took = workspace.clock.now().since(begun);
    bar.set_position(records);
    let latencies = revenue.progress.snapshot().latencies;
    revenue.end().await?;
    let cleaned = workspace.checkpoints("revenue").latest()?.map_or(0, |manifest| manifest.counters.rows_written);
    if !lake.has_read(cleaned, stop, || {}).await? {
        return Ok(None);
    }
    lake.end().await?;
    bar.finish_and_clear();
    engine::interval(workspace, "report", Interval::parse(DAY)?, stop, |_| {}).await?;

    let truth = truth.await.map_err(|e| Error::internal("the truth was not computed").because(e))?;
    let valid = truth.total(|class| !class.null_id);
    let (dead, dead_truth) = (dead_letters(workspace)?, truth.records - valid.rows);
    Ok(Some(Story {
        truth: Total { rows: valid.rows, cents: valid.rounded },
        records,
        modes: modes(workspace).await?,
        dead,
        dead_truth,
        latencies,
        took,
        folder: workspace.catalog.project().root.clone(),
        sample: sample(workspace).await?,
    }))
}

async fn modes(workspace: &Workspace) -> Result<Vec<Mode>> {
    let trigger = |name: &str| workspace.catalog.project().pipeline(name).map(|p| p.trigger.to_string());
    let view = "SELECT sum(orders), sum(revenue) FROM revenue_per_minute";
    let table = "SELECT count(*), sum(amount) FROM orders";
    let report = "SELECT sum(orders), sum(revenue) FROM sales";
    Ok(vec![
        Mode {
            name: "continuous",
            trigger: trigger("revenue")?,
            target: "view revenue_per_minute",
            total: total(workspace, view).await?,
        },
        Mode {
            name: "micro-batch",
            trigger: trigger("lake")?,
            target: "table orders (delta)",
            total: total(workspace, table).await?,
        },
        Mode {
            name: "interval",
            trigger: "one run".to_owned(),
            target: "table sales (parquet)",
            total: total(workspace, report).await?,
        },
    ])
}

/// A count and a sum of money with two decimals.
async fn total(workspace: &Workspace, sql: &str) -> Result<Total> {
    let sql = format!("SELECT CAST(n AS BIGINT), CAST(s AS DECIMAL(38, 2)) FROM ({sql}) AS t(n, s)");
    let (views, resources) = (workspace.stored(), workspace.resources());
    let answer = batch::query(&workspace.catalog, &views, &sql, &resources, StopFlag::default()).await?;
    let row = answer.batches.iter().find(|batch| batch.num_rows() > 0);
    let found = row.and_then(|batch| {
        let rows = batch.column(0).as_primitive_opt::<Int64Type>()?.value(0);
        let cents = batch.column(1).as_primitive_opt::<Decimal128Type>()?.value(0);
        Some(Total { rows: u64::try_from(rows).unwrap_or(0), cents })
    });
    Ok(found.unwrap_or_default())
}

/// The largest groups of the report, as a table.
async fn sample(workspace: &Workspace) -> Result<String> {
    let sql = "SELECT region, category, tier, revenue_usd, orders, customers, round(mean_usd, 2) AS mean_usd, \
               round(p95_usd, 2) AS p95_usd FROM sales ORDER BY revenue_usd DESC LIMIT 3";
    let (views, resources) = (workspace.stored(), workspace.resources());
    let answer = batch::query(&workspace.catalog, &views, sql, &resources, StopFlag::default()).await?;
    Ok(rows::grid(&answer.schema, &answer.batches)?.text(None).0)
}

/// Dead letters of the pipelines that read the orders first, by reason.
fn dead_letters(workspace: &Workspace) -> Result<BTreeMap<String, u64>> {
    let mut reasons = BTreeMap::new();
    for pipeline in ["ingest", "revenue"] {
        let Some(manifest) = workspace.checkpoints(pipeline).latest()? else { continue };
        for (reason, rows) in manifest.counters.dead_letters.values().flatten() {
            *reasons.entry(reason.clone()).or_default() += rows;
        }
    }
    Ok(reasons)
}
