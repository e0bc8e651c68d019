//! [`complete`]: every ordered choice gets a whole order, so that it is a function of the rows and not of how they came:
//! first the written keys, then (for aggregates without ORDER BY first of all) the event time, then all other columns
//! that the query needs there, by name, ascending, NULLs last.
//!
//! It works on a plan as it was written, before any optimiser, so that every mode completes the same order. Peers keep
//! their meaning: RANK, DENSE_RANK and RANGE frames stay as they are. Columns of nested types decide no tie.
//!
//! **Invariant:** columns keep their names; a query without ordered choices stays as it is.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, Result};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams, Sort, WindowFunction};
use datafusion::logical_expr::{
    Aggregate, Distinct, DistinctOn, Expr, LogicalPlan, LogicalPlanBuilder, Projection, Window, WindowFrameUnits,
    WindowFunctionDefinition,
};

use super::guarded::{columns, has_subquery};
use super::lineage::{Meaning, lineage};
use super::over::{ORDERED_AGGREGATES, call_of};

/// Functions of OVER that choose by the order of rows.
const ORDERED_CALLS: &[&str] = &["row_number", "lag", "lead", "ntile"];
/// Functions of OVER that choose by the order of the rows in their frame.
const ORDERED_IN_FRAME: &[&str] = &["first_value", "last_value", "nth_value", "array_agg", "string_agg"];

/// How names of the columns begin that DISTINCT ON chooses.
const CHOSEN: &str = "__first_";

/// The columns of a plan's result that something above needs; `None` is all of them.
type Needed = Option<HashSet<Column>>;

/// See the module; `event_time` names the event-time column of a dataset.
pub(super) fn complete(
    plan: LogicalPlan,
    state: &SessionState,
    event_time: &dyn Fn(&str) -> Option<String>,
) -> Result<LogicalPlan> {
    Ties { state, event_time }.walk(plan, &None)
}

/// A plan whose rows nobody reads in order, without the order that DISTINCT ON gives to its answer.
pub(super) fn without_order_of_choice(plan: LogicalPlan) -> Result<LogicalPlan> {
    match plan {
        LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_) | LogicalPlan::Filter(_) => {
            Ok(plan.map_children(|child| Ok(Transformed::yes(without_order_of_choice(child)?)))?.data)
        }
        LogicalPlan::Sort(sort) if sort.fetch.is_none() && is_choice(&sort.input) => {
            Ok(Arc::unwrap_or_clone(sort.input))
        }
        plan => Ok(plan),
    }
}

fn is_choice(plan: &LogicalPlan) -> bool {
    let LogicalPlan::Aggregate(node) = plan else { return false };
    let chosen = |expr: &Expr| matches!(expr, Expr::Alias(alias) if alias.name.starts_with(CHOSEN));
    !node.aggr_expr.is_empty() && node.aggr_expr.iter().all(chosen)
}

struct Ties<'a> {
    state: &'a SessionState,
    event_time: &'a dyn Fn(&str) -> Option<String>,
}

impl Ties<'_> {
    fn walk(&self, plan: LogicalPlan, needed: &Needed) -> Result<LogicalPlan> {
        let below = below(&plan, needed);
        let plan = plan.map_subqueries(|query| Ok(Transformed::yes(self.walk(query, &None)?)))?.data;
        let mut inputs = below.iter();
        let plan = plan.map_children(|child: LogicalPlan| {
            let needed = inputs.next().cloned().flatten();
            Ok(Transformed::yes(self.walk(child, &needed)?))
        })?;
        let needed = below.into_iter().next().flatten();
        match plan.data {
            LogicalPlan::Window(node) => window(node, &needed),
            LogicalPlan::Aggregate(node) => self.aggregate(node, &needed),
            LogicalPlan::Distinct(Distinct::On(node)) => self.distinct_on(node, &needed),
            plan => Ok(plan),
        }
    }

    /// The event time of a plan's rows, or the start of their windows.
    fn time(&self, plan: &LogicalPlan) -> Option<Column> {
        let meanings = lineage(plan, self.event_time);
        let find = |wanted: fn(&Meaning) -> bool| meanings.iter().position(wanted);
        let at = find(|meaning| matches!(meaning, Meaning::Time { .. }))
            .or_else(|| find(|meaning| matches!(meaning, Meaning::Start { .. })))?;
        Some(Column::from(plan.schema().qualified_field(at)))
    }

    fn aggregate(&self, node: Aggregate, needed: &Needed) -> Result<LogicalPlan> {
        let ordered = |call: &AggregateFunction| {
            let params = &call.params;
            ORDERED_AGGREGATES.contains(&call.func.name())
                || !params.order_by.is_empty() && !call.func.inner().supports_within_group_clause()
        };
        let is_ordered = |expr: &Expr| matches!(bare(expr), Expr::AggregateFunction(call) if ordered(call));
        if !node.aggr_expr.iter().any(is_ordered) {
            return Ok(LogicalPlan::Aggregate(node));
        }
        let time = self.time(&node.input);
        let mut calls = Vec::with_capacity(node.aggr_expr.len());
        for expr in node.aggr_expr {
            let (relation, field) = (None::<&str>, expr.schema_name().to_string());
            calls.push(match expr.unalias() {
                Expr::AggregateFunction(mut call) if ordered(&call) => {
                    self.order(&mut call.params, time.as_ref(), node.input.schema(), needed);
                    Expr::AggregateFunction(call).alias_qualified(relation, field)
                }
                other => {
                    let named = other.schema_name().to_string() == field;
                    if named { other } else { other.alias(field) }
                }
            });
        }
        Ok(LogicalPlan::Aggregate(Aggregate::try_new(node.input, node.group_expr, calls)?))
    }

    fn order(&self, params: &mut AggregateFunctionParams, time: Option<&Column>, input: &DFSchema, needed: &Needed) {
        if params.distinct {
            // Equal values are one, so the values themselves are the whole order.
            if params.order_by.is_empty()
                && let Some(value) = params.args.first()
            {
                params.order_by.push(ascending(value.clone()));
            }
            return;
        }
        if params.order_by.is_empty() {
            params.order_by.extend(time.map(|time| ascending(Expr::Column(time.clone()))));
        }
        let rest = rest(&params.order_by, input, needed);
        params.order_by.extend(rest);
    }

    /// DISTINCT ON as the GROUP BY that it is; what is selected of its keys stays a key.
    fn distinct_on(&self, node: DistinctOn, needed: &Needed) -> Result<LogicalPlan> {
        let DistinctOn { on_expr, select_expr, sort_expr, input, schema } = node;
        let Some(first_value) = self.state.aggregate_functions().get("first_value") else {
            return datafusion::common::internal_err!("there is no first_value");
        };
        let written = sort_expr.unwrap_or_default();
        let mut order = written.clone();
        if order.is_empty() {
            order.extend(self.time(&input).map(|time| ascending(Expr::Column(time))));
        }
        order.extend(rest(&order, input.schema(), needed));
        let mut firsts: Vec<Expr> = Vec::new();
        let mut selected = Vec::with_capacity(select_expr.len());
        for expr in &select_expr {
            let value = expr.clone().unalias();
            if let Some(key) = on_expr.iter().position(|on| *on == value) {
                selected.push(key);
                continue;
            }
            let mut call =
                AggregateFunction::new_udf(Arc::clone(first_value), vec![value], false, None, order.clone(), None);
            call.params.null_treatment = None;
            selected.push(on_expr.len() + firsts.len());
            firsts.push(Expr::AggregateFunction(call).alias(format!("{CHOSEN}{}", firsts.len())));
        }
        let keys = on_expr.len();
        let mut plan = LogicalPlan::Aggregate(Aggregate::try_new(input, on_expr.clone(), firsts)?);
        let result = |plan: &LogicalPlan, at: usize| Expr::Column(Column::from(plan.schema().qualified_field(at)));
        if !written.is_empty() {
            // The order of the answer, for those who read it in order.
            let by = written.iter().take(keys).map(|sort| {
                let key = on_expr.iter().position(|on| *on == sort.expr);
                key.map(|at| Sort { expr: result(&plan, at), ..sort.clone() })
            });
            if let Some(by) = by.collect::<Option<Vec<Sort>>>() {
                plan = LogicalPlanBuilder::from(plan).sort(by)?.build()?;
            }
        }
        let exprs = selected.into_iter().zip(schema.iter()).map(|(at, (qualifier, field))| {
            result(&plan, at).alias_qualified(qualifier.cloned(), field.name().as_str())
        });
        let exprs = exprs.collect();
        Ok(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(plan))?))
    }
}

/// What each input of a plan must give.
fn below(plan: &LogicalPlan, needed: &Needed) -> Vec<Needed> {
    let exprs = plan.expressions();
    if exprs.iter().any(has_subquery) {
        return vec![None; plan.inputs().len()];
    }
    let refs = |exprs: &mut dyn Iterator<Item = &Expr>| -> HashSet<Column> {
        exprs.flat_map(Expr::column_refs).cloned().collect()
    };
    let with = |own: HashSet<Column>| -> Needed { needed.as_ref().map(|needed| needed.union(&own).cloned().collect()) };
    let of = |schema: &DFSchema, at: usize| Column::from(schema.qualified_field(at));
    match plan {
        LogicalPlan::Projection(node) => {
            let kept = node
                .expr
                .iter()
                .enumerate()
                .filter(|(at, _)| needed.as_ref().is_none_or(|needed| needed.contains(&of(&node.schema, *at))));
            vec![Some(refs(&mut kept.map(|(_, expr)| expr)))]
        }
        LogicalPlan::SubqueryAlias(node) => {
            let renamed = needed.as_ref().map(|needed| {
                let kept = (0..node.schema.fields().len()).filter(|at| needed.contains(&of(&node.schema, *at)));
                kept.map(|at| of(node.input.schema(), at)).collect()
            });
            vec![renamed]
        }
        LogicalPlan::Filter(_) | LogicalPlan::Sort(_) | LogicalPlan::Limit(_) | LogicalPlan::Join(_) => {
            vec![with(refs(&mut exprs.iter())); plan.inputs().len()]
        }
        LogicalPlan::Window(node) => {
            let input = node.input.schema();
            let own = with(refs(&mut exprs.iter()));
            vec![own.map(|own| own.into_iter().filter(|column| input.has_column(column)).collect())]
        }
        LogicalPlan::Aggregate(_) | LogicalPlan::Distinct(Distinct::On(_)) => vec![Some(refs(&mut exprs.iter()))],
        _ => vec![None; plan.inputs().len()],
    }
}

/// A window node whose calls choose by a whole order. Calls of one node share their order, so those that keep theirs
/// become a node of their own.
fn window(node: Window, needed: &Needed) -> Result<LogicalPlan> {
    if !node.window_expr.iter().any(|expr| call_of(expr).is_some_and(chooses)) {
        return Ok(LogicalPlan::Window(node));
    }
    let schema = Arc::clone(&node.schema);
    let input = Arc::clone(node.input.schema());
    let (mut kept, mut completed) = (Vec::new(), Vec::new());
    for expr in node.window_expr {
        let name = expr.schema_name().to_string();
        match expr.clone().unalias() {
            Expr::WindowFunction(mut call) if chooses(&call) => {
                let rest = rest(&call.params.order_by, &input, needed);
                call.params.order_by.extend(rest);
                completed.push(Expr::WindowFunction(call).alias(name));
            }
            _ => kept.push(expr),
        }
    }
    let mut plan = node.input;
    let split = !kept.is_empty();
    for exprs in [kept, completed].into_iter().filter(|exprs| !exprs.is_empty()) {
        plan = Arc::new(LogicalPlan::Window(Window::try_new(exprs, plan)?));
    }
    if split {
        let exprs = columns(&schema);
        return Ok(LogicalPlan::Projection(Projection::try_new(exprs, plan)?));
    }
    Ok(Arc::unwrap_or_clone(plan))
}

/// Whether a call's answer depends on the order of peers, and its order may be completed without changing who is one.
fn chooses(call: &WindowFunction) -> bool {
    let name = match &call.fun {
        WindowFunctionDefinition::AggregateUDF(function) => function.name(),
        WindowFunctionDefinition::WindowUDF(function) => function.name(),
    };
    let frame = &call.params.window_frame;
    let (from_first, to_last) = (frame.start_bound.is_unbounded(), frame.end_bound.is_unbounded());
    if ORDERED_CALLS.contains(&name) {
        return true;
    }
    let rows = frame.units == WindowFrameUnits::Rows;
    if ORDERED_IN_FRAME.contains(&name) {
        return rows || from_first && (to_last || name == "first_value");
    }
    // The sum of a frame of rows depends on which peers are in it; RANK and the like do not look at their frame.
    rows && !(from_first && to_last) && matches!(call.fun, WindowFunctionDefinition::AggregateUDF(_))
}

fn bare(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => bare(&alias.expr),
        expr => expr,
    }
}

fn ascending(expr: Expr) -> Sort {
    Sort { expr, asc: true, nulls_first: false }
}

/// The rest of the row, after these keys.
fn rest(keys: &[Sort], input: &DFSchema, needed: &Needed) -> Vec<Sort> {
    let has_order = |data_type: &DataType| !data_type.is_nested() && !matches!(data_type, DataType::Null);
    let mut columns: Vec<Column> = input
        .iter()
        .filter(|(_, field)| has_order(field.data_type()))
        .map(|(qualifier, field)| Column::from((qualifier, field)))
        .filter(|column| needed.as_ref().is_none_or(|needed| needed.contains(column)))
        .filter(|column| !keys.iter().any(|key| matches!(&key.expr, Expr::Column(key) if key == column)))
        .collect();
    columns.sort_by(|a, b| (&a.name, &a.relation).cmp(&(&b.name, &b.relation)));
    columns.into_iter().map(|column| ascending(Expr::Column(column))).collect()
}
