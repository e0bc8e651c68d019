//! [`Block`]: the records of a block one by one, and the record of which of them were bad.
//!
//! **Invariant:** ordinals count records, never empty lines; a bad record's position is where the record begins.

use arrow::array::{Int64Array, RecordBatch};
use bytes::Bytes;
use tidemill_model::{Error, Result};
use tidemill_runtime::{BadRecord, Decoded, Positions, Records};

use super::Fault;

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
        self.refuse(self.ordinal, (start, end), Fault { reason, detail });
        self.good(end);
    }

    /// The record of this number, which lies there, could not be read.
    pub(crate) fn refuse(&mut self, ordinal: u32, (start, end): (usize, usize), fault: Fault) {
        let position = match self.records.positions {
            Positions::Numbered(first) => first + u64::from(ordinal),
            Positions::Bytes(first) => first + start as u64,
        };
        // A copy, so that a dead letter that is kept does not keep the block.
        let raw = Bytes::copy_from_slice(self.bytes().get(start..end).unwrap_or_default());
        self.bad.push(BadRecord { ordinal, position, raw, reason: fault.reason, detail: fault.detail });
    }

    /// The answer, from rows with their weights and the numbers of the records that they are of.
    pub(crate) fn changes(mut self, batch: RecordBatch, weights: Option<Int64Array>, ordinals: Vec<u32>) -> Decoded {
        self.bad.sort_by_key(|record| record.ordinal);
        let plain = ordinals.iter().zip(0_u32..).all(|(record, row)| *record == row);
        Decoded { batch, weights, ordinals: (!plain).then_some(ordinals), bad: self.bad }
    }

    /// The answer, from the readable rows.
    pub(crate) fn decoded(self, batch: RecordBatch) -> Decoded {
        if self.bad.is_empty() {
            return Decoded { batch, weights: None, ordinals: None, bad: self.bad };
        }
        let mut bad = self.bad.iter().map(|record| record.ordinal).peekable();
        let good = (0..self.ordinal).filter(|ordinal| bad.next_if_eq(ordinal).is_none()).collect();
        Decoded { batch, weights: None, ordinals: Some(good), bad: self.bad }
    }
}
