//! [`Stored`]: the chunks of an operator's state, given back one at a time.
//!
//! **Invariant:** the chunks of one lane come in the order of their names; no more than a few are in memory at once.

use arrow::array::RecordBatch;
use tidemill_model::Result;

/// What an operator is restored from: chunks by name, read as they are asked for.
pub struct Stored<'a> {
    /// The lane that is restored.
    pub lane: usize,
    /// Of so many.
    pub lanes: usize,
    /// Whether the chunks stay: those given are the lane's own, and all there are.
    pub kept: bool,
    names: &'a [String],
    chunks: &'a mut dyn Iterator<Item = Result<(String, RecordBatch)>>,
}

impl<'a> Stored<'a> {
    /// These chunks, of these names.
    pub fn new(
        (lane, lanes): (usize, usize),
        kept: bool,
        names: &'a [String],
        chunks: &'a mut dyn Iterator<Item = Result<(String, RecordBatch)>>,
    ) -> Stored<'a> {
        Stored { lane, lanes, kept, names, chunks }
    }

    /// The names of all chunks, before any is read.
    #[must_use]
    pub fn names(&self) -> &'a [String] {
        self.names
    }
}

impl Iterator for Stored<'_> {
    type Item = Result<(String, RecordBatch)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.chunks.next()
    }
}
