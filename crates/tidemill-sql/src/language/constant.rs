//! [`constant_interval`]: the length of an `INTERVAL '…'` that is written out; [`table_part`]: a condition of constants.
//!
//! **Invariant:** the same text means the same length here as in DataFusion.

use std::time::Duration;

use arrow::compute::kernels::cast_utils::parse_interval_month_day_nano;
use datafusion::sql::sqlparser::ast::{self, Expr, Value};
use tidemill_model::{Error, Kind, Result};
use tidemill_runtime::TablePart;

const DAY: i128 = 86_400_000_000;

/// The length of `INTERVAL '10 seconds'`, `INTERVAL '1' MINUTE` and the like; 0 or more, days are 24 hours.
///
/// # Errors
/// Plan, without a place: it is no interval, negative, of months, or not in whole microseconds.
pub fn constant_interval(expr: &Expr) -> Result<Duration> {
    let bad = |why: &str| {
        Error::new(Kind::Plan, "P114", format!("`{expr}` is not a length of time: {why}"))
            .fact("write it as INTERVAL '10 seconds', INTERVAL '1 minute', INTERVAL '2 hours'")
    };
    let Expr::Interval(ast::Interval { value, leading_field, last_field: None, .. }) = expr else {
        return Err(bad("expected INTERVAL '…'"));
    };
    let number = match value.as_ref() {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => text.clone(),
            Value::Number(text, _) => text.to_string(),
            _ => return Err(bad("expected a text or a number")),
        },
        _ => return Err(bad("it must be written out")),
    };
    let text = match leading_field {
        Some(field) => format!("{number} {field}"),
        None => number,
    };
    let parsed = parse_interval_month_day_nano(&text).map_err(|error| bad(&error.to_string()))?;
    if parsed.months != 0 {
        return Err(bad("months and years differ in length"));
    }
    if parsed.nanoseconds % 1000 != 0 {
        return Err(bad("times are microseconds here"));
    }
    let micros = i128::from(parsed.days) * DAY + i128::from(parsed.nanoseconds / 1000);
    u64::try_from(micros).map(Duration::from_micros).map_err(|_| bad("it is negative"))
}

/// The part of a table that the condition of a REPLACE WHERE names.
///
/// # Errors
/// Plan, without a place: it is more than columns that have constants.
pub(super) fn table_part(condition: &Expr) -> Result<TablePart> {
    let mut part = TablePart::default();
    let mut left = vec![condition];
    while let Some(expr) = left.pop() {
        match expr {
            Expr::Nested(inner) => left.push(inner),
            Expr::BinaryOp { left: one, op: ast::BinaryOperator::And, right: other } => left.extend([&**other, &**one]),
            Expr::BinaryOp { left: column, op: ast::BinaryOperator::Eq, right: value } => {
                part = part.only(&column_of(column, expr)?, [Some(text_of(value, expr)?)]);
            }
            Expr::InList { expr: column, list, negated: false } => {
                let values = list.iter().map(|value| text_of(value, expr).map(Some));
                part = part.only(&column_of(column, expr)?, values.collect::<Result<Vec<_>>>()?);
            }
            Expr::IsNull(column) => part = part.only(&column_of(column, expr)?, [None]),
            _ => return Err(no_part(expr)),
        }
    }
    Ok(part)
}

fn column_of(column: &Expr, whole: &Expr) -> Result<String> {
    match column {
        // As everywhere, a name without quotes is in small letters.
        Expr::Identifier(name) if name.quote_style.is_none() => Ok(name.value.to_lowercase()),
        Expr::Identifier(name) => Ok(name.value.clone()),
        _ => Err(no_part(whole)),
    }
}

/// A constant as text that casts to the type of its column.
fn text_of(value: &Expr, whole: &Expr) -> Result<String> {
    match value {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => Ok(text.clone()),
            Value::Number(text, _) => Ok(text.to_string()),
            Value::Boolean(truth) => Ok(truth.to_string()),
            _ => Err(no_part(whole)),
        },
        Expr::TypedString(ast::TypedString { value, .. }) => match &value.value {
            Value::SingleQuotedString(text) => Ok(text.clone()),
            _ => Err(no_part(whole)),
        },
        Expr::UnaryOp { op: ast::UnaryOperator::Minus, expr } => Ok(format!("-{}", text_of(expr, whole)?)),
        Expr::Nested(inner) => text_of(inner, whole),
        _ => Err(no_part(whole)),
    }
}

fn no_part(expr: &Expr) -> Error {
    Error::new(Kind::Plan, "P121", format!("`{expr}` does not say which part of a table is replaced")).fact(
        "write columns that have constants: REPLACE WHERE region = 'eu' AND country IN ('de', 'fr'), or column IS NULL",
    )
}
