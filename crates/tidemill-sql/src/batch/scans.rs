//! [`scans`]: what a query reads of which dataset in a run of an interval, known from its plan alone.
//!
//! **Invariant:** nothing is opened: the plan is over names and types, and the times follow as those of a run do.

use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan};
use tidemill_model::{Interval, Timestamp};

use super::locality::{dataset_named, examine};
use super::reach::Reach;
use crate::language::Project;

/// A dataset as one scan of a run reads it.
#[derive(Debug, Clone)]
pub(super) struct Scan {
    pub(super) dataset: String,
    pub(super) look: Look,
    /// Whether it surely reads to the end: a limit and a join may ask for less.
    pub(super) to_the_end: bool,
}

/// Which rows of a dataset a scan looks at.
#[derive(Debug, Clone)]
pub(super) enum Look {
    /// All there are, whatever the interval.
    All,
    /// Those before the interval's end.
    Before,
    /// Those from the first instant that results of the interval need, to the interval's end.
    From(Vec<Step>),
}

/// A node on the way from a query's result to a scan: the number of its input, and whether its results are windowed.
#[derive(Debug, Clone)]
pub(super) struct Step {
    reach: Reach,
    input: usize,
    windowed: bool,
}

impl Look {
    /// The rows of an interval itself.
    pub(super) fn within() -> Look {
        Look::From(Vec::new())
    }

    /// The time that is looked at in a run of an interval; `None` for all rows, with and without a time. `through` is the
    /// end of the latest interval that is done by then.
    pub(super) fn of(&self, interval: Interval, through: Timestamp) -> Option<Interval> {
        match self {
            Look::All => None,
            Look::Before => Some(Interval { start: Timestamp(i64::MIN), end: interval.end.max(through) }),
            Look::From(way) => {
                let from = |from, step: &Step| step.reach.of_input(step.input, from, step.windowed).0;
                Some(Interval { start: way.iter().fold(interval.start, from), end: interval.end })
            }
        }
    }
}

/// The scans of a plan which is neither analysed nor optimised.
pub(super) fn scans(plan: &LogicalPlan, project: &Project) -> Result<Vec<Scan>> {
    let seen = examine(plan, project)?;
    let whole = seen.whole.is_some() || !seen.event;
    let mut walk = Walk { project, whole, found: Vec::new() };
    walk.go(plan, &mut Vec::new(), (false, !whole))?;
    Ok(walk.found)
}

struct Walk<'a> {
    project: &'a Project,
    /// Whether the results belong to no interval, so that all time before its end is read.
    whole: bool,
    found: Vec<Scan>,
}

impl Walk<'_> {
    fn go(&mut self, plan: &LogicalPlan, way: &mut Vec<Step>, (windowed, to_the_end): (bool, bool)) -> Result<()> {
        if let LogicalPlan::TableScan(scan) = plan {
            let Some(dataset) = dataset_named(scan, self.project) else { return Ok(()) };
            let look = match &dataset.watermark {
                None => Look::All,
                Some(_) if self.whole => Look::Before,
                Some(_) => Look::From(way.clone()),
            };
            self.found.push(Scan { dataset: dataset.name.clone(), look, to_the_end });
            return Ok(());
        }
        let short = match plan {
            LogicalPlan::Join(_) | LogicalPlan::Limit(_) => true,
            LogicalPlan::Sort(sort) => sort.fetch.is_some(),
            _ => false,
        };
        let to_the_end = to_the_end && !short;
        let reach = Reach::of(plan, self.project);
        for (input, child) in plan.inputs().into_iter().enumerate() {
            let (_, below) = reach.of_input(input, Timestamp(0), windowed);
            way.push(Step { reach: reach.clone(), input, windowed });
            self.go(child, way, (below, to_the_end))?;
            way.pop();
        }
        self.subqueries(plan)
    }

    /// Subqueries compare each row with all rows.
    fn subqueries(&mut self, plan: &LogicalPlan) -> Result<()> {
        let mut found = Vec::new();
        plan.apply_expressions(|expr| {
            expr.apply(|expr| {
                found.extend(match expr {
                    Expr::ScalarSubquery(subquery) => Some(subquery.subquery.clone()),
                    Expr::Exists(exists) => Some(exists.subquery.subquery.clone()),
                    Expr::InSubquery(within) => Some(within.subquery.subquery.clone()),
                    _ => None,
                });
                Ok(TreeNodeRecursion::Continue)
            })
        })?;
        found.iter().try_for_each(|plan| self.go(plan, &mut Vec::new(), (true, false)))
    }
}
