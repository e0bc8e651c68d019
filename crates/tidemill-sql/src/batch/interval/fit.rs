//! Whether the way a target is written fits what a run computes.
//!
//! **Invariant:** what would leave rows twice, or take away rows that the run did not read, is refused before anything is
//! written.

use tidemill_model::{Error, Interval, Kind, Place, Result, Timestamp};
use tidemill_runtime::WriteMode;

use super::super::owned::Owned;
use super::super::sinks::Target;
use crate::session::{Meaning, WindowSize};

/// Whether rows that are only ever added would be there twice.
pub(super) fn may_append(target: &Target, place: &Place, done: bool, has_streamed: bool) -> Result<()> {
    if target.mode != WriteMode::Append || target.sink.replaces_interval() {
        return Ok(());
    }
    let name = &target.name;
    let message = if done {
        format!("`{name}` has the rows of this interval already")
    } else if has_streamed {
        format!("`{name}` has rows of the pipeline's live trigger already")
    } else {
        return Ok(());
    };
    Err(Error::new(Kind::Plan, "P182", message)
        .at(place)
        .label("write = 'append' would add them once more")
        .fact(format!(
            "declare `{name}` with write = 'replace', so that a run replaces its interval's rows, or with write = 'upsert' and a PRIMARY KEY"
        ))
        .fact("or run the interval from another pipeline into a table of its own; nothing was written"))
}

/// Whether the way the target is written fits what the run computes.
pub(super) fn can_write(target: &Target, place: &Place, owned: &Owned, interval: Interval) -> Result<()> {
    let name = &target.name;
    let refuse = |code, message: String| Err(Error::new(Kind::Plan, code, message).at(place));
    let advise = |refused: Result<()>, advice: &str| refused.map_err(|e| e.fact(advice));
    match (&target.mode, &owned.whole) {
        (WriteMode::Upsert { .. }, _) | (WriteMode::Append, None) | (WriteMode::Overwrite { .. }, Some(_)) => Ok(()),
        (WriteMode::Overwrite { .. }, None) => advise(
            refuse("P186", format!("write = 'overwrite' would leave only the rows of {interval} in `{name}`")),
            "use write = 'replace', which replaces the rows of the interval, or ask for a result over all rows",
        ),
        (WriteMode::Changelog { .. }, _) => advise(
            refuse("P187", format!("`{name}` is a changelog, which only a live trigger writes")),
            "run the pipeline without --interval, or write into a table with write = 'upsert' or 'replace'",
        ),
        (mode, Some(reason)) => {
            let word = if *mode == WriteMode::Append { "append" } else { "replace" };
            let refused =
                refuse("P183", format!("the rows of `{name}` belong to no interval, so write = '{word}' does not fit"));
            let refused = refused.map_err(|e| {
                e.fact(format!("the query means its result over all rows before the interval's end: {reason}"))
            });
            advise(
                refused,
                "use write = 'overwrite', or 'upsert' with a PRIMARY KEY, or group by a window: TUMBLE(table, time, INTERVAL '…')",
            )
        }
        (WriteMode::Replace { column, .. }, None) => {
            let at = owned.plan.schema().fields().iter().position(|field| field.name() == column);
            let starts = |size: WindowSize, at: Timestamp| size.tiles() && size.last_start(at.0) == Some(at.0);
            match at.and_then(|at| owned.times.get(at)) {
                Some(Meaning::Time { behind }) if behind.is_empty() => Ok(()),
                Some(Meaning::Start { size, .. }) if starts(*size, interval.start) && starts(*size, interval.end) => {
                    Ok(())
                }
                Some(Meaning::Start { size, .. }) => advise(
                    refuse(
                        "P184",
                        format!("windows of {size} do not fit into {interval}, so it cannot replace them in `{name}`"),
                    ),
                    "run an interval that begins and ends where windows do, or use write = 'upsert'",
                ),
                _ => advise(
                    refuse("P185", format!("`{column}` of `{name}` does not say which rows an interval owns")),
                    "name the event time or window_start, unchanged: time_column = '…' on the table",
                ),
            }
        }
    }
}
