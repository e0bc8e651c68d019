//! [`owned`]: a query restricted to the results that an interval owns, reading no more than they need.
//!
//! An interval owns what becomes final within it: a row by its event time in `[start, end)`, a window by its end in
//! `(start, end]`, a row of an OVER by its event time and what its frame looks ahead, a pair of a join in time by its
//! later row, and a row of it without a partner by the last instant at which one could have come. So each result has one
//! owner, and a run never needs a row after its end.
//!
//! **Invariant:** over intervals that tile time, the union of what each owns is the query's whole result. A query
//! whose results belong to no interval means, at a run, its result over all rows before the interval's end.

use std::sync::Arc;

use arrow::datatypes::{DataType, IntervalMonthDayNano, TimeUnit};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, ExprSchema, JoinType, Result, ScalarValue};
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::expr::Case;
use datafusion::logical_expr::{Expr, Join, LogicalPlan, LogicalPlanBuilder, cast, lit};
use tidemill_model::{Interval, Timestamp};

use super::locality::{Seen, dataset_of, examine, time_join, times};
use crate::language::Project;
use crate::session::{
    AsofNode, DedupNode, Meaning, Over, TimeBounds, WINDOW_END, WindowNode, WindowSize, meaning_of, over,
};

/// A query made ready for an interval.
#[derive(Debug, Clone)]
pub(super) struct Owned {
    /// What to compute.
    pub(super) plan: LogicalPlan,
    /// The first instant that is read; `None` for all time.
    pub(super) from: Option<Timestamp>,
    /// For each column of the result, what it says about time.
    pub(super) times: Vec<Meaning>,
    /// Why the results belong to no interval; `None` when they do.
    pub(super) whole: Option<String>,
}

/// Restricts a plan, which is neither analysed nor optimised, to an interval. `done` is the end of the latest interval
/// that is done: results that belong to no interval are not set back behind it by an earlier one that runs again.
pub(super) fn owned(
    plan: LogicalPlan,
    interval: Interval,
    done: Option<Timestamp>,
    project: &Project,
) -> Result<Owned> {
    let seen = examine(&plan, project)?;
    let whole = whole_of(&seen);
    let mut times = times(&plan, project);
    if seen.paired {
        // No column says which rows an interval owns.
        times.iter_mut().for_each(|time| *time = Meaning::Plain);
    }
    if whole.is_some() {
        let all = Interval { start: Timestamp(i64::MIN), end: interval.end.max(done.unwrap_or(interval.end)) };
        let plan = plan.transform_up_with_subqueries(|node| scan_within(node, all))?;
        return Ok(Owned { plan: plan.data, from: None, times, whole });
    }
    let mut narrowing = Narrowing { interval, project, from: interval.start };
    let plan = narrowing.narrow(plan, interval.start, false)?;
    let from = Some(narrowing.from).filter(|from| from.0 > i64::MIN);
    Ok(Owned { plan, from, times, whole: None })
}

/// Whether the results of a plan belong to no interval.
pub(super) fn is_whole(plan: &LogicalPlan, project: &Project) -> Result<bool> {
    Ok(whole_of(&examine(plan, project)?).is_some())
}

/// Why results belong to no interval.
fn whole_of(seen: &Seen) -> Option<String> {
    seen.whole.clone().or_else(|| (!seen.event).then(|| "it reads no dataset with event time".to_owned()))
}

struct Narrowing<'a> {
    interval: Interval,
    project: &'a Project,
    /// The earliest instant that any scan reads from.
    from: Timestamp,
}

impl Narrowing<'_> {
    /// Restricts the scans below to what results from `from` on need. `windowed` is true below a window whose results
    /// are chosen already.
    fn narrow(&mut self, plan: LogicalPlan, from: Timestamp, windowed: bool) -> Result<LogicalPlan> {
        if let LogicalPlan::TableScan(_) = plan {
            self.from = self.from.min(from);
            return Ok(scan_within(plan, Interval { start: from, end: self.interval.end })?.data);
        }
        if let LogicalPlan::Join(join) = &plan
            && let Some(bounds) = time_join(join, self.project)
        {
            let owner = (!windowed).then(|| owner(join, bounds));
            let back = Timestamp(from.0.saturating_sub(bounds.before()).saturating_sub(bounds.after()));
            let plan = plan.map_children(|child| Ok(Transformed::yes(self.narrow(child, back, true)?)))?.data;
            let Some(owner) = owner else { return Ok(plan) };
            let bound = |at: Timestamp| lit(ScalarValue::TimestampMicrosecond(Some(at.0), None));
            let owned = owner.clone().gt_eq(bound(self.interval.start)).and(owner.lt(bound(self.interval.end)));
            return LogicalPlanBuilder::from(plan).filter(owned)?.build();
        }
        if let Some(node) = AsofNode::of(&plan) {
            let oldest = node.within.map_or(i64::MIN, |within| from.0.saturating_sub(within));
            let mut is_left = true;
            let narrowed = plan.map_children(|child| {
                let left = std::mem::replace(&mut is_left, false);
                let (from, windowed) = if left { (from, windowed) } else { (Timestamp(oldest), true) };
                Ok(Transformed::yes(self.narrow(child, from, windowed)?))
            })?;
            return Ok(narrowed.data);
        }
        if let Some(node) = DedupNode::of(&plan) {
            // Only all rows before tell which of them stay.
            let time = Column::from(plan.schema().qualified_field(node.time));
            let all = Timestamp(i64::MIN);
            let plan = plan.map_children(|child| Ok(Transformed::yes(self.narrow(child, all, true)?)))?.data;
            return if windowed {
                Ok(plan)
            } else {
                self.choose(plan, &time, |time, start, end| time.clone().gt_eq(start).and(time.lt(end)), 0)
            };
        }
        if let Some((column, before, after)) = frame(&plan, self.project) {
            // A row of a frame that looks ahead is final that much later.
            let below = Timestamp(from.0.saturating_sub(before).saturating_sub(after));
            let plan = plan.map_children(|child| Ok(Transformed::yes(self.narrow(child, below, true)?)))?.data;
            return if windowed {
                Ok(plan)
            } else {
                self.choose(plan, &column, |column, start, end| column.clone().gt_eq(start).and(column.lt(end)), after)
            };
        }
        let Some((column, size)) = window_end(&plan, self.project) else {
            return Ok(plan.map_children(|child| Ok(Transformed::yes(self.narrow(child, from, windowed)?)))?.data);
        };
        let from = match size {
            // A session may have begun at any time, so that only all rows before tell what it is.
            WindowSize::Session { .. } => Timestamp(i64::MIN),
            // The time of what stands above may be a window's end, so that the one that ends at `from` counts there.
            _ if windowed => Timestamp(size.earliest_open(from.0.saturating_sub(1))),
            WindowSize::Micros { .. } | WindowSize::Months { .. } => Timestamp(size.earliest_open(from.0)),
        };
        let plan = plan.map_children(|child| Ok(Transformed::yes(self.narrow(child, from, true)?)))?.data;
        if windowed {
            return Ok(plan);
        }
        self.choose(plan, &column, |end, from, to| end.clone().gt(from).and(end.lt_eq(to)), 0)
    }

    /// The rows whose time, `later` than a column says, is the interval's.
    fn choose(
        &self,
        plan: LogicalPlan,
        column: &Column,
        owned: impl Fn(Expr, Expr, Expr) -> Expr,
        later: i64,
    ) -> Result<LogicalPlan> {
        let data_type = plan.schema().data_type(column)?.clone();
        let bound = |at: Timestamp| -> Result<Expr> {
            let at = at.0.saturating_sub(later);
            Ok(lit(ScalarValue::TimestampMicrosecond(Some(at), None).cast_to(&data_type)?))
        };
        let owned = owned(Expr::Column(column.clone()), bound(self.interval.start)?, bound(self.interval.end)?);
        LogicalPlanBuilder::from(plan).filter(owned)?.build()
    }
}

/// The instant at which a row of a join in time is known.
fn owner(join: &Join, bounds: TimeBounds) -> Expr {
    let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
    let time = |side: &LogicalPlan, at: usize| {
        cast(Expr::Column(Column::from(side.schema().qualified_field(at))), micros.clone())
    };
    let (left, right) = (time(&join.left, bounds.left), time(&join.right, bounds.right));
    let later = |by: i64| {
        const DAY: i64 = 86_400_000_000;
        let days = i32::try_from(by / DAY).unwrap_or(i32::MAX);
        lit(ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano::new(0, days, by % DAY * 1_000))))
    };
    let case = |condition: Expr, then: Expr, or_else: Expr| {
        Expr::Case(Case::new(None, vec![(Box::new(condition), Box::new(then))], Some(Box::new(or_else))))
    };
    let pair = case(left.clone().gt(right.clone()), left.clone(), right.clone());
    let alone =
        |one: Expr, other: &Expr, by: i64, or_else: Expr| case(other.clone().is_null(), one + later(by), or_else);
    match join.join_type {
        JoinType::Left => alone(left, &right, bounds.after(), pair),
        JoinType::Right => alone(right, &left, bounds.before(), pair),
        JoinType::Full => {
            let of_left = alone(left.clone(), &right, bounds.after(), pair);
            alone(right, &left, bounds.before(), of_left)
        }
        _ => pair,
    }
}

/// The event time that a node's frames of time are over, and how far they reach back and ahead.
fn frame(plan: &LogicalPlan, project: &Project) -> Option<(Column, i64, i64)> {
    let LogicalPlan::Window(node) = plan else { return None };
    match over(&node.window_expr, &node.input, &times(&node.input, project)) {
        Over::Range { time, before, after } => {
            Some((Column::from(node.input.schema().qualified_field(time)), before, after))
        }
        Over::Window(_) | Over::Endless(_) => None,
    }
}

/// The column with the end of the window, and the window's size, when a node assigns windows by event time.
fn window_end(plan: &LogicalPlan, project: &Project) -> Option<(Column, WindowSize)> {
    if let Some(node) = WindowNode::of(plan) {
        let told = times(plan, project).pop()? != Meaning::Plain;
        return told.then(|| (Column::new_unqualified(WINDOW_END), node.size));
    }
    let LogicalPlan::Projection(projection) = plan else { return None };
    let input = times(&projection.input, project);
    projection.expr.iter().enumerate().find_map(|(at, expr)| {
        let passed_on = matches!(expr.clone().unalias(), Expr::Column(_));
        match meaning_of(expr, &projection.input, &input) {
            Meaning::End { size, .. } if !passed_on => Some((Column::from(plan.schema().qualified_field(at)), size)),
            _ => None,
        }
    })
}

fn scan_within(plan: LogicalPlan, interval: Interval) -> Result<Transformed<LogicalPlan>> {
    let LogicalPlan::TableScan(mut scan) = plan else { return Ok(Transformed::no(plan)) };
    let Some(table) = dataset_of(&scan).filter(|table| table.reading().event_time.is_some()) else {
        return Ok(Transformed::no(LogicalPlan::TableScan(scan)));
    };
    scan.source = provider_as_source(Arc::new(table.within(interval)));
    Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
}
