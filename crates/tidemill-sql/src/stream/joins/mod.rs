//! Joins of two streams by their event times.
//!
//! **Invariant:** a pair is given out once; a row is kept as long as a partner may come, which the watermark of the other
//! side says.

mod asof;
mod interval;
mod keys;
mod segment;
mod side;
#[cfg(test)]
mod tests;
mod versions;

pub(in crate::stream) use asof::{AsofFactory, AsofSpec};
pub(in crate::stream) use interval::{IntervalJoinFactory, IntervalSpec, Kind};
pub(in crate::stream) use side::SideSpec;
