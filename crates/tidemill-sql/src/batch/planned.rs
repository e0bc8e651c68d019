//! [`plan_interval`]: what runs of intervals of a pipeline would do, checked without doing it.
//!
//! **Invariant:** planning opens no target and reads no row.

use std::collections::BTreeSet;

use tidemill_model::{Error, Result};

use super::engine::{Engine, Resources};
use super::interval::output;
use crate::catalog::Catalog;

/// An INSERT of a pipeline as runs of intervals have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedTarget {
    /// The dataset written.
    pub target: String,
    /// The datasets read.
    pub reads: BTreeSet<String>,
}

/// Checks the INSERTs of a pipeline as a run of an interval would.
///
/// # Errors
/// Plan, each at its place: what is wrong in one INSERT holds back nothing of the others.
pub fn plan_interval(catalog: &Catalog, pipeline: &str, resources: &Resources) -> Result<Vec<PlannedTarget>> {
    let engine = Engine::new(resources, catalog.environment().clock.now(), catalog.functions())?;
    let (mut planned, mut errors) = (Vec::new(), Vec::new());
    for insert in &catalog.project().pipeline(pipeline)?.inserts {
        match output(catalog, &engine, insert) {
            Ok((_, reads)) => planned.push(PlannedTarget { target: insert.target.clone(), reads }),
            Err(error) => errors.push(error),
        }
    }
    Error::all(errors).map_or(Ok(planned), Err)
}
