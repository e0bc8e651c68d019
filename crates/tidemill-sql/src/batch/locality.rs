//! [`examine`]: whether each result of a query belongs to one interval.
//!
//! **Invariant:** a query that is called local gives the same rows whether it is computed over all rows at once or
//! interval by interval; when in doubt it is not local.

use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{JoinType, Result};
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Distinct, Expr, Join, LogicalPlan, Operator, TableScan};

use super::provider::DatasetTable;
use crate::language::Project;
use crate::session::{Meaning, WindowNode, lineage, meaning_of};

/// What is known of a query.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// Whether any row comes from a dataset with event time.
    pub(super) event: bool,
    /// Why its results do not belong to intervals; `None` when they do.
    pub(super) whole: Option<String>,
}

impl Seen {
    /// Not local, for this reason, if there is event time at all.
    fn unless(mut self, local: bool, reason: &str) -> Seen {
        if self.event && !local {
            self.whole.get_or_insert_with(|| reason.to_owned());
        }
        self
    }
}

/// What each column of a plan's result says about time.
pub(super) fn times(plan: &LogicalPlan, project: &Project) -> Vec<Meaning> {
    lineage(plan, &|name| Some(project.datasets.get(name)?.watermark.as_ref()?.column.clone()))
}

/// The table of a scan, if it is one of ours.
pub(super) fn dataset_of(scan: &TableScan) -> Option<Arc<DatasetTable>> {
    let provider = source_as_provider(&scan.source).ok()?;
    provider.downcast_ref::<DatasetTable>().map(|table| Arc::new(table.clone()))
}

/// Examines a plan that is neither analysed nor optimised.
pub(super) fn examine(plan: &LogicalPlan, project: &Project) -> Result<Seen> {
    let mut seen = Seen::default();
    for input in plan.inputs() {
        let input = examine(input, project)?;
        seen.event |= input.event;
        seen.whole = seen.whole.or(input.whole);
    }
    let told = |exprs: &[Expr], input: &LogicalPlan| {
        let times = times(input, project);
        exprs.iter().any(|expr| meaning_of(expr, input, &times) != Meaning::Plain)
    };
    let seen = match plan {
        LogicalPlan::TableScan(scan) => {
            let event = dataset_of(scan).is_some_and(|table| table.reading().event_time.is_some());
            Seen { event, whole: None }
        }
        LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Repartition(_)
        | LogicalPlan::Unnest(_)
        | LogicalPlan::EmptyRelation(_)
        | LogicalPlan::Values(_) => seen,
        LogicalPlan::Extension(_) if WindowNode::of(plan).is_some() => {
            let local = times(plan, project).last().is_some_and(|end| *end != Meaning::Plain);
            seen.unless(local, "its windows are of no event time")
        }
        LogicalPlan::Sort(node) => seen.unless(node.fetch.is_none(), LIMIT),
        LogicalPlan::Limit(_) => seen.unless(false, LIMIT),
        LogicalPlan::Aggregate(node) => {
            let local = told(&node.group_expr, &node.input);
            seen.unless(local, "its GROUP BY has no window, so that each group has rows of all time")
        }
        LogicalPlan::Distinct(distinct) => {
            let local = match distinct {
                Distinct::All(input) => times(input, project).iter().any(|time| *time != Meaning::Plain),
                Distinct::On(on) => told(&on.on_expr, &on.input),
            };
            seen.unless(local, "its DISTINCT compares rows of all time")
        }
        LogicalPlan::Window(node) => {
            let local = node.window_expr.iter().all(|expr| match expr.clone().unalias() {
                Expr::WindowFunction(function) => told(&function.params.partition_by, &node.input),
                _ => false,
            });
            seen.unless(local, "its OVER looks at rows of all time; PARTITION BY window_start keeps it to a window")
        }
        LogicalPlan::Union(node) => {
            let mut inputs = node.inputs.iter().map(|input| examine(input, project));
            let all = inputs
                .try_fold(true, |all, input| Ok::<bool, datafusion::error::DataFusionError>(all && input?.event))?;
            seen.unless(all, "its UNION also has rows without event time")
        }
        LogicalPlan::Join(join) => of_join(join, seen, project)?,
        _ => seen.unless(false, "a part of it relates rows of all time"),
    };
    with_subqueries(plan, seen, project)
}

const LIMIT: &str = "its LIMIT chooses among the rows of all time";

/// A subquery over rows with event time compares each row with those of all time.
fn with_subqueries(plan: &LogicalPlan, mut seen: Seen, project: &Project) -> Result<Seen> {
    plan.apply_expressions(|expr| {
        expr.apply(|expr| {
            let subquery = match expr {
                Expr::ScalarSubquery(subquery) => subquery,
                Expr::Exists(exists) => &exists.subquery,
                Expr::InSubquery(within) => &within.subquery,
                _ => return Ok(TreeNodeRecursion::Continue),
            };
            if examine(&subquery.subquery, project)?.event {
                seen.event = true;
                seen.whole.get_or_insert_with(|| "it has a subquery over rows of all time".to_owned());
            }
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    Ok(seen)
}

fn of_join(join: &Join, seen: Seen, project: &Project) -> Result<Seen> {
    use JoinType as J;
    let kind = join.join_type;
    match (examine(&join.left, project)?.event, examine(&join.right, project)?.event) {
        (true, true) => Ok(seen.unless(
            same_time(join, project),
            "it joins two datasets over all time; join them on equal windows to keep it to an interval",
        )),
        (left, _) => {
            let kept = match kind {
                J::Inner => true,
                J::Left | J::LeftSemi | J::LeftAnti | J::LeftMark => left,
                J::Right | J::RightSemi | J::RightAnti | J::RightMark => !left,
                J::Full => false,
            };
            Ok(seen.unless(kept, "its outer join keeps rows without event time"))
        }
    }
}

/// Whether a join is on equal times of both sides.
fn same_time(join: &Join, project: &Project) -> bool {
    let mut pairs: Vec<(&Expr, &Expr)> = join.on.iter().map(|(left, right)| (left, right)).collect();
    for expr in join.filter.iter().flat_map(|filter| split_conjunction(filter)) {
        if let Expr::BinaryExpr(binary) = expr
            && binary.op == Operator::Eq
        {
            pairs.push((&binary.left, &binary.right));
        }
    }
    let (left, right) = (times(&join.left, project), times(&join.right, project));
    let equal = |l: &Expr, r: &Expr| {
        let l = meaning_of(l, &join.left, &left);
        l != Meaning::Plain && l == meaning_of(r, &join.right, &right)
    };
    pairs.into_iter().any(|(one, other)| equal(one, other) || equal(other, one))
}
