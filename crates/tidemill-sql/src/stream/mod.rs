//! Queries as dataflows: [`plan_stream`] turns a pipeline into a graph of the operators in this folder.
//!
//! **Invariant:** an operator's output depends on its rows and watermarks alone, not on how they were cut into
//! batches, epochs or lanes.

mod aggregate;
mod closing;
mod current;
mod dedup;
mod envelope;
mod gate;
mod hop;
mod joins;
mod late;
mod lookup;
mod plan;
mod running;
mod state;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod thin;
mod top;
mod transform;
mod view;
mod wait;

pub use gate::GateRules;
pub(crate) use plan::subtracts;
pub use plan::{OpenTable, SideTables, SinkPlan, StreamPlan, ViewPlan, WindowEnd, plan_stream, plan_stream_from};
pub(crate) use thin::holds_back;
