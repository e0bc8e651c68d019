//! [`RowGroupReader`]: the row groups of a Parquet file as batches of the declared columns.
//!
//! **Invariant:** an offset is `group:row`, the number of a row group in the file and the row of it after those that were
//! answered; it means the same whatever columns are read and whichever rows statistics let the reader leave out.

use std::collections::VecDeque;
use std::ops::Range;

use arrow::datatypes::SchemaRef;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};
use tidemill_model::{Error, Kind, Offset, Result, Timestamp};
use tidemill_runtime::{Payload, Pull, ReadHints, SourceBatch, SplitReader};

use super::chunks::Chunks;
use super::columns::ColumnPlan;
use super::hive;
use super::location::Place;
use super::pruning::{Selected, Unit, select, times};

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
    pub(super) rows: u64,
    /// Whether no column in the file has the name of a folder's.
    pub(super) path_is_apart: bool,
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

    pub(super) fn rows_in(&self, group: usize) -> u64 {
        u64::try_from(self.metadata.metadata().row_group(group).num_rows()).unwrap_or(0)
    }

    /// Reads the index of the file's pages, if it has one.
    pub(super) fn read_page_index(&mut self) -> Result<()> {
        let unreadable = |shown: &str, e| unreadable("read the page index of", shown, e);
        let metadata = self.metadata.metadata().as_ref().clone();
        let mut reader =
            ParquetMetaDataReader::new_with_metadata(metadata).with_page_index_policy(PageIndexPolicy::Optional);
        let read = reader.read_page_indexes(&self.chunks).and_then(|()| reader.finish());
        let metadata = read.map_err(|e| unreadable(&self.shown, e))?;
        let metadata = ArrowReaderMetadata::try_new(metadata.into(), ArrowReaderOptions::new());
        self.metadata = metadata.map_err(|e| unreadable(&self.shown, e))?;
        Ok(())
    }

    /// Where the bytes of a column's rows lie: all of them, or its dictionary and the pages that have those rows.
    fn bytes_of(&self, unit: &Unit, leaf: usize) -> Vec<Range<u64>> {
        let metadata = self.metadata.metadata();
        let (start, length) = metadata.row_group(unit.group).column(leaf).byte_range();
        let whole = Vec::from_iter(std::iter::once(start..start + length));
        let all = unit.rows == (0..self.rows_in(unit.group));
        let offsets = metadata.offset_index().and_then(|groups| groups.get(unit.group)?.get(leaf));
        let Some(offsets) = offsets.filter(|_| !all) else { return whole };
        let pages = offsets.page_locations();
        let begins = |n: usize| pages.get(n).and_then(|page| u64::try_from(page.offset).ok());
        let row = |n: usize| pages.get(n).and_then(|page| u64::try_from(page.first_row_index).ok());
        let Some(first) = begins(0) else { return whole };
        let mut ranges = Vec::from_iter(std::iter::once(start..first));
        for n in 0..pages.len() {
            let (Some(from), Some(first)) = (begins(n), row(n)) else { return whole };
            let last = row(n + 1).unwrap_or(u64::MAX);
            if first < unit.rows.end && unit.rows.start < last {
                ranges.push(from..begins(n + 1).unwrap_or(start + length));
            }
        }
        ranges
    }

    /// The row groups of each split, about how many bytes they have, and from when to when their rows are.
    pub(super) fn parts(&self, name: &str, time: Option<&str>) -> Vec<FilePart> {
        let in_file = self.metadata.schema();
        let path_is_apart = hive::pairs(name).iter().all(|(key, _)| in_file.index_of(key).is_err());
        let times = |time| times(self.metadata.metadata(), self.metadata.schema(), time);
        let bounds = time.map(times).unwrap_or_default();
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
                    rows: groups.clone().map(|group| self.rows_in(group)).sum(),
                    groups,
                    path_is_apart,
                });
                (start, bytes) = (at + 1, 0);
            }
        }
        parts
    }
}

/// The row groups of one split.
pub(super) struct RowGroupReader {
    footer: Footer,
    plan: ColumnPlan,
    mask: ProjectionMask,
    /// The first row group of the split.
    first: usize,
    /// What is still to be opened.
    left: VecDeque<Unit>,
    /// What is open, the rows that are left of it.
    open: Option<(Unit, ParquetRecordBatchReader)>,
    passed_over: u64,
    arrived: Option<Timestamp>,
}

impl RowGroupReader {
    /// A reader of `groups` (all when `None`) of the file that is named `name` in the dataset.
    pub(super) fn open(
        mut footer: Footer,
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
        let first = groups.start;
        let Selected { units, passed_over } = select(&mut footer, name, group..groups.end, hints)?;
        let mut left: VecDeque<Unit> = units.into();
        for unit in left.iter_mut().filter(|unit| unit.group == group) {
            unit.rows.start = unit.rows.start.max(row);
        }
        left.retain(|unit| !unit.rows.is_empty());
        Ok(RowGroupReader { footer, plan, mask, first, left, open: None, passed_over, arrived })
    }

    fn open_next(&mut self) -> Result<bool> {
        let Some(unit) = self.left.pop_front() else { return Ok(false) };
        let meta = self.footer.metadata.metadata().row_group(unit.group);
        let read = (0..meta.num_columns()).filter(|leaf| self.mask.leaf_included(*leaf));
        let chunks = self.footer.chunks.ahead(read.flat_map(|leaf| self.footer.bytes_of(&unit, leaf)))?;
        let bytes_a_row = (meta.total_byte_size() / meta.num_rows().max(1)).max(1);
        let batch_rows = usize::try_from(BATCH / bytes_a_row).unwrap_or(0).clamp(256, 16_384);
        let number = |rows: u64| usize::try_from(rows).unwrap_or(usize::MAX);
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(chunks, self.footer.metadata.clone())
            .with_projection(self.mask.clone())
            .with_row_groups(vec![unit.group])
            .with_offset(number(unit.rows.start))
            .with_limit(number(unit.rows.end - unit.rows.start))
            .with_batch_size(batch_rows)
            .build()
            .map_err(|e| unreadable("read", &self.footer.shown, e))?;
        self.open = Some((unit, reader));
        Ok(true)
    }

    /// The number in the split of a row of a group.
    fn number(&self, group: usize, row: u64) -> u64 {
        (self.first..group).map(|before| self.footer.rows_in(before)).sum::<u64>() + row
    }
}

impl SplitReader for RowGroupReader {
    fn next(&mut self) -> Result<Pull> {
        loop {
            let Some((unit, reader)) = &mut self.open else {
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
                    let (group, row) = (unit.group, unit.rows.start);
                    unit.rows.start += batch.num_rows() as u64;
                    let resume = Offset(format!("{group}:{}", unit.rows.start));
                    return Ok(Pull::Rows(SourceBatch {
                        payload: Payload::Columns(self.plan.apply(&batch)?),
                        resume,
                        arrived: self.arrived,
                        first: Some(self.number(group, row)),
                    }));
                }
            }
        }
    }

    fn bound_to_present(&mut self) -> Result<()> {
        Ok(())
    }

    fn passed_over(&self) -> u64 {
        self.passed_over
    }

    fn stop_at(&mut self, offset: &Offset) -> Result<()> {
        let all = 0..self.footer.groups();
        let (group, row) = parse_offset(offset, &self.footer, &all)?;
        for unit in self.left.iter_mut().filter(|unit| unit.group == group) {
            unit.rows.end = unit.rows.end.min(row);
        }
        self.left.retain(|unit| unit.group <= group && !unit.rows.is_empty());
        Ok(())
    }
}

/// A split that has no row that is needed.
pub(super) struct NothingNeeded {
    pub(super) rows: u64,
}

impl SplitReader for NothingNeeded {
    fn next(&mut self) -> Result<Pull> {
        Ok(Pull::Finished)
    }

    fn bound_to_present(&mut self) -> Result<()> {
        Ok(())
    }

    fn passed_over(&self) -> u64 {
        self.rows
    }

    fn stop_at(&mut self, _offset: &Offset) -> Result<()> {
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
