//! [`Spread`]: rows in files by the hash of their key, and [`Part`], one of them to be done by itself.
//!
//! **Invariant:** all rows of a key go to one part, whoever spreads them.

use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{BatchCoalescer, take_record_batch};
use arrow::datatypes::SchemaRef;
use datafusion::common::{Result, resources_datafusion_err};
use datafusion::execution::SpillFile;
use datafusion::physical_plan::SpillManager;

use super::held::{DEEPEST, First, PARTS, part_of};

/// How many rows are written at once.
const AT_ONCE: usize = 4_096;

/// What all who gather rows of one node share.
pub(super) struct Work {
    pub(super) first: Arc<First>,
    pub(super) input: SchemaRef,
    pub(super) spills: SpillManager,
}

/// Rows of some keys in files.
pub(super) struct Part {
    /// How often they were spread.
    pub(super) depth: usize,
    pub(super) files: Vec<Arc<dyn SpillFile>>,
}

/// Files being written.
pub(super) struct Spread {
    work: Arc<Work>,
    depth: usize,
    open: Vec<Open>,
    hashes: Vec<u64>,
}

struct Open {
    waiting: BatchCoalescer,
    file: Option<Out>,
}

/// A file being written: takes a batch, or answers the finished file. (Its type has no name outside of DataFusion.)
type Out = Box<dyn FnMut(Option<&RecordBatch>) -> Result<Option<Arc<dyn SpillFile>>> + Send>;

fn create(spills: &SpillManager) -> Result<Out> {
    let mut file = spills.create_in_progress_file("first rows")?;
    Ok(Box::new(move |rows| match rows {
        Some(rows) => file.append_batch(rows).map(|_| None),
        None => file.finish(),
    }))
}

impl Spread {
    /// Files for rows that were spread `depth` times.
    pub(super) fn new(work: Arc<Work>, depth: usize) -> Result<Spread> {
        if depth >= DEEPEST {
            return Err(resources_datafusion_err!(
                "the first rows of keys do not fit into memory, however they are divided"
            ));
        }
        let open = || Open { waiting: BatchCoalescer::new(SchemaRef::clone(&work.input), AT_ONCE), file: None };
        let open = (0..PARTS).map(|_| open()).collect();
        Ok(Spread { work, depth, open, hashes: Vec::new() })
    }

    pub(super) fn add(&mut self, rows: &RecordBatch) -> Result<()> {
        self.work.first.hashes(rows, &mut self.hashes)?;
        let mut parts: Vec<Vec<u32>> = vec![Vec::new(); PARTS];
        for (row, hash) in (0_u32..).zip(&self.hashes) {
            parts[part_of(*hash, self.depth)].push(row);
        }
        for (part, open) in parts.into_iter().zip(&mut self.open) {
            if !part.is_empty() {
                open.waiting.push_batch(take_record_batch(rows, &UInt32Array::from(part))?)?;
                open.write(&self.work)?;
            }
        }
        Ok(())
    }

    /// The parts, some without files.
    pub(super) fn finish(self) -> Result<Vec<Part>> {
        let Spread { work, depth, open, .. } = self;
        let finished = open.into_iter().map(|mut open| {
            open.waiting.finish_buffered_batch()?;
            open.write(&work)?;
            let file = open.file.map(|mut file| file(None)).transpose()?.flatten();
            Ok(Part { depth: depth + 1, files: file.into_iter().collect() })
        });
        finished.collect()
    }
}

impl Open {
    fn write(&mut self, work: &Work) -> Result<()> {
        while let Some(rows) = self.waiting.next_completed_batch() {
            let file = match &mut self.file {
                Some(file) => file,
                none => none.insert(create(&work.spills)?),
            };
            file(Some(&rows))?;
        }
        Ok(())
    }
}
