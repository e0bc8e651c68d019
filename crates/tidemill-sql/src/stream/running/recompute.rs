//! [`RecomputeFactory`]: a GROUP BY over rows that are taken back, where an aggregate has no inverse: `min`, `max`,
//! distinct counts, quantiles, sums of floating-point numbers.
//!
//! The rows of each group are kept, each with how often it is there; at the barrier the groups that changed are computed
//! anew from their rows. A group costs what its rows cost, so this is for groups that are not too large.
//!
//! **Invariant:** a result is a function of the rows that its group has now, never of the way there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, SchemaRef};
use arrow::error::ArrowError;
use arrow::row::{OwnedRow, RowConverter, SortField};
use arrow::{array::AsArray, array::UInt32Array};
use datafusion::error::DataFusionError;
use tidemill_model::{Epoch, Error, Kind, Place, Result};
use tidemill_runtime::{Batch, Operator, OperatorFactory, Output, Stored};

use super::Spec;
use super::results::taken_back;
use crate::session::values;
use crate::stream::aggregate::Groups;
use crate::stream::state::{Give, KeyLog, Layout};
use crate::stream::transform::failed;

/// The name of the log of rows.
const ROWS: &str = "rows";

/// Makes the operators that put the key of its group before each row, so that rows find the lane of their group.
#[derive(Debug)]
pub(in crate::stream) struct KeyByFactory {
    pub(in crate::stream) spec: Spec,
    pub(in crate::stream) text: String,
    pub(in crate::stream) place: Place,
    /// Keys, then the columns of the input.
    pub(in crate::stream) schema: SchemaRef,
}

/// Makes the operators that keep rows by group and compute groups anew.
#[derive(Debug)]
pub(in crate::stream) struct RecomputeFactory {
    pub(in crate::stream) spec: Spec,
    pub(in crate::stream) text: String,
    pub(in crate::stream) place: Place,
    /// Keys, then the columns of the input.
    pub(in crate::stream) schema: SchemaRef,
    /// The columns of the input.
    pub(in crate::stream) input: SchemaRef,
}

impl OperatorFactory for KeyByFactory {
    fn create(&self, _lane: usize, _lanes: usize) -> Result<Box<dyn Operator>> {
        Ok(Box::new(KeyBy {
            spec: Arc::clone(&self.spec),
            place: self.place.clone(),
            schema: Arc::clone(&self.schema),
        }))
    }

    fn describe(&self) -> String {
        self.text.clone()
    }

    fn definition(&self) -> String {
        self.spec.fingerprint()
    }
}

struct KeyBy {
    spec: Spec,
    place: Place,
    schema: SchemaRef,
}

impl Operator for KeyBy {
    fn on_batch(&mut self, _input: usize, batch: Batch, out: &mut Output) -> Result<()> {
        let keyed = || -> Result<RecordBatch, DataFusionError> {
            let keys = self.spec.groups.keys.iter().map(|key| values(key, &batch.rows));
            let mut columns = keys.collect::<Result<Vec<_>, _>>()?;
            columns.extend(batch.rows.columns().iter().cloned());
            let options = RecordBatchOptions::new().with_row_count(Some(batch.len()));
            Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
        };
        out.push(batch.with_rows(keyed().map_err(|error| failed(&error, &self.place))?));
        Ok(())
    }
}

impl RecomputeFactory {
    fn layout(&self) -> Layout {
        let weight: FieldRef = Arc::new(Field::new("weight", DataType::Int64, true));
        Layout::new(self.schema.fields(), &[weight], self.spec.groups.keys.len())
    }

    fn sort_fields(fields: &[FieldRef]) -> Vec<SortField> {
        fields.iter().map(|field| SortField::new(field.data_type().clone())).collect()
    }
}

impl OperatorFactory for RecomputeFactory {
    fn create(&self, lane: usize, _lanes: usize) -> Result<Box<dyn Operator>> {
        let leading = self.spec.groups.keys.len();
        let unkept = |e| {
            Error::new(Kind::Plan, "P145", "a column of this GROUP BY cannot be kept in state")
                .at(&self.place)
                .because(e)
        };
        let converter = |fields: &[FieldRef]| RowConverter::new(RecomputeFactory::sort_fields(fields)).map_err(unkept);
        Ok(Box::new(Recompute {
            rows: KeyLog::new(Arc::new(self.layout()), ROWS).map_err(unkept)?,
            members: BTreeSet::new(),
            pending: BTreeMap::new(),
            keys: converter(&self.schema.fields()[..leading])?,
            results: converter(self.spec.groups.schema.fields())?,
            spec: Arc::clone(&self.spec),
            schema: Arc::clone(&self.schema),
            input: Arc::clone(&self.input),
            place: self.place.clone(),
            lane,
            started: false,
        }))
    }

    fn describe(&self) -> String {
        self.text.clone()
    }

    fn fingerprint(&self) -> String {
        format!("recompute v1 {} {}", self.layout().fingerprint(), self.spec.fingerprint())
    }
}

struct Recompute {
    spec: Spec,
    place: Place,
    lane: usize,
    schema: SchemaRef,
    input: SchemaRef,
    /// How often each row is there.
    rows: KeyLog,
    /// The same rows in order, so that those of a group lie together.
    members: BTreeSet<Box<[u8]>>,
    /// What came since the last barrier, by row; and the key of its group in bytes.
    pending: BTreeMap<Box<[u8]>, i64>,
    keys: RowConverter,
    results: RowConverter,
    /// Whether the one group of an aggregate over everything was given out.
    started: bool,
}

impl Recompute {
    fn take(&mut self, batch: &Batch) -> Result<(), ArrowError> {
        let rows = self.rows.encode_keys(batch.rows.columns())?;
        for row in 0..batch.len() {
            let weight = batch.weights.as_ref().map_or(1, |weights| weights.value(row));
            *self.pending.entry(rows.row(row).into()).or_default() += weight;
        }
        Ok(())
    }

    /// The bytes of the keys of the groups that pending rows are of.
    fn changed(&self) -> Result<BTreeSet<Box<[u8]>>, ArrowError> {
        let leading = self.spec.groups.keys.len();
        if leading == 0 {
            return Ok(BTreeSet::from([Box::from([].as_slice())]));
        }
        let columns = self.rows.decode_keys(self.pending.keys().map(AsRef::as_ref))?;
        let keys = self.keys.convert_columns(&columns[..leading])?;
        Ok(keys.iter().map(|key| key.data().into()).collect())
    }

    /// The results of these groups from the rows that they have now.
    fn compute(&self, groups: &BTreeSet<Box<[u8]>>) -> Result<Option<RecordBatch>, DataFusionError> {
        let spec = &self.spec.groups;
        let mut rows: Vec<&[u8]> = Vec::new();
        for group in groups {
            let from = self.members.range(group.clone()..);
            rows.extend(from.take_while(|row| row.starts_with(group)).map(AsRef::as_ref));
        }
        let mut table = Groups::new(&spec.key_schema(0), &spec.aggregates)?;
        if !rows.is_empty() {
            let columns = self.rows.decode_keys(rows.iter().copied())?;
            let weights = self.rows.decode_values(rows.iter().filter_map(|row| self.rows.get(row)))?;
            let weights = weights[0].as_primitive::<Int64Type>().values();
            let repeated = (0_u32..).zip(weights);
            let repeated = repeated.flat_map(|(row, n)| std::iter::repeat_n(row, usize::try_from(*n).unwrap_or(0)));
            let repeated = UInt32Array::from_iter_values(repeated);
            let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
            let all = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
            let all = take_record_batch(&all, &repeated)?;
            let (keys, input) = all.columns().split_at(spec.keys.len());
            let options = RecordBatchOptions::new().with_row_count(Some(all.num_rows()));
            let input = RecordBatch::try_new_with_options(Arc::clone(&self.input), input.to_vec(), &options)?;
            table.update(keys, &input, &spec.aggregates)?;
        } else if self.spec.is_global() && self.lane == 0 {
            table.touch(&spec.aggregates)?;
        }
        let count = table.len();
        if count == 0 {
            return Ok(None);
        }
        let (keys, results) = table.take_results()?;
        let columns = spec.assemble(0, &keys, &results, count);
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        Ok(Some(RecordBatch::try_new_with_options(Arc::clone(&spec.schema), columns, &options)?))
    }

    /// Puts what is pending into the rows.
    fn apply(&mut self) -> Result<(), DataFusionError> {
        let pending = std::mem::take(&mut self.pending);
        let deltas: ArrayRef =
            Arc::new(Int64Array::from_iter_values(pending.keys().map(|row| self.weight_of(row) + pending[row])));
        let weights = self.rows.encode_values(&[Arc::clone(&deltas)])?;
        let sums = deltas.as_primitive::<Int64Type>().values();
        for (number, row) in pending.into_keys().enumerate() {
            match sums[number] {
                0 => {
                    self.rows.remove(&row);
                    self.members.remove(&row);
                }
                less if less < 0 => {
                    return Err(DataFusionError::External(Box::new(taken_back())));
                }
                _ => {
                    self.rows.put(&row, weights.row(number));
                    self.members.insert(row);
                }
            }
        }
        Ok(())
    }

    fn weight_of(&self, row: &[u8]) -> i64 {
        let value = self.rows.get(row).map(|value| self.rows.decode_values([value]));
        value.and_then(|columns| Some(columns.ok()?.first()?.as_primitive::<Int64Type>().value(0))).unwrap_or(0)
    }

    /// What changed since the last barrier.
    fn settle(&mut self) -> Result<Option<Batch>, DataFusionError> {
        let first = self.spec.is_global() && self.lane == 0 && !self.started;
        if self.pending.is_empty() && !first {
            return Ok(None);
        }
        let groups = self.changed()?;
        let old = if first && self.members.is_empty() { None } else { self.compute(&groups)? };
        self.started = true;
        self.apply()?;
        let new = self.compute(&groups)?;
        Ok(self.difference(old, new)?)
    }

    /// Old results that are no new ones, and new ones that are no old ones. A result holds its group's key, so no two
    /// of one side are equal.
    fn difference(&self, old: Option<RecordBatch>, new: Option<RecordBatch>) -> Result<Option<Batch>, ArrowError> {
        let bytes = |rows: &Option<RecordBatch>| -> Result<HashMap<OwnedRow, u32>, ArrowError> {
            let Some(rows) = rows else { return Ok(HashMap::new()) };
            let encoded = self.results.convert_columns(rows.columns())?;
            Ok(encoded.iter().zip(0_u32..).map(|(row, at)| (row.owned(), at)).collect())
        };
        let (before, after) = (bytes(&old)?, bytes(&new)?);
        let only = |these: &HashMap<OwnedRow, u32>, others: &HashMap<OwnedRow, u32>| -> UInt32Array {
            let mut rows: Vec<u32> =
                these.iter().filter(|(row, _)| !others.contains_key(*row)).map(|(_, at)| *at).collect();
            rows.sort_unstable();
            UInt32Array::from(rows)
        };
        let some = |rows: Option<RecordBatch>, wanted: UInt32Array| -> Result<RecordBatch, ArrowError> {
            match rows {
                Some(rows) => take_record_batch(&rows, &wanted),
                None => Ok(RecordBatch::new_empty(Arc::clone(&self.spec.groups.schema))),
            }
        };
        let (gone, come) = (some(old, only(&before, &after))?, some(new, only(&after, &before))?);
        let rows = concat_batches(&self.spec.groups.schema, [&gone, &come])?;
        let weights = std::iter::repeat_n(-1_i64, gone.num_rows()).chain(std::iter::repeat_n(1, come.num_rows()));
        Ok(Some(Batch { weights: Some(Int64Array::from_iter_values(weights)), rows }))
    }
}

impl Operator for Recompute {
    fn on_batch(&mut self, _input: usize, batch: Batch, _out: &mut Output) -> Result<()> {
        self.take(&batch).map_err(|error| failed(&error.into(), &self.place))
    }

    fn before_barrier(&mut self, out: &mut Output) -> Result<()> {
        if let Some(change) = self.settle().map_err(|error| failed(&error, &self.place))? {
            out.push(change);
        }
        Ok(())
    }

    fn snapshot_into(&mut self, _epoch: Epoch, give: Give<'_>) -> Result<()> {
        self.rows.snapshot(give)
    }

    fn keeps_chunks(&self) -> bool {
        true
    }

    fn restore_from(&mut self, stored: &mut Stored<'_>) -> Result<()> {
        self.rows.restore_from(stored)?;
        self.members = self.rows.iter().map(|(row, _)| row.into()).collect();
        // A snapshot is taken after the first barrier only, and what it gave out stands.
        self.started = true;
        Ok(())
    }
}
