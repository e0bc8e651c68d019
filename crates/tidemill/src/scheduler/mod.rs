//! The scheduler: one process of a project leads, runs what is due, keeps live pipelines going, and tells what needs
//! somebody.
//!
//! **Invariant:** it decides from the project, the manifests and the clock. Whoever leads next, after a kill at any
//! instant, finds everything there; what two of them would do at once, the manifests let only one do.

mod alerts;
mod leader;
mod live;

pub use alerts::{Alert, AlertKind, Alerts};
pub use leader::{Scheduler, Ticked};
