//! [`records`]: the loop of a text format over the rows of a batch.
//!
//! **Invariant:** after an error the caller's buffers hold what they held before.

use arrow::array::RecordBatch;
use tidemill_model::{Error, Result};

use super::values::plain_columns;
use super::{TimeFormat, Values};

/// Writes each row by `put`, ended by a line break, or by its place in `ends` where the caller keeps those.
///
/// # Errors
/// What `put` answers; Internal, when the records of one block pass 4 GiB.
#[inline]
pub(crate) fn records(
    batch: &RecordBatch,
    time: TimeFormat,
    out: &mut Vec<u8>,
    mut ends: Option<&mut Vec<u32>>,
    mut put: impl FnMut(&mut [Values<'_>], usize, &mut Vec<u8>) -> Result<()>,
) -> Result<()> {
    let before = (out.len(), ends.as_ref().map_or(0, |ends| ends.len()));
    let mut write = || -> Result<()> {
        let arrays = plain_columns(batch)?;
        let mut columns: Vec<Values<'_>> = arrays.iter().map(|array| Values::of(array, time)).collect::<Result<_>>()?;
        for row in 0..batch.num_rows() {
            put(&mut columns, row, out)?;
            match &mut ends {
                None => out.push(b'\n'),
                Some(ends) => ends.push(
                    u32::try_from(out.len())
                        .map_err(|_| Error::internal("the records to write do not fit into one block of 4 GiB"))?,
                ),
            }
        }
        Ok(())
    };
    let done = write();
    if done.is_err() {
        out.truncate(before.0);
        if let Some(ends) = ends {
            ends.truncate(before.1);
        }
    }
    done
}
