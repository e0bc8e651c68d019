//! [`World`]: what survives every process: the disk, the topics, the tables; and [`Running`], a process on it.
//!
//! **Invariant:** a process reaches the world through its [`Process`] only, and takes nothing with it when it dies.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use fastrand::Rng;
use tidemill_checkpoint::Checkpoints;
use tidemill_model::{Clock, Result, Timestamp};
use tidemill_runtime::exec::{Coordinator, Dataflow, Job, Lane, Limits, Progress, Step, StopFlag, ViewNode, Views};
use tidemill_runtime::{
    Background, ErrorLimit, Graph, NodeKind, OperatorFactory, ReadHints, Route, SourceNode, SourceTime, StateMemory,
};

use super::dimension::{Dimension, Errands, MeetFactory};
use super::disk::{Disk, Mount};
use super::operators::{HoldFactory, Map, TimeGate, TotalsFactory, WindowsFactory, gated_schema};
use super::scenario::{Kind, Scenario};
use super::table::{Table, TableSink};
use super::topic::{Row, Topic, TopicSource};
use super::weather::Process;
use crate::VirtualClock;

/// The pipeline's name.
pub(super) const PIPELINE: &str = "simulated";
/// The view's name.
pub(super) const VIEW: &str = "totals";

/// What survives.
#[derive(Debug)]
pub(super) struct World {
    /// What is simulated.
    pub(super) scenario: Scenario,
    /// The present.
    pub(super) clock: Arc<VirtualClock>,
    /// Manifests and state.
    pub(super) disk: Arc<Disk>,
    /// What is read.
    pub(super) topics: Vec<Arc<Topic>>,
    /// Every row that was neither left out nor failed.
    pub(super) rows: Arc<Table>,
    /// Each window once.
    pub(super) windows: Arc<Table>,
    /// What rows are looked up in.
    pub(super) dimension: Arc<Dimension>,
    /// Every row with the version of the dimension that it met.
    pub(super) met: Arc<Table>,
    /// Faults left.
    pub(super) faults: Arc<AtomicU32>,
    next_id: i64,
    left: usize,
}

impl World {
    /// The world before the first process.
    #[must_use]
    pub(super) fn new(scenario: Scenario, random: &mut Rng) -> World {
        let clock = Arc::new(VirtualClock::at(Timestamp(1_767_225_600_000_000)));
        let disk = Disk::new(&clock, scenario.list_lag);
        let topic = |(number, kind): (usize, &Kind)| {
            let splits = if *kind == Kind::Endless { scenario.splits } else { 0 };
            Topic::new(if number == 0 { "a" } else { "b" }, *kind, splits)
        };
        let topics = scenario.sources.iter().enumerate().map(topic).collect();
        let (rows, windows, met) = (Table::new(scenario.piecemeal), Table::new(false), Table::new(false));
        let dimension = Arc::default();
        let faults = Arc::new(AtomicU32::new(scenario.faults));
        let left = scenario.rows;
        let mut world =
            World { scenario, clock, disk, topics, rows, windows, dimension, met, faults, next_id: 0, left };
        world.begin(random);
        world
    }

    /// Every endless split has a row, and what is bounded is all there.
    fn begin(&mut self, random: &mut Rng) {
        for topic in self.topics.clone() {
            match topic.kind {
                Kind::Endless => {
                    for split in 0..topic.split_count() {
                        let row = self.row(random, true);
                        topic.push(split, row);
                    }
                }
                Kind::Files => {}
                Kind::Bounded => {
                    let each = self.left / self.topics.len() / self.scenario.splits + 1;
                    for _ in 0..self.scenario.splits {
                        let rows = (0..each).map(|_| self.row(random, false)).collect();
                        topic.add_split(rows);
                    }
                }
            }
        }
    }

    /// The world goes on: rows arrive. `false` when nothing will ever arrive any more.
    pub(super) fn arrive(&mut self, random: &mut Rng) -> bool {
        if random.u32(0..4) == 0 {
            self.dimension.change();
        }
        let open: Vec<_> = self.topics.iter().filter(|topic| topic.kind != Kind::Bounded).cloned().collect();
        if self.left == 0 || open.is_empty() {
            return false;
        }
        let topic = &open[random.usize(0..open.len())];
        let rows = (1 + random.usize(0..12)).min(self.left);
        self.left -= rows;
        if topic.kind == Kind::Files {
            let rows = (0..rows).map(|_| self.row(random, false)).collect();
            topic.add_split(rows);
            return true;
        }
        if self.scenario.grows && random.u32(0..8) == 0 {
            topic.add_split(Vec::new());
        }
        let split = random.usize(0..topic.split_count());
        for _ in 0..rows {
            let row = self.row(random, false);
            topic.push(split, row);
        }
        true
    }

    fn row(&mut self, random: &mut Rng, timely: bool) -> Row {
        let id = self.next_id;
        self.next_id += 1;
        let disorder = i64::try_from(self.scenario.disorder.as_micros()).unwrap_or(0);
        let at = self.clock.now().0 - if disorder > 0 { random.i64(0..disorder) } else { 0 };
        let at = (timely || random.u32(0..40) > 0).then_some(at);
        Row { id, key: random.i64(0..self.scenario.keys), at }
    }

    /// The dataflow of a process.
    #[must_use]
    pub(super) fn graph(&self, process: &Arc<Process>) -> Graph {
        let mut graph = Graph::default();
        let mut sources = Vec::new();
        for (number, topic) in self.topics.iter().enumerate() {
            let source = TopicSource {
                topic: Arc::clone(topic),
                process: Arc::clone(process),
                batch: self.scenario.batch,
                seed: self.scenario.seed.wrapping_add(process.number as u64),
            };
            let name = if number == 0 { "a" } else { "b" };
            sources.push(graph.add(name, NodeKind::Source(self.source_node(name, Arc::new(source)))));
        }
        let operator = |factory: Arc<dyn OperatorFactory>| NodeKind::Operator(factory);
        let map = graph.add("map", operator(Arc::new(Map)));
        let totals = graph.add("totals", operator(Arc::new(TotalsFactory)));
        let size = i64::try_from(self.scenario.window.as_micros()).unwrap_or(1);
        let windows = graph.add("windows", operator(Arc::new(WindowsFactory { size })));
        let sink = |table: &Arc<Table>| {
            let sink = TableSink { table: Arc::clone(table), process: Arc::clone(process) };
            NodeKind::Sink(Arc::new(sink))
        };
        let hold = self.scenario.hold.map(|every| graph.add("hold", operator(Arc::new(HoldFactory { every }))));
        let all = graph.add("rows", sink(&self.rows));
        let finals = graph.add("finals", sink(&self.windows));
        let (dimension, of) = (Arc::clone(&self.dimension), Arc::clone(process));
        let meet = graph.add("meet", operator(Arc::new(MeetFactory { dimension, process: of })));
        let met = graph.add("met", sink(&self.met));
        for (input, source) in sources.into_iter().enumerate() {
            graph.connect(source, map, input, Route::Forward);
        }
        graph.connect(map, totals, 0, Route::Hash(vec![1]));
        graph.connect(map, windows, 0, Route::Hash(vec![1]));
        match hold {
            None => graph.connect(map, all, 0, Route::Forward),
            Some(hold) => {
                graph.connect(map, hold, 0, Route::Hash(vec![1]));
                graph.connect(hold, all, 0, Route::Forward);
            }
        }
        graph.connect(windows, finals, 0, Route::Forward);
        graph.connect(map, meet, 0, Route::Hash(vec![0]));
        graph.connect(meet, met, 0, Route::Hash(vec![1]));
        graph
    }

    fn source_node(&self, name: &str, source: Arc<TopicSource>) -> SourceNode {
        SourceNode {
            dataset: name.to_owned(),
            source,
            hints: ReadHints { event_time: Some("at".to_owned()), ..ReadHints::default() },
            decoder: None,
            gate: Arc::new(|| Ok(Box::new(TimeGate))),
            time: Some(SourceTime {
                delay: self.scenario.disorder,
                idle: self.scenario.idle,
                max_future: None,
                max_skew: self.scenario.max_skew,
                start: None,
            }),
            schema: gated_schema(),
            rules: Arc::default(),
            changes: false,
        }
    }

    /// Starts a process with so many lanes.
    ///
    /// # Errors
    /// What recovery answers.
    pub(super) fn start(&self, process: &Arc<Process>, lanes: usize, random: &mut Rng) -> Result<Running> {
        let mount = Mount { disk: Arc::clone(&self.disk), process: Arc::clone(process) };
        let published = Arc::new(Views::default());
        let errands = Arc::new(Errands::default());
        let scenario = &self.scenario;
        let job = Job {
            pipeline: PIPELINE.to_owned(),
            graph: self.graph(process),
            fingerprint: "1".to_owned(),
            trigger: scenario.trigger.clone(),
            checkpoint: scenario.checkpoint,
            lanes,
            views: vec![ViewNode { view: VIEW.to_owned(), node: "totals".to_owned() }],
            checkpoints: Arc::new(Checkpoints::new(Arc::new(mount), PIPELINE)),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            published: Arc::clone(&published),
            progress: Arc::new(Progress::default()),
            background: Arc::clone(&errands) as Arc<dyn Background>,
            limits: Limits {
                epoch_rows: scenario.epoch_rows,
                queue_batches: scenario.queue_batches,
                discovery: Duration::from_millis(200),
                ..Limits::default()
            },
            memory: StateMemory::default(),
            errors: ErrorLimit::None,
            anew: None,
            letters: None,
        };
        let Dataflow { lanes, mut coordinator, .. } = Dataflow::new(job)?;
        let stop = StopFlag::default();
        coordinator.stop_by(stop.clone());
        let _ = process.take_stall();
        // Some are slow and some are fast, in each process others.
        let mut turns = Vec::new();
        for actor in 0..=lanes.len() + 1 {
            turns.extend(std::iter::repeat_n(actor, 1 + random.usize(0..6)));
        }
        let asleep = vec![self.clock.now(); lanes.len() + 2];
        Ok(Running { process: Arc::clone(process), lanes, coordinator, errands, published, stop, turns, asleep })
    }
}

/// A process that is running.
pub(super) struct Running {
    /// What it may do to the world.
    pub(super) process: Arc<Process>,
    /// Its lanes.
    pub(super) lanes: Vec<Lane>,
    /// Decides about its epochs.
    pub(super) coordinator: Coordinator,
    /// What it does beside its lanes.
    errands: Arc<Errands>,
    /// Its views.
    pub(super) published: Arc<Views>,
    /// Asks it to end.
    pub(super) stop: StopFlag,
    turns: Vec<usize>,
    /// Until when each lane, then the coordinator, then what is done beside them, is held by a call.
    asleep: Vec<Timestamp>,
}

/// What a turn of a process came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Something was done.
    Worked,
    /// There was nothing to do.
    Idle,
    /// It has ended.
    Ended,
}

impl Running {
    /// Steps one of its threads, whose turn it is by chance, unless a call holds it.
    ///
    /// # Errors
    /// Whatever the dataflow answers.
    pub(super) fn step(&mut self, now: Timestamp, random: &mut Rng) -> Result<Turn> {
        let actor = self.turns[random.usize(0..self.turns.len())];
        self.step_actor(actor, now)
    }

    /// Lets the next step of a lane, or of the coordinator as the last, take so long.
    #[cfg(test)]
    pub(super) fn hold(&mut self, actor: usize, until: Timestamp) {
        self.asleep[actor] = until;
    }

    /// Steps a lane, or the coordinator, whose number is that of the lanes, or what is done beside them, which is the next.
    ///
    /// # Errors
    /// Whatever the dataflow answers.
    pub(super) fn step_actor(&mut self, actor: usize, now: Timestamp) -> Result<Turn> {
        if self.asleep[actor] > now {
            return Ok(Turn::Idle);
        }
        let beside = actor > self.lanes.len();
        let turn = match self.lanes.get_mut(actor) {
            None if beside => Ok(if self.errands.run_one() { Turn::Worked } else { Turn::Idle }),
            Some(lane) => lane.step().map(|worked| if worked { Turn::Worked } else { Turn::Idle }),
            None => self.coordinator.step().map(|step| match step {
                Step::Worked => Turn::Worked,
                Step::Wait(_) => Turn::Idle,
                Step::Ended => Turn::Ended,
            }),
        };
        self.asleep[actor] = now.plus(self.process.take_stall());
        turn
    }
}
