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
use crate::language::{Dataset, Project};
use crate::session::{
    AsofNode, Between, DedupNode, Meaning, Over, SchemaOnly, TimeBounds, WindowNode, WindowSize, call_of, lineage,
    meaning_of, over, time_bounds,
};

/// What is known of a query.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// Whether any row comes from a dataset with event time.
    pub(super) event: bool,
    /// Why its results do not belong to intervals; `None` when they do.
    pub(super) whole: Option<String>,
    /// Whether rows are pairs of a join in time: each belongs to the interval of its later row.
    pub(super) paired: bool,
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

/// Whether the rows of a scan have an event time; of a plan over names and types alone the project says it.
fn has_event_time(scan: &TableScan, project: &Project) -> bool {
    match dataset_of(scan) {
        Some(table) => table.reading().event_time.is_some(),
        None if scan.source.is::<SchemaOnly>() => dataset_named(scan, project).is_some_and(|of| of.watermark.is_some()),
        None => false,
    }
}

/// The dataset that a scan of a plan over names and types alone reads.
pub(super) fn dataset_named<'p>(scan: &TableScan, project: &'p Project) -> Option<&'p Dataset> {
    project.datasets.get(scan.table_name.table())
}

/// Examines a plan that is neither analysed nor optimised.
pub(super) fn examine(plan: &LogicalPlan, project: &Project) -> Result<Seen> {
    let mut seen = Seen::default();
    for input in plan.inputs() {
        let input = examine(input, project)?;
        seen.event |= input.event;
        seen.whole = seen.whole.or(input.whole);
        seen.paired |= input.paired;
    }
    let told = |exprs: &[Expr], input: &LogicalPlan| {
        let times = times(input, project);
        exprs.iter().any(|expr| meaning_of(expr, input, &times) != Meaning::Plain)
    };
    let seen = match plan {
        LogicalPlan::TableScan(scan) => Seen { event: has_event_time(scan, project), ..Seen::default() },
        LogicalPlan::Projection(node) if seen.paired => {
            // A window of pairs is whole when the later rows of all its pairs have come, which may be after its end.
            let windows = node.expr.iter().any(|expr| is_window(expr, &node.input, project));
            seen.unless(!windows, PAIRED)
        }
        LogicalPlan::Projection(_) => waits_for_no_session(plan, seen, project),
        LogicalPlan::Filter(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Repartition(_)
        | LogicalPlan::Unnest(_)
        | LogicalPlan::EmptyRelation(_)
        | LogicalPlan::Values(_) => seen,
        LogicalPlan::Extension(_) if WindowNode::of(plan).is_some() => {
            let local = times(plan, project).last().is_some_and(|end| *end != Meaning::Plain);
            waits_for_no_session(plan, seen.unless(local, "its windows are of no event time"), project)
        }
        LogicalPlan::Sort(node) => seen.unless(node.fetch.is_none(), LIMIT),
        LogicalPlan::Limit(_) => seen.unless(false, LIMIT),
        LogicalPlan::Aggregate(node) => {
            let (local, single) = (told(&node.group_expr, &node.input), !seen.paired);
            seen.unless(single, PAIRED)
                .unless(local, "its GROUP BY has no window, so that each group has rows of all time")
        }
        LogicalPlan::Distinct(distinct) => {
            let local = match distinct {
                Distinct::All(input) => times(input, project).iter().any(|time| *time != Meaning::Plain),
                Distinct::On(on) => told(&on.on_expr, &on.input),
            };
            let single = !seen.paired;
            seen.unless(single, PAIRED).unless(local, "its DISTINCT compares rows of all time")
        }
        LogicalPlan::Window(node) => {
            let partitioned = node
                .window_expr
                .iter()
                .all(|expr| call_of(expr).is_some_and(|call| told(&call.params.partition_by, &node.input)));
            let reach = over(&node.window_expr, &node.input, &times(&node.input, project));
            let local = partitioned || matches!(reach, Over::Range { .. });
            let single = !seen.paired;
            seen.unless(single, PAIRED).unless(local, "its OVER looks at rows of all time; PARTITION BY window_start keeps it to a window, RANGE BETWEEN INTERVAL '…' PRECEDING to a time")
        }
        LogicalPlan::Union(node) => {
            let mut inputs = node.inputs.iter().map(|input| examine(input, project));
            let all = inputs
                .try_fold(true, |all, input| Ok::<bool, datafusion::error::DataFusionError>(all && input?.event))?;
            seen.unless(all, "its UNION also has rows without event time")
        }
        LogicalPlan::Join(join) => of_join(join, seen, project)?,
        LogicalPlan::Extension(_) => match (AsofNode::of(plan), DedupNode::of(plan)) {
            (_, Some(node)) => {
                let times = times(&node.input, project);
                let local = matches!(&times[node.time], Meaning::Time { behind } if behind.is_empty());
                let single = !seen.paired;
                seen.unless(single, PAIRED).unless(local, "its DEDUP does not go by the event time")
            }
            (Some(node), _) => {
                let timed =
                    |plan: &LogicalPlan, at: usize| matches!(times(plan, project).get(at), Some(Meaning::Time { .. }));
                let local = timed(&node.left, node.times.0) && timed(&node.right, node.times.1);
                let single = !seen.paired;
                seen.unless(single, PAIRED)
                    .unless(node.looks_back(), "its ASOF JOIN looks for the next row, which may come at any time")
                    .unless(local, "its ASOF JOIN does not compare the event times of both sides")
            }
            (None, None) => seen.unless(false, "a part of it relates rows of all time"),
        },
        _ => seen.unless(false, "a part of it relates rows of all time"),
    };
    with_subqueries(plan, seen, project)
}

const PAIRED: &str = "it relates pairs of a JOIN, which are whole only when the later row of each has come";

/// A window over the starts of sessions is final when these are, which may be after its end.
fn waits_for_no_session(plan: &LogicalPlan, seen: Seen, project: &Project) -> Seen {
    let waits = times(plan, project).iter().any(|time| match time {
        Meaning::Plain => false,
        Meaning::Time { behind } | Meaning::Start { behind, .. } | Meaning::End { behind, .. } => {
            behind.iter().any(|size| matches!(size, WindowSize::Session { .. }))
        }
    });
    let fit = times(plan, project).iter().all(|time| match time {
        Meaning::Start { size, behind } | Meaning::End { size, behind } => {
            behind.iter().all(|inner| inner.fits_into(*size))
        }
        Meaning::Plain | Meaning::Time { .. } => true,
    });
    seen.unless(!waits, "its windows wait for sessions that begin in them; take the window_end of sessions as time")
        .unless(fit, "its windows are of windows that reach beyond their end")
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
        (true, true) if time_join(join, project).is_some() => {
            let both = matches!(kind, J::Inner | J::Left | J::Right | J::Full);
            let single = !seen.paired;
            let seen = seen.unless(single, PAIRED).unless(both, "it asks whether a row has a partner at another time");
            Ok(Seen { paired: true, ..seen })
        }
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

/// The bounds of a join in time.
pub(super) fn time_join(join: &Join, project: &Project) -> Option<TimeBounds> {
    match time_bounds(join, &times(&join.left, project), &times(&join.right, project)) {
        Between::Both(bounds, _) => Some(bounds),
        Between::OneSided | Between::Nothing => None,
    }
}

/// Whether an expression computes a bound of a window.
fn is_window(expr: &Expr, input: &LogicalPlan, project: &Project) -> bool {
    let passed_on = matches!(expr.clone().unalias(), Expr::Column(_));
    let meaning = meaning_of(expr, input, &times(input, project));
    !passed_on && matches!(meaning, Meaning::Start { .. } | Meaning::End { .. })
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
