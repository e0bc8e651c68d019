//! [`Segment`]: rows that are kept together, and stored as one chunk.
//!
//! **Invariant:** row `i` of a segment has the number `base + i`, however often segments are put together; what is stored
//! of a segment never changes but for its marks.

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use datafusion::common::Result;
use tidemill_runtime::Parked;

use crate::stream::state::lost;

/// Some rows of one side.
pub(super) struct Segment {
    pub(super) base: u64,
    pub(super) rows: Parked,
    pub(super) times: Vec<i64>,
    /// The number of each row's key.
    pub(super) keys: Vec<u32>,
    /// Which rows have had a partner; empty where nobody asks.
    pub(super) matched: Vec<bool>,
    /// Rows by time.
    order: Vec<u32>,
    /// How many of them are gone.
    gone: usize,
    pub(super) saved: bool,
    /// Whether the stored marks are older than these.
    pub(super) marks_unsaved: bool,
    /// Whether there are stored marks.
    pub(super) marks_saved: bool,
}

impl Segment {
    pub(super) fn new(base: u64, rows: RecordBatch, times: Vec<i64>, keys: Vec<u32>, matched: Vec<bool>) -> Segment {
        let marks_unsaved = matched.contains(&true);
        let order = order(&times);
        Segment {
            base,
            rows: rows.into(),
            times,
            keys,
            matched,
            order,
            gone: 0,
            saved: false,
            marks_unsaved,
            marks_saved: false,
        }
    }

    /// How many bytes of memory it takes beside its rows, what the keys know of them among it.
    pub(super) fn fixed(&self) -> usize {
        self.times.len() * (size_of::<i64>() + 2 * size_of::<u32>() + size_of::<(i64, u64)>()) + self.matched.len()
    }

    pub(super) fn len(&self) -> usize {
        self.times.len()
    }

    /// Whether another segment's numbers go on where these end: one between them may be gone.
    pub(super) fn meets(&self, next: &Segment) -> bool {
        self.base + self.len() as u64 == next.base
    }

    /// Whether every row is gone.
    pub(super) fn is_spent(&self) -> bool {
        self.gone == self.order.len()
    }

    /// Takes out the next row before a time.
    pub(super) fn next_before(&mut self, limit: i64) -> Option<usize> {
        let row = *self.order.get(self.gone)? as usize;
        (self.times[row] < limit).then(|| {
            self.gone += 1;
            row
        })
    }

    /// The rows before a time that are left.
    pub(super) fn left_before(&self, limit: i64) -> impl Iterator<Item = usize> {
        let left = self.order[self.gone..].iter().map(|row| *row as usize);
        left.take_while(move |row| self.times[*row] < limit)
    }

    /// From the first time to the last of the rows that are left.
    pub(super) fn span(&self) -> Option<(i64, i64)> {
        let (first, last) = (self.order.get(self.gone)?, self.order.last()?);
        Some((self.times[*first as usize], self.times[*last as usize]))
    }

    /// This segment and the one that it meets as one, which is not stored yet.
    pub(super) fn joined(self, next: Segment, limit: i64) -> Result<Segment> {
        let [first, second] = [self.rows.read().map_err(lost)?, next.rows.read().map_err(lost)?];
        let rows = concat_batches(&first.schema(), [&first, &second])?;
        let both = |one: Vec<bool>, other: Vec<bool>| [one, other].concat();
        let (times, keys) = ([self.times, next.times].concat(), [self.keys, next.keys].concat());
        let mut joined = Segment::new(self.base, rows, times, keys, both(self.matched, next.matched));
        joined.skip_before(limit);
        Ok(joined)
    }

    /// Passes over the rows before a time, which are gone already.
    fn skip_before(&mut self, limit: i64) {
        self.gone = self.order.partition_point(|row| self.times[*row as usize] < limit);
    }
}

fn order(times: &[i64]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..times.len() as u32).collect();
    if !times.is_sorted() {
        order.sort_by_key(|row| times[*row as usize]);
    }
    order
}
