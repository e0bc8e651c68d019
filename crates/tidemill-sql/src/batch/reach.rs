//! [`Reach`]: how far back in time a node of a query looks at what it reads.
//!
//! **Invariant:** what a run reads and what is foretold of it follow from the same answers.

use datafusion::common::Column;
use datafusion::logical_expr::{Expr, LogicalPlan};
use tidemill_model::Timestamp;

use super::locality::{time_join, times};
use crate::language::Project;
use crate::session::{
    AsofNode, DedupNode, Meaning, Over, TimeBounds, WINDOW_END, WindowNode, WindowSize, meaning_of, over,
};

/// What a node does with the time of its inputs.
#[derive(Debug, Clone)]
pub(super) enum Reach {
    /// It gives rows on as they come.
    Rows,
    /// It joins two inputs in time.
    Pairs(TimeBounds),
    /// ASOF JOIN: it looks for the newest row before, at most so many microseconds older.
    Newest { within: Option<i64> },
    /// DEDUP by this column: only all rows before tell which of them stay.
    First { time: usize },
    /// OVER frames of a time that reach so many microseconds back and ahead.
    Frame { time: Column, before: i64, after: i64 },
    /// It assigns windows, which end at this column.
    Window { end: Column, size: WindowSize },
}

impl Reach {
    /// That of a node of a plan which is neither analysed nor optimised.
    pub(super) fn of(plan: &LogicalPlan, project: &Project) -> Reach {
        if let LogicalPlan::Join(join) = plan
            && let Some(bounds) = time_join(join, project)
        {
            return Reach::Pairs(bounds);
        }
        if let Some(node) = AsofNode::of(plan) {
            return Reach::Newest { within: node.within };
        }
        if let Some(node) = DedupNode::of(plan) {
            return Reach::First { time: node.time };
        }
        if let Some((time, before, after)) = frame(plan, project) {
            return Reach::Frame { time, before, after };
        }
        window_end(plan, project).map_or(Reach::Rows, |(end, size)| Reach::Window { end, size })
    }

    /// The first instant that is needed of the input of this number for results from an instant on, and whether its
    /// rows are windowed: which results an interval owns is chosen above them. `windowed` says that of the results.
    pub(super) fn of_input(&self, at: usize, from: Timestamp, windowed: bool) -> (Timestamp, bool) {
        const ALL: Timestamp = Timestamp(i64::MIN);
        let back = |by: i64, and: i64| Timestamp(from.0.saturating_sub(by).saturating_sub(and));
        match self {
            Reach::Rows => (from, windowed),
            Reach::Pairs(bounds) => (back(bounds.before(), bounds.after()), true),
            Reach::Newest { .. } if at == 0 => (from, windowed),
            Reach::Newest { within } => (within.map_or(ALL, |within| back(within, 0)), true),
            Reach::First { .. } => (ALL, true),
            // A row of a frame that looks ahead is final that much later.
            Reach::Frame { before, after, .. } => (back(*before, *after), true),
            // A session may have begun at any time, so that only all rows before tell what it is.
            Reach::Window { size: WindowSize::Session { .. }, .. } => (ALL, true),
            // The time of what stands above may be a window's end, so that the one that ends at `from` counts there.
            Reach::Window { size, .. } if windowed => (Timestamp(size.earliest_open(from.0.saturating_sub(1))), true),
            Reach::Window { size, .. } => (Timestamp(size.earliest_open(from.0)), true),
        }
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
