//! [`Staging`] writes one lane's records of an epoch to one file, [`StagedFile`] reads them back for the commit.
//!
//! The file: 32 bytes (magic, epoch, lane), then blocks: partition, body length, record count, body CRC, and the body as a
//! frame has it, so that the commit only puts a frame's header before it.
//!
//! **Invariant:** the epoch in the file is 0 until the file is complete; a file of epoch 0 belongs to nobody.

use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tidemill_model::{Epoch, Error, Kind, Result};
use tidemill_runtime::Committable;

use super::frame::{u32_at, u64_at};
use super::topic::sync_folder;

const MAGIC: &[u8; 8] = b"TMSTAGE1";
const FILE_HEADER: usize = 32;
const BLOCK_HEADER: usize = 16;
const EXTENSION: &str = "staged";

/// What a committable says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Staged {
    /// The lane that wrote it: an epoch's records go into a partition lane after lane.
    pub(super) lane: usize,
    /// The file in the sink's staging folder.
    pub(super) file: String,
    /// Its length in bytes.
    pub(super) length: u64,
    /// The CRC32C of all block headers, which hold the CRCs of their bodies.
    pub(super) crc: u32,
    /// The records for each partition.
    pub(super) records: Vec<u64>,
}

impl Staged {
    /// Reads a committable of this connector.
    pub(super) fn of(committable: &Committable) -> Result<Staged> {
        serde_json::from_value(committable.0.clone()).map_err(|error| {
            Error::new(Kind::Corrupt, "X042", "a manifest holds a commit that is not one of connector `log`")
                .because(error)
        })
    }

    /// The committable.
    pub(super) fn committable(&self) -> Result<Committable> {
        let value = serde_json::to_value(self)
            .map_err(|error| Error::internal("a commit cannot be written as JSON").because(error))?;
        Ok(Committable(value))
    }
}

/// The file of a lane, open for writing. When it is dropped unfinished, what it wrote is removed.
#[derive(Debug)]
pub(super) struct Staging {
    file: File,
    path: PathBuf,
    staged: Staged,
    finished: bool,
}

impl Staging {
    /// A new file; never one that exists, for that may be prepared and not committed yet.
    pub(super) fn create(folder: &Path, lane: usize, partitions: usize) -> Result<Staging> {
        fs::create_dir_all(folder).map_err(|error| Error::io("create", folder.display(), error))?;
        let mut number = 0;
        loop {
            let name = format!("{lane}-{number}.{EXTENSION}");
            let path = folder.join(&name);
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(Error::io("create", path.display(), error)),
                Ok(file) => {
                    let staged = Staged { lane, file: name, length: 0, crc: 0, records: vec![0; partitions] };
                    let mut staging = Staging { file, path, staged, finished: false };
                    let mut header = [0; FILE_HEADER];
                    header[..8].copy_from_slice(MAGIC);
                    header[16..20].copy_from_slice(&u32::try_from(lane).unwrap_or(u32::MAX).to_le_bytes());
                    staging.put(&header)?;
                    return Ok(staging);
                }
            }
        }
    }

    /// Appends records of one partition.
    pub(super) fn block(&mut self, partition: usize, ends: &[u32], payload: &[u8]) -> Result<()> {
        let mut block = Vec::with_capacity(BLOCK_HEADER + ends.len() * 4 + payload.len());
        block.resize(BLOCK_HEADER, 0);
        block.extend(ends.iter().flat_map(|end| end.to_le_bytes()));
        block.extend_from_slice(payload);
        let body = u32::try_from(block.len() - BLOCK_HEADER).map_err(|_| {
            Error::new(Kind::Data, "D070", format!("{} bytes are more than a topic can take at once", payload.len()))
                .fact("records of a batch together may have 4 GiB")
        })?;
        let crc = crc32c::crc32c(&block[BLOCK_HEADER..]);
        block[..4].copy_from_slice(&u32::try_from(partition).unwrap_or(u32::MAX).to_le_bytes());
        block[4..8].copy_from_slice(&body.to_le_bytes());
        block[8..12].copy_from_slice(&u32::try_from(ends.len()).unwrap_or(u32::MAX).to_le_bytes());
        block[12..16].copy_from_slice(&crc.to_le_bytes());
        self.put(&block)?;
        self.staged.crc = crc32c::crc32c_append(self.staged.crc, &block[..BLOCK_HEADER]);
        if let Some(records) = self.staged.records.get_mut(partition) {
            *records += ends.len() as u64;
        }
        Ok(())
    }

    /// Gives the file its epoch and makes it durable.
    pub(super) fn finish(mut self, epoch: Epoch) -> Result<Staged> {
        let io = |error| Error::io("write", self.path.display(), error);
        self.file.write_all_at(&epoch.0.to_le_bytes(), 8).map_err(io)?;
        // Its bytes and its name: two flushes of the disk, side by side.
        let folder = self.path.parent();
        std::thread::scope(|scope| {
            let name = folder.map(|folder| scope.spawn(|| sync_folder(folder)));
            let bytes = self.file.sync_data().map_err(io);
            let died = |_| Err(Error::internal("a thread that syncs a folder died"));
            bytes.and(name.map_or(Ok(()), |name| name.join().unwrap_or_else(died)))
        })?;
        self.finished = true;
        Ok(self.staged.clone())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|error| Error::io("write", self.path.display(), error))?;
        self.staged.length += bytes.len() as u64;
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.finished {
            // Best effort: what remains is of epoch 0 and removed after the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Records of one partition, as they lie in a staged file.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) partition: usize,
    pub(super) count: u32,
    pub(super) body_crc: u32,
}

/// A staged file open for reading.
#[derive(Debug)]
pub(super) struct StagedFile {
    file: BufReader<File>,
    path: PathBuf,
    expected: Staged,
    at: u64,
    crc: u32,
}

impl StagedFile {
    /// Opens the file of a committable and checks that it is complete and of this epoch.
    pub(super) fn open(folder: &Path, staged: &Staged, epoch: Epoch) -> Result<StagedFile> {
        let path = folder.join(&staged.file);
        let file = File::open(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => damaged(&path, "it does not exist"),
            _ => Error::io("open", path.display(), error),
        })?;
        let length = file.metadata().map_err(|error| Error::io("read", path.display(), error))?.len();
        if length != staged.length {
            return Err(damaged(&path, &format!("it has {length} bytes, not {}", staged.length)));
        }
        match epoch_of(&path)? {
            Some(found) if found == epoch => {}
            _ => return Err(damaged(&path, &format!("it does not hold epoch {epoch}"))),
        }
        let mut file = StagedFile {
            file: BufReader::with_capacity(64 << 10, file),
            path,
            expected: staged.clone(),
            at: 0,
            crc: 0,
        };
        file.get(&mut [0; FILE_HEADER])?;
        Ok(file)
    }

    /// The next block; its body is put behind the first `room` bytes of `body`. `None` after the last one, when all
    /// was what the committable promised.
    pub(super) fn next(&mut self, room: usize, body: &mut Vec<u8>) -> Result<Option<Block>> {
        if self.at >= self.expected.length {
            return match self.crc == self.expected.crc {
                true => Ok(None),
                false => Err(damaged(&self.path, "its blocks fail their CRC")),
            };
        }
        let mut header = [0; BLOCK_HEADER];
        self.get(&mut header)?;
        self.crc = crc32c::crc32c_append(self.crc, &header);
        let length = u32_at(&header, 4);
        if self.at + u64::from(length) > self.expected.length {
            return Err(damaged(&self.path, "a block is longer than the file"));
        }
        body.resize(room + length as usize, 0);
        let body = body.get_mut(room..).unwrap_or_default();
        self.get(body)?;
        let block =
            Block { partition: u32_at(&header, 0) as usize, count: u32_at(&header, 8), body_crc: u32_at(&header, 12) };
        if crc32c::crc32c(body) != block.body_crc || block.partition >= self.expected.records.len() {
            return Err(damaged(&self.path, &format!("the block before byte {} fails its CRC", self.at)));
        }
        Ok(Some(block))
    }

    fn get(&mut self, to: &mut [u8]) -> Result<()> {
        self.file.read_exact(to).map_err(|error| Error::io("read", self.path.display(), error))?;
        self.at += to.len() as u64;
        Ok(())
    }
}

/// Removes every staged file of a later epoch, or of none.
pub(super) fn remove_after(folder: &Path, epoch: Epoch) -> Result<()> {
    let io = |error| Error::io("list", folder.display(), error);
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io(error)),
    };
    for entry in entries {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|extension| extension == EXTENSION)
            && epoch_of(&path)?.is_none_or(|found| found > epoch || found == Epoch::NONE)
        {
            remove(&path)?;
        }
    }
    Ok(())
}

/// Removes a file, if it is still there.
pub(super) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path.display(), error)),
        _ => Ok(()),
    }
}

/// The epoch in a staged file; `None` when its beginning is not that of one (it was being created when we died).
pub(super) fn epoch_of(path: &Path) -> Result<Option<Epoch>> {
    let mut header = [0; FILE_HEADER];
    let read = File::open(path).and_then(|file| file.read_exact_at(&mut header, 0));
    match read {
        Ok(()) if header[..8] == *MAGIC => Ok(Some(Epoch(u64_at(&header, 8)))),
        Ok(()) => Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(Error::io("read", path.display(), error)),
    }
}

fn damaged(path: &Path, how: &str) -> Error {
    Error::new(Kind::Corrupt, "X043", format!("the staged file {} cannot be committed: {how}", path.display()))
        .fact("the epoch is in the manifest and not in the topic; restore the file, or remove the pipeline's state and replay")
}
