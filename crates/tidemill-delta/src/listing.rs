//! The data files of a table as its log tells them: [`file_times`], and [`table_files`] for who plans a bounded read.
//!
//! **Invariant:** a file whose statistics leave any doubt is one of all times, so that whoever leaves files out by these
//! times leaves out no row.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use datafusion::common::Column;
use datafusion::physical_optimizer::pruning::PruningStatistics;
use deltalake_core::kernel::LogicalFileView;
use deltalake_core::{DeltaTable, DeltaTableError};
use tidemill_model::{Result, SplitId};
use tidemill_runtime::{DatasetSpec, Environment, Split};

use crate::blocking::block_on;
use crate::config::DeltaConfig;
use crate::problem::problem;
use crate::types::{convert, instant};

/// From when to when the values of a time column are in a data file, in microseconds and both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileTimes {
    /// `None` when statistics do not say it.
    pub(crate) range: Option<(i64, i64)>,
    /// Whether every row surely has a value.
    pub(crate) complete: bool,
}

/// The data files of the table of a dataset at its latest version, however often it was rewritten, with the times of
/// those whose statistics say them for every row.
///
/// # Errors
/// Config: there is no such table; Corrupt: its log cannot be read.
pub fn table_files(spec: &DatasetSpec, env: &Environment) -> Result<Vec<Split>> {
    let (location, time) = (DeltaConfig::of(spec, env)?.location, spec.event_time.clone());
    block_on(async move {
        let table = location.existing().await?;
        splits(&table, time.as_deref()).map_err(|error| problem(&location, "read", error))
    })
}

fn splits(table: &DeltaTable, time: Option<&str>) -> std::result::Result<Vec<Split>, DeltaTableError> {
    let snapshot = table.snapshot()?.snapshot();
    let log = snapshot.log_data();
    // A filter on another type of time is not handed to the table, so that every file is read.
    let stored = snapshot.arrow_schema();
    let is_instant = |time: &&str| {
        let field = stored.field_with_name(time);
        field.is_ok_and(|field| matches!(field.data_type(), DataType::Timestamp(TimeUnit::Microsecond, _)))
    };
    let times = time.filter(is_instant).map_or_else(|| Ok(Vec::new()), |time| file_times(table, time))?;
    let split = |(at, file): (usize, LogicalFileView)| {
        // A row without a time is read by whoever looks for its refused ones.
        let range = times.get(at).filter(|times| times.complete).and_then(|times| times.range);
        Split {
            id: SplitId::new(file.path()),
            finite: true,
            min_event_time: range.map(|range| range.0),
            max_event_time: range.map(|range| range.1),
            bytes: u64::try_from(file.size()).ok(),
            content: None,
        }
    };
    Ok(log.iter().enumerate().map(split).collect())
}

/// The times of each data file, in the order of the log.
pub(crate) fn file_times(table: &DeltaTable, column: &str) -> std::result::Result<Vec<FileTimes>, DeltaTableError> {
    let snapshot = table.snapshot()?.snapshot();
    let log = snapshot.log_data();
    let named = Column::from_name(column);
    let micros = |values: Option<ArrayRef>| values.and_then(|values| convert(&values, &instant()).ok());
    let (least, greatest) = (micros(log.min_values(&named)), micros(log.max_values(&named)));
    let at = |values: &Option<ArrayRef>, at: usize| {
        let values = values.as_ref()?.as_primitive_opt::<TimestampMicrosecondType>()?;
        (at < values.len() && values.is_valid(at)).then(|| values.value(at))
    };
    let is_partition = snapshot.metadata().partition_columns().iter().any(|partition| partition == column);
    let of = |(file, view): (usize, LogicalFileView)| FileTimes {
        range: at(&least, file).zip(at(&greatest, file)).map(|(least, greatest)| (least, end_of_milli(greatest))),
        // The value of a partition is that of each row.
        complete: is_partition || view.stats().is_some_and(|stats| has_every_value(&stats, column)),
    };
    Ok(log.iter().enumerate().map(of).collect())
}

/// Whether statistics say that no row lacks a value of the column.
fn has_every_value(stats: &str, column: &str) -> bool {
    let stats: Option<serde_json::Value> = serde_json::from_str(stats).ok();
    stats.is_some_and(|stats| stats["nullCount"][column].as_u64() == Some(0))
}

/// Writers cut statistics of times to milliseconds: the greatest time may be anywhere in that one.
fn end_of_milli(micros: i64) -> i64 {
    micros.div_euclid(1000).saturating_mul(1000).saturating_add(999)
}
