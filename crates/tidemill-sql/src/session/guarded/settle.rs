//! [`settle`]: brings what can fail in aggregates and joins into projections and filters, where rows fail one by one.
//!
//! **Invariant:** the plan means the same, and its columns keep their names.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, JoinType, Result};
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Aggregate, Expr, Filter, Join, LogicalPlan, Projection, when};

use super::chain::columns;
use super::fallible::{can_fail, has_subquery};
use crate::session::compares_times;

/// The plan with arguments, filters and keys that can fail computed below the aggregates and joins that use them.
///
/// # Errors
/// Plan.
pub fn settle(plan: LogicalPlan) -> Result<LogicalPlan> {
    let settled = plan.transform_up(|node| match node {
        LogicalPlan::Aggregate(node) => aggregate(node),
        LogicalPlan::Join(node) => join(node),
        node => Ok(Transformed::no(node)),
    })?;
    Ok(settled.data)
}

/// A projection in the making: all columns of a plan, and further ones.
struct Below {
    input: Arc<LogicalPlan>,
    added: Vec<(Expr, String)>,
}

impl Below {
    fn of(input: &Arc<LogicalPlan>) -> Below {
        Below { input: Arc::clone(input), added: Vec::new() }
    }

    fn can_fail(&self, expr: &Expr) -> bool {
        !has_subquery(expr) && can_fail(expr, self.input.schema())
    }

    /// The expression as a column of the projection. It is named as it is written, so that what is stored of a query
    /// that computes something else is told apart.
    fn column(&mut self, expr: Expr) -> Expr {
        let name = expr.to_string();
        if !self.added.iter().any(|(_, added)| *added == name) {
            self.added.push((expr, name.clone()));
        }
        Expr::Column(Column::new_unqualified(name))
    }

    /// The projection with those columns of the input that `needed` says: what nobody reads must harm nobody.
    fn plan(self, needed: impl Fn(&Column) -> bool) -> Result<Arc<LogicalPlan>> {
        if self.added.is_empty() {
            return Ok(self.input);
        }
        let mut exprs = columns(self.input.schema());
        exprs.retain(|expr| expr.column_refs().into_iter().all(&needed));
        exprs.extend(self.added.into_iter().map(|(expr, name)| expr.alias(name)));
        Ok(Arc::new(LogicalPlan::Projection(Projection::try_new(exprs, self.input)?)))
    }
}

fn aggregate(node: Aggregate) -> Result<Transformed<LogicalPlan>> {
    let mut below = Below::of(&node.input);
    if node.group_expr.iter().any(|expr| matches!(expr, Expr::GroupingSet(_))) {
        return Ok(Transformed::no(LogicalPlan::Aggregate(node)));
    }
    let mut keys = Vec::with_capacity(node.group_expr.len());
    for expr in &node.group_expr {
        keys.push(match below.can_fail(expr) {
            false => expr.clone(),
            true => below.column(expr.clone().unalias()).alias(expr.schema_name().to_string()),
        });
    }
    let mut calls = Vec::with_capacity(node.aggr_expr.len());
    for expr in &node.aggr_expr {
        let name = expr.schema_name().to_string();
        calls.push(match expr.clone().unalias() {
            Expr::AggregateFunction(call) if settles(&call, &below) => {
                Expr::AggregateFunction(settled(call, &mut below)?).alias(name)
            }
            _ => expr.clone(),
        });
    }
    if below.added.is_empty() {
        return Ok(Transformed::no(LogicalPlan::Aggregate(node)));
    }
    let needed: HashSet<Column> = keys.iter().chain(&calls).flat_map(Expr::column_refs).cloned().collect();
    let input = below.plan(|column| needed.contains(column))?;
    Ok(Transformed::yes(LogicalPlan::Aggregate(Aggregate::try_new(input, keys, calls)?)))
}

/// Whether something of the call can fail that may be computed below.
fn settles(call: &AggregateFunction, below: &Below) -> bool {
    let params = &call.params;
    params.args.iter().chain(params.filter.as_deref()).any(|part| below.can_fail(part))
}

fn settled(mut call: AggregateFunction, below: &mut Below) -> Result<AggregateFunction> {
    for arg in &mut call.params.args {
        if below.can_fail(arg) {
            let value = arg.clone().unalias();
            // What FILTER leaves out is not looked at.
            let value = match &call.params.filter {
                None => value,
                Some(filter) => when(filter.as_ref().clone(), value).end()?,
            };
            *arg = below.column(value);
        }
    }
    if let Some(filter) = &mut call.params.filter
        && below.can_fail(filter)
    {
        **filter = below.column(filter.as_ref().clone());
    }
    Ok(call)
}

fn join(node: Join) -> Result<Transformed<LogicalPlan>> {
    let (mut left, mut right) = (Below::of(&node.left), Below::of(&node.right));
    let mut on = Vec::with_capacity(node.on.len());
    for (of_left, of_right) in &node.on {
        let of_left = if left.can_fail(of_left) { left.column(of_left.clone()) } else { of_left.clone() };
        let of_right = if right.can_fail(of_right) { right.column(of_right.clone()) } else { of_right.clone() };
        on.push((of_left, of_right));
    }
    // A pair that its condition fails on is a row of an inner join; of others it decides about one side's row.
    let pairs = left.input.schema().join(right.input.schema())?;
    // Bounds on the times of both rows stay: a join in time is made of them.
    let fails = |part: &Expr| !has_subquery(part) && !compares_times(part, &pairs) && can_fail(part, &pairs);
    let (above, kept) = match node.filter {
        Some(filter) if node.join_type == JoinType::Inner => {
            let (above, kept): (Vec<Expr>, Vec<Expr>) = split_conjunction_owned(filter).into_iter().partition(fails);
            (conjunction(above), conjunction(kept))
        }
        filter => (None, filter),
    };
    let node = Join { filter: kept, ..node };
    if left.added.is_empty() && right.added.is_empty() && above.is_none() {
        return Ok(Transformed::no(LogicalPlan::Join(node)));
    }
    let schema = Arc::clone(&node.schema);
    let mut plan = LogicalPlan::Join(Join::try_new(
        left.plan(|_| true)?,
        right.plan(|_| true)?,
        on,
        node.filter,
        node.join_type,
        node.join_constraint,
        node.null_equality,
        node.null_aware,
    )?);
    if let Some(condition) = above {
        plan = LogicalPlan::Filter(Filter::try_new(condition, Arc::new(plan))?);
    }
    if plan.schema().fields() != schema.fields() {
        let projection = Projection::try_new_with_schema(columns(&schema), Arc::new(plan), schema)?;
        plan = LogicalPlan::Projection(projection);
    }
    Ok(Transformed::yes(plan))
}
