//! [`Over`]: how far an `OVER (…)` looks in time, which says when its rows are final and which interval owns them.
//!
//! **Invariant:** what is said to be bounded needs no row outside of the bound; when in doubt it is endless.

use arrow::datatypes::{DataType, IntervalUnit};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::{Sort, WindowFunction};
use datafusion::logical_expr::{
    Expr, LogicalPlan, WindowFrame, WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition,
};

use super::lineage::Meaning;
use super::size::WindowSize;

/// Aggregates whose answer depends on the order of rows.
pub const ORDERED_AGGREGATES: &[&str] = &["first_value", "last_value", "nth_value", "array_agg", "string_agg"];

const DAY: i64 = 86_400_000_000;

/// The reach of the calls of an `OVER (…)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Over {
    /// The rows of one window: each call has this column of the input in its PARTITION BY.
    Window(Told),
    /// The rows of an event time not more than `before` µs earlier and `after` µs later, by this column of the input.
    Range {
        /// The column.
        time: usize,
        /// How far back, in microseconds.
        before: i64,
        /// How far ahead, in microseconds.
        after: i64,
    },
    /// Rows of all time, for this reason.
    Endless(&'static str),
}

/// A column that tells the window of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The column.
    pub column: usize,
    /// Whether it is the window's end rather than its start.
    pub is_end: bool,
    /// The window's length.
    pub size: WindowSize,
    /// See [`Meaning::Start`].
    pub behind: Vec<WindowSize>,
}

impl Told {
    /// The window that a column of this meaning tells.
    #[must_use]
    pub fn by(column: usize, meaning: &Meaning) -> Option<Told> {
        match meaning {
            // When a session ends is not told by its start.
            Meaning::Start { size: WindowSize::Session { .. }, .. }
            | Meaning::End { size: WindowSize::Session { .. }, .. } => None,
            Meaning::Start { size, behind } => {
                Some(Told { column, is_end: false, size: *size, behind: behind.clone() })
            }
            Meaning::End { size, behind } => Some(Told { column, is_end: true, size: *size, behind: behind.clone() }),
            Meaning::Plain | Meaning::Time { .. } => None,
        }
    }

    /// The watermark of the column's times, given that of the rows.
    #[must_use]
    pub fn time_at(&self, watermark: i64) -> i64 {
        self.behind.iter().fold(watermark, |watermark, window| window.earliest_open(watermark))
    }

    /// What columns mean after rows were held until their window closed: only what is known to lie in the window still
    /// tells the time.
    #[must_use]
    pub fn closed(&self, meanings: Vec<Meaning>) -> Vec<Meaning> {
        let closed = |meaning| match meaning {
            Meaning::Start { size, behind } if size == self.size && behind == self.behind => {
                Meaning::Start { size, behind: Vec::new() }
            }
            Meaning::End { size, behind } if size == self.size && behind == self.behind => {
                Meaning::End { size, behind: Vec::new() }
            }
            Meaning::Time { behind } if behind == self.behind => Meaning::Time { behind: vec![self.size] },
            _ => Meaning::Plain,
        };
        meanings.into_iter().map(closed).collect()
    }
}

/// The call in an expression of a window node.
#[must_use]
pub fn call_of(expr: &Expr) -> Option<&WindowFunction> {
    match expr {
        Expr::Alias(alias) => call_of(&alias.expr),
        Expr::WindowFunction(call) => Some(call),
        _ => None,
    }
}

/// How far these calls over the rows of `input` look.
#[must_use]
pub fn over(calls: &[Expr], input: &LogicalPlan, meanings: &[Meaning]) -> Over {
    let mut functions = Vec::with_capacity(calls.len());
    for expr in calls {
        let Some(call) = call_of(expr) else { return Over::Endless("it is no call with OVER") };
        functions.push(call);
    }
    match windows(&functions, input, meanings) {
        Some(told) => Over::Window(told),
        None => ranges(&functions, input, meanings),
    }
}

/// The window that all calls are partitioned by.
fn windows(calls: &[&WindowFunction], input: &LogicalPlan, meanings: &[Meaning]) -> Option<Told> {
    let told = |expr: &Expr| {
        let Expr::Column(column) = expr else { return None };
        let at = input.schema().maybe_index_of_column(column)?;
        Told::by(at, meanings.get(at)?)
    };
    let same = |a: &Told, b: &Told| (a.size, &a.behind) == (b.size, &b.behind);
    let (first, others) = calls.split_first()?;
    first.params.partition_by.iter().filter_map(told).find(|found| {
        let has = |call: &&WindowFunction| call.params.partition_by.iter().filter_map(told).any(|t| same(&t, found));
        others.iter().all(has)
    })
}

fn ranges(calls: &[&WindowFunction], input: &LogicalPlan, meanings: &[Meaning]) -> Over {
    let mut reach: Option<(usize, i64, i64)> = None;
    for call in calls {
        let time = match call.params.order_by.as_slice() {
            // Rows that were held until a window closed come after their time.
            [Sort { expr: Expr::Column(column), asc: true, .. }] => {
                let at = input.schema().maybe_index_of_column(column);
                at.filter(|at| meanings.get(*at) == Some(&Meaning::Time { behind: Vec::new() }))
            }
            _ => None,
        };
        let Some(time) = time else { return Over::Endless("it is not ordered by the event time") };
        let WindowFunctionDefinition::AggregateUDF(function) = &call.fun else {
            return Over::Endless("its function looks at all rows before");
        };
        if ORDERED_AGGREGATES.contains(&function.name()) {
            return Over::Endless("rows of the same time have no order in it");
        }
        let Some((before, after)) = frame(&call.params.window_frame) else {
            return Over::Endless("its frame has no bound in time");
        };
        reach = match reach {
            None => Some((time, before, after)),
            Some((at, b, a)) if at == time => Some((at, b.max(before), a.max(after))),
            Some(_) => return Over::Endless("it is ordered by two times"),
        };
    }
    match reach {
        Some((time, before, after)) => Over::Range { time, before, after },
        None => Over::Endless("it is no call with OVER"),
    }
}

/// How far a frame reaches back and ahead, in microseconds.
fn frame(frame: &WindowFrame) -> Option<(i64, i64)> {
    if frame.units != WindowFrameUnits::Range {
        return None;
    }
    let before = match &frame.start_bound {
        WindowFrameBound::Preceding(length) => micros(length)?,
        WindowFrameBound::CurrentRow => 0,
        WindowFrameBound::Following(length) => micros(length).map(|_| 0)?,
    };
    let after = match &frame.end_bound {
        WindowFrameBound::Preceding(length) => micros(length).map(|_| 0)?,
        WindowFrameBound::CurrentRow => 0,
        WindowFrameBound::Following(length) => micros(length)?,
    };
    Some((before, after))
}

/// A length of time, not less than it is: a month counts as 31 days. `None` when it has no bound.
fn micros(length: &ScalarValue) -> Option<i64> {
    let ScalarValue::IntervalMonthDayNano(Some(interval)) =
        length.cast_to(&DataType::Interval(IntervalUnit::MonthDayNano)).ok()?
    else {
        return None;
    };
    let days = i64::from(interval.months) * 31 + i64::from(interval.days);
    let rest = interval.nanoseconds.checked_add(999)?.div_euclid(1_000);
    days.checked_mul(DAY)?.checked_add(rest).filter(|length| *length >= 0)
}
