//! [`Transform`]: filters and projections, fused into one stateless operator.
//!
//! **Invariant:** rows keep their order and their weights.

use std::sync::Arc;

use arrow::array::{Array, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;
use tidemill_model::{Error, Place, Result};
use tidemill_runtime::{Batch, Operator, OperatorFactory, Output};

use crate::session::{lift, truths, values};

/// One thing done to every batch.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// Keeps the rows where the condition is true.
    Filter(Arc<dyn PhysicalExpr>),
    /// Replaces the columns.
    Project {
        /// One expression for each new column.
        exprs: Vec<Arc<dyn PhysicalExpr>>,
        /// The new columns.
        schema: SchemaRef,
    },
}

/// Makes [`Transform`]s.
#[derive(Debug)]
pub(super) struct TransformFactory {
    pub(super) steps: Arc<[Step]>,
    pub(super) text: String,
    pub(super) place: Place,
}

impl OperatorFactory for TransformFactory {
    fn create(&self, _lane: usize, _lanes: usize) -> Result<Box<dyn Operator>> {
        Ok(Box::new(Transform { steps: Arc::clone(&self.steps), place: self.place.clone() }))
    }

    fn describe(&self) -> String {
        self.text.clone()
    }
}

struct Transform {
    steps: Arc<[Step]>,
    place: Place,
}

impl Operator for Transform {
    fn on_batch(&mut self, _input: usize, batch: Batch, out: &mut Output) -> Result<()> {
        if let Some(batch) = run(&self.steps, batch).map_err(|error| failed(&error, &self.place))? {
            out.push(batch);
        }
        Ok(())
    }
}

/// What is left of a batch after the steps; `None` when no row is.
fn run(steps: &[Step], mut batch: Batch) -> Result<Option<Batch>, DataFusionError> {
    for step in steps {
        match step {
            Step::Filter(condition) => {
                let keep = truths(condition, &batch.rows)?;
                let kept = keep.true_count();
                if kept == 0 {
                    return Ok(None);
                }
                if kept < batch.len() {
                    batch = batch.filter(&without_nulls(keep))?;
                }
            }
            Step::Project { exprs, schema } => {
                let columns = exprs.iter().map(|expr| values(expr, &batch.rows)).collect::<Result<Vec<_>, _>>()?;
                let options = RecordBatchOptions::new().with_row_count(Some(batch.len()));
                let rows = RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?;
                batch = Batch { rows, weights: batch.weights };
            }
        }
    }
    Ok((!batch.is_empty()).then_some(batch))
}

/// NULL is not true.
fn without_nulls(keep: BooleanArray) -> BooleanArray {
    if keep.null_count() == 0 { keep } else { arrow::compute::prep_null_mask_filter(&keep) }
}

/// An expression failed on a row: what the user can do.
pub(super) fn failed(error: &DataFusionError, place: &Place) -> Error {
    let error = lift(error, place);
    match error.kind() {
        tidemill_model::Kind::Data => error.fact(
            "nothing of this epoch is committed; keep such rows out with a CHECK, or use TRY_CAST, nullif(divisor, 0)",
        ),
        _ => error,
    }
}
