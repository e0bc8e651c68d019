//! How SQL becomes a DataFusion `LogicalPlan`: types, functions, window relations and names, the same for both
//! executors. Main type: [`Planner`].
//!
//! **Invariant:** a query means the same in every mode because every mode plans it here; nothing below decides what
//! a function, a type or a window is.

mod arithmetic;
mod asof;
mod bounds;
mod clock_functions;
mod compile;
mod dedup;
mod exact;
pub(crate) mod exec;
mod first;
mod functions;
pub mod guarded;
mod insert;
mod lineage;
mod names;
mod over;
mod planner;
mod size;
mod state;
mod tables;
mod task_value;
#[cfg(test)]
mod tests;
mod ties;
mod tumble;
mod types;
mod window_join;
mod windowing;
mod windows;

pub use arithmetic::checked_plan;
pub use asof::{AsofNode, AsofPlanner, asof_candidates};
pub use bounds::{Between, TimeBounds, compares_times, time_bounds};
pub use compile::{checked, compile, truths, values};
pub use dedup::{DedupNode, DedupPlanner};
pub use first::{FirstNode, FirstPlanner, firsts, one_of_each, row_number};
pub use functions::{Functions, check_aggregate};
pub use insert::{default_sequence, insert_columns, result_schema};
pub use lineage::{Meaning, lineage, meaning_of};
pub use names::Tables;
pub use over::{ORDERED_AGGREGATES, Over, Told, call_of, over};
pub use planner::{Planner, lift};
pub use size::WindowSize;
pub use state::{session_state, session_state_with};
pub use tables::{SchemaOnly, accepted_schema};
pub use task_value::{tasks_asked, with_task_values};
pub use tumble::{HOP_PANE, TUMBLE_END, TUMBLE_START, WindowBounds};
pub use types::sql_type;
pub use window_join::window_join;
pub use windowing::{WINDOW_END, WINDOW_START, WindowNode};
