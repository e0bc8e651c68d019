//! Errors of expressions are errors of their row: what both executors evaluate filters and projections with.
//!
//! A [`Chain`] is what stands between two nodes that are more than row by row: filters and projections, fused. It is
//! compiled to a [`Guarded`], which takes a batch through its steps as if nothing ever failed. Only when a step fails is
//! the batch halved, and the failing half again, down to single rows; and a single row is judged by the chain's
//! *formula*: every condition and every output column written over the chain's input.
//!
//! The formula is what a chain means. A row
//! - is left out when some condition is false or NULL, whatever the other conditions do: those of one WHERE, of several
//!   below each other and those that an optimiser moved are one set without an order;
//! - is dead when otherwise some condition fails, or a column that the chain gives out;
//! - `false AND error` is false and `true OR error` is true, on either side; CASE and coalesce take an error only from a
//!   branch that they need. A computed column that nobody reads harms nobody.
//!
//! So it does not matter in which order an optimiser puts filters and projections *within* a chain, nor how batches are
//! cut: [`optimize`] makes the same chains for both executors, and each finds the same rows dead. What it does move from
//! one chain to another, in both executors alike, is a condition on one side of a join or on the keys of a GROUP BY: it
//! is applied below, so a row can be dead that the join would not have let through.
//!
//! [`settle`] brings arguments, filters and keys of aggregates and keys of joins that can fail into a chain below, so
//! that chains are the only place where rows fail. What is left fails as a whole, as an epoch or run: the residual
//! condition of an outer join, arguments of window functions, an aggregate's own result, and the rows of a table that a
//! stream looks up in.
//!
//! **Invariant:** a batch that does not fail costs nothing more than its steps; a kernel's own defect or a lack of memory
//! is never a row's error.

mod chain;
mod evaluate;
mod fallible;
mod formula;
mod letters;
mod rules;
mod settle;
mod sides;
#[cfg(test)]
mod tests;
mod words;

pub use chain::{Chain, arrow_schema, columns};
pub use evaluate::{Evaluated, Guarded, Step};
pub use fallible::{can_fail, has_subquery};
pub use letters::{Failing, OnItsWay};
pub use rules::{optimize, rewritten};
pub use settle::settle;
pub use sides::{has_event_time, looked_up};
