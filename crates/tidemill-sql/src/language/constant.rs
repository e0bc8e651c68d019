//! [`constant_interval`]: the length of an `INTERVAL '…'` that is written out.
//!
//! **Invariant:** the same text means the same length here as in DataFusion.

use std::time::Duration;

use arrow::compute::kernels::cast_utils::parse_interval_month_day_nano;
use datafusion::sql::sqlparser::ast::{self, Expr, Value};
use tidemill_model::{Error, Kind, Result};

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
