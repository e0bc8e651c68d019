//! [`LineReader`]: a file, or a range of its bytes, as blocks of whole lines.
//!
//! **Invariant:** a line belongs to the range in which it begins, and a line that begins exactly at a range's end still
//! belongs to it; so ranges of one file share no line and miss none, however the file is divided.

use std::io::Read;

use super::row_groups::replaced;
use bytes::Bytes;
use tidemill_model::{Error, Kind, Offset, Result, Timestamp};
use tidemill_runtime::{Payload, Positions, Pull, Records, SourceBatch, SplitReader};

/// How much is read at once. Small enough for the cache of a core, large enough that a call costs nothing beside it.
const BLOCK: u64 = 1 << 20;
/// The longest line that is believed to be one.
const LONGEST_LINE: usize = 64 << 20;

/// Where to begin and end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    /// The first byte to read.
    pub(super) start: u64,
    /// Whether `start` may lie inside a line, which then belongs to the range before.
    pub(super) inside: bool,
    /// The last byte at which a line of the range may begin.
    pub(super) end: u64,
}

/// A file, or a range of it, as blocks of whole lines.
pub(super) struct LineReader {
    file: String,
    input: Box<dyn Read + Send>,
    /// Where `rest` begins in the file.
    at: u64,
    /// What was read and not yet answered: the beginning of a line.
    rest: Bytes,
    inside: bool,
    end: u64,
    /// The byte to stop before, if not at the end of the range.
    stop: u64,
    finished: bool,
    arrived: Option<Timestamp>,
}

impl LineReader {
    /// A reader of `input`, which stands at `span.start`.
    pub(super) fn new(file: String, input: Box<dyn Read + Send>, span: Span, arrived: Option<Timestamp>) -> LineReader {
        let finished = span.start > span.end;
        LineReader {
            file,
            input,
            at: span.start,
            rest: Bytes::new(),
            inside: span.inside,
            end: span.end,
            stop: u64::MAX,
            finished,
            arrived,
        }
    }

    /// The unanswered bytes and a block more; whether the file has ended.
    fn read_block(&mut self) -> Result<(Vec<u8>, bool)> {
        if self.rest.len() > LONGEST_LINE {
            return Err(Error::new(Kind::Config, "C317", format!("a line of {} has over 64 MiB", self.file))
                .fact("records must be lines; check the file's format and that it is not compressed"));
        }
        let mut buffer = Vec::with_capacity(self.rest.len() + BLOCK as usize);
        buffer.extend_from_slice(&self.rest);
        self.rest = Bytes::new();
        let read = Read::by_ref(&mut self.input).take(BLOCK).read_to_end(&mut buffer);
        let read = read.map_err(|e| Error::io("read", &self.file, e))?;
        Ok((buffer, (read as u64) < BLOCK))
    }

    /// Drops the end of a line that belongs to the range before; answers how many bytes, or `None` when the line goes
    /// on after `buffer`.
    fn skip_line(&mut self, buffer: &[u8]) -> Option<usize> {
        if !self.inside {
            return Some(0);
        }
        let skipped = memchr::memchr(b'\n', buffer)? + 1;
        self.inside = false;
        self.at += skipped as u64;
        self.finished = self.at > self.end;
        Some(skipped)
    }

    /// Where to cut `lines`, which begin at `self.at`: behind the last whole line of the range.
    fn cut(&mut self, lines: &[u8], file_ended: bool) -> usize {
        let from = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        if let Some(length) = lines.get(from..).and_then(|tail| memchr::memchr(b'\n', tail)) {
            self.finished = true;
            return from + length + 1;
        }
        if file_ended {
            self.finished = true;
            return lines.len();
        }
        memchr::memrchr(b'\n', lines).map_or(0, |last| last + 1)
    }
}

impl SplitReader for LineReader {
    fn next(&mut self) -> Result<Pull> {
        while !self.finished {
            let (buffer, file_ended) = self.read_block()?;
            let Some(skipped) = self.skip_line(&buffer) else {
                self.at += buffer.len() as u64;
                self.finished = file_ended;
                continue;
            };
            if self.finished {
                break;
            }
            let wanted = usize::try_from(self.stop.saturating_sub(self.at)).unwrap_or(usize::MAX);
            let whole = self.cut(buffer.get(skipped..).unwrap_or_default(), file_ended);
            self.finished |= whole >= wanted;
            let cut = skipped + whole.min(wanted);
            let buffer = Bytes::from(buffer);
            let data = buffer.slice(skipped..cut);
            self.rest = buffer.slice(cut..);
            let position = self.at;
            self.at += data.len() as u64;
            // A block of nothing but line breaks holds no record.
            if data.iter().all(|byte| matches!(byte, b'\n' | b'\r')) {
                continue;
            }
            return Ok(Pull::Rows(SourceBatch {
                payload: Payload::Records(Records { data, ends: None, positions: Positions::Bytes(position) }),
                resume: Offset::number(self.at),
                arrived: self.arrived,
                first: None,
            }));
        }
        Ok(Pull::Finished)
    }

    fn bound_to_present(&mut self) -> Result<()> {
        Ok(())
    }

    fn stop_at(&mut self, offset: &Offset) -> Result<()> {
        self.stop = offset.as_number().ok_or_else(|| replaced(&self.file, &format!("position {offset}")))?;
        Ok(())
    }
}
