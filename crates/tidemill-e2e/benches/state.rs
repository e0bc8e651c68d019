//! What state costs: `GROUP BY key` with a sum and a count over many keys: bytes of memory for a key, seconds to restore
//! them from the local disk, time and bytes of an epoch that changes one key in a thousand, and how fast rows are taken
//! with all state in memory and with a tenth of it.
//!
//! `cargo bench -p tidemill-deps -p tidemill-e2e --bench state -- 10000000`

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::disallowed_methods, reason = "a benchmark measures time")]

#[path = "../tests/e2e/pipes.rs"]
mod pipes;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use tidemill::SystemClock;
use tidemill_checkpoint::LocalStore;
use tidemill_model::Trigger;
use tidemill_runtime::exec::{Dataflow, Limits, StopFlag, run};
use tidemill_testkit::made::{Made, MadeTable};

use pipes::{Pipe, Run};

const SQL: &str = "
CREATE PIPELINE p WITH (trigger = 'continuous');
CREATE TABLE events (k BIGINT, v BIGINT) WITH (connector = 'made');
CREATE TABLE totals (k BIGINT NOT NULL, s BIGINT, n BIGINT, PRIMARY KEY (k)) WITH (connector = 'blackhole', write = 'upsert');
INSERT INTO totals SELECT k, sum(v) AS s, count(*) AS n FROM events GROUP BY k;
";

/// The first `keys` rows bring each key once, in no order; what follows takes some of them again.
fn events(numbers: &[u64], keys: u64) -> RecordBatch {
    let mixed =
        |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let key = |number: &u64| mixed(if *number < keys { *number } else { mixed(*number) % keys }) as i64;
    let k: ArrayRef = Arc::new(Int64Array::from_iter_values(numbers.iter().map(key)));
    let v: ArrayRef = Arc::new(Int64Array::from_iter_values(numbers.iter().map(|number| (*number % 1_000) as i64)));
    RecordBatch::try_from_iter([("k", k), ("v", v)]).expect("events")
}

/// The memory of this process in bytes.
fn resident() -> f64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split(' ').nth(1).and_then(|pages| pages.parse::<f64>().ok()));
    pages.unwrap_or(0.0) * 4096.0
}

fn folder_bytes(folder: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.map(bytes).sum()
}

struct Bench {
    pipe: Pipe,
    count: Arc<AtomicU64>,
    lanes: usize,
}

impl Bench {
    fn start(&self, memory: usize) -> Dataflow {
        let limits = Limits { epoch_rows: 500_000, ..Limits::default() };
        let asked =
            Run { lanes: self.lanes, trigger: Trigger::Once, checkpoint: Duration::from_secs(1), memory, limits };
        let mut job = self.pipe.job(&asked).expect("a job");
        job.clock = Arc::new(SystemClock);
        Dataflow::new(job).expect("a dataflow")
    }

    /// Takes so many more rows; answers the seconds.
    fn take(&self, dataflow: Dataflow, rows: u64) -> f64 {
        self.count.fetch_add(rows, Ordering::Relaxed);
        let began = Instant::now();
        run(dataflow, &StopFlag::default()).expect("a run");
        began.elapsed().as_secs_f64()
    }

    /// Starts again; answers the dataflow and the seconds.
    fn restart(&self, memory: usize) -> (Dataflow, f64) {
        let began = Instant::now();
        let dataflow = self.start(memory);
        (dataflow, began.elapsed().as_secs_f64())
    }
}

fn main() {
    let keys: u64 = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(1_000_000);
    let lanes = std::thread::available_parallelism().map_or(1, usize::from).min(2);
    let made =
        MadeTable { endless: true, ..MadeTable::new(Arc::new(move |numbers: &[u64]| events(numbers, keys)), 0, 8_192) };
    let count = Arc::clone(&made.count);
    let mut pipe = Pipe::new(SQL, &Made::new().with("events", made)).expect("a pipeline");
    let store = pipe.folder.path().join("checkpoints");
    pipe.store = Arc::new(LocalStore::open(&store).expect("a folder"));
    let bench = Bench { pipe, count, lanes };
    println!("{keys} keys on {lanes} lanes, {} build", if cfg!(debug_assertions) { "debug" } else { "release" });

    let plenty = usize::MAX / 2;
    let seconds = bench.take(bench.start(plenty), keys);
    println!("new keys             {:>12.0} rows/s, {seconds:.1} s", keys as f64 / seconds);

    let before = resident();
    let (dataflow, seconds) = bench.restart(plenty);
    let state = dataflow.memory().taken();
    println!("restore              {:>12.0} keys/s, {seconds:.2} s", keys as f64 / seconds);
    println!(
        "memory               {:>12.1} bytes a key ({:.1} as the system sees it)",
        state as f64 / keys as f64,
        (resident() - before) / keys as f64
    );

    let (stored, changed) = (folder_bytes(&store), (keys / 1_000).max(1));
    let seconds = bench.take(dataflow, changed);
    let progress = bench.pipe.progress.snapshot();
    println!(
        "epoch of 0.1 %       {:>12.3} s for {changed} keys, {} bytes of state, {} KiB on disk before",
        seconds,
        progress.state_bytes,
        stored >> 10
    );

    let rows = (keys / 2).max(1);
    let (dataflow, _) = bench.restart(plenty);
    let seconds = bench.take(dataflow, rows);
    println!("known keys           {:>12.0} rows/s in memory", rows as f64 / seconds);

    let tenth = state / 10;
    let (dataflow, seconds) = bench.restart(tenth);
    let memory = dataflow.memory();
    println!("restore into a tenth {:>12.0} keys/s, {seconds:.2} s", keys as f64 / seconds);
    let seconds = bench.take(dataflow, rows);
    println!(
        "known keys           {:>12.0} rows/s with a tenth of the memory, {} MiB written to the tier, at most {:.2} of the bound taken",
        rows as f64 / seconds,
        memory.spilled() >> 20,
        memory.most() as f64 / tenth as f64
    );
}
