//! The language of Tidemill and what plans and runs it: projects to graphs and bounded plans, on DataFusion.
//!
//! **Invariant:** this crate knows the contracts of connectors and none of the connectors.

pub mod batch;
pub mod catalog;
pub mod language;
pub mod session;
pub mod stream;

pub use catalog::{BatchTables, Catalog, Formats, Presence, Registry, Side};
pub use language::{Config, Project, Script, Secret, from_datafusion, render};
