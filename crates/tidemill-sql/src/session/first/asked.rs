//! [`one_of_each`] and [`row_number`]: how plans ask for the first rows of each key, of either executor.
//!
//! **Invariant:** what is recognised means nothing else: no filter, no DISTINCT, no NULLs passed over.

use datafusion::logical_expr::expr::{NullTreatment, Sort};
use datafusion::logical_expr::{Expr, Window, WindowFunctionDefinition};

use crate::session::over::call_of;

/// The order by which these aggregates choose one row of each group, and what each of them is of that row. `None` when
/// they are others, or choose different rows.
#[must_use]
pub fn one_of_each(aggregates: &[Expr]) -> Option<(Vec<Sort>, Vec<Expr>)> {
    let mut order: Option<Vec<Sort>> = None;
    let mut values = Vec::with_capacity(aggregates.len());
    for expr in aggregates {
        let (by, value) = value_of_first(expr)?;
        if order.get_or_insert_with(|| by.clone()) != &by {
            return None;
        }
        values.push(value);
    }
    Some((order.unwrap_or_default(), values))
}

/// What an aggregate is of the first row by which order, if it is that.
fn value_of_first(expr: &Expr) -> Option<(Vec<Sort>, Expr)> {
    let Expr::AggregateFunction(call) = expr.clone().unalias() else { return None };
    let mut params = call.params;
    let plain = params.filter.is_none()
        && !params.distinct
        && matches!(params.null_treatment, None | Some(NullTreatment::RespectNulls));
    if !plain || params.args.len() != 1 {
        return None;
    }
    match call.func.name() {
        "first_value" => {}
        "last_value" => {
            for sort in &mut params.order_by {
                (sort.asc, sort.nulls_first) = (!sort.asc, !sort.nulls_first);
            }
        }
        _ => return None,
    }
    Some((params.order_by, params.args.pop()?))
}

/// Partition and order of a node that numbers rows and does nothing else.
#[must_use]
pub fn row_number(node: &Window) -> Option<(Vec<Expr>, Vec<Sort>)> {
    let [only] = node.window_expr.as_slice() else { return None };
    let call = call_of(only)?;
    let WindowFunctionDefinition::WindowUDF(function) = &call.fun else { return None };
    let plain = function.name() == "row_number" && call.params.filter.is_none() && !call.params.distinct;
    plain.then(|| (call.params.partition_by.clone(), call.params.order_by.clone()))
}
