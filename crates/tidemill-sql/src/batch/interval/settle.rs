//! What a run that died has left half published is published first.
//!
//! **Invariant:** a manifest is published to all of its targets before another one is created.

use tidemill_checkpoint::{Checkpoints, Manifest};
use tidemill_model::Result;
use tidemill_runtime::exec::orphaned;

use super::super::engine::{Engine, Resources};
use super::super::sinks::{Target, prepared};
use super::steps::output;
use crate::catalog::Catalog;
use crate::language::Pipeline;

/// Finishes the publication of an interval's run that died after it was recorded. Whoever runs the pipeline in
/// another way calls it first; it does nothing when there is nothing to finish.
///
/// # Errors
/// Whatever the sinks answer.
pub fn finish_interval(catalog: &Catalog, pipeline: &str, checkpoints: &Checkpoints) -> Result<()> {
    let pipeline = catalog.project().pipeline(pipeline)?;
    let Some(latest) = checkpoints.latest()? else { return Ok(()) };
    if prepared(&latest).iter().all(|(_, interval, _)| interval.is_none()) {
        return Ok(());
    }
    // Only to plan: nothing is computed, so nothing spills.
    let resources = Resources { partitions: 1, memory: 0, spill: catalog.environment().state.join("spill") };
    let engine = Engine::new(&resources, catalog.environment().clock.now(), catalog.functions())?;
    recommit(catalog, &engine, pipeline, &latest, checkpoints)
}

/// Commits the newest manifest to its targets, unless all of them are known to have it.
pub(super) fn recommit(
    catalog: &Catalog,
    engine: &Engine,
    pipeline: &Pipeline,
    latest: &Manifest,
    checkpoints: &Checkpoints,
) -> Result<()> {
    if checkpoints.is_published(latest)? {
        return Ok(());
    }
    for (name, interval, committables) in prepared(latest) {
        let Some(insert) = pipeline.inserts.iter().find(|insert| insert.target == name) else {
            if committables.is_empty() {
                continue;
            }
            return Err(orphaned(&pipeline.name, latest.epoch, &name));
        };
        let (plan, _) = output(catalog, engine, insert)?;
        Target::open(catalog, &pipeline.name, insert, &plan, interval)?.commit(latest.epoch, &committables)?;
    }
    checkpoints.mark_published(latest)
}
