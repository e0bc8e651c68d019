//! [`session_state`]: DataFusion with our types, functions and windows.
//!
//! **Invariant:** the same functions in both executors; nothing here depends on the machine but what a caller sets.

use std::sync::Arc;

use datafusion::execution::SessionStateDefaults;
use datafusion::execution::config::SessionConfig;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::optimizer::{Optimizer, OptimizerRule};

use super::asof::{Mark, Queries};
use super::clock_functions::{Micros, Now};
use super::exact;
use super::functions::Functions;
use super::task_value::TaskValue;
use super::tumble::WindowBounds;
use super::types::Types;
use super::windowing::ExpandWindows;
use super::windows::Windows;

/// Functions that DataFusion answers in nanoseconds.
const NANOSECOND_FUNCTIONS: &[&str] = &["to_timestamp", "to_timestamp_nanos", "to_timestamp_seconds", "date_bin"];

/// A session with what Tidemill's SQL means. Callers may change the number of partitions, the memory pool and the
/// start time; never functions or types.
#[must_use]
pub fn session_state() -> SessionState {
    session_state_with(&Functions::new())
}

/// As [`session_state`], with the functions that a program has added.
#[must_use]
pub fn session_state_with(added: &Functions) -> SessionState {
    let mut config = SessionConfig::new().with_information_schema(false);
    let options = config.options_mut();
    options.sql_parser.collect_spans = true;
    // One type of text everywhere: what a decoder produces is what a plan expects and a sink gets.
    options.sql_parser.map_string_types_to_utf8view = false;
    options.execution.parquet.schema_force_view_types = false;
    let mut scalars = SessionStateDefaults::default_scalar_functions();
    for function in &mut scalars {
        if NANOSECOND_FUNCTIONS.contains(&function.name()) {
            *function = Arc::new(Micros::over(Arc::clone(function)));
        }
    }
    let own = [Now::function(), Mark::function(), WindowBounds::start(), WindowBounds::end(), TaskValue::function()];
    scalars.extend(own.map(Arc::new));
    let mut aggregates = SessionStateDefaults::default_aggregate_functions();
    exact::replace(&mut aggregates);
    scalars.extend(added.scalars());
    aggregates.extend(added.aggregates());
    let mut rules: Vec<Arc<dyn OptimizerRule + Send + Sync>> = vec![Arc::new(ExpandWindows)];
    rules.extend(Optimizer::new().rules);
    SessionStateBuilder::new_with_default_features()
        .with_config(config)
        .with_optimizer_rules(rules)
        .with_scalar_functions(scalars)
        .with_aggregate_functions(aggregates)
        .with_relation_planners(vec![Arc::new(Windows)])
        .with_type_planner(Arc::new(Types))
        .with_query_planner(Arc::new(Queries))
        .build()
}
