//! [`Guarded`]: takes batches through the steps of a chain, and finds the rows that fail.
//!
//! **Invariant:** rows keep their order and their weights, and each row is kept, left out or dead, as the chain's formula
//! says, however batches are cut.

use std::sync::{Arc, OnceLock};

use arrow::array::{Array, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::compute::{concat, concat_batches, prep_null_mask_filter};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;
use tidemill_model::Error;
use tidemill_runtime::{Batch, DeadLetter};

use super::formula::{Formula, Verdict};
use super::letters::Failing;
use crate::language::OnError;
use crate::session::{truths, values};

/// One thing done to every batch.
#[derive(Debug, Clone)]
pub enum Step {
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

/// The steps of a chain, ready to run on any number of lanes.
#[derive(Debug)]
pub struct Guarded {
    steps: Vec<Step>,
    failing: Failing,
    /// Made when a batch fails for the first time.
    formula: OnceLock<Formula>,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Evaluated {
    /// The rows that are left; `None` when none is.
    pub rows: Option<Batch>,
    /// The rows that an expression failed on.
    pub dead: Vec<DeadLetter>,
}

/// Why a batch could not be taken through.
#[derive(Debug)]
pub(super) enum Failure {
    /// An expression failed, so some row of it did.
    Rows(DataFusionError),
    /// A defect, or a lack of memory.
    Whole(DataFusionError),
}

impl Failure {
    /// The failure of an expression.
    pub(super) fn of_expression(error: DataFusionError) -> Failure {
        if is_of_rows(&error) { Failure::Rows(error) } else { Failure::Whole(error) }
    }

    pub(super) fn into_error(self) -> DataFusionError {
        match self {
            Failure::Rows(error) | Failure::Whole(error) => error,
        }
    }
}

impl From<ArrowError> for Failure {
    fn from(error: ArrowError) -> Failure {
        Failure::Whole(error.into())
    }
}

/// Whether an expression's error is about the values that it was given.
fn is_of_rows(error: &DataFusionError) -> bool {
    match error {
        DataFusionError::Execution(_) => true,
        // Functions pass on what their libraries say, such as of a pattern that is none.
        DataFusionError::External(error) => !error.is::<Error>(),
        DataFusionError::ArrowError(error, _) => matches!(
            error.as_ref(),
            ArrowError::CastError(_)
                | ArrowError::ParseError(_)
                | ArrowError::ComputeError(_)
                | ArrowError::DivideByZero
                | ArrowError::ArithmeticOverflow(_)
                | ArrowError::InvalidArgumentError(_)
        ),
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => is_of_rows(inner),
        DataFusionError::Shared(inner) => is_of_rows(inner),
        _ => false,
    }
}

impl Guarded {
    /// These steps; `failing` says what becomes of rows that fail.
    #[must_use]
    pub fn new(steps: Vec<Step>, failing: Failing) -> Guarded {
        Guarded { steps, failing, formula: OnceLock::new() }
    }

    /// Takes a batch through all steps.
    ///
    /// # Errors
    /// What an expression fails with, when that fails the epoch; a defect or a lack of memory in any case.
    pub fn run(&self, batch: Batch) -> Result<Evaluated, DataFusionError> {
        if self.steps.is_empty() {
            return Ok(Evaluated { rows: Some(batch), dead: Vec::new() });
        }
        match self.through(&batch) {
            Ok(rows) => Ok(Evaluated { rows, dead: Vec::new() }),
            Err(Failure::Rows(_)) if self.failing.on_error != OnError::Fail => {
                self.find(&batch).map_err(Failure::into_error)
            }
            Err(failure) => Err(failure.into_error()),
        }
    }

    /// What is left of a batch after the steps, if nothing fails.
    fn through(&self, batch: &Batch) -> Result<Option<Batch>, Failure> {
        let mut changed: Option<Batch> = None;
        for step in &self.steps {
            let now = changed.as_ref().unwrap_or(batch);
            match step {
                Step::Filter(condition) => {
                    let keep = truths(condition, &now.rows).map_err(Failure::of_expression)?;
                    let kept = keep.true_count();
                    if kept == 0 {
                        return Ok(None);
                    }
                    if kept < now.len() {
                        changed = Some(now.filter(&without_nulls(keep))?);
                    }
                }
                Step::Project { exprs, schema } => {
                    let columns = exprs.iter().map(|expr| values(expr, &now.rows)).collect::<Result<Vec<_>, _>>();
                    let columns = columns.map_err(Failure::of_expression)?;
                    let options = RecordBatchOptions::new().with_row_count(Some(now.len()));
                    changed =
                        Some(now.with_rows(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?));
                }
            }
        }
        let rest = changed.unwrap_or_else(|| batch.clone());
        Ok((!rest.is_empty()).then_some(rest))
    }

    /// The same for a batch that fails: by halves, down to the rows that do.
    fn find(&self, batch: &Batch) -> Result<Evaluated, Failure> {
        let formula = self.formula()?;
        let mut kept: Vec<Batch> = Vec::new();
        let mut dead = Vec::new();
        // Ranges of rows as (first, how many), the next one last.
        let mut waiting = vec![(0, batch.len())];
        while let Some((first, length)) = waiting.pop() {
            let part = slice(batch, first, length);
            match self.through(&part) {
                Ok(rows) => kept.extend(rows),
                Err(Failure::Whole(error)) => return Err(Failure::Whole(error)),
                Err(Failure::Rows(_)) if length > 1 => {
                    let half = length / 2;
                    waiting.extend([(first + half, length - half), (first, half)]);
                }
                Err(Failure::Rows(_)) => match formula.judge(&part.rows, self.failing.on_error)? {
                    Verdict::Out => {}
                    Verdict::Kept(rows) => kept.push(part.with_rows(rows)),
                    Verdict::Dead(fault) => dead.extend(self.failing.letter(&part, fault)),
                },
            }
        }
        Ok(Evaluated { rows: together(kept)?, dead })
    }

    fn formula(&self) -> Result<&Formula, Failure> {
        if let Some(formula) = self.formula.get() {
            return Ok(formula);
        }
        let formula = Formula::of(&self.steps).map_err(Failure::Whole)?;
        Ok(self.formula.get_or_init(|| formula))
    }
}

/// NULL is not true.
fn without_nulls(keep: BooleanArray) -> BooleanArray {
    if keep.null_count() == 0 { keep } else { prep_null_mask_filter(&keep) }
}

fn slice(batch: &Batch, first: usize, length: usize) -> Batch {
    let weights = batch.weights.as_ref().map(|weights| weights.slice(first, length));
    Batch { rows: batch.rows.slice(first, length), weights }
}

/// The parts as one batch; `None` when there are none.
fn together(mut parts: Vec<Batch>) -> Result<Option<Batch>, ArrowError> {
    if parts.len() < 2 {
        return Ok(parts.pop());
    }
    let schema = parts[0].rows.schema();
    let rows = concat_batches(&schema, parts.iter().map(|part| &part.rows))?;
    let weights: Vec<&dyn Array> =
        parts.iter().filter_map(|part| part.weights.as_ref()).map(|weights| weights as &dyn Array).collect();
    let weights = if weights.is_empty() { None } else { Some(Int64Array::from(concat(&weights)?.to_data())) };
    Ok(Some(Batch { rows, weights }))
}
