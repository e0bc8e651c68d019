//! [`Block`]: the records of a block one by one, and the record of which of them were bad.
//!
//! **Invariant:** ordinals count records, never empty lines; a bad record's position is where the record begins.

use arrow::array::RecordBatch;
use bytes::Bytes;
use tidemill_model::{Error, Result};
use tidemill_runtime::{BadRecord, Decoded, Positions, Records};

/// A walk over the records of a block.
#[derive(Debug)]
pub(crate) struct Block<'a> {
    records: &'a Records,
    /// The number of the next record.
    pub(crate) ordinal: u32,
    /// Where the next record, or the line break before it, begins.
    at: usize,
    bad: Vec<BadRecord>,
}

impl<'a> Block<'a> {
    /// The block from its beginning, behind a byte order mark if it is the beginning of a file.
    ///
    /// # Errors
    /// Internal, when the block is so large or its ends so wrong that no connector can have meant it.
    pub(crate) fn of(records: &'a Records) -> Result<Block<'a>> {
        let length = records.data.len();
        if i32::try_from(length).is_err() {
            return Err(Error::internal(format!("a block of {length} bytes is too large to decode")));
        }
        if let Some(ends) = &records.ends {
            let ordered = ends.is_sorted() && ends.last().is_none_or(|end| *end as usize <= length);
            if !ordered {
                return Err(Error::internal("the ends of the records in a block do not ascend within it"));
            }
        }
        let marked = records.positions == Positions::Bytes(0) && records.data.starts_with(b"\xEF\xBB\xBF");
        Ok(Block { records, ordinal: 0, at: if marked { 3 } else { 0 }, bad: Vec::new() })
    }

    /// All bytes of the block.
    #[inline]
    pub(crate) fn bytes(&self) -> &'a [u8] {
        &self.records.data
    }

    /// Where the next record begins, and its end where that is known without looking: records that are lines end
    /// wherever the next line break is found. `None` behind the last record.
    #[inline]
    pub(crate) fn next(&mut self) -> Option<(usize, Option<usize>)> {
        match &self.records.ends {
            Some(ends) => ends.get(self.ordinal as usize).map(|end| (self.at, Some(*end as usize))),
            None => {
                while self.bytes().get(self.at) == Some(&b'\n') {
                    self.at += 1;
                }
                (self.at < self.bytes().len()).then_some((self.at, None))
            }
        }
    }

    /// The end of the line that begins or goes on at `at`, without its line break.
    #[inline]
    pub(crate) fn line_end(&self, at: usize) -> usize {
        let rest = self.bytes().get(at..).unwrap_or_default();
        memchr::memchr(b'\n', rest).map_or(self.bytes().len(), |length| at + length)
    }

    /// The record that ended at `end` was read.
    #[inline]
    pub(crate) fn good(&mut self, end: usize) {
        self.skip(end);
        self.ordinal += 1;
    }

    /// The line that ended at `end` is no record.
    #[inline]
    pub(crate) fn skip(&mut self, end: usize) {
        self.at = end;
    }

    /// The record from `start` to `end` could not be read.
    pub(crate) fn bad(&mut self, start: usize, end: usize, reason: String, detail: String) {
        let position = match self.records.positions {
            Positions::Numbered(first) => first + u64::from(self.ordinal),
            Positions::Bytes(first) => first + start as u64,
        };
        // A copy, so that a dead letter that is kept does not keep the block.
        let raw = Bytes::copy_from_slice(self.bytes().get(start..end).unwrap_or_default());
        self.bad.push(BadRecord { ordinal: self.ordinal, position, raw, reason, detail });
        self.good(end);
    }

    /// The answer, from the readable rows.
    pub(crate) fn decoded(self, batch: RecordBatch) -> Decoded {
        if self.bad.is_empty() {
            return Decoded { batch, ordinals: None, bad: self.bad };
        }
        let mut bad = self.bad.iter().map(|record| record.ordinal).peekable();
        let good = (0..self.ordinal).filter(|ordinal| bad.next_if_eq(ordinal).is_none()).collect();
        Decoded { batch, ordinals: Some(good), bad: self.bad }
    }
}
