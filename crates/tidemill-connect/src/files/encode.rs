//! [`StagedFile`]: one file under construction, and [`Finished`], what is known of it when it is durable.
//!
//! **Invariant:** when `finish` has answered, every byte of the file is on the disk.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use tidemill_model::{Error, Result};
use tidemill_runtime::Encoder;

use super::config::Encoding;
use super::flushing::Flushing;

/// Lines are written in blocks of about this size.
const BLOCK: usize = 1 << 20;
/// A row group is written out when it has this many bytes, so that memory stays bounded.
const ROW_GROUP: usize = 64 << 20;

/// One file under construction.
pub(super) struct StagedFile {
    path: PathBuf,
    rows: u64,
    out: Out,
}

enum Out {
    Lines { file: Flushing, encoder: Box<dyn Encoder>, buffer: Vec<u8>, header: u64 },
    Parquet(Box<ArrowWriter<Flushing>>),
}

/// A file that is durable and not yet published.
#[derive(Debug)]
pub(super) struct Finished {
    /// Where it was written.
    pub(super) path: PathBuf,
    /// How many rows it has.
    pub(super) rows: u64,
    /// How many bytes.
    pub(super) bytes: u64,
    /// How many of them are the header.
    pub(super) header: u64,
}

impl StagedFile {
    /// Begins a file; what was there before is gone.
    pub(super) fn create(path: PathBuf, encoding: &Encoding, schema: &SchemaRef) -> Result<StagedFile> {
        let opened = OpenOptions::new().write(true).create(true).truncate(true).open(&path);
        let file = Flushing::new(opened.map_err(|e| Error::io("create", path.display(), e))?);
        let out = match encoding {
            Encoding::Lines { format, .. } => {
                let encoder = format.encoder(SchemaRef::clone(schema))?;
                let buffer = encoder.header();
                let header = buffer.len() as u64;
                Out::Lines { file, encoder, buffer, header }
            }
            Encoding::Parquet(compression) => {
                let properties = WriterProperties::builder()
                    .set_compression(*compression)
                    .set_created_by(concat!("tidemill ", env!("CARGO_PKG_VERSION")).to_owned())
                    .set_max_row_group_bytes(Some(ROW_GROUP))
                    .build();
                let writer = ArrowWriter::try_new(file, SchemaRef::clone(schema), Some(properties));
                Out::Parquet(Box::new(writer.map_err(|e| unwritable("create", &path, e))?))
            }
        };
        Ok(StagedFile { path, rows: 0, out })
    }

    /// Adds rows.
    pub(super) fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        match &mut self.out {
            Out::Lines { file, encoder, buffer, .. } => {
                encoder.encode(rows, buffer, None)?;
                if buffer.len() >= BLOCK {
                    file.write_all(buffer).map_err(|e| Error::io("write", self.path.display(), e))?;
                    buffer.clear();
                }
            }
            Out::Parquet(writer) => writer.write(rows).map_err(|e| unwritable("write", &self.path, e))?,
        }
        self.rows += rows.num_rows() as u64;
        Ok(())
    }

    /// About how many bytes wait in memory.
    pub(super) fn waiting(&self) -> usize {
        match &self.out {
            Out::Lines { buffer, .. } => buffer.capacity(),
            Out::Parquet(writer) => writer.in_progress_size(),
        }
    }

    /// Makes everything durable.
    pub(super) fn finish(self) -> Result<Finished> {
        let StagedFile { path, rows, out } = self;
        let failed = |e| Error::io("write", path.display(), e);
        let (bytes, header) = match out {
            Out::Lines { mut file, buffer, header, .. } => {
                file.write_all(&buffer).map_err(failed)?;
                (file.sync_all().map_err(failed)?, header)
            }
            Out::Parquet(mut writer) => {
                writer.finish().map_err(|e| unwritable("write", &path, e))?;
                (writer.inner().sync_all().map_err(failed)?, 0)
            }
        };
        Ok(Finished { path, rows, bytes, header })
    }
}

/// An error while writing Parquet: of the disk, or a defect of ours.
pub(super) fn unwritable(what: &str, path: &Path, error: ParquetError) -> Error {
    match error {
        ParquetError::External(inner) => match inner.downcast::<std::io::Error>() {
            Ok(io) => Error::io(what, path.display(), *io),
            Err(other) => Error::internal(format!("cannot {what} {}: {other}", path.display())).because(other),
        },
        other => Error::internal(format!("cannot {what} {}: {other}", path.display())).because(other),
    }
}
