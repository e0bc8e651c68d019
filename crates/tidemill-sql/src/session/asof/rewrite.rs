//! ASOF JOIN on its way through DataFusion's planner.
//!
//! **Invariant:** what comes out has no mark in it.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, internal_err};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::type_coercion::binary::comparison_coercion;
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, Extension, Join, LogicalPlan, Operator, Projection, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature, Volatility, cast,
};
use datafusion::sql::sqlparser::ast::{
    self, BinaryOperator, JoinConstraint, JoinOperator, Query, SetExpr, TableFactor, TableWithJoins, VisitMut,
    VisitorMut,
};
use tidemill_model::{Error, Kind};

use super::AsofNode;
use crate::session::bounds::{Comparison, comparisons, term};

/// The name of the mark. Nobody writes it by accident.
const MARK: &str = "asof_match_condition";

const HOW: &str = "write a ASOF JOIN b MATCH_CONDITION (a.time >= b.time) ON a.key = b.key, and if wanted AND b.time >= a.time - INTERVAL '1 day'";

/// `asof_match_condition(condition)` in the condition of a join: it is an ASOF JOIN.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(in crate::session) struct Mark(Signature);

impl Mark {
    pub(in crate::session) fn function() -> ScalarUDF {
        ScalarUDF::new_from_impl(Mark(Signature::exact(vec![DataType::Boolean], Volatility::Immutable)))
    }
}

impl ScalarUDFImpl for Mark {
    fn name(&self) -> &str {
        MARK
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        internal_err!("an ASOF JOIN was planned as another join")
    }
}

/// Writes every ASOF JOIN of a query as a LEFT JOIN with the mark.
pub(in crate::session) fn without_asof(query: &mut Query) -> Result<()> {
    struct Queries;
    impl VisitorMut for Queries {
        type Break = DataFusionError;

        fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<DataFusionError> {
            in_set(&mut query.body).map_or_else(ControlFlow::Break, ControlFlow::Continue)
        }
    }
    match VisitMut::visit(query, &mut Queries) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

fn in_set(set: &mut SetExpr) -> Result<()> {
    match set {
        SetExpr::Select(select) => select.from.iter_mut().try_for_each(in_tables),
        SetExpr::SetOperation { left, right, .. } => in_set(left).and_then(|()| in_set(right)),
        // Queries inside are visited by themselves.
        _ => Ok(()),
    }
}

fn in_tables(tables: &mut TableWithJoins) -> Result<()> {
    if let TableFactor::NestedJoin { table_with_joins, .. } = &mut tables.relation {
        in_tables(table_with_joins)?;
    }
    for join in &mut tables.joins {
        if let TableFactor::NestedJoin { table_with_joins, .. } = &mut join.relation {
            in_tables(table_with_joins)?;
        }
        let JoinOperator::AsOf { match_condition, constraint } = &join.join_operator else { continue };
        let marked = marked(match_condition.clone());
        let condition = match constraint {
            JoinConstraint::None => marked,
            JoinConstraint::On(on) => ast::Expr::BinaryOp {
                left: Box::new(ast::Expr::Nested(Box::new(on.clone()))),
                op: BinaryOperator::And,
                right: Box::new(marked),
            },
            JoinConstraint::Using(_) | JoinConstraint::Natural => {
                return Err(refuse("an ASOF JOIN takes ON, not USING"));
            }
        };
        join.join_operator = JoinOperator::LeftOuter(JoinConstraint::On(condition));
    }
    Ok(())
}

fn marked(condition: ast::Expr) -> ast::Expr {
    let arg = ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(condition));
    ast::Expr::Function(ast::Function {
        name: ast::ObjectName::from(vec![ast::Ident::new(MARK)]),
        uses_odbc_syntax: false,
        parameters: ast::FunctionArguments::None,
        args: ast::FunctionArguments::List(ast::FunctionArgumentList {
            duplicate_treatment: None,
            args: vec![arg],
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// The plan with an [`AsofNode`] for every join with the mark.
pub(in crate::session) fn with_asof(plan: LogicalPlan) -> Result<LogicalPlan> {
    let with = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Join(join) if join.filter.as_ref().is_some_and(is_marked) => Ok(Transformed::yes(node_of(&join)?)),
        node => Ok(Transformed::no(node)),
    })?;
    Ok(with.data)
}

fn is_marked(filter: &Expr) -> bool {
    split_conjunction_owned(filter.clone()).iter().any(|part| condition_of(part).is_some())
}

fn condition_of(part: &Expr) -> Option<&Expr> {
    match part {
        Expr::ScalarFunction(call) if call.name() == MARK => call.args.first(),
        _ => None,
    }
}

/// A side in the making: its plan, and keys that are no columns of it.
struct Side {
    plan: Arc<LogicalPlan>,
    computed: Vec<Expr>,
    prefix: &'static str,
}

impl Side {
    fn of(plan: &Arc<LogicalPlan>, prefix: &'static str) -> Side {
        Side { plan: Arc::clone(plan), computed: Vec::new(), prefix }
    }

    fn has(&self, expr: &Expr) -> bool {
        let refs = expr.column_refs();
        !refs.is_empty() && refs.iter().all(|column| self.plan.schema().has_column(column))
    }

    /// The column with a key of this type.
    fn key(&mut self, expr: Expr, of: &DataType) -> Result<usize> {
        let schema = self.plan.schema();
        let fits = expr.get_type(schema)? == *of;
        if let (Expr::Column(column), true) = (&expr, fits) {
            return schema.index_of_column(column);
        }
        let name = format!("{} key {}", self.prefix, self.computed.len());
        self.computed.push(if fits { expr } else { cast(expr, of.clone()) }.alias(name));
        Ok(schema.fields().len() + self.computed.len() - 1)
    }

    fn finish(self) -> Result<Arc<LogicalPlan>> {
        if self.computed.is_empty() {
            return Ok(self.plan);
        }
        let exprs = [columns(self.plan.schema()), self.computed].concat();
        Ok(Arc::new(LogicalPlan::Projection(Projection::try_new(exprs, self.plan)?)))
    }
}

fn columns(schema: &DFSchema) -> Vec<Expr> {
    crate::session::guarded::columns(schema)
}

fn node_of(join: &Join) -> Result<LogicalPlan> {
    let (mut left, mut right) = (Side::of(&join.left, "left"), Side::of(&join.right, "right"));
    let mut on = Vec::new();
    let mut times = None;
    let mut bounds = Vec::new();
    for part in join.filter.iter().flat_map(|filter| split_conjunction_owned(filter.clone())) {
        if let Some(condition) = condition_of(&part) {
            let found = compared(condition, join)
                .ok_or_else(|| refuse("MATCH_CONDITION compares a time column of each side by >=, >, <= or <"))?;
            times = Some(found);
            continue;
        }
        let keys = match &part {
            Expr::BinaryExpr(binary) if binary.op == Operator::Eq => {
                let (one, other) = (binary.left.as_ref(), binary.right.as_ref());
                if left.has(one) && right.has(other) {
                    Some((one.clone(), other.clone()))
                } else if left.has(other) && right.has(one) {
                    Some((other.clone(), one.clone()))
                } else {
                    None
                }
            }
            _ => None,
        };
        if let Some((of_left, of_right)) = keys {
            let types = (of_left.get_type(left.plan.schema())?, of_right.get_type(right.plan.schema())?);
            let common = comparison_coercion(&types.0, &types.1)
                .ok_or_else(|| refuse(format!("`{}` compares columns of types that do not", part.human_display())))?;
            on.push((left.key(of_left, &common)?, right.key(of_right, &common)?));
            continue;
        }
        bounds.push(part);
    }
    let Some((left_time, op, right_time)) = times else { return internal_err!("an ASOF JOIN lost its condition") };
    let mut within: Option<i64> = None;
    for part in bounds {
        let bound = bound_of(&part, join, (left_time, op, right_time))
            .ok_or_else(|| refuse(format!("`{}` cannot be in ON of an ASOF JOIN", part.human_display())))?;
        within = Some(within.map_or(bound, |within| within.min(bound)));
    }
    let schema = Arc::clone(&join.schema);
    let sides = (left.finish()?, right.finish()?);
    let node = AsofNode::new(sides, on, (left_time, right_time), op, within)?;
    let node = LogicalPlan::Extension(Extension { node: Arc::new(node) });
    if node.schema().fields().len() == schema.fields().len() {
        return Ok(node);
    }
    Ok(LogicalPlan::Projection(Projection::try_new(columns(&schema), Arc::new(node))?))
}

/// A column, and what is added to it.
type Moved = (usize, i64);

/// The time columns of both sides in a comparison, and what is added to each.
fn both((one, op, other): Comparison, join: &Join) -> Option<(Moved, Operator, Moved)> {
    let (left, right) = (join.left.schema(), join.right.schema());
    let at = |schema: &DFSchema, column| {
        let at = schema.maybe_index_of_column(column)?;
        matches!(schema.field(at).data_type(), DataType::Timestamp(TimeUnit::Microsecond, _)).then_some(at)
    };
    if let (Some(l), Some(r)) = (at(left, &one.0), at(right, &other.0)) {
        return Some(((l, one.1), op, (r, other.1)));
    }
    Some(((at(left, &other.0)?, other.1), op.swap()?, (at(right, &one.0)?, one.1)))
}

fn compared(condition: &Expr, join: &Join) -> Option<(usize, Operator, usize)> {
    let Expr::BinaryExpr(binary) = condition else { return None };
    let comparison = (term(&binary.left)?, binary.op, term(&binary.right)?);
    let ((left, 0), op, (right, 0)) = both(comparison, join)? else { return None };
    use Operator::{Gt, GtEq, Lt, LtEq};
    matches!(op, Gt | GtEq | Lt | LtEq).then_some((left, op, right))
}

/// How far both times may be apart, when an expression bounds that on the side where the match condition does not.
fn bound_of(part: &Expr, join: &Join, (left, op, right): (usize, Operator, usize)) -> Option<i64> {
    let [comparison] = comparisons(part)?.try_into().ok()?;
    let ((l, from), bound, (r, to)) = both(comparison, join)?;
    if (l, r) != (left, right) {
        return None;
    }
    let back = matches!(op, Operator::GtEq | Operator::Gt);
    // left + from `bound` right + to.
    match (bound, back) {
        (Operator::LtEq, true) => Some(to - from),
        (Operator::Lt, true) => Some(to - from - 1),
        (Operator::GtEq, false) => Some(from - to),
        (Operator::Gt, false) => Some(from - to - 1),
        _ => None,
    }
}

fn refuse(message: impl Into<String>) -> DataFusionError {
    DataFusionError::External(Box::new(Error::new(Kind::Plan, "P155", message).fact(HOW)))
}
