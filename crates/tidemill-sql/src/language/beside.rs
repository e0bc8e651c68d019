//! [`Task`], [`Wait`] and [`Expectation`]: what a pipeline's runs do beside its statements.
//!
//! **Invariant:** as all of the language, this is what was written; whether it can be done is said when it is planned.

use std::time::Duration;

use datafusion::sql::sqlparser::ast;
use tidemill_model::{OptionKind, OptionSpec, Place, Settings};

use super::model::Violation;

/// Options of CREATE TASK.
pub const TASK_OPTIONS: &[OptionSpec] = &[
    OptionSpec::required(
        "command",
        OptionKind::Text,
        "What is run, as a line for the shell. It finds its interval in TIDEMILL_INTERVAL_START and TIDEMILL_INTERVAL_END, what tasks before it gave in TIDEMILL_VALUE_NAME, and gives on what it writes to the file TIDEMILL_VALUE_FILE.",
    ),
    OptionSpec::optional("folder", OptionKind::Text, Some("."), "The folder that it runs in, below the project's."),
    OptionSpec::optional(
        "environment",
        OptionKind::Text,
        None,
        "More variables: NAME=value, one after the other with commas between.",
    ),
    OptionSpec::optional(
        "timeout",
        OptionKind::Span,
        Some("1 hour"),
        "After how long it is asked to end, and killed when it has not 10 seconds later.",
    ),
];

/// Options of CREATE WAIT.
pub const WAIT_OPTIONS: &[OptionSpec] = &[
    OptionSpec::required(
        "file",
        OptionKind::Text,
        "The file, folder or object that must be there before a run begins: a path or URL in which {start} and {end} are the interval's bounds, {start:%Y-%m-%d} in a form of strftime. A path that ends in / needs something in it.",
    ),
    OptionSpec::optional("every", OptionKind::Span, Some("30 seconds"), "How often is looked for it."),
    OptionSpec::optional(
        "timeout",
        OptionKind::Span,
        Some("1 day"),
        "How long after the interval is due it is waited for.",
    ),
    OptionSpec::optional(
        "then",
        OptionKind::OneOf(&["fail", "run"]),
        Some("fail"),
        "What becomes of the run when it does not come in time.",
    ),
];

/// CREATE TASK.
#[derive(Debug, Clone)]
pub struct Task {
    /// Its name.
    pub name: String,
    /// Where the name stands.
    pub place: Place,
    /// The steps that it comes after, and where they are named.
    pub after: Vec<(String, Place)>,
    /// The steps that come after it.
    pub before: Vec<(String, Place)>,
    /// Checked options.
    pub settings: Settings,
}

/// CREATE WAIT.
#[derive(Debug, Clone)]
pub struct Wait {
    /// Its name.
    pub name: String,
    /// Where the name stands.
    pub place: Place,
    /// Checked options.
    pub settings: Settings,
}

/// CREATE EXPECTATION.
#[derive(Debug, Clone)]
pub struct Expectation {
    /// Its name.
    pub name: String,
    /// Where the name stands.
    pub place: Place,
    /// The table that rows are written to or read from, and where it is named.
    pub dataset: (String, Place),
    /// What is expected.
    pub clause: Clause,
    /// Where that stands.
    pub clause_place: Place,
    /// What happens to rows, or to the run, when it is not so.
    pub policy: Violation,
}

/// What is expected of the rows that a run writes.
#[derive(Debug, Clone)]
pub enum Clause {
    /// CHECK: of each row; NULL passes, as SQL says.
    Check(Box<ast::Expr>),
    /// NOT NULL: of these columns in each row.
    NotNull(Vec<String>),
    /// UNIQUE: no two rows of the interval have the same values in these columns.
    Unique(Vec<String>),
    /// ROWS BETWEEN: how many rows the interval has.
    Rows {
        /// At least.
        least: u64,
        /// At most.
        most: Option<u64>,
    },
    /// ROWS WITHIN n % OF LAST m: how many rows it has beside the mean of the last intervals.
    RowsLike {
        /// How far it may be from the mean, as a share.
        within: f64,
        /// How many intervals before it are taken.
        last: usize,
    },
    /// FRESH WITHIN: how far before the interval's end its newest row may be.
    Fresh(Duration),
    /// QUERY: a query over the rows, by the table's name, whose result has no rows.
    Query(Box<ast::Query>),
}
