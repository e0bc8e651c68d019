//! [`insert_columns`]: the columns of an INSERT's query as the target has them, for both executors.
//!
//! **Invariant:** no value changes on its way into a table: types only widen, and columns never swap silently.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast};
use tidemill_model::{Error, Kind, Result};

use super::lineage::{Meaning, lineage};
use super::planner::lift;
use super::ties::without_order_of_choice;
use crate::language::{Dataset, Insert, Project, sql_type};

/// The query of an INSERT with exactly the target's declared columns, in their order; a target without declared
/// columns takes the query's own.
///
/// # Errors
/// Plan: columns are missing, too many, in another order, or of a type that would lose something.
pub fn insert_columns(plan: LogicalPlan, insert: &Insert, target: &Dataset) -> Result<LogicalPlan> {
    let plan = without_order_of_choice(plan).map_err(|error| lift(&error, &insert.place))?;
    let given: Vec<(Column, Field)> = plan
        .schema()
        .iter()
        .map(|(qualifier, field)| (Column::from((qualifier, field)), field.as_ref().clone()))
        .collect();
    let names: Vec<&str> = given.iter().map(|(_, field)| field.name().as_str()).collect();
    if let Some(twice) = duplicate(&names) {
        return Err(refuse(insert, format!("the query has two columns named `{twice}`"))
            .fact("give one of them another name: AS …"));
    }
    let columns = sources(insert, target, &names)?;
    let mut exprs = Vec::with_capacity(columns.len());
    for (field, source) in columns {
        let expr = match source {
            None => Expr::Literal(null_of(field.data_type()), None),
            Some(at) => fitting(insert, &given[at], &field)?,
        };
        exprs.push(expr.alias(field.name()));
    }
    LogicalPlanBuilder::from(plan)
        .project(exprs)
        .and_then(LogicalPlanBuilder::build)
        .map_err(|error| lift(&error, &insert.place))
}

/// For each column of the target the position of the query's column that goes into it.
fn sources(insert: &Insert, target: &Dataset, names: &[&str]) -> Result<Vec<(Field, Option<usize>)>> {
    let declared: Vec<Field> = target.schema.fields().iter().map(|field| field.as_ref().clone()).collect();
    if declared.is_empty() {
        return own_columns(insert, names);
    }
    let order: Vec<&str> = target.schema.fields().iter().map(|field| field.name().as_str()).collect();
    let listed: Vec<&str> = match (insert.by_name, insert.columns.is_empty()) {
        (true, _) => names.to_vec(),
        (false, false) => insert.columns.iter().map(String::as_str).collect(),
        (false, true) => {
            swapped(insert, &order, names)?;
            order.iter().copied().take(names.len()).collect()
        }
    };
    if let Some(unknown) = listed.iter().find(|name| !order.contains(name)) {
        return Err(refuse(insert, format!("`{}` has no column `{unknown}`", target.name))
            .fact(format!("columns: {}", order.join(", "))));
    }
    if listed.len() != names.len() {
        let message = format!("`{}` takes {} columns here, the query gives {}", target.name, listed.len(), names.len());
        return Err(refuse(insert, message).fact(format!("columns of the query: {}", names.join(", "))));
    }
    let mut columns = Vec::with_capacity(declared.len());
    for field in declared {
        let source = listed.iter().position(|name| name == field.name());
        if source.is_none() && !field.is_nullable() {
            return Err(refuse(insert, format!("`{}` is NOT NULL and the query does not give it", field.name()))
                .fact(format!("columns of the query: {}", names.join(", "))));
        }
        columns.push((field, source));
    }
    Ok(columns)
}

/// The columns of a target that declares none: the query's, under the names of the list if there is one.
fn own_columns(insert: &Insert, names: &[&str]) -> Result<Vec<(Field, Option<usize>)>> {
    if !insert.columns.is_empty() && insert.columns.len() != names.len() {
        let message = format!("{} columns are listed, the query gives {}", insert.columns.len(), names.len());
        return Err(refuse(insert, message));
    }
    let name = |at: usize| insert.columns.get(at).map_or(names[at], String::as_str);
    // The type Null stands for "whatever comes".
    Ok((0..names.len()).map(|at| (Field::new(name(at), DataType::Null, true), Some(at))).collect())
}

/// Refuses a query whose columns have the target's names in another order: by position they would swap.
fn swapped(insert: &Insert, target: &[&str], query: &[&str]) -> Result<()> {
    let same: BTreeSet<&&str> = target.iter().collect();
    if target != query && same == query.iter().collect() {
        return Err(refuse(insert, "the query has the table's columns in another order".to_owned())
            .fact(format!("table: {}", target.join(", ")))
            .fact(format!("query: {}", query.join(", ")))
            .fact("write INSERT INTO t BY NAME SELECT …, or put the SELECT in the table's order"));
    }
    Ok(())
}

fn fitting(insert: &Insert, (column, from): &(Column, Field), to: &Field) -> Result<Expr> {
    let expr = Expr::Column(column.clone());
    let (given, wanted) = (from.data_type(), to.data_type());
    if given == wanted || wanted == &DataType::Null && given != &DataType::Null {
        return Ok(expr);
    }
    if given == &DataType::Null {
        return Ok(Expr::Literal(null_of(if wanted == &DataType::Null { &DataType::Utf8 } else { wanted }), None));
    }
    if widens(given, wanted) {
        return Ok(cast(expr, wanted.clone()));
    }
    let message = format!("`{}` is {} and the query gives {}", to.name(), sql_type(wanted), sql_type(given));
    Err(refuse(insert, message).fact(format!("write CAST({} AS {}) if that is meant", from.name(), sql_type(wanted))))
}

fn null_of(data_type: &DataType) -> ScalarValue {
    ScalarValue::try_from(data_type).unwrap_or(ScalarValue::Null)
}

/// Whether every value of `from` is a value of `to`.
fn widens(from: &DataType, to: &DataType) -> bool {
    use DataType as T;
    let integer = |data_type: &T| match data_type {
        T::Int8 => Some((7, true)),
        T::Int16 => Some((15, true)),
        T::Int32 => Some((31, true)),
        T::Int64 => Some((63, true)),
        T::UInt8 => Some((8, false)),
        T::UInt16 => Some((16, false)),
        T::UInt32 => Some((32, false)),
        T::UInt64 => Some((64, false)),
        _ => None,
    };
    // How many decimal digits hold so many bits.
    let digits = |bits: u32| (f64::from(bits) * std::f64::consts::LOG10_2).ceil() as i32;
    match (from, to) {
        (T::Float16, T::Float32 | T::Float64) | (T::Float32, T::Float64) => true,
        (_, T::Float64) if integer(from).is_some_and(|(bits, _)| bits <= 53) => true,
        (_, T::Float32) if integer(from).is_some_and(|(bits, _)| bits <= 24) => true,
        (T::Decimal128(p, s), T::Decimal128(to_p, to_s)) => {
            to_s >= s && i32::from(*to_p) - i32::from(*to_s) >= i32::from(*p) - i32::from(*s)
        }
        (_, T::Decimal128(p, s)) if integer(from).is_some() => {
            integer(from).is_some_and(|(bits, _)| i32::from(*p) - i32::from(*s) >= digits(bits))
        }
        (T::Utf8 | T::LargeUtf8 | T::Utf8View, T::Utf8 | T::LargeUtf8 | T::Utf8View) => true,
        (T::Dictionary(_, value), _) => value.as_ref() == to || widens(value, to),
        (T::Date32, T::Timestamp(TimeUnit::Microsecond, _)) => true,
        (T::Timestamp(unit, zone), T::Timestamp(TimeUnit::Microsecond, to_zone)) => {
            // Both kinds of timestamps are instants in UTC here; nanoseconds would lose something.
            *unit != TimeUnit::Nanosecond && (zone.is_none() || zone == to_zone || to_zone.is_none())
        }
        _ => match (integer(from), integer(to)) {
            (Some((bits, signed)), Some((to_bits, to_signed))) => to_bits >= bits && (to_signed || !signed),
            _ => false,
        },
    }
}

fn duplicate<'a>(names: &[&'a str]) -> Option<&'a str> {
    let mut seen = BTreeSet::new();
    names.iter().copied().find(|name| !seen.insert(*name))
}

fn refuse(insert: &Insert, message: String) -> Error {
    Error::new(Kind::Plan, "P140", message).at(&insert.place)
}

/// The schema of a plan's result, each column nullable: what a target without declared columns is opened with.
#[must_use]
pub fn result_schema(plan: &LogicalPlan) -> Arc<Schema> {
    let fields: Vec<Field> = plan.schema().fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
    Arc::new(Schema::new(fields))
}

/// The column of an INSERT's result that orders versions of a row when the table names no `sequence`: the event time,
/// if it comes through unchanged.
#[must_use]
pub fn default_sequence(plan: &LogicalPlan, project: &Project) -> Option<String> {
    let meanings = lineage(plan, &|name| Some(project.datasets.get(name)?.watermark.as_ref()?.column.clone()));
    let at = meanings.iter().position(|meaning| matches!(meaning, Meaning::Time { .. }))?;
    Some(plan.schema().field(at).name().clone())
}
