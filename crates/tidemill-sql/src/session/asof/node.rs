//! [`AsofNode`]: an ASOF JOIN in a logical plan.
//!
//! **Invariant:** every row of the left side comes out once. Of rows that are equal in time the one with the greatest rest
//! of its columns counts (the least, looking forward), in the order of their names, so the choice is one of the rows.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use datafusion::common::{DFSchemaRef, JoinType, Result, plan_err};
use datafusion::logical_expr::builder::build_join_schema;
use datafusion::logical_expr::{Expr, LogicalPlan, Operator, UserDefinedLogicalNodeCore};

use arrow::datatypes::Schema;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AsofNode {
    /// The rows that come out.
    pub left: Arc<LogicalPlan>,
    /// The rows that are chosen from.
    pub right: Arc<LogicalPlan>,
    /// The columns that are equal, of both sides.
    pub on: Vec<(usize, usize)>,
    /// The columns with the times, of both sides.
    pub times: (usize, usize),
    /// How they compare: `left op right`.
    pub op: Operator,
    /// How far they may be apart, in microseconds.
    pub within: Option<i64>,
    schema: DFSchemaRef,
}

impl AsofNode {
    /// The node of a plan, if it is one.
    pub fn of(plan: &LogicalPlan) -> Option<&AsofNode> {
        match plan {
            LogicalPlan::Extension(extension) => extension.node.as_any().downcast_ref::<AsofNode>(),
            _ => None,
        }
    }

    /// An ASOF JOIN of these plans.
    ///
    /// # Errors
    /// Plan, when both have a column of the same name.
    pub fn new(
        (left, right): (Arc<LogicalPlan>, Arc<LogicalPlan>),
        on: Vec<(usize, usize)>,
        times: (usize, usize),
        op: Operator,
        within: Option<i64>,
    ) -> Result<AsofNode> {
        let schema = Arc::new(build_join_schema(left.schema(), right.schema(), &JoinType::Left)?);
        Ok(AsofNode { left, right, on, times, op, within, schema })
    }

    /// Whether the right time is not after the left one.
    #[must_use]
    pub fn looks_back(&self) -> bool {
        matches!(self.op, Operator::GtEq | Operator::Gt)
    }

    /// Whether equal times match.
    #[must_use]
    pub fn or_equal(&self) -> bool {
        matches!(self.op, Operator::GtEq | Operator::LtEq)
    }

    /// The times of the right side that a row of the left side at `at` may be matched with, first to last.
    #[must_use]
    pub fn candidates(&self, at: i64) -> (i64, i64) {
        asof_candidates(self.op, self.within, at)
    }

    /// The order among right rows of one time: all their columns, by name.
    #[must_use]
    pub fn rest(schema: &Schema) -> Vec<usize> {
        let mut columns: Vec<usize> = (0..schema.fields().len()).collect();
        columns.sort_by_key(|column| schema.field(*column).name());
        columns
    }

    /// Words for a plan.
    #[must_use]
    pub fn words(&self) -> String {
        let name = |plan: &LogicalPlan, at: usize| plan.schema().field(at).name().clone();
        let time = format!("{} {} {}", name(&self.left, self.times.0), self.op, name(&self.right, self.times.1));
        let on = self.on.iter().map(|(l, r)| format!("{} = {}", name(&self.left, *l), name(&self.right, *r)));
        let on: Vec<String> = on.collect();
        if on.is_empty() {
            format!("asof join where {time}")
        } else {
            format!("asof join on {} where {time}", on.join(" and "))
        }
    }
}

/// See [`AsofNode::candidates`].
#[must_use]
pub fn asof_candidates(op: Operator, within: Option<i64>, at: i64) -> (i64, i64) {
    let back = |last: i64| (within.map_or(i64::MIN, |within| at.saturating_sub(within)), last);
    let ahead = |first: i64| (first, within.map_or(i64::MAX, |within| at.saturating_add(within)));
    match op {
        Operator::GtEq => back(at),
        Operator::Gt => back(at.saturating_sub(1)),
        Operator::LtEq => ahead(at),
        _ => ahead(at.saturating_add(1)),
    }
}

impl UserDefinedLogicalNodeCore for AsofNode {
    fn name(&self) -> &str {
        "AsofJoin"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.left, &self.right]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AsofJoin: {}", self.words())
    }

    fn with_exprs_and_inputs(&self, _exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<AsofNode> {
        let (Some(right), Some(left)) = (inputs.pop(), inputs.pop()) else {
            return plan_err!("an ASOF JOIN needs two inputs");
        };
        let (on, times) = (self.on.clone(), self.times);
        AsofNode::new((Arc::new(left), Arc::new(right)), on, times, self.op, self.within)
    }
}

impl PartialOrd for AsofNode {
    fn partial_cmp(&self, other: &AsofNode) -> Option<Ordering> {
        (&self.left, &self.right).partial_cmp(&(&other.left, &other.right))
    }
}
