//! The language: `tidemill.toml` and `pipelines/*.sql` to a [`Project`], and errors to text with a caret.
//!
//! **Invariant:** reading a project touches nothing but its files; what connectors know is the catalog's business.

mod beside;
pub(crate) mod check;
mod clash;
mod config;
mod constant;
mod diagnose;
mod keys;
mod lookup;
mod model;
mod options;
mod parse;
mod project;
mod render;
mod scheduling;
mod script;
mod secret;
mod syntax;
mod types;

pub use beside::{Clause, Expectation, TASK_OPTIONS, Task, WAIT_OPTIONS, Wait};
pub(crate) use clash::sql_words;
pub use config::{AlertSettings, Config};
pub use constant::constant_interval;
pub use diagnose::from_datafusion;
pub use keys::{ALERT_KEYS, ENGINE_KEYS, POOL_DOC, PROJECT_KEYS, S3_KEYS, SCHEDULER_KEYS, SERVER_KEYS, STATE_KEYS};
pub(crate) use lookup::{DEAD_LETTERS, LATE};
pub use model::{
    Check, Column, Dataset, Insert, MaterializedView, OnError, Pipeline, Project, View, Violation, WatermarkClause,
};
pub use options::{DATASET_OPTIONS, PIPELINE_OPTIONS, VIEW_OPTIONS};
pub(crate) use parse::{DIALECT, session_keys};
pub use render::{columns, listed, render};
pub use scheduling::{OnEmpty, SCHEDULE_OPTIONS, Scheduling};
pub use script::Script;
pub use secret::Secret;
pub use types::{arrow_type, sql_type};

#[cfg(test)]
mod tests;
