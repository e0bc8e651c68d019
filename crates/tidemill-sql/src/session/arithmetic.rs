//! [`checked_plan`]: a physical plan whose arithmetic on integers fails instead of wrapping, as it does in a stream: for
//! queries, and for what a run does not guard row by row, and for what a stream computes when a window closes.
//!
//! **Invariant:** only expressions change; nodes, columns and partitions stay as they were.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::expressions::BinaryExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::filter::{FilterExec, FilterExecBuilder};
use datafusion::physical_plan::projection::ProjectionExec;

use super::compile::checked;

/// The plan with checked arithmetic in what it selects, filters by and aggregates.
pub fn checked_plan(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let transformed = plan.transform_up(|node| {
        let mut computes = false;
        node.apply_expressions(&mut |expr| {
            computes |= expr.exists(|part| Ok(is_arithmetic(part)))?;
            Ok(if computes { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        })?;
        if !computes {
            return Ok(Transformed::no(node));
        }
        if let Some(projection) = node.downcast_ref::<ProjectionExec>() {
            let exprs = projection.expr().iter().map(|e| Ok((checked(Arc::clone(&e.expr))?, e.alias.clone())));
            let exprs = exprs.collect::<Result<Vec<_>>>()?;
            return Ok(Transformed::yes(Arc::new(ProjectionExec::try_new(exprs, Arc::clone(projection.input()))?)));
        }
        if let Some(filter) = node.downcast_ref::<FilterExec>() {
            let predicate = checked(Arc::clone(filter.predicate()))?;
            return Ok(Transformed::yes(Arc::new(FilterExecBuilder::from(filter).with_predicate(predicate).build()?)));
        }
        if let Some(aggregate) = node.downcast_ref::<AggregateExec>() {
            let functions = aggregate.aggr_expr().iter().map(checked_function).collect::<Result<Vec<_>>>()?;
            return Ok(Transformed::yes(Arc::new(aggregate.with_new_aggr_exprs(functions))));
        }
        Ok(Transformed::no(node))
    })?;
    Ok(transformed.data)
}

fn is_arithmetic(expr: &Arc<dyn PhysicalExpr>) -> bool {
    let op = expr.downcast_ref::<BinaryExpr>().map(BinaryExpr::op);
    matches!(op, Some(Operator::Plus | Operator::Minus | Operator::Multiply))
}

/// The function with checked arguments; one that cannot be rewritten stays as it is.
fn checked_function(function: &Arc<AggregateFunctionExpr>) -> Result<Arc<AggregateFunctionExpr>> {
    let args = function.expressions().into_iter().map(checked).collect::<Result<Vec<_>>>()?;
    let order = function.order_bys().iter().map(|by| Arc::clone(&by.expr)).collect();
    Ok(function.with_new_expressions(args, order).map_or_else(|| Arc::clone(function), Arc::new))
}
