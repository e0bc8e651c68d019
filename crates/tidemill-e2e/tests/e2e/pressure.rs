//! A sink that holds for minutes: the source waits, what is in flight stays bounded, and when the sink lets go nothing is
//! lost and nothing is there twice.
//!
//! Lanes and the coordinator have a thread each, and one of them works at a time: whoever is in the sink when it holds
//! stays there, and the others go on until none of them has anything left to do.
//!
//! **Invariant:** no thread waits for time; the clock is moved by the test.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::Int64Type;
use tidemill_runtime::exec::{Dataflow, Limits, Step};
use tidemill_testkit::Rng;
use tidemill_testkit::made::{Made, MadeTable, Work};

use crate::pipes::{Pipe, Run};

const ROWS: u64 = 60_000;
const BATCH: u64 = 40;
/// Rows that a lane takes into an epoch.
const EPOCH: u64 = 1_000;
const LANES: usize = 2;
/// Batches that wait from lane to lane.
const QUEUE: usize = 3;

/// Rows that go on as they are, and windows behind an exchange; the first column counts the rows that went in.
const QUERIES: [(&str, &str); 2] = [
    ("rows", "SELECT id, 1 AS n FROM events"),
    (
        "windows",
        "SELECT min(id) AS id, count(*) AS n FROM TUMBLE(events, at, INTERVAL '1 second')
           GROUP BY id % 7, window_start, window_end",
    ),
];

fn events(numbers: &[u64]) -> RecordBatch {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(numbers.iter().map(|number| *number as i64)));
    let at = numbers.iter().map(|number| 1_767_225_600_000_000 + *number as i64 * 20_000);
    let at: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter_values(at));
    RecordBatch::try_from_iter([("id", ids), ("at", at)]).expect("events")
}

/// What happens in the threads.
enum Told {
    /// An actor has done a step: whether it worked, how many batches wait for it, and whether the job has ended.
    Stepped { worked: bool, waiting: usize, ended: bool },
    /// The actor whose turn it is stands in the sink.
    Held,
}

struct Actors {
    turns: Vec<Sender<()>>,
    told: Receiver<Told>,
    /// The one that stands in the sink.
    held: Option<usize>,
    most_waiting: usize,
}

impl Actors {
    /// Lets an actor do a step; answers whether it worked and whether the job has ended.
    fn step(&mut self, actor: usize) -> (bool, bool) {
        self.turns[actor].send(()).expect("the actor is there");
        self.answer(actor)
    }

    fn answer(&mut self, actor: usize) -> (bool, bool) {
        match self.told.recv().expect("an answer") {
            Told::Held => {
                self.held = Some(actor);
                (true, false)
            }
            Told::Stepped { worked, waiting, ended } => {
                self.most_waiting = self.most_waiting.max(waiting);
                (worked, ended)
            }
        }
    }

    /// Steps all that are not held, until none of them has had anything to do for long; or to the end of the job.
    fn go_on(&mut self, pipe: &Pipe, random: &mut Rng) -> bool {
        let mut idle = 0;
        while idle < 500 {
            let free: Vec<usize> = (0..self.turns.len()).filter(|actor| Some(*actor) != self.held).collect();
            let (worked, ended) = self.step(free[random.usize(0..free.len())]);
            if ended {
                return true;
            }
            idle = if worked { 0 } else { idle + 1 };
            pipe.clock.advance(Duration::from_millis(1));
        }
        false
    }
}

/// Holds the sink the `nth` time that it does this work, and checks what happens.
fn check(name: &str, query: &str, work: Work, nth: u64) {
    let (tell, told) = channel();
    let (release, released) = channel::<()>();
    let hold = {
        let (tell, asked, released) = (tell.clone(), AtomicU64::new(0), Mutex::new(released));
        move |now: Work| {
            if now == work && asked.fetch_add(1, Ordering::Relaxed) + 1 == nth {
                tell.send(Told::Held).expect("the test listens");
                released.lock().expect("nobody else").recv().expect("the test lets go");
            }
        }
    };
    let given = Arc::new(AtomicU64::new(0));
    let counted = {
        let given = Arc::clone(&given);
        move |numbers: &[u64]| {
            given.fetch_add(numbers.len() as u64, Ordering::Relaxed);
            events(numbers)
        }
    };
    let table = MadeTable { splits: 4, ..MadeTable::new(Arc::new(counted), ROWS, BATCH) };
    let made = Made::new().with("events", table).held_by(Arc::new(hold));
    let sql = format!(
        "CREATE PIPELINE p WITH (trigger = 'continuous');
         CREATE TABLE events (id BIGINT, at TIMESTAMP, WATERMARK FOR at AS at - INTERVAL '5 seconds')
           WITH (connector = 'made');
         CREATE TABLE out WITH (connector = 'made');
         INSERT INTO out {query};"
    );
    let pipe = Pipe::new(&sql, &made).expect("a pipeline");
    let limits = Limits { epoch_rows: EPOCH, queue_batches: QUEUE, ..Limits::default() };
    let run = Run { lanes: LANES, limits, checkpoint: Duration::from_millis(200), ..Run::default() };
    let Dataflow { lanes, mut coordinator, .. } = Dataflow::new(pipe.job(&run).expect("a job")).expect("a dataflow");
    let mut random = Rng::with_seed(nth);
    let what = format!("{name}, held in {work:?}");
    std::thread::scope(|scope| {
        // When the test fails, everyone who waits for it goes.
        let release = release;
        let mut turns = Vec::new();
        for mut lane in lanes {
            let (turn, mine) = channel();
            let tell = tell.clone();
            turns.push(turn);
            scope.spawn(move || {
                for () in mine {
                    let worked = lane.step().expect("a lane works");
                    let _ = tell.send(Told::Stepped { worked, waiting: lane.waiting(), ended: false });
                }
            });
        }
        let (turn, mine) = channel();
        turns.push(turn);
        scope.spawn(move || {
            for () in mine {
                let step = coordinator.step().expect("epochs are committed");
                let (worked, ended) = (step == Step::Worked, step == Step::Ended);
                let _ = tell.send(Told::Stepped { worked, waiting: 0, ended });
            }
        });
        let mut actors = Actors { turns, told, held: None, most_waiting: 0 };
        assert!(!actors.go_on(&pipe, &mut random), "{what}: the job ended before the sink was asked");
        let held = actors.held.unwrap_or_else(|| panic!("{what}: the sink was never asked"));
        let before = given.load(Ordering::Relaxed);
        for _ in 0..10 {
            pipe.clock.advance(Duration::from_secs(60));
            assert!(!actors.go_on(&pipe, &mut random), "{what}: the job ended without its sink");
        }
        let read = given.load(Ordering::Relaxed);
        assert!(read - before <= LANES as u64 * BATCH, "{what}: {before} rows were read, minutes later {read}");
        assert!(read < ROWS / 2, "{what}: {read} rows of {ROWS} were read");
        // The epoch that is held up and the one after it.
        let committed = pipe.checkpoints().latest().expect("reads").map_or(0, |manifest| manifest.counters.rows_read);
        let most = 2 * LANES as u64 * (EPOCH + BATCH);
        assert!(read - committed.min(read) <= most, "{what}: {read} rows were read, {committed} are on record");
        assert!(made.staged() <= 1, "{what}: {} epochs wait to be committed", made.staged());
        // A source is asked when there is room; what it gives then may be divided into a few batches for a lane.
        assert!(actors.most_waiting <= LANES * (QUEUE + 8), "{what}: {} batches waited", actors.most_waiting);
        release.send(()).expect("the sink waits");
        actors.held = None;
        actors.answer(held);
        assert!(actors.go_on(&pipe, &mut random), "{what}: the job does not end");
        actors.turns.clear();
    });
    let (mut ids, mut rows) = (BTreeSet::new(), 0);
    for batch in made.committed("out") {
        let column =
            |name: &str| batch.rows.column_by_name(name).expect("a column").as_primitive::<Int64Type>().clone();
        let (id, n) = (column("id"), column("n"));
        rows += n.values().iter().sum::<i64>();
        for id in id.values() {
            assert!(ids.insert(*id), "{what}: {id} is there twice");
        }
        assert_eq!(n.null_count(), 0);
    }
    assert_eq!(rows, ROWS as i64, "{what}: rows in what was committed");
}

#[test]
fn a_sink_that_holds_slows_the_source_and_loses_nothing() {
    for (name, query) in QUERIES {
        for work in [Work::Write, Work::Prepare, Work::Commit] {
            check(name, query, work, 3);
        }
    }
}
