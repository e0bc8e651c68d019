//! The contract of a format: [`Decoder`] turns records into columns, [`Encoder`] columns into records.

use std::fmt;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use tidemill_model::Result;

use crate::Records;

/// A way to write rows as bytes: `json`, `csv`.
pub trait Format: Send + Sync + fmt::Debug {
    /// A decoder that produces exactly the columns of `schema`, in its order; other fields are skipped unread.
    ///
    /// # Errors
    /// Plan, when the format cannot carry one of the types.
    fn decoder(&self, schema: SchemaRef) -> Result<Box<dyn Decoder>>;

    /// A decoder of changes to rows of `schema`. `keyed` says that a key tells the rows apart, so that a change need not
    /// bring the row that it takes the place of. Conservative default: each record is a row, which comes.
    ///
    /// # Errors
    /// As `decoder`.
    fn change_decoder(&self, schema: SchemaRef, keyed: bool) -> Result<Box<dyn Decoder>> {
        let _ = keyed;
        self.decoder(schema)
    }

    /// An encoder of batches of `schema`.
    ///
    /// # Errors
    /// Plan, when the format cannot carry one of the types.
    fn encoder(&self, schema: SchemaRef) -> Result<Box<dyn Encoder>>;

    /// Whether its records are changes; then encoders are made for [`crate::changelog_schema`], and decoders by
    /// [`Format::change_decoder`]. Conservative default: they are rows.
    fn is_changelog(&self) -> bool {
        false
    }
}

/// Bytes to columns.
pub trait Decoder: Send {
    /// Decodes every record of the block. A record that cannot be read is left out of the batch and answered in
    /// `bad`; the others are unharmed. Fields: missing = NULL, unknown = ignored, repeated = the last one, of another
    /// type = the record is bad. A NULL event time or a missing NOT NULL column is the gate's business, not ours.
    ///
    /// # Errors
    /// Only for defects; never because of what a record contains.
    fn decode(&mut self, records: &Records) -> Result<Decoded>;
}

/// What a block of records holds.
#[derive(Debug)]
pub struct Decoded {
    /// The readable rows, in order.
    pub batch: RecordBatch,
    /// 1 for a row that comes and -1 for one that goes; `None` when all of them come.
    pub weights: Option<Int64Array>,
    /// For each row of `batch` the ordinal of its record in the block; `None` when row i
    /// is record i.
    pub ordinals: Option<Vec<u32>>,
    /// The unreadable records.
    pub bad: Vec<BadRecord>,
}

/// A record that could not be read.
#[derive(Debug, Clone)]
pub struct BadRecord {
    /// Its ordinal in the block, from 0.
    pub ordinal: u32,
    /// Its position in the split, counted as [`crate::Positions`] says.
    pub position: u64,
    /// Its bytes.
    pub raw: Bytes,
    /// The class of the fault, the same words for the same fault: `unreadable JSON`, `amount is not a DOUBLE`.
    pub reason: String,
    /// What exactly was wrong, with the byte in the record: "expected `,` or `}` at byte 47".
    pub detail: String,
}

/// Columns to bytes.
pub trait Encoder: Send {
    /// Appends every row of the batch to `out` as one record; pushes to `ends` (when given) the length of `out` after
    /// each record. Formats of lines end each record with `\n` when `ends` is `None` and leave it out otherwise.
    ///
    /// # Errors
    /// Data, when a value cannot be written.
    fn encode(&mut self, batch: &RecordBatch, out: &mut Vec<u8>, ends: Option<&mut Vec<u32>>) -> Result<()>;

    /// What a file of this format begins with (CSV's header line). Conservative default: nothing.
    fn header(&self) -> Vec<u8> {
        Vec::new()
    }
}
