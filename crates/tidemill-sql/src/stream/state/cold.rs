//! [`Cold`]: the keys of a group that were moved out of memory, in files of the tier.
//!
//! A file is a run: records in the order of their hashes, with the place of one in every few kilobytes kept in memory. A
//! new run is merged with those before it as long as they are not much larger, so there are few and each record is
//! written as often as the number of its doublings. Keys are looked up many at a time, in the order of the runs.
//!
//! **Invariant:** of a key that is in several runs the newest is right; in the oldest run no key is marked as gone.

use tidemill_model::Result;
use tidemill_runtime::{ColdFile, ColdReader, ColdWriter, Share};

/// The place of a record is kept for every so many bytes: what a look-up reads.
const BLOCK: u64 = 8 << 10;
/// The length of a value that is none: the key is gone.
const NO_VALUE: u32 = u32::MAX;
/// Hash, length of the key, length of the value.
const HEAD: usize = 16;

/// Runs, the oldest first.
#[derive(Default)]
pub(super) struct Cold(Vec<Run>);

struct Run {
    file: ColdFile,
    /// The hash and the place of the first record of each block.
    blocks: Vec<(u64, u64)>,
}

/// A record: the hash of its key, the key, and its value unless it is gone.
pub(super) type Record<'a> = (u64, &'a [u8], Option<&'a [u8]>);

impl Cold {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many bytes of memory it takes.
    pub(super) fn bytes(&self) -> usize {
        self.0.iter().map(|run| run.blocks.capacity() * size_of::<(u64, u64)>()).sum()
    }

    /// Adds records; they must be in the order of their hashes and keys.
    pub(super) fn add(&mut self, records: &[Record<'_>], share: &Share) -> Result<()> {
        let size: usize = records.iter().map(|(_, key, value)| HEAD + key.len() + value.map_or(0, <[u8]>::len)).sum();
        let mut together = size as u64;
        let mut merged = Vec::new();
        while let Some(run) = self.0.pop_if(|run| run.file.bytes() <= 2 * together) {
            together += run.file.bytes();
            merged.push(run);
        }
        let oldest = self.0.is_empty();
        let mut into = RunWriter { file: share.file()?, blocks: Vec::new(), next: 0 };
        let mut fresh = records.iter().copied().peekable();
        // The newest first, so that of equal keys the first found is right.
        let mut cursors = merged.iter().map(Cursor::start).collect::<Result<Vec<_>>>()?;
        loop {
            let mut least = fresh.peek().map(|(hash, key, _)| (*hash, *key));
            for cursor in &cursors {
                if let Some((hash, key, _)) = cursor.record()
                    && least.is_none_or(|least| (hash, key) < least)
                {
                    least = Some((hash, key));
                }
            }
            let Some((hash, key)) = least else { break };
            let mut value = fresh.next_if(|record| (record.0, record.1) == (hash, key)).map(|record| record.2);
            let mut passed = Vec::new();
            for (number, cursor) in cursors.iter().enumerate() {
                if let Some((other, same, found)) = cursor.record()
                    && (other, same) == (hash, key)
                {
                    value = value.or(Some(found));
                    passed.push(number);
                }
            }
            let value = value.flatten();
            if value.is_some() || !oldest {
                into.push(hash, key, value)?;
            }
            for number in passed {
                cursors[number].advance()?;
            }
        }
        drop(cursors);
        self.0.push(into.finish()?);
        Ok(())
    }

    /// Looks keys up, which must be in the order of their hashes and bytes; tells of each that is there.
    pub(super) fn find(&self, wanted: &[(u64, &[u8])], mut found: impl FnMut(u64, &[u8], &[u8])) -> Result<()> {
        let mut left: Vec<(u64, &[u8])> = wanted.to_vec();
        for run in self.0.iter().rev().filter(|run| !run.blocks.is_empty()) {
            let mut cursor = Cursor::before(run)?;
            let mut missing = Vec::new();
            for (hash, key) in left {
                cursor.seek(hash, key)?;
                match cursor.record() {
                    Some((other, same, value)) if (other, same) == (hash, key) => {
                        if let Some(value) = value {
                            found(hash, key, value);
                        }
                    }
                    _ => missing.push((hash, key)),
                }
            }
            left = missing;
        }
        Ok(())
    }

    /// Every key that is there, with its value, in the order of hashes.
    pub(super) fn each(&self, mut found: impl FnMut(u64, &[u8], &[u8])) -> Result<()> {
        let mut cursors = self.0.iter().rev().map(Cursor::start).collect::<Result<Vec<_>>>()?;
        loop {
            let least = cursors.iter().filter_map(|cursor| cursor.record().map(|(hash, key, _)| (hash, key))).min();
            let Some(least) = least else { return Ok(()) };
            let same = |cursor: &Cursor<'_>| cursor.record().is_some_and(|(hash, key, _)| (hash, key) == least);
            let all: Vec<usize> = (0..cursors.len()).filter(|number| same(&cursors[*number])).collect();
            if let Some((hash, key, Some(value))) = all.first().and_then(|newest| cursors[*newest].record()) {
                found(hash, key, value);
            }
            for number in all {
                cursors[number].advance()?;
            }
        }
    }
}

struct RunWriter {
    file: ColdWriter,
    blocks: Vec<(u64, u64)>,
    /// Where the next block begins.
    next: u64,
}

impl RunWriter {
    fn push(&mut self, hash: u64, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        let at = self.file.bytes();
        if at >= self.next {
            self.blocks.push((hash, at));
            self.next = at + BLOCK;
        }
        let mut head = [0; HEAD];
        head[..8].copy_from_slice(&hash.to_le_bytes());
        head[8..12].copy_from_slice(&(key.len() as u32).to_le_bytes());
        head[12..].copy_from_slice(&value.map_or(NO_VALUE, |value| value.len() as u32).to_le_bytes());
        self.file.write(&head)?;
        self.file.write(key)?;
        self.file.write(value.unwrap_or_default())
    }

    fn finish(mut self) -> Result<Run> {
        self.blocks.shrink_to_fit();
        Ok(Run { file: self.file.finish()?, blocks: self.blocks })
    }
}

/// A place in a run: one block in memory, and a record of it.
struct Cursor<'a> {
    run: &'a Run,
    reader: ColdReader,
    /// The block that is read next.
    next: usize,
    /// Where the reader stands.
    stands: u64,
    block: Vec<u8>,
    /// Where the record is in the block.
    at: usize,
}

impl<'a> Cursor<'a> {
    /// Before the first record, with nothing read.
    fn before(run: &'a Run) -> Result<Cursor<'a>> {
        Ok(Cursor { run, reader: run.file.open()?, next: 0, stands: 0, block: Vec::new(), at: 0 })
    }

    /// At the first record.
    fn start(run: &'a Run) -> Result<Cursor<'a>> {
        let mut cursor = Cursor::before(run)?;
        cursor.load()?;
        Ok(cursor)
    }

    /// Reads the next block, if there is one.
    fn load(&mut self) -> Result<()> {
        self.at = 0;
        self.block.clear();
        let Some((_, from)) = self.run.blocks.get(self.next).copied() else { return Ok(()) };
        self.next += 1;
        let to = self.run.blocks.get(self.next).map_or(self.run.file.bytes(), |(_, at)| *at);
        if self.stands != from {
            self.reader.go_to(from)?;
        }
        self.block.resize((to - from) as usize, 0);
        self.reader.fill(&mut self.block)?;
        self.stands = to;
        Ok(())
    }

    fn record(&self) -> Option<Record<'_>> {
        let rest = self.block.get(self.at..)?;
        let hash = u64::from_le_bytes(rest.get(..8)?.try_into().ok()?);
        let key = u32::from_le_bytes(rest.get(8..12)?.try_into().ok()?) as usize;
        let value = u32::from_le_bytes(rest.get(12..HEAD)?.try_into().ok()?);
        let bytes = rest.get(HEAD..)?;
        let value = if value == NO_VALUE { None } else { Some(bytes.get(key..key + value as usize)?) };
        Some((hash, bytes.get(..key)?, value))
    }

    fn advance(&mut self) -> Result<()> {
        if let Some((_, key, value)) = self.record() {
            self.at += HEAD + key.len() + value.map_or(0, <[u8]>::len);
        }
        if self.at >= self.block.len() { self.load() } else { Ok(()) }
    }

    /// Goes on to the first record that is not before this key.
    fn seek(&mut self, hash: u64, key: &[u8]) -> Result<()> {
        // Records of one hash may begin in the block before the first one that begins with it.
        let block = self.run.blocks.partition_point(|(first, _)| *first < hash).saturating_sub(1);
        if block >= self.next {
            self.next = block;
            self.load()?;
        }
        while let Some((other, same, _)) = self.record()
            && (other, same) < (hash, key)
        {
            self.advance()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tidemill_runtime::StateMemory;

    use super::*;

    /// Few hashes for many keys, so that several share one.
    fn hash(key: u32) -> u64 {
        u64::from(key.wrapping_mul(2_654_435_761) >> 22)
    }

    #[test]
    fn runs_hold_what_a_map_holds_however_they_were_added() {
        let folder = std::env::temp_dir().join("tidemill-cold-runs");
        let memory = StateMemory::open(1, &folder).expect("a budget");
        let share = memory.share();
        let mut random = fastrand::Rng::with_seed(11);
        for round in 0..20 {
            let (mut cold, mut model) = (Cold::default(), BTreeMap::<(u64, [u8; 4]), Vec<u8>>::new());
            for step in 0..random.usize(1..30) {
                let many = [5, 60, 3_000][random.usize(0..3)];
                let mut added = BTreeMap::<(u64, [u8; 4]), Option<Vec<u8>>>::new();
                for _ in 0..random.usize(1..many) {
                    let key = random.u32(0..5_000);
                    let value = vec![step as u8; random.usize(0..30)];
                    let value = (cold.is_empty() || random.u8(0..4) > 0).then_some(value);
                    added.insert((hash(key), key.to_be_bytes()), value);
                }
                let records: Vec<Record<'_>> =
                    added.iter().map(|((hash, key), value)| (*hash, key.as_slice(), value.as_deref())).collect();
                cold.add(&records, &share).expect("adds");
                for (key, value) in added {
                    match value {
                        Some(value) => drop(model.insert(key, value)),
                        None => drop(model.remove(&key)),
                    }
                }
            }
            assert!(cold.0.len() < 14, "round {round} left {} runs", cold.0.len());
            let mut all = BTreeMap::new();
            let mut keep = |hash: u64, key: &[u8], value: &[u8]| {
                let before = all.insert((hash, key.try_into().expect("four bytes")), value.to_vec());
                assert!(before.is_none(), "a key is told once");
            };
            cold.each(&mut keep).expect("reads");
            assert_eq!(all, model, "round {round}");
            let mut wanted: Vec<(u64, [u8; 4])> =
                (0..300).map(|_| random.u32(0..6_000)).map(|key| (hash(key), key.to_be_bytes())).collect();
            wanted.sort_unstable();
            wanted.dedup();
            let keys: Vec<(u64, &[u8])> = wanted.iter().map(|(hash, key)| (*hash, key.as_slice())).collect();
            let mut told = BTreeMap::new();
            let tell = |hash: u64, key: &[u8], value: &[u8]| {
                told.insert((hash, key.try_into().expect("four bytes")), value.to_vec());
            };
            cold.find(&keys, tell).expect("reads");
            model.retain(|key, _| wanted.contains(key));
            assert_eq!(told, model, "round {round}");
        }
    }
}
