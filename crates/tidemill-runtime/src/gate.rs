//! [`Gate`]: decides which decoded rows are accepted, the same way in every mode.

use tidemill_model::{Result, Timestamp};

use crate::Batch;

/// The row gate of a dataset: CHECKs with their policies, event time present, not before the pipeline's start.
pub trait Gate: Send {
    /// Splits a batch into accepted and refused rows. A row that is taken back is let through where it was accepted when
    /// it came, and leaves no dead letter; of rows that a key tells apart one that is refused takes back what stands.
    ///
    /// # Errors
    /// Data, when a row breaks a CHECK whose policy is FAIL.
    fn accept(&mut self, batch: Batch) -> Result<Accepted>;

    /// The present and the furthest instant ahead of it that may still move the watermark, for the batches to come.
    /// `Accepted::newest` then counts a row after the present as the present, and leaves out rows after the horizon.
    /// `None`: every row counts as it is.
    fn set_horizon(&mut self, horizon: Option<(Timestamp, Timestamp)>);
}

/// What a gate lets through.
#[derive(Debug)]
pub struct Accepted {
    /// The accepted rows, with the columns that the plan needs.
    pub batch: Batch,
    /// The refused rows: row number in the batch that was given, reason, detail.
    pub dead: Vec<(u32, String, String)>,
    /// The greatest event time of the *accepted* rows that are not taken back, in microseconds, that may move the watermark.
    pub newest: Option<i64>,
    /// How many rows a DROP policy left out.
    pub dropped: u64,
    /// How many accepted rows broke a CHECK whose policy is WARN.
    pub warned: u64,
    /// How many rows lay before the pipeline's start.
    pub before_start: u64,
}
