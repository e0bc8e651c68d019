//! A seeded simulation of the whole stream executor: sources, lanes, exchange, coordinator, stores and sinks on one
//! thread and a virtual clock, with every fault that a store, a sink or a machine has.
//!
//! A seed decides the order in which lanes and the coordinator are stepped, how rows arrive and in which portions they
//! are read, what fails, what is slow, what answers wrongly, and where a process dies; a new one then recovers, with
//! another number of lanes. What the sinks, the view and the state hold is compared with the rows all along.
//!
//! **Invariant:** a story is a function of its seed.

mod dimension;
mod disk;
mod operators;
mod oracle;
mod run;
mod scenario;
mod soak;
mod table;
mod topic;
mod weather;
mod world;

#[cfg(test)]
mod tests;

pub use run::{Defect, Story, simulate};
pub use scenario::{Kind, Scenario};
pub use soak::{Soak, soak};
