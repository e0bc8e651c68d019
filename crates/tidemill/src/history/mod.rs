//! Which runs there were, for people: their attempts, steps, times, rows and errors, in one SQLite file.
//!
//! **Invariant:** the engine never decides from it. It is written beside the work and after it, and whatever it lacks or
//! loses, no row and no interval is.

mod kept;
mod records;
mod schema;
#[cfg(test)]
mod tests;

pub use kept::History;
pub use records::{Cause, RunRecord, RunState, StepRecord};
