//! What is decided when time passes: rows are held until then, and DataFusion computes the answer over what was held.
//!
//! A closed window is a small table. [`ClosingFactory`] holds the rows of one or two inputs by window and runs a
//! [`Recipe`] over those of the windows that close: rankings, ordered aggregates, joins of windows. [`RangeFactory`] does
//! so for `OVER (… RANGE …)`, where the rows of the frame are kept. Both executors compute with the same plan nodes, so
//! they agree by construction.
//!
//! **Invariant:** what was given out is final: a row that would change it is late, counted and left out.

mod held;
mod ranges;
mod recipe;
mod slot;
mod weighted;
mod windows;

pub(super) use held::{Held, restored};
pub(super) use ranges::RangeFactory;
pub(super) use recipe::{Recipe, input_of};
pub(super) use windows::{ClosingFactory, ClosingInput, Prune};
