//! [`Reached`]: a query restricted to what a stream has given out: windows that are emitted once are there as soon as time
//! has passed them, and everything else as soon as its rows are.
//!
//! **Invariant:** it follows the plan of a stream (`stream/plan/group.rs`, `lateness.rs`): a GROUP BY over windows is emitted
//! once into a table and below other windows, and shown as it changes at the top of a view and with `emit = 'changes'`.
//! With an allowed lateness the first is there when it closes if it is corrected after that, and else when it is final.

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, ExprSchema, Result, ScalarValue};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{Distinct, Expr, LogicalPlan, LogicalPlanBuilder, lit};
use tidemill_model::Watermark;

use crate::batch::locality::times;
use crate::language::Project;
use crate::session::guarded::looked_up;
use crate::session::{
    AsofNode, DedupNode, Meaning, ORDERED_AGGREGATES, Over, WindowNode, WindowSize, meaning_of, over,
};
use crate::stream::subtracts;

/// How far time is, for each dataset.
pub(super) struct Reached<'a> {
    pub(super) project: &'a Project,
    pub(super) watermark: &'a dyn Fn(&str) -> Watermark,
    /// Whether windows at the top are shown as they change: in a view, and with `emit = 'changes'`.
    pub(super) changes: bool,
    /// How long after they have closed windows take late rows, in microseconds.
    pub(super) lateness: i64,
    /// Whether the rows of a dataset are taken back.
    pub(super) changelog: &'a dyn Fn(&str) -> bool,
    /// Types plans as they were when the stream was planned.
    pub(super) state: &'a SessionState,
}

/// When a window is there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    /// From its first row on.
    Open,
    /// When it has closed: it is corrected after that, unless it is made of what late rows have been waited for.
    Closed,
    /// When it is final.
    Final,
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
        self.settle(plan, if self.changes { When::Open } else { When::Closed })
    }

    fn settle(&self, plan: LogicalPlan, when: When) -> Result<LogicalPlan> {
        let window = self.window(&plan);
        // What is chosen among results of windows takes those that are final.
        let chooses = waits_for_order(&plan) || matches!(plan, LogicalPlan::Window(_));
        let below = if window.is_some() || chooses { When::Final } else { when };
        let holds = waits_for_order(&plan) || window.is_some() && when != When::Open && self.holds_rows(&plan)?;
        let mut when = if holds { When::Final } else { when };
        if when == When::Closed && self.is_of_windows(&plan)? {
            when = When::Final;
        }
        let reached = self.watermark_of(&plan)?;
        let watermark = if when == When::Final { reached.behind(self.lateness) } else { reached };
        let plan = plan.map_children(|child| Ok(Transformed::yes(self.settle(child, below)?)))?.data;
        if let Some(node) = DedupNode::of(&plan).filter(|_| reached != Watermark::MAX) {
            // It waits for no late row.
            let time = node.time;
            return before(plan, time, reached);
        }
        match window {
            Some(window) if when != When::Open && watermark != Watermark::MAX => closed(plan, &window, watermark),
            _ => Ok(plan),
        }
    }

    /// Whether a GROUP BY over rows that change holds them until its windows are final: some aggregate has no inverse.
    fn holds_rows(&self, plan: &LogicalPlan) -> Result<bool> {
        if !self.changes(plan) {
            return Ok(false);
        }
        let config = self.state.config_options();
        let typed = self.state.analyzer().execute_and_check(plan.clone(), config, |_, _| {})?;
        let mut holds = false;
        typed.apply(|node| match node {
            LogicalPlan::Aggregate(node) => {
                holds = !subtracts(node)?;
                Ok(TreeNodeRecursion::Stop)
            }
            _ => Ok(TreeNodeRecursion::Continue),
        })?;
        Ok(holds)
    }

    /// Whether rows of a plan are taken back, as a stream sees it: those that are looked up are met as they stand.
    fn changes(&self, plan: &LogicalPlan) -> bool {
        match plan {
            LogicalPlan::TableScan(scan) => (self.changelog)(scan.table_name.table()),
            LogicalPlan::Window(_) => false,
            LogicalPlan::Join(join) => match looked_up(join, self.project) {
                Some(true) => self.changes(&join.right),
                Some(false) => self.changes(&join.left),
                None => false,
            },
            other if AsofNode::of(other).is_some() => false,
            other => other.inputs().into_iter().any(|input| self.changes(input)),
        }
    }

    /// Whether windows are below a plan.
    fn is_of_windows(&self, plan: &LogicalPlan) -> Result<bool> {
        let mut found = false;
        for input in plan.inputs() {
            found |= input.exists(|node| Ok(self.window(node).is_some()))?;
        }
        Ok(found)
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

/// Whether a GROUP BY has aggregates that depend on the order of rows: its windows are given out once everywhere.
fn waits_for_order(plan: &LogicalPlan) -> bool {
    let LogicalPlan::Aggregate(node) = plan else { return false };
    node.aggr_expr.iter().any(|expr| match expr.clone().unalias() {
        Expr::AggregateFunction(call) => {
            ORDERED_AGGREGATES.contains(&call.func.name())
                || !call.params.order_by.is_empty() && !call.func.inner().supports_within_group_clause()
        }
        _ => false,
    })
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

/// The rows of a plan that time has passed.
fn before(plan: LogicalPlan, time: usize, watermark: Watermark) -> Result<LogicalPlan> {
    let column = Column::from(plan.schema().qualified_field(time));
    let data_type = plan.schema().data_type(&column)?.clone();
    let bound = lit(ScalarValue::TimestampMicrosecond(Some(watermark.0), None).cast_to(&data_type)?);
    LogicalPlanBuilder::from(plan).filter(Expr::Column(column).lt(bound))?.build()
}

/// Why what a stream has given out of a query before its input has ended cannot be told; `None` when it can.
pub(super) fn untold(plan: &LogicalPlan, project: &Project) -> Option<String> {
    let mut why = None;
    // Visiting fails only when the closure does.
    let _ = plan.apply_with_subqueries(|node| {
        let found = match node {
            // What is chosen among rows of all time is given out as it changes.
            LogicalPlan::Window(window)
                if matches!(
                    over(&window.window_expr, &window.input, &times(&window.input, project)),
                    Over::Endless(_)
                ) =>
            {
                None
            }
            LogicalPlan::Window(_) => Some("OVER (…)"),
            LogicalPlan::Limit(_) => Some("LIMIT"),
            LogicalPlan::Sort(sort) if sort.fetch.is_some() => Some("LIMIT"),
            LogicalPlan::Distinct(Distinct::On(_)) => Some("DISTINCT ON"),
            LogicalPlan::Join(join) if looked_up(join, project).is_none() => Some("a join of two streams"),
            LogicalPlan::Extension(_) if WindowNode::of(node).is_none() && DedupNode::of(node).is_none() => {
                Some("a join of two streams")
            }
            _ => None,
        };
        why = why.or(found);
        Ok(TreeNodeRecursion::Continue)
    });
    why.map(|what| {
        format!(
            "it has {what}: which of its rows the stream has given out is known only once its input has ended, with bounded = 'true'"
        )
    })
}
