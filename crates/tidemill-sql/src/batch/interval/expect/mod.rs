//! What is expected of the rows that a run reads and writes, evaluated before anything of them is published.
//!
//! The rows of a statement whose table has expectations are put aside first, so that each expectation is a query over
//! them; then those that may stand go to the table, in the epoch of the step.
//!
//! **Invariant:** a row that is left out is counted, and kept as a dead letter unless DROP says otherwise; a run that fails
//! an expectation publishes nothing of the step.

mod judge;
mod rows;
mod spool;

pub(super) use judge::{Judged, Judging, input_step};
pub(super) use spool::Spool;
