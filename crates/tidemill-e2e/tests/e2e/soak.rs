//! Days of event time with keys and sessions that live for minutes, through the operators of real queries: at the end of
//! each night, memory and checkpoints are back where they were the night before.
//!
//! `TIDEMILL_E2E_DAYS=30 TIDEMILL_E2E_PER_MINUTE=4000` makes a long one.
//!
//! **Invariant:** a row is a function of its number, so the answer is known without keeping rows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use tidemill_runtime::exec::{Dataflow, Step};
use tidemill_testkit::Rng;
use tidemill_testkit::made::{Made, MadeTable};

use crate::knobs;
use crate::pipes::{Pipe, Run};

const MINUTE: i64 = 60_000_000;
const START: i64 = 1_767_225_600_000_000;
/// Minutes of a day that are busy, and all minutes of it.
const BUSY: u64 = 6 * 60;
const DAY: u64 = 24 * 60;
/// Rows of a minute at night, all of one key.
const NIGHT: u64 = 4;

const TABLES: &str = "
CREATE PIPELINE p WITH (trigger = 'continuous');
CREATE TABLE clicks (id BIGINT, visitor BIGINT, page VARCHAR, at TIMESTAMP, WATERMARK FOR at AS at - INTERVAL '10 seconds')
  WITH (connector = 'made');
CREATE TABLE buys (number BIGINT, buyer BIGINT, bought TIMESTAMP, WATERMARK FOR bought AS bought - INTERVAL '10 seconds')
  WITH (connector = 'made');
CREATE TABLE out WITH (connector = 'made');
";

/// Queries whose state must go with time.
const QUERIES: &[(&str, &str)] = &[
    (
        "tumble",
        "INSERT INTO out SELECT visitor, window_start, count(*) AS n, sum(id) AS s
           FROM TUMBLE(clicks, at, INTERVAL '5 minutes') GROUP BY visitor, window_start",
    ),
    (
        "hop",
        "INSERT INTO out SELECT visitor, window_start, count(*) AS n
           FROM HOP(clicks, at, INTERVAL '1 minute', INTERVAL '20 minutes') GROUP BY visitor, window_start",
    ),
    (
        "session",
        "INSERT INTO out SELECT visitor, window_start, window_end, count(*) AS n
           FROM SESSION(clicks, at, INTERVAL '5 minutes', PARTITION BY visitor) GROUP BY visitor, window_start, window_end",
    ),
    (
        "session_view",
        "CREATE MATERIALIZED VIEW v WITH (retention = '30 minutes') AS SELECT visitor, window_start, window_end, count(*) AS n
           FROM SESSION(clicks, at, INTERVAL '5 minutes', PARTITION BY visitor) GROUP BY visitor, window_start, window_end",
    ),
    (
        "interval_join",
        "INSERT INTO out SELECT c.id, b.number FROM clicks AS c LEFT JOIN buys AS b
           ON c.visitor = b.buyer AND b.bought BETWEEN c.at AND c.at + INTERVAL '10 minutes'",
    ),
    (
        "dedup",
        "INSERT INTO out SELECT id, visitor, window_start FROM (
           SELECT id, visitor, window_start, ROW_NUMBER() OVER (PARTITION BY window_start, visitor ORDER BY at, id) AS r
             FROM TUMBLE(clicks, at, INTERVAL '5 minutes')) WHERE r = 1",
    ),
    (
        "view",
        "CREATE MATERIALIZED VIEW v WITH (retention = '30 minutes') AS SELECT visitor, window_start, count(*) AS n
           FROM TUMBLE(clicks, at, INTERVAL '5 minutes') GROUP BY visitor, window_start",
    ),
    (
        "asof",
        "INSERT INTO out SELECT c.id, b.number FROM clicks AS c ASOF JOIN buys AS b
           MATCH_CONDITION (b.bought <= c.at) ON c.visitor = b.buyer AND b.bought >= c.at - INTERVAL '10 minutes'",
    ),
];

#[derive(Clone, Copy)]
struct Days {
    days: u64,
    per_minute: u64,
}

impl Days {
    fn per_day(self) -> u64 {
        BUSY * self.per_minute + (DAY - BUSY) * NIGHT
    }

    fn count(self) -> u64 {
        self.days * self.per_day()
    }

    /// The time of a row, and whether it comes by day.
    fn at(self, number: u64) -> (i64, bool) {
        let (day, of_day) = (number / self.per_day(), number % self.per_day());
        let busy = BUSY * self.per_minute;
        let (minute, within, of_minute) = match of_day.checked_sub(busy) {
            None => (of_day / self.per_minute, of_day % self.per_minute, self.per_minute),
            Some(of_night) => (BUSY + of_night / NIGHT, of_night % NIGHT, NIGHT),
        };
        let at = START + (day * DAY + minute) as i64 * MINUTE + within as i64 * (MINUTE / of_minute as i64);
        (at, of_day < busy)
    }

    /// By day each third row is of a key that was never seen; at night all are of one.
    fn key(self, number: u64) -> i64 {
        if self.at(number).1 { number as i64 / 3 } else { -1 }
    }

    fn clicks(self, numbers: &[u64]) -> RecordBatch {
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(numbers.iter().map(|number| *number as i64)));
        let visitors: ArrayRef = Arc::new(Int64Array::from_iter_values(numbers.iter().map(|number| self.key(*number))));
        let pages: ArrayRef =
            Arc::new(StringArray::from_iter_values(numbers.iter().map(|n| format!("/page/{}", n % 97))));
        let at = numbers.iter().map(|number| self.at(*number).0);
        let at: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter_values(at));
        RecordBatch::try_from_iter([("id", ids), ("visitor", visitors), ("page", pages), ("at", at)]).expect("clicks")
    }

    fn buys(self, numbers: &[u64]) -> RecordBatch {
        let clicks = self.clicks(numbers);
        let column = |at: usize| Arc::clone(clicks.column(at));
        RecordBatch::try_from_iter([("number", column(0)), ("buyer", column(1)), ("bought", column(3))]).expect("buys")
    }
}

/// What was seen at the end of a night.
#[derive(Debug, Clone, Copy)]
struct Night {
    memory: usize,
    checkpoint: u64,
    chunks: usize,
}

/// Runs a query over all days; answers what was seen each night, and the most memory of all.
fn soak(sql: &str, days: Days) -> (Vec<Night>, usize) {
    // One split: with several, the lanes are at different times of the day.
    let table =
        |rows: tidemill_testkit::made::MakeRows| MadeTable { splits: 1, ..MadeTable::new(rows, days.count(), 200) };
    let made = Made::new()
        .counting()
        .with("clicks", table(Arc::new(move |numbers: &[u64]| days.clicks(numbers))))
        .with("buys", table(Arc::new(move |numbers: &[u64]| days.buys(numbers))));
    let pipe = Pipe::new(&format!("{TABLES}{sql};"), &made).expect("a pipeline");
    let dataflow = Dataflow::new(pipe.job(&Run::default()).expect("a job")).expect("a dataflow");
    let memory = dataflow.memory();
    let Dataflow { mut lanes, mut coordinator, .. } = dataflow;
    let (mut nights, mut random, mut epoch) = (BTreeMap::<i64, Night>::new(), Rng::with_seed(1), 0);
    for _ in 0..100_000_000_u64 {
        pipe.clock.advance(Duration::from_micros(700));
        let actor = random.usize(0..=lanes.len());
        if let Some(lane) = lanes.get_mut(actor) {
            lane.step().expect("a lane works");
            continue;
        }
        let step = coordinator.step().expect("epochs are committed");
        let newest = pipe.progress.snapshot().epoch.0;
        if newest > epoch
            && let Some(manifest) = pipe.checkpoints().latest().expect("a manifest")
        {
            epoch = newest;
            let least = manifest.sources.values().filter_map(|source| source.watermark).min();
            let at = least.and_then(|watermark| watermark.instant()).map_or(START, |at| at.0) - START;
            let (day, minute) = (at.div_euclid(DAY as i64 * MINUTE), at.rem_euclid(DAY as i64 * MINUTE) / MINUTE);
            // Late enough that everything of the day has closed and was left behind.
            if minute >= (BUSY + 90) as i64 {
                let chunks = manifest.state.values().flat_map(|state| state.chunks.values());
                let night = Night {
                    memory: memory.taken(),
                    checkpoint: chunks.clone().map(|chunk| chunk.length).sum(),
                    chunks: chunks.count(),
                };
                nights.insert(day, night);
            }
        }
        if step == Step::Ended {
            return (nights.into_values().collect(), memory.most());
        }
    }
    panic!("a soak does not end");
}

#[test]
fn what_days_leave_is_gone_at_night() {
    let days = Days { days: knobs::days(), per_minute: knobs::per_minute() };
    let only = knobs::only_case();
    for (name, sql) in QUERIES.iter().filter(|(name, _)| name.contains(&only)) {
        let (nights, most) = soak(sql, days);
        assert!(nights.len() as u64 >= days.days - 1, "{name}: {} nights of {} days", nights.len(), days.days);
        let last = nights[nights.len() - 1];
        let story = format!("{name}: at most {most} bytes, at night {nights:?}");
        // What a night has depends a little on where the rows stood when it was looked at, so the first nights are the measure.
        let (before, _) = nights.split_at(nights.len().div_ceil(2));
        let floor = |of: fn(&Night) -> u64| before.iter().map(of).max().unwrap_or(0);
        assert!(most > 8_000, "by day there is state: {story}");
        assert!(nights.iter().all(|night| night.memory < most * 2 / 3), "memory is given back: {story}");
        let grows = |now: u64, floor: u64, slack: u64| now > floor * 3 / 2 + slack;
        assert!(!grows(last.memory as u64, floor(|night| night.memory as u64), 20_000), "memory grows: {story}");
        assert!(!grows(last.checkpoint, floor(|night| night.checkpoint), 20_000), "checkpoints grow: {story}");
        assert!(!grows(last.chunks as u64, floor(|night| night.chunks as u64), 20), "chunks become more: {story}");
    }
}
