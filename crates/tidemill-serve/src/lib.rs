//! The HTTP server: materialized views of the pipelines that run in this process.
//!
//! **Invariant:** one answer shows one epoch of one view, with that epoch's boundary and freshness; nothing is computed
//! by a request but filtering.

mod answer;
mod filter;
mod json;
mod server;

pub use answer::{ServedView, Window};
pub use json::JsonRows;
pub use server::{Server, ServerState};
