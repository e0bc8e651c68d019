//! [`Group`]: the keys of one range of hashes: those in memory, those in the tier, and how they are stored.
//!
//! **Invariant:** what memory knows of a key is right, the tier tells of the others. A key is called up before it is
//! changed, so that memory knows whether it was there.

use tidemill_model::Result;
use tidemill_runtime::{Share, StateChunk};

use super::cold::{Cold, Record};
use super::keys::Keys;
use super::table::{Table, hash_of};

/// A group is not written anew for fewer rows than this.
const WORTH_REWRITING: usize = 256;

/// The keys whose hashes begin alike.
#[derive(Default)]
pub(super) struct Group {
    /// How many bits of their hashes are alike, and which.
    pub(super) place: (u32, usize),
    table: Table,
    cold: Cold,
    /// How many keys only the tier tells of.
    only_cold: usize,
    /// Keys that are gone, of which the tier may tell.
    dead: Table,
    /// Keys that were put or removed since the last snapshot; one may stand here several times.
    pub(super) changed: Keys,
    /// The stored chunks; the first holds the whole group.
    pub(super) chunks: Vec<Chunk>,
    /// Whether the stored chunks are not this group's.
    pub(super) rewrite: bool,
}

/// A chunk that the newest snapshot names.
pub(super) struct Chunk {
    pub(super) name: String,
    pub(super) rows: usize,
    /// Its keys, if it is small and not the first.
    pub(super) keys: Keys,
}

impl Group {
    pub(super) fn at(place: (u32, usize)) -> Group {
        Group { place, ..Group::default() }
    }

    /// How many keys.
    pub(super) fn len(&self) -> usize {
        self.table.len() + self.only_cold
    }

    /// How many bytes of memory it takes.
    pub(super) fn bytes(&self) -> usize {
        let names: usize = self.chunks.iter().map(|chunk| chunk.name.len() + chunk.keys.size()).sum();
        self.table.bytes() + self.dead.bytes() + self.cold.bytes() + self.changed.size() + names
    }

    /// How many of them can be moved to the tier.
    pub(super) fn movable(&self) -> usize {
        if self.table.len() == 0 { self.dead.bytes() } else { self.table.bytes() + self.dead.bytes() }
    }

    /// Makes room for so many keys more, of so many bytes with their values.
    pub(super) fn reserve(&mut self, keys: usize, bytes: usize) {
        self.table.reserve(keys, bytes);
    }

    /// Whether everything is in memory.
    pub(super) fn is_warm(&self) -> bool {
        self.cold.is_empty()
    }

    /// Whether memory knows a key.
    pub(super) fn knows(&self, hash: u64, key: &[u8]) -> bool {
        self.cold.is_empty() || self.table.get(hash, key).is_some() || self.dead.get(hash, key).is_some()
    }

    pub(super) fn get(&self, hash: u64, key: &[u8]) -> Option<&[u8]> {
        self.table.get(hash, key)
    }

    pub(super) fn put(&mut self, hash: u64, key: &[u8], value: &[u8]) {
        if !self.cold.is_empty() {
            self.dead.remove(hash, key);
        }
        self.table.put(hash, key, value);
    }

    /// Forgets a key; whether it was there.
    pub(super) fn remove(&mut self, hash: u64, key: &[u8]) -> bool {
        let was = self.table.remove(hash, key);
        if was && !self.cold.is_empty() {
            self.dead.put(hash, key, &[]);
        }
        was
    }

    /// The keys in memory with their values, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.table.iter()
    }

    /// Calls up keys that memory does not know, in the order of their hashes and bytes.
    pub(super) fn call_up(&mut self, wanted: &[(u64, &[u8])]) -> Result<()> {
        let (table, only_cold) = (&mut self.table, &mut self.only_cold);
        self.cold.find(wanted, |hash, key, value| {
            table.put(hash, key, value);
            *only_cold -= 1;
        })
    }

    /// Calls up every key; the tier holds nothing of the group then.
    pub(super) fn call_up_all(&mut self) -> Result<()> {
        if self.cold.is_empty() {
            return Ok(());
        }
        let (table, dead) = (&mut self.table, &self.dead);
        self.cold.each(|hash, key, value| {
            if table.get(hash, key).is_none() && dead.get(hash, key).is_none() {
                table.put(hash, key, value);
            }
        })?;
        (self.cold, self.dead, self.only_cold) = (Cold::default(), Table::default(), 0);
        Ok(())
    }

    /// Moves the keys in memory to the tier.
    pub(super) fn move_out(&mut self, share: &Share) -> Result<()> {
        let live = self.table.iter().map(|(key, value)| (hash_of(key), key, Some(value)));
        let dead = self.dead.iter().map(|(key, _)| (hash_of(key), key, None));
        let mut records: Vec<Record<'_>> = live.chain(dead).collect();
        if records.is_empty() {
            return Ok(());
        }
        records.sort_unstable_by_key(|(hash, key, _)| (*hash, *key));
        self.cold.add(&records, share)?;
        drop(records);
        self.only_cold += self.table.len();
        (self.table, self.dead) = (Table::default(), Table::default());
        Ok(())
    }

    /// Four groups in the place of this one, of which everything must be in memory.
    pub(super) fn divided(self, bit: impl Fn(u64, u32) -> usize) -> [Group; 4] {
        let (depth, number) = self.place;
        let mut parts =
            [0, 1, 2, 3].map(|part| Group { place: (depth + 2, number * 4 + part), rewrite: true, ..Group::default() });
        for (key, value) in self.table.iter() {
            let hash = hash_of(key);
            parts[bit(hash, depth + 2) % 4].table.put(hash, key, value);
        }
        parts
    }

    /// How many rows are stored beyond the first chunk, in hundredths of what is live.
    pub(super) fn overweight(&self) -> usize {
        let later: usize = self.chunks.iter().skip(1).map(|chunk| chunk.rows).sum();
        (later + self.changed.len()) * 100 / self.len().max(WORTH_REWRITING)
    }

    /// Forgets all chunks.
    pub(super) fn drop_chunks(&mut self, into: &mut Vec<StateChunk>) {
        into.extend(self.chunks.drain(..).map(|chunk| StateChunk { name: chunk.name, rows: None }));
    }

    /// Forgets small chunks, whose keys are then to be stored with those that changed.
    pub(super) fn merge_small(&mut self, changed: &mut Keys, into: &mut Vec<StateChunk>) {
        for chunk in self.chunks.extract_if(.., |chunk| !chunk.keys.is_empty()) {
            changed.extend(&chunk.keys);
            into.push(StateChunk { name: chunk.name, rows: None });
        }
        *changed = changed.in_order();
    }
}
