//! [`FilesWriter`]: rows of an epoch become staged files, one for each lane and partition.
//!
//! **Invariant:** staged files lie where no reader looks and are durable before `prepare` names them; only the
//! committer gives them the names by which readers find them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::DataType;
use arrow::row::{OwnedRow, RowConverter, SortField};
use tidemill_model::{Epoch, Error, Kind, Result};
use tidemill_runtime::{Batch, Committable, SinkWriter};

use super::encode::{Finished, StagedFile};
use super::hive;
use super::sink::{Prepared, PreparedFile, Target, create_folder, interval_name, sync_folder};

/// More partitions of a lane and epoch than this are not kept open; the files so far are finished and others begun.
const OPEN_FILES: usize = 128;
/// When the open files of a lane hold more than this in memory, they are finished.
const WAITING: usize = 256 << 20;

/// No file system that we know takes longer names.
const LONGEST_NAME: usize = 255;

/// Stages the rows of one lane.
pub(super) struct FilesWriter {
    target: Arc<Target>,
    lane: usize,
    rows: Option<RowConverter>,
    /// The open files by the values of their partition columns.
    open: HashMap<OwnedRow, (String, StagedFile)>,
    /// The open file when there are no partitions.
    single: Option<StagedFile>,
    /// Finished files of this epoch with their partition's folder.
    finished: Vec<(String, Finished)>,
    /// How many files this epoch has begun.
    begun: usize,
}

impl FilesWriter {
    pub(super) fn new(target: Arc<Target>, lane: usize) -> FilesWriter {
        FilesWriter { target, lane, rows: None, open: HashMap::new(), single: None, finished: Vec::new(), begun: 0 }
    }

    fn staging(&self) -> PathBuf {
        match self.target.interval {
            Some(interval) => self.target.staging.join(interval_name(interval)),
            None => self.target.staging.clone(),
        }
    }

    fn begin(&mut self) -> Result<StagedFile> {
        let staging = self.staging();
        create_folder(&staging)?;
        let path = staging.join(format!("open-{}-{}", self.lane, self.begun));
        self.begun += 1;
        StagedFile::create(path, &self.target.encoding, &self.target.schema)
    }

    fn write_partitions(&mut self, rows: &RecordBatch) -> Result<()> {
        let internal = |e: arrow::error::ArrowError| Error::internal("cannot part rows by partition").because(e);
        let target = Arc::clone(&self.target);
        let keys: Vec<_> = target.partitions.iter().map(|(place, _)| Arc::clone(rows.column(*place))).collect();
        let converter = match &mut self.rows {
            Some(converter) => converter,
            none => none.insert(
                RowConverter::new(keys.iter().map(|key| SortField::new(key.data_type().clone())).collect())
                    .map_err(internal)?,
            ),
        };
        let key_rows = converter.convert_columns(&keys).map_err(internal)?;
        let mut members: HashMap<OwnedRow, Vec<u32>> = HashMap::new();
        let mut order: Vec<OwnedRow> = Vec::new();
        for (n, key) in (0_u32..).zip(key_rows.iter()) {
            match members.entry(key.owned()) {
                Entry::Occupied(mut some) => some.get_mut().push(n),
                Entry::Vacant(none) => {
                    order.push(none.key().clone());
                    none.insert(vec![n]);
                }
            }
        }
        let inside = match &target.kept {
            Some(kept) => rows.project(kept).map_err(internal)?,
            None => rows.clone(),
        };
        for key in order {
            let Some(numbers) = members.remove(&key) else { continue };
            let first = numbers.first().copied().unwrap_or_default() as usize;
            let part = if numbers.len() == rows.num_rows() {
                inside.clone()
            } else {
                take_record_batch(&inside, &UInt32Array::from(numbers)).map_err(internal)?
            };
            self.write_partition(key, rows, first, &part)?;
        }
        Ok(())
    }

    fn write_partition(&mut self, key: OwnedRow, rows: &RecordBatch, first: usize, part: &RecordBatch) -> Result<()> {
        if let Some((_, file)) = self.open.get_mut(&key) {
            return file.write(part);
        }
        let waiting: usize = self.open.values().map(|(_, file)| file.waiting()).sum();
        if self.open.len() >= OPEN_FILES || waiting > WAITING {
            self.finish_open()?;
        }
        let mut file = self.begin()?;
        file.write(part)?;
        self.open.insert(key, (folder_of(&self.target.partitions, rows, first)?, file));
        Ok(())
    }

    fn finish_open(&mut self) -> Result<()> {
        let mut files: Vec<(String, StagedFile)> = self.open.drain().map(|(_, file)| file).collect();
        // The map's order differs from run to run; names must not.
        files.sort_by(|a, b| a.0.cmp(&b.0));
        for (folder, file) in files {
            self.finished.push((folder, file.finish()?));
        }
        if let Some(file) = self.single.take() {
            self.finished.push((String::new(), file.finish()?));
        }
        Ok(())
    }
}

/// The folder of the partition that a row lies in, with a `/` at its end.
fn folder_of(partitions: &[(usize, String)], rows: &RecordBatch, row: usize) -> Result<String> {
    let mut folder = String::new();
    for (place, name) in partitions {
        let one = rows.column(*place).slice(row, 1);
        let text = cast(&one, &DataType::Utf8).map_err(|e| {
            let message = format!("`{name}` cannot name folders: {} has no text", one.data_type());
            Error::new(Kind::Config, "C335", message).fact("partition by text, numbers or dates").because(e)
        })?;
        let text = text.as_any().downcast_ref::<StringArray>();
        let value = text.filter(|text| text.is_valid(0)).map(|text| text.value(0));
        let segment = hive::segment(name, value);
        if segment.len() > LONGEST_NAME {
            let message = format!("a value of `{name}` is too long to name a folder: it takes {} bytes", segment.len());
            return Err(Error::new(Kind::Data, "D311", message)
                .fact(format!("a folder's name has at most {LONGEST_NAME}; partition by a shorter column"))
                .fact("or keep such rows out: WHERE, or a CHECK on the table that they are read from"));
        }
        folder.push_str(&segment);
        folder.push('/');
    }
    Ok(folder)
}

impl SinkWriter for FilesWriter {
    fn write(&mut self, batch: &Batch) -> Result<()> {
        if batch.weights.as_ref().is_some_and(|weights| weights.values().iter().any(|weight| *weight != 1)) {
            return Err(Error::internal("a retraction reached files, which are only appended to"));
        }
        if batch.is_empty() {
            return Ok(());
        }
        if !self.target.partitions.is_empty() {
            return self.write_partitions(&batch.rows);
        }
        let mut file = match self.single.take() {
            Some(file) => file,
            None => self.begin()?,
        };
        file.write(&batch.rows)?;
        self.single = Some(file);
        Ok(())
    }

    fn prepare(&mut self, epoch: Epoch) -> Result<Option<Committable>> {
        self.finish_open()?;
        self.begun = 0;
        let staging = self.staging();
        let extension = self.target.encoding.extension();
        let mut files = Vec::with_capacity(self.finished.len());
        for (n, (folder, file)) in self.finished.drain(..).enumerate() {
            let staged = format!("{:010}-{}-{n}.{extension}", epoch.0, self.lane);
            let path = staging.join(&staged);
            fs::rename(&file.path, &path).map_err(|e| Error::io("rename to", path.display(), e))?;
            let (staged, name) = match (self.target.interval, self.target.whole()) {
                (Some(interval), Some(whole)) => (format!("{}/{staged}", interval_name(interval)), whole),
                _ => {
                    let more = if n == 0 { String::new() } else { format!("-{n}") };
                    let (identity, lane) = (&self.target.identity, self.lane);
                    (staged, format!("{folder}part-{identity}-{:010}-{lane}{more}.{extension}", epoch.0))
                }
            };
            files.push(PreparedFile { staged, name, rows: file.rows, bytes: file.bytes, header: file.header });
        }
        if files.is_empty() && self.target.interval.is_none() {
            return Ok(None);
        }
        if !files.is_empty() {
            sync_folder(&staging)?;
        }
        let prepared = Prepared { files, whole: self.target.whole() };
        let value =
            serde_json::to_value(prepared).map_err(|e| Error::internal("a committable is no JSON").because(e))?;
        Ok(Some(Committable(value)))
    }
}
