//! State that is many times what it may take of memory: it stays near its bound while keys come, while they come again, and
//! when they are taken back after a restart.
//!
//! **Invariant:** what is measured is what operators say that they hold; that this is what the process takes is measured by
//! the benchmark of state.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use tidemill_model::Trigger;
use tidemill_runtime::StateMemory;
use tidemill_runtime::exec::{Dataflow, Limits, StopFlag, run};
use tidemill_testkit::made::{Made, MadeTable};

use crate::pipes::{Pipe, Run};

const KEYS: u64 = 1_000_000;
/// About a quarter of what the keys take.
const BOUND: usize = 16 << 20;
const LANES: usize = 2;
/// A group of keys is in memory as a whole when it is divided: 131,072 keys at most, one on each lane.
const DIVIDED: usize = LANES * 131_072 * 80;

const SQL: &str = "
CREATE PIPELINE p WITH (trigger = 'once');
CREATE TABLE events (k BIGINT, v BIGINT) WITH (connector = 'made');
CREATE TABLE totals (k BIGINT NOT NULL, s BIGINT, n BIGINT, PRIMARY KEY (k)) WITH (connector = 'blackhole', write = 'upsert');
INSERT INTO totals SELECT k, sum(v) AS s, count(*) AS n FROM events GROUP BY k;
";

fn events(numbers: &[u64]) -> RecordBatch {
    let key = |number: &u64| (number % KEYS).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).cast_signed();
    let k: ArrayRef = Arc::new(Int64Array::from_iter_values(numbers.iter().map(key)));
    let v: ArrayRef =
        Arc::new(Int64Array::from_iter_values(numbers.iter().map(|number| (number % 1_000).cast_signed())));
    RecordBatch::try_from_iter([("k", k), ("v", v)]).expect("events")
}

/// Runs until all rows are taken; answers what state took.
fn taken(pipe: &Pipe) -> StateMemory {
    let limits = Limits { epoch_rows: 400_000, ..Limits::default() };
    let asked = Run { lanes: LANES, trigger: Trigger::Once, checkpoint: Duration::from_secs(1), memory: BOUND, limits };
    let dataflow = Dataflow::new(pipe.job(&asked).expect("a job")).expect("a dataflow");
    let memory = dataflow.memory();
    run(dataflow, &StopFlag::default()).expect("a run");
    memory
}

#[test]
fn state_stays_near_its_bound() {
    let made = MadeTable { endless: true, ..MadeTable::new(Arc::new(events), 0, 4_096) };
    let count = Arc::clone(&made.count);
    let pipe = Pipe::new(SQL, &Made::new().with("events", made)).expect("a pipeline");
    for (round, rows) in [KEYS, KEYS / 2, 1_000].into_iter().enumerate() {
        count.fetch_add(rows, Ordering::Relaxed);
        let memory = taken(&pipe);
        let most = memory.most();
        assert!(memory.spilled() > BOUND as u64, "round {round}: {} bytes were written to the tier", memory.spilled());
        assert!(most <= BOUND + DIVIDED, "round {round}: {most} bytes of at most {BOUND} were taken");
    }
}
