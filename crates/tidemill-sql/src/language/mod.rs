//! The language: `tidemill.toml` and `pipelines/*.sql` to a [`Project`], and errors to text with a caret.
//!
//! **Invariant:** reading a project touches nothing but its files; what connectors know is the catalog's business.

pub(crate) mod check;
mod clash;
mod config;
mod constant;
mod diagnose;
mod lookup;
mod model;
mod options;
mod parse;
mod project;
mod render;
mod script;
mod syntax;
mod types;

pub(crate) use clash::sql_words;
pub use config::{Config, ENGINE_KEYS, PROJECT_KEYS, S3_KEYS, SERVER_KEYS, STATE_KEYS, Secret};
pub use constant::constant_interval;
pub use diagnose::from_datafusion;
pub(crate) use lookup::{DEAD_LETTERS, LATE};
pub use model::{
    Check, Column, Dataset, Insert, MaterializedView, OnError, Pipeline, Project, View, Violation, WatermarkClause,
};
pub use options::{DATASET_OPTIONS, PIPELINE_OPTIONS, VIEW_OPTIONS};
pub(crate) use parse::session_keys;
pub use render::{columns, listed, render};
pub use script::Script;
pub use types::{arrow_type, sql_type};

#[cfg(test)]
mod tests;
