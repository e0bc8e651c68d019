//! [`KeyLog`]: rows by key, in memory as bytes, stored as a log of chunks with what changed.
//!
//! Keys are divided into key groups by their hash. Each group has chunks of its own: the first of a row of chunks holds
//! all of the group, the later ones what changed since. Many small ones are merged into one. When the later ones together
//! outweigh what is live, the group is written anew, one group at a time; so a checkpoint costs what changed plus, now and
//! then, one group.
//!
//! **Invariant:** reading all chunks in the order of their names and letting the last row of a key count gives the
//! table as it was at the snapshot; a row whose last column is true says that its key is gone.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, RowParser, Rows, SortField};
use tidemill_model::{Error, Kind, Result};
use tidemill_runtime::{GONE, Route, StateChunk};

use super::keys::{Keys, sort_by_key};
use super::table::{Table, hash_of};

/// A group is divided when it has more keys than this: writing so many takes a few hundredths of a second.
const MOST_KEYS: usize = 128 << 10;
/// Groups a lane may have; more would make the manifest long.
const MOST_GROUPS: usize = 256;
/// When a group has more chunks than this (and up to as many again, so that groups do so at different times), the small
/// ones become one.
const MOST_CHUNKS: usize = 24;
/// A chunk of at most so many rows is small: its keys are remembered until it is merged with others.
const SMALL: usize = 4096;
/// A group is not written anew for fewer rows than this.
const WORTH_REWRITING: usize = 256;

/// The columns of a log.
#[derive(Debug)]
pub(in crate::stream) struct Layout {
    /// Keys, values, and whether the key is gone.
    schema: SchemaRef,
    keys: usize,
    /// Rows find their lane by the first so many columns.
    route: usize,
}

impl Layout {
    /// Rows of these columns; the lane of a row is decided by the first `route` of its keys.
    pub(in crate::stream) fn new(keys: &[FieldRef], values: &[FieldRef], route: usize) -> Layout {
        let mut fields: Vec<FieldRef> =
            keys.iter().chain(values).map(|field| Arc::new(field.as_ref().clone().with_nullable(true))).collect();
        fields.push(Arc::new(Field::new(GONE, DataType::Boolean, false)));
        Layout { schema: Arc::new(Schema::new(fields)), keys: keys.len(), route }
    }

    fn converter(&self, from: usize, to: usize) -> Result<RowConverter, ArrowError> {
        let fields = self.schema.fields().get(from..to).unwrap_or_default();
        RowConverter::new(fields.iter().map(|field| SortField::new(field.data_type().clone())).collect())
    }

    fn values(&self) -> usize {
        self.schema.fields().len() - self.keys - 1
    }

    /// Whatever must be equal for chunks to be readable.
    pub(in crate::stream) fn fingerprint(&self) -> String {
        let types: Vec<String> = self.schema.fields().iter().map(|field| field.data_type().to_string()).collect();
        format!("log v1 {} of {types:?}", self.keys)
    }
}

/// Rows by key.
pub(in crate::stream) struct KeyLog {
    layout: Arc<Layout>,
    /// What the names of its chunks begin with.
    name: String,
    keys: RowConverter,
    values: RowConverter,
    key_parser: RowParser,
    value_parser: RowParser,
    groups: Vec<Group>,
    /// Chunks to be removed with the next snapshot.
    obsolete: Vec<String>,
    sequence: u64,
}

/// The keys of one range of hashes.
#[derive(Default)]
struct Group {
    table: Table,
    /// Keys that were put or removed since the last snapshot; one may stand here several times.
    changed: Keys,
    /// The stored chunks; the first holds the whole group.
    chunks: Vec<Stored>,
    /// Whether the stored chunks are not this group's.
    rewrite: bool,
}

/// A chunk that the newest snapshot names.
struct Stored {
    name: String,
    rows: usize,
    /// Its keys, if it is small and not the first.
    keys: Keys,
}

impl Group {
    /// How many rows are stored beyond the first chunk, in hundredths of what is live.
    fn overweight(&self) -> usize {
        let later: usize = self.chunks.iter().skip(1).map(|chunk| chunk.rows).sum();
        (later + self.changed.len()) * 100 / self.table.len().max(WORTH_REWRITING)
    }

    /// Forgets all chunks.
    fn drop_chunks(&mut self, into: &mut Vec<StateChunk>) {
        into.extend(self.chunks.drain(..).map(|chunk| StateChunk { name: chunk.name, rows: None }));
    }

    /// Forgets small chunks, whose keys are then to be stored with those that changed.
    fn merge_small(&mut self, changed: &mut Keys, into: &mut Vec<StateChunk>) {
        for chunk in self.chunks.extract_if(.., |chunk| !chunk.keys.is_empty()) {
            changed.extend(&chunk.keys);
            into.push(StateChunk { name: chunk.name, rows: None });
        }
        *changed = changed.in_order();
    }
}

impl KeyLog {
    /// An empty log. Names of chunks begin with `name`, which has no dot.
    pub(in crate::stream) fn new(layout: Arc<Layout>, name: impl Into<String>) -> Result<KeyLog, ArrowError> {
        let keys = layout.converter(0, layout.keys)?;
        let values = layout.converter(layout.keys, layout.keys + layout.values())?;
        Ok(KeyLog {
            key_parser: keys.parser(),
            value_parser: values.parser(),
            layout,
            name: name.into(),
            keys,
            values,
            groups: vec![Group::default()],
            obsolete: Vec::new(),
            sequence: 0,
        })
    }

    /// How many keys.
    pub(in crate::stream) fn len(&self) -> usize {
        self.groups.iter().map(|group| group.table.len()).sum()
    }

    /// The bytes of keys.
    pub(in crate::stream) fn encode_keys(&self, columns: &[ArrayRef]) -> Result<Encoded, ArrowError> {
        encode(&self.keys, columns)
    }

    /// The bytes of values.
    pub(in crate::stream) fn encode_values(&self, columns: &[ArrayRef]) -> Result<Encoded, ArrowError> {
        encode(&self.values, columns)
    }

    /// The columns of values, of some rows after each other.
    pub(in crate::stream) fn decode_values<'a>(
        &'a self,
        values: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Vec<ArrayRef>, ArrowError> {
        if self.layout.values() == 0 {
            return Ok(Vec::new());
        }
        self.values.convert_rows(values.into_iter().map(|value| self.value_parser.parse(value)))
    }

    /// The columns of keys, of some rows after each other.
    pub(in crate::stream) fn decode_keys<'a>(
        &'a self,
        keys: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Vec<ArrayRef>, ArrowError> {
        if self.layout.keys == 0 {
            return Ok(Vec::new());
        }
        self.keys.convert_rows(keys.into_iter().map(|key| self.key_parser.parse(key)))
    }

    /// The value of a key.
    pub(in crate::stream) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let hash = hash_of(key);
        self.groups[group_of(hash, self.groups.len())].table.get(hash, key)
    }

    /// Gives a key this value.
    pub(in crate::stream) fn put(&mut self, key: &[u8], value: &[u8]) {
        let (hash, groups) = (hash_of(key), self.groups.len());
        let group = &mut self.groups[group_of(hash, groups)];
        group.table.put(hash, key, value);
        group.changed.push(key);
    }

    /// Forgets a key.
    pub(in crate::stream) fn remove(&mut self, key: &[u8]) {
        let (hash, groups) = (hash_of(key), self.groups.len());
        let group = &mut self.groups[group_of(hash, groups)];
        if group.table.remove(hash, key) {
            group.changed.push(key);
        }
    }

    /// All keys with their values, in no order.
    pub(in crate::stream) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.groups.iter().flat_map(|group| group.table.iter())
    }

    /// What changed since the last snapshot.
    pub(in crate::stream) fn snapshot(&mut self, into: &mut Vec<StateChunk>) -> Result<()> {
        let defect = |e: ArrowError| Error::internal("state does not make a batch").because(e);
        self.divide();
        for name in std::mem::take(&mut self.obsolete) {
            into.push(StateChunk { name, rows: None });
        }
        let turn = (0..self.groups.len()).max_by_key(|number| self.groups[*number].overweight());
        for number in 0..self.groups.len() {
            let group = &mut self.groups[number];
            if group.changed.is_empty() && !group.rewrite {
                continue;
            }
            let anew = group.rewrite || group.chunks.is_empty();
            if !anew {
                group.changed = group.changed.in_order();
            }
            // All groups grow alike, and are written anew one after the other rather than all in one epoch.
            let whole = anew || group.overweight() > if turn == Some(number) { 100 } else { 300 };
            let mut changed = std::mem::take(&mut group.changed);
            if whole {
                group.drop_chunks(into);
                group.rewrite = false;
            } else if group.chunks.len() > MOST_CHUNKS + number % MOST_CHUNKS {
                group.merge_small(&mut changed, into);
            }
            let rows = if whole { self.whole_of(number) } else { self.changes_of(number, &changed) }.map_err(defect)?;
            if rows.num_rows() == 0 {
                continue;
            }
            self.sequence += 1;
            let name = format!("{}.{:03}.{number:03}.{:012}", self.name, self.groups.len(), self.sequence);
            let keys = if whole || rows.num_rows() > SMALL { Keys::default() } else { changed };
            self.groups[number].chunks.push(Stored { name: name.clone(), rows: rows.num_rows(), keys });
            into.push(StateChunk { name, rows: Some(rows) });
        }
        Ok(())
    }

    /// Everything is gone: the chunks to remove.
    pub(in crate::stream) fn drop_all(self, into: &mut Vec<StateChunk>) {
        let stored = self.groups.into_iter().flat_map(|group| group.chunks).map(|chunk| chunk.name);
        into.extend(self.obsolete.into_iter().chain(stored).map(|name| StateChunk { name, rows: None }));
    }

    /// Takes back the chunks of all lanes' logs of this name, as far as their keys belong to `lane`.
    pub(in crate::stream) fn restore(
        &mut self,
        mut chunks: Vec<(String, RecordBatch)>,
        lane: usize,
        lanes: usize,
    ) -> Result<()> {
        chunks.sort_by(|(one, _), (other, _)| one.cmp(other));
        let route: Vec<usize> = (0..self.layout.route).collect();
        for (name, rows) in chunks {
            let corrupt = |why: String| {
                Error::new(Kind::Corrupt, "X030", format!("the stored state `{name}` is not readable: {why}"))
                    .fact("it was written by another version; rebuild it by replaying the pipeline from its start")
            };
            let types = rows.columns().iter().map(|column| column.data_type());
            if types.ne(self.layout.schema.fields().iter().map(|field| field.data_type())) {
                return Err(corrupt("it has other columns".to_owned()));
            }
            let of = Route::lane_of(&rows, &route, lanes).map_err(|e| corrupt(e.to_string()))?;
            let mine: BooleanArray = of.iter().map(|of| Some(*of == lane)).collect();
            let rows = filter_record_batch(&rows, &mine).map_err(|e| corrupt(e.to_string()))?;
            self.replay(&rows).map_err(|e| corrupt(e.to_string()))?;
        }
        // The first epoch after a start stores everything, by the lanes that there are now.
        self.groups.iter_mut().for_each(|group| group.rewrite = true);
        Ok(())
    }

    fn replay(&mut self, rows: &RecordBatch) -> Result<(), ArrowError> {
        let (columns, count) = (rows.columns(), rows.num_rows());
        let (keys, rest) = columns.split_at(self.layout.keys);
        let (values, gone) = rest.split_at(self.layout.values());
        let (keys, values) = (self.encode_keys(keys)?, self.encode_values(values)?);
        let gone = gone[0].as_boolean();
        let groups = self.groups.len();
        for row in 0..count {
            let key = keys.row(row);
            let hash = hash_of(key);
            let table = &mut self.groups[group_of(hash, groups)].table;
            if gone.value(row) {
                table.remove(hash, key);
            } else {
                table.put(hash, key, values.row(row));
            }
        }
        self.divide();
        Ok(())
    }

    /// Makes more groups when they have grown; then everything is to be stored again.
    fn divide(&mut self) {
        let before = self.groups.len();
        if before >= MOST_GROUPS || self.len() <= before * MOST_KEYS {
            return;
        }
        let after = before * 4;
        let old = std::mem::take(&mut self.groups);
        self.groups.resize_with(after, || Group { rewrite: true, ..Group::default() });
        for group in old {
            self.obsolete.extend(group.chunks.into_iter().map(|chunk| chunk.name));
            for (key, value) in group.table.iter() {
                let hash = hash_of(key);
                self.groups[group_of(hash, after)].table.put(hash, key, value);
            }
        }
    }

    fn changes_of(&self, number: usize, changed: &Keys) -> Result<RecordBatch, ArrowError> {
        let table = &self.groups[number].table;
        let rows: Vec<(&[u8], Option<&[u8]>)> = changed.iter().map(|key| (key, table.get(hash_of(key), key))).collect();
        self.chunk(&rows)
    }

    fn whole_of(&self, number: usize) -> Result<RecordBatch, ArrowError> {
        let mut rows: Vec<(&[u8], Option<&[u8]>)> =
            self.groups[number].table.iter().map(|(key, value)| (key, Some(value))).collect();
        // The same rows are the same bytes, whatever order the table has them in.
        sort_by_key(&mut rows);
        self.chunk(&rows)
    }

    fn chunk(&self, rows: &[(&[u8], Option<&[u8]>)]) -> Result<RecordBatch, ArrowError> {
        let empty = self.nothing()?;
        let empty = empty.row(0);
        let mut columns = self.decode_keys(rows.iter().map(|(key, _)| *key))?;
        columns.extend(self.decode_values(rows.iter().map(|(_, value)| value.unwrap_or(empty)))?);
        columns.push(Arc::new(rows.iter().map(|(_, value)| Some(value.is_none())).collect::<BooleanArray>()));
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        RecordBatch::try_new_with_options(Arc::clone(&self.layout.schema), columns, &options)
    }

    /// A value of NULLs, for keys that are gone.
    fn nothing(&self) -> Result<Encoded, ArrowError> {
        let fields = self.layout.schema.fields().get(self.layout.keys..self.layout.keys + self.layout.values());
        let nulls: Vec<ArrayRef> =
            fields.unwrap_or_default().iter().map(|field| arrow::array::new_null_array(field.data_type(), 1)).collect();
        self.encode_values(&nulls)
    }
}

/// Rows as bytes; there may be no column.
pub(in crate::stream) struct Encoded(Option<Rows>);

impl Encoded {
    /// The bytes of a row.
    pub(in crate::stream) fn row(&self, row: usize) -> &[u8] {
        self.0.as_ref().map_or(&[], |rows| rows.row(row).data())
    }
}

fn encode(converter: &RowConverter, columns: &[ArrayRef]) -> Result<Encoded, ArrowError> {
    if columns.is_empty() {
        return Ok(Encoded(None));
    }
    converter.convert_columns(columns).map(|rows| Encoded(Some(rows)))
}

/// The group of a key with this hash. The table of the group is probed by the lower bits of the hash, so the upper ones decide here.
fn group_of(hash: u64, groups: usize) -> usize {
    if groups == 1 { 0 } else { (hash >> 40) as usize % groups }
}

/// The chunks of each log among those of an operator, by the logs' names.
pub(in crate::stream) fn by_log(chunks: Vec<(String, RecordBatch)>) -> BTreeMap<String, Vec<(String, RecordBatch)>> {
    let mut logs: BTreeMap<String, Vec<(String, RecordBatch)>> = BTreeMap::new();
    for (name, rows) in chunks {
        let log = name.split_once('.').map_or(name.as_str(), |(log, _)| log).to_owned();
        logs.entry(log).or_default().push((name, rows));
    }
    logs
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};

    use super::*;

    fn layout() -> Arc<Layout> {
        let field = |name: &str, of| Arc::new(Field::new(name, of, true));
        Arc::new(Layout::new(&[field("k", DataType::Int64)], &[field("v", DataType::Utf8)], 1))
    }

    /// What a log holds, as text.
    fn held(log: &KeyLog) -> BTreeMap<i64, String> {
        let (keys, values): (Vec<&[u8]>, Vec<&[u8]>) = log.iter().unzip();
        let (keys, values) = (log.decode_keys(keys).expect("keys"), log.decode_values(values).expect("values"));
        let keys = keys[0].as_primitive::<arrow::datatypes::Int64Type>().values().to_vec();
        keys.into_iter().zip(values[0].as_string::<i32>().iter().map(|v| v.expect("text").to_owned())).collect()
    }

    fn bytes(log: &KeyLog, key: i64, value: &str) -> (Vec<u8>, Vec<u8>) {
        let key: ArrayRef = Arc::new(Int64Array::from(vec![key]));
        let value: ArrayRef = Arc::new(StringArray::from(vec![value]));
        let (key, value) = (log.encode_keys(&[key]).expect("a key"), log.encode_values(&[value]).expect("a value"));
        (key.row(0).to_vec(), value.row(0).to_vec())
    }

    #[test]
    fn restoring_after_any_epoch_and_onto_any_lanes_gives_what_was_held() {
        let mut random = fastrand::Rng::with_seed(5);
        let mut log = KeyLog::new(layout(), "t").expect("a log");
        let (mut model, mut stored) = (BTreeMap::<i64, String>::new(), BTreeMap::<String, RecordBatch>::new());
        for epoch in 0..300 {
            for _ in 0..random.usize(0..40) {
                let key = random.i64(0..400);
                let (bytes, value) = bytes(&log, key, &format!("{epoch}"));
                if random.u8(0..4) == 0 {
                    log.remove(&bytes);
                    model.remove(&key);
                } else {
                    log.put(&bytes, &value);
                    model.insert(key, epoch.to_string());
                }
            }
            let mut chunks = Vec::new();
            log.snapshot(&mut chunks).expect("a snapshot");
            for chunk in chunks {
                match chunk.rows {
                    Some(rows) => assert!(stored.insert(chunk.name, rows).is_none(), "names are used once"),
                    None => assert!(stored.remove(&chunk.name).is_some(), "what is removed was stored"),
                }
            }
            if epoch % 29 != 0 {
                continue;
            }
            assert!(stored.len() <= MOST_CHUNKS + 2, "{} chunks", stored.len());
            for lanes in [1, 3] {
                let mut all = BTreeMap::new();
                for lane in 0..lanes {
                    let mut restored = KeyLog::new(layout(), "t").expect("a log");
                    let chunks = stored.iter().map(|(name, rows)| (name.clone(), rows.clone())).collect();
                    restored.restore(chunks, lane, lanes).expect("restores");
                    all.extend(held(&restored));
                }
                assert_eq!(all, model, "epoch {epoch} on {lanes} lanes");
            }
        }
    }

    #[test]
    fn many_keys_are_divided_into_groups_that_are_written_one_by_one() {
        let mut log = KeyLog::new(layout(), "t").expect("a log");
        let count = 3 * MOST_KEYS as i64;
        let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(0..count));
        let encoded = log.encode_keys(&[keys]).expect("keys");
        let value = bytes(&log, 0, "x").1;
        for row in 0..count as usize {
            log.put(encoded.row(row), &value);
        }
        let (mut first, mut most, mut all) = (Vec::new(), 0, 0);
        log.snapshot(&mut first).expect("a snapshot");
        assert!(first.len() >= 4, "{} groups", first.len());
        for round in 0..60 {
            for row in (round..count as usize).step_by(41) {
                log.put(encoded.row(row), &value);
            }
            let mut chunks = Vec::new();
            log.snapshot(&mut chunks).expect("a snapshot");
            let stored: usize = chunks.iter().filter_map(|chunk| chunk.rows.as_ref()).map(RecordBatch::num_rows).sum();
            most = most.max(stored);
            all += stored;
        }
        let changed = count as usize / 41;
        assert!(most < count as usize / 2, "an epoch stored {most} of {count} rows");
        assert!(all < 60 * 3 * changed, "60 epochs of {changed} changes stored {all} rows");
    }
}
