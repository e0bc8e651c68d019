//! [`Types`]: what a type name in SQL means. Time is always in microseconds.
//!
//! **Invariant:** no expression of a pipeline has a nanosecond timestamp unless a source gave one.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::common::{Result, plan_err};
use datafusion::logical_expr::planner::TypePlanner;
use datafusion::sql::sqlparser::ast;

/// Our reading of type names, before DataFusion's.
#[derive(Debug)]
pub(super) struct Types;

impl TypePlanner for Types {
    fn plan_type_field(&self, sql_type: &ast::DataType) -> Result<Option<FieldRef>> {
        Ok(self::sql_type(sql_type)?.map(|data_type| Arc::new(Field::new("", data_type, true))))
    }
}

/// The Arrow type of the SQL types whose meaning is ours; `None` leaves the others to DataFusion.
///
/// # Errors
/// Plan, for a precision that microseconds cannot hold.
pub fn sql_type(sql_type: &ast::DataType) -> Result<Option<DataType>> {
    let (precision, zone) = match sql_type {
        ast::DataType::Timestamp(precision, zone) => (precision, zone),
        ast::DataType::Datetime(precision) => (precision, &ast::TimezoneInfo::None),
        ast::DataType::TimestampNtz(precision) => (precision, &ast::TimezoneInfo::None),
        _ => return Ok(None),
    };
    if let Some(digits) = precision.filter(|digits| *digits > 6) {
        return plan_err!("time has microseconds: TIMESTAMP({digits}) cannot be kept, write TIMESTAMP or TIMESTAMP(6)");
    }
    let zone = match zone {
        ast::TimezoneInfo::Tz | ast::TimezoneInfo::WithTimeZone => Some(Arc::from("UTC")),
        ast::TimezoneInfo::None | ast::TimezoneInfo::WithoutTimeZone => None,
    };
    Ok(Some(DataType::Timestamp(TimeUnit::Microsecond, zone)))
}
