//! [`Chunks`]: the bytes of a Parquet file for its reader, here or in an object store.
//!
//! **Invariant:** bytes that were fetched ahead are answered from memory; anything else is a request of its own, so
//! that a forgotten range costs time and never correctness.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};
use tidemill_model::{Error, Result};

use super::location::Place;
use super::remote::Remote;

/// How much of a file's end is fetched at once: most footers fit.
const TAIL: u64 = 64 << 10;

/// The bytes of one file.
#[derive(Debug, Clone)]
pub(super) struct Chunks {
    from: From,
    size: u64,
    /// Fetched ranges by where they begin.
    fetched: Arc<Vec<(u64, Bytes)>>,
}

#[derive(Debug, Clone)]
enum From {
    Local(Arc<File>),
    Remote(Remote),
}

impl Chunks {
    /// Opens a file; of a remote one the end is fetched, which the footer is read from.
    pub(super) fn open(place: &Place) -> Result<Chunks> {
        match place {
            Place::Local(path) => {
                let file = File::open(path).map_err(|e| Error::io("open", path.display(), e))?;
                let size = file.metadata().map_err(|e| Error::io("look at", path.display(), e))?.len();
                Ok(Chunks { from: From::Local(Arc::new(file)), size, fetched: Arc::default() })
            }
            Place::Remote(remote) => {
                let size = match remote.head()? {
                    Some(meta) => meta.size,
                    None => {
                        let gone = std::io::Error::from(std::io::ErrorKind::NotFound);
                        return Err(Error::io("open", format!("{} in {}", remote.path, remote.url), gone));
                    }
                };
                let chunks = Chunks { from: From::Remote(remote.clone()), size, fetched: Arc::default() };
                chunks.ahead(std::iter::once(size.saturating_sub(TAIL)..size))
            }
        }
    }

    /// The same file with these ranges in memory, if they would else be a request each.
    pub(super) fn ahead(&self, ranges: impl Iterator<Item = Range<u64>>) -> Result<Chunks> {
        let From::Remote(remote) = &self.from else { return Ok(self.clone()) };
        let mut ranges: Vec<Range<u64>> = ranges.filter(|range| range.start < range.end).collect();
        ranges.sort_by_key(|range| range.start);
        let starts: Vec<u64> = ranges.iter().map(|range| range.start).collect();
        let bytes = remote.fetch_all(ranges)?;
        Ok(Chunks { fetched: Arc::new(starts.into_iter().zip(bytes).collect()), ..self.clone() })
    }

    fn bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let end = start + length as u64;
        if end > self.size {
            let message = format!("bytes {start} to {end} of a file of {} bytes", self.size);
            return Err(ParquetError::EOF(message));
        }
        match &self.from {
            From::Local(file) => read_at(file, start, length).map(Bytes::from).map_err(ParquetError::from),
            From::Remote(remote) => {
                let at = self.fetched.partition_point(|(begin, _)| *begin <= start);
                let within = at.checked_sub(1).and_then(|at| self.fetched.get(at)).and_then(|(begin, bytes)| {
                    let from = usize::try_from(start - begin).ok()?;
                    (from + length <= bytes.len()).then(|| bytes.slice(from..from + length))
                });
                match within {
                    Some(bytes) => Ok(bytes),
                    None => remote.fetch(start..end).map_err(|e| ParquetError::External(Box::new(e))),
                }
            }
        }
    }
}

fn read_at(file: &File, start: u64, length: usize) -> std::io::Result<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let mut buffer = vec![0; length];
    file.read_exact_at(&mut buffer, start)?;
    Ok(buffer)
}

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.size
    }
}

impl ChunkReader for Chunks {
    type T = Box<dyn Read>;

    /// The reader asks so for page headers, of which it does not know the length: some bytes at a time.
    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(Box::new(Ahead { chunks: self.clone(), at: start, present: Bytes::new() }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        self.bytes(start, length)
    }
}

struct Ahead {
    chunks: Chunks,
    at: u64,
    present: Bytes,
}

impl Read for Ahead {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.present.is_empty() {
            let length = self.chunks.size.saturating_sub(self.at).min(4 << 10);
            self.present = self.chunks.bytes(self.at, length as usize).map_err(std::io::Error::other)?;
            self.at += length;
        }
        let n = self.present.len().min(into.len());
        self.present.copy_to_slice(&mut into[..n]);
        Ok(n)
    }
}
