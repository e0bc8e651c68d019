//! [`Segment`]: one file of frames of a partition, and how to find an offset or a time in a partition.
//!
//! The files' names are their first offsets and so the index by offset; frames inside are found by walking the headers,
//! a few milliseconds for a segment of 64 MiB. Timestamps never fall, so time is found by halving over the files.
//!
//! **Invariant:** a segment ends where the next one, named by the offset reached, begins; only the last one of the head may
//! hold bytes that are not committed.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tidemill_model::{Error, Kind, Result, Timestamp};

use super::frame::{FrameFault, FrameHeader, HEADER};
use super::head::PartitionHead;

/// How much is read at a time while walking headers: small, since large frames are skipped.
const STRIDE: usize = 16 << 10;

/// The file of a segment.
pub(super) fn path(folder: &Path, base: u64) -> PathBuf {
    folder.join(format!("{base:020}.seg"))
}

/// The first offsets of a partition's segments, in order.
pub(super) fn list(folder: &Path) -> Result<Vec<u64>> {
    let io = |error| Error::io("list", folder.display(), error);
    let mut bases = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        if let Some(base) = name.to_str().and_then(|name| name.strip_suffix(".seg")).and_then(|base| base.parse().ok())
        {
            bases.push(base);
        }
    }
    bases.sort_unstable();
    Ok(bases)
}

/// The segments that hold committed records.
pub(super) fn kept(folder: &Path, head: &PartitionHead) -> Result<Vec<u64>> {
    let mut bases = list(folder)?;
    bases.retain(|base| (head.earliest..=head.segment).contains(base));
    Ok(bases)
}

/// The committed bytes of a partition.
pub(super) fn bytes(folder: &Path, head: &PartitionHead) -> Result<u64> {
    let mut total = head.bytes;
    for base in kept(folder, head)? {
        if base != head.segment {
            // Retention may delete a file between listing and asking; then it holds nothing.
            total += fs::metadata(path(folder, base)).map_or(0, |meta| meta.len());
        }
    }
    Ok(total)
}

/// A segment opened for reading.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) base: u64,
    file: File,
    path: PathBuf,
}

impl Segment {
    /// Opens one; `None` when it does not exist.
    pub(super) fn open(folder: &Path, base: u64) -> Result<Option<Segment>> {
        let path = path(folder, base);
        match File::open(&path) {
            Ok(file) => Ok(Some(Segment { base, file, path })),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("open", path.display(), error)),
        }
    }

    /// Where its committed bytes end.
    pub(super) fn limit(&self, head: &PartitionHead) -> Result<u64> {
        if self.base == head.segment {
            return Ok(head.bytes);
        }
        let meta = self.file.metadata().map_err(|error| Error::io("read", self.path.display(), error))?;
        Ok(meta.len())
    }

    /// Reads exactly these bytes, which are committed.
    pub(super) fn read(&self, to: &mut [u8], at: u64) -> Result<()> {
        self.file.read_exact_at(to, at).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => self.short(at),
            _ => Error::io("read", self.path.display(), error),
        })
    }

    /// The header at a committed byte, which must be the one of this offset.
    pub(super) fn header(&self, bytes: &[u8], at: u64, offset: Option<u64>) -> Result<FrameHeader> {
        let header = FrameHeader::parse(bytes).map_err(|fault| self.fault(fault, at))?;
        match offset {
            Some(offset) if header.base != offset => {
                let found = header.base;
                Err(self.damaged(at, &format!("the frame begins with offset {found}, not {offset}")))
            }
            _ => Ok(header),
        }
    }

    /// A fault of the frame at this byte.
    pub(super) fn fault(&self, fault: FrameFault, at: u64) -> Error {
        self.damaged(at, fault.words())
    }

    /// Committed bytes are missing.
    fn short(&self, at: u64) -> Error {
        self.damaged(at, "the file ends inside committed records")
    }

    fn damaged(&self, at: u64, how: &str) -> Error {
        Error::new(Kind::Corrupt, "X041", format!("{} is damaged at byte {at}: {how}", self.path.display())).fact(
            "the records before it are whole; restore the file from a copy, or skip it by reading from a later offset",
        )
    }

    /// Walks the frames from the beginning up to `limit` and answers the first that `wanted` accepts, with its byte.
    fn find(&self, limit: u64, wanted: impl Fn(&FrameHeader) -> bool) -> Result<Option<(u64, FrameHeader)>> {
        let mut chunk: Vec<u8> = Vec::new();
        let (mut chunk_at, mut at) = (0, 0);
        let mut offset = self.base;
        while at < limit {
            let inside = usize::try_from(at - chunk_at).ok().filter(|inside| inside + HEADER <= chunk.len());
            let inside = match inside {
                Some(inside) => inside,
                None => {
                    let room = usize::try_from(limit - at).unwrap_or(STRIDE).min(STRIDE);
                    chunk.resize(room, 0);
                    self.read(&mut chunk, at)?;
                    chunk_at = at;
                    0
                }
            };
            let bytes = chunk.get(inside..inside + HEADER).ok_or_else(|| self.short(at))?;
            let header = self.header(bytes, at, Some(offset))?;
            if wanted(&header) {
                return Ok(Some((at, header)));
            }
            at += header.length();
            offset = header.end();
        }
        Ok(None)
    }
}

/// The segment and byte of the frame that holds a committed offset; `None` when retention deleted it.
pub(super) fn locate(folder: &Path, head: &PartitionHead, offset: u64) -> Result<Option<(Segment, u64)>> {
    let bases = list(folder)?;
    let base = bases.into_iter().filter(|base| *base <= offset.min(head.segment)).max();
    let Some(base) = base else { return Ok(None) };
    let Some(segment) = Segment::open(folder, base)? else { return Ok(None) };
    let limit = segment.limit(head)?;
    match segment.find(limit, |header| offset < header.end())? {
        Some((at, _)) => Ok(Some((segment, at))),
        None => Err(segment.short(limit)),
    }
}

/// The timestamp of the first frame of a segment that is not the last; `None` when it does not exist.
pub(super) fn first_timestamp(folder: &Path, base: u64) -> Result<Option<i64>> {
    let Some(segment) = Segment::open(folder, base)? else { return Ok(None) };
    let mut bytes = [0; HEADER];
    segment.read(&mut bytes, 0)?;
    Ok(Some(segment.header(&bytes, 0, Some(base))?.timestamp))
}

/// The first offset at or after a time.
pub(super) fn first_at(folder: &Path, head: &PartitionHead, time: Timestamp) -> Result<u64> {
    if head.earliest == head.end {
        return Ok(head.end);
    }
    let bases = kept(folder, head)?;
    // The last segment that begins before the time may hold it; those after begin with it or later.
    let (mut low, mut high) = (0, bases.len());
    while low < high {
        let middle = low.midpoint(high);
        let begins = match bases.get(middle) {
            Some(base) if *base == head.segment => Some(head.since),
            Some(base) => first_timestamp(folder, *base)?,
            None => None,
        };
        // A segment that retention has just deleted is older than all that remain.
        if begins.is_none_or(|begins| begins < time.0) { low = middle + 1 } else { high = middle }
    }
    let before = low.checked_sub(1).and_then(|at| bases.get(at));
    if let Some(base) = before
        && let Some(segment) = Segment::open(folder, *base)?
        && let Some((_, header)) = segment.find(segment.limit(head)?, |header| header.timestamp >= time.0)?
    {
        return Ok(header.base);
    }
    Ok(bases.get(low).copied().unwrap_or(head.end).max(head.earliest))
}
