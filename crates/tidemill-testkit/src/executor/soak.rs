//! [`soak`]: days of event time with short-lived keys, to see that state goes away with the windows that it is for.
//!
//! A day is twenty busy hours, in which every third row brings a key that was never seen, and four hours of night with a
//! row a second, all of one key.
//!
//! **Invariant:** a row is a pure function of its number, so that nothing has to be kept to check the answer.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use fastrand::Rng;
use tidemill_checkpoint::{BlobStore, Checkpoints, Manifest};
use tidemill_model::{Clock, Error, Offset, Result, SplitId, Timestamp, Trigger};
use tidemill_runtime::exec::{Dataflow, Job, Limits, Progress, Step, Views};
use tidemill_runtime::{
    AtOnce, Boundedness, ErrorLimit, Graph, NodeKind, Payload, Pull, ReadHints, Route, Source, SourceBatch, SourceNode,
    SourceTime, Split, SplitReader, StateMemory,
};

use super::disk::{Disk, Mount};
use super::operators::{TimeGate, WindowsFactory, gated_schema};
use super::scenario::Scenario;
use super::table::{Table, TableSink};
use super::topic::{Row, columns};
use super::weather::Process;
use crate::VirtualClock;

const MINUTE: i64 = 60_000_000;
/// Minutes of a day that are busy.
const BUSY: u64 = 20 * 60;
/// Minutes of a day.
const DAY: u64 = 24 * 60;
/// Rows of a minute at night.
const NIGHT: u64 = 60;
const BATCH: u64 = 100;

/// What was seen.
#[derive(Debug, Clone, Default)]
pub struct Soak {
    /// Rows read.
    pub rows: u64,
    /// Rows counted in windows that were given out.
    pub counted: u64,
    /// Keys in windows that were given out.
    pub groups: u64,
    /// Late rows.
    pub late: u64,
    /// Most bytes that the state of one epoch referred to.
    pub most_state: u64,
    /// Bytes that the state referred to at the end of each night.
    pub state_at_night: Vec<u64>,
    /// Most bytes on the disk.
    pub most_disk: u64,
    /// Bytes on the disk at the end of each night.
    pub disk_at_night: Vec<u64>,
}

/// The rows of a soak.
#[derive(Debug, Clone, Copy)]
struct Days {
    days: u64,
    /// Rows of a busy minute.
    per_minute: u64,
}

impl Days {
    fn per_day(self) -> u64 {
        BUSY * self.per_minute + (DAY - BUSY) * NIGHT
    }

    fn row(self, number: u64) -> Row {
        let (day, of_day) = (number / self.per_day(), number % self.per_day());
        let busy = BUSY * self.per_minute;
        let (minute, within, of_minute) = match of_day.checked_sub(busy) {
            None => (of_day / self.per_minute, of_day % self.per_minute, self.per_minute),
            Some(of_night) => (BUSY + of_night / NIGHT, of_night % NIGHT, NIGHT),
        };
        let at = (day * DAY + minute) as i64 * MINUTE + within as i64 * (MINUTE / of_minute as i64);
        Row { id: number as i64, key: if of_day < busy { number as i64 / 3 } else { -1 }, at: Some(at) }
    }
}

#[derive(Debug)]
struct DaysSource(Days);

impl Source for DaysSource {
    fn boundedness(&self) -> Boundedness {
        Boundedness::Bounded
    }

    fn list_splits(&self) -> Result<Vec<Split>> {
        Ok(vec![Split {
            id: SplitId::new("days"),
            finite: false,
            min_event_time: None,
            max_event_time: None,
            bytes: None,
            content: None,
        }])
    }

    fn open(&self, _: &Split, resume: Option<&Offset>, _: &ReadHints) -> Result<Box<dyn SplitReader>> {
        Ok(Box::new(DaysReader { days: self.0, next: resume.and_then(Offset::as_number).unwrap_or(0) }))
    }
}

struct DaysReader {
    days: Days,
    next: u64,
}

impl SplitReader for DaysReader {
    fn next(&mut self) -> Result<Pull> {
        let until = (self.next + BATCH).min(self.days.days * self.days.per_day());
        if self.next == until {
            return Ok(Pull::Finished);
        }
        let rows: Vec<Row> = (self.next..until).map(|number| self.days.row(number)).collect();
        self.next = until;
        let payload = Payload::Columns(columns(&rows)?);
        Ok(Pull::Rows(SourceBatch { payload, resume: Offset::number(until), arrived: None, first: None }))
    }

    fn bound_to_present(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Runs so many days of event time with so many rows in a busy minute.
///
/// # Errors
/// What the dataflow answers.
pub fn soak(days: u64, per_minute: u64) -> Result<Soak> {
    let clock = Arc::new(VirtualClock::at(Timestamp(0)));
    let disk = Disk::new(&clock, Duration::ZERO);
    let table = Table::new(false);
    let calm = Scenario { fails_one_in: 0, slow_one_in: 0, ..Scenario::of(0) };
    let process = Process::new(&calm, (0, 1), &clock, &Arc::new(AtomicU32::new(0)), None);
    let days = Days { days, per_minute };
    let job = job(days, &clock, Mount { disk: Arc::clone(&disk), process: Arc::clone(&process) }, &table);
    let Dataflow { mut lanes, mut coordinator, .. } = Dataflow::new(job)?;
    let mut seen = Soak::default();
    let mut random = Rng::with_seed(1);
    let mut epoch = 0;
    for _ in 0..10_000_000_u64 {
        clock.advance(Duration::from_millis(1));
        let actor = random.usize(0..=lanes.len());
        if let Some(lane) = lanes.get_mut(actor) {
            lane.step()?;
            continue;
        }
        let step = coordinator.step()?;
        if let Some(manifest) = disk.newest().filter(|manifest| manifest.epoch.0 > epoch) {
            epoch = manifest.epoch.0;
            seen.look(&manifest, days, disk.bytes()? as u64);
        }
        if step == Step::Ended {
            for (_, [_, _, count]) in table.rows() {
                seen.counted += count as u64;
                seen.groups += 1;
            }
            return Ok(seen);
        }
    }
    Err(Error::internal("a soak does not end"))
}

fn job(days: Days, clock: &Arc<VirtualClock>, mount: Mount, table: &Arc<Table>) -> Job {
    let mut graph = Graph::default();
    let time = SourceTime {
        delay: Duration::from_secs(5),
        idle: Duration::from_secs(60),
        max_future: None,
        max_skew: None,
        start: None,
    };
    let source = graph.add(
        "days",
        NodeKind::Source(SourceNode {
            dataset: "days".to_owned(),
            source: Arc::new(DaysSource(days)),
            hints: ReadHints::default(),
            decoder: None,
            gate: Arc::new(|| Ok(Box::new(TimeGate))),
            time: Some(time),
            schema: gated_schema(),
            rules: Arc::default(),
            changes: false,
        }),
    );
    let windows = graph.add("windows", NodeKind::Operator(Arc::new(WindowsFactory { size: 30 * MINUTE })));
    let sink = TableSink { table: Arc::clone(table), process: Arc::clone(&mount.process) };
    let finals = graph.add("finals", NodeKind::Sink(Arc::new(sink)));
    graph.connect(source, windows, 0, Route::Hash(vec![1]));
    graph.connect(windows, finals, 0, Route::Forward);
    Job {
        pipeline: "soak".to_owned(),
        graph,
        fingerprint: "1".to_owned(),
        trigger: Trigger::Continuous,
        checkpoint: Duration::from_millis(5),
        lanes: 2,
        views: Vec::new(),
        checkpoints: Arc::new(Checkpoints::new(Arc::new(mount) as Arc<dyn BlobStore>, "soak")),
        clock: Arc::clone(clock) as Arc<dyn Clock>,
        published: Arc::new(Views::default()),
        progress: Arc::new(Progress::default()),
        background: Arc::new(AtOnce),
        limits: Limits::default(),
        memory: StateMemory::default(),
        errors: ErrorLimit::None,
        anew: None,
        letters: None,
    }
}

impl Soak {
    fn look(&mut self, manifest: &Manifest, days: Days, disk: u64) {
        let chunks = manifest.state.values().flat_map(|state| state.chunks.values());
        let state: u64 = chunks.map(|chunk| chunk.length).sum();
        self.most_state = self.most_state.max(state);
        self.most_disk = self.most_disk.max(disk);
        self.rows = manifest.counters.rows_read;
        self.late = manifest.counters.rows_late;
        let of_day = self.rows % days.per_day();
        // The first epoch after the third hour of each night.
        let day = (self.rows / days.per_day()) as usize;
        let is_night = of_day > BUSY * days.per_minute + 180 * NIGHT;
        if is_night && self.state_at_night.len() <= day {
            self.state_at_night.push(state);
            self.disk_at_night.push(disk);
        }
    }
}
