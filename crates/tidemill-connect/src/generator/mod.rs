//! The connector `generator`: the orders model as a source, seeded and deterministic, with every fault that real data has;
//! and the Nexmark model, whose queries others measure themselves by.
//!
//! Row `i` is a pure function of the seed and `i`; the clock only decides, where a rate is given, which rows exist yet.
//! [`Truth`] computes what a pipeline over the rows must answer, from the model and not from the encoded records.
//!
//! **Invariant:** no library's random numbers, logarithms or formats are used: content never changes with a version.

mod config;
mod connector;
mod dimensions;
mod encode;
mod nexmark;
mod nexmark_encode;
mod orders;
mod random;
mod reader;
mod source;
mod truth;

#[cfg(test)]
mod nexmark_tests;
#[cfg(test)]
mod tests;

pub use connector::GeneratorConnector;
pub use orders::{CURRENCIES, Fate, Order, OrderRecord, OrdersModel, REGIONS};
pub use truth::{Class, Tally, Truth};
