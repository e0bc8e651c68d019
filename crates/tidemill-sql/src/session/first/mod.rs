//! The first row of each key: what DISTINCT ON, aggregates of one row of each group, and ROW_NUMBER() … = 1 are planned as
//! where all rows are there. [`firsts`] recognises them, [`FirstNode`] is the node and [`FirstPlanner`] makes its operator.
//!
//! The rows of all partitions are held as they come, beside the hash of each key. Hashes are put into buckets small enough
//! for a processor's cache; only rows that share a hash with another are ever compared. So of keys that hardly repeat
//! nothing is moved, and rows come out as they were held, without those that lost. What does not fit into memory goes to
//! files by hash, and each of these is done by itself.
//!
//! **Invariant:** which row stays is a function of the rows alone: the order is whole but for rows that are equal in all
//! columns that have an order.

mod asked;
mod decide;
mod exec;
mod gather;
mod held;
mod node;
mod rewrite;
mod spread;
#[cfg(test)]
mod tests;

pub use asked::{one_of_each, row_number};
pub use exec::FirstPlanner;
pub use node::FirstNode;
pub use rewrite::firsts;
