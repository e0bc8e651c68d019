//! [`Contest`]: which of the held rows lose against another one of their key.
//!
//! **Invariant:** buckets are decided apart from each other, each by one thread; a row that shares its hash with no other
//! is never looked at.

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::buffer::{BooleanBuffer, Buffer};
use arrow::compute::{filter_record_batch, interleave};
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, Rows};
use datafusion::common::Result;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry as Slot;

use super::held::{BUCKETS, First, Held};

/// How many rows are compared at once.
const AT_ONCE: usize = 16_384;

/// Where a row is. The highest bit of the row is free: a batch has fewer rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place(u64);

impl Place {
    const MET: u64 = 1 << 31;

    fn new(batch: u32, row: u32) -> Place {
        Place(u64::from(batch) << 32 | u64::from(row))
    }

    fn batch(self) -> usize {
        (self.0 >> 32) as usize
    }

    fn row(self) -> usize {
        (self.0 & (Place::MET - 1)) as usize
    }
}

/// A hash is its own hash.
#[derive(Default)]
struct Itself(u64);

impl Hasher for Itself {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// Held rows of all who gathered them.
pub(super) struct Contest {
    held: Vec<Held>,
    /// The number of the first batch of each.
    starts: Vec<usize>,
    /// For each batch a bit for each row: whether it lost.
    lost: Vec<Vec<AtomicU64>>,
    next: AtomicUsize,
}

/// A batch whose losers are known.
pub(super) struct Kept {
    rows: RecordBatch,
    /// How many bytes were reserved for it.
    pub(super) bytes: usize,
    lost: Vec<u64>,
}

impl Kept {
    /// How many rows stay.
    pub(super) fn stay(&self) -> usize {
        let lost: u32 = self.lost.iter().map(|bits| bits.count_ones()).sum();
        self.rows.num_rows() - lost as usize
    }

    /// How many rows there were.
    pub(super) fn all(&self) -> usize {
        self.rows.num_rows()
    }

    /// The rows that stay.
    pub(super) fn rows(self, columns: impl Fn(&RecordBatch) -> Result<RecordBatch>) -> Result<RecordBatch> {
        let rows = columns(&self.rows)?;
        if self.lost.iter().all(|bits| *bits == 0) {
            return Ok(rows);
        }
        let bits: Vec<u64> = self.lost.iter().map(|bits| !bits).collect();
        let stays = BooleanBuffer::new(Buffer::from_vec(bits), 0, rows.num_rows());
        Ok(filter_record_batch(&rows, &BooleanArray::new(stays, None))?)
    }
}

impl Contest {
    pub(super) fn new(held: Vec<Held>) -> Contest {
        let mut starts = Vec::with_capacity(held.len());
        let mut lost = Vec::new();
        for held in &held {
            starts.push(lost.len());
            lost.extend(held.batches.iter().map(|(rows, _)| {
                (0..rows.num_rows().div_ceil(64)).map(|_| AtomicU64::new(0)).collect::<Vec<AtomicU64>>()
            }));
        }
        Contest { held, starts, lost, next: AtomicUsize::new(0) }
    }

    /// Decides buckets until none is left; several threads may.
    pub(super) fn work(&self, first: &First, input: &SchemaRef) -> Result<()> {
        let (keys, order) = first.converters(input)?;
        let judge = Judge { contest: self, first, keys, order };
        loop {
            let bucket = self.next.fetch_add(1, Ordering::Relaxed);
            if bucket >= BUCKETS {
                return Ok(());
            }
            let rivals = self.rivals(bucket);
            if !rivals.is_empty() {
                judge.decide(&rivals)?;
            }
        }
    }

    /// The rows of a bucket that share their hash with others, by hash.
    fn rivals(&self, bucket: usize) -> Vec<(u64, Place)> {
        let all = self.held.iter().map(|held| held.entries(bucket).len()).sum();
        let mut seen: HashMap<u64, Place, BuildHasherDefault<Itself>> =
            HashMap::with_capacity_and_hasher(all, BuildHasherDefault::default());
        let mut rivals = Vec::new();
        for (held, start) in self.held.iter().zip(&self.starts) {
            for entry in held.entries(bucket) {
                let place = Place::new(*start as u32 + entry.batch, entry.row);
                match seen.entry(entry.hash) {
                    Slot::Vacant(slot) => {
                        slot.insert(place);
                    }
                    Slot::Occupied(mut slot) => {
                        let other = slot.get_mut();
                        if other.0 & Place::MET == 0 {
                            rivals.push((entry.hash, *other));
                            other.0 |= Place::MET;
                        }
                        rivals.push((entry.hash, place));
                    }
                }
            }
        }
        rivals.sort_unstable();
        rivals
    }

    fn lose(&self, place: Place) {
        let words = self.lost.get(place.batch());
        if let Some(word) = words.and_then(|words| words.get(place.row() / 64)) {
            word.fetch_or(1 << (place.row() % 64), Ordering::Relaxed);
        }
    }

    fn batch(&self, at: usize) -> Option<&RecordBatch> {
        let of = self.starts.partition_point(|start| *start <= at).checked_sub(1)?;
        self.held.get(of)?.batches.get(at - self.starts[of]).map(|(rows, _)| rows)
    }

    /// The batches in the order in which they came.
    pub(super) fn decided(self) -> impl Iterator<Item = Kept> {
        let batches = self.held.into_iter().flat_map(|held| held.batches);
        batches.zip(self.lost).map(|((rows, bytes), lost)| {
            let lost = lost.into_iter().map(AtomicU64::into_inner).collect();
            Kept { rows, bytes, lost }
        })
    }
}

/// What compares rows, for one thread.
struct Judge<'a> {
    contest: &'a Contest,
    first: &'a First,
    keys: RowConverter,
    order: Option<RowConverter>,
}

impl Judge<'_> {
    fn decide(&self, rivals: &[(u64, Place)]) -> Result<()> {
        let order: Vec<usize> = self.first.order.iter().map(|(at, _)| *at).collect();
        // The rows that lead so far, each of another key, all of the last hash.
        let mut leading: Vec<(u64, Place)> = Vec::new();
        for some in rivals.chunks(AT_ONCE) {
            let mut rows = std::mem::take(&mut leading);
            rows.extend_from_slice(some);
            let keys = self.keys.convert_columns(&self.columns(&rows, &self.first.keys)?)?;
            let by = match &self.order {
                Some(converter) => Some(converter.convert_columns(&self.columns(&rows, &order)?)?),
                None => None,
            };
            leading = self.compare(&rows, &keys, by.as_ref());
        }
        Ok(())
    }

    /// Marks who loses among rows that are ordered by hash; answers who leads of the last hash.
    fn compare(&self, rows: &[(u64, Place)], keys: &Rows, order: Option<&Rows>) -> Vec<(u64, Place)> {
        let mut leading: Vec<usize> = Vec::new();
        let mut hash = None;
        for (at, (of, place)) in rows.iter().enumerate() {
            if hash != Some(*of) {
                leading.clear();
                hash = Some(*of);
            }
            let Some(rival) = leading.iter_mut().find(|rival| keys.row(**rival) == keys.row(at)) else {
                leading.push(at);
                continue;
            };
            if order.is_some_and(|order| order.row(at) < order.row(*rival)) {
                self.contest.lose(rows[*rival].1);
                *rival = at;
            } else {
                self.contest.lose(*place);
            }
        }
        leading.into_iter().map(|at| rows[at]).collect()
    }

    /// These columns of these rows.
    fn columns(&self, rows: &[(u64, Place)], columns: &[usize]) -> Result<Vec<ArrayRef>> {
        let mut near: HashMap<usize, usize, BuildHasherDefault<Itself>> = HashMap::default();
        let mut batches: Vec<&RecordBatch> = Vec::new();
        let mut places = Vec::with_capacity(rows.len());
        for (_, place) in rows {
            let at = *near.entry(place.batch()).or_insert(batches.len());
            if at == batches.len() {
                batches.extend(self.contest.batch(place.batch()));
            }
            places.push((at, place.row()));
        }
        let column = |at: &usize| {
            let arrays: Vec<&dyn Array> = batches.iter().map(|batch| batch.column(*at).as_ref()).collect();
            interleave(&arrays, &places)
        };
        Ok(columns.iter().map(column).collect::<Result<_, _>>()?)
    }
}
