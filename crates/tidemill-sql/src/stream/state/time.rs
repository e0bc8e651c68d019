//! How far an operator has come, as a chunk of one number: what it holds does not say what of it has been given out.
//!
//! **Invariant:** all lanes stand at one time when an epoch ends, so that of several the greatest is right.

use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use tidemill_model::{Error, Result};
use tidemill_runtime::StateChunk;

/// A time under a name.
pub(in crate::stream) fn time_chunk(name: &str, at: i64) -> Result<StateChunk> {
    let schema = Arc::new(Schema::new(vec![Field::new(name, DataType::Int64, false)]));
    let rows = RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(vec![at]))])
        .map_err(|e| Error::internal("a time does not make a batch").because(e))?;
    Ok(StateChunk { name: name.to_owned(), rows: Some(rows) })
}

/// The time in a chunk.
pub(in crate::stream) fn stored_time(rows: &RecordBatch) -> Option<i64> {
    rows.columns().first()?.as_primitive_opt::<Int64Type>()?.values().first().copied()
}
