//! [`DedupNode`]: DEDUP in a logical plan.
//!
//! **Invariant:** its rows are rows of its input, under the same names.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::Schema;
use arrow::row::{RowConverter, SortField};
use datafusion::common::{DFSchemaRef, Result, plan_err};
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};
use tidemill_model::Span;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DedupNode {
    /// The rows; none has a NULL for its time.
    pub input: Arc<LogicalPlan>,
    /// The column with the time, a TIMESTAMP.
    pub time: usize,
    /// How long a row that stays keeps others of its key away, in microseconds.
    pub ttl: i64,
    /// The columns of the key.
    pub keys: Vec<usize>,
}

impl DedupNode {
    /// The node of a plan, if it is one.
    #[must_use]
    pub fn of(plan: &LogicalPlan) -> Option<&DedupNode> {
        match plan {
            LogicalPlan::Extension(extension) => extension.node.as_any().downcast_ref::<DedupNode>(),
            _ => None,
        }
    }

    /// The node as a plan.
    #[must_use]
    pub fn plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(self) })
    }

    /// The order among rows of one key and time: all other columns that have one, by name.
    #[must_use]
    pub fn rest(schema: &Schema, keys: &[usize], time: usize) -> Vec<usize> {
        let has_order =
            |at: &usize| RowConverter::supports_fields(&[SortField::new(schema.field(*at).data_type().clone())]);
        let others = (0..schema.fields().len()).filter(|at| *at != time && !keys.contains(at));
        let mut columns: Vec<usize> = others.filter(has_order).collect();
        columns.sort_by_key(|column| schema.field(*column).name());
        columns
    }

    /// Words for a plan.
    #[must_use]
    pub fn words(&self) -> String {
        let name = |at: usize| self.input.schema().field(at).name().clone();
        let keys: Vec<String> = self.keys.iter().map(|key| name(*key)).collect();
        let ttl = Span(std::time::Duration::from_micros(self.ttl.unsigned_abs()));
        format!("first by {} of each {}, none less than {ttl} after it", name(self.time), keys.join(", "))
    }
}

impl UserDefinedLogicalNodeCore for DedupNode {
    fn name(&self) -> &str {
        "Dedup"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    /// A condition on the key takes away all rows of a key or none, so it may be applied before.
    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        let fields = self.input.schema().fields().iter().enumerate();
        fields.filter(|(at, _)| !self.keys.contains(at)).map(|(_, field)| field.name().clone()).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dedup: {}", self.words())
    }

    fn with_exprs_and_inputs(&self, _exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<DedupNode> {
        let Some(input) = inputs.pop() else { return plan_err!("DEDUP needs rows") };
        Ok(DedupNode { input: Arc::new(input), ..self.clone() })
    }
}

impl PartialOrd for DedupNode {
    fn partial_cmp(&self, other: &DedupNode) -> Option<Ordering> {
        self.input.partial_cmp(&other.input)
    }
}
