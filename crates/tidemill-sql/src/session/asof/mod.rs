//! `l ASOF JOIN r MATCH_CONDITION (l.ts >= r.ts) ON l.k = r.k`: each row of `l` with the row of `r` that was the latest
//! at its time, or with NULLs. DataFusion's planner does not know it: [`without_asof`] writes it as a LEFT JOIN with a
//! mark in its condition, and [`with_asof`] makes an [`AsofNode`] of what became of that.
//!
//! **Invariant:** no optimiser sees an ASOF JOIN as the LEFT JOIN that it is written as, since a condition above it must
//! not choose among the rows below it.

mod exec;
mod node;
mod rewrite;

pub use exec::AsofPlanner;
pub(super) use exec::Queries;
pub use node::{AsofNode, asof_candidates};
pub(super) use rewrite::{Mark, with_asof, without_asof};
