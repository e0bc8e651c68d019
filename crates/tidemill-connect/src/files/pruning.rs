//! [`select`]: which rows of a Parquet file a read needs, as far as the file's statistics tell.
//!
//! Row groups are judged first, then the pages of those that are left. The pages of different columns do not begin at
//! the same rows, so a group is cut wherever a page of a column in question begins: each piece lies in one page of each.
//!
//! **Invariant:** rows are left out only where statistics rule all of them out; what is not known, or known to be unreliable
//! (floating point, whose NaN is in no statistics; bounds of old writers that compared bytes as signed), rules out nothing.

use std::ops::Range;

use arrow::array::{Array, ArrayRef, TimestampMicrosecondArray, UInt32Array, UInt64Array, new_null_array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::basic::Type as Physical;
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use tidemill_model::{Interval, Result, Timestamp};
use tidemill_runtime::{ColumnBounds, ReadHints};

use super::columns::{instants, widen, widens};
use super::hive;
use super::row_groups::Footer;

/// Fewer rows than this between two pieces are read with them: beginning anew within a group costs as much.
const NOT_WORTH_SKIPPING: u64 = 8_192;

/// Rows of one row group that are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) group: usize,
    pub(super) rows: Range<u64>,
}

/// What is read of a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Selected {
    /// Ascending.
    pub(super) units: Vec<Unit>,
    /// Rows in the interval, as far as is known, that nobody needs.
    pub(super) passed_over: u64,
}

/// What becomes of the rows of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Read,
    /// All of them lie outside of the interval.
    Outside,
    Unneeded,
}

/// The bounds of a column of the file, one for each container, in the file's types.
struct Stored {
    least: ArrayRef,
    greatest: ArrayRef,
    nulls: UInt64Array,
}

/// Selects the rows of `groups` in the file that is named `name` in the dataset. Reads the index of its pages when that
/// may leave rows out.
pub(super) fn select(footer: &mut Footer, name: &str, groups: Range<usize>, hints: &ReadHints) -> Result<Selected> {
    let judge = Judge { name, hints, in_file: footer.metadata.schema().as_ref().clone() };
    let metadata = footer.metadata.metadata();
    let all: Vec<usize> = groups.collect();
    let rows: Vec<u64> = all.iter().map(|group| footer.rows_in(*group)).collect();
    let whole = |(group, rows): (&usize, &u64)| Unit { group: *group, rows: 0..*rows };
    if !judge.asks() {
        return Ok(Selected { units: all.iter().zip(&rows).map(whole).collect(), passed_over: 0 });
    }
    let of_groups = |column: &str| by_group(metadata, &judge.in_file, column, &all);
    let fates = judge.fates(&rows, &of_groups)?;
    let mut selected = Selected::default();
    let mut left = Vec::new();
    for ((group, rows), fate) in all.iter().zip(&rows).zip(fates) {
        match fate {
            Fate::Read => left.push(whole((group, rows))),
            Fate::Unneeded => selected.passed_over += rows,
            Fate::Outside => {}
        }
    }
    if left.is_empty() {
        return Ok(selected);
    }
    footer.read_page_index()?;
    for unit in left {
        judge.within(footer.metadata.metadata(), unit, &mut selected)?;
    }
    Ok(selected)
}

/// Whether the folders that a file lies in rule out all its rows, if columns are theirs alone.
pub(super) fn ruled_out_by_path(name: &str, hints: &ReadHints) -> Result<bool> {
    let Some(needed) = &hints.needed else { return Ok(false) };
    let keys: Vec<String> = hive::pairs(name).into_iter().map(|(key, _)| key).collect();
    if keys.is_empty() {
        return Ok(false);
    }
    // Whatever is not in the path is in the file, with values that are not known here.
    let others = needed.columns().fields().iter().filter(|field| !keys.contains(field.name()));
    let judge = Judge { name, hints, in_file: Schema::new(others.cloned().collect::<Vec<_>>()) };
    Ok(judge.needs(&[1], &|_| None)? == [false])
}

/// The least and the greatest instant of a column in each of all row groups, where statistics say them.
pub(super) fn times(metadata: &ParquetMetaData, in_file: &Schema, column: &str) -> Vec<(Option<i64>, Option<i64>)> {
    let all: Vec<usize> = (0..metadata.num_row_groups()).collect();
    let bounds = by_group(metadata, in_file, column, &all).and_then(|stored| as_instants(&stored));
    let at =
        |times: &TimestampMicrosecondArray, n: usize| (n < times.len() && times.is_valid(n)).then(|| times.value(n));
    match bounds {
        Some((least, greatest)) => all.iter().map(|n| (at(&least, *n), at(&greatest, *n))).collect(),
        None => vec![(None, None); all.len()],
    }
}

fn as_instants(stored: &Stored) -> Option<(TimestampMicrosecondArray, TimestampMicrosecondArray)> {
    Some((instants(&stored.least).ok()?, instants(&stored.greatest).ok()?))
}

/// Judges containers of rows of one file.
struct Judge<'a> {
    name: &'a str,
    hints: &'a ReadHints,
    in_file: Schema,
}

impl Judge<'_> {
    /// Whether the read leaves out anything at all.
    fn asks(&self) -> bool {
        self.time().is_some() || self.hints.needed.is_some()
    }

    fn time(&self) -> Option<(Interval, &str)> {
        Some((self.hints.interval?, self.hints.event_time.as_deref()?))
    }

    /// The columns that are asked about and that the file has.
    fn columns(&self) -> Vec<&str> {
        let needed = self.hints.needed.iter().flat_map(|needed| needed.columns().fields().iter());
        let names = needed.map(|field| field.name().as_str()).chain(self.time().map(|(_, column)| column));
        names.filter(|name| self.in_file.index_of(name).is_ok()).collect()
    }

    /// The fate of containers that have so many rows; `stored` answers what is known of a column of the file.
    fn fates(&self, rows: &[u64], stored: &dyn Fn(&str) -> Option<Stored>) -> Result<Vec<Fate>> {
        let fate = |needed| if needed { Fate::Read } else { Fate::Unneeded };
        let mut fates: Vec<Fate> = self.needs(rows, stored)?.into_iter().map(fate).collect();
        if let Some((interval, column)) = self.time()
            && let Some(known) = stored(column)
            && let Some((least, greatest)) = as_instants(&known)
        {
            // A row without a time is everybody's to tell.
            let all_timed = |n: usize| known.nulls.is_valid(n) && known.nulls.value(n) == 0;
            for (n, fate) in fates.iter_mut().enumerate().take(least.len().min(greatest.len())) {
                let after = least.is_valid(n) && Timestamp(least.value(n)) >= interval.end;
                let before = greatest.is_valid(n) && Timestamp(greatest.value(n)) < interval.start;
                if (after || before) && all_timed(n) {
                    *fate = Fate::Outside;
                }
            }
        }
        Ok(fates)
    }

    /// Whether containers may have a row that is needed, whenever it is.
    fn needs(&self, rows: &[u64], stored: &dyn Fn(&str) -> Option<Stored>) -> Result<Vec<bool>> {
        let Some(needed) = &self.hints.needed else { return Ok(vec![true; rows.len()]) };
        let fields = needed.columns().fields().iter();
        let bounds = fields.map(|field| self.bounds(field, rows, stored)).collect::<Result<Vec<ColumnBounds>>>()?;
        Ok(needed.may_be_in(&UInt64Array::from(rows.to_vec()), &bounds))
    }

    /// What is known of a declared column: from the file, from its path, or that it has no values.
    fn bounds(&self, field: &Field, rows: &[u64], stored: &dyn Fn(&str) -> Option<Stored>) -> Result<ColumnBounds> {
        let (of, to) = (rows.len(), field.data_type());
        let unknown = || ColumnBounds {
            least: new_null_array(to, of),
            greatest: new_null_array(to, of),
            nulls: UInt64Array::new_null(of),
        };
        if let Ok(in_file) = self.in_file.field_with_name(field.name()) {
            if !is_ordered(in_file.data_type()) || !is_ordered(to) || !widens(in_file.data_type(), to) {
                return Ok(unknown());
            }
            let Some(stored) = stored(field.name()) else { return Ok(unknown()) };
            return Ok(match (widen(&stored.least, to), widen(&stored.greatest, to)) {
                (Ok(least), Ok(greatest)) if least.len() == of && greatest.len() == of => {
                    ColumnBounds { least, greatest, nulls: stored.nulls }
                }
                _ => unknown(),
            });
        }
        let path = hive::pairs(self.name);
        let constant = match path.iter().find(|(key, _)| key == field.name()) {
            Some((key, text)) => hive::value(text.as_deref(), to, key, self.name)?,
            None => new_null_array(to, 1),
        };
        if constant.is_null(0) {
            return Ok(ColumnBounds { nulls: UInt64Array::from(rows.to_vec()), ..unknown() });
        }
        if !is_ordered(to) {
            return Ok(unknown());
        }
        let Ok(everywhere) = take(&constant, &UInt32Array::from(vec![0; of]), None) else { return Ok(unknown()) };
        Ok(ColumnBounds { least: everywhere.clone(), greatest: everywhere, nulls: UInt64Array::from(vec![0; of]) })
    }

    /// Adds the rows of a group that its pages do not rule out.
    fn within(&self, metadata: &ParquetMetaData, unit: Unit, selected: &mut Selected) -> Result<()> {
        let columns = self.columns();
        let paged: Vec<(&str, Paged)> = columns
            .iter()
            .filter_map(|column| Some((*column, Paged::of(metadata, &self.in_file, column, unit.group)?)))
            .collect();
        let mut starts: Vec<u64> = paged.iter().flat_map(|(_, paged)| paged.starts.iter().copied()).collect();
        starts.push(0);
        starts.retain(|start| *start < unit.rows.end);
        starts.sort_unstable();
        starts.dedup();
        if starts.len() < 2 {
            selected.units.push(unit);
            return Ok(());
        }
        let ends = starts.iter().skip(1).copied().chain(std::iter::once(unit.rows.end));
        let pieces: Vec<Range<u64>> = starts.iter().copied().zip(ends).map(|(start, end)| start..end).collect();
        let rows: Vec<u64> = pieces.iter().map(|piece| piece.end - piece.start).collect();
        let of_pieces = |column: &str| paged.iter().find(|(name, _)| *name == column)?.1.of_pieces(&pieces);
        let mut open: Option<Unit> = None;
        let mut skipped = (0, 0);
        for (piece, fate) in pieces.iter().zip(self.fates(&rows, &of_pieces)?) {
            let length = piece.end - piece.start;
            if fate != Fate::Read {
                skipped.0 += length;
                skipped.1 += if fate == Fate::Unneeded { length } else { 0 };
                continue;
            }
            let (between, unneeded) = std::mem::take(&mut skipped);
            match &mut open {
                Some(unit) if between < NOT_WORTH_SKIPPING => unit.rows.end = piece.end,
                _ => {
                    selected.units.extend(open.replace(Unit { group: unit.group, rows: piece.clone() }));
                    selected.passed_over += unneeded;
                }
            }
        }
        selected.units.extend(open);
        selected.passed_over += skipped.1;
        Ok(())
    }
}

/// The bounds of a column in some row groups.
fn by_group(metadata: &ParquetMetaData, in_file: &Schema, column: &str, groups: &[usize]) -> Option<Stored> {
    let converter = converter(metadata, in_file, column)?;
    let metas: Vec<&RowGroupMetaData> = groups.iter().map(|group| metadata.row_group(*group)).collect();
    let leaf = converter.parquet_column_index()?;
    // Old writers compared bytes, and numbers without a sign, as signed numbers.
    let unsigned = in_file.field_with_name(column).is_ok_and(|field| field.data_type().is_unsigned_integer());
    let doubtful = |meta: &&RowGroupMetaData| {
        let bytes = matches!(meta.column(leaf).column_type(), Physical::BYTE_ARRAY | Physical::FIXED_LEN_BYTE_ARRAY);
        (bytes || unsigned) && meta.column(leaf).statistics().is_some_and(|s| s.is_min_max_deprecated())
    };
    if metas.iter().any(doubtful) {
        return None;
    }
    Some(Stored {
        least: converter.row_group_mins(metas.iter().copied()).ok()?,
        greatest: converter.row_group_maxes(metas.iter().copied()).ok()?,
        nulls: converter.row_group_null_counts(metas.iter().copied()).ok()?,
    })
}

fn converter<'a>(metadata: &'a ParquetMetaData, in_file: &'a Schema, column: &str) -> Option<StatisticsConverter<'a>> {
    let descriptor = metadata.file_metadata().schema_descr();
    let converter = StatisticsConverter::try_new(column, in_file, descriptor).ok()?;
    // Instants of twelve bytes have no order that writers agree on.
    let is_int96 =
        converter.parquet_column_index().is_none_or(|leaf| descriptor.column(leaf).physical_type() == Physical::INT96);
    (!is_int96).then(|| converter.with_missing_null_counts_as_zero(false))
}

/// The pages of a column in one row group.
struct Paged {
    /// The first row of each.
    starts: Vec<u64>,
    rows: u64,
    bounds: Stored,
}

impl Paged {
    fn of(metadata: &ParquetMetaData, in_file: &Schema, column: &str, group: usize) -> Option<Paged> {
        let (pages, offsets) = (metadata.column_index()?, metadata.offset_index()?);
        let converter = converter(metadata, in_file, column)?;
        let leaf = converter.parquet_column_index()?;
        pages.get(group)?.get(leaf)?;
        let locations = offsets.get(group)?.get(leaf)?.page_locations();
        let starts: Vec<u64> =
            locations.iter().map(|page| u64::try_from(page.first_row_index).ok()).collect::<Option<_>>()?;
        let bounds = Stored {
            least: converter.data_page_mins(pages, offsets, [&group]).ok()?,
            greatest: converter.data_page_maxes(pages, offsets, [&group]).ok()?,
            nulls: converter.data_page_null_counts(pages, offsets, [&group]).ok()?,
        };
        let whole = [bounds.least.len(), bounds.greatest.len(), bounds.nulls.len()].iter().all(|n| *n == starts.len());
        let rows = u64::try_from(metadata.row_group(group).num_rows()).ok()?;
        (whole && starts.first() == Some(&0) && starts.is_sorted()).then_some(Paged { starts, rows, bounds })
    }

    /// The bounds of pieces that lie in one page each.
    fn of_pieces(&self, pieces: &[Range<u64>]) -> Option<Stored> {
        let page = |piece: &Range<u64>| self.starts.partition_point(|start| *start <= piece.start) - 1;
        let pages: Vec<usize> = pieces.iter().map(page).collect();
        let places: UInt32Array = pages.iter().map(|page| u32::try_from(*page).ok()).collect();
        let nulls = pieces.iter().zip(&pages).map(|(piece, page)| {
            let end = self.starts.get(page + 1).copied().unwrap_or(self.rows);
            let (of_page, length) = (end - self.starts[*page], piece.end - piece.start);
            // Which rows of the page they are is not known.
            match self.bounds.nulls.is_valid(*page).then(|| self.bounds.nulls.value(*page))? {
                0 => Some(0),
                all if all >= of_page => Some(length),
                some if of_page == length => Some(some),
                _ => (length > 1).then_some(1),
            }
        });
        Some(Stored {
            least: take(&self.bounds.least, &places, None).ok()?,
            greatest: take(&self.bounds.greatest, &places, None).ok()?,
            nulls: nulls.collect(),
        })
    }
}

/// Whether bounds of this type say where its values lie.
fn is_ordered(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, value) => is_ordered(value),
        other => !other.is_floating() && !other.is_nested() && !matches!(other, DataType::Interval(_)),
    }
}
