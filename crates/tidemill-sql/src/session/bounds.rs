//! [`time_bounds`]: how far apart the event times of the two rows of a join may be.
//!
//! **Invariant:** a pair of rows that the join lets through lies within the bounds; whoever applies the bounds and the
//! rest of the condition applies the whole condition.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{Column, DFSchema, ExprSchema, ScalarValue};
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{Expr, Join, Operator};

use super::lineage::Meaning;

/// Three thousand years: time plus or minus so much is a time that the arithmetic of both executors can hold.
const MOST: i64 = 94_670_856_000_000_000;

/// The bounds on a pair: `least <= right time - left time <= most`, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeBounds {
    /// The column of the left side with its event time.
    pub left: usize,
    /// The column of the right side with its event time.
    pub right: usize,
    /// How far the right time is after the left one at least; negative when it may be before.
    pub least: i64,
    /// How far the right time is after the left one at most.
    pub most: i64,
}

impl TimeBounds {
    /// How far the left time may be after the right one; not less than zero.
    #[must_use]
    pub fn before(self) -> i64 {
        self.least.saturating_neg().max(0)
    }

    /// How far the right time may be after the left one; not less than zero.
    #[must_use]
    pub fn after(self) -> i64 {
        self.most.max(0)
    }
}

/// What a join says about the event times of both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Between {
    /// They are at most so far apart, and the pair meets what else there is to meet.
    Both(TimeBounds, Option<Expr>),
    /// There is a bound on one side alone.
    OneSided,
    /// Nothing.
    Nothing,
}

/// A time column and what is added to it.
pub(super) type Term = (Column, i64);

/// Two terms and how they compare.
pub(super) type Comparison = (Term, Operator, Term);

/// A pair of time columns, of the left and the right side, and what is known of it.
struct Found {
    left: usize,
    right: usize,
    least: Option<i64>,
    most: Option<i64>,
    /// Which parts of the condition said so.
    parts: Vec<usize>,
}

/// What a join says about the event times of both sides, whose columns mean this.
#[must_use]
pub fn time_bounds(join: &Join, left: &[Meaning], right: &[Meaning]) -> Between {
    let parts: Vec<&Expr> = join.filter.iter().flat_map(|filter| split_conjunction(filter)).collect();
    let mut found: Vec<Found> = Vec::new();
    let index = |schema: &DFSchema, column: &Column, meanings: &[Meaning]| {
        let at = schema.maybe_index_of_column(column)?;
        matches!(meanings.get(at), Some(Meaning::Time { behind }) if behind.is_empty()).then_some(at)
    };
    let mut take = |(one, op, other): Comparison, part: Option<usize>| {
        let sides =
            |l: &Column, r: &Column| Some((index(join.left.schema(), l, left)?, index(join.right.schema(), r, right)?));
        let (at, op, from, to) = match (sides(&one.0, &other.0), sides(&other.0, &one.0)) {
            (Some(at), _) => (at, Some(op), one.1, other.1),
            (None, Some(at)) => (at, op.swap(), other.1, one.1),
            (None, None) => return,
        };
        // left + from OP right + to, so right - left is bounded by from - to.
        let bound = from - to;
        let (least, most) = match op {
            Some(Operator::LtEq) => (Some(bound), None),
            Some(Operator::Lt) => (Some(bound + 1), None),
            Some(Operator::GtEq) => (None, Some(bound)),
            Some(Operator::Gt) => (None, Some(bound - 1)),
            Some(Operator::Eq) => (Some(bound), Some(bound)),
            _ => return,
        };
        let place = found.iter().position(|known| (known.left, known.right) == at).unwrap_or_else(|| {
            found.push(Found { left: at.0, right: at.1, least: None, most: None, parts: Vec::new() });
            found.len() - 1
        });
        let known = &mut found[place];
        known.least = known.least.max(least);
        known.most = match (known.most, most) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        known.parts.extend(part);
    };
    for (one, other) in &join.on {
        if let (Some(one), Some(other)) = (term(one), term(other)) {
            take((one, Operator::Eq, other), None);
        }
    }
    for (number, part) in parts.iter().enumerate() {
        for comparison in comparisons(part).into_iter().flatten() {
            take(comparison, Some(number));
        }
    }
    let whole = found.iter().find_map(|found| Some((found, found.least?, found.most?)));
    match whole {
        Some((found, least, most)) => {
            let rest = parts.iter().enumerate().filter(|(number, _)| !found.parts.contains(number));
            let rest = conjunction(rest.map(|(_, part)| (*part).clone()));
            Between::Both(TimeBounds { left: found.left, right: found.right, least, most }, rest)
        }
        None if found.is_empty() => Between::Nothing,
        None => Between::OneSided,
    }
}

/// Whether an expression only compares times with each other, give or take a length of time: it cannot fail.
#[must_use]
pub fn compares_times(expr: &Expr, schema: &DFSchema) -> bool {
    let is_time = |(column, _): &Term| {
        let field = schema.field_from_column(column);
        field.is_ok_and(|field| matches!(field.data_type(), DataType::Timestamp(TimeUnit::Microsecond, _)))
    };
    comparisons(expr).is_some_and(|all| all.iter().all(|(one, _, other)| is_time(one) && is_time(other)))
}

/// The comparisons of times that an expression consists of.
pub(super) fn comparisons(expr: &Expr) -> Option<Vec<Comparison>> {
    match expr {
        Expr::BinaryExpr(binary) => {
            use Operator::{Eq, Gt, GtEq, Lt, LtEq};
            matches!(binary.op, Eq | Gt | GtEq | Lt | LtEq).then_some(())?;
            Some(vec![(term(&binary.left)?, binary.op, term(&binary.right)?)])
        }
        Expr::Between(between) if !between.negated => {
            let middle = term(&between.expr)?;
            let low = (middle.clone(), Operator::GtEq, term(&between.low)?);
            Some(vec![low, (middle, Operator::LtEq, term(&between.high)?)])
        }
        _ => None,
    }
}

/// `column`, `column + INTERVAL`, `INTERVAL + column` or `column - INTERVAL`, however often.
pub(super) fn term(expr: &Expr) -> Option<Term> {
    match expr {
        Expr::Column(column) => Some((column.clone(), 0)),
        Expr::Alias(alias) => term(&alias.expr),
        // Both kinds of timestamps are instants; a cast between them moves nothing.
        Expr::Cast(cast) if matches!(cast.field.data_type(), DataType::Timestamp(TimeUnit::Microsecond, _)) => {
            term(&cast.expr)
        }
        Expr::BinaryExpr(binary) => {
            let (inner, by) = match binary.op {
                Operator::Plus => match length(&binary.right) {
                    Some(by) => (&binary.left, by),
                    None => (&binary.right, length(&binary.left)?),
                },
                Operator::Minus => (&binary.left, -length(&binary.right)?),
                _ => return None,
            };
            let (column, before) = term(inner)?;
            let by = before.checked_add(by)?;
            (by.abs() <= MOST).then_some((column, by))
        }
        _ => None,
    }
}

/// A constant length of time in microseconds; months have none.
fn length(expr: &Expr) -> Option<i64> {
    const DAY: i64 = 86_400_000_000;
    let Expr::Literal(value, _) = expr else { return None };
    let micros = match value {
        ScalarValue::IntervalMonthDayNano(Some(length)) if length.months == 0 && length.nanoseconds % 1_000 == 0 => {
            i64::from(length.days).checked_mul(DAY)?.checked_add(length.nanoseconds / 1_000)?
        }
        ScalarValue::IntervalDayTime(Some(length)) => {
            i64::from(length.days).checked_mul(DAY)?.checked_add(i64::from(length.milliseconds) * 1_000)?
        }
        ScalarValue::DurationMicrosecond(Some(length)) => *length,
        _ => return None,
    };
    (micros.abs() <= MOST).then_some(micros)
}
