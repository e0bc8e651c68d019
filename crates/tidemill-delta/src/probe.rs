//! [`Probe`]: which stored rows the changes of an epoch meet, and who wins.
//!
//! **Invariant:** only the key columns, and the sequence where there is one, are read of rows that no change meets.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, Rows};
use datafusion::common::HashMap;
use datafusion::common::hash_utils::{RandomState, create_hashes};
use deltalake_core::DeltaTableError;
use tidemill_model::{Error, Result};

use crate::commit::Failed;
use crate::datafile::OpenFile;
use crate::latest::{Change, Changes, comparable, converter, order_of};

/// The changes, indexed by key and ready to be compared.
pub(crate) struct Probe {
    pub(crate) table: SchemaRef,
    pub(crate) changes: Changes,
    key: Vec<usize>,
    /// Sequence first, then the rest; all positions of the table.
    order: Vec<usize>,
    /// How many of `order` are read at first: the sequence.
    first: usize,
    by_key: HashMap<Box<[u8]>, u32>,
    sieve: Sieve,
    first_rows: Rows,
}

/// Bits of the hashes of some keys: most keys of a table are seen here to be none of them, without being put together.
struct Sieve {
    bits: Vec<u64>,
}

/// Bits for each key; one in so many of the others is looked up in vain.
const BITS_A_KEY: usize = 16;

impl Sieve {
    fn of(keys: &[ArrayRef], rows: usize) -> Result<Sieve> {
        let words = (rows * BITS_A_KEY / 64).next_power_of_two();
        let mut sieve = Sieve { bits: vec![0; words] };
        for hash in hashes(keys, rows)? {
            let (word, bit) = sieve.place(hash);
            sieve.bits[word] |= bit;
        }
        Ok(sieve)
    }

    fn place(&self, hash: u64) -> (usize, u64) {
        ((hash >> 6) as usize & (self.bits.len() - 1), 1 << (hash % 64))
    }

    /// The rows whose keys may be among them.
    fn among(&self, keys: &[ArrayRef], rows: usize) -> Result<Vec<u32>> {
        let hashes = hashes(keys, rows)?;
        let may = |hash: u64| {
            let (word, bit) = self.place(hash);
            self.bits[word] & bit != 0
        };
        Ok((0_u32..).zip(hashes).filter(|(_, hash)| may(*hash)).map(|(row, _)| row).collect())
    }
}

fn hashes(keys: &[ArrayRef], rows: usize) -> Result<Vec<u64>> {
    let mut hashes = vec![0; rows];
    let done = create_hashes(keys, &RandomState::with_seed(0), &mut hashes).map(|_| ());
    done.map_err(|error| Error::internal("keys of a table have no hash").because(error))?;
    Ok(hashes)
}

/// What the changes do to one row group.
#[derive(Debug, Default)]
pub(crate) struct Met {
    /// Rows that go, in order.
    pub(crate) gone: Vec<u32>,
    /// Changes that a stored row beats.
    pub(crate) beaten: Vec<u32>,
}

impl Probe {
    /// Indexes changes whose rows have the columns of the table.
    pub(crate) fn new(changes: Changes, key: &[usize], sequence: Option<usize>) -> Result<Probe> {
        let table = changes.rows.schema();
        let order = order_of(&table, key, sequence);
        let first = usize::from(sequence.is_some());
        let columns = changes.rows.columns();
        let keys = comparable(&converter(&table, key)?, columns, key)?;
        let select: Vec<usize> = order.iter().copied().take(first).collect();
        let first_rows = rows(&table, columns, &select)?;
        let mut by_key = HashMap::with_capacity(keys.num_rows());
        for (change, key) in keys.iter().enumerate() {
            by_key.insert(Box::from(key.data()), change as u32);
        }
        let of_keys: Vec<ArrayRef> = key.iter().map(|at| ArrayRef::clone(changes.rows.column(*at))).collect();
        let sieve = Sieve::of(&of_keys, changes.rows.num_rows())?;
        Ok(Probe { table, changes, key: key.to_vec(), order, first, by_key, sieve, first_rows })
    }

    /// Looks one row group through.
    pub(crate) async fn meet(&self, file: &OpenFile, group: usize) -> std::result::Result<Met, Failed> {
        let mut select = self.key.clone();
        select.extend(self.order.iter().take(self.first));
        let keys_at: Vec<usize> = (0..self.key.len()).collect();
        let key_converter = converter(&self.table, &self.key)?;
        let first_converter = self.converter(self.first)?;
        let mut columns = file.read(group, &self.table, &select)?;
        let mut met = Met::default();
        // Pairs of stored row and change that the sequence does not decide.
        let mut ties: Vec<(u32, u32)> = Vec::new();
        let mut start = 0_u32;
        while let Some((count, columns)) = columns.next().await? {
            let of_keys: Vec<ArrayRef> = columns.iter().take(self.key.len()).map(Arc::clone).collect();
            let likely = UInt32Array::from(self.sieve.among(&of_keys, count)?);
            let of_keys = of_keys.iter().map(|column| take(column, &likely, None));
            let of_keys = of_keys.collect::<std::result::Result<Vec<_>, _>>().map_err(DeltaTableError::from)?;
            let keys = comparable(&key_converter, &of_keys, &keys_at)?;
            let hits: Vec<(u32, u32)> = likely
                .values()
                .iter()
                .zip(keys.iter())
                .filter_map(|(row, key)| self.by_key.get(key.data()).map(|&change| (*row, change)))
                .collect();
            let sequences: Vec<ArrayRef> = columns.iter().skip(self.key.len()).map(Arc::clone).collect();
            let stored = picked(first_converter.as_ref(), &sequences, hits.iter().map(|hit| hit.0))?;
            for (at, &(row, change)) in hits.iter().enumerate() {
                let row = start + row;
                match self.kind(change) {
                    Change::Always | Change::Delete => met.gone.push(row),
                    Change::Greatest => {
                        match stored.as_ref().map(|stored| self.first_rows.row(change as usize).cmp(&stored.row(at))) {
                            Some(std::cmp::Ordering::Greater) => met.gone.push(row),
                            Some(std::cmp::Ordering::Less) => met.beaten.push(change),
                            Some(std::cmp::Ordering::Equal) | None => ties.push((row, change)),
                        }
                    }
                }
            }
            start += count as u32;
        }
        if !ties.is_empty() {
            self.break_ties(file, group, &ties, &mut met).await?;
        }
        Ok(met)
    }

    fn kind(&self, change: u32) -> Change {
        self.changes.kinds.get(change as usize).copied().unwrap_or(Change::Always)
    }

    fn converter(&self, first: usize) -> Result<Option<RowConverter>> {
        let select: Vec<usize> = self.order.iter().copied().take(first).collect();
        if select.is_empty() { Ok(None) } else { converter(&self.table, &select).map(Some) }
    }

    /// Compares by all columns where the sequence is equal; a stored row that equals the change stays.
    async fn break_ties(
        &self,
        file: &OpenFile,
        group: usize,
        ties: &[(u32, u32)],
        met: &mut Met,
    ) -> std::result::Result<(), Failed> {
        let Some(converter) = self.converter(self.order.len())? else {
            // Keys only: the stored row is the given one.
            met.beaten.extend(ties.iter().map(|&(_, change)| change));
            return Ok(());
        };
        let given: Vec<ArrayRef> = self.order.iter().map(|&at| Arc::clone(self.changes.rows.column(at))).collect();
        let mut columns = file.read(group, &self.table, &self.order)?;
        let (mut start, mut ties) = (0_u32, ties.iter().copied().peekable());
        while let Some((count, columns)) = columns.next().await? {
            let end = start + count as u32;
            let mut here = Vec::new();
            while let Some((row, change)) = ties.next_if(|&(row, _)| row < end) {
                here.push((row - start, change));
            }
            let stored = picked(Some(&converter), &columns, here.iter().map(|tie| tie.0))?;
            let given = picked(Some(&converter), &given, here.iter().map(|tie| tie.1))?;
            if let (Some(stored), Some(given)) = (stored, given) {
                for (at, &(row, change)) in here.iter().enumerate() {
                    if given.row(at) > stored.row(at) {
                        met.gone.push(start + row);
                    } else {
                        met.beaten.push(change);
                    }
                }
            }
            start = end;
        }
        met.gone.sort_unstable();
        Ok(())
    }

    /// The changes that are written: no deletions, none that a stored row beats.
    pub(crate) fn winners(&self, beaten: &BTreeSet<u32>) -> UInt32Array {
        let kinds = self.changes.kinds.iter().enumerate();
        kinds
            .filter(|(at, kind)| **kind != Change::Delete && !beaten.contains(&(*at as u32)))
            .map(|(at, _)| at as u32)
            .collect()
    }
}

fn rows(table: &SchemaRef, columns: &[ArrayRef], select: &[usize]) -> Result<Rows> {
    comparable(&converter(table, select)?, columns, select)
}

/// The rows at these places, comparable; `None` when there is nothing to compare.
fn picked(
    converter: Option<&RowConverter>,
    columns: &[ArrayRef],
    at: impl ExactSizeIterator<Item = u32>,
) -> std::result::Result<Option<Rows>, DeltaTableError> {
    let Some(converter) = converter.filter(|_| at.len() > 0) else { return Ok(None) };
    let at = UInt32Array::from_iter_values(at);
    let taken = columns.iter().map(|column| take(column, &at, None)).collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(Some(converter.convert_columns(&taken)?))
}
