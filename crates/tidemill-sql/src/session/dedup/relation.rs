//! [`dedup`]: DEDUP as it is called in FROM.
//!
//! **Invariant:** errors say how it is written.

use std::sync::Arc;

use arrow::datatypes::{DataType, IntervalMonthDayNano, TimeUnit};
use datafusion::common::{Column, Result};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};

use super::DedupNode;

const DAY: i64 = 86_400_000_000;

/// The rows that stay of a plan. `refuse` makes an error of what is wrong.
pub(in crate::session) fn dedup(
    input: LogicalPlan,
    time: &Column,
    ttl: IntervalMonthDayNano,
    keys: &[Expr],
    refuse: &dyn Fn(String) -> DataFusionError,
) -> Result<LogicalPlan> {
    if ttl.months != 0 {
        return Err(refuse("the ttl of DEDUP cannot be in months, which differ in length".to_owned()));
    }
    let micros = i64::from(ttl.days).checked_mul(DAY).and_then(|days| days.checked_add(ttl.nanoseconds / 1_000));
    let Some(ttl) = micros.filter(|micros| *micros > 0) else {
        return Err(refuse("the ttl of DEDUP must be positive".to_owned()));
    };
    if keys.is_empty() {
        return Err(refuse("DEDUP needs PARTITION BY: what rows are duplicates by".to_owned()));
    }
    let rows = LogicalPlanBuilder::from(input).filter(Expr::Column(time.clone()).is_not_null())?.build()?;
    let schema = rows.schema();
    let at = schema.index_of_column(time)?;
    let data_type = schema.field(at).data_type();
    if !matches!(data_type, DataType::Timestamp(TimeUnit::Microsecond, _)) {
        return Err(refuse(format!("DEDUP goes by a TIMESTAMP column, and `{time}` is a {data_type}")));
    }
    let columns = keys.iter().flat_map(Expr::column_refs);
    let keys = columns.map(|key| schema.index_of_column(key)).collect::<Result<Vec<usize>>>()?;
    if keys.contains(&at) {
        return Err(refuse(format!("`{time}` cannot be the time and in PARTITION BY")));
    }
    Ok(DedupNode { input: Arc::new(rows), time: at, ttl, keys }.plan())
}
