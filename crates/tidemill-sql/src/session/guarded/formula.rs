//! [`Formula`]: a chain as conditions and output columns over its input, and the judgement of one row by it.
//!
//! **Invariant:** the verdict on a row depends on the row alone, not on the order in which its conditions are written or
//! its values computed.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::SchemaRef;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr, CaseExpr, Column, Literal};
use datafusion::physical_expr::{PhysicalExpr, split_conjunction};

use super::evaluate::{Failure, Step};
use super::words::{Fault, fault};
use crate::language::OnError;
use crate::session::values;

type Physical = Arc<dyn PhysicalExpr>;

/// What a chain does to a row, written over the row.
#[derive(Debug)]
pub(super) struct Formula {
    /// All of them must be true.
    conditions: Vec<Physical>,
    /// The columns given out; `None` when they are the row's own.
    outputs: Option<(Vec<Physical>, SchemaRef)>,
}

/// What becomes of a row.
pub(super) enum Verdict {
    /// Some condition does not let it through.
    Out,
    /// It is this one row.
    Kept(RecordBatch),
    /// An expression that it needs fails.
    Dead(Fault),
}

/// What an expression failed with on a row.
pub(super) struct Erred {
    /// The innermost part that failed.
    pub(super) culprit: Physical,
    /// Its error.
    pub(super) error: DataFusionError,
}

impl Formula {
    pub(super) fn of(steps: &[Step]) -> Result<Formula, DataFusionError> {
        let mut conditions = Vec::new();
        let mut outputs: Option<(Vec<Physical>, SchemaRef)> = None;
        for step in steps {
            let columns = outputs.as_ref().map(|(columns, _)| columns.as_slice());
            match step {
                Step::Filter(condition) => {
                    let condition = over_input(condition, columns)?;
                    conditions.extend(split_conjunction(&condition).into_iter().cloned());
                }
                Step::Project { exprs, schema } => {
                    let exprs = exprs.iter().map(|expr| over_input(expr, columns)).collect::<Result<_, _>>()?;
                    outputs = Some((exprs, Arc::clone(schema)));
                }
            }
        }
        Ok(Formula { conditions, outputs })
    }

    /// The fate of the one row of a batch.
    pub(super) fn judge(&self, row: &RecordBatch, on_error: OnError) -> Result<Verdict, Failure> {
        let mut erred = None;
        for condition in &self.conditions {
            match evaluate(condition, row)? {
                Ok(value) if is_true(&value) => {}
                Ok(_) => return Ok(Verdict::Out),
                Err(error) => drop(erred.get_or_insert(error)),
            }
        }
        match (erred, on_error) {
            (None, _) => {}
            (Some(_), OnError::Null) => return Ok(Verdict::Out),
            (Some(erred), _) => return Ok(Verdict::Dead(fault(&erred, row))),
        }
        let Some((outputs, schema)) = &self.outputs else { return Ok(Verdict::Kept(row.clone())) };
        let mut columns = Vec::with_capacity(outputs.len());
        for (output, field) in outputs.iter().zip(schema.fields()) {
            match evaluate(output, row)? {
                Ok(value) => columns.push(value),
                // A column that cannot be NULL leaves nothing to go on with.
                Err(_) if on_error == OnError::Null && field.is_nullable() => {
                    columns.push(new_null_array(field.data_type(), 1));
                }
                Err(erred) => return Ok(Verdict::Dead(fault(&erred, row))),
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(1));
        Ok(Verdict::Kept(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?))
    }
}

/// An expression over columns that are themselves expressions over the input.
fn over_input(expr: &Physical, columns: Option<&[Physical]>) -> Result<Physical, DataFusionError> {
    let Some(columns) = columns else { return Ok(Arc::clone(expr)) };
    let replaced = Arc::clone(expr).transform_up(|part| {
        let column = part.downcast_ref::<Column>().and_then(|column| columns.get(column.index()));
        Ok(column.map_or_else(|| Transformed::no(Arc::clone(&part)), |column| Transformed::yes(Arc::clone(column))))
    })?;
    Ok(replaced.data)
}

fn is_true(value: &ArrayRef) -> bool {
    value.as_boolean_opt().is_some_and(|truth| truth.is_valid(0) && truth.value(0))
}

/// The value of an expression on one row, or what it failed with.
pub(super) fn evaluate(expr: &Physical, row: &RecordBatch) -> Result<Result<ArrayRef, Erred>, Failure> {
    let decided = decided(expr, row)?;
    match values(&decided, row).map_err(Failure::of_expression) {
        Ok(value) => Ok(Ok(value)),
        Err(Failure::Rows(error)) => erred(&decided, row, error).map(Err),
        Err(whole) => Err(whole),
    }
}

/// The expression with each AND and OR that has a truth, whatever one of its sides fails with, replaced by that. The
/// others stay: where they are needed they fail as they must.
fn decided(expr: &Physical, row: &RecordBatch) -> Result<Physical, Failure> {
    let mut whole = None;
    let replaced = Arc::clone(expr).transform_down(|part| {
        let Some((op, left, right)) = connective(&part) else { return Ok(Transformed::no(part)) };
        let sides = evaluate(left, row).and_then(|left| Ok((left, evaluate(right, row)?)));
        let (left, right) = match sides {
            Ok(sides) => sides,
            Err(failure) => {
                whole.get_or_insert(failure);
                return Ok(Transformed::new(part, false, TreeNodeRecursion::Stop));
            }
        };
        match connected(op, &left, &right) {
            Some(truth) => {
                let literal: Physical = Arc::new(Literal::new(ScalarValue::Boolean(truth)));
                Ok(Transformed::new(literal, true, TreeNodeRecursion::Jump))
            }
            None => Ok(Transformed::new(part, false, TreeNodeRecursion::Jump)),
        }
    });
    match whole {
        Some(failure) => Err(failure),
        None => replaced.map(|replaced| replaced.data).map_err(Failure::Whole),
    }
}

/// The sides of an AND or OR.
fn connective(expr: &Physical) -> Option<(Operator, &Physical, &Physical)> {
    let binary = expr.downcast_ref::<BinaryExpr>()?;
    matches!(binary.op(), Operator::And | Operator::Or).then(|| (*binary.op(), binary.left(), binary.right()))
}

/// The truth of `left op right`; `None` when it is an error.
fn connected(op: Operator, left: &Result<ArrayRef, Erred>, right: &Result<ArrayRef, Erred>) -> Option<Option<bool>> {
    let decisive = op == Operator::Or;
    let truth = |side: &Result<ArrayRef, Erred>| {
        let truth = side.as_ref().ok()?.as_boolean_opt()?;
        Some(truth.is_valid(0).then(|| truth.value(0)))
    };
    match (truth(left), truth(right)) {
        (Some(Some(side)), _) | (_, Some(Some(side))) if side == decisive => Some(Some(decisive)),
        (Some(Some(_)), Some(Some(_))) => Some(Some(!decisive)),
        (Some(_), Some(_)) => Some(None),
        _ => None,
    }
}

/// Looks for the innermost part that fails on the row.
fn erred(expr: &Physical, row: &RecordBatch, error: DataFusionError) -> Result<Erred, Failure> {
    let needed: Vec<&Physical> = match expr.downcast_ref::<CaseExpr>() {
        Some(case) => branches(case, row)?,
        None => expr.children(),
    };
    for part in needed {
        if let Err(inner) = evaluate(part, row)? {
            return Ok(inner);
        }
    }
    Ok(Erred { culprit: Arc::clone(expr), error })
}

/// The parts of a CASE that are evaluated on a row.
fn branches<'c>(case: &'c CaseExpr, row: &RecordBatch) -> Result<Vec<&'c Physical>, Failure> {
    let mut needed: Vec<&Physical> = case.expr().into_iter().collect();
    for (when, then) in case.when_then_expr() {
        needed.push(when);
        // `CASE value WHEN …` compares; what it compares with is all that can be said without doing so.
        let holds = case.expr().is_none() && matches!(evaluate(when, row)?, Ok(value) if is_true(&value));
        if holds {
            needed.push(then);
            return Ok(needed);
        }
    }
    needed.extend(case.else_expr());
    Ok(needed)
}
