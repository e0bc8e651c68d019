//! [`First`], what is chosen by what, and [`Held`], rows in memory with the hashes of their keys.
//!
//! **Invariant:** rows lie where they came; what is put into buckets is where they are.

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};
use datafusion::common::Result;
use datafusion::common::hash_utils::{RandomState, create_hashes};
use datafusion::physical_plan::spill::get_record_batch_memory_size;

/// How many buckets there are: of ten million rows each has the hashes that a processor's cache holds.
pub(super) const BUCKETS: usize = 256;
/// The bits of a hash that say its bucket. Below lie those that a table of one bucket goes by.
const BUCKET: u32 = 32;
/// The bits from here on say which file a row is spread to, [`PART_BITS`] for each depth.
const PART: u32 = 40;
/// How many bits tell the files of one depth apart.
const PART_BITS: u32 = 5;
/// How many files rows are spread to.
pub(super) const PARTS: usize = 1 << PART_BITS;
/// How often rows can be spread again before the hash has no more bits.
pub(super) const DEEPEST: usize = 4;

/// Seeds that differ from those by which DataFusion gives rows to partitions.
const SEEDS: RandomState = RandomState::with_seed(0x7469_6465_6d69_6c6c);

/// Which row stays of each key.
#[derive(Debug)]
pub(super) struct First {
    /// The columns of the key.
    pub(super) keys: Vec<usize>,
    /// The columns, none of the key, that say which row is the first.
    pub(super) order: Vec<(usize, SortOptions)>,
    /// The columns that come out.
    pub(super) output: Vec<usize>,
    /// Their names and types.
    pub(super) schema: SchemaRef,
    /// Words for a plan.
    pub(super) words: String,
}

impl First {
    /// The hashes of the keys of a batch.
    pub(super) fn hashes(&self, rows: &RecordBatch, into: &mut Vec<u64>) -> Result<()> {
        let keys: Vec<ArrayRef> = self.keys.iter().map(|key| ArrayRef::clone(rows.column(*key))).collect();
        into.clear();
        into.resize(rows.num_rows(), 0);
        create_hashes(&keys, &SEEDS, into)?;
        Ok(())
    }

    /// What compares keys, and what compares rows of one key if anything does.
    pub(super) fn converters(&self, input: &SchemaRef) -> Result<(RowConverter, Option<RowConverter>)> {
        let field = |at: usize, options| SortField::new_with_options(input.field(at).data_type().clone(), options);
        let keys = self.keys.iter().map(|key| field(*key, SortOptions::default())).collect();
        let order: Vec<SortField> = self.order.iter().map(|(at, options)| field(*at, *options)).collect();
        let order = if order.is_empty() { None } else { Some(RowConverter::new(order)?) };
        Ok((RowConverter::new(keys)?, order))
    }

    /// The columns of a batch that come out.
    pub(super) fn output(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let columns = self.output.iter().map(|at| ArrayRef::clone(rows.column(*at))).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        Ok(RecordBatch::try_new_with_options(SchemaRef::clone(&self.schema), columns, &options)?)
    }
}

/// Which file a hash goes to when rows are spread for the `depth`th time.
pub(super) fn part_of(hash: u64, depth: usize) -> usize {
    (hash >> (PART + PART_BITS * depth as u32)) as usize % PARTS
}

/// A row's key as a hash, and where the row is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) hash: u64,
    pub(super) batch: u32,
    pub(super) row: u32,
}

/// Rows in memory.
#[derive(Debug)]
pub(super) struct Held {
    /// The rows and how many bytes they and their entries take.
    pub(super) batches: Vec<(RecordBatch, usize)>,
    buckets: Vec<Vec<Entry>>,
    hashes: Vec<u64>,
}

impl Held {
    pub(super) fn new() -> Held {
        Held { batches: Vec::new(), buckets: (0..BUCKETS).map(|_| Vec::new()).collect(), hashes: Vec::new() }
    }

    /// How many bytes a batch will take here; vectors have room for more than they hold.
    pub(super) fn bytes_of(rows: &RecordBatch) -> usize {
        get_record_batch_memory_size(rows) + rows.num_rows() * (size_of::<Entry>() * 3 / 2)
    }

    pub(super) fn add(&mut self, rows: RecordBatch, bytes: usize, first: &First) -> Result<()> {
        first.hashes(&rows, &mut self.hashes)?;
        let batch = self.batches.len() as u32;
        for (row, hash) in (0_u32..).zip(&self.hashes) {
            let bucket = (hash >> BUCKET) as usize % BUCKETS;
            self.buckets[bucket].push(Entry { hash: *hash, batch, row });
        }
        self.batches.push((rows, bytes));
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// What lies in a bucket.
    pub(super) fn entries(&self, bucket: usize) -> &[Entry] {
        self.buckets.get(bucket).map_or(&[], Vec::as_slice)
    }
}
