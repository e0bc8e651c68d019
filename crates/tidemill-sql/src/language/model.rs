//! [`Project`]: everything that a project's files say, checked, with the place of each word.
//!
//! **Invariant:** this is what was written, resolved but not planned; nothing here was read from a connector.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use datafusion::sql::sqlparser::ast;
use tidemill_model::{Options, Place, Settings, Timestamp, Trigger};
use tidemill_runtime::{ErrorLimit, TablePart};

use super::beside::{Expectation, Task, Wait};
use super::config::Config;
use super::scheduling::Scheduling;

/// A folder with `tidemill.toml` and `pipelines/*.sql`.
#[derive(Debug, Clone)]
pub struct Project {
    /// The folder.
    pub root: PathBuf,
    /// `tidemill.toml`.
    pub config: Config,
    /// Pipelines by name.
    pub pipelines: BTreeMap<String, Pipeline>,
    /// External datasets by name: one catalog for the whole project.
    pub datasets: BTreeMap<String, Dataset>,
    /// Plain views by name.
    pub views: BTreeMap<String, View>,
    /// Materialized views by name.
    pub materialized: BTreeMap<String, MaterializedView>,
}

/// One CREATE PIPELINE and the statements of its file.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// Its name.
    pub name: String,
    /// Its file, relative to the project.
    pub file: Arc<str>,
    /// The file's text.
    pub text: Arc<str>,
    /// Where the name stands.
    pub place: Place,
    /// When it works.
    pub trigger: Trigger,
    /// How often a continuous pipeline commits an epoch.
    pub checkpoint: Duration,
    /// The documented requirement: arrival to visible.
    pub latency: Option<Duration>,
    /// Rows before this belong nowhere.
    pub start: Option<Timestamp>,
    /// What becomes of a row that an expression fails on.
    pub on_error: OnError,
    /// Whether rows that come late are kept, in the table `late` below that of the results.
    pub keeps_late: bool,
    /// How long after a window has closed rows are still taken into it; views may say otherwise for themselves.
    pub lateness: Duration,
    /// Whether INSERTs give out windows as changes until they close, rather than once.
    pub emit_changes: bool,
    /// In how much time a key changes at most once in the tables that INSERTs write changes into.
    pub emit_every: Option<Duration>,
    /// How many rows of an epoch or run may fail so.
    pub max_errors: ErrorLimit,
    /// All options, checked.
    pub settings: Settings,
    /// INSERT INTO statements, in order.
    pub inserts: Vec<Insert>,
    /// Names of its materialized views, in order.
    pub materialized: Vec<String>,
    /// Programs that are steps of its runs, in order.
    pub tasks: Vec<Task>,
    /// What its runs wait for before they begin.
    pub waits: Vec<Wait>,
    /// What is expected of the rows that its runs read and write.
    pub expectations: Vec<Expectation>,
    /// How its intervals are run.
    pub scheduling: Scheduling,
}

/// What becomes of a row that an expression fails on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnError {
    /// It is kept as a dead letter and the others go on (the default).
    #[default]
    DeadLetter,
    /// What failed is NULL.
    Null,
    /// The epoch or run fails.
    Fail,
}

impl OnError {
    /// The words of the option.
    pub(crate) const WORDS: &'static [&'static str] = &["dead letter", "null", "fail"];

    pub(crate) fn of(word: &str) -> OnError {
        match word {
            "null" => OnError::Null,
            "fail" => OnError::Fail,
            _ => OnError::DeadLetter,
        }
    }
}

/// CREATE TABLE.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// Its name.
    pub name: String,
    /// The pipeline whose file declares it; empty when the file has none and is shared by all.
    pub pipeline: String,
    /// Where the name stands.
    pub place: Place,
    /// The declared columns in order; empty when the connector shall say them.
    pub columns: Vec<Column>,
    /// The same as an Arrow schema.
    pub schema: SchemaRef,
    /// WATERMARK FOR.
    pub watermark: Option<WatermarkClause>,
    /// CHECK constraints in order.
    pub checks: Vec<Check>,
    /// PRIMARY KEY columns.
    pub primary_key: Vec<String>,
    /// Where each of them stands in the key.
    pub key_places: Vec<Place>,
    /// WITH options.
    pub options: Options,
    /// HISTORY WITH options.
    pub history: Option<Options>,
}

/// One declared column.
#[derive(Debug, Clone)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Where the name stands.
    pub place: Place,
}

/// `WATERMARK FOR column AS column - INTERVAL …`.
#[derive(Debug, Clone)]
pub struct WatermarkClause {
    /// The event-time column.
    pub column: String,
    /// How far behind the newest row the watermark stays.
    pub delay: Duration,
    /// Where the clause stands.
    pub place: Place,
}

/// A CHECK constraint.
#[derive(Debug, Clone)]
pub struct Check {
    /// The constraint's name, or its text when it has none.
    pub name: String,
    /// The condition; a row passes when it is true or NULL, as SQL says.
    pub condition: ast::Expr,
    /// What happens to a row that does not pass.
    pub policy: Violation,
    /// Where the condition stands.
    pub place: Place,
}

/// ON VIOLATION.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// Keep it as a dead letter (the default).
    DeadLetter,
    /// Leave it out and count it.
    Drop,
    /// Accept it and count it.
    Warn,
    /// Fail the epoch.
    Fail,
}

/// CREATE VIEW.
#[derive(Debug, Clone)]
pub struct View {
    /// Its name.
    pub name: String,
    /// The pipeline whose file declares it; empty when the file has none and is shared by all.
    pub pipeline: String,
    /// Its query.
    pub query: Box<ast::Query>,
    /// Where the name stands.
    pub place: Place,
}

/// CREATE MATERIALIZED VIEW.
#[derive(Debug, Clone)]
pub struct MaterializedView {
    /// Its name.
    pub name: String,
    /// The pipeline that maintains it.
    pub pipeline: String,
    /// Its query.
    pub query: Box<ast::Query>,
    /// Checked options (`retention`).
    pub settings: Settings,
    /// Where the name stands.
    pub place: Place,
}

/// INSERT INTO.
#[derive(Debug, Clone)]
pub struct Insert {
    /// The dataset written.
    pub target: String,
    /// The column list; empty when there was none.
    pub columns: Vec<String>,
    /// INSERT INTO t BY NAME.
    pub by_name: bool,
    /// REPLACE WHERE: the part of the table that a run replaces, and where it stands.
    pub part: Option<(TablePart, Place)>,
    /// Its query.
    pub query: Box<ast::Query>,
    /// Where the target stands.
    pub place: Place,
}
