//! Results computed anew: [`changes`] says what that would do, [`prepare`] makes it ready, after a changed query or because
//! somebody asked for it.
//!
//! **Invariant:** what `plan`, a dry run and the run itself say comes from one decision.

mod decide;
mod starts;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidemill_checkpoint::{Checkpoints, Fate, Manifest, StateLock, fates};
use tidemill_model::{Epoch, Error, Kind, Place, Result, Timestamp};
use tidemill_runtime::exec::{Anew, Dataflow, Progress, Starts, StopFlag, Views, run};
use tidemill_runtime::{NodeKind, WriteMode};
use tidemill_sql::Side;
use tidemill_sql::batch::{Lookups, finish_interval};
use tidemill_sql::stream::{StreamPlan, plan_stream_from};

use crate::Workspace;
use crate::engine::{self, RunOptions};
use decide::{Facts, Why, Written, decide};

pub use decide::Action;
pub use starts::{parse as starts, read as starts_of_file};

/// What shall be computed anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Whatever was computed by another query.
    Changed,
    /// Results whose query did not change.
    Replay {
        /// These tables and views; none names all that the pipeline writes.
        only: BTreeSet<String>,
        /// Over these rows.
        from: Beginning,
        /// Whether results may then be of those rows alone.
        whole: bool,
    },
}

/// Which rows results are computed from anew, up to the offsets on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beginning {
    /// All.
    Earliest,
    /// Those whose event time is not before this instant.
    Time(Timestamp),
    /// Those after these offsets, and all of the splits that are not named.
    Offsets(Starts),
}

/// What becomes of what a pipeline has on record.
#[derive(Debug)]
pub struct Changes {
    /// The newest manifest.
    pub record: Manifest,
    /// Each stateful operator.
    pub operators: Vec<(String, Fate)>,
    /// Each table and view that the pipeline writes.
    pub targets: Vec<(String, Action)>,
    /// Whether some operator cannot go on with its state on record.
    pub differs: bool,
}

impl Changes {
    /// The tables and views that are computed anew.
    #[must_use]
    pub fn anew(&self) -> BTreeSet<String> {
        let anew = self.targets.iter().filter(|(_, action)| matches!(action, Action::Anew(_)));
        anew.map(|(name, _)| name.clone()).collect()
    }
}

/// Compares a plan with what is on record; `None` when nothing is. Changes nothing.
///
/// # Errors
/// Config, when a replay names what the pipeline does not write; what the store and the sinks answer.
pub fn changes(workspace: &Workspace, pipeline: &str, plan: &StreamPlan, request: &Request) -> Result<Option<Changes>> {
    let Some(record) = workspace.checkpoints(pipeline).latest()? else { return Ok(None) };
    let operators = fates(&record, &plan.graph.fingerprints());
    let names: Vec<&String> =
        plan.sinks.iter().map(|sink| &sink.name).chain(plan.views.iter().map(|v| &v.name)).collect();
    if let Request::Replay { only, .. } = request
        && let Some(unknown) = only.iter().find(|name| !names.contains(name))
    {
        let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
        return Err(Error::new(Kind::Config, "C056", format!("`{pipeline}` writes no `{unknown}`"))
            .fact(format!("it writes: {}", names.join(", "))));
    }
    if let Request::Replay { from: Beginning::Offsets(starts), .. } = request {
        starts::check(starts, &record)?;
    }
    let mut targets = Vec::with_capacity(names.len());
    for name in names {
        let why = match request {
            Request::Changed => Why::Changed,
            Request::Replay { only, .. } if !only.is_empty() && !only.contains(name) => Why::NotAsked,
            Request::Replay { from: Beginning::Earliest, .. } => Why::Asked,
            Request::Replay { whole, .. } => Why::AskedFrom { whole: *whole },
        };
        let facts = facts(plan, (&record, &operators), name, why)?;
        targets.push((name.clone(), decide(facts, why)));
    }
    let mut changes = Changes { record, operators, targets, differs: false };
    // An operator goes the way of what it leads to.
    let computed = plan.graph.leading_to(&changes.anew());
    // A replay may fill a result that is new; that of another query it must not mix with what stands.
    let fits = |(name, fate): &(String, Fate)| match (fate, request) {
        (Fate::Keep, _) => true,
        (Fate::New, Request::Replay { .. }) => computed.nodes.iter().any(|node| node.name == *name),
        _ => false,
    };
    changes.differs = !changes.operators.iter().all(fits);
    for (name, fate) in changes.operators.iter_mut().filter(|(_, fate)| *fate == Fate::Keep) {
        if computed.nodes.iter().any(|node| node.name == *name) {
            *fate = Fate::Rebuild;
        }
    }
    Ok(Some(changes))
}

fn facts(
    plan: &StreamPlan,
    (record, operators): (&Manifest, &[(String, Fate)]),
    name: &str,
    why: Why,
) -> Result<Facts> {
    let leading = plan.graph.leading_to(&BTreeSet::from([name.to_owned()]));
    let of = |found: &dyn Fn(Fate) -> bool| {
        let fate = |node: &str| operators.iter().find(|(name, _)| name == node).map(|(_, fate)| *fate);
        leading.nodes.iter().filter_map(|node| fate(&node.name)).any(found)
    };
    let (changed, stateful) = (of(&|fate| fate != Fate::Keep), of(&|_| true));
    let node = plan.graph.nodes.iter().find(|node| node.name == name);
    let Some(NodeKind::Sink(sink)) = node.map(|node| &node.kind) else {
        return Ok(Facts { written: Written::View, changed, stateful, unwritten: false });
    };
    let written = match plan.sinks.iter().find(|sink| sink.name == name).map(|sink| &sink.mode) {
        Some(WriteMode::Upsert { .. }) => Written::Upsert { overwrites: sink.overwrites() },
        Some(WriteMode::Replace { .. } | WriteMode::Overwrite { .. }) => Written::Replace,
        // Changes that were given out cannot be taken back, and nobody knows what of them stands.
        Some(WriteMode::Append | WriteMode::Changelog { .. }) | None => Written::Append,
    };
    // Rows of the newest epoch may not have reached their table yet.
    let on_its_way = record.sinks.get(name).is_some_and(|sink| !sink.committables.is_empty());
    let may_be_filled = changed && why == Why::Changed || matches!(why, Why::Asked | Why::AskedFrom { .. });
    let unwritten = may_be_filled && !on_its_way && sink.is_unwritten()?;
    Ok(Facts { written, changed, stateful, unwritten })
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuilt {
    /// The epoch that switched; `None` when it was stopped before.
    pub epoch: Option<Epoch>,
    /// The tables and views whose results are new.
    pub targets: BTreeSet<String>,
}

/// Plans a request: for a replay from an instant, over the rows from there on.
///
/// # Errors
/// As [`engine::plan`].
pub(crate) fn plan(workspace: &Workspace, pipeline: &str, request: &Request, lookups: &Lookups) -> Result<StreamPlan> {
    let from = match request {
        Request::Replay { from: Beginning::Time(from), .. } => Some(*from),
        Request::Replay { .. } | Request::Changed => None,
    };
    plan_stream_from(&workspace.catalog, pipeline, Side::Live, &lookups.opener(), from)
}

/// A rebuild, ready to be stepped while the lock is held.
pub struct Prepared {
    /// What runs.
    pub dataflow: Dataflow,
    /// The epoch on record.
    pub before: Epoch,
    /// What is computed anew.
    pub targets: BTreeSet<String>,
    /// Held while it runs.
    pub lock: StateLock,
}

impl Prepared {
    /// Runs it on this thread to its switch, or until it is stopped.
    ///
    /// # Errors
    /// The first error of any part. Unless the switch is on record, nothing was changed.
    pub fn run(self, checkpoints: &Checkpoints, stop: &StopFlag) -> Result<Rebuilt> {
        run(self.dataflow, stop)?;
        let epoch = checkpoints.latest()?.map(|manifest| manifest.epoch);
        drop(self.lock);
        Ok(Rebuilt { epoch: epoch.filter(|epoch| *epoch > self.before), targets: self.targets })
    }
}

/// Makes ready what computes results anew over exactly the input on record and switches them in one epoch. `None` when
/// there is nothing on record, or nothing to do.
///
/// # Errors
/// Plan, when it is refused; Fenced, when the pipeline runs elsewhere; whatever sources, sinks and the store answer.
/// Nothing is changed then.
pub fn prepare(
    workspace: &Workspace,
    pipeline: &str,
    request: &Request,
    options: &RunOptions,
    progress: &Arc<Progress>,
) -> Result<Option<Prepared>> {
    let lookups = Lookups::new(&workspace.catalog, Side::Live);
    let plan = plan(workspace, pipeline, request, &lookups)?;
    let lock = workspace.lock(pipeline)?;
    finish_interval(&workspace.catalog, pipeline, &workspace.checkpoints(pipeline))?;
    let Some(changes) = changes(workspace, pipeline, &plan, request)? else { return Ok(None) };
    allow(workspace, pipeline, request, &changes)?;
    if *request == Request::Changed && !changes.differs {
        return Ok(None);
    }
    let targets = changes.anew();
    let mut job = engine::job(workspace, pipeline, plan, options, &Arc::new(Views::default()), progress)?;
    let from = match request {
        Request::Replay { from: Beginning::Offsets(starts), .. } => starts.clone(),
        Request::Replay { .. } | Request::Changed => Starts::new(),
    };
    job.anew = Some(Anew { targets: targets.clone(), from });
    let dataflow = Dataflow::new(job)?;
    Ok(Some(Prepared { dataflow, before: changes.record.epoch, targets, lock }))
}

/// Refuses what cannot be done, all of it together.
fn allow(workspace: &Workspace, pipeline: &str, request: &Request, changes: &Changes) -> Result<()> {
    let mut errors = Vec::new();
    if *request != Request::Changed && changes.differs {
        errors.push(
            Error::new(Kind::Plan, "P192", format!("the query of `{pipeline}` changed, so it cannot be replayed"))
                .fact(format!("compute the new query's result first: tidemill run {pipeline} --rebuild")),
        );
    }
    let places = places(workspace, pipeline)?;
    for (name, action) in &changes.targets {
        if let Action::Refused(why, instead) = action {
            let error = Error::new(Kind::Plan, "P191", format!("the result in `{name}` cannot be computed anew"))
                .label(*why)
                .fact(*instead)
                .fact(match request {
                    Request::Changed => "or put its query back; nothing was changed",
                    Request::Replay { .. } => "or name what shall be replayed with --only; nothing was changed",
                });
            errors.push(places.get(name).into_iter().fold(error, |error, place| error.at(place)));
        }
    }
    Error::all(errors).map_or(Ok(()), Err)
}

/// Where each target of a pipeline is declared.
fn places(workspace: &Workspace, pipeline: &str) -> Result<BTreeMap<String, Place>> {
    let project = workspace.catalog.project();
    let declared = project.pipeline(pipeline)?;
    let inserts = declared.inserts.iter().map(|insert| (insert.target.clone(), insert.place.clone()));
    let views = declared.materialized.iter().filter_map(|name| project.materialized.get(name));
    Ok(inserts.chain(views.map(|view| (view.name.clone(), view.place.clone()))).collect())
}
