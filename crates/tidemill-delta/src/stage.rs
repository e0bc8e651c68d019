//! Staged rows: [`StageFile`] takes them for one lane and epoch, [`Staged`] names them to the commit.
//!
//! **Invariant:** a [`Staged`] exists only for a file that is whole and durable under its final name. Files are Arrow
//! streams; rows go to the file as they come, so an epoch is never held in memory.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::CompressionType;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use serde::{Deserialize, Serialize};
use tidemill_model::{Epoch, Error, Kind, Result};
use tidemill_runtime::Committable;

/// A finished file of rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Staged {
    /// Its name in the staging folder.
    pub(crate) file: String,
    /// How many rows.
    pub(crate) rows: u64,
    /// How many bytes.
    pub(crate) bytes: u64,
    /// CRC-32C of all bytes.
    pub(crate) crc: u32,
    /// Whether the rows are of a result that was computed anew, and win over whatever is stored under their key.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) anew: bool,
}

impl Staged {
    /// As the manifest keeps it.
    pub(crate) fn committable(&self) -> Result<Committable> {
        serde_json::to_value(self).map(Committable).map_err(|error| Error::internal(error.to_string()))
    }

    /// Out of the manifest.
    ///
    /// # Errors
    /// Corrupt: it was not written by this connector, or names a file outside its folder.
    pub(crate) fn of(committable: &Committable) -> Result<Staged> {
        let bad = || {
            Error::new(
                Kind::Corrupt,
                "X212",
                "the manifest names staged rows in a form that the delta connector never wrote",
            )
        };
        let staged: Staged = serde_json::from_value(committable.0.clone()).map_err(|error| bad().because(error))?;
        if Path::new(&staged.file).components().count() != 1 || epoch_of(&staged.file).is_none() {
            return Err(bad());
        }
        Ok(staged)
    }

    /// The rows again, checked against length and checksum at the end.
    pub(crate) fn open(&self, folder: &Path) -> Result<StagedRows> {
        let path = folder.join(&self.file);
        let file = File::open(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Error::new(Kind::Corrupt, "X213", format!("the staged rows {} are gone", path.display()))
                    .fact("they belong to an epoch that the table does not have; was the state folder cleaned by hand?")
            }
            _ => Error::io("read", path.display(), error),
        })?;
        let checked = Checked::new(BufReader::with_capacity(1 << 20, file));
        let reader = StreamReader::try_new(checked, None).map_err(|error| self.damaged(&path, error))?;
        Ok(StagedRows { path, staged: self.clone(), reader: Some(reader) })
    }

    fn damaged(&self, path: &Path, why: impl std::fmt::Display) -> Error {
        Error::new(Kind::Corrupt, "X214", format!("the staged rows {} are not what was written: {why}", path.display()))
    }
}

/// An iterator over the batches of a staged file.
pub(crate) struct StagedRows {
    path: PathBuf,
    staged: Staged,
    reader: Option<StreamReader<Checked<BufReader<File>>>>,
}

impl Iterator for StagedRows {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Result<RecordBatch>> {
        match self.reader.as_mut()?.next() {
            Some(Ok(batch)) => Some(Ok(batch)),
            Some(Err(error)) => {
                self.reader = None;
                Some(Err(self.staged.damaged(&self.path, error)))
            }
            None => {
                let mut reader = self.reader.take()?;
                let checked = reader.get_mut();
                let rest = std::io::copy(checked, &mut std::io::sink());
                if let Err(error) = rest {
                    return Some(Err(Error::io("read", self.path.display(), error)));
                }
                let whole = checked.bytes == self.staged.bytes && checked.crc == self.staged.crc;
                (!whole).then(|| Err(self.staged.damaged(&self.path, "length or checksum differ")))
            }
        }
    }
}

/// A file being filled.
pub(crate) struct StageFile {
    path: PathBuf,
    writer: StreamWriter<Checked<BufWriter<File>>>,
    rows: u64,
}

impl StageFile {
    /// Begins the file of a lane.
    pub(crate) fn create(folder: &Path, lane: usize, schema: &SchemaRef) -> Result<StageFile> {
        std::fs::create_dir_all(folder).map_err(|error| Error::io("create", folder.display(), error))?;
        let path = folder.join(open_name(lane));
        let file = File::create(&path).map_err(|error| Error::io("create", path.display(), error))?;
        let options = IpcWriteOptions::default()
            .try_with_compression(Some(CompressionType::LZ4_FRAME))
            .map_err(|error| Error::internal(error.to_string()))?;
        let out = Checked::new(BufWriter::with_capacity(1 << 20, file));
        let writer = StreamWriter::try_new_with_options(out, schema, options).map_err(|error| failed(&path, error))?;
        Ok(StageFile { path, writer, rows: 0 })
    }

    /// Adds rows.
    pub(crate) fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        self.rows += rows.num_rows() as u64;
        self.writer.write(rows).map_err(|error| failed(&self.path, error))
    }

    /// Makes the file durable under its name of the epoch.
    pub(crate) fn finish(mut self, epoch: Epoch, lane: usize) -> Result<Staged> {
        self.writer.finish().map_err(|error| failed(&self.path, error))?;
        let mut out = self.writer.into_inner().map_err(|error| failed(&self.path, error))?;
        let durable = out.flush().and_then(|()| out.inner.get_ref().sync_all());
        durable.map_err(|error| Error::io("write", self.path.display(), error))?;
        let file = staged_name(epoch, lane);
        let folder = self.path.parent().unwrap_or(Path::new("."));
        std::fs::rename(&self.path, folder.join(&file))
            .and_then(|()| File::open(folder)?.sync_all())
            .map_err(|error| Error::io("write", folder.join(&file).display(), error))?;
        Ok(Staged { file, rows: self.rows, bytes: out.bytes, crc: out.crc, anew: false })
    }
}

fn failed(path: &Path, error: arrow::error::ArrowError) -> Error {
    match error {
        arrow::error::ArrowError::IoError(_, source) => Error::io("write", path.display(), source),
        error => Error::internal(format!("cannot stage rows in {}: {error}", path.display())),
    }
}

fn open_name(lane: usize) -> String {
    format!("lane-{lane}.open")
}

fn staged_name(epoch: Epoch, lane: usize) -> String {
    format!("epoch-{:020}-lane-{lane}.arrows", epoch.0)
}

/// The epoch that a staged file belongs to; `None` for other names.
pub(crate) fn epoch_of(name: &str) -> Option<Epoch> {
    let rest = name.strip_prefix("epoch-")?.strip_suffix(".arrows")?;
    rest.split_once("-lane-")?.0.parse().ok().map(Epoch)
}

/// Removes the files of `folder` that belong to no epoch yet, or to one that `dead` says is of no more use.
pub(crate) fn sweep(folder: &Path, dead: impl Fn(Epoch) -> bool) -> Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("list", folder.display(), error)),
    };
    for entry in entries {
        let entry = entry.map_err(|error| Error::io("list", folder.display(), error))?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let unfinished = name.starts_with("lane-") && name.ends_with(".open");
        if unfinished || epoch_of(name).is_some_and(&dead) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes a file that may be gone already.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path.display(), error)),
        _ => Ok(()),
    }
}

/// Counts and checksums what passes.
struct Checked<T> {
    inner: T,
    bytes: u64,
    crc: u32,
}

impl<T> Checked<T> {
    fn new(inner: T) -> Checked<T> {
        Checked { inner, bytes: 0, crc: 0 }
    }

    fn saw(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, bytes);
    }
}

impl<W: Write> Write for Checked<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let taken = self.inner.write(bytes)?;
        self.saw(bytes.get(..taken).unwrap_or(bytes));
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let got = self.inner.read(into)?;
        self.saw(into.get(..got).unwrap_or_default());
        Ok(got)
    }
}
