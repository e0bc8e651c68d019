//! Files that runs have read and that are gone, as `plan`, `runs` and `status` tell them: a line for each dataset.
//!
//! **Invariant:** it tells what is on record, as the newest look at the files has found it, and looks at none itself.

use serde_json::{Value, json};
use tidemill_checkpoint::{GoneRange, Manifest};
use tidemill_model::Interval;

use super::numbers::counted;
use super::telling::shown;

/// How many stretches of a dataset are shown.
const SHOWN: usize = 3;

/// A line for each dataset.
pub(super) fn lines(record: &Manifest) -> Vec<String> {
    let line = |dataset: &str| {
        let ranges = record.gone.ranges_of(dataset);
        let files = ranges.iter().map(|range| range.splits).sum();
        let mut of: Vec<String> = ranges.iter().take(SHOWN).map(|range| shown(range.interval)).collect();
        if ranges.len() > SHOWN {
            of.push(format!("and {} more", ranges.len() - SHOWN));
        }
        let example = ranges.first().map(|range| range.example.as_str()).unwrap_or_default();
        let (gone, of) = (counted(files, "file"), of.join(", "));
        format!("{dataset}: {gone} gone ({example}), of {of}; restating what needs them is refused")
    };
    record.gone.datasets().map(line).collect()
}

/// The same for programs.
pub(super) fn as_json(record: &Manifest) -> Value {
    let range = |range: &GoneRange| {
        json!({
            "interval": {"start": range.interval.start.to_string(), "end": range.interval.end.to_string()},
            "files": range.splits,
            "example": range.example.as_str(),
        })
    };
    let of = |dataset: &str| {
        let ranges: Vec<Value> = record.gone.ranges_of(dataset).iter().map(range).collect();
        json!({"dataset": dataset, "ranges": ranges})
    };
    record.gone.datasets().map(of).collect()
}

/// Whether files are gone that an interval was computed from, by its own stretch of time alone.
pub(super) fn is_lacking(record: &Manifest, cell: Interval) -> bool {
    let is_gone = |dataset: &str| record.gone.within(dataset, cell).is_some();
    record.ledger.generation_of(cell).is_some() && record.gone.datasets().any(is_gone)
}
