//! The options of pipelines, datasets and materialized views: one list each, from which the reference is made too.
//!
//! **Invariant:** an option that is read here has an effect; what is planned and not built is refused by name.

use tidemill_model::{Error, Kind, OptionKind, OptionSpec, Options, Place};

use super::model::OnError;
use super::scheduling::SCHEDULE_OPTIONS;

/// Options of CREATE PIPELINE.
pub const PIPELINE_OPTIONS: &[OptionSpec] = &[
    OptionSpec::optional(
        "trigger",
        OptionKind::Text,
        Some("once"),
        "When it works: once, every 30 seconds, continuous; by intervals: @hourly, @daily, @weekly, @monthly, @quarterly, @yearly, cron (0 3 * * *), or on TABLE, when intervals of that table are done.",
    ),
    OptionSpec::optional(
        "checkpoint",
        OptionKind::Span,
        Some("1 second"),
        "How often a continuous pipeline commits an epoch.",
    ),
    OptionSpec::optional(
        "latency",
        OptionKind::Span,
        None,
        "The documented requirement: how long a row may take from arrival to visible.",
    ),
    OptionSpec::optional(
        "delivery",
        OptionKind::OneOf(&["exactly-once"]),
        Some("exactly-once"),
        "What is promised of each row: exactly-once.",
    ),
    OptionSpec::optional("start", OptionKind::Time, None, "Rows with an earlier event time belong nowhere."),
    OptionSpec::optional(
        "on_error",
        OptionKind::OneOf(OnError::WORDS),
        Some("dead letter"),
        "What becomes of a row that an expression fails on: kept as a dead letter, NULL in place of what failed, or the epoch fails.",
    ),
    OptionSpec::optional(
        "max_errors",
        OptionKind::Text,
        Some("1 %"),
        "How many rows may fail so before the epoch or run fails as a whole: a share (100 rows in any case), a number of rows, or none.",
    ),
    OptionSpec::optional(
        "late",
        OptionKind::OneOf(&["table", "drop"]),
        Some("table"),
        "What becomes of a row that comes after its window has closed: kept in `NAME.late`, NAME being the table or view that it was on its way to, or only counted.",
    ),
    OptionSpec::optional(
        "allowed_lateness",
        OptionKind::Span,
        Some("0 seconds"),
        "How long after a window has closed rows are still taken into it: its result is corrected where it can be, and else given out that much later.",
    ),
    OptionSpec::optional(
        "emit",
        OptionKind::OneOf(&["final", "changes"]),
        Some("final"),
        "When INSERT gives out a window: once, when it has closed, or as changes at each epoch until then, for tables with write = 'upsert' and changelogs.",
    ),
    OptionSpec::optional(
        "emit_every",
        OptionKind::Span,
        None,
        "In how much time a key changes at most once in the tables that INSERT writes changes into; once an epoch unless given.",
    ),
];

/// Options of CREATE MATERIALIZED VIEW.
pub const VIEW_OPTIONS: &[OptionSpec] = &[
    OptionSpec::optional(
        "retention",
        OptionKind::Span,
        None,
        "How long a closed window is kept in the served view, from when no late row is waited for any more; for ever unless given.",
    ),
    OptionSpec::optional(
        "allowed_lateness",
        OptionKind::Span,
        None,
        "As the option of the pipeline, for this view; that of the pipeline unless given.",
    ),
];

/// Options of CREATE TABLE and HISTORY that every connector has. A connector may declare one anew, and a format
/// adds its own (`timestamp_format`).
pub const DATASET_OPTIONS: &[OptionSpec] = &[
    OptionSpec::required("connector", OptionKind::Text, "What carries the rows."),
    OptionSpec::optional("format", OptionKind::Text, None, "How rows are written as bytes."),
    OptionSpec::optional(
        "write",
        OptionKind::OneOf(&["append", "upsert", "replace", "overwrite"]),
        Some("append"),
        "How inserted rows change the table: append, upsert by PRIMARY KEY, replace an interval, or overwrite the table with the whole result. INSERT INTO … REPLACE WHERE confines the last two to a part.",
    ),
    OptionSpec::optional(
        "idle",
        OptionKind::Span,
        Some("1 minute"),
        "After how long without rows a split no longer holds time back.",
    ),
    OptionSpec::optional(
        "max_future",
        OptionKind::SpanOrNone,
        Some("1 minute"),
        "How far ahead of the clock an event time may move the watermark, or none.",
    ),
    OptionSpec::optional(
        "max_skew",
        OptionKind::SpanOrNone,
        Some("none"),
        "How far ahead in event time of the split that is furthest behind, in all sources of a stream, splits of this one are read, or none.",
    ),
    OptionSpec::optional(
        "changelog",
        OptionKind::OneOf(&["none", "upsert"]),
        Some("none"),
        "What a record read is: a row of its own, or with upsert the newest row of its PRIMARY KEY.",
    ),
    OptionSpec::optional(
        "deleted",
        OptionKind::Text,
        None,
        "With changelog = 'upsert' the BOOLEAN column that is true in a record which says that its key is gone.",
    ),
    OptionSpec::optional(
        "refresh",
        OptionKind::SpanOrNone,
        Some("10 seconds"),
        "How often a stream that looks rows up in the table asks whether it has changed, to read it again then; or none, to read it once a run.",
    ),
    OptionSpec::optional("sequence", OptionKind::Text, None, "The column that orders versions of a row, for upsert."),
    OptionSpec::optional("time_column", OptionKind::Text, None, "The target's event-time column, for replace."),
];

/// Options of CREATE PIPELINE that are designed and not built, with what to do until then.
const NOT_YET: &[(&str, &str)] =
    &[("reconcile", "restate an interval by hand: tidemill backfill PIPELINE --from START --to END --only all")];

/// The options of a pipeline without those that are not built yet, and one error for each of these.
pub(crate) fn refuse_unbuilt(options: &Options) -> (Options, Vec<Error>) {
    let mut rest = options.clone();
    let mut errors = Vec::new();
    for (name, advice) in NOT_YET {
        if let Some(given) = rest.given.remove(*name) {
            let error = Error::new(Kind::Config, "C014", format!("the option `{name}` is not available yet"));
            errors.push(place(error.label("leave it out").fact(*advice), given.name_place.as_ref()));
        }
    }
    (rest, errors)
}

/// All options of CREATE PIPELINE.
pub(crate) fn pipeline_options() -> Vec<OptionSpec> {
    PIPELINE_OPTIONS.iter().chain(SCHEDULE_OPTIONS).copied().collect()
}

pub(crate) fn place(error: Error, place: Option<&Place>) -> Error {
    match place {
        Some(place) => error.at(place),
        None => error,
    }
}
