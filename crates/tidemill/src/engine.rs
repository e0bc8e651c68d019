//! [`Live`]: one pipeline made ready for the stream executor, from its plan to its lock.
//!
//! **Invariant:** a pipeline runs under its lock, and whatever an earlier run left half published is published first.

use std::sync::Arc;

use tidemill_checkpoint::StateLock;
use tidemill_model::{Error, Kind, Result, Trigger};
use tidemill_runtime::exec::{Dataflow, Job, Limits, Progress, StopFlag, ViewNode, Views, run};
use tidemill_runtime::{Background, Threads, WriteMode};
use tidemill_sql::Side;
use tidemill_sql::batch::{Asked, BatchProgress, IntervalReport, Lookups, RunContext, finish_interval, run_interval};
use tidemill_sql::language::Pipeline;
use tidemill_sql::stream::{StreamPlan, plan_stream};

use crate::Workspace;
use crate::programs::Shell;

/// How a run differs from what the project says.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Another trigger.
    pub trigger: Option<Trigger>,
    /// Another number of lanes.
    pub lanes: Option<usize>,
    /// Bounds of memory, and how often new splits are looked for.
    pub limits: Limits,
    /// Reads tables that rows are looked up in again while the pipeline runs.
    pub background: Arc<dyn Background>,
}

impl Default for RunOptions {
    fn default() -> RunOptions {
        RunOptions { trigger: None, lanes: None, limits: Limits::default(), background: Arc::new(Threads) }
    }
}

/// One pipeline, ready to run.
pub struct Live {
    dataflow: Dataflow,
    /// The tables that it looks up in.
    pub lookups: Lookups,
    /// What it shows to those who watch.
    pub progress: Arc<Progress>,
    /// Ends it after the epoch in hand.
    pub stop: StopFlag,
    /// When it works.
    pub trigger: Trigger,
    lock: StateLock,
}

impl Live {
    /// Plans the pipeline, takes its lock, and recovers.
    ///
    /// # Errors
    /// Plan, at its place; Fenced, when it runs elsewhere; whatever its sources, sinks and store answer.
    pub fn open(
        workspace: &Workspace,
        pipeline: &str,
        options: &RunOptions,
        published: &Arc<Views>,
        stop: &StopFlag,
    ) -> Result<Live> {
        let lookups = Lookups::new(&workspace.catalog, Side::Live);
        let plan = plan_with(workspace, pipeline, &lookups)?;
        let lock = workspace.lock(pipeline)?;
        finish_interval(&workspace.catalog, pipeline, &workspace.checkpoints(pipeline))?;
        refuse_doubling(workspace, pipeline, &plan)?;
        let progress = Arc::new(Progress::default());
        let job = job(workspace, pipeline, plan, options, published, &progress)?;
        let trigger = job.trigger.clone();
        let dataflow = Dataflow::new(job)?;
        Ok(Live { dataflow, progress, lookups, stop: stop.clone(), trigger, lock })
    }

    /// Runs on this thread until its trigger, its sources or its stop flag end it.
    ///
    /// # Errors
    /// The first error of any part; what was not committed is read again by the next run.
    pub fn run(self) -> Result<()> {
        run(self.dataflow, &self.stop)
    }

    /// The dataflow itself, for who steps it in another way than [`Live::run`] does. It may run while the lock is held.
    #[must_use]
    pub fn into_dataflow(self) -> (Dataflow, StateLock) {
        (self.dataflow, self.lock)
    }
}

/// The stream executor's job of a plan.
pub(crate) fn job(
    workspace: &Workspace,
    pipeline: &str,
    plan: StreamPlan,
    options: &RunOptions,
    published: &Arc<Views>,
    progress: &Arc<Progress>,
) -> Result<Job> {
    let declared = workspace.catalog.project().pipeline(pipeline)?;
    Ok(Job {
        pipeline: pipeline.to_owned(),
        views: view_nodes(&plan),
        fingerprint: plan.fingerprint.clone(),
        graph: plan.graph,
        trigger: options.trigger.clone().unwrap_or_else(|| declared.trigger.clone()),
        checkpoint: declared.checkpoint,
        lanes: options.lanes.unwrap_or(workspace.lanes).max(1),
        checkpoints: workspace.checkpoints(pipeline),
        clock: Arc::clone(&workspace.clock),
        published: Arc::clone(published),
        progress: Arc::clone(progress),
        background: Arc::clone(&options.background),
        limits: options.limits,
        memory: workspace.state_memory(pipeline, options.limits.state_bytes)?,
        errors: declared.max_errors,
        anew: None,
        letters: None,
    })
}

/// Whether a pipeline is run by interval: it has a schedule and tables, or programs, or one of its tables is replaced
/// by runs.
///
/// # Errors
/// Plan, when a table that it writes is not declared.
pub(crate) fn is_by_interval(workspace: &Workspace, pipeline: &Pipeline) -> Result<bool> {
    let scheduled = pipeline.scheduling.grid.is_some() || matches!(pipeline.trigger, Trigger::On(_));
    let has = !pipeline.tasks.is_empty() || (scheduled && !pipeline.inserts.is_empty());
    Ok(has || replaces_intervals(workspace, pipeline)?)
}

/// Whether one of the tables of a pipeline is replaced, in part or as a whole, which only runs of intervals can.
///
/// # Errors
/// Plan, when a table that it writes is not declared.
pub(crate) fn replaces_intervals(workspace: &Workspace, pipeline: &Pipeline) -> Result<bool> {
    for insert in &pipeline.inserts {
        let settings = workspace.catalog.settings(&insert.target, Side::Live).map_err(|e| e.at(&insert.place))?;
        if matches!(settings.text("write"), Some("replace" | "overwrite")) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Plans a pipeline for the stream executor; opens its sources and sinks and reads nothing.
///
/// # Errors
/// Plan, at its place; Config, when a source or sink cannot be opened.
pub(crate) fn plan(workspace: &Workspace, pipeline: &str) -> Result<StreamPlan> {
    plan_with(workspace, pipeline, &Lookups::new(&workspace.catalog, Side::Live))
}

fn plan_with(workspace: &Workspace, pipeline: &str, lookups: &Lookups) -> Result<StreamPlan> {
    plan_stream(&workspace.catalog, pipeline, Side::Live, &lookups.opener())
}

/// A live run reads from the beginning what intervals have covered, so a table that only adds rows would have them
/// twice; once live rows are on record, the interval run is what is refused.
fn refuse_doubling(workspace: &Workspace, pipeline: &str, plan: &StreamPlan) -> Result<()> {
    let Some(latest) = workspace.checkpoints(pipeline).latest()? else { return Ok(()) };
    let has_streamed = latest.sources.values().any(|source| !source.splits.is_empty());
    let adding = plan.sinks.iter().find(|sink| sink.mode == WriteMode::Append);
    let (false, Some(sink), Some(done)) = (has_streamed, adding, latest.ledger.entries().first()) else {
        return Ok(());
    };
    let message = format!("`{}` has rows of interval runs already", sink.name);
    let error = Error::new(Kind::Plan, "P190", message)
        .label("write = 'append' would add them once more")
        .fact(format!("an interval run has written {}, and a live run reads from the beginning", done.interval))
        .fact(format!("go on by intervals: tidemill run {pipeline} --interval START/PERIOD"))
        .fact("or use write = 'upsert' with a PRIMARY KEY, or give the live pipeline a table of its own; nothing was written");
    let inserts = &workspace.catalog.project().pipeline(pipeline)?.inserts;
    let insert = inserts.iter().find(|insert| insert.target == sink.name);
    Err(insert.into_iter().fold(error, |error, insert| error.at(&insert.place)))
}

fn view_nodes(plan: &StreamPlan) -> Vec<ViewNode> {
    plan.views.iter().map(|view| ViewNode { view: view.name.clone(), node: view.node.clone() }).collect()
}

/// Computes and commits what the pipeline owns in one interval, anew if it was done before.
///
/// # Errors
/// As [`run_interval`]; Fenced, when the pipeline runs elsewhere.
pub async fn interval(
    workspace: &Workspace,
    pipeline: &str,
    interval: tidemill_model::Interval,
    stop: &StopFlag,
    watch: impl FnOnce(&Arc<BatchProgress>),
) -> Result<IntervalReport> {
    as_asked(workspace, pipeline, Asked::of(interval), stop, watch).await
}

/// As [`interval`], in the way that it is asked for.
pub(crate) async fn as_asked(
    workspace: &Workspace,
    pipeline: &str,
    asked: Asked,
    stop: &StopFlag,
    watch: impl FnOnce(&Arc<BatchProgress>),
) -> Result<IntervalReport> {
    let _lock = workspace.lock(pipeline)?;
    let resources = workspace.resources();
    let environment = workspace.catalog.environment();
    let context = RunContext {
        clock: Arc::clone(&workspace.clock),
        checkpoints: workspace.checkpoints(pipeline),
        programs: Shell::new(&environment.project, &environment.state),
        lanes: resources.partitions,
        memory: resources.memory,
        spill: resources.spill,
    };
    let asked = Asked { progress: Arc::new(BatchProgress::new(stop.clone())), ..asked };
    watch(&asked.progress);
    run_interval(&workspace.catalog, pipeline, asked, &context).await
}
