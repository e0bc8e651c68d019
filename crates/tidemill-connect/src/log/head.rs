//! [`HeadFile`]: the one record of what a topic holds, and the one commit point of its writers.
//!
//! The file `head` has a first page and two slots. A commit writes the slot that is not in use and syncs it (no rename,
//! so one flush of the disk), then names it in the first page. A reader asks the first page, 16 bytes, whether anything
//! is new. The slots are JSON, to be read by people too.
//!
//! **Invariant:** a slot is overwritten only when the other one is on the disk and named by the first page; so the lesser
//! of two valid slots is always durable, and readers never see a greater one before it is.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tidemill_model::{Epoch, Error, Kind, Result};

use super::frame::{u32_at, u64_at};

/// The room of one slot; sparse, so only what is used takes space.
const SLOT: u64 = 1 << 20;
/// Where the first slot begins.
const SLOTS: u64 = 4096;
/// Where the first page names the visible slot: its number, then the number's complement.
const VISIBLE: u64 = 16;
const FILE_MAGIC: &[u8; 8] = b"TMTOPIC1";
const SLOT_HEADER: usize = 24;
/// How often a reader tries again when a slot changes below its eyes.
const ATTEMPTS: usize = 1000;

/// What a topic holds.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Head {
    /// Counts the commits; also names the slot.
    pub(super) sequence: u64,
    /// The greatest timestamp of any frame: time in a topic never goes back.
    pub(super) last: i64,
    /// Each partition.
    pub(super) partitions: Vec<PartitionHead>,
    /// The progress of each producer, by `pipeline/sink`.
    pub(super) producers: BTreeMap<String, Progress>,
}

/// What a partition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct PartitionHead {
    /// The offset of the first record kept.
    pub(super) earliest: u64,
    /// The offset after the last record.
    pub(super) end: u64,
    /// The base offset of the segment that is written to.
    pub(super) segment: u64,
    /// How many of its bytes are committed.
    pub(super) bytes: u64,
    /// The timestamp of its first frame.
    pub(super) since: i64,
}

/// How far a producer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// Its last epoch in the topic.
    pub(super) epoch: Epoch,
    /// A CRC of that epoch's committables, to tell the same epoch from another one of the same number.
    pub(super) fingerprint: u32,
}

/// The open file.
#[derive(Debug)]
pub(super) struct HeadFile {
    file: File,
    path: PathBuf,
    seen: Mutex<Option<Arc<Head>>>,
}

impl HeadFile {
    /// Puts a new topic's file in place, whole or not at all. The caller holds the topic's lock.
    pub(super) fn create(path: &Path, head: &Head) -> Result<()> {
        let fresh = path.with_extension("new");
        let io = |error| Error::io("create", fresh.display(), error);
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&fresh).map_err(io)?;
        file.set_len(SLOTS + 2 * SLOT).map_err(io)?;
        let mut page = [0; SLOTS as usize];
        page[..8].copy_from_slice(FILE_MAGIC);
        page[16..24].copy_from_slice(&head.sequence.to_le_bytes());
        page[24..32].copy_from_slice(&(!head.sequence).to_le_bytes());
        file.write_all_at(&page, 0).map_err(io)?;
        // Blocks that exist already are overwritten without a journal entry: later commits are that much quicker.
        for slot in 0..2 {
            file.write_all_at(&[0; 8192], SLOTS + slot * SLOT).map_err(io)?;
        }
        file.write_all_at(&slot_bytes(head)?, slot_at(head.sequence)).map_err(io)?;
        file.sync_all().map_err(io)?;
        fs::rename(&fresh, path).map_err(|error| Error::io("create", path.display(), error))
    }

    /// Opens a topic's file; `None` when there is no such topic.
    pub(super) fn open(path: &Path, writable: bool) -> Result<Option<HeadFile>> {
        let file = match OpenOptions::new().read(true).write(writable).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("open", path.display(), error)),
        };
        let head = HeadFile { file, path: path.to_owned(), seen: Mutex::new(None) };
        let mut magic = [0; 8];
        head.read(&mut magic, 0)?;
        if magic != *FILE_MAGIC {
            return Err(head.damaged("it does not begin as a topic's head does"));
        }
        Ok(Some(head))
    }

    /// What readers may see. Costs one read of 16 bytes when nothing is new.
    pub(super) fn visible(&self) -> Result<Arc<Head>> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..ATTEMPTS {
            let Some(visible) = self.named()? else { continue };
            if let Some(head) = seen.as_ref()
                && head.sequence >= visible
            {
                return Ok(head.clone());
            }
            let slots = self.slots()?;
            let least = slots.iter().map(|head| head.sequence).min().unwrap_or(0);
            let best = slots.into_iter().filter(|head| head.sequence <= visible.max(least));
            if let Some(best) = best.max_by_key(|head| head.sequence) {
                let best = Arc::new(best);
                *seen = Some(best.clone());
                return Ok(best);
            }
        }
        Err(self.damaged("neither of its two slots is whole"))
    }

    /// The newest slot, durable and named before it is answered. The caller holds the topic's lock.
    pub(super) fn newest(&self) -> Result<Head> {
        let newest = self.slots()?.into_iter().max_by_key(|head| head.sequence);
        let newest = newest.ok_or_else(|| self.damaged("neither of its two slots is whole"))?;
        if self.named()? != Some(newest.sequence) {
            // A writer died after writing the slot; nobody knows whether it was synced.
            self.sync()?;
            self.publish(newest.sequence)?;
        }
        Ok(newest)
    }

    /// Writes the next head into the slot not in use.
    pub(super) fn write(&self, head: &Head) -> Result<()> {
        let bytes = slot_bytes(head)?;
        self.file.write_all_at(&bytes, slot_at(head.sequence)).map_err(|error| self.io("write", error))
    }

    /// Makes the slot durable: the commit point.
    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|error| self.io("sync", error))
    }

    /// Names the slot, so that readers see it.
    pub(super) fn publish(&self, sequence: u64) -> Result<()> {
        let mut word = [0; 16];
        word[..8].copy_from_slice(&sequence.to_le_bytes());
        word[8..].copy_from_slice(&(!sequence).to_le_bytes());
        self.file.write_all_at(&word, VISIBLE).map_err(|error| self.io("write", error))
    }

    /// The slot that the first page names, unless it was being written.
    fn named(&self) -> Result<Option<u64>> {
        let mut word = [0; 16];
        self.read(&mut word, VISIBLE)?;
        let sequence = u64_at(&word, 0);
        Ok((sequence == !u64_at(&word, 8)).then_some(sequence))
    }

    /// The whole slots.
    fn slots(&self) -> Result<Vec<Head>> {
        let mut slots = Vec::with_capacity(2);
        for slot in 0..2 {
            let mut header = [0; SLOT_HEADER];
            self.read(&mut header, SLOTS + slot * SLOT)?;
            let length = u64::from(u32_at(&header, 4));
            if length == 0 || length > SLOT - SLOT_HEADER as u64 {
                continue;
            }
            let mut body = vec![0; usize::try_from(length).unwrap_or(0)];
            self.read(&mut body, SLOTS + slot * SLOT + SLOT_HEADER as u64)?;
            if u32_at(&header, 0) != slot_crc(&header[4..], &body) {
                continue;
            }
            match serde_json::from_slice(&body) {
                Ok(head) => slots.push(head),
                Err(error) => return Err(self.damaged("a slot is of an unknown version").because(error)),
            }
        }
        Ok(slots)
    }

    fn read(&self, to: &mut [u8], at: u64) -> Result<()> {
        self.file.read_exact_at(to, at).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => self.damaged("it is cut short"),
            _ => self.io("read", error),
        })
    }

    fn io(&self, what: &str, error: std::io::Error) -> Error {
        Error::io(what, self.path.display(), error)
    }

    fn damaged(&self, how: &str) -> Error {
        Error::new(Kind::Corrupt, "X040", format!("{} is damaged: {how}", self.path.display()))
            .fact("nothing was changed; restore the topic's folder from a copy, or remove it to begin the topic anew")
    }
}

fn slot_at(sequence: u64) -> u64 {
    SLOTS + (sequence % 2) * SLOT
}

fn slot_crc(fields: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(fields), body)
}

/// Header (CRC, length, sequence, zero) and JSON; a line feed ends it for people who look.
fn slot_bytes(head: &Head) -> Result<Vec<u8>> {
    let mut body = serde_json::to_vec(head)
        .map_err(|error| Error::internal("a topic's head cannot be written as JSON").because(error))?;
    body.push(b'\n');
    if (body.len() + SLOT_HEADER) as u64 > SLOT {
        return Err(Error::new(Kind::Config, "C092", "too many producers have written to this topic")
            .fact("begin a new topic; each keeps the progress of some thousands of sinks"));
    }
    let mut bytes = vec![0; SLOT_HEADER];
    bytes[4..8].copy_from_slice(&u32::try_from(body.len()).unwrap_or(0).to_le_bytes());
    bytes[8..16].copy_from_slice(&head.sequence.to_le_bytes());
    let crc = slot_crc(&bytes[4..], &body);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    bytes.append(&mut body);
    Ok(bytes)
}
