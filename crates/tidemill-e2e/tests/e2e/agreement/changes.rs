//! [`change`]: made-up rows as records of a changelog, and the rows that stand after all of them.
//!
//! **Invariant:** a row that is changed or deleted is one that stands, but for deletions of what is not there, which say
//! nothing by key.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::TimestampMicrosecondType;
use tidemill_runtime::changelog_schema;
use tidemill_testkit::Rng;

/// How the rows of a table are changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Changing {
    /// How many keys there are.
    pub(crate) keys: i64,
    /// Only rows that are no further behind the newest than a watermark is are changed, so that nothing is late.
    pub(crate) recent: bool,
    pub(crate) kind: Kind,
}

/// How changes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Enveloped.
    Debezium,
    /// Rows of which the last of a key counts, with `gone` true where it is deleted.
    Upsert,
}

/// How far behind the newest a row may be to be changed in time, in microseconds.
const RECENT: i64 = 9_500_000;

/// The records, and the rows that stand.
pub(crate) fn change(rows: &RecordBatch, changing: Changing, random: &mut Rng) -> (RecordBatch, RecordBatch) {
    let times = rows.column_by_name("at").expect("event time").as_primitive::<TimestampMicrosecondType>().clone();
    let mut ids = Vec::with_capacity(rows.num_rows());
    // Row numbers after and before each change, and what it is.
    let mut records: Vec<(u32, u32, &str)> = Vec::new();
    let mut standing: BTreeMap<i64, u32> = BTreeMap::new();
    let mut newest = i64::MIN;
    for row in 0..rows.num_rows() {
        newest = newest.max(times.value(row));
        let may = |id: &i64| {
            let stands = standing.get(id);
            stands.is_none_or(|row| !changing.recent || times.value(*row as usize) >= newest - RECENT)
        };
        let (standing_ones, others): (Vec<i64>, Vec<i64>) =
            (1..=changing.keys).filter(may).partition(|id| standing.contains_key(id));
        let free = if others.is_empty() || !standing_ones.is_empty() && random.bool() { standing_ones } else { others };
        assert!(!free.is_empty(), "every key is taken by a row that may not be changed any more");
        let id = free[random.usize(0..free.len())];
        ids.push(id);
        let number = row as u32;
        let deletes = random.u32(0..4) == 0;
        match (standing.get(&id).copied(), deletes) {
            (Some(old), true) => {
                records.push((old, old, "d"));
                standing.remove(&id);
            }
            (Some(old), false) => {
                records.push((number, old, "u"));
                standing.insert(id, number);
            }
            // A deletion of what is not there.
            (None, true) if changing.kind == Kind::Upsert => records.push((number, number, "d")),
            (None, _) => {
                records.push((number, number, if random.bool() { "c" } else { "r" }));
                standing.insert(id, number);
            }
        }
    }
    let mut columns = rows.columns().to_vec();
    columns[0] = Arc::new(Int64Array::from(ids));
    let rows = RecordBatch::try_new(rows.schema(), columns).expect("the same columns");
    let some = |numbers: Vec<u32>| take_record_batch(&rows, &UInt32Array::from(numbers)).expect("rows");
    let stands = some(standing.into_values().collect());
    let after = some(records.iter().map(|record| record.0).collect());
    let records = match changing.kind {
        Kind::Debezium => {
            let before = some(records.iter().map(|record| record.1).collect());
            let ops: ArrayRef = Arc::new(records.iter().map(|record| Some(record.2)).collect::<StringArray>());
            let columns = [after.columns(), before.columns(), &[ops]].concat();
            RecordBatch::try_new(changelog_schema(&rows.schema()), columns).expect("changes")
        }
        Kind::Upsert => with_gone(&after, records.iter().map(|record| Some(record.2 == "d")).collect()),
    };
    let stands = match changing.kind {
        Kind::Debezium => stands,
        Kind::Upsert => with_gone(&stands, vec![Some(false); stands.num_rows()].into()),
    };
    (records, stands)
}

/// The rows with what they say of their end.
fn with_gone(rows: &RecordBatch, gone: BooleanArray) -> RecordBatch {
    let at = rows.schema().index_of("gone").expect("a column `gone`");
    let mut columns = rows.columns().to_vec();
    columns[at] = Arc::new(gone);
    RecordBatch::try_new(rows.schema(), columns).expect("the same columns")
}

/// Rows that only come, as records.
pub(crate) fn inserted(rows: &RecordBatch, kind: Kind) -> (RecordBatch, RecordBatch) {
    match kind {
        Kind::Debezium => {
            let ops: ArrayRef = Arc::new(StringArray::from(vec!["c"; rows.num_rows()]));
            let columns = [rows.columns(), rows.columns(), &[ops]].concat();
            (RecordBatch::try_new(changelog_schema(&rows.schema()), columns).expect("changes"), rows.clone())
        }
        Kind::Upsert => {
            let rows = with_gone(rows, vec![Some(false); rows.num_rows()].into());
            (rows.clone(), rows)
        }
    }
}
