//! [`Table`]: a hash table from bytes to bytes that spends little beyond the bytes themselves.
//!
//! **Invariant:** an entry's record is its key followed by its value, anywhere in one arena; what updates leave behind
//! there is given back before it outweighs what is live.

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use std::hash::BuildHasher;

/// Garbage below this is not worth a compaction.
const WORTH_COMPACTING: usize = 64 << 10;

/// Keys with their values. About 22 bytes an entry beyond the bytes of its key and value.
#[derive(Default)]
pub(in crate::stream) struct Table {
    /// The numbers of entries by the hash of their key.
    index: HashTable<u32>,
    entries: Vec<Entry>,
    /// Numbers of entries that are gone and can be taken again.
    free: Vec<u32>,
    arena: Vec<u8>,
    garbage: usize,
}

/// Where a record lies.
#[derive(Clone, Copy)]
struct Entry {
    at: usize,
    key: u32,
    value: u32,
}

impl Entry {
    fn key(self, arena: &[u8]) -> &[u8] {
        arena.get(self.at..self.at + self.key as usize).unwrap_or_default()
    }

    fn value(self, arena: &[u8]) -> &[u8] {
        let from = self.at + self.key as usize;
        arena.get(from..from + self.value as usize).unwrap_or_default()
    }

    fn bytes(self) -> usize {
        self.key as usize + self.value as usize
    }
}

/// The hash of a key: the same in every run, as tables are divided by it.
pub(in crate::stream) fn hash_of(key: &[u8]) -> u64 {
    FixedState::with_seed(0x7469_6465).hash_one(key)
}

/// Grows by a quarter, where a vector would double: what lies ready for later is memory that nothing is kept in.
fn make_room<T>(vector: &mut Vec<T>, more: usize) {
    if vector.capacity() - vector.len() < more {
        vector.reserve_exact(more.max(vector.len() / 4).max(16));
    }
}

impl Table {
    /// How many keys.
    pub(in crate::stream) fn len(&self) -> usize {
        self.index.len()
    }

    /// Makes room for so many keys more, of so many bytes with their values.
    pub(super) fn reserve(&mut self, keys: usize, bytes: usize) {
        let (entries, arena) = (&self.entries, &self.arena);
        self.index.reserve(keys, |other| hash_of(entries[*other as usize].key(arena)));
        self.entries.reserve_exact(keys);
        self.arena.reserve_exact(bytes);
    }

    /// How many bytes it takes.
    pub(in crate::stream) fn bytes(&self) -> usize {
        self.arena.capacity()
            + self.entries.capacity() * size_of::<Entry>()
            + self.free.capacity() * size_of::<u32>()
            + self.index.allocation_size()
    }

    /// The value of a key, given its hash.
    pub(super) fn get(&self, hash: u64, key: &[u8]) -> Option<&[u8]> {
        Some(self.entry(self.find(hash, key)?).value(&self.arena))
    }

    /// Gives a key this value, given its hash.
    pub(super) fn put(&mut self, hash: u64, key: &[u8], value: &[u8]) {
        if let Some(number) = self.find(hash, key) {
            let entry = self.entry(number);
            if entry.value as usize == value.len() {
                let from = entry.at + key.len();
                if let Some(place) = self.arena.get_mut(from..from + value.len()) {
                    place.copy_from_slice(value);
                }
                return;
            }
            self.garbage += entry.bytes();
            let moved = self.append(key, value);
            self.entries[number as usize] = moved;
        } else {
            let entry = self.append(key, value);
            let number = match self.free.pop() {
                Some(number) => {
                    self.entries[number as usize] = entry;
                    number
                }
                None => {
                    make_room(&mut self.entries, 1);
                    self.entries.push(entry);
                    (self.entries.len() - 1) as u32
                }
            };
            let (entries, arena) = (&self.entries, &self.arena);
            self.index.insert_unique(hash, number, |other| hash_of(entries[*other as usize].key(arena)));
        }
        self.compact_if_worth_it();
    }

    /// Forgets a key, given its hash; whether it was there.
    pub(super) fn remove(&mut self, hash: u64, key: &[u8]) -> bool {
        let (entries, arena) = (&self.entries, &self.arena);
        let found = self.index.find_entry(hash, |other| entries[*other as usize].key(arena) == key);
        let Ok(found) = found else { return false };
        let (number, _) = found.remove();
        self.garbage += self.entries[number as usize].bytes();
        self.entries[number as usize] = Entry { at: 0, key: 0, value: 0 };
        self.free.push(number);
        self.compact_if_worth_it();
        true
    }

    /// All keys with their values, in no order.
    pub(in crate::stream) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.index.iter().map(|number| {
            let entry = self.entry(*number);
            (entry.key(&self.arena), entry.value(&self.arena))
        })
    }

    fn entry(&self, number: u32) -> Entry {
        self.entries[number as usize]
    }

    fn find(&self, hash: u64, key: &[u8]) -> Option<u32> {
        self.index.find(hash, |other| self.entry(*other).key(&self.arena) == key).copied()
    }

    fn append(&mut self, key: &[u8], value: &[u8]) -> Entry {
        let at = self.arena.len();
        make_room(&mut self.arena, key.len() + value.len());
        self.arena.extend_from_slice(key);
        self.arena.extend_from_slice(value);
        Entry { at, key: key.len() as u32, value: value.len() as u32 }
    }

    /// Copies what is live into an arena of its own, and numbers the entries anew when most of them are gone.
    fn compact_if_worth_it(&mut self) {
        if self.garbage < WORTH_COMPACTING || self.garbage * 2 < self.arena.len() {
            return;
        }
        let mut arena = Vec::with_capacity(self.arena.len() - self.garbage);
        let mut entries = Vec::with_capacity(self.index.len());
        for number in self.index.iter_mut() {
            let old = self.entries[*number as usize];
            let at = arena.len();
            arena.extend_from_slice(old.key(&self.arena));
            arena.extend_from_slice(old.value(&self.arena));
            *number = entries.len() as u32;
            entries.push(Entry { at, ..old });
        }
        (self.arena, self.entries, self.free, self.garbage) = (arena, entries, Vec::new(), 0);
        let (entries, arena) = (&self.entries, &self.arena);
        self.index.shrink_to(self.entries.len() * 2, |other| hash_of(entries[*other as usize].key(arena)));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn it_holds_what_a_map_holds_whatever_is_done_to_it() {
        let mut state = 1_u64;
        let mut next = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let (mut table, mut map) = (Table::default(), BTreeMap::<Vec<u8>, Vec<u8>>::new());
        for step in 0..200_000_u64 {
            let key = next(3_000).to_string().into_bytes();
            if next(3) == 0 {
                assert_eq!(table.remove(hash_of(&key), &key), map.remove(&key).is_some(), "step {step}");
            } else {
                let value = vec![(step % 251) as u8; next(40) as usize];
                table.put(hash_of(&key), &key, &value);
                map.insert(key.clone(), value);
            }
            assert_eq!(table.get(hash_of(&key), &key), map.get(&key).map(Vec::as_slice), "step {step}");
        }
        assert_eq!(table.len(), map.len());
        let all: BTreeMap<Vec<u8>, Vec<u8>> = table.iter().map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
        assert_eq!(all, map);
    }

    #[test]
    fn keys_that_come_and_go_leave_nothing() {
        let mut table = Table::default();
        for round in 0..50_u32 {
            for key in 0..20_000_u32 {
                let key = (round * 20_000 + key).to_be_bytes();
                table.put(hash_of(&key), &key, &[7; 24]);
            }
            for key in 0..20_000_u32 {
                let key = (round * 20_000 + key).to_be_bytes();
                assert!(table.remove(hash_of(&key), &key));
            }
        }
        assert_eq!(table.len(), 0);
        assert!(table.bytes() < 4 << 20, "{} bytes are held for nothing", table.bytes());
    }

    #[test]
    fn a_key_costs_little_beyond_its_bytes() {
        let mut table = Table::default();
        for key in 0..1_000_000_u64 {
            table.put(hash_of(&key.to_be_bytes()), &key.to_be_bytes(), &[0; 26]);
        }
        let each = table.bytes() / table.len();
        assert!(each < 80, "{each} bytes a key");
    }
}
