//! [`Template`]: what stands between the values of a record, learned from earlier records.
//!
//! **Invariant:** a template names each column at most once, and a record that matches it has no other fields; it may
//! lack some.

use super::scan::Entry;
use crate::format::number::load;

/// A template of more fields than this starts anew: its records have no common shape.
const MOST_FIELDS: usize = 512;
/// At most this many records pass before a template that does not hold is replaced.
const MOST_PATIENCE: u32 = 256;

/// A piece of text that is looked for at a known place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Literal {
    bytes: Vec<u8>,
    /// The first eight bytes, of which `mask` says how many there are.
    head: u64,
    mask: u64,
    /// The last eight bytes, where there are more than eight.
    tail: u64,
}

impl Literal {
    fn of(parts: &[&[u8]]) -> Literal {
        let bytes = parts.concat();
        let mask = if bytes.len() >= 8 { u64::MAX } else { (1 << (8 * bytes.len())) - 1 };
        let tail = load(&bytes, bytes.len().saturating_sub(8));
        Literal { head: load(&bytes, 0), mask, tail, bytes }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it stands at `at`. No literal contains a zero byte, so the padding behind the input never matches.
    #[inline]
    pub(super) fn stands_at(&self, bytes: &[u8], at: usize) -> bool {
        let length = self.bytes.len();
        if (load(bytes, at) ^ self.head) & self.mask != 0 {
            return false;
        }
        length <= 8
            || (load(bytes, at.wrapping_add(length).wrapping_sub(8)) == self.tail
                && (length <= 16 || bytes.get(at..at + length) == Some(&self.bytes)))
    }
}

/// A field that records of the template may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slot {
    /// What precedes its value when it is the record's first field, and otherwise.
    pub(super) first: Literal,
    pub(super) next: Literal,
    /// The column that it fills.
    pub(super) column: Option<usize>,
    /// The name with its quotes, the colon and the blanks around it.
    key: Vec<u8>,
}

/// The shape of records seen before.
#[derive(Debug, Default)]
pub(super) struct Template {
    pub(super) slots: Vec<Slot>,
    /// What follows the last value.
    pub(super) close: Literal,
    /// The columns that no slot fills.
    pub(super) absent: Vec<usize>,
    open: Vec<u8>,
    separator: Vec<u8>,
    /// Records that matched since it was learned.
    pub(super) matched: u32,
    /// Records to let pass before learning again, so that a stream without a shape does not pay for templates.
    wait: u32,
    patience: u32,
}

impl Template {
    /// Makes the template hold for this record, whose fields are `entries`, in addition to those before if they share
    /// one order.
    pub(super) fn learn(&mut self, record: &[u8], entries: &[Entry], columns: usize) {
        if self.wait > 0 {
            self.wait -= 1;
            return;
        }
        self.patience = if self.matched >= 8 { 0 } else { (self.patience * 2).clamp(1, MOST_PATIENCE) };
        self.wait = self.patience.saturating_sub(1);
        self.matched = 0;
        let part = |from: usize, to: usize| record.get(from..to).unwrap_or_default();
        let (Some(head), Some(last)) = (entries.first(), entries.last()) else { return };
        let (open, close) = (part(0, head.key.start), part(last.value.end, record.len()));
        let mut separators =
            entries.windows(2).filter_map(|pair| Some(part(pair.first()?.value.end, pair.last()?.key.start)));
        let alike = open == self.open && close == self.close.bytes;
        // A record of one field shows no separator: it may share the one known.
        let known = if alike && !self.slots.is_empty() { self.separator.clone() } else { b",".to_vec() };
        let separator = separators.next().unwrap_or(&known);
        let mut keys: Vec<(&[u8], Option<usize>)> =
            entries.iter().map(|entry| (part(entry.key.start, entry.value.start), entry.column)).collect();
        if separators.any(|other| other != separator) || has_twins(&keys) {
            return;
        }
        if alike && separator == self.separator {
            merge(&mut keys, &self.slots);
        }
        let slots = keys
            .iter()
            .map(|(key, column)| Slot {
                first: Literal::of(&[open, key]),
                next: Literal::of(&[separator, key]),
                column: *column,
                key: key.to_vec(),
            })
            .collect();
        self.absent = (0..columns).filter(|column| keys.iter().all(|(_, filled)| *filled != Some(*column))).collect();
        self.slots = slots;
        self.close = Literal::of(&[close]);
        self.open = open.to_vec();
        self.separator = separator.to_vec();
    }
}

/// Whether a field or a column occurs twice.
fn has_twins(keys: &[(&[u8], Option<usize>)]) -> bool {
    let mut names: Vec<&[u8]> = keys.iter().map(|(key, _)| *key).collect();
    let mut columns: Vec<usize> = keys.iter().filter_map(|(_, column)| *column).collect();
    names.sort_unstable();
    columns.sort_unstable();
    names.windows(2).any(|pair| pair.first() == pair.last())
        || columns.windows(2).any(|pair| pair.first() == pair.last())
}

/// Adds the old slots that the record lacks, each behind its old predecessor.
fn merge<'a>(keys: &mut Vec<(&'a [u8], Option<usize>)>, old: &'a [Slot]) {
    if keys.len() + old.len() > MOST_FIELDS {
        return;
    }
    let mut behind = 0;
    for slot in old {
        let same =
            |(key, column): &(&[u8], Option<usize>)| *key == slot.key || (column.is_some() && *column == slot.column);
        match keys.iter().position(same) {
            Some(place) => behind = place + 1,
            None => {
                keys.insert(behind, (&slot.key, slot.column));
                behind += 1;
            }
        }
    }
}
