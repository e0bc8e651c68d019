//! [`Keys`]: the keys that rows are kept of, each with its rows of both sides in the order of time.
//!
//! **Invariant:** a key is there as long as a row of it is; the rows of a key are sorted by time, then by number, so that
//! those within bounds are found without looking at the others.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use arrow::row::{RowConverter, SortField};
use datafusion::common::HashMap;
use datafusion::error::DataFusionError;

use crate::stream::state::Numbers;

/// The key of rows that can have no partner.
pub(super) const NO_KEY: u32 = u32::MAX;

/// Dead entries of a line are dropped when there are so many and they are the half of it.
const MANY: usize = 32;

/// The keys of both sides of a join.
pub(super) struct Keys {
    /// `None` when every row has the same key.
    converter: Option<RowConverter>,
    numbers: HashMap<Arc<[u8]>, u32>,
    slots: Vec<Slot>,
    free: Numbers,
    /// Whether NULL equals NULL.
    null_equal: bool,
}

struct Slot {
    key: Arc<[u8]>,
    lines: [Line; 2],
}

/// Rows of one key on one side: time and number of each.
#[derive(Debug, Default)]
struct Line {
    entries: Vec<(i64, u64)>,
    /// The first entry that is there.
    head: usize,
}

impl Line {
    fn live(&self) -> &[(i64, u64)] {
        &self.entries[self.head..]
    }

    /// Adds sorted entries; most come after all others.
    fn merge(&mut self, new: &[(i64, u64)]) {
        let Some(first) = new.first() else { return };
        let at = self.head + self.live().partition_point(|entry| entry <= first);
        let tail = self.entries.split_off(at);
        if tail.is_empty() {
            self.entries.extend_from_slice(new);
            return;
        }
        let (mut old, mut new) = (tail.into_iter().peekable(), new.iter().copied().peekable());
        loop {
            let next = match (old.peek(), new.peek()) {
                (Some(one), Some(other)) if one <= other => old.next(),
                (Some(_), None) => old.next(),
                (_, Some(_)) => new.next(),
                (None, None) => return,
            };
            self.entries.extend(next);
        }
    }

    fn drop_before(&mut self, limit: i64) {
        self.head += self.live().partition_point(|(at, _)| *at < limit);
        if self.head > MANY && self.head * 2 > self.entries.len() {
            self.entries.drain(..self.head);
            self.head = 0;
        }
    }
}

impl Keys {
    /// No keys yet; the key columns of a side have the types of this batch.
    pub(super) fn new(fields: Vec<SortField>, null_equal: bool) -> Result<Keys, DataFusionError> {
        let converter = if fields.is_empty() { None } else { Some(RowConverter::new(fields)?) };
        Ok(Keys { converter, numbers: HashMap::default(), slots: Vec::new(), free: Numbers::default(), null_equal })
    }

    /// About how many bytes it takes beside the entries of rows.
    pub(super) fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>()
            + self.numbers.capacity() * (size_of::<(Arc<[u8]>, u32)>() + 1)
            + self.free.bytes()
    }

    /// The number of each row's key; rows that can have no partner, such as those without a time, get [`NO_KEY`].
    pub(super) fn number(
        &mut self,
        rows: &RecordBatch,
        columns: &[usize],
        times: &dyn Array,
    ) -> Result<Vec<u32>, DataFusionError> {
        let mut numbers = vec![NO_KEY; rows.num_rows()];
        let timed = (0..rows.num_rows()).filter(|row| times.is_valid(*row));
        let Some(converter) = &self.converter else {
            for row in timed {
                numbers[row] = self.intern(&[]);
            }
            return Ok(numbers);
        };
        let keys: Vec<_> = columns.iter().map(|column| Arc::clone(rows.column(*column))).collect();
        let encoded = converter.convert_columns(&keys)?;
        for row in timed {
            if self.null_equal || keys.iter().all(|key| key.is_valid(row)) {
                numbers[row] = self.intern(encoded.row(row).as_ref());
            }
        }
        Ok(numbers)
    }

    fn intern(&mut self, key: &[u8]) -> u32 {
        if let Some(number) = self.numbers.get(key) {
            return *number;
        }
        let key: Arc<[u8]> = Arc::from(key);
        let slot = Slot { key: Arc::clone(&key), lines: [Line::default(), Line::default()] };
        let number = match self.free.take() {
            Some(number) => {
                self.slots[number as usize] = slot;
                number
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() - 1) as u32
            }
        };
        self.numbers.insert(key, number);
        number
    }

    /// The rows of a key on a side with times in `[from, to]`.
    pub(super) fn within(&self, key: u32, side: usize, (from, to): (i64, i64)) -> &[(i64, u64)] {
        if key == NO_KEY || from > to {
            return &[];
        }
        let line = self.slots[key as usize].lines[side].live();
        let first = line.partition_point(|(at, _)| *at < from);
        let rest = &line[first..];
        &rest[..rest.partition_point(|(at, _)| *at <= to)]
    }

    /// Adds rows of a side, the first of which has the number `base`.
    pub(super) fn insert(&mut self, side: usize, keys: &[u32], times: &[i64], base: u64) {
        let known = keys.iter().enumerate().filter(|(_, key)| **key != NO_KEY);
        let mut rows: Vec<(u32, i64, u64)> = known.map(|(row, key)| (*key, times[row], base + row as u64)).collect();
        rows.sort_unstable();
        let mut entries = Vec::new();
        for of_key in rows.chunk_by(|one, other| one.0 == other.0) {
            entries.clear();
            entries.extend(of_key.iter().map(|(_, at, number)| (*at, *number)));
            self.slots[of_key[0].0 as usize].lines[side].merge(&entries);
        }
    }

    /// Drops a key's rows of a side before a time; and the key with its last row.
    pub(super) fn drop_before(&mut self, side: usize, key: u32, limit: i64) {
        if key == NO_KEY {
            return;
        }
        // Its last row went before, and its place with it.
        let Some(slot) = self.slots.get_mut(key as usize) else { return };
        slot.lines[side].drop_before(limit);
        self.forget(key);
    }

    /// Gives a row another number, greater than that of any other row.
    pub(super) fn renumber(&mut self, side: usize, key: u32, entry: (i64, u64), number: u64) {
        let line = &mut self.slots[key as usize].lines[side];
        let live = &mut line.entries[line.head..];
        if let Ok(at) = live.binary_search(&entry) {
            let end = live.partition_point(|other| other.0 <= entry.0);
            live[at].1 = number;
            live[at..end].rotate_left(1);
        }
    }

    /// Drops a key without rows.
    fn forget(&mut self, key: u32) {
        let slot = &mut self.slots[key as usize];
        // The number is another key's, or free, if this one is no longer known by it.
        if slot.lines.iter().all(|line| line.live().is_empty()) && self.numbers.get(&slot.key) == Some(&key) {
            self.numbers.remove(&slot.key);
            (slot.key, slot.lines) = (Arc::default(), [Line::default(), Line::default()]);
            if let Some(shorter) = self.free.put(key, self.slots.len()) {
                self.shorten(shorter);
            }
        }
    }

    /// Gives memory back that most keys have left, at the end of an epoch.
    pub(super) fn settle(&mut self) {
        if let Some(shorter) = self.free.settle(self.slots.len()) {
            self.shorten(shorter);
        }
    }

    fn shorten(&mut self, shorter: usize) {
        self.slots.truncate(shorter);
        self.slots.shrink_to_fit();
        self.numbers.shrink_to_fit();
    }
}
