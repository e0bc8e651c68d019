//! [`RowGroupReader`]: the row groups of a Parquet file as batches of the declared columns.
//!
//! **Invariant:** an offset is `group:row`, the number of a row group in the file and the rows of it that were
//! answered; it means the same whatever columns are read and whichever groups statistics let the reader leave out.

use std::ops::Range;

use arrow::array::Array;
use arrow::datatypes::SchemaRef;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use tidemill_model::{Error, Interval, Kind, Offset, Result, Timestamp};
use tidemill_runtime::{Payload, Pull, ReadHints, SourceBatch, SplitReader};

use super::chunks::Chunks;
use super::columns::{ColumnPlan, instants};
use super::location::Place;

/// Row groups are put together to splits of about this many bytes, so that lanes share one large file.
const SPLIT: i64 = 64 << 20;
/// About how many bytes a batch has.
const BATCH: i64 = 2 << 20;

/// What a file's footer says.
#[derive(Debug, Clone)]
pub(super) struct Footer {
    pub(super) metadata: ArrowReaderMetadata,
    chunks: Chunks,
    shown: String,
}

/// The least and the greatest instant of a row group, where statistics say them.
type Bounds = (Option<i64>, Option<i64>);

/// A split of a file, as its footer has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FilePart {
    pub(super) groups: Range<usize>,
    pub(super) bytes: u64,
    /// The least and the greatest event time, where statistics say them.
    pub(super) least: Option<i64>,
    pub(super) greatest: Option<i64>,
}

impl Footer {
    /// Reads the footer of a file.
    pub(super) fn read(place: &Place, shown: &str) -> Result<Footer> {
        let chunks = Chunks::open(place)?;
        let metadata =
            ArrowReaderMetadata::load(&chunks, ArrowReaderOptions::new()).map_err(|e| unreadable("read", shown, e))?;
        Ok(Footer { metadata, chunks, shown: shown.to_owned() })
    }

    fn groups(&self) -> usize {
        self.metadata.metadata().num_row_groups()
    }

    fn rows_in(&self, group: usize) -> u64 {
        u64::try_from(self.metadata.metadata().row_group(group).num_rows()).unwrap_or(0)
    }

    /// The row groups of each split, about how many bytes they have, and from when to when their rows are.
    pub(super) fn parts(&self, time: Option<&str>) -> Vec<FilePart> {
        let bounds = time.map(|time| self.bounds(time)).unwrap_or_default();
        let mut parts = Vec::new();
        let (mut start, mut bytes) = (0, 0);
        for (at, group) in self.metadata.metadata().row_groups().iter().enumerate() {
            bytes += group.compressed_size();
            if bytes >= SPLIT || at + 1 == self.groups() {
                let groups = start..at + 1;
                // Of all groups or of none.
                let of = |bound: fn(&Bounds) -> Option<i64>| {
                    bounds.get(groups.clone())?.iter().map(bound).collect::<Option<Vec<i64>>>()
                };
                parts.push(FilePart {
                    least: of(|bounds| bounds.0).and_then(|times| times.into_iter().min()),
                    greatest: of(|bounds| bounds.1).and_then(|times| times.into_iter().max()),
                    bytes: u64::try_from(bytes).unwrap_or(0),
                    groups,
                });
                (start, bytes) = (at + 1, 0);
            }
        }
        parts
    }

    /// The least and the greatest instant of a column in each row group, where statistics say them.
    fn bounds(&self, column: &str) -> Vec<Bounds> {
        let unknown = || vec![(None, None); self.groups()];
        let metadata = self.metadata.metadata();
        let Ok(converter) =
            StatisticsConverter::try_new(column, self.metadata.schema(), self.metadata.parquet_schema())
        else {
            return unknown();
        };
        let least = converter.row_group_mins(metadata.row_groups()).ok().and_then(|array| instants(&array).ok());
        let greatest = converter.row_group_maxes(metadata.row_groups()).ok().and_then(|array| instants(&array).ok());
        let (Some(least), Some(greatest)) = (least, greatest) else { return unknown() };
        let at = |array: &arrow::array::TimestampMicrosecondArray, n: usize| {
            (n < array.len() && array.is_valid(n)).then(|| array.value(n))
        };
        (0..self.groups()).map(|n| (at(&least, n), at(&greatest, n))).collect()
    }

    /// Whether the row group surely has no row in the interval.
    fn outside(bounds: Bounds, interval: Interval) -> bool {
        bounds.0.is_some_and(|least| Timestamp(least) >= interval.end)
            || bounds.1.is_some_and(|greatest| Timestamp(greatest) < interval.start)
    }
}

/// The row groups of one split.
pub(super) struct RowGroupReader {
    footer: Footer,
    plan: ColumnPlan,
    mask: ProjectionMask,
    /// The row groups still to open, the next one last.
    left: Vec<usize>,
    /// The open one with the rows of it that were answered, and those to be skipped when it is opened.
    group: usize,
    row: u64,
    open: Option<ParquetRecordBatchReader>,
    arrived: Option<Timestamp>,
    /// The row group and the row of it to stop before.
    stop: Option<(usize, u64)>,
}

impl RowGroupReader {
    /// A reader of `groups` (all when `None`) of the file that is named `name` in the dataset.
    pub(super) fn open(
        footer: Footer,
        name: &str,
        groups: Option<Range<usize>>,
        resume: Option<&Offset>,
        wanted: &SchemaRef,
        hints: &ReadHints,
        arrived: Option<Timestamp>,
    ) -> Result<RowGroupReader> {
        let plan = ColumnPlan::new(wanted, footer.metadata.schema(), name, &footer.shown)?;
        let mask = ProjectionMask::roots(footer.metadata.parquet_schema(), plan.read.iter().copied());
        let groups = groups.unwrap_or(0..footer.groups());
        if groups.end > footer.groups() {
            return Err(replaced(&footer.shown, &format!("row group {}", groups.end - 1)));
        }
        let (group, row) = match resume {
            Some(offset) => parse_offset(offset, &footer, &groups)?,
            None => (groups.start, 0),
        };
        let mut left: Vec<usize> = (group..groups.end).collect();
        if let (Some(interval), Some(column)) = (hints.interval, &hints.event_time) {
            let bounds = footer.bounds(column);
            left.retain(|n| !bounds.get(*n).is_some_and(|bounds| Footer::outside(*bounds, interval)));
        }
        left.reverse();
        Ok(RowGroupReader { footer, plan, mask, left, group, row, open: None, arrived, stop: None })
    }

    fn open_next(&mut self) -> Result<bool> {
        let Some(group) = self.left.pop() else { return Ok(false) };
        // Only the group of the resume offset is begun in its middle.
        self.row = if group == self.group { self.row } else { 0 };
        self.group = group;
        let meta = self.footer.metadata.metadata().row_group(group);
        let needed = (0..meta.num_columns()).filter(|leaf| self.mask.leaf_included(*leaf)).map(|leaf| {
            let (start, length) = meta.column(leaf).byte_range();
            start..start + length
        });
        let chunks = self.footer.chunks.ahead(needed)?;
        let bytes_a_row = (meta.total_byte_size() / meta.num_rows().max(1)).max(1);
        let batch_rows = usize::try_from(BATCH / bytes_a_row).unwrap_or(0).clamp(256, 16_384);
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(chunks, self.footer.metadata.clone())
            .with_projection(self.mask.clone())
            .with_row_groups(vec![group])
            .with_offset(usize::try_from(self.row).unwrap_or(usize::MAX))
            .with_batch_size(batch_rows)
            .build()
            .map_err(|e| unreadable("read", &self.footer.shown, e))?;
        self.open = Some(reader);
        Ok(true)
    }
}

impl SplitReader for RowGroupReader {
    fn next(&mut self) -> Result<Pull> {
        loop {
            let Some(reader) = &mut self.open else {
                if self.open_next()? {
                    continue;
                }
                return Ok(Pull::Finished);
            };
            match reader.next() {
                None => self.open = None,
                Some(Err(e)) => return Err(unreadable("read", &self.footer.shown, ParquetError::from(e))),
                Some(Ok(batch)) if batch.num_rows() == 0 => {}
                Some(Ok(batch)) => {
                    let wanted = match self.stop.filter(|(group, _)| *group == self.group) {
                        Some((_, stop)) => usize::try_from(stop.saturating_sub(self.row)).unwrap_or(usize::MAX),
                        None => usize::MAX,
                    };
                    if wanted == 0 {
                        self.open = None;
                        continue;
                    }
                    let batch = batch.slice(0, batch.num_rows().min(wanted));
                    self.row += batch.num_rows() as u64;
                    return Ok(Pull::Rows(SourceBatch {
                        payload: Payload::Columns(self.plan.apply(&batch)?),
                        resume: Offset(format!("{}:{}", self.group, self.row)),
                        arrived: self.arrived,
                    }));
                }
            }
        }
    }

    fn bound_to_present(&mut self) -> Result<()> {
        Ok(())
    }

    fn stop_at(&mut self, offset: &Offset) -> Result<()> {
        let all = 0..self.footer.groups();
        let (group, row) = parse_offset(offset, &self.footer, &all)?;
        self.left.retain(|left| *left <= group);
        self.stop = Some((group, row));
        Ok(())
    }
}

fn parse_offset(offset: &Offset, footer: &Footer, groups: &Range<usize>) -> Result<(usize, u64)> {
    let parsed = offset.0.split_once(':').and_then(|(group, row)| Some((group.parse().ok()?, row.parse().ok()?)));
    match parsed {
        Some((group, row)) if groups.contains(&group) && group < footer.groups() && row <= footer.rows_in(group) => {
            Ok((group, row))
        }
        _ => Err(replaced(&footer.shown, &format!("position {offset}"))),
    }
}

/// The file is not the one that was listed or read before.
pub(super) fn replaced(shown: &str, lacks: &str) -> Error {
    Error::new(Kind::Corrupt, "X310", format!("{shown} has no {lacks}"))
        .fact("the file was replaced after it was read; files must not change: write a new one instead")
}

/// An error of the Parquet library, as what it is: of the disk, of the store or of the bytes.
pub(super) fn unreadable(what: &str, shown: &str, error: ParquetError) -> Error {
    match error {
        ParquetError::External(inner) => match inner.downcast::<std::io::Error>() {
            Ok(io) => Error::io(what, shown, *io),
            Err(inner) => match inner.downcast::<Error>() {
                Ok(own) => *own,
                Err(other) => corrupt(what, shown, ParquetError::External(other)),
            },
        },
        other => corrupt(what, shown, other),
    }
}

fn corrupt(what: &str, shown: &str, error: ParquetError) -> Error {
    Error::new(Kind::Corrupt, "X311", format!("cannot {what} {shown} as Parquet: {error}"))
        .fact("check that it is a whole Parquet file; leave others out by a glob such as '**/*.parquet'")
        .because(error)
}
