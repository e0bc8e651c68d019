//! What tests of the whole engine are made of: a virtual clock, project folders, made-up rows, a seeded simulation.
//!
//! **Invariant:** everything here is a function of its arguments and its seed; a failure is repeated by its seed.

mod arrivals;
mod clock;
pub mod executor;
mod folder;
pub mod made;
mod rows;
mod simulation;

pub use arrivals::{Arrivals, Words};
pub use clock::VirtualClock;
pub use fastrand::Rng;
pub use folder::ProjectFolder;
pub use rows::{Multiset, Tolerances};
pub use simulation::{Crash, Ending, Outside, Simulation};
