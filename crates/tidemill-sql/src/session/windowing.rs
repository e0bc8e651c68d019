//! [`WindowNode`]: `HOP(…)` and `SESSION(…)` in a plan, until an executor makes of them what it computes them by.
//!
//! A stream takes the node as it is. For everything else [`ExpandWindows`] turns it into plain relations before
//! DataFusion optimises: hopping windows into a list of starts that is unnested, sessions into OVER.
//!
//! **Invariant:** the rows of the node are those of its input, once for each window they are in, with `window_start` and
//! `window_end` as last columns; expanding it changes neither.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DFSchema, DFSchemaRef, Result, ScalarValue, UnnestOptions, plan_err};
use datafusion::functions_aggregate::min_max::{max_udaf, min_udaf};
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::functions_window::lead_lag::lag_udwf;
use datafusion::logical_expr::expr::{ScalarFunction, WindowFunction};
use datafusion::logical_expr::{
    Expr, ExprFunctionExt, ExprSchemable, Extension, LogicalPlan, LogicalPlanBuilder, UserDefinedLogicalNodeCore,
    WindowFrame, WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition, cast, lit, when,
};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

use super::size::WindowSize;
use super::tumble::WindowBounds;

/// The name of the column with the start of a window.
pub const WINDOW_START: &str = "window_start";
/// The name of the column with the end of a window.
pub const WINDOW_END: &str = "window_end";

/// `HOP(…)` or `SESSION(…)` over a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowNode {
    /// The rows; none has a NULL for its time.
    pub input: LogicalPlan,
    /// The time of a row, a TIMESTAMP.
    pub time: Expr,
    /// The windows.
    pub size: WindowSize,
    /// What sessions are apart by.
    pub keys: Vec<Expr>,
    schema: DFSchemaRef,
}

impl WindowNode {
    /// The node over rows whose time is not NULL.
    ///
    /// # Errors
    /// Plan.
    pub fn new(input: LogicalPlan, time: Expr, size: WindowSize, keys: Vec<Expr>) -> Result<WindowNode> {
        let time_type = time.get_type(input.schema())?;
        if !matches!(time_type, DataType::Timestamp(TimeUnit::Microsecond, _)) {
            return plan_err!("a window needs a TIMESTAMP or DATE column, not {time_type}");
        }
        let columns = input.schema().iter().map(|(of, field)| (of.cloned(), Arc::clone(field)));
        let bounds = [WINDOW_START, WINDOW_END].map(|name| (None, Arc::new(Field::new(name, time_type.clone(), true))));
        let schema = DFSchema::new_with_metadata(columns.chain(bounds).collect(), input.schema().metadata().clone())?;
        Ok(WindowNode { input, time, size, keys, schema: Arc::new(schema) })
    }

    /// The node of a plan, if it is one.
    #[must_use]
    pub fn of(plan: &LogicalPlan) -> Option<&WindowNode> {
        match plan {
            LogicalPlan::Extension(extension) => extension.node.as_any().downcast_ref::<WindowNode>(),
            _ => None,
        }
    }

    /// The node as a plan.
    #[must_use]
    pub fn plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(self) })
    }

    /// The columns of the node.
    #[must_use]
    pub fn columns(&self) -> &DFSchemaRef {
        &self.schema
    }

    /// The input with two expressions in the place of the windows' bounds.
    ///
    /// # Errors
    /// Plan.
    pub fn with_bounds(&self, start: Expr, end: Expr) -> Result<LogicalPlan> {
        let mut columns = super::guarded::columns(self.input.schema());
        columns.push(start.alias(WINDOW_START));
        columns.push(end.alias(WINDOW_END));
        LogicalPlanBuilder::from(self.input.clone()).project(columns)?.build()
    }

    /// A function of a time and the windows' size.
    #[must_use]
    pub fn bound(&self, function: datafusion::logical_expr::ScalarUDF, time: Expr) -> Expr {
        let args = std::iter::once(time).chain(self.size.to_parts().map(lit)).collect();
        Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(function), args))
    }

    fn expanded(&self) -> Result<LogicalPlan> {
        match self.size {
            WindowSize::Session { gap } => self.sessions(gap),
            WindowSize::Micros { .. } | WindowSize::Months { .. } => self.hops(),
        }
    }

    fn hops(&self) -> Result<LogicalPlan> {
        let mut columns = super::guarded::columns(self.input.schema());
        columns.push(self.bound(WindowBounds::starts(), self.time.clone()).alias(WINDOW_START));
        let start = Column::new_unqualified(WINDOW_START);
        let lists = LogicalPlanBuilder::from(self.input.clone()).project(columns)?;
        let rows = lists
            .unnest_column_with_options(start.clone(), UnnestOptions::new().with_preserve_nulls(false))?
            .build()?;
        let mut columns = super::guarded::columns(self.input.schema());
        columns.push(Expr::Column(start.clone()));
        columns.push(self.bound(WindowBounds::end_of(), Expr::Column(start)).alias(WINDOW_END));
        LogicalPlanBuilder::from(rows).project(columns)?.build()
    }

    /// By key and in the order of time: a row that its predecessor is a gap away from begins a session, sessions are
    /// numbered by counting those rows, and each has its first and last time.
    fn sessions(&self, gap: i64) -> Result<LogicalPlan> {
        const NEW: &str = "__session_begins";
        const NUMBER: &str = "__session";
        let micros = |time: Expr| cast(time, DataType::Int64);
        let column = |name: &str| Expr::Column(Column::new_unqualified(name));
        let over =
            |function: WindowFunctionDefinition, args: Vec<Expr>, by: Vec<Expr>, ordered: bool| -> Result<Expr> {
                let call = Expr::from(WindowFunction::new(function, args)).partition_by(by);
                if !ordered {
                    let null = || ScalarValue::UInt64(None);
                    return call
                        .window_frame(WindowFrame::new_bounds(
                            WindowFrameUnits::Rows,
                            WindowFrameBound::Preceding(null()),
                            WindowFrameBound::Following(null()),
                        ))
                        .build();
                }
                call.order_by(vec![self.time.clone().sort(true, false)])
                    .window_frame(WindowFrame::new_bounds(
                        WindowFrameUnits::Rows,
                        WindowFrameBound::Preceding(ScalarValue::UInt64(None)),
                        WindowFrameBound::CurrentRow,
                    ))
                    .build()
            };
        let columns = super::guarded::columns(self.input.schema());
        let lag = over(
            WindowFunctionDefinition::WindowUDF(lag_udwf()),
            vec![micros(self.time.clone())],
            self.keys.clone(),
            true,
        )?;
        let lagged = LogicalPlanBuilder::from(self.input.clone()).window(vec![lag.alias(NEW)])?;
        let begins = when((micros(self.time.clone()) - column(NEW)).lt(lit(gap)), lit(0_i64)).otherwise(lit(1_i64))?;
        let begins = lagged.project(columns.iter().cloned().chain([begins.alias(NEW)]))?;
        let number = WindowFunctionDefinition::AggregateUDF(sum_udaf());
        let number = over(number, vec![column(NEW)], self.keys.clone(), true)?;
        let numbered = begins.window(vec![number.alias(NUMBER)])?;
        let by: Vec<Expr> = self.keys.iter().cloned().chain([column(NUMBER)]).collect();
        let first = WindowFunctionDefinition::AggregateUDF(min_udaf());
        let last = WindowFunctionDefinition::AggregateUDF(max_udaf());
        let first = over(first, vec![self.time.clone()], by.clone(), false)?.alias(WINDOW_START);
        let last = over(last, vec![self.time.clone()], by, false)?.alias(WINDOW_END);
        let bounded = numbered.window(vec![first, last])?;
        let mut columns = columns;
        columns.push(column(WINDOW_START));
        columns.push(self.bound(WindowBounds::end_of(), column(WINDOW_END)).alias(WINDOW_END));
        bounded.project(columns)?.build()
    }
}

impl UserDefinedLogicalNodeCore for WindowNode {
    fn name(&self) -> &str {
        "Windows"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        std::iter::once(&self.time).chain(&self.keys).cloned().collect()
    }

    /// A condition may be applied before when it takes away all rows of a window or none: that of a row's own columns
    /// where its windows do not depend on other rows, of the keys where they do.
    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        let bounds = [WINDOW_START, WINDOW_END].map(str::to_owned);
        let is_key =
            |field: &Field| self.keys.iter().any(|key| matches!(key, Expr::Column(c) if c.name == *field.name()));
        let others = self.input.schema().fields().iter().filter(|field| match self.size {
            WindowSize::Session { .. } => !is_key(field),
            WindowSize::Micros { .. } | WindowSize::Months { .. } => false,
        });
        bounds.into_iter().chain(others.map(|field| field.name().clone())).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Windows: {} of {}", self.size, self.time)
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<WindowNode> {
        let mut exprs = exprs.into_iter();
        match (inputs.pop(), exprs.next()) {
            (Some(input), Some(time)) => WindowNode::new(input, time, self.size, exprs.collect()),
            _ => plan_err!("windows need rows and their time"),
        }
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let of_input = self.input.schema().fields().len();
        Some(vec![output_columns.iter().copied().filter(|at| *at < of_input).collect()])
    }
}

impl PartialOrd for WindowNode {
    fn partial_cmp(&self, other: &WindowNode) -> Option<Ordering> {
        self.input.partial_cmp(&other.input)
    }
}

impl Hash for WindowNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.input, &self.time, self.size, &self.keys).hash(state);
    }
}

/// Puts plain relations in the place of [`WindowNode`]s.
#[derive(Debug)]
pub(super) struct ExpandWindows;

impl OptimizerRule for ExpandWindows {
    fn name(&self) -> &str {
        "expand_windows"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(&self, plan: LogicalPlan, _config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        match WindowNode::of(&plan) {
            Some(node) => Ok(Transformed::yes(node.expanded()?)),
            None => Ok(Transformed::no(plan)),
        }
    }
}
