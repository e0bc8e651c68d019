//! [`optimize`] and [`rewritten`]: DataFusion's analysis and those of its rewrites that hold for rows that keep coming,
//! for streams and for runs of an interval.
//!
//! **Invariant:** no rule that orders rows, counts them, or trusts what a table holds now; both executors get the same
//! chains of filters and projections.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::{Optimizer, OptimizerConfig, OptimizerContext};

use super::settle::settle;

/// The rules that are kept, by name. Left out: whatever pushes limits or sorts, folds by statistics, splits DISTINCT
/// aggregates into two GROUP BYs, or turns a stream without rows into no stream.
const RULES: &[&str] = &[
    "rewrite_set_comparison",
    "optimize_unions",
    "simplify_expressions",
    "replace_distinct_aggregate",
    "eliminate_join",
    "decorrelate_predicate_subquery",
    "scalar_subquery_to_join",
    "extract_equijoin_predicate",
    "eliminate_duplicated_expr",
    "eliminate_cross_join",
    "eliminate_outer_join",
    "push_down_filter",
    "eliminate_group_by_constant",
    "common_sub_expression_eliminate",
    "optimize_projections",
];

/// The analysed and rewritten plan of a stream. `now()` stays a call, which is then refused, instead of becoming the time
/// of planning.
///
/// # Errors
/// Plan.
pub fn optimize(plan: LogicalPlan, state: &SessionState) -> Result<LogicalPlan> {
    let context = OptimizerContext::new_with_config_options(Arc::clone(state.config_options()))
        .without_query_execution_start_time();
    rewrite(plan, state, &context)
}

/// The analysed and rewritten plan of a run, to which the other rewrites may be applied afterwards.
///
/// # Errors
/// Plan.
pub fn rewritten(plan: LogicalPlan, state: &SessionState) -> Result<LogicalPlan> {
    rewrite(plan, state, state)
}

fn rewrite(plan: LogicalPlan, state: &SessionState, context: &dyn OptimizerConfig) -> Result<LogicalPlan> {
    let analyzed = state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {})?;
    let rules = Optimizer::new().rules.into_iter().filter(|rule| RULES.contains(&rule.name())).collect();
    settle(Optimizer::with_rules(rules).optimize(analyzed, context, |_, _| {})?)
}
