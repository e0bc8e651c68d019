//! `tidemill watermarks import`: a table of hand-written watermarks becomes part of the ledger, once.
//!
//! **Invariant:** what such a table says is done is done up to the last whole interval before its value, and nothing that is on
//! record already is changed. Nothing is written before all rows are known to be good and all pipelines are held.

use std::path::Path;

use serde_json::{Value, json};
use tidemill_checkpoint::{Manifest, StateLock};
use tidemill_model::{Epoch, Error, Generation, Interval, Kind, Result, Timestamp};

use super::backfill::fingerprint;
use super::numbers::instant;
use super::output::Output;
use crate::Workspace;
use crate::runs::Intervals;

/// A row of the table.
struct Mark {
    pipeline: String,
    value: Timestamp,
}

/// Imports a file of CSV with a header, or of JSON lines: `pipeline_name`, `last_value`, and whatever else is beside them.
///
/// # Errors
/// Config, when the file cannot be understood, names a pipeline twice, one without intervals, or one that has run already;
/// Fenced, when one of them runs now: nothing is imported then. What the store answers.
pub(super) fn import(workspace: &Workspace, file: &Path, dry_run: bool, output: &Output) -> Result<()> {
    let text = std::fs::read_to_string(file).map_err(|e| Error::io("read", file.display(), e))?;
    let mut planned: Vec<(Mark, Meant)> = Vec::new();
    let mut errors = Vec::new();
    for mark in marks(&text)? {
        let twice = planned.iter().any(|(other, _)| other.pipeline == mark.pipeline);
        match if twice { Err(named_twice(&mark)) } else { one(workspace, &mark) } {
            Ok(found) => planned.push((mark, found)),
            Err(error) => errors.push(error),
        }
    }
    if let Some(error) = Error::all(errors) {
        return Err(error.fact(NOTHING));
    }
    if !dry_run {
        record(workspace, &planned)?;
    }
    let mut values = Vec::new();
    for (mark, (_, done)) in &planned {
        values.push(json!({
            "pipeline": mark.pipeline,
            "last_value": mark.value.to_string(),
            "done": {"start": done.start.to_string(), "end": done.end.to_string()},
        }));
        if output.is_human() {
            output.line(format!(
                "{} {}  {} is done up to {}; it goes on with the interval that {} lies in",
                if dry_run { "?" } else { "=" },
                mark.pipeline,
                if dry_run { "would say it" } else { "it" },
                instant(done.end),
                instant(mark.value),
            ));
        }
    }
    if output.is_human() {
        output.note("The interval with the last value is run as a whole: rows of the same instant, and late ones, that `> last_value` leaves out are in it.");
    } else {
        output.values(values);
    }
    Ok(())
}

/// What a row means: the pipeline's intervals and the range that is done.
type Meant = (Intervals, Interval);

const NOTHING: &str = "nothing was imported";

fn named_twice(mark: &Mark) -> Error {
    Error::new(Kind::Config, "C121", format!("`{}` is named twice", mark.pipeline))
        .fact("keep the row whose value is right; of several tables in one pipeline, the one that is the least far")
}

fn one(workspace: &Workspace, mark: &Mark) -> Result<Meant> {
    let refused = |message: String| Error::new(Kind::Config, "C121", message);
    let pipeline = workspace.catalog.project().pipeline(&mark.pipeline)?;
    let Some(intervals) = Intervals::of(workspace, pipeline)? else {
        return Err(refused(format!("`{}` has no intervals that could be done", mark.pipeline))
            .fact(format!("a live pipeline begins where it is told: start = '{}'", mark.value))
            .fact("with write = 'upsert' that row and those of its instant may come again without harm"));
    };
    is_untouched(workspace, &mark.pipeline)?;
    let cell = intervals
        .grid
        .cell_containing(mark.value)
        .ok_or_else(|| refused(format!("{} is in no interval", mark.value)))?;
    let Some(start) = intervals.rule().start else {
        return Err(refused(format!("`{}` does not say where it begins", mark.pipeline))
            .fact("give it the option `start`: what is done is done from there on"));
    };
    if start >= cell.start {
        return Err(refused(format!(
            "no whole interval of `{}` lies between its start and {}",
            mark.pipeline, mark.value
        )));
    }
    Ok((intervals, Interval { start, end: cell.start }))
}

/// Refuses a pipeline that has progress.
fn is_untouched(workspace: &Workspace, pipeline: &str) -> Result<()> {
    if workspace.checkpoints(pipeline).latest()?.is_none() {
        return Ok(());
    }
    let message = format!("`{pipeline}` has run already, and its own ledger says what is done");
    Err(Error::new(Kind::Config, "C121", message))
}

/// Writes all of it. The pipelines are held meanwhile, so that none is run between being looked at and being written.
fn record(workspace: &Workspace, planned: &[(Mark, Meant)]) -> Result<()> {
    let hold = |(mark, _): &(Mark, Meant)| {
        let lock = workspace.lock(&mark.pipeline)?;
        is_untouched(workspace, &mark.pipeline)?;
        Ok(lock)
    };
    let held = planned.iter().map(hold).collect::<Result<Vec<StateLock>>>();
    let _held = held.map_err(|error: Error| error.fact(NOTHING))?;
    let mut written: Vec<&str> = Vec::new();
    for (mark, (intervals, done)) in planned {
        let checkpoints = workspace.checkpoints(&mark.pipeline);
        let mut manifest = Manifest::first(&mark.pipeline, Epoch::NONE.next(), workspace.clock.now());
        manifest.ledger.record(*done, Generation(1), &fingerprint(intervals));
        // What is wrong now is the store, which could not be asked before.
        let told = |error: Error, written: &[&str]| match written {
            [] => error.fact(NOTHING),
            _ => error.fact(format!("imported, and to be left out of the next try: {}", written.join(", "))),
        };
        checkpoints.create(&manifest).map_err(|error| told(error, &written))?;
        written.push(&mark.pipeline);
        checkpoints.mark_published(&manifest).map_err(|error| told(error, &written))?;
    }
    Ok(())
}

fn marks(text: &str) -> Result<Vec<Mark>> {
    let bad = |line: usize, why: &str| {
        Error::new(Kind::Config, "C122", format!("line {line} is no row of a table of watermarks: {why}"))
            .fact("CSV with a header or JSON lines with pipeline_name and last_value, as the table itself has them")
    };
    let time =
        |line: usize, value: &str| Timestamp::parse(value).map_err(|_| bad(line, &format!("`{value}` is no time")));
    let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).peekable();
    let mut found = Vec::new();
    if lines.peek().is_some_and(|(_, line)| line.trim_start().starts_with('{')) {
        for (at, line) in lines {
            let row: Value = serde_json::from_str(line).map_err(|e| bad(at + 1, &e.to_string()))?;
            let of = |name: &str| {
                row[name].as_str().map(str::to_owned).ok_or_else(|| bad(at + 1, &format!("it has no {name}")))
            };
            found.push(Mark { pipeline: of("pipeline_name")?, value: time(at + 1, &of("last_value")?)? });
        }
        return Ok(found);
    }
    let Some((_, header)) = lines.next() else { return Err(bad(1, "the file is empty")) };
    let cells = |line: &str| line.split(',').map(|cell| cell.trim().trim_matches('"').to_owned()).collect::<Vec<_>>();
    let header = cells(header);
    let place = |name: &str| {
        header.iter().position(|cell| cell == name).ok_or_else(|| bad(1, &format!("there is no column {name}")))
    };
    let (name, value) = (place("pipeline_name")?, place("last_value")?);
    for (at, line) in lines {
        let row = cells(line);
        let (Some(name), Some(value)) = (row.get(name), row.get(value)) else {
            return Err(bad(at + 1, "columns are missing"));
        };
        found.push(Mark { pipeline: name.clone(), value: time(at + 1, value)? });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::marks;

    #[test]
    fn both_forms_of_a_table_are_read() {
        let csv = "pipeline_name,last_value,value_type,updated_at,row_count\norders,2026-01-05 03:04:05,timestamp,2026-01-05,12\n";
        let json = "{\"pipeline_name\":\"orders\",\"last_value\":\"2026-01-05T03:04:05Z\"}\n";
        for text in [csv, json] {
            let found = marks(text).expect("reads");
            assert_eq!(
                (found.len(), found[0].pipeline.as_str(), found[0].value.to_string().as_str()),
                (1, "orders", "2026-01-05T03:04:05Z")
            );
        }
        for text in ["", "a,b\n1,2\n", "pipeline_name,last_value\norders,soon\n", "{\"pipeline_name\":\"x\"}"] {
            assert_eq!(marks(text).err().map(|e| e.code()), Some("C122"), "{text}");
        }
    }
}
