//! [`rewrites`]: which data files of a table runs of intervals may have to copy.
//!
//! **Invariant:** what is foretold is never less than what a commit on this version of the table removes.

use std::sync::Arc;

use tidemill_model::{Interval, Overlaps, Result, Timestamp};
use tidemill_runtime::{Rewrites, WriteMode};

use crate::blocking::block_on;
use crate::listing::{FileTimes, file_times};
use crate::problem::problem;
use crate::sink::Target;

/// The files that runs of these intervals may write anew: of a replaced interval those whose statistics allow rows of
/// it, of a merge by key all. The table's log is read once.
pub(crate) fn rewrites(target: &Arc<Target>, intervals: &[Interval]) -> Result<Rewrites> {
    let column = match &target.mode {
        // Joining small files may take any of them, at any commit.
        _ if target.config.compact_every.is_some() => None,
        WriteMode::Append | WriteMode::Changelog { .. } => return Ok(Rewrites::default()),
        WriteMode::Replace { column, .. } => Some(column.clone()),
        // Of a table that is overwritten every file goes; with a part, those that may have rows of it.
        WriteMode::Upsert { .. } | WriteMode::Overwrite { .. } => None,
    };
    let runs = Overlaps::of(intervals.iter().copied());
    let location = target.config.location.clone();
    block_on(async move {
        let Some(table) = location.load().await? else { return Ok(Rewrites::default()) };
        let read = |error| problem(&location, "read", error);
        let times = column.map(|column| file_times(&table, &column)).transpose().map_err(read)?.unwrap_or_default();
        let mut found = Rewrites { at_most: true, ..Rewrites::default() };
        for (at, file) in table.snapshot().map_err(read)?.snapshot().log_data().iter().enumerate() {
            let often = match times.get(at) {
                // Rows without a time belong to no interval and stay.
                Some(FileTimes { range: Some((first, last)), .. }) => runs.with(Timestamp(*first), Timestamp(*last)),
                _ => runs.all(),
            };
            found.add(u64::try_from(file.size()).unwrap_or_default(), often);
        }
        Ok(found)
    })
}
