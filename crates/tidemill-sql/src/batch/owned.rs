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

use super::locality::{Seen, dataset_of, examine, times};
use super::reach::Reach;
use crate::language::Project;
use crate::session::{Meaning, TimeBounds};

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
        let reach = Reach::of(&plan, self.project);
        let mut inputs = 0..;
        let narrowed = plan.map_children(|child| {
            let (from, windowed) = reach.of_input(inputs.next().unwrap_or_default(), from, windowed);
            Ok(Transformed::yes(self.narrow(child, from, windowed)?))
        })?;
        let plan = narrowed.data;
        if windowed {
            return Ok(plan);
        }
        let begun = |time: &Expr, start, end| time.clone().gt_eq(start).and(time.clone().lt(end));
        match reach {
            Reach::Rows | Reach::Newest { .. } => Ok(plan),
            Reach::Pairs(bounds) => {
                let LogicalPlan::Join(join) = &plan else { return Ok(plan) };
                let owner = owner(join, bounds);
                let bound = |at: Timestamp| lit(ScalarValue::TimestampMicrosecond(Some(at.0), None));
                let owned = begun(&owner, bound(self.interval.start), bound(self.interval.end));
                LogicalPlanBuilder::from(plan).filter(owned)?.build()
            }
            Reach::First { time } => {
                let time = Column::from(plan.schema().qualified_field(time));
                self.choose(plan, &time, |time, start, end| begun(&time, start, end), 0)
            }
            // A row of a frame that looks ahead is final that much later.
            Reach::Frame { time, after, .. } => {
                self.choose(plan, &time, |time, start, end| begun(&time, start, end), after)
            }
            Reach::Window { end, .. } => {
                self.choose(plan, &end, |end, from, to| end.clone().gt(from).and(end.lt_eq(to)), 0)
            }
        }
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

fn scan_within(plan: LogicalPlan, interval: Interval) -> Result<Transformed<LogicalPlan>> {
    let LogicalPlan::TableScan(mut scan) = plan else { return Ok(Transformed::no(plan)) };
    let Some(table) = dataset_of(&scan).filter(|table| table.reading().event_time.is_some()) else {
        return Ok(Transformed::no(LogicalPlan::TableScan(scan)));
    };
    scan.source = provider_as_source(Arc::new(table.within(interval)));
    Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
}
