//! [`merge`]: the files that the lanes staged for one interval as one file.
//!
//! **Invariant:** rows are copied, never decoded: lines as bytes (one header), Parquet as whole row groups.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::column::writer::ColumnCloseResult;
use parquet::file::metadata::{KeyValue, ParquetMetaDataReader};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use tidemill_model::{Error, Result};

use super::config::Encoding;
use super::encode::unwritable;
use super::row_groups::unreadable;

/// Writes all rows of `files` to `into` and makes it durable. `headers` says how long each file's header is.
pub(super) fn merge(files: &[PathBuf], headers: &[u64], encoding: &Encoding, into: &Path) -> Result<()> {
    let out = File::create(into).map_err(|e| Error::io("create", into.display(), e))?;
    let durable = |out: &File| out.sync_all().map_err(|e| Error::io("write", into.display(), e));
    match encoding {
        Encoding::Lines { .. } => durable(&lines(files, headers, out, into)?),
        Encoding::Parquet(_) => durable(row_groups(files, out, into)?.inner()),
    }
}

fn lines(files: &[PathBuf], headers: &[u64], mut out: File, into: &Path) -> Result<File> {
    for (n, (path, header)) in files.iter().zip(headers).enumerate() {
        let mut file = File::open(path).map_err(|e| Error::io("open", path.display(), e))?;
        if n > 0 {
            file.seek(SeekFrom::Start(*header)).map_err(|e| Error::io("read", path.display(), e))?;
        }
        std::io::copy(&mut file, &mut out).map_err(|e| Error::io("write", into.display(), e))?;
    }
    Ok(out)
}

fn row_groups(files: &[PathBuf], out: File, into: &Path) -> Result<SerializedFileWriter<File>> {
    let failed = |e| unwritable("write", into, e);
    let mut out = Some(out);
    let mut writer: Option<SerializedFileWriter<File>> = None;
    for path in files {
        let shown = path.display().to_string();
        let file = File::open(path).map_err(|e| Error::io("open", &shown, e))?;
        let metadata =
            ParquetMetaDataReader::new().parse_and_finish(&file).map_err(|e| unreadable("read", &shown, e))?;
        let about = metadata.file_metadata();
        if let Some(out) = out.take() {
            let keys: Option<Vec<KeyValue>> = about.key_value_metadata().cloned();
            let created_by = about.created_by().unwrap_or_default().to_owned();
            let properties =
                WriterProperties::builder().set_created_by(created_by).set_key_value_metadata(keys).build();
            let schema = about.schema_descr().root_schema_ptr();
            writer = Some(SerializedFileWriter::new(out, schema, Arc::new(properties)).map_err(failed)?);
        }
        let Some(writer) = writer.as_mut() else { continue };
        for group in metadata.row_groups() {
            let mut into_group = writer.next_row_group().map_err(failed)?;
            for column in group.columns() {
                // Page indexes are left out; statistics of the row group, which pruning uses, stay.
                let chunk = ColumnCloseResult {
                    bytes_written: u64::try_from(column.compressed_size()).unwrap_or(0),
                    rows_written: u64::try_from(group.num_rows()).unwrap_or(0),
                    metadata: column.clone(),
                    bloom_filter: None,
                    column_index: None,
                    offset_index: None,
                };
                into_group.append_column(&file, chunk).map_err(failed)?;
            }
            into_group.close().map_err(failed)?;
        }
    }
    let mut writer = writer.ok_or_else(|| Error::internal("no files to put together"))?;
    writer.finish().map_err(failed)?;
    Ok(writer)
}
