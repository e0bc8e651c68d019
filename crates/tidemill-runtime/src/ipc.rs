//! Arrow IPC for state chunks and dead letters: one self-describing stream, LZ4 compressed.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::CompressionType;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use bytes::Bytes;
use tidemill_model::{Error, Kind, Result};

/// Writes batches of one schema as one stream.
///
/// # Errors
/// Internal, when a batch does not have the schema.
pub fn encode_batches(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Bytes> {
    let broken = |e: arrow::error::ArrowError| Error::internal("rows cannot be written as Arrow IPC").because(e);
    let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME)).map_err(broken)?;
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), schema, options).map_err(broken)?;
    for batch in batches {
        writer.write(batch).map_err(broken)?;
    }
    Ok(Bytes::from(writer.into_inner().map_err(broken)?))
}

/// Writes one batch as one stream.
///
/// # Errors
/// As [`encode_batches`].
pub fn encode_batch(batch: &RecordBatch) -> Result<Bytes> {
    encode_batches(&batch.schema(), std::slice::from_ref(batch))
}

/// Reads a stream back.
///
/// # Errors
/// Corrupt, when the bytes are no such stream.
pub fn decode_batches(bytes: &[u8]) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let corrupt = |e: arrow::error::ArrowError| {
        Error::new(Kind::Corrupt, "X090", "stored rows are not a readable Arrow stream")
            .fact("the file was changed after it was written; restore it from a copy of the state folder")
            .because(e)
    };
    let reader = StreamReader::try_new(bytes, None).map_err(corrupt)?;
    let schema = reader.schema();
    let batches = reader.collect::<std::result::Result<Vec<_>, _>>().map_err(corrupt)?;
    Ok((schema, batches))
}
