//! [`Windows`]: the window relations of FROM, planned as projections or as [`WindowNode`]s; and DEDUP, which is written alike.
//!
//! **Invariant:** a window relation of `t` is `t` with two more columns, a row for each window that a row of `t` is in;
//! rows without a time are in none.

use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{Column, DFSchema, ExprSchema, Result, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast, lit};
use datafusion::sql::sqlparser::ast::{self, FunctionArg, FunctionArgExpr, ObjectName, ObjectNamePart, TableFactor};
use tidemill_model::{Error, Kind};

use super::dedup::dedup;
use super::size::WindowSize;
use super::tumble::WindowBounds;
use super::windowing::{WINDOW_END, WINDOW_START, WindowNode};

/// Plans `TUMBLE(…)`, `HOP(…)`, `SESSION(…)` and `DEDUP(…)`; refuses the windows that are not there yet.
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
        let usage = match name.to_string().to_ascii_lowercase().as_str() {
            "tumble" => &TUMBLE,
            "hop" => &HOP,
            "session" => &SESSION,
            "dedup" => &DEDUP,
            "cumulate" => {
                return Err(refuse(
                    "CUMULATE windows are not available yet",
                    "use TUMBLE(table, time column, INTERVAL '…'); a coarser window can be computed over a finer one",
                ));
            }
            _ => return Ok(RelationPlanning::Original(Box::new(relation))),
        };
        let plan = Call::read(usage, &args.args)?.plan(context)?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias.clone()))))
    }
}

/// How one of the functions is written.
struct Usage {
    name: &'static str,
    /// How many arguments without a name it has.
    arguments: usize,
    advice: &'static str,
}

const TUMBLE: Usage = Usage {
    name: "TUMBLE",
    arguments: 3,
    advice: "write TUMBLE(table or (query), time column, INTERVAL '1 minute'), and OFFSET => INTERVAL '…' if needed",
};

const HOP: Usage = Usage {
    name: "HOP",
    arguments: 4,
    advice: "write HOP(table or (query), time column, INTERVAL 'how often', INTERVAL 'how long'), and OFFSET => INTERVAL '…' if needed",
};

const SESSION: Usage = Usage {
    name: "SESSION",
    arguments: 3,
    advice: "write SESSION(table or (query), time column, INTERVAL 'longest silence', PARTITION BY key column, …)",
};

const DEDUP: Usage = Usage {
    name: "DEDUP",
    arguments: 3,
    advice: "write DEDUP(table or (query), time column, INTERVAL 'how long a row keeps its duplicates away', PARTITION BY key column, …)",
};

/// One of the functions as it was called.
struct Call<'a> {
    usage: &'static Usage,
    positional: Vec<&'a ast::Expr>,
    offset: Option<&'a ast::Expr>,
    keys: Vec<&'a ast::Expr>,
}

impl<'a> Call<'a> {
    fn read(usage: &'static Usage, args: &'a [FunctionArg]) -> Result<Call<'a>> {
        let mut call = Call { usage, positional: Vec::new(), offset: None, keys: Vec::new() };
        for arg in args {
            let (name, expr) = match arg {
                // The first key is named PARTITION by the parser, the others follow it.
                FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) if call.keys.is_empty() => {
                    call.positional.push(expr);
                    continue;
                }
                FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => ("partition".to_owned(), expr),
                FunctionArg::Named { name, arg: FunctionArgExpr::Expr(expr), .. } => (name.value.to_lowercase(), expr),
                FunctionArg::ExprNamed { name, arg: FunctionArgExpr::Expr(expr), .. } => {
                    (name.to_string().to_lowercase(), expr)
                }
                other => return Err(call.refuse(format!("{} does not know the argument `{other}`", usage.name))),
            };
            match (name.as_str(), usage.name) {
                ("offset", "TUMBLE" | "HOP") => call.offset = Some(expr),
                ("partition", "SESSION" | "DEDUP") => call.keys.push(expr),
                _ => return Err(call.refuse(format!("{} does not know the argument `{arg}`", usage.name))),
            }
        }
        if call.positional.len() != usage.arguments {
            let words = ["no", "one", "two", "three", "four"];
            let (name, found) = (usage.name, call.positional.len());
            return Err(call.refuse(format!("{name} takes {} arguments, not {found}", words[usage.arguments])));
        }
        Ok(call)
    }

    fn plan(&self, context: &mut dyn RelationPlannerContext) -> Result<LogicalPlan> {
        let [input, time, lengths @ ..] = self.positional.as_slice() else {
            return Err(self.refuse(format!("{} needs a table and its time", self.usage.name)));
        };
        let input = context.plan(self.table_of(input)?)?;
        let time = context.sql_to_expr((*time).clone(), input.schema())?;
        let Expr::Column(time) = time else {
            return Err(self.refuse(format!("{} needs a time column, not `{time}`", self.usage.name)));
        };
        let lengths = lengths.iter().map(|length| self.interval(length, context)).collect::<Result<Vec<_>>>()?;
        let offset = self.offset.map(|offset| self.interval(offset, context)).transpose()?;
        let keys = self.keys.iter().map(|key| self.key(key, &input, context)).collect::<Result<Vec<_>>>()?;
        if let ("DEDUP", [ttl]) = (self.usage.name, lengths.as_slice()) {
            return dedup(input, &time, *ttl, &keys, &|why| self.refuse(why));
        }
        let mut keys = keys;
        let size = match (self.usage.name, lengths.as_slice()) {
            ("TUMBLE", [size]) => WindowSize::new(*size, offset),
            ("HOP", [slide, size]) => WindowSize::sliding(*slide, *size, offset),
            (_, [gap]) => WindowSize::session(*gap),
            _ => Err("the windows have no length".to_owned()),
        };
        let size = size.map_err(|reason| self.refuse(reason))?;

        // A window over a windowed result replaces the older bounds; without that every mention of them is ambiguous.
        let is_bound = |name: &str| name == WINDOW_START || name == WINDOW_END;
        let mut columns: Vec<Expr> = input
            .schema()
            .iter()
            .filter(|(_, field)| !is_bound(field.name()))
            .map(|(qualifier, field)| Expr::Column(Column::from((qualifier, field))))
            .collect();
        let replaces = columns.len() < input.schema().fields().len();
        let timed = LogicalPlanBuilder::from(input).filter(Expr::Column(time.clone()).is_not_null())?;
        if size.tiles() {
            let bound = |function| {
                let args = std::iter::once(Expr::Column(time.clone())).chain(size.to_parts().map(lit)).collect();
                Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(function), args))
            };
            columns.push(bound(WindowBounds::start()).alias(WINDOW_START));
            columns.push(bound(WindowBounds::end()).alias(WINDOW_END));
            return timed.project(columns)?.build();
        }
        let (plan, time) = self.kept(timed.build()?, columns, replaces, time, &mut keys)?;
        Ok(WindowNode::new(plan, time, size, keys)?.plan())
    }

    /// A column of PARTITION BY.
    fn key(&self, key: &ast::Expr, input: &LogicalPlan, context: &mut dyn RelationPlannerContext) -> Result<Expr> {
        match context.sql_to_expr(key.clone(), input.schema())? {
            Expr::Column(column) => Ok(Expr::Column(column)),
            other => {
                let message = format!("PARTITION BY takes columns here, not `{other}`");
                let name = self.usage.name;
                Err(refuse(message, &format!("compute it in a query: {name}((SELECT …, … AS key FROM …), …)")))
            }
        }
    }

    /// The rows without older bounds, and the time as it is called there.
    fn kept(
        &self,
        plan: LogicalPlan,
        mut columns: Vec<Expr>,
        replaces: bool,
        time: Column,
        keys: &mut [Expr],
    ) -> Result<(LogicalPlan, Expr)> {
        const AT: &str = "__window_time";
        let time_type = plan.schema().data_type(&time)?.clone();
        let to = match &time_type {
            DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
            DataType::Date32 | DataType::Date64 => DataType::Timestamp(TimeUnit::Microsecond, None),
            other => return Err(self.refuse(format!("a window needs a TIMESTAMP or DATE column, not {other}"))),
        };
        let of_bound = |expr: &Expr| matches!(expr, Expr::Column(c) if c.name == WINDOW_START || c.name == WINDOW_END);
        if let Some(key) = keys.iter().find(|key| of_bound(key)) {
            return Err(self.refuse(format!("`{key}` is the bound of an older window; give it another name first")));
        }
        // A bound of an older window that is the time is kept under a name of its own.
        let is_replaced = replaces && of_bound(&Expr::Column(time.clone()));
        let told = Expr::Column(time.clone());
        if is_replaced {
            columns.push(told.alias(AT));
            let plan = LogicalPlanBuilder::from(plan).project(columns)?.build()?;
            return Ok((plan, Expr::Column(Column::new_unqualified(AT))));
        }
        let plan = if replaces { LogicalPlanBuilder::from(plan).project(columns)?.build()? } else { plan };
        Ok((plan, if time_type == to { told } else { cast(told, to) }))
    }

    /// The table or query in the first argument, as FROM would have it.
    fn table_of(&self, input: &ast::Expr) -> Result<TableFactor> {
        let idents = match input {
            ast::Expr::Identifier(ident) => vec![ident.clone()],
            ast::Expr::CompoundIdentifier(idents) => idents.clone(),
            ast::Expr::Subquery(subquery) => {
                return Ok(TableFactor::Derived {
                    lateral: false,
                    subquery: subquery.clone(),
                    alias: None,
                    sample: None,
                });
            }
            other => {
                let name = self.usage.name;
                return Err(self.refuse(format!("{name} needs a table or a query in parentheses, not `{other}`")));
            }
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
        &self,
        expr: &ast::Expr,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<arrow::datatypes::IntervalMonthDayNano> {
        match context.sql_to_expr(expr.clone(), &DFSchema::empty())? {
            Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(interval)), _) => Ok(interval),
            _ => Err(self.refuse(format!("`{expr}` is not a constant length of time"))),
        }
    }

    fn refuse(&self, message: impl Into<String>) -> DataFusionError {
        refuse(message, self.usage.advice)
    }
}

fn refuse(message: impl Into<String>, advice: &str) -> DataFusionError {
    DataFusionError::External(Box::new(Error::new(Kind::Plan, "P120", message).fact(advice)))
}
