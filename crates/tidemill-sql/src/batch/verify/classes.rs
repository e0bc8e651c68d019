//! [`classes`]: how exactly each column of a query can be computed again; [`key_columns`]: what tells its rows apart.
//!
//! **Invariant:** a value computed from a worse class has that class; what is not known takes the worst of its inputs.

use std::collections::BTreeSet;

use datafusion::common::Column;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Distinct, Expr, Join, LogicalPlan, Volatility};

use crate::language::Project;
use crate::session::guarded::looked_up;
use crate::session::{DedupNode, WindowNode};

/// How exactly a column can be computed again. Floats are compared as such whatever the class says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// Bit for bit.
    Exact,
    /// To the order in which floats were added.
    Rounded,
    /// To the error of a sketch.
    Approximate,
    /// Not at all: it says when it was computed.
    Volatile,
}

/// The class of each column of the plan's result.
pub(super) fn classes(plan: &LogicalPlan) -> Vec<Class> {
    let columns = plan.schema().fields().len();
    let found = match plan {
        LogicalPlan::TableScan(_) => vec![Class::Exact; columns],
        LogicalPlan::Projection(node) => {
            let below = classes(&node.input);
            node.expr.iter().map(|expr| class_of(expr, &node.input, &below)).collect()
        }
        LogicalPlan::Aggregate(node) => {
            let below = classes(&node.input);
            let mut found: Vec<Class> =
                node.group_expr.iter().map(|expr| class_of(expr, &node.input, &below)).collect();
            let fields = plan.schema().fields().iter().skip(found.len());
            let aggregates = node.aggr_expr.iter().zip(fields).map(|(expr, field)| {
                let own = match field.data_type().is_floating() {
                    true => Class::Rounded,
                    false => Class::Exact,
                };
                class_of(expr, &node.input, &below).max(own)
            });
            found.extend(aggregates.collect::<Vec<_>>());
            found
        }
        LogicalPlan::Union(node) => {
            let mut inputs = node.inputs.iter().map(|input| classes(input));
            let first = inputs.next().unwrap_or_default();
            inputs.fold(first, |all, next| all.into_iter().zip(next).map(|(a, b)| a.max(b)).collect())
        }
        LogicalPlan::Join(node) => [classes(&node.left), classes(&node.right)].concat(),
        LogicalPlan::Extension(_) if WindowNode::of(plan).is_some() => {
            let mut found: Vec<Class> = plan.inputs().into_iter().flat_map(classes).collect();
            found.resize(columns, Class::Exact);
            found
        }
        LogicalPlan::Extension(_) if DedupNode::of(plan).is_some() => {
            plan.inputs().into_iter().flat_map(classes).collect()
        }
        LogicalPlan::Filter(_) | LogicalPlan::Sort(_) | LogicalPlan::SubqueryAlias(_) | LogicalPlan::Distinct(_) => {
            plan.inputs().into_iter().flat_map(classes).collect()
        }
        _ => Vec::new(),
    };
    if found.len() == columns {
        return found;
    }
    let worst = plan.inputs().into_iter().flat_map(classes).max().unwrap_or(Class::Exact);
    vec![worst; columns]
}

fn class_of(expr: &Expr, input: &LogicalPlan, below: &[Class]) -> Class {
    let mut class = Class::Exact;
    // Visiting fails only when the closure does.
    let _ = expr.apply(|part| {
        class = class.max(match part {
            Expr::Column(column) => {
                let at = input.schema().index_of_column(column).ok();
                at.and_then(|at| below.get(at)).copied().unwrap_or(Class::Exact)
            }
            Expr::ScalarFunction(call) if call.func.signature().volatility != Volatility::Immutable => Class::Volatile,
            Expr::AggregateFunction(call) if call.func.name().starts_with("approx_") => Class::Approximate,
            _ => Class::Exact,
        });
        Ok(TreeNodeRecursion::Continue)
    });
    class
}

/// The columns of the result that tell its rows apart, as far as they are there; `None` when nothing is known to.
pub(super) fn key_columns(plan: &LogicalPlan) -> Option<Vec<usize>> {
    match plan {
        LogicalPlan::Aggregate(node) => Some((0..node.group_expr.len()).collect()),
        LogicalPlan::Distinct(Distinct::All(input)) => Some((0..input.schema().fields().len()).collect()),
        LogicalPlan::Filter(node) => key_columns(&node.input),
        LogicalPlan::SubqueryAlias(node) => key_columns(&node.input),
        LogicalPlan::Sort(node) => key_columns(&node.input),
        LogicalPlan::Projection(node) => {
            let key: Vec<Column> = key_columns(&node.input)?
                .into_iter()
                .map(|at| Column::from(node.input.schema().qualified_field(at)))
                .collect();
            let passed = |expr: &Expr| matches!(plain(expr), Expr::Column(column) if key.contains(column));
            let kept = node.expr.iter().enumerate().filter(|(_, expr)| passed(expr));
            Some(kept.map(|(at, _)| at).collect())
        }
        _ => None,
    }
}

/// The expression below its names and types.
fn plain(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => plain(&alias.expr),
        Expr::Cast(cast) => plain(&cast.expr),
        other => other,
    }
}

/// The datasets that the query looks rows up in, as they are when a run starts.
pub(super) fn lookups(plan: &LogicalPlan, project: &Project) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let _ = plan.apply(|node| {
        if let LogicalPlan::Join(join) = node
            && let Some(left_is_side) = looked_up(join, project)
        {
            found.extend(scanned(join, left_is_side));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

fn scanned(join: &Join, left: bool) -> BTreeSet<String> {
    let side = if left { &join.left } else { &join.right };
    let mut found = BTreeSet::new();
    let _ = side.apply(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            found.insert(scan.table_name.table().to_owned());
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}
