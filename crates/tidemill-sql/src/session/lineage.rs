//! [`lineage`]: what each column of a query says about time: the event time of its row, a bound of its window, or
//! nothing.
//!
//! **Invariant:** a column that is said to tell the time does; when in doubt it does not.

use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Distinct, Expr, Join, JoinType, LogicalPlan};

use super::asof::AsofNode;
use super::bounds::{Between, TimeBounds, time_bounds};
use super::dedup::DedupNode;
use super::over::{Over, over};
use super::size::WindowSize;
use super::tumble::{TUMBLE_END, TUMBLE_START};
use super::window_join::{joined, window_join};
use super::windowing::WindowNode;

/// What a column says about time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// Nothing.
    Plain,
    /// The event time of the row. `behind` are the windows whose starts it is, innermost first: rows may still come
    /// with times as early as the earliest of them that is open.
    Time {
        /// See above.
        behind: Vec<WindowSize>,
    },
    /// The start of the row's window.
    Start {
        /// The window's length.
        size: WindowSize,
        /// As for `Time`, of the time that the window was taken of.
        behind: Vec<WindowSize>,
    },
    /// The end of the row's window.
    End {
        /// The window's length.
        size: WindowSize,
        /// As for `Start`.
        behind: Vec<WindowSize>,
    },
}

impl Meaning {
    /// The column as the time of another window: how far behind the watermark it is; `None` when it tells no time.
    fn as_time(&self) -> Option<Vec<WindowSize>> {
        match self {
            Meaning::Plain => None,
            Meaning::Time { behind } => Some(behind.clone()),
            Meaning::Start { size, behind } => Some(behind.iter().chain([size]).copied().collect()),
            // An unfinished window ends after the watermark.
            Meaning::End { behind, .. } => Some(behind.clone()),
        }
    }

    /// The same column after a GROUP BY that emits each window once: the windows behind have been waited for.
    fn grouped(self) -> Meaning {
        match self {
            Meaning::Start { size, .. } => Meaning::Start { size, behind: Vec::new() },
            Meaning::End { size, .. } => Meaning::End { size, behind: Vec::new() },
            Meaning::Plain | Meaning::Time { .. } => Meaning::Plain,
        }
    }
}

/// The meaning of each column of the plan's result; `event_time` names the event-time column of a dataset.
#[must_use]
pub fn lineage(plan: &LogicalPlan, event_time: &dyn Fn(&str) -> Option<String>) -> Vec<Meaning> {
    let of = |plan: &LogicalPlan| lineage(plan, event_time);
    let plain = || vec![Meaning::Plain; plan.schema().fields().len()];
    match plan {
        LogicalPlan::TableScan(scan) => {
            let time = event_time(scan.table_name.table());
            let meaning = |name: &String| match &time {
                Some(time) if time == name => Meaning::Time { behind: Vec::new() },
                _ => Meaning::Plain,
            };
            scan.projected_schema.fields().iter().map(|field| meaning(field.name())).collect()
        }
        LogicalPlan::Projection(node) => {
            let input = of(&node.input);
            node.expr.iter().map(|expr| meaning_of(expr, &node.input, &input)).collect()
        }
        LogicalPlan::Filter(node) => of(&node.input),
        LogicalPlan::SubqueryAlias(node) => of(&node.input),
        LogicalPlan::Sort(node) => of(&node.input),
        LogicalPlan::Extension(_) => {
            if let Some(node) = AsofNode::of(plan) {
                let mut meanings = plain();
                // The other side's rows are of any time before.
                meanings[node.times.0] = of(&node.left).swap_remove(node.times.0);
                return meanings;
            }
            if let Some(node) = DedupNode::of(plan) {
                return of(&node.input);
            }
            let Some(node) = WindowNode::of(plan) else { return plain() };
            let mut meanings = of(&node.input);
            let size = node.size;
            let bounds = match meaning_of(&node.time, &node.input, &meanings).as_time() {
                Some(behind) => [Meaning::Start { size, behind: behind.clone() }, Meaning::End { size, behind }],
                None => [Meaning::Plain, Meaning::Plain],
            };
            meanings.extend(bounds);
            meanings
        }
        LogicalPlan::Aggregate(node) => {
            let input = of(&node.input);
            let mut meanings: Vec<Meaning> =
                node.group_expr.iter().map(|expr| meaning_of(expr, &node.input, &input).grouped()).collect();
            meanings.resize(plan.schema().fields().len(), Meaning::Plain);
            meanings
        }
        LogicalPlan::Union(node) => {
            let mut inputs = node.inputs.iter().map(|input| of(input));
            let Some(first) = inputs.next() else { return plain() };
            inputs.fold(first, |all, next| {
                all.into_iter().zip(next).map(|(a, b)| if a == b { a } else { Meaning::Plain }).collect()
            })
        }
        LogicalPlan::Join(node) => {
            let (left, right) = (of(&node.left), of(&node.right));
            if let Between::Both(bounds, _) = time_bounds(node, &left, &right) {
                return of_time_join(node, bounds);
            }
            if let Some(told) = window_join(node, &left, &right) {
                let meanings = joined(node.join_type, &told, left, right);
                return if meanings.len() == plan.schema().fields().len() { meanings } else { plain() };
            }
            let meanings = match node.join_type {
                JoinType::Inner | JoinType::Left | JoinType::Right => [left, right].concat(),
                JoinType::LeftSemi | JoinType::LeftAnti => left,
                JoinType::RightSemi | JoinType::RightAnti => right,
                _ => return plain(),
            };
            if meanings.len() == plan.schema().fields().len() { meanings } else { plain() }
        }
        LogicalPlan::Distinct(Distinct::All(input)) => of(input).into_iter().map(Meaning::grouped).collect(),
        LogicalPlan::Window(node) => {
            let input = of(&node.input);
            let mut meanings = match over(&node.window_expr, &node.input, &input) {
                Over::Window(told) => told.closed(input),
                Over::Range { after: 0, .. } => input,
                Over::Range { .. } | Over::Endless(_) => return plain(),
            };
            meanings.resize(plan.schema().fields().len(), Meaning::Plain);
            meanings
        }
        _ => plain(),
    }
}

/// Of a join in time only the columns that it compares tell the time of its result, which the watermark is held back for.
fn of_time_join(join: &Join, bounds: TimeBounds) -> Vec<Meaning> {
    let left = join.left.schema().fields().len();
    let mut meanings = vec![Meaning::Plain; join.schema.fields().len()];
    let told = match join.join_type {
        JoinType::LeftSemi | JoinType::LeftAnti => vec![bounds.left],
        JoinType::RightSemi | JoinType::RightAnti => vec![bounds.right],
        JoinType::LeftMark | JoinType::RightMark => Vec::new(),
        _ => vec![bounds.left, left + bounds.right],
    };
    for column in told {
        meanings[column] = Meaning::Time { behind: Vec::new() };
    }
    meanings
}

/// The meaning of an expression over the columns of `input`.
#[must_use]
pub fn meaning_of(expr: &Expr, input: &LogicalPlan, meanings: &[Meaning]) -> Meaning {
    match expr {
        Expr::Alias(alias) => meaning_of(&alias.expr, input, meanings),
        Expr::Column(column) => {
            let index = input.schema().index_of_column(column).ok();
            index.and_then(|index| meanings.get(index)).cloned().unwrap_or(Meaning::Plain)
        }
        Expr::ScalarFunction(call) if call.name() == TUMBLE_START || call.name() == TUMBLE_END => {
            let [time, parts @ ..] = call.args.as_slice() else { return Meaning::Plain };
            let parts: Vec<i64> = parts.iter().filter_map(constant).collect();
            let size = parts.try_into().ok().and_then(WindowSize::from_parts);
            match (size, meaning_of(time, input, meanings).as_time()) {
                (Some(size), Some(behind)) if call.name() == TUMBLE_START => Meaning::Start { size, behind },
                (Some(size), Some(behind)) => Meaning::End { size, behind },
                _ => Meaning::Plain,
            }
        }
        _ => Meaning::Plain,
    }
}

fn constant(expr: &Expr) -> Option<i64> {
    match expr {
        Expr::Literal(ScalarValue::Int64(value), _) => *value,
        _ => None,
    }
}
