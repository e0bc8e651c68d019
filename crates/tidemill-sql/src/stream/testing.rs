//! [`Flow`]: runs a plan's graph by hand, on one thread, for tests: rows and watermarks in, barriers when asked.
//!
//! **Invariant:** it keeps the laws of the engine: watermarks merge by minimum, barriers reach a node after the rows
//! before them, restored operators see every chunk of every lane.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use tidemill_model::{Clock, Epoch, Error, OptionSpec, Result, Settings, Timestamp, Watermark};
use tidemill_runtime::{
    Batch, Boundedness, Committable, Connector, DatasetSpec, DeadLetter, Environment, EpochEnd, Format, Graph, LateRow,
    NodeKind, Operator, Output, ReadHints, Route, Sink, SinkCommitter, SinkTarget, SinkWriter, Source, Split,
    SplitReader, StateMemory, Stored,
};

use super::{OpenTable, StreamPlan, plan_stream};
use crate::catalog::{Catalog, Formats, Registry, Side};
use crate::language::{Config, Project, Script};

#[derive(Debug)]
struct Midnight;

impl Clock for Midnight {
    fn now(&self) -> Timestamp {
        Timestamp(0)
    }
}

/// A connector that can be opened and holds nothing.
#[derive(Debug)]
struct Shelf;

#[derive(Debug)]
struct ShelfSource;

#[derive(Debug)]
struct ShelfSink;

impl Connector for Shelf {
    fn name(&self) -> &'static str {
        "shelf"
    }

    fn doc(&self) -> &'static str {
        "Nothing."
    }

    fn options(&self) -> &'static [OptionSpec] {
        &[]
    }

    fn discover_schema(&self, _: &DatasetSpec, _: &Environment) -> Result<SchemaRef> {
        Err(Error::internal("not here"))
    }

    fn source(&self, _: &DatasetSpec, _: &Environment) -> Result<Arc<dyn Source>> {
        Ok(Arc::new(ShelfSource))
    }

    fn sink(&self, _: &DatasetSpec, _: &SinkTarget, _: &Environment) -> Result<Arc<dyn Sink>> {
        Ok(Arc::new(ShelfSink))
    }
}

impl Source for ShelfSource {
    fn boundedness(&self) -> Boundedness {
        Boundedness::Unbounded
    }

    fn list_splits(&self) -> Result<Vec<Split>> {
        Ok(Vec::new())
    }

    fn open(&self, _: &Split, _: Option<&tidemill_model::Offset>, _: &ReadHints) -> Result<Box<dyn SplitReader>> {
        Err(Error::internal("not here"))
    }
}

impl Sink for ShelfSink {
    fn writer(&self, _: usize) -> Result<Box<dyn SinkWriter>> {
        Ok(Box::new(ShelfSink))
    }

    fn committer(&self) -> Result<Box<dyn SinkCommitter>> {
        Err(Error::internal("not here"))
    }

    fn guarantee(&self) -> String {
        "none".to_owned()
    }
}

impl SinkWriter for ShelfSink {
    fn write(&mut self, _: &Batch) -> Result<()> {
        Ok(())
    }

    fn prepare(&mut self, _: Epoch) -> Result<Option<Committable>> {
        Ok(None)
    }
}

/// The catalog of these statements.
pub(super) fn catalog(sql: &str) -> Result<Catalog> {
    let root = PathBuf::from("/shop");
    let config = Config::parse(&root, "", &|_| None)?;
    let project = Project::parse(root.clone(), config, &[Script::new("t.sql", sql)])?;
    let state = root.join(".tidemill");
    let env = Environment { state, project: root, clock: Arc::new(Midnight), stores: BTreeMap::new() };
    let make = |_: &str, _: &Settings, _: &SchemaRef| -> Result<Arc<dyn Format>> { Err(Error::internal("not here")) };
    let formats = Formats { names: vec![], columnar: vec![], options: |_| Ok(&[]), make };
    Catalog::new(project, Registry { connectors: vec![Arc::new(Shelf)], formats, tables: Vec::new() }, env)
}

/// The plan of the pipeline `p` of these statements.
pub(super) fn plan(sql: &str, open: &OpenTable) -> Result<StreamPlan> {
    plan_stream(&catalog(sql)?, "p", Side::Live, open)
}

/// State as the engine keeps it: node, then `lane/chunk`, to rows.
pub(super) type State = BTreeMap<String, BTreeMap<String, RecordBatch>>;

/// The watermark of each channel of a node on a lane: by input, edge and sending lane.
type Channels = BTreeMap<(usize, usize, usize), Watermark>;

/// A graph with its operators.
pub(super) struct Flow {
    graph: Graph,
    pub(super) lanes: usize,
    operators: BTreeMap<(usize, usize), Box<dyn Operator>>,
    /// By lane and node.
    watermarks: BTreeMap<(usize, usize), Channels>,
    state: State,
    /// Whether the next snapshot replaces all state.
    whole: bool,
    epoch: u64,
    /// Rows that expressions failed on.
    pub(super) dead: Vec<DeadLetter>,
    /// Rows without weights that reached each sink.
    pub(super) written: BTreeMap<String, Vec<RecordBatch>>,
    /// All that reached each sink.
    pub(super) changed: BTreeMap<String, Vec<Batch>>,
    /// Rows that came late and are kept.
    pub(super) kept_late: Vec<LateRow>,
    /// When the epoch in hand ends, and whether it is the last.
    pub(super) end: EpochEnd,
    /// How many rows snapshots have stored so far.
    pub(super) stored_rows: usize,
    /// The most rows that one call of an operator gave out, and the longest batch.
    pub(super) most_given: usize,
    pub(super) longest_batch: usize,
}

impl Flow {
    /// Starts the graph, from `state` when it is given.
    pub(super) fn start(graph: &Graph, lanes: usize, state: Option<State>) -> Flow {
        let mut operators = BTreeMap::new();
        let memory = little_memory(lanes);
        for (node, what) in graph.nodes.iter().enumerate() {
            let NodeKind::Operator(factory) = &what.kind else { continue };
            for lane in 0..lanes {
                let mut operator = factory.create(lane, lanes).expect("an operator");
                operator.bound(&memory);
                if let Some((_, rows)) = factory.table().and_then(|table| table.read(None).expect("reads the table")) {
                    operator.look_up_in(&rows).expect("takes the table");
                }
                if let Some(chunks) = state.as_ref().and_then(|state| state.get(&what.name)) {
                    let name = |key: &String| key.split_once('/').expect("lane/chunk").1.to_owned();
                    let names: Vec<String> = chunks.keys().map(name).collect();
                    let mut chunks = chunks.iter().map(|(key, rows)| Ok((name(key), rows.clone())));
                    let mut stored = Stored::new((lane, lanes), false, &names, &mut chunks);
                    operator.restore_from(&mut stored).expect("restores");
                }
                operators.insert((lane, node), operator);
            }
        }
        let (state, whole) = (state.unwrap_or_default(), true);
        Flow {
            graph: graph.clone(),
            lanes,
            operators,
            watermarks: BTreeMap::new(),
            state,
            whole,
            epoch: 0,
            dead: Vec::new(),
            written: BTreeMap::new(),
            changed: BTreeMap::new(),
            kept_late: Vec::new(),
            end: EpochEnd { at: Timestamp(0), last: false },
            stored_rows: 0,
            most_given: 0,
            longest_batch: 0,
        }
    }

    fn number(&self, name: &str) -> usize {
        self.graph.nodes.iter().position(|node| node.name == name).unwrap_or_else(|| panic!("no node {name}"))
    }

    /// Accepted rows of a dataset, read on a lane; columns that the plan does not need fall away.
    pub(super) fn rows(&mut self, dataset: &str, lane: usize, rows: &RecordBatch) -> Result<()> {
        let node = self.number(dataset);
        let NodeKind::Source(source) = &self.graph.nodes[node].kind else { panic!("{dataset} is no source") };
        let wanted = source.schema.fields().iter().map(|f| rows.schema().index_of(f.name()).expect("a column"));
        let columns = wanted.map(|at| Arc::clone(rows.column(at))).collect();
        let rows = RecordBatch::try_new(Arc::clone(&source.schema), columns).expect("the source's columns");
        self.emit(lane, node, Output { batches: vec![Batch::inserts(rows)], ..Output::default() })
    }

    /// The watermark of a dataset, on all lanes.
    pub(super) fn watermark(&mut self, dataset: &str, watermark: i64) -> Result<()> {
        let node = self.number(dataset);
        for lane in 0..self.lanes {
            self.forward(lane, node, Watermark(watermark))?;
        }
        Ok(())
    }

    /// Whether a dataset is idle, on all lanes; for the operators that it feeds directly.
    pub(super) fn idle(&mut self, dataset: &str, idle: bool) -> Result<()> {
        let node = self.number(dataset);
        for edge in self.graph.nodes[node].outputs.clone() {
            for lane in 0..self.lanes {
                let Some(operator) = self.operators.get_mut(&(lane, edge.to.0)) else { continue };
                let mut out = Output::default();
                operator.on_input_idle(edge.input, idle, &mut out)?;
                let downstream = out.watermark;
                self.emit(lane, edge.to.0, out)?;
                if let Some(watermark) = downstream {
                    self.forward(lane, edge.to.0, watermark)?;
                }
            }
        }
        Ok(())
    }

    fn emit(&mut self, lane: usize, node: usize, out: Output) -> Result<()> {
        self.dead.extend(out.dead);
        self.kept_late.extend(out.late);
        let given = out.batches.iter().map(Batch::len);
        self.most_given = self.most_given.max(given.clone().sum());
        self.longest_batch = self.longest_batch.max(given.max().unwrap_or(0));
        for batch in out.batches {
            for edge in self.graph.nodes[node].outputs.clone() {
                match &edge.route {
                    Route::Forward => self.take(lane, edge.to.0, edge.input, batch.clone())?,
                    Route::Hash(columns) => {
                        let of = Route::lane_of(&batch.rows, columns, self.lanes).expect("a lane");
                        for to in 0..self.lanes {
                            let keep: BooleanArray = of.iter().map(|of| Some(*of == to)).collect();
                            let part = batch.filter(&keep).expect("filters");
                            if !part.is_empty() {
                                self.take(to, edge.to.0, edge.input, part)?;
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, lane: usize, node: usize, input: usize, batch: Batch) -> Result<()> {
        let Some(operator) = self.operators.get_mut(&(lane, node)) else {
            assert!(matches!(self.graph.nodes[node].kind, NodeKind::Sink(_)) && lane < self.lanes, "no lane {lane}");
            let sink = self.graph.nodes[node].name.clone();
            if batch.weights.is_none() {
                self.written.entry(sink.clone()).or_default().push(batch.rows.clone());
            }
            self.changed.entry(sink).or_default().push(batch);
            return Ok(());
        };
        let mut out = Output::default();
        operator.on_batch(input, batch, &mut out)?;
        self.emit(lane, node, out)?;
        while let Some(operator) = self.operators.get_mut(&(lane, node)).filter(|operator| operator.has_more()) {
            let mut out = Output::default();
            operator.go_on(&mut out)?;
            self.emit(lane, node, out)?;
        }
        Ok(())
    }

    fn forward(&mut self, lane: usize, node: usize, watermark: Watermark) -> Result<()> {
        for (number, edge) in self.graph.nodes[node].outputs.clone().into_iter().enumerate() {
            let lanes = if edge.route == Route::Forward { lane..lane + 1 } else { 0..self.lanes };
            for to in lanes {
                self.risen(to, edge.to.0, (edge.input, node * 100 + number, lane), watermark)?;
            }
        }
        Ok(())
    }

    /// How many channels feed an input of a node on a lane, or all of them.
    fn channels(&self, node: usize, input: Option<usize>) -> usize {
        let edges = self.graph.nodes.iter().flat_map(|from| &from.outputs).filter(|edge| edge.to.0 == node);
        let edges = edges.filter(|edge| input.is_none_or(|input| edge.input == input));
        edges.map(|edge| if edge.route == Route::Forward { 1 } else { self.lanes }).sum()
    }

    fn risen(&mut self, lane: usize, node: usize, channel: (usize, usize, usize), watermark: Watermark) -> Result<()> {
        let input = channel.0;
        let (of_input, all) = (self.channels(node, Some(input)), self.channels(node, None));
        let least = |of: &Channels| if of.len() < all { None } else { of.values().min().copied() };
        let least_of_input = |of: &Channels| {
            let own: Vec<Watermark> = of.iter().filter(|(from, _)| from.0 == input).map(|(_, at)| *at).collect();
            if own.len() < of_input { None } else { own.into_iter().min() }
        };
        let channels = self.watermarks.entry((lane, node)).or_default();
        let (before, before_of_input) = (least(channels), least_of_input(channels));
        channels.insert(channel, watermark);
        let (merged, own) = (least(channels), least_of_input(channels));
        if let (Some(own), Some(operator)) =
            (own.filter(|_| own > before_of_input), self.operators.get_mut(&(lane, node)))
        {
            let mut out = Output::default();
            operator.on_input_watermark(input, own, &mut out)?;
            let downstream = out.watermark;
            self.emit(lane, node, out)?;
            if let Some(watermark) = downstream {
                self.forward(lane, node, watermark)?;
            }
        }
        let Some(merged) = merged.filter(|_| merged > before) else { return Ok(()) };
        let mut out = Output::default();
        if let Some(operator) = self.operators.get_mut(&(lane, node)) {
            operator.on_watermark(merged, &mut out)?;
        }
        let watermark = out.watermark.unwrap_or(merged);
        self.emit(lane, node, out)?;
        self.forward(lane, node, watermark)
    }

    /// A barrier through the whole graph; state is kept as the engine keeps it.
    pub(super) fn barrier(&mut self) -> Result<State> {
        self.epoch += 1;
        let mut fresh: State = BTreeMap::new();
        for node in 0..self.graph.nodes.len() {
            let name = self.graph.nodes[node].name.clone();
            for lane in 0..self.lanes {
                let Some(operator) = self.operators.get_mut(&(lane, node)) else { continue };
                let mut out = Output::default();
                operator.on_epoch_end(self.end);
                operator.before_barrier(&mut out)?;
                let mut chunks = Vec::new();
                operator.snapshot_into(Epoch(self.epoch), &mut |chunk| {
                    chunks.push(chunk);
                    Ok(())
                })?;
                let kept = if self.whole { &mut fresh } else { &mut self.state };
                let kept = kept.entry(name.clone()).or_default();
                for chunk in chunks {
                    let key = format!("{lane}/{}", chunk.name);
                    self.stored_rows += chunk.rows.as_ref().map_or(0, RecordBatch::num_rows);
                    match chunk.rows {
                        Some(rows) => kept.insert(key, rows),
                        None => kept.remove(&key),
                    };
                }
                let caught_up = out.watermark;
                self.emit(lane, node, out)?;
                if let Some(watermark) = caught_up {
                    self.forward(lane, node, watermark)?;
                }
            }
        }
        if std::mem::take(&mut self.whole) {
            self.state = fresh;
        }
        Ok(self.state.clone())
    }

    /// When a node wants an epoch to end.
    pub(super) fn due(&self, node: &str) -> Option<Timestamp> {
        let number = self.number(node);
        (0..self.lanes).filter_map(|lane| self.operators[&(lane, number)].due()).min()
    }

    /// How many late rows a node dropped.
    pub(super) fn late(&self, node: &str) -> u64 {
        let number = self.number(node);
        (0..self.lanes).map(|lane| self.operators[&(lane, number)].late_rows()).sum()
    }
}

/// Three lanes have so little memory together that next to all state lies in the tier.
fn little_memory(lanes: usize) -> StateMemory {
    static FLOWS: AtomicU32 = AtomicU32::new(0);
    if lanes != 3 {
        return StateMemory::default();
    }
    let name = format!("tidemill-flow-{}-{}", std::process::id(), FLOWS.fetch_add(1, Ordering::Relaxed));
    // Thousands of small files come and go: in memory where that is there.
    let shared = PathBuf::from("/dev/shm");
    let folder = if shared.is_dir() { shared } else { std::env::temp_dir() };
    StateMemory::open(2_000, &folder.join(name)).expect("a folder")
}

/// Some rows of a batch, by number.
pub(super) fn some(rows: &RecordBatch, keep: impl Fn(usize) -> bool) -> RecordBatch {
    let keep: BooleanArray = (0..rows.num_rows()).map(|row| Some(keep(row))).collect();
    filter_record_batch(rows, &keep).expect("filters")
}
