//! [`FirstNode`]: the first row of each key in a logical plan.
//!
//! **Invariant:** it has one row for each key of its input, NULL being one key.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use arrow::compute::SortOptions;
use datafusion::common::{DFSchemaRef, Result, plan_err};
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FirstNode {
    /// The rows.
    pub input: Arc<LogicalPlan>,
    /// The columns of the key.
    pub keys: Vec<usize>,
    /// The columns that say which row is the first.
    pub order: Vec<(usize, SortOptions)>,
    /// The columns that come out.
    pub output: Vec<usize>,
    /// What they are called.
    pub schema: DFSchemaRef,
}

impl FirstNode {
    /// The node as a plan.
    #[must_use]
    pub fn plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(self) })
    }

    /// Words for a plan.
    #[must_use]
    pub fn words(&self) -> String {
        let name = |at: usize| self.input.schema().field(at).name().as_str();
        let keys: Vec<&str> = self.keys.iter().map(|key| name(*key)).collect();
        let by = self.order.iter().map(|(at, options)| match options.descending {
            false => name(*at).to_owned(),
            true => format!("{} DESC", name(*at)),
        });
        format!("first of each {} by {}", keys.join(", "), by.collect::<Vec<_>>().join(", "))
    }
}

impl UserDefinedLogicalNodeCore for FirstNode {
    fn name(&self) -> &str {
        "First"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "First: {}", self.words())
    }

    fn with_exprs_and_inputs(&self, _exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<FirstNode> {
        let Some(input) = inputs.pop() else { return plan_err!("the first rows need rows") };
        Ok(FirstNode { input: Arc::new(input), ..self.clone() })
    }
}

impl PartialOrd for FirstNode {
    fn partial_cmp(&self, other: &FirstNode) -> Option<Ordering> {
        self.input.partial_cmp(&other.input)
    }
}
