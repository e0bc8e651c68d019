//! [`verify`]: what a pipeline serves and has written, beside the same computed anew.
//!
//! **Invariant:** it is refused unless the newest epoch has read all that its sources have and nobody runs the pipeline
//! meanwhile, so that a difference is one of results and never one of time.

use std::collections::BTreeMap;

use tidemill_checkpoint::{Checkpoints, Manifest, Recovery, recover};
use tidemill_model::{Epoch, Error, Kind, Result};
use tidemill_runtime::NodeKind;
use tidemill_runtime::exec::{StopFlag, Unread, unread};
use tidemill_sql::batch::{self, Verified, Verifying};
use tidemill_sql::language::Pipeline;

use crate::{Workspace, engine};

/// What came of the verification of a pipeline.
#[derive(Debug, Clone)]
pub struct Verification {
    /// The epoch that was verified.
    pub epoch: Epoch,
    /// How many rows the stream left out as late; the recomputation has them.
    pub late: u64,
    /// The same by step, as far as it is on record.
    pub late_by_step: BTreeMap<String, u64>,
    /// Each view and table.
    pub targets: Vec<Verified>,
}

impl Verification {
    /// How many rows differ in all targets.
    #[must_use]
    pub fn differences(&self) -> u64 {
        self.targets.iter().filter_map(|target| target.outcome.as_ref().ok()).map(|o| o.differences.total()).sum()
    }

    /// How many rows came late on their way to a target; all of them, where the steps are not on record.
    #[must_use]
    pub fn late_of(&self, target: &str) -> u64 {
        let of_target = |step: &str| step.strip_prefix(target).is_some_and(|rest| rest.starts_with('.'));
        let known: u64 = self.late_by_step.values().sum();
        if known < self.late {
            return self.late;
        }
        self.late_by_step.iter().filter(|(step, _)| of_target(step)).map(|(_, rows)| rows).sum()
    }

    /// How many targets were compared.
    #[must_use]
    pub fn compared(&self) -> usize {
        self.targets.iter().filter(|target| target.outcome.is_ok()).count()
    }
}

/// Computes anew what the pipeline serves and has written, and compares.
///
/// # Errors
/// Config: it has never run, or has not read everything. Fenced: it runs now. Plan: its query was changed. Unavailable:
/// it ran meanwhile. Whatever sources, targets and the store answer.
pub async fn verify(workspace: &Workspace, pipeline: &str, stop: &StopFlag) -> Result<Verification> {
    let pipeline = workspace.catalog.project().pipeline(pipeline)?;
    let checkpoints = workspace.checkpoints(&pipeline.name);
    let manifest = ready(workspace, pipeline, &checkpoints)?;
    let views = workspace.stored();
    let verifying = Verifying {
        catalog: &workspace.catalog,
        pipeline,
        manifest: &manifest,
        views: &views,
        resources: workspace.resources(),
        stop: stop.clone(),
    };
    let targets = Box::pin(batch::verify(&verifying)).await?;
    // Rows that came meanwhile were in the recomputation, perhaps, and rows of another epoch on the other side.
    if ready(workspace, pipeline, &checkpoints)?.epoch != manifest.epoch {
        return Err(batch::moved_on(&pipeline.name));
    }
    let Manifest { epoch, counters, .. } = manifest;
    Ok(Verification { epoch, late: counters.rows_late, late_by_step: counters.late_by_step, targets })
}

/// The newest epoch, if it can be verified now.
fn ready(workspace: &Workspace, pipeline: &Pipeline, checkpoints: &Checkpoints) -> Result<Manifest> {
    let name = &pipeline.name;
    let by_interval = engine::is_by_interval(workspace, pipeline)?;
    let run = match by_interval {
        true => format!("tidemill run {name} --interval START/PERIOD"),
        false => format!("tidemill run {name} --trigger once"),
    };
    let Some(manifest) = checkpoints.latest()? else {
        return Err(Error::new(Kind::Config, "C056", format!("`{name}` has never run, so there is nothing to verify"))
            .fact(format!("run it first: {run}")));
    };
    if workspace.is_running(name) {
        return Err(Error::new(Kind::Fenced, "F050", format!("`{name}` runs now, so what it has read changes"))
            .fact(format!("stop it first; where it stopped does not matter: {run} reads what is left")));
    }
    if !pipeline.inserts.is_empty() && !checkpoints.is_published(&manifest)? {
        let message = format!("epoch {} of `{name}` is on record and not yet published to its tables", manifest.epoch);
        return Err(Error::new(Kind::Config, "C057", message).fact(format!("the next run does it: {run}")));
    }
    let streamed = manifest.sources.values().any(|source| !source.splits.is_empty());
    if !by_interval && streamed {
        has_read_everything(workspace, name, &manifest, &run)?;
    }
    Ok(manifest)
}

fn has_read_everything(workspace: &Workspace, pipeline: &str, manifest: &Manifest, run: &str) -> Result<()> {
    let planned = engine::plan(workspace, pipeline)?;
    if let Recovery::Changed { epoch, nodes } = recover(Some(manifest.clone()), &planned.fingerprints()) {
        let message = format!("epoch {epoch} of `{pipeline}` was computed by another query");
        return Err(Error::new(Kind::Plan, "P191", message)
            .fact(format!(
                "these steps differ: {}",
                nodes.iter().map(|(node, _)| node.as_str()).collect::<Vec<_>>().join(", ")
            ))
            .fact(format!(
                "tidemill plan {pipeline} says what to do; what the old query wrote cannot be computed by the new one"
            )));
    }
    for node in &planned.graph.nodes {
        let NodeKind::Source(source) = &node.kind else { continue };
        let dataset = &source.dataset;
        match unread(source, manifest.sources.get(&node.name))? {
            None => {}
            Some(Unread::Rows(split)) => {
                let message = format!("`{pipeline}` has not read all of `{dataset}` yet");
                return Err(Error::new(Kind::Config, "C058", message)
                    .fact(format!("there are rows in {split} that epoch {} has not", manifest.epoch))
                    .fact(format!("read them first: {run}")));
            }
            Some(Unread::After(split)) => {
                let message = format!("`{dataset}` has more now than when `{pipeline}` first listed it");
                return Err(Error::new(Kind::Config, "C059", message)
                    .fact(format!("{split} came later, and with bounded = 'true' the stream never reads it"))
                    .fact("take it away, or leave out bounded = 'true' and run the pipeline again"));
            }
        }
    }
    Ok(())
}
