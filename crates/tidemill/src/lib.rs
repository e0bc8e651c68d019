//! Tidemill, whole: the registry of connectors, projects opened for work, runs, and the command line.
//!
//! **Invariant:** the clock and the environment of the process are read in `world` alone and passed on by value.

pub mod cli;
mod engine;
pub mod functions;
pub mod history;
pub mod letters;
mod machine;
pub mod programs;
pub mod rebuild;
mod registry;
pub mod runs;
pub mod scheduler;
mod verify;
mod workspace;
mod world;

pub use engine::{Live, RunOptions, interval};
pub use registry::registry;
pub use verify::{Verification, verify};
pub use workspace::Workspace;
pub use world::{SystemClock, holder, variable};
