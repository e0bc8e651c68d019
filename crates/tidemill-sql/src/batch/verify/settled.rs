//! [`Reached`]: a query restricted to what a stream has given out: windows that are emitted once are there as soon as time
//! has passed them, and everything else as soon as its rows are.
//!
//! **Invariant:** it follows the plan of a stream (`stream/plan/group.rs`): a GROUP BY over windows is emitted once into a
//! table and below another GROUP BY, and shown as it changes at the top of a view.

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, ExprSchema, Result, ScalarValue};
use datafusion::logical_expr::{Distinct, Expr, Join, LogicalPlan, LogicalPlanBuilder, lit};
use tidemill_model::Watermark;

use crate::batch::locality::times;
use crate::language::Project;
use crate::session::guarded::looked_up;
use crate::session::{Meaning, WindowSize, meaning_of};

/// How far time is, for each dataset.
pub(super) struct Reached<'a> {
    pub(super) project: &'a Project,
    pub(super) watermark: &'a dyn Fn(&str) -> Watermark,
    /// Whether the query is one of a view.
    pub(super) view: bool,
}

/// The window of a GROUP BY.
struct Window {
    /// The column of the result that tells it.
    column: usize,
    is_end: bool,
    size: WindowSize,
    behind: Vec<WindowSize>,
}

impl Reached<'_> {
    /// Restricts a plan, which is neither analysed nor optimised.
    pub(super) fn settled(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        self.settle(plan, !self.view)
    }

    /// `once` is true where windows are emitted once.
    fn settle(&self, plan: LogicalPlan, once: bool) -> Result<LogicalPlan> {
        let window = self.window(&plan);
        let once_below = match (&plan, &window) {
            (_, Some(_)) => true,
            (LogicalPlan::Aggregate(_) | LogicalPlan::Distinct(_), None) => !self.view,
            _ => once,
        };
        let watermark = self.watermark_of(&plan)?;
        let plan = plan.map_children(|child| Ok(Transformed::yes(self.settle(child, once_below)?)))?.data;
        match window {
            Some(window) if once && watermark != Watermark::MAX => closed(plan, &window, watermark),
            _ => Ok(plan),
        }
    }

    /// The window of a plan that groups by one, as a stream chooses it: of several the shortest.
    fn window(&self, plan: &LogicalPlan) -> Option<Window> {
        let meanings: Vec<Meaning> = match plan {
            LogicalPlan::Aggregate(node) => {
                let below = times(&node.input, self.project);
                node.group_expr.iter().map(|expr| meaning_of(expr, &node.input, &below)).collect()
            }
            LogicalPlan::Distinct(Distinct::All(input)) => times(input, self.project),
            _ => return None,
        };
        let bounds = meanings.into_iter().enumerate().filter_map(|(column, meaning)| match meaning {
            Meaning::Start { size, behind } => Some(Window { column, is_end: false, size, behind }),
            Meaning::End { size, behind } => Some(Window { column, is_end: true, size, behind }),
            Meaning::Plain | Meaning::Time { .. } => None,
        });
        let mut bounds: Vec<Window> = bounds.collect();
        let shortest = bounds.iter().map(|window| window.size).min()?;
        bounds.retain(|window| window.size == shortest);
        // The end tells when it closes, of a session it alone does.
        bounds.sort_by_key(|window| !window.is_end);
        bounds.into_iter().next()
    }

    /// How far time is for rows of a plan: no further than for any dataset that it reads by event time.
    fn watermark_of(&self, plan: &LogicalPlan) -> Result<Watermark> {
        let mut least = Watermark::MAX;
        plan.apply(|node| {
            if let LogicalPlan::TableScan(scan) = node {
                let name = scan.table_name.table();
                if self.project.datasets.get(name).is_some_and(|dataset| dataset.watermark.is_some()) {
                    least = least.min((self.watermark)(name));
                }
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(least)
    }
}

/// The rows of a plan whose windows are closed.
fn closed(plan: LogicalPlan, window: &Window, watermark: Watermark) -> Result<LogicalPlan> {
    if watermark == Watermark::MIN {
        return LogicalPlanBuilder::from(plan).filter(lit(false))?.build();
    }
    let time = window.behind.iter().fold(watermark.0, |time, size| size.earliest_open(time));
    let column = Column::from(plan.schema().qualified_field(window.column));
    let data_type = plan.schema().data_type(&column)?.clone();
    let bound =
        |at: i64| -> Result<Expr> { Ok(lit(ScalarValue::TimestampMicrosecond(Some(at), None).cast_to(&data_type)?)) };
    let told = Expr::Column(column);
    let closed = match window.is_end {
        true => told.lt_eq(bound(time)?),
        false => told.lt(bound(window.size.earliest_open(time))?),
    };
    LogicalPlanBuilder::from(plan).filter(closed)?.build()
}

/// Why what a stream has given out of a query cannot be told; `None` when it can.
pub(super) fn untold(plan: &LogicalPlan, project: &Project) -> Option<String> {
    let mut why = None;
    let _ = plan.apply_with_subqueries(|node| {
        let found = match node {
            LogicalPlan::Window(_) => Some("OVER (…)"),
            LogicalPlan::Limit(_) => Some("LIMIT"),
            LogicalPlan::Sort(sort) if sort.fetch.is_some() => Some("LIMIT"),
            LogicalPlan::Distinct(Distinct::On(_)) => Some("DISTINCT ON"),
            LogicalPlan::RecursiveQuery(_) => Some("WITH RECURSIVE"),
            LogicalPlan::Join(join) if is_of_streams(join, project) => Some("a join of two streams"),
            _ => None,
        };
        why = why.or(found);
        Ok(TreeNodeRecursion::Continue)
    });
    why.map(|what| format!("it has {what}, of which is not known yet what a stream has given out"))
}

fn is_of_streams(join: &Join, project: &Project) -> bool {
    looked_up(join, project).is_none()
}
