//! [`compile`]: logical expressions to the ones that are evaluated, with arithmetic that fails instead of wrapping.
//!
//! **Invariant:** an integer that does not fit its type is an error, never another number.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use datafusion::common::cast::as_boolean_array;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result};
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, Operator};
use datafusion::physical_expr::expressions::BinaryExpr;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};

/// The physical form of an expression whose types fit already (a plan that was analysed).
///
/// # Errors
/// Plan, for what cannot be evaluated row by row, such as a subquery.
pub fn compile(expr: &Expr, schema: &DFSchema) -> Result<Arc<dyn PhysicalExpr>> {
    checked(create_physical_expr(expr, schema, &ExecutionProps::new(), &PhysicalPlanningContext::default())?)
}

/// The same expression with arithmetic on integers that fails on overflow.
///
/// # Errors
/// Internal.
pub fn checked(expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
    let transformed = expr.transform_up(|node| {
        let Some(binary) = node.downcast_ref::<BinaryExpr>() else { return Ok(Transformed::no(node)) };
        if !matches!(binary.op(), Operator::Plus | Operator::Minus | Operator::Multiply) {
            return Ok(Transformed::no(node));
        }
        Ok(Transformed::yes(Arc::new(binary.clone().with_fail_on_overflow(true)) as Arc<dyn PhysicalExpr>))
    })?;
    Ok(transformed.data)
}

/// The values of an expression for each row.
///
/// # Errors
/// Whatever the expression fails with.
pub fn values(expr: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<ArrayRef> {
    expr.evaluate(batch)?.into_array(batch.num_rows())
}

/// The truth of a condition for each row.
///
/// # Errors
/// Whatever the condition fails with.
pub fn truths(expr: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<BooleanArray> {
    Ok(as_boolean_array(&values(expr, batch)?)?.clone())
}
