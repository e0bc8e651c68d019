//! [`CurrentFactory`]: records of a changelog by key as weighted rows: what stood goes, what stands now comes.
//!
//! **Invariant:** what was given out adds up to the last accepted record of each key, deletions left out; a record that
//! changes nothing gives nothing. Records of a key come here in the order in which they were written.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{FieldRef, SchemaRef};
use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use tidemill_model::{Epoch, Error, Kind, Place, Result};
use tidemill_runtime::{Batch, Operator, OperatorFactory, Output, StateMemory, Stored};

use super::state::{Give, KeyLog, Layout, lost};
use super::transform::failed;

/// The name of the log of rows.
const ROWS: &str = "rows";

/// Makes the operators.
#[derive(Debug)]
pub(super) struct CurrentFactory {
    /// The columns of the rows that stand.
    pub(super) schema: SchemaRef,
    /// Which of them tell rows apart, in the order of the exchange before.
    pub(super) key: Vec<usize>,
    pub(super) text: String,
    pub(super) place: Place,
}

impl CurrentFactory {
    /// The columns beside the key.
    fn rest(&self) -> Vec<usize> {
        (0..self.schema.fields().len()).filter(|at| !self.key.contains(at)).collect()
    }

    fn layout(&self) -> Layout {
        let of = |columns: &[usize]| -> Vec<FieldRef> {
            columns.iter().map(|at| Arc::clone(&self.schema.fields()[*at])).collect()
        };
        Layout::new(&of(&self.key), &of(&self.rest()), self.key.len())
    }
}

impl OperatorFactory for CurrentFactory {
    fn create(&self, _lane: usize, _lanes: usize) -> Result<Box<dyn Operator>> {
        let table = KeyLog::new(Arc::new(self.layout()), ROWS).map_err(|e| {
            let message = "the changelog has a column that cannot be kept by key";
            Error::new(Kind::Plan, "P222", message).at(&self.place).because(e)
        })?;
        let (key, rest) = (self.key.clone(), self.rest());
        let place = self.place.clone();
        Ok(Box::new(Current { schema: Arc::clone(&self.schema), key, rest, table, place }))
    }

    fn describe(&self) -> String {
        self.text.clone()
    }

    fn fingerprint(&self) -> String {
        let names: Vec<&str> = self.schema.fields().iter().map(|field| field.name().as_str()).collect();
        format!("current v1 {names:?} {:?} {}", self.key, self.layout().fingerprint())
    }
}

struct Current {
    schema: SchemaRef,
    key: Vec<usize>,
    rest: Vec<usize>,
    /// The row of each key that stands.
    table: KeyLog,
    place: Place,
}

impl Current {
    fn follow(&mut self, batch: &Batch) -> Result<Batch, DataFusionError> {
        let columns =
            |at: &[usize]| -> Vec<ArrayRef> { at.iter().map(|at| Arc::clone(batch.rows.column(*at))).collect() };
        let keys = self.table.encode_keys(&columns(&self.key))?;
        let values = self.table.encode_values(&columns(&self.rest))?;
        self.table.call_up((0..batch.len()).map(|row| keys.row(row))).map_err(lost)?;
        // Of several records of a key the last one counts.
        let mut last: HashMap<&[u8], u32> = HashMap::with_capacity(batch.len());
        for (row, number) in (0..batch.len()).zip(0_u32..) {
            last.insert(keys.row(row), number);
        }
        let mut last: Vec<u32> = last.into_values().collect();
        last.sort_unstable();
        let (mut gone, mut come) = (Vec::<(&[u8], Vec<u8>)>::new(), Vec::<u32>::new());
        for number in last {
            let row = number as usize;
            let (key, value) = (keys.row(row), values.row(row));
            let stays = batch.weights.as_ref().is_none_or(|weights| weights.value(row) > 0);
            let before = self.table.get(key);
            if stays && before == Some(value) || !stays && before.is_none() {
                continue;
            }
            gone.extend(before.map(|before| (key, before.to_vec())));
            if stays {
                self.table.put(key, value);
                come.push(number);
            } else {
                self.table.remove(key);
            }
        }
        let come = take_record_batch(&batch.rows, &UInt32Array::from(come))?;
        let come = RecordBatch::try_new(Arc::clone(&self.schema), come.columns().to_vec())?;
        if gone.is_empty() {
            return Ok(Batch::inserts(come));
        }
        let gone = self.rows(&gone)?;
        let weights = std::iter::repeat_n(-1, gone.num_rows()).chain(std::iter::repeat_n(1, come.num_rows()));
        let weights = Some(Int64Array::from_iter_values(weights));
        Ok(Batch { rows: concat_batches(&self.schema, [&gone, &come])?, weights })
    }

    /// Keys and what stood of them as rows.
    fn rows(&self, stood: &[(&[u8], Vec<u8>)]) -> Result<RecordBatch, ArrowError> {
        let keys = self.table.decode_keys(stood.iter().map(|(key, _)| *key))?;
        let values = self.table.decode_values(stood.iter().map(|(_, value)| value.as_slice()))?;
        let mut columns: Vec<(usize, ArrayRef)> =
            self.key.iter().chain(&self.rest).copied().zip(keys.into_iter().chain(values)).collect();
        columns.sort_by_key(|(at, _)| *at);
        RecordBatch::try_new(Arc::clone(&self.schema), columns.into_iter().map(|(_, column)| column).collect())
    }
}

impl Operator for Current {
    fn bound(&mut self, memory: &StateMemory) {
        self.table.bound(memory);
    }

    fn on_batch(&mut self, _input: usize, batch: Batch, out: &mut Output) -> Result<()> {
        out.push(self.follow(&batch).map_err(|error| failed(&error, &self.place))?);
        Ok(())
    }

    fn snapshot_into(&mut self, _epoch: Epoch, give: Give<'_>) -> Result<()> {
        self.table.snapshot(give)
    }

    fn keeps_chunks(&self) -> bool {
        true
    }

    fn restore_from(&mut self, stored: &mut Stored<'_>) -> Result<()> {
        self.table.restore_from(stored)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arrow::array::{AsArray, StringArray};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};
    use tidemill_runtime::{Route, StateChunk};

    use super::*;

    fn factory() -> CurrentFactory {
        let fields = [("note", DataType::Utf8), ("k", DataType::Int64)];
        let fields: Vec<Field> = fields.into_iter().map(|(name, of)| Field::new(name, of, true)).collect();
        let place = Place { file: Arc::from("p.sql"), text: Arc::from(""), span: 0..0 };
        CurrentFactory { schema: Arc::new(Schema::new(fields)), key: vec![1], text: String::new(), place }
    }

    type Record = (i64, Option<String>, i64);

    fn batch(schema: &SchemaRef, records: &[Record]) -> Batch {
        let notes: ArrayRef = Arc::new(records.iter().map(|record| record.1.clone()).collect::<StringArray>());
        let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(records.iter().map(|record| record.0)));
        let rows = RecordBatch::try_new(Arc::clone(schema), vec![notes, keys]).expect("records");
        Batch { rows, weights: Some(records.iter().map(|record| Some(record.2)).collect()) }
    }

    /// Adds what comes out to what came out before; every row that goes is there.
    fn add(standing: &mut BTreeMap<(i64, Option<String>), i64>, out: Output) {
        for batch in out.batches {
            let notes = batch.rows.column(0).as_string::<i32>().iter().map(|note| note.map(str::to_owned));
            let keys = batch.rows.column(1).as_primitive::<Int64Type>().values().iter();
            for (row, (note, key)) in notes.zip(keys).enumerate() {
                let weight = batch.weights.as_ref().map_or(1, |weights| weights.value(row));
                let sum = standing.entry((*key, note.clone())).or_default();
                *sum += weight;
                assert!((0..=1).contains(sum), "{key} {note:?} stands {sum} times");
                if *sum == 0 {
                    standing.remove(&(*key, note));
                }
            }
        }
    }

    #[test]
    fn what_comes_out_adds_up_to_the_last_record_of_each_key_after_any_restart() {
        let factory = factory();
        let mut random = fastrand::Rng::with_seed(9);
        let mut model = BTreeMap::<i64, Option<String>>::new();
        let mut standing = BTreeMap::new();
        let mut stored = BTreeMap::<String, RecordBatch>::new();
        let mut lanes = vec![factory.create(0, 1).expect("an operator")];
        for epoch in 0..60 {
            for _ in 0..random.usize(0..4) {
                let records: Vec<Record> = (0..random.usize(0..30))
                    .map(|_| {
                        let note = (random.u8(0..5) > 0).then(|| random.u8(0..3).to_string());
                        (random.i64(0..25), note, if random.u8(0..3) == 0 { -1 } else { 1 })
                    })
                    .collect();
                for (key, note, weight) in &records {
                    if *weight > 0 {
                        model.insert(*key, note.clone());
                    } else {
                        model.remove(key);
                    }
                }
                let all = batch(&factory.schema, &records);
                let of = Route::lane_of(&all.rows, &factory.key, lanes.len()).expect("lanes");
                for (number, lane) in lanes.iter_mut().enumerate() {
                    let mine = of.iter().map(|of| Some(*of == number)).collect();
                    let mut out = Output::default();
                    lane.on_batch(0, all.filter(&mine).expect("a part"), &mut out).expect("follows");
                    add(&mut standing, out);
                }
            }
            let expected: BTreeMap<(i64, Option<String>), i64> =
                model.iter().map(|(key, note)| ((*key, note.clone()), 1)).collect();
            assert_eq!(standing, expected, "epoch {epoch}");
            for (number, lane) in lanes.iter_mut().enumerate() {
                let mut keep = |chunk: StateChunk| {
                    let name = format!("{number}/{}", chunk.name);
                    match chunk.rows {
                        Some(rows) => drop(stored.insert(name, rows)),
                        None => drop(stored.remove(&name)),
                    }
                    Ok(())
                };
                lane.snapshot_into(Epoch(epoch), &mut keep).expect("a snapshot");
            }
            if random.u8(0..3) > 0 {
                continue;
            }
            // Another process on another number of lanes; what it stores replaces what was stored.
            let count = random.usize(1..4);
            let old: Vec<(String, RecordBatch)> = std::mem::take(&mut stored)
                .into_iter()
                .map(|(name, rows)| (name.split_once('/').expect("a lane").1.to_owned(), rows))
                .collect();
            lanes = (0..count)
                .map(|lane| {
                    let mut operator = factory.create(lane, count).expect("an operator");
                    let names: Vec<String> = old.iter().map(|(name, _)| name.clone()).collect();
                    let mut chunks = old.iter().cloned().map(Ok);
                    let mut of = Stored::new((lane, count), false, &names, &mut chunks);
                    operator.restore_from(&mut of).expect("restores");
                    operator
                })
                .collect();
        }
        assert!(!standing.is_empty(), "something stood");
    }
}
