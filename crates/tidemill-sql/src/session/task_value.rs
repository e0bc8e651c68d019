//! [`TaskValue`]: `task_value('fetch')`, what the task of that name gave, in statements of runs of intervals.
//!
//! **Invariant:** a run puts the value in its place before anything is computed; whoever computes it otherwise is told why
//! there is none.

use std::collections::BTreeMap;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

const NAME: &str = "task_value";

/// The function.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct TaskValue {
    signature: Signature,
}

impl TaskValue {
    pub(super) fn function() -> ScalarUDF {
        ScalarUDF::new_from_impl(TaskValue { signature: Signature::exact(vec![DataType::Utf8], Volatility::Stable) })
    }
}

impl ScalarUDFImpl for TaskValue {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        exec_err!("{NAME}() has a value only in the runs of a pipeline's intervals, whose tasks give one")
    }
}

/// The task that a call names, if it is one.
fn task_of(expr: &Expr) -> Option<Result<&str>> {
    let Expr::ScalarFunction(call) = expr else { return None };
    if call.name() != NAME {
        return None;
    }
    Some(match call.args.as_slice() {
        [Expr::Literal(ScalarValue::Utf8(Some(task)), _)] => Ok(task.as_str()),
        _ => plan_err!("{NAME}() takes the name of a task as text: {NAME}('fetch')"),
    })
}

/// The tasks whose values a plan asks for.
///
/// # Errors
/// Plan, when a call does not name one.
pub fn tasks_asked(plan: &LogicalPlan) -> Result<Vec<String>> {
    let mut asked = Vec::new();
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                if let Some(task) = task_of(part) {
                    asked.push(task?.to_owned());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(asked)
}

/// The plan with the values in the place of the calls; a task that gave nothing is NULL.
///
/// # Errors
/// Plan, as [`tasks_asked`].
pub fn with_task_values(plan: LogicalPlan, values: &BTreeMap<String, String>) -> Result<LogicalPlan> {
    let filled = plan.transform_up_with_subqueries(|node| {
        let names = node.schema().field_names();
        let filled = node.map_expressions(|expr| {
            expr.transform_up(|part| {
                let Some(task) = task_of(&part) else { return Ok(Transformed::no(part)) };
                let value = ScalarValue::Utf8(values.get(task?).cloned());
                let name = part.schema_name().to_string();
                Ok(Transformed::yes(Expr::Literal(value, None).alias(name)))
            })
        })?;
        if !filled.transformed {
            return Ok(filled);
        }
        let node = filled.data.recompute_schema()?;
        if node.schema().field_names() == names {
            Ok(Transformed::yes(node))
        } else {
            plan_err!("{NAME}() changed the names of columns")
        }
    })?;
    Ok(filled.data)
}
