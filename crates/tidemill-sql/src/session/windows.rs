//! [`Windows`]: the window relations of FROM, planned as plain projections.
//!
//! **Invariant:** `TUMBLE(t, ts, size)` is `t` with two computed columns; rows without a time are in no window.

use std::sync::Arc;

use datafusion::common::{Column, DFSchema, Result, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, lit};
use datafusion::sql::sqlparser::ast::{self, FunctionArg, FunctionArgExpr, ObjectName, ObjectNamePart, TableFactor};
use tidemill_model::{Error, Kind};

use super::size::WindowSize;
use super::tumble::WindowBounds;

/// Plans `TUMBLE(…)`; refuses the windows that are not there yet.
#[derive(Debug)]
pub(super) struct Windows;

impl RelationPlanner for Windows {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let TableFactor::Table { name, args: Some(args), alias, .. } = &relation else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        match name.to_string().to_ascii_lowercase().as_str() {
            "tumble" => {
                let plan = tumble(&args.args, context)?;
                Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias.clone()))))
            }
            word @ ("hop" | "cumulate" | "session") => Err(refuse(
                format!("{} windows are not available yet", word.to_ascii_uppercase()),
                "use TUMBLE(table, time column, INTERVAL '…'); a coarser window can be computed over a finer one",
            )),
            _ => Ok(RelationPlanning::Original(Box::new(relation))),
        }
    }
}

const USAGE: &str =
    "write TUMBLE(table or (query), time column, INTERVAL '1 minute'), and OFFSET => INTERVAL '…' if needed";

fn tumble(
    args: &[FunctionArg],
    context: &mut dyn RelationPlannerContext,
) -> Result<datafusion::logical_expr::LogicalPlan> {
    let mut positional = Vec::new();
    let mut offset = None;
    for arg in args {
        match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => positional.push(expr),
            FunctionArg::Named { name, arg: FunctionArgExpr::Expr(expr), .. }
                if name.value.eq_ignore_ascii_case("offset") =>
            {
                offset = Some(expr);
            }
            FunctionArg::ExprNamed { name, arg: FunctionArgExpr::Expr(expr), .. }
                if name.to_string().eq_ignore_ascii_case("offset") =>
            {
                offset = Some(expr);
            }
            other => return Err(refuse(format!("TUMBLE does not know the argument `{other}`"), USAGE)),
        }
    }
    let [input, time, size] = positional.as_slice() else {
        return Err(refuse(format!("TUMBLE takes three arguments, not {}", positional.len()), USAGE));
    };
    let input = context.plan(table_of(input)?)?;
    let time = context.sql_to_expr((*time).clone(), input.schema())?;
    let Expr::Column(time) = time else {
        return Err(refuse(format!("TUMBLE needs a time column, not `{time}`"), USAGE));
    };
    let size = interval(size, context)?;
    let offset = offset.map(|offset| interval(offset, context)).transpose()?;
    let size = WindowSize::new(size, offset).map_err(|reason| refuse(reason, USAGE))?;

    // A window over a windowed result replaces the older bounds; without that every mention of them is ambiguous.
    let mut columns: Vec<Expr> = input
        .schema()
        .iter()
        .filter(|(_, field)| field.name() != "window_start" && field.name() != "window_end")
        .map(|(qualifier, field)| Expr::Column(Column::from((qualifier, field))))
        .collect();
    let bound = |function| {
        let mut args = vec![Expr::Column(time.clone())];
        args.extend(size.to_parts().map(lit));
        Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(function), args))
    };
    columns.push(bound(WindowBounds::start()).alias("window_start"));
    columns.push(bound(WindowBounds::end()).alias("window_end"));
    LogicalPlanBuilder::from(input).filter(Expr::Column(time.clone()).is_not_null())?.project(columns)?.build()
}

/// The table or query in the first argument, as FROM would have it.
fn table_of(input: &ast::Expr) -> Result<TableFactor> {
    let idents = match input {
        ast::Expr::Identifier(ident) => vec![ident.clone()],
        ast::Expr::CompoundIdentifier(idents) => idents.clone(),
        ast::Expr::Subquery(subquery) => {
            return Ok(TableFactor::Derived { lateral: false, subquery: subquery.clone(), alias: None, sample: None });
        }
        other => return Err(refuse(format!("TUMBLE needs a table or a query in parentheses, not `{other}`"), USAGE)),
    };
    Ok(TableFactor::Table {
        name: ObjectName(idents.into_iter().map(ObjectNamePart::Identifier).collect()),
        alias: None,
        args: None,
        with_hints: Vec::new(),
        version: None,
        with_ordinality: false,
        partitions: Vec::new(),
        json_path: None,
        sample: None,
        index_hints: Vec::new(),
    })
}

fn interval(
    expr: &ast::Expr,
    context: &mut dyn RelationPlannerContext,
) -> Result<arrow::datatypes::IntervalMonthDayNano> {
    match context.sql_to_expr(expr.clone(), &DFSchema::empty())? {
        Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(interval)), _) => Ok(interval),
        _ => Err(refuse(format!("`{expr}` is not a constant length of time"), USAGE)),
    }
}

fn refuse(message: impl Into<String>, advice: &str) -> DataFusionError {
    DataFusionError::External(Box::new(Error::new(Kind::Plan, "P120", message).fact(advice)))
}
