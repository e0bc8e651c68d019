//! What the sink counts.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use tidemill_model::Epoch;
use tidemill_runtime::{Batch, Sink};

use super::sink::BlackholeSink;

#[test]
fn rows_are_counted_by_epoch() {
    let rows =
        RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(vec![1, 2, 3])) as ArrayRef)]).expect("batch");
    let changes = Batch { rows: rows.clone(), weights: Some(Int64Array::from(vec![1, -1, 1])) };
    let mut writer = BlackholeSink.writer(0).expect("writer");
    writer.write(&Batch::inserts(rows)).expect("write");
    writer.write(&changes).expect("write");
    let first = writer.prepare(Epoch(1)).expect("prepare").expect("rows");
    assert_eq!(first.0, serde_json::json!({ "rows": 5, "retractions": 1 }));
    assert_eq!(writer.prepare(Epoch(2)).expect("prepare"), None, "counting begins anew with each epoch");
    BlackholeSink.committer().expect("committer").commit(Epoch(1), &[first]).expect("commit");
}
