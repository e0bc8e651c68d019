//! [`KeyLog`]: rows by key, in memory as bytes, stored as a log of chunks with what changed.
//!
//! Keys are divided into key groups by their hash. Each group has chunks of its own: the first of a row of chunks holds
//! all of the group, the later ones what changed since. Many small ones are merged into one. When the later ones together
//! outweigh what is live, the group is written anew, one group at a time; so a checkpoint costs what changed plus, now and
//! then, one group. A group that has grown large is divided, one at a time as well.
//!
//! **Invariant:** reading all chunks of a lane in the order of their names and letting the last row of a key count gives
//! the table as it was at the snapshot; a row whose last column is true says that its key is gone.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::{SortOptions, filter_record_batch};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, RowParser, Rows, SortField};
use tidemill_model::{Error, Kind, Result};
use tidemill_runtime::{GONE, Route, Share, StateChunk, StateMemory, Stored};

use super::directory::Directory;
use super::group::{Chunk, Group};
use super::keys::{Keys, sort_by_key};
use super::table::hash_of;

/// When a group has more chunks than this (and up to as many again, so that groups do so at different times), the small
/// ones become one.
const MOST_CHUNKS: usize = 24;
/// A group of at most so many keys is written whole whenever it changes, as is a small one of which a quarter does: that is
/// hardly more than what changed, and many small groups, a window's each, do not make the manifest long.
const FEW: usize = 16;
/// A chunk of at most so many rows is small: its keys are remembered until it is merged with others.
const SMALL: usize = 4096;

/// The columns of a log.
#[derive(Debug)]
pub(in crate::stream) struct Layout {
    /// Keys, values, and whether the key is gone.
    schema: SchemaRef,
    keys: usize,
    /// Rows find their lane by the first so many columns.
    route: usize,
    /// How columns are ordered by their bytes, where it matters.
    order: Vec<SortOptions>,
}

impl Layout {
    /// Rows of these columns; the lane of a row is decided by the first `route` of its keys.
    pub(in crate::stream) fn new(keys: &[FieldRef], values: &[FieldRef], route: usize) -> Layout {
        let mut fields: Vec<FieldRef> =
            keys.iter().chain(values).map(|field| Arc::new(field.as_ref().clone().with_nullable(true))).collect();
        fields.push(Arc::new(Field::new(GONE, DataType::Boolean, false)));
        Layout { schema: Arc::new(Schema::new(fields)), keys: keys.len(), route, order: Vec::new() }
    }

    /// The same, where the bytes of the first columns are ordered so.
    pub(in crate::stream) fn ordered(self, order: Vec<SortOptions>) -> Layout {
        Layout { order, ..self }
    }

    fn converter(&self, from: usize, to: usize) -> Result<RowConverter, ArrowError> {
        let fields = self.schema.fields().get(from..to).unwrap_or_default().iter().zip(from..);
        let sorted = fields.map(|(field, at)| {
            let options = self.order.get(at).copied().unwrap_or_default();
            SortField::new_with_options(field.data_type().clone(), options)
        });
        RowConverter::new(sorted.collect())
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
    groups: Directory,
    /// Chunks to be removed with the next snapshot.
    obsolete: Vec<String>,
    sequence: u64,
    share: Share,
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
            groups: Directory::default(),
            obsolete: Vec::new(),
            sequence: 0,
            share: Share::default(),
        })
    }

    /// What it takes of memory counts there, and what is more moves to its tier.
    pub(in crate::stream) fn bound(&mut self, memory: &StateMemory) {
        self.share = memory.share();
    }

    /// How many keys.
    pub(in crate::stream) fn len(&self) -> usize {
        self.groups.iter().map(Group::len).sum()
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

    /// Makes sure that memory knows these keys, before they are asked for or changed.
    pub(in crate::stream) fn call_up<'a>(&mut self, keys: impl Iterator<Item = &'a [u8]>) -> Result<()> {
        if self.is_warm() {
            return Ok(());
        }
        let mut wanted: BTreeMap<usize, Vec<(u64, &[u8])>> = BTreeMap::new();
        for key in keys {
            let hash = hash_of(key);
            let number = self.groups.number_of(hash);
            if !self.groups[number].knows(hash, key) {
                wanted.entry(number).or_default().push((hash, key));
            }
        }
        for (number, mut keys) in wanted {
            keys.sort_unstable();
            keys.dedup();
            self.groups[number].call_up(&keys)?;
        }
        Ok(())
    }

    /// In how many parts keys are to be changed of which so many bytes have come: in one if there is room for all, else no
    /// part takes more than a sixteenth of the memory that there is.
    pub(in crate::stream) fn parts_of(&self, bytes: usize) -> usize {
        if bytes.saturating_mul(2) <= self.share.room() {
            return 1;
        }
        bytes / self.share.step().saturating_mul(4).max(1) + 1
    }

    /// Counts what it takes of memory, and moves the largest groups to the tier when that is too much.
    pub(in crate::stream) fn relieve(&mut self) -> Result<()> {
        if !self.share.is_bounded() {
            return Ok(());
        }
        // While it is in memory: a group is moved, and called up to be stored, as a whole.
        self.groups.divide_fresh()?;
        self.move_excess()
    }

    /// The same, without dividing groups: their numbers stay what they are.
    fn move_excess(&mut self) -> Result<()> {
        if !self.share.is_bounded() {
            return Ok(());
        }
        self.share.set(self.groups.iter().map(Group::bytes).sum());
        let mut excess = self.share.excess();
        if excess == 0 {
            return Ok(());
        }
        let mut largest: Vec<(usize, usize)> =
            self.groups.iter().map(Group::movable).enumerate().map(|(number, bytes)| (bytes, number)).collect();
        largest.sort_unstable();
        while let (Some((bytes, number)), true) = (largest.pop(), excess > 0) {
            if bytes == 0 {
                break;
            }
            self.groups[number].move_out(&self.share)?;
            excess = excess.saturating_sub(bytes);
        }
        self.share.set(self.groups.iter().map(Group::bytes).sum());
        Ok(())
    }

    /// The value of a key.
    pub(in crate::stream) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let hash = hash_of(key);
        self.groups[self.groups.number_of(hash)].get(hash, key)
    }

    /// Gives a key this value.
    pub(in crate::stream) fn put(&mut self, key: &[u8], value: &[u8]) {
        let hash = hash_of(key);
        let group = self.groups.of(hash);
        group.put(hash, key, value);
        group.changed.push(key);
    }

    /// Forgets a key.
    pub(in crate::stream) fn remove(&mut self, key: &[u8]) {
        let hash = hash_of(key);
        let group = self.groups.of(hash);
        if group.remove(hash, key) {
            group.changed.push(key);
        }
    }

    /// All keys with their values, in no order. None may be in the tier.
    pub(in crate::stream) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.groups.iter().flat_map(Group::iter)
    }

    /// What changed since the last snapshot.
    pub(in crate::stream) fn snapshot(&mut self, give: Give<'_>) -> Result<()> {
        self.groups.divide_large(&mut self.obsolete)?;
        for name in std::mem::take(&mut self.obsolete) {
            give(StateChunk { name, rows: None })?;
        }
        let turn = (0..self.groups.len()).max_by_key(|number| self.groups[*number].overweight());
        let mut chunks = Vec::new();
        for number in 0..self.groups.len() {
            self.snapshot_group(number, turn == Some(number), &mut chunks)?;
            let changed = !chunks.is_empty();
            chunks.drain(..).try_for_each(&mut *give)?;
            if changed && !self.groups[number].is_warm() {
                // What the group called up goes before the next one does.
                self.move_excess()?;
            }
        }
        self.relieve()
    }

    fn snapshot_group(&mut self, number: usize, its_turn: bool, into: &mut Vec<StateChunk>) -> Result<()> {
        let defect = |e: ArrowError| Error::internal("state does not make a batch").because(e);
        let group = &mut self.groups[number];
        if group.changed.is_empty() && !group.rewrite {
            return Ok(());
        }
        let anew = group.rewrite || group.chunks.is_empty();
        if !anew {
            group.changed = group.changed.in_order();
        }
        // All groups grow alike, and are written anew one after the other rather than all in one epoch.
        let few = if group.len() <= SMALL { FEW.max(4 * group.changed.len()) } else { FEW };
        let whole = anew || group.len() <= few || group.overweight() > if its_turn { 100 } else { 300 };
        let mut changed = std::mem::take(&mut group.changed);
        let was_warm = group.is_warm();
        if whole {
            group.drop_chunks(into);
            group.rewrite = false;
            group.call_up_all()?;
        } else {
            if group.chunks.len() > MOST_CHUNKS + number % MOST_CHUNKS {
                group.merge_small(&mut changed, into);
            }
            self.call_up(changed.iter())?;
        }
        let rows = if whole { self.whole_of(number) } else { self.changes_of(number, &changed) }.map_err(defect)?;
        if whole && !was_warm {
            self.groups[number].move_out(&self.share)?;
        }
        if rows.num_rows() == 0 {
            return Ok(());
        }
        self.sequence += 1;
        let group = &mut self.groups[number];
        let name = format!("{}.{}.{:012}", self.name, name_of(group.place), self.sequence);
        let keys = if whole || rows.num_rows() > SMALL { Keys::default() } else { changed };
        group.chunks.push(Chunk { name: name.clone(), rows: rows.num_rows(), keys });
        into.push(StateChunk { name, rows: Some(rows) });
        Ok(())
    }

    /// Everything is gone: the chunks to remove.
    pub(in crate::stream) fn drop_all(mut self, into: &mut Vec<StateChunk>) {
        self.groups.iter_mut().for_each(|group| group.drop_chunks(into));
        into.extend(self.obsolete.into_iter().map(|name| StateChunk { name, rows: None }));
    }

    /// Prepares for [`KeyLog::restore_chunk`] by the names of the chunks of this log. Where `kept` they are this lane's
    /// own and stay.
    pub(in crate::stream) fn prepare(&mut self, names: &[&str], kept: bool) {
        let places: Vec<(u32, usize)> = names.iter().filter_map(|name| place_of(name)).collect();
        let known = kept && places.len() == names.len();
        if known && let Some(groups) = Directory::with(&places) {
            self.groups = groups;
            let sequence = |name: &&str| name.rsplit('.').next().and_then(|number| number.parse().ok());
            self.sequence = names.iter().filter_map(sequence).max().unwrap_or(0);
            return;
        }
        // The next epoch stores everything, by the lanes and groups that there are now.
        let depth = places.iter().map(|(depth, _)| *depth).max().unwrap_or(0);
        self.groups = Directory::of_depth(depth);
        self.groups.iter_mut().for_each(|group| group.rewrite = true);
        if kept {
            self.obsolete.extend(names.iter().map(|name| (*name).to_owned()));
        }
    }

    /// Takes back the rows of a chunk that belong to `lane`.
    pub(in crate::stream) fn restore_chunk(
        &mut self,
        name: String,
        mut rows: RecordBatch,
        (lane, lanes, kept): (usize, usize, bool),
    ) -> Result<()> {
        let corrupt = |why: String| {
            Error::new(Kind::Corrupt, "X030", format!("the stored state `{name}` is not readable: {why}"))
                .fact("it was written by another version; rebuild it by replaying the pipeline from its start")
        };
        let types = rows.columns().iter().map(|column| column.data_type());
        if types.ne(self.layout.schema.fields().iter().map(|field| field.data_type())) {
            return Err(corrupt("it has other columns".to_owned()));
        }
        if !kept && lanes > 1 {
            let route: Vec<usize> = (0..self.layout.route).collect();
            let of = Route::lane_of(&rows, &route, lanes).map_err(|e| corrupt(e.to_string()))?;
            let mine: BooleanArray = of.iter().map(|of| Some(*of == lane)).collect();
            rows = filter_record_batch(&rows, &mine).map_err(|e| corrupt(e.to_string()))?;
        }
        let (columns, count) = (rows.columns(), rows.num_rows());
        let (keys, rest) = columns.split_at(self.layout.keys);
        let (values, gone) = rest.split_at(self.layout.values());
        let unreadable = |e: ArrowError| corrupt(e.to_string());
        let (keys, values) =
            (self.encode_keys(keys).map_err(unreadable)?, self.encode_values(values).map_err(unreadable)?);
        self.call_up((0..count).map(|row| keys.row(row)))?;
        let gone = gone[0].as_boolean();
        if kept && let Some(group) = place_of(&name).and_then(|place| self.groups.at(place)) {
            // The first chunk of a group has all of it.
            if group.chunks.is_empty() {
                group.reserve(count, (0..count).map(|row| keys.row(row).len() + values.row(row).len()).sum());
            }
        }
        for row in 0..count {
            let key = keys.row(row);
            let hash = hash_of(key);
            let group = self.groups.of(hash);
            if gone.value(row) {
                group.remove(hash, key);
            } else {
                group.put(hash, key, values.row(row));
            }
        }
        if kept && let Some(group) = place_of(&name).and_then(|place| self.groups.at(place)) {
            let mut small = Keys::default();
            if !group.chunks.is_empty() && count <= SMALL {
                (0..count).for_each(|row| small.push(keys.row(row)));
            }
            group.chunks.push(Chunk { name, rows: count, keys: small });
        }
        self.groups.divide_fresh()?;
        self.relieve()
    }

    /// Takes back chunks of all lanes that are in memory, for operators that have more than this log.
    pub(in crate::stream) fn restore(
        &mut self,
        mut chunks: Vec<(String, RecordBatch)>,
        lane: usize,
        lanes: usize,
    ) -> Result<()> {
        chunks.sort_by(|(one, _), (other, _)| one.cmp(other));
        let names: Vec<&str> = chunks.iter().map(|(name, _)| name.as_str()).collect();
        self.prepare(&names, false);
        chunks.into_iter().try_for_each(|(name, rows)| self.restore_chunk(name, rows, (lane, lanes, false)))
    }

    /// Whether all keys are in memory.
    pub(in crate::stream) fn is_warm(&self) -> bool {
        self.groups.iter().all(Group::is_warm)
    }

    /// Takes back all chunks of an operator that has this log alone.
    pub(in crate::stream) fn restore_from(&mut self, stored: &mut Stored<'_>) -> Result<()> {
        let names: Vec<&str> = stored.names().iter().map(String::as_str).collect();
        self.prepare(&names, stored.kept);
        let to = (stored.lane, stored.lanes, stored.kept);
        stored.try_for_each(|chunk| chunk.and_then(|(name, rows)| self.restore_chunk(name, rows, to)))
    }

    fn changes_of(&self, number: usize, changed: &Keys) -> Result<RecordBatch, ArrowError> {
        let group = &self.groups[number];
        let rows: Vec<(&[u8], Option<&[u8]>)> = changed.iter().map(|key| (key, group.get(hash_of(key), key))).collect();
        self.chunk(&rows)
    }

    fn whole_of(&self, number: usize) -> Result<RecordBatch, ArrowError> {
        let mut rows: Vec<(&[u8], Option<&[u8]>)> =
            self.groups[number].iter().map(|(key, value)| (key, Some(value))).collect();
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

/// Takes the chunks of a snapshot, one by one.
pub(in crate::stream) type Give<'a> = &'a mut dyn FnMut(StateChunk) -> Result<()>;

/// How chunks name a group.
fn name_of((depth, number): (u32, usize)) -> String {
    format!("d{depth}.{number:03}")
}

/// The group that a chunk of this name is of.
fn place_of(name: &str) -> Option<(u32, usize)> {
    let mut parts = name.split('.').skip(1);
    let depth = parts.next()?.strip_prefix('d')?.parse().ok()?;
    Some((depth, parts.next()?.parse().ok()?))
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

/// The log that a chunk of this name is of.
pub(in crate::stream) fn log_of(chunk: &str) -> &str {
    chunk.split_once('.').map_or(chunk, |(log, _)| log)
}

#[cfg(test)]
mod tests {
    use super::super::directory::MOST_KEYS;
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

    /// A log restored from what is stored, as the engine does it.
    fn restored(
        stored: &BTreeMap<String, RecordBatch>,
        to: (usize, usize),
        kept: bool,
        memory: &StateMemory,
    ) -> KeyLog {
        let mut log = KeyLog::new(layout(), "t").expect("a log");
        log.bound(memory);
        let names: Vec<String> = stored.keys().cloned().collect();
        let mut chunks = stored.iter().map(|(name, rows)| Ok((name.clone(), rows.clone())));
        log.restore_from(&mut Stored::new(to, kept, &names, &mut chunks)).expect("restores");
        log
    }

    fn snapshot(log: &mut KeyLog) -> Vec<StateChunk> {
        let mut chunks = Vec::new();
        let taken = log.snapshot(&mut |chunk| {
            chunks.push(chunk);
            Ok(())
        });
        taken.expect("a snapshot");
        chunks
    }

    fn check(memory: &StateMemory, rounds: usize) {
        let mut random = fastrand::Rng::with_seed(5);
        let mut log = KeyLog::new(layout(), "t").expect("a log");
        log.bound(memory);
        let (mut model, mut stored) = (BTreeMap::<i64, String>::new(), BTreeMap::<String, RecordBatch>::new());
        for epoch in 0..rounds {
            let changes: Vec<(i64, bool)> =
                (0..random.usize(0..40)).map(|_| (random.i64(0..400), random.u8(0..4) == 0)).collect();
            let changes: Vec<_> =
                changes.into_iter().map(|(key, gone)| (key, gone, bytes(&log, key, &format!("{epoch}")))).collect();
            log.call_up(changes.iter().map(|(_, _, (bytes, _))| bytes.as_slice())).expect("reads");
            for (key, gone, (bytes, value)) in changes {
                let before = log.get(&bytes).map(<[u8]>::to_vec);
                assert_eq!(before.is_some(), model.contains_key(&key), "epoch {epoch}, key {key}");
                if gone {
                    log.remove(&bytes);
                    model.remove(&key);
                } else {
                    log.put(&bytes, &value);
                    model.insert(key, epoch.to_string());
                }
            }
            assert_eq!(log.len(), model.len(), "epoch {epoch}");
            if random.u8(0..3) == 0 {
                log.relieve().expect("moves");
            }
            let chunks = snapshot(&mut log);
            for chunk in chunks {
                match chunk.rows {
                    Some(rows) => assert!(stored.insert(chunk.name, rows).is_none(), "names are used once"),
                    None => assert!(stored.remove(&chunk.name).is_some(), "what is removed was stored"),
                }
            }
            if epoch % 29 != 0 {
                continue;
            }
            assert!(stored.len() <= 2 * MOST_CHUNKS + 2, "{} chunks", stored.len());
            for lanes in [1, 3] {
                let mut all = BTreeMap::new();
                for lane in 0..lanes {
                    let unbounded = StateMemory::default();
                    all.extend(held(&restored(&stored, (lane, lanes), false, &unbounded)));
                }
                assert_eq!(all, model, "epoch {epoch} on {lanes} lanes");
            }
            // The next epochs go on with what a process restored that kept the chunks.
            log = restored(&stored, (0, 1), true, memory);
            assert_eq!(log.len(), model.len());
            let chunks = snapshot(&mut log);
            assert!(chunks.is_empty(), "nothing changed, and {} chunks are stored", chunks.len());
        }
    }

    #[test]
    fn restoring_after_any_epoch_and_onto_any_lanes_gives_what_was_held() {
        check(&StateMemory::default(), 300);
    }

    #[test]
    fn little_memory_changes_nothing() {
        let folder = std::env::temp_dir().join("tidemill-log-memory");
        for limit in [1, 4_000, 16_000] {
            let memory = StateMemory::open(limit, &folder).expect("a budget");
            check(&memory, 300);
            assert!(memory.spilled() > 10_000, "the tier was used");
        }
    }

    #[test]
    fn a_log_restored_onto_other_lanes_stores_itself_anew_and_nothing_of_before() {
        let mut log = KeyLog::new(layout(), "t").expect("a log");
        for key in 0..1_000 {
            let (key, value) = bytes(&log, key, "x");
            log.put(&key, &value);
        }
        let chunks = snapshot(&mut log);
        let stored = chunks.into_iter().filter_map(|chunk| Some((chunk.name, chunk.rows?))).collect();
        let mut half = restored(&stored, (1, 2), false, &StateMemory::default());
        let chunks = snapshot(&mut half);
        let rows: usize = chunks.iter().map(|chunk| chunk.rows.as_ref().map_or(0, RecordBatch::num_rows)).sum();
        assert_eq!(rows, half.len());
        assert!((300..700).contains(&rows), "{rows} of 1000 keys are on one of two lanes");
    }

    /// What is divided for being large may be many times as large, and lie in the tier.
    #[test]
    fn a_group_that_has_grown_past_all_bounds_is_stored_whole() {
        let memory = StateMemory::open(1 << 18, &std::env::temp_dir().join("tidemill-log-large")).expect("a budget");
        let mut log = KeyLog::new(layout(), "t").expect("a log");
        log.bound(&memory);
        let mut stored = BTreeMap::new();
        let value = bytes(&log, 0, "x").1;
        let most = MOST_KEYS as i64;
        for (from, to) in [(0, 2 * most), (2 * most, 30 * most), (30 * most, 30 * most + 1)] {
            for part in (from..to).step_by(MOST_KEYS / 4) {
                let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(part..to.min(part + most / 4)));
                let encoded = log.encode_keys(std::slice::from_ref(&keys)).expect("keys");
                log.call_up((0..keys.len()).map(|row| encoded.row(row))).expect("reads");
                (0..keys.len()).for_each(|row| log.put(encoded.row(row), &value));
                log.relieve().expect("moves");
            }
            for StateChunk { name, rows } in snapshot(&mut log) {
                match rows {
                    Some(rows) => drop(stored.insert(name, rows)),
                    None => drop(stored.remove(&name)),
                }
            }
            let held = held(&restored(&stored, (0, 1), false, &StateMemory::default()));
            assert!(held.into_keys().eq(0..to), "all {to} keys are stored");
        }
        assert!(memory.spilled() > 0, "most of them lie in the tier");
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
        let (first, mut most, mut all) = (snapshot(&mut log), 0, 0);
        assert!(first.len() >= 4, "{} groups", first.len());
        for round in 0..60 {
            for row in (round..count as usize).step_by(41) {
                log.put(encoded.row(row), &value);
            }
            let chunks = snapshot(&mut log);
            let stored: usize = chunks.iter().filter_map(|chunk| chunk.rows.as_ref()).map(RecordBatch::num_rows).sum();
            most = most.max(stored);
            all += stored;
        }
        let changed = count as usize / 41;
        assert!(most < count as usize / 2, "an epoch stored {most} of {count} rows");
        assert!(all < 60 * 3 * changed, "60 epochs of {changed} changes stored {all} rows");
    }
}
