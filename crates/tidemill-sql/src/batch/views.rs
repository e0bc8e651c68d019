//! [`ViewSource`]: where queries find the rows of materialized views, dead letters and late rows; [`Stored`] reads checkpoints.
//!
//! **Invariant:** everything of one answer about a pipeline comes from one epoch of it.

use std::cell::RefCell;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use tidemill_checkpoint::{BlobStore, Checkpoints, LetterId, Manifest};
use tidemill_model::{Epoch, Error, Kind, Result};
use tidemill_runtime::exec::ViewRows;
use tidemill_runtime::{STATEMENT, ipc, letters_as_table, standing_rows};

/// What a query reads that is no external dataset.
pub trait ViewSource: Send + Sync + fmt::Debug {
    /// The rows of a materialized view of a pipeline; `None` when the pipeline has no epoch with it yet.
    ///
    /// # Errors
    /// Corrupt, Unavailable.
    fn rows(&self, pipeline: &str, view: &str) -> Result<Option<ViewRows>>;

    /// The dead letters of a dataset that these pipelines read, as rows of [`tidemill_runtime::dead_letter_schema`].
    ///
    /// # Errors
    /// Corrupt, Unavailable.
    fn dead_letters(&self, pipelines: &[String], dataset: &str) -> Result<Vec<RecordBatch>>;

    /// The rows that came late on their way to a table or view which these pipelines write, as rows of
    /// [`tidemill_runtime::late_schema`].
    ///
    /// # Errors
    /// Corrupt, Unavailable.
    fn late_rows(&self, pipelines: &[String], dataset: &str) -> Result<Vec<RecordBatch>>;
}

/// Rows as the newest manifests have them, whether the pipelines run or not.
#[derive(Debug, Clone)]
pub struct Stored {
    store: Arc<dyn BlobStore>,
}

/// How often a reader begins anew because the files of its epoch were replaced while it read them.
const ATTEMPTS: usize = 5;

impl Stored {
    /// What lies in this checkpoint store.
    #[must_use]
    pub fn new(store: Arc<dyn BlobStore>) -> Stored {
        Stored { store }
    }

    /// Reads from the newest manifest. Files vanish only after a newer manifest exists, so an error on one that is no
    /// longer the newest is no error of the store's.
    fn at_newest<T>(&self, pipeline: &str, read: impl Fn(&Checkpoints, &Manifest) -> Result<T>) -> Result<Option<T>> {
        let checkpoints = Checkpoints::new(Arc::clone(&self.store), pipeline);
        let Some(mut manifest) = checkpoints.latest()? else { return Ok(None) };
        for _ in 1..ATTEMPTS {
            let outcome = read(&checkpoints, &manifest).map(Some);
            if !matches!(&outcome, Err(e) if e.kind() == Kind::Corrupt) {
                return outcome;
            }
            match checkpoints.latest()? {
                Some(newer) if newer.epoch > manifest.epoch => manifest = newer,
                _ => return outcome,
            }
        }
        read(&checkpoints, &manifest).map(Some)
    }
}

impl Stored {
    /// The rows of the files that each pipeline names as of its newest epoch.
    fn rows_of(
        &self,
        pipelines: &[String],
        files: impl Fn(&Checkpoints, &Manifest) -> Result<Vec<String>>,
        shape: impl Fn(&Checkpoints, &Manifest, &str, RecordBatch) -> Result<RecordBatch>,
    ) -> Result<Vec<RecordBatch>> {
        let mut batches = Vec::new();
        for pipeline in pipelines {
            let read = self.at_newest(pipeline, |checkpoints, manifest| {
                let mut batches = Vec::new();
                for file in files(checkpoints, manifest)? {
                    let gone = || Error::new(Kind::Corrupt, "X035", format!("stored file {file} is gone"));
                    let bytes = checkpoints.read_dead_letters(&file)?.ok_or_else(gone)?;
                    for rows in ipc::decode_batches(&bytes)?.1 {
                        batches.push(shape(checkpoints, manifest, &file, rows)?);
                    }
                }
                Ok(batches)
            })?;
            batches.extend(read.unwrap_or_default());
        }
        Ok(batches)
    }
}

impl ViewSource for Stored {
    fn rows(&self, pipeline: &str, view: &str) -> Result<Option<ViewRows>> {
        let rows = self.at_newest(pipeline, |checkpoints, manifest| {
            let Some(state) = manifest.views.get(view) else { return Ok(None) };
            let mut chunks = Vec::new();
            for (name, chunk) in manifest.state.get(&state.node).iter().flat_map(|node| &node.chunks) {
                for rows in ipc::decode_batches(&checkpoints.read_chunk(chunk)?)?.1 {
                    chunks.push((name.as_str(), rows));
                }
            }
            let batches = standing_rows(chunks.iter().map(|(name, rows)| (*name, rows)))?;
            Ok(Some(ViewRows { epoch: manifest.epoch, state: state.clone(), batches }))
        })?;
        Ok(rows.flatten())
    }

    fn dead_letters(&self, pipelines: &[String], dataset: &str) -> Result<Vec<RecordBatch>> {
        let files = |checkpoints: &Checkpoints, manifest: &Manifest| checkpoints.dead_letter_files(dataset, manifest);
        let marks: RefCell<BTreeMap<(String, Epoch), BTreeMap<LetterId, Epoch>>> = RefCell::default();
        let shape = |checkpoints: &Checkpoints, manifest: &Manifest, file: &str, rows: RecordBatch| {
            let mut marks = marks.borrow_mut();
            let read = match marks.entry((manifest.pipeline.clone(), manifest.epoch)) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(unknown) => {
                    unknown.insert(checkpoints.replayed(manifest)?.remove(dataset).unwrap_or_default())
                }
            };
            let epoch = Checkpoints::letters_of(file);
            letters_as_table(&rows, |row| {
                let letter = LetterId { epoch: epoch?, row: row as u64 };
                Some((letter.to_string(), read.get(&letter).map(|epoch| epoch.0)))
            })
        };
        once_each(self.rows_of(pipelines, files, shape)?)
    }

    fn late_rows(&self, pipelines: &[String], dataset: &str) -> Result<Vec<RecordBatch>> {
        self.rows_of(
            pipelines,
            |checkpoints, manifest| checkpoints.late_files(dataset, manifest),
            |_, _, _, rows| Ok(rows),
        )
    }
}

/// The letters without those that several runs of intervals found in the same place: a record without event time
/// belongs to no interval, so each run that reads it finds it. Rows that a statement failed on are the run's own, and the
/// letters of a stream have names: one that entered again in vain is another letter of the same place.
fn once_each(batches: Vec<RecordBatch>) -> Result<Vec<RecordBatch>> {
    use arrow::array::{Array, AsArray, BooleanArray};
    use arrow::datatypes::Int64Type;
    let mut seen: BTreeSet<(String, String, String, i64)> = BTreeSet::new();
    let mut kept = Vec::with_capacity(batches.len());
    for batch in batches {
        let text = |name: &str| batch.column_by_name(name).and_then(|c| c.as_string_opt::<i32>()).cloned();
        let number = |name: &str| batch.column_by_name(name).and_then(|c| c.as_primitive_opt::<Int64Type>()).cloned();
        let (Some(pipeline), Some(dataset), Some(split), Some(position), Some(times), Some(letters)) = (
            text("pipeline"),
            text("dataset"),
            text("split"),
            number("position"),
            batch.column_by_name("event_time").cloned(),
            text("letter"),
        ) else {
            return Err(Error::new(Kind::Corrupt, "X005", "a file of dead letters has other columns than it should")
                .fact("it was written by another version; run that one, or remove the file"));
        };
        let keep: BooleanArray = (0..batch.num_rows())
            .map(|row| {
                let key = (
                    pipeline.value(row).to_owned(),
                    dataset.value(row).to_owned(),
                    split.value(row).to_owned(),
                    position.value(row),
                );
                let new = seen.insert(key);
                let told_apart = letters.is_valid(row) || times.is_valid(row);
                Some(new || told_apart || split.value(row).starts_with(STATEMENT))
            })
            .collect();
        let batch = arrow::compute::filter_record_batch(&batch, &keep);
        kept.push(batch.map_err(|e| Error::internal("dead letters cannot be filtered").because(e))?);
    }
    Ok(kept)
}
