//! [`Job`]: what to run and with what; [`Dataflow`] is the same made ready: recovered, restored, waiting to be stepped.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidemill_checkpoint::{Checkpoints, Fate, Manifest, Recovery, SourceProgress, recover};
use tidemill_model::{Clock, Epoch, Error, Kind, Result, Trigger, Watermark};

use super::board::Board;
use super::command::{Ack, Command};
use super::coordinator::{Again, Coordinator};
use super::exchange::{Bell, EdgeQueues};
use super::lane::Lane;
use super::progress::Progress;
use super::rebuild::{Anew, Rebuild};
use super::reentry::{Reentering, Reentry};
use super::restore::restore;
use super::tables::Tables;
use super::views::Views;
use crate::{Background, Boundedness, ErrorLimit, Graph, NodeKind, Route, SinkCommitter, StateMemory};

/// A pipeline to run with the stream executor.
#[derive(Clone)]
pub struct Job {
    /// The pipeline.
    pub pipeline: String,
    /// Its dataflow.
    pub graph: Graph,
    /// The hash of the plan's stateful part, for the manifest.
    pub fingerprint: String,
    /// When it works.
    pub trigger: Trigger,
    /// How often `continuous` commits an epoch.
    pub checkpoint: Duration,
    /// How many lanes.
    pub lanes: usize,
    /// Its materialized views.
    pub views: Vec<ViewNode>,
    /// Where manifests and state lie.
    pub checkpoints: Arc<Checkpoints>,
    /// The present.
    pub clock: Arc<dyn Clock>,
    /// Where committed view rows are published for readers in this process.
    pub published: Arc<Views>,
    /// What others may watch.
    pub progress: Arc<Progress>,
    /// Reads tables that rows are looked up in again while the job runs.
    pub background: Arc<dyn Background>,
    /// Bounds of memory.
    pub limits: Limits,
    /// What the states of its operators share.
    pub memory: StateMemory,
    /// How many rows of an epoch may fail in expressions.
    pub errors: ErrorLimit,
    /// The results that are computed anew, over the input that is on record and no row more, and switched in one epoch,
    /// with which the job ends. `None`: goes on from the newest manifest.
    pub anew: Option<Anew>,
    /// Dead letters that enter again, in the place of what the sources have: in one epoch, with which the job ends.
    /// `None`: the sources are read.
    pub letters: Option<Reentry>,
}

/// A materialized view and the node whose state is its rows.
#[derive(Debug, Clone)]
pub struct ViewNode {
    /// The view.
    pub view: String,
    /// The node.
    pub node: String,
}

/// Bounds of memory. The defaults suit a small machine.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Rows that a lane takes into one epoch before it asks for a barrier and waits for it.
    pub epoch_rows: u64,
    /// Bytes of dead letters that a lane keeps before it does the same.
    pub dead_bytes: usize,
    /// Batches that wait in one exchange queue before its lane stops pulling.
    pub queue_batches: usize,
    /// How often new splits are looked for while following.
    pub discovery: Duration,
    /// Bytes of memory that the states of all operators take together; what the project says unless given.
    pub state_bytes: Option<usize>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            epoch_rows: 4_000_000,
            dead_bytes: 64 << 20,
            queue_batches: 16,
            discovery: Duration::from_secs(1),
            state_bytes: None,
        }
    }
}

/// Asks a running job to end after the epoch in hand.
#[derive(Debug, Clone, Default)]
pub struct StopFlag {
    own: Arc<AtomicBool>,
    /// What asks as well.
    above: Option<Arc<StopFlag>>,
}

impl StopFlag {
    /// A flag that is set when this one is, and that may be set without it.
    #[must_use]
    pub fn child(&self) -> StopFlag {
        StopFlag { own: Arc::default(), above: Some(Arc::new(self.clone())) }
    }

    /// Asks.
    pub fn stop(&self) {
        self.own.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// Whether it was asked.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.own.load(std::sync::atomic::Ordering::Relaxed) || self.above.as_ref().is_some_and(|above| above.is_set())
    }
}

/// What lanes and coordinator share.
pub(crate) struct Shared {
    /// Board of each source node, by node number.
    pub(crate) boards: BTreeMap<usize, Arc<Mutex<Board>>>,
    /// Commands to each lane.
    pub(crate) commands: Vec<Mutex<VecDeque<Command>>>,
    /// The last tick that each lane has read to its end.
    pub(crate) quiet: Vec<AtomicU64>,
    /// Barriers that lanes have passed, with what they staged.
    pub(crate) acks: Mutex<Vec<Ack>>,
    /// A lane has reached its bound for one epoch.
    pub(crate) wants_barrier: AtomicBool,
    /// Rows read since the last barrier, over all lanes; a continuous epoch without any is not worth a manifest.
    pub(crate) rows_since_barrier: AtomicU64,
    /// Wakes each lane.
    pub(crate) lane_bells: Vec<Bell>,
    /// Wakes the coordinator.
    pub(crate) bell: Bell,
}

/// A job made ready to run.
pub struct Dataflow {
    /// The lanes, to be stepped by whoever drives.
    pub lanes: Vec<Lane>,
    /// The one that decides about epochs.
    pub coordinator: Coordinator,
    pub(crate) shared: Arc<Shared>,
}

impl Dataflow {
    /// Recovers and restores: commits again what the newest manifest prepared, removes what was staged after it,
    /// opens sources at its offsets and gives operators their state.
    ///
    /// # Errors
    /// Plan, when the state on record was computed by another query; whatever sources, sinks and the store answer.
    pub fn new(mut job: Job) -> Result<Dataflow> {
        let latest = job.checkpoints.latest()?;
        let resumed = match (&job.anew, latest) {
            (Some(_), latest) => latest,
            (None, latest) => match recover(latest, &job.graph.fingerprints()) {
                Recovery::Fresh => None,
                Recovery::Resume(manifest) => Some(*manifest),
                Recovery::Changed { epoch, nodes } => return Err(changed(&job.pipeline, epoch, &nodes)),
            },
        };
        let mut committers = open_committers(&job.graph)?;
        settle_sinks(&mut committers, resumed.as_ref(), &job)?;
        job.checkpoints.clean_after(resumed.as_ref().map_or(Epoch::NONE, |m| m.epoch))?;
        let rebuild = job.anew.take().map(|anew| Rebuild::of(&mut job, anew));
        // Letters that enter at a step change nothing of what its state came through.
        let fingerprints = job.graph.fingerprints();
        let letters = job.letters.take();
        let reentering = letters.map(|letters| Reentering::of(&mut job, letters)).transpose()?;

        let lanes = job.lanes.max(1);
        let to_present = !matches!(job.trigger, Trigger::Continuous);
        let boards = open_boards(&job, resumed.as_ref(), rebuild.as_ref(), reentering.as_ref());
        let shared = Arc::new(Shared {
            boards,
            commands: (0..lanes).map(|_| Mutex::default()).collect(),
            quiet: (0..lanes).map(|_| AtomicU64::new(0)).collect(),
            acks: Mutex::default(),
            wants_barrier: AtomicBool::new(false),
            rows_since_barrier: AtomicU64::new(0),
            lane_bells: (0..lanes).map(|_| Bell::default()).collect(),
            bell: Bell::default(),
        });
        let first = resumed.as_ref().map_or(Epoch::NONE, |manifest| manifest.epoch).next();
        let (tables, shelves) = Tables::read(&job, first, resumed.as_ref().filter(|_| rebuild.is_none()))?;
        let queues = exchange_queues(&job.graph, lanes);
        let mut ready = Vec::with_capacity(lanes);
        for lane in 0..lanes {
            let anew = rebuild.is_some();
            let (division, manner) = ((lane, lanes), (to_present, anew));
            ready.push(Lane::new(&job, division, manner, &queues, (&shelves, first), Arc::clone(&shared))?);
        }
        let mut kept = BTreeSet::new();
        if rebuild.is_none() {
            if let Some(manifest) = &resumed {
                kept = restore(&job, manifest, &mut ready)?;
            }
            raise(&mut ready)?;
        }
        let again = Again { rebuild, reentering, fingerprints };
        let coordinator = Coordinator::new(job, (resumed, again), kept, committers, tables, Arc::clone(&shared));
        Ok(Dataflow { lanes: ready, coordinator, shared })
    }
}

impl Dataflow {
    /// What the states of its operators take of memory.
    #[must_use]
    pub fn memory(&self) -> StateMemory {
        self.coordinator.memory()
    }
}

fn changed(pipeline: &str, epoch: Epoch, nodes: &[(String, Fate)]) -> Error {
    let message = format!("the query of `{pipeline}` changed: its state was computed by another one");
    let nodes: Vec<String> = nodes.iter().map(|(node, fate)| format!("{node} ({})", fate.word())).collect();
    Error::new(Kind::Plan, "P150", message)
        .fact(format!("the state on record is of epoch {epoch}; these steps differ: {}", nodes.join(", ")))
        .fact(format!("compute it anew from the beginning of the input: tidemill run {pipeline} --rebuild"))
        .fact(format!("or put the query back; tidemill plan {pipeline} says what is kept and what is rebuilt"))
}

fn open_committers(graph: &Graph) -> Result<BTreeMap<String, Box<dyn SinkCommitter>>> {
    let mut committers = BTreeMap::new();
    for node in &graph.nodes {
        if let NodeKind::Sink(sink) = &node.kind {
            committers.insert(node.name.clone(), sink.committer()?);
        }
    }
    Ok(committers)
}

/// Brings every sink to the newest manifest: commits it again unless all have it, removes what was staged after it.
fn settle_sinks(
    committers: &mut BTreeMap<String, Box<dyn SinkCommitter>>,
    resumed: Option<&Manifest>,
    job: &Job,
) -> Result<()> {
    let epoch = resumed.map_or(Epoch::NONE, |manifest| manifest.epoch);
    let unsettled = resumed.filter(|manifest| !manifest.sinks.is_empty());
    let unsettled = match unsettled {
        Some(manifest) if !job.checkpoints.is_published(manifest)? => Some(manifest),
        _ => None,
    };
    let prepared =
        unsettled.iter().flat_map(|manifest| &manifest.sinks).filter(|(_, state)| !state.committables.is_empty());
    for (name, state) in prepared {
        let Some(committer) = committers.get_mut(name) else {
            return Err(orphaned(&job.pipeline, epoch, name));
        };
        let committables: Vec<_> = state.committables.iter().cloned().map(crate::Committable).collect();
        committer.commit(epoch, &committables).map_err(|e| e.context(format!("sink {name}")))?;
    }
    for (name, committer) in committers {
        committer.abort_after(epoch).map_err(|e| e.context(format!("sink {name}")))?;
    }
    Ok(())
}

/// The error of a table that left the pipeline while rows for it wait to be published.
#[must_use]
pub fn orphaned(pipeline: &str, epoch: Epoch, target: &str) -> Error {
    let message = format!("`{pipeline}` no longer writes `{target}`, and its last rows may not be published there yet");
    Error::new(Kind::Plan, "P153", message)
        .fact(format!("the last run ended before it knew that epoch {epoch} had reached every table"))
        .fact(format!("put the INSERT INTO {target} back, run the pipeline once, then take it out"))
}

fn open_boards(
    job: &Job,
    resumed: Option<&Manifest>,
    rebuild: Option<&Rebuild>,
    reentering: Option<&Reentering>,
) -> BTreeMap<usize, Arc<Mutex<Board>>> {
    let once = matches!(job.trigger, Trigger::Once);
    let mut boards = BTreeMap::new();
    for (number, node) in job.graph.nodes.iter().enumerate() {
        if let NodeKind::Source(source) = &node.kind {
            let fresh = SourceProgress::default();
            let from = resumed.and_then(|manifest| manifest.sources.get(&node.name)).unwrap_or(&fresh);
            let (boundedness, time) = (source.source.boundedness(), source.time.clone());
            let board = match (rebuild, reentering) {
                (Some(rebuild), _) => Board::again(boundedness, time, from, rebuild.from.get(&node.name)),
                // What enters at a step holds back nothing.
                (None, Some(reentering)) if reentering.is_of_step(&node.name) => Board::still(Watermark::MAX),
                (None, Some(_)) => Board::still(from.watermark.unwrap_or(Watermark::MIN)),
                (None, None) => Board::new(boundedness, time, once, from),
            };
            boards.insert(number, Arc::new(Mutex::new(board)));
        }
    }
    boards
}

/// Queues of every hash edge, by sending node and place among its outputs.
pub(crate) fn exchange_queues(graph: &Graph, lanes: usize) -> BTreeMap<(usize, usize), EdgeQueues> {
    let mut queues = BTreeMap::new();
    for (from, node) in graph.nodes.iter().enumerate() {
        for (place, edge) in node.outputs.iter().enumerate() {
            if matches!(edge.route, Route::Hash(_)) {
                queues.insert((from, place), EdgeQueues::new(lanes));
            }
        }
    }
    queues
}

/// Tells every node on every lane the time on record, before any lane reads: behind an exchange, rows of a lane that
/// begins sooner would else meet a node that does not know yet what is closed.
fn raise(lanes: &mut [Lane]) -> Result<()> {
    for lane in lanes.iter_mut() {
        lane.raise_all()?;
    }
    // What goes from lane to lane makes others, until all is delivered.
    loop {
        let mut worked = false;
        for lane in lanes.iter_mut() {
            worked |= lane.drain()?;
        }
        if !worked {
            return Ok(());
        }
    }
}

/// Whether every source of the graph ends.
pub(crate) fn all_bounded(graph: &Graph) -> bool {
    graph.nodes.iter().all(|node| match &node.kind {
        NodeKind::Source(source) => source.source.boundedness() == Boundedness::Bounded,
        NodeKind::Operator(_) | NodeKind::Sink(_) => true,
    })
}
