//! [`Standing`]: the results of open sessions that stand downstream.
//!
//! **Invariant:** what was emitted and not taken back is here, or its session is final.

use arrow::array::{Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};
use datafusion::common::{HashMap, Result};
use tidemill_model::{Error, Kind};
use tidemill_runtime::Batch;

/// Rows by session, as bytes.
pub(super) struct Standing {
    schema: SchemaRef,
    rows: RowConverter,
    of: HashMap<u32, Vec<Box<[u8]>>>,
    /// Rows of sessions that were joined to others.
    orphans: Vec<Box<[u8]>>,
    /// What the rows take of memory.
    rows_bytes: usize,
}

fn bytes_of(row: &[u8]) -> usize {
    row.len() + size_of::<Box<[u8]>>()
}

impl Standing {
    pub(super) fn new(schema: &SchemaRef) -> tidemill_model::Result<Standing> {
        let fields = schema.fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
        let rows = RowConverter::new(fields)
            .map_err(|e| Error::new(Kind::Plan, "P145", "sessions have a column that cannot be kept").because(e))?;
        Ok(Standing { schema: schema.clone(), rows, of: HashMap::default(), orphans: Vec::new(), rows_bytes: 0 })
    }

    /// About how many bytes it takes.
    pub(super) fn bytes(&self) -> usize {
        self.of.capacity() * size_of::<(u32, Vec<Box<[u8]>>)>() + self.rows_bytes
    }

    fn remove(&mut self, id: u32) -> Vec<Box<[u8]>> {
        let rows = self.of.remove(&id).unwrap_or_default();
        self.rows_bytes -= rows.iter().map(|row| bytes_of(row)).sum::<usize>();
        rows
    }

    /// The session was joined to another, or goes on beyond what has passed.
    pub(super) fn orphan(&mut self, id: u32) {
        let rows = self.remove(id);
        self.orphans.extend(rows);
    }

    /// Takes back the rows of sessions that are shown no more.
    pub(super) fn withdraw(&mut self) -> Result<Option<Batch>> {
        if self.orphans.is_empty() {
            return Ok(None);
        }
        self.change(&RecordBatch::new_empty(self.schema.clone()), &[])
    }

    /// The session is final.
    pub(super) fn forget(&mut self, id: u32) {
        self.remove(id);
    }

    /// The rows of these sessions are now these: what to take back and what to add.
    pub(super) fn change(&mut self, rows: &RecordBatch, ids: &[u32]) -> Result<Option<Batch>> {
        let converted = self.rows.convert_columns(rows.columns())?;
        let mut gone = std::mem::take(&mut self.orphans);
        let mut old: HashMap<u32, Vec<Box<[u8]>>> = HashMap::default();
        for id in ids {
            let rows = self.remove(*id);
            if !rows.is_empty() {
                old.insert(*id, rows);
            }
        }
        let mut come = Vec::new();
        for ((row, id), bytes) in (0_u32..).zip(ids).zip(converted.iter()) {
            let before = old.get_mut(id);
            let same = before.and_then(|before| {
                before.iter().position(|old| old.as_ref() == bytes.data()).map(|at| before.swap_remove(at))
            });
            if same.is_none() {
                come.push(row);
            }
            let bytes: Box<[u8]> = bytes.data().into();
            self.rows_bytes += bytes_of(&bytes);
            self.of.entry(*id).or_default().push(bytes);
        }
        gone.extend(old.into_values().flatten());
        if gone.is_empty() && come.is_empty() {
            return Ok(None);
        }
        let parser = self.rows.parser();
        let taken = self.rows.convert_rows(gone.iter().map(|bytes| parser.parse(bytes)))?;
        let taken = RecordBatch::try_new(self.schema.clone(), taken)?;
        let weights = std::iter::repeat_n(-1_i64, gone.len()).chain(std::iter::repeat_n(1, come.len()));
        let weights = Int64Array::from_iter_values(weights);
        let come = take_record_batch(rows, &UInt32Array::from(come))?;
        let rows = concat_batches(&self.schema, [&taken, &come])?;
        Ok(Some(Batch { rows, weights: Some(weights) }))
    }
}
