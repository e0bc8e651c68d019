//! [`fault`]: what failed on a row, in words: the expression as a user writes it, and why.
//!
//! **Invariant:** the reason holds no value of the row, so that there are as many reasons as expressions; nothing of a
//! library's own vocabulary comes out.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr, CastExpr, Column, Literal, TryCastExpr};
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_expr_common::physical_expr::fmt_sql;

use super::fallible::cast_can_fail;
use super::formula::Erred;
use crate::language::sql_type;
use crate::session::values;

/// Longer values are in the dead letter's row.
const SHOWN: usize = 80;

/// Why a row is dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// The class: `division by zero in amount / pieces`.
    pub(super) reason: String,
    /// The case: `division by zero in amount / pieces, where amount = 5, pieces = 0`.
    pub(super) detail: String,
}

/// The words for what failed on a row.
pub(super) fn fault(erred: &Erred, row: &RecordBatch) -> Fault {
    let culprit = &erred.culprit;
    let written = written(culprit, row, 0);
    if let Some(cast) = culprit.downcast_ref::<CastExpr>() {
        let value = values(cast.expr(), row).map_or_else(|_| "a value".to_owned(), |value| shown(&value));
        let detail = format!("cannot cast {value} to {} in {written}", sql_type(cast.cast_type()));
        return Fault { reason: format!("bad value in {written}"), detail };
    }
    let (class, why) = match root(&erred.error) {
        DataFusionError::ArrowError(error, _) => match error.as_ref() {
            ArrowError::DivideByZero => ("division by zero", None),
            ArrowError::ArithmeticOverflow(_) => ("overflow", None),
            other => ("error", Some(plain(&other.to_string()))),
        },
        other => ("error", Some(plain(&other.strip_backtrace()))),
    };
    let mut detail = match &why {
        None => format!("{class} in {written}"),
        Some(why) => format!("{why}, in {written}"),
    };
    let mut columns: Vec<Column> = collect_columns(culprit).into_iter().collect();
    columns.sort_by_key(Column::index);
    for (n, column) in columns.iter().enumerate() {
        let value = row.columns().get(column.index()).map_or_else(|| "?".to_owned(), shown);
        // Writing to a String does not fail.
        let _ = write!(detail, "{} {} = {value}", if n == 0 { ", where" } else { "," }, column.name());
    }
    Fault { reason: format!("{class} in {written}"), detail }
}

fn root(error: &DataFusionError) -> &DataFusionError {
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => root(inner),
        DataFusionError::Shared(inner) => root(inner),
        other => other,
    }
}

/// A library's message without its class of error, in one line.
fn plain(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let known = [
        "Execution error: ",
        "Arrow error: ",
        "Invalid argument error: ",
        "Parser error: ",
        "Compute error: ",
        "Cast error: ",
    ];
    known.iter().fold(line, |line, prefix| line.strip_prefix(prefix).unwrap_or(line)).to_owned()
}

/// The one value of an array, as in SQL.
fn shown(value: &ArrayRef) -> String {
    if value.is_empty() || value.is_null(0) {
        return "NULL".to_owned();
    }
    let text = ArrayFormatter::try_new(value, &FormatOptions::default()).map(|shown| shown.value(0).to_string());
    let mut text = text.unwrap_or_else(|_| "?".to_owned());
    if text.chars().count() > SHOWN {
        text = text.chars().take(SHOWN).chain(['…']).collect();
    }
    let bare = value.data_type().is_numeric() || *value.data_type() == DataType::Boolean;
    if bare { text } else { format!("'{text}'") }
}

/// An expression as SQL. `outer` is the strength of the operator around it.
fn written(expr: &Arc<dyn PhysicalExpr>, row: &RecordBatch, outer: u8) -> String {
    let inner = |expr: &Arc<dyn PhysicalExpr>| written(expr, row, 0);
    if let Some(column) = expr.downcast_ref::<Column>() {
        return column.name().to_owned();
    }
    if let Some(literal) = expr.downcast_ref::<Literal>() {
        return literal.value().to_array_of_size(1).map_or_else(|_| literal.to_string(), |value| shown(&value));
    }
    if let Some(binary) = expr.downcast_ref::<BinaryExpr>() {
        let strength = strength(*binary.op());
        let text = format!(
            "{} {} {}",
            written(binary.left(), row, strength),
            binary.op(),
            // Operators bind to the left, so an equal one on the right had parentheses.
            written(binary.right(), row, strength + 1)
        );
        return if strength < outer { format!("({text})") } else { text };
    }
    if let Some(cast) = expr.downcast_ref::<CastExpr>() {
        let from = cast.expr().data_type(&row.schema());
        // Casts that cannot fail were put there to make types fit.
        return match from {
            Ok(from) if !cast_can_fail(&from, cast.cast_type()) => written(cast.expr(), row, outer),
            _ => format!("CAST({} AS {})", inner(cast.expr()), sql_type(cast.cast_type())),
        };
    }
    if let Some(cast) = expr.downcast_ref::<TryCastExpr>() {
        return format!("TRY_CAST({} AS {})", inner(cast.expr()), sql_type(cast.cast_type()));
    }
    if let Some(call) = expr.downcast_ref::<ScalarFunctionExpr>() {
        let args: Vec<String> = call.args().iter().map(inner).collect();
        return format!("{}({})", call.name(), args.join(", "));
    }
    fmt_sql(expr.as_ref()).to_string()
}

fn strength(op: Operator) -> u8 {
    match op {
        Operator::Multiply | Operator::Divide | Operator::Modulo => 4,
        Operator::Plus | Operator::Minus => 3,
        Operator::And => 1,
        Operator::Or => 0,
        _ => 2,
    }
}
