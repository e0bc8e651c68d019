//! [`firsts`]: plans in which the first row of each key is chosen, with [`FirstNode`]s that do it.
//!
//! **Invariant:** a plan is rewritten only where keys are told apart as DataFusion tells them apart and each order has a
//! type that compares as its bytes do; all else stays as it is.

use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, Result, ScalarValue};
use datafusion::logical_expr::expr::Sort;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Aggregate, Expr, ExprSchemable, Filter, LogicalPlan, Operator, Projection, lit};

use super::FirstNode;
use super::asked::{one_of_each, row_number};

/// See the module. The plan is optimised: filters lie where they belong, columns that nobody needs are gone.
///
/// # Errors
/// Plan, a defect of ours.
pub fn firsts(plan: LogicalPlan) -> Result<LogicalPlan> {
    let rewritten = plan.transform_up_with_subqueries(|node| {
        let found = match &node {
            LogicalPlan::Aggregate(aggregate) => of_aggregate(aggregate)?,
            LogicalPlan::Filter(filter) => of_numbers(filter)?,
            _ => None,
        };
        Ok(found.map_or_else(|| Transformed::no(node), Transformed::yes))
    });
    Ok(rewritten?.data)
}

/// A GROUP BY whose aggregates are columns of one row of each group.
fn of_aggregate(node: &Aggregate) -> Result<Option<LogicalPlan>> {
    let grouping = node.group_expr.iter().any(|expr| matches!(expr, Expr::GroupingSet(_)));
    if node.group_expr.is_empty() || grouping {
        return Ok(None);
    }
    let chosen = one_of_each(&node.aggr_expr).filter(|(order, _)| !order.is_empty());
    let Some((order, values)) = chosen else { return Ok(None) };
    let mut columns = Columns::of(&node.input);
    let keys: Vec<usize> = node.group_expr.iter().map(|key| columns.place(key)).collect();
    let order = columns.order(&order);
    let output = keys.iter().copied().chain(values.iter().map(|value| columns.place(value))).collect();
    if !columns.fit(&keys, &order)? {
        return Ok(None);
    }
    let node = FirstNode { input: columns.plan()?, keys, order, output, schema: Arc::clone(&node.schema) };
    Ok(Some(node.plan()))
}

/// A filter that keeps what ROW_NUMBER() numbers 1.
fn of_numbers(filter: &Filter) -> Result<Option<LogicalPlan>> {
    let (above, window) = match filter.input.as_ref() {
        LogicalPlan::Window(window) => (None, window),
        LogicalPlan::Projection(above) => match above.input.as_ref() {
            LogicalPlan::Window(window) => (Some(above), window),
            _ => return Ok(None),
        },
        _ => return Ok(None),
    };
    // Rows without any order would have no first one, and those without a key are one group, which is sorted as well.
    let asked = row_number(window).filter(|(keys, order)| !keys.is_empty() && !order.is_empty());
    let Some((keys, order)) = asked else { return Ok(None) };
    let numbered = Column::from(window.schema.qualified_field(window.schema.fields().len() - 1));
    let number = match above {
        None => numbered.clone(),
        Some(above) => {
            let is_number = |expr: &Expr| expr.clone().unalias() == Expr::Column(numbered.clone());
            let Some(at) = above.expr.iter().position(is_number) else { return Ok(None) };
            Column::from(above.schema.qualified_field(at))
        }
    };
    let (firsts, others): (Vec<Expr>, Vec<Expr>) =
        split_conjunction_owned(filter.predicate.clone()).into_iter().partition(|expr| is_first(expr, &number));
    if firsts.is_empty() {
        return Ok(None);
    }
    let mut columns = Columns::of(&window.input);
    let inputs: Vec<Expr> = window.input.schema().columns().into_iter().map(Expr::Column).collect();
    let output: Vec<usize> = inputs.iter().map(|column| columns.place(column)).collect();
    let keys: Vec<usize> = keys.iter().map(|key| columns.place(key)).collect();
    let order = columns.order(&order);
    if !columns.fit(&keys, &order)? {
        return Ok(None);
    }
    let schema = Arc::clone(window.input.schema());
    let first = FirstNode { input: columns.plan()?, keys, order, output, schema }.plan();
    let one = lit(ScalarValue::UInt64(Some(1))).alias(&numbered.name);
    let exprs = inputs.into_iter().chain([one]).collect();
    let plan = Projection::try_new_with_schema(exprs, Arc::new(first), Arc::clone(&window.schema))?;
    let mut plan = LogicalPlan::Projection(plan);
    if let Some(above) = above {
        let schema = Arc::clone(&above.schema);
        plan = LogicalPlan::Projection(Projection::try_new_with_schema(above.expr.clone(), Arc::new(plan), schema)?);
    }
    Ok(Some(match conjunction(others) {
        Some(others) => LogicalPlan::Filter(Filter::try_new(others, Arc::new(plan))?),
        None => plan,
    }))
}

/// Whether a condition on a number holds for 1 and nothing after it.
fn is_first(expr: &Expr, number: &Column) -> bool {
    let Expr::BinaryExpr(binary) = expr else { return false };
    let (op, bound) = match (binary.left.as_ref(), binary.right.as_ref()) {
        (Expr::Column(column), Expr::Literal(bound, _)) if column == number => (binary.op, bound),
        (Expr::Literal(bound, _), Expr::Column(column)) if column == number => match binary.op.swap() {
            Some(op) => (op, bound),
            None => return false,
        },
        _ => return false,
    };
    let bound = match bound.cast_to(&DataType::UInt64) {
        Ok(ScalarValue::UInt64(Some(bound))) => bound,
        _ => return false,
    };
    matches!((op, bound), (Operator::Eq | Operator::LtEq, 1) | (Operator::Lt, 2))
}

/// The columns that a node needs of the plan below it.
struct Columns<'a> {
    input: &'a Arc<LogicalPlan>,
    exprs: Vec<Expr>,
}

impl<'a> Columns<'a> {
    fn of(input: &'a Arc<LogicalPlan>) -> Columns<'a> {
        Columns { input, exprs: Vec::new() }
    }

    fn place(&mut self, expr: &Expr) -> usize {
        let expr = expr.clone().unalias();
        self.exprs.iter().position(|known| *known == expr).unwrap_or_else(|| {
            self.exprs.push(expr);
            self.exprs.len() - 1
        })
    }

    fn order(&mut self, order: &[Sort]) -> Vec<(usize, SortOptions)> {
        let options = |sort: &Sort| SortOptions { descending: !sort.asc, nulls_first: sort.nulls_first };
        order.iter().map(|sort| (self.place(&sort.expr), options(sort))).collect()
    }

    fn type_of(&self, at: usize) -> Result<DataType> {
        self.exprs[at].get_type(self.input.schema())
    }

    /// Whether keys and order are of types that the operator knows.
    fn fit(&self, keys: &[usize], order: &[(usize, SortOptions)]) -> Result<bool> {
        for key in keys {
            let data_type = self.type_of(*key)?;
            // What -0.0 and NaN are equal to is DataFusion's business.
            if data_type.is_floating() || !has_order(&data_type) {
                return Ok(false);
            }
        }
        for (at, _) in order {
            if !has_order(&self.type_of(*at)?) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A plan of just these columns.
    fn plan(self) -> Result<Arc<LogicalPlan>> {
        let schema = self.input.schema();
        let as_they_are = self.exprs.len() == schema.fields().len()
            && self.exprs.iter().zip(schema.columns()).all(|(expr, column)| *expr == Expr::Column(column));
        if as_they_are {
            return Ok(Arc::clone(self.input));
        }
        let named = self.exprs.into_iter().enumerate().map(|(at, expr)| match expr {
            Expr::Column(_) => expr,
            other => other.alias(format!("__first_of_{at}")),
        });
        Ok(Arc::new(LogicalPlan::Projection(Projection::try_new(named.collect(), Arc::clone(self.input))?)))
    }
}

fn has_order(data_type: &DataType) -> bool {
    let odd = matches!(data_type, DataType::Null | DataType::Interval(_) | DataType::Dictionary(_, _));
    !odd && !data_type.is_nested()
}
