//! [`Transform`]: the filters and projections of a chain, fused into one stateless operator.
//!
//! **Invariant:** rows keep their order and their weights; a row that an expression fails on is a dead letter, and the
//! others go on (see [`crate::session::guarded`]).

use std::sync::Arc;

use datafusion::error::DataFusionError;
use tidemill_model::{Error, Place, Result};
use tidemill_runtime::{Batch, Operator, OperatorFactory, Output, Reentrance};

use crate::session::guarded::Guarded;
use crate::session::lift;

/// Makes [`Transform`]s.
#[derive(Debug)]
pub(super) struct TransformFactory {
    pub(super) steps: Arc<Guarded>,
    pub(super) text: String,
    /// See [`OperatorFactory::definition`].
    pub(super) definition: String,
    pub(super) place: Place,
    /// See [`OperatorFactory::reentrance`].
    pub(super) reentrance: Option<Reentrance>,
}

impl OperatorFactory for TransformFactory {
    fn create(&self, _lane: usize, _lanes: usize) -> Result<Box<dyn Operator>> {
        Ok(Box::new(Transform { steps: Arc::clone(&self.steps), place: self.place.clone() }))
    }

    fn describe(&self) -> String {
        self.text.clone()
    }

    fn definition(&self) -> String {
        self.definition.clone()
    }

    fn reentrance(&self) -> Option<Reentrance> {
        self.reentrance.clone()
    }
}

struct Transform {
    steps: Arc<Guarded>,
    place: Place,
}

impl Operator for Transform {
    fn on_batch(&mut self, _input: usize, batch: Batch, out: &mut Output) -> Result<()> {
        let evaluated = self.steps.run(batch).map_err(|error| failed(&error, &self.place))?;
        out.dead.extend(evaluated.dead);
        if let Some(batch) = evaluated.rows {
            out.push(batch);
        }
        Ok(())
    }
}

/// An expression failed, and that fails the epoch: what the user can do.
pub(super) fn failed(error: &DataFusionError, place: &Place) -> Error {
    let error = lift(error, place);
    match error.kind() {
        tidemill_model::Kind::Data => error.fact(
            "nothing of this epoch is committed; keep such rows out with a CHECK, or use TRY_CAST, nullif(divisor, 0)",
        ),
        _ => error,
    }
}
