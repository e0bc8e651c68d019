//! [`Graph`]: the immutable plan of a dataflow that runs, tests and prints are all given.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use tidemill_model::{Result, Timestamp};

use crate::{Decoder, Gate, OperatorFactory, ReadHints, Sink, Source};

/// The place of a node in [`Graph::nodes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub usize);

/// A dataflow: every lane runs all nodes; edges go to later nodes only.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    /// Nodes in topological order.
    pub nodes: Vec<Node>,
}

/// One node.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its name, unique in the graph and stable over edits that do not concern it: it keys the state.
    pub name: String,
    /// What it does.
    pub kind: NodeKind,
    /// Where its output goes.
    pub outputs: Vec<Edge>,
}

/// What a node does.
#[derive(Clone)]
#[expect(clippy::large_enum_variant, reason = "a graph has few nodes, and they are not moved about")]
pub enum NodeKind {
    /// Pulls splits, decodes, and lets rows through the gate.
    Source(SourceNode),
    /// Transforms.
    Operator(Arc<dyn OperatorFactory>),
    /// Writes to a sink.
    Sink(Arc<dyn Sink>),
}

impl fmt::Debug for NodeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NodeKind::Source(source) => write!(f, "Source({})", source.dataset),
            NodeKind::Operator(factory) => write!(f, "Operator({})", factory.describe()),
            NodeKind::Sink(sink) => write!(f, "Sink({sink:?})"),
        }
    }
}

/// Makes a decoder for each split reader.
pub type DecoderFactory = Arc<dyn Fn() -> Result<Box<dyn Decoder>> + Send + Sync>;
/// Makes a gate for each lane.
pub type GateFactory = Arc<dyn Fn() -> Result<Box<dyn Gate>> + Send + Sync>;

/// A dataset being read.
#[derive(Clone)]
pub struct SourceNode {
    /// The dataset's name.
    pub dataset: String,
    /// Where rows come from.
    pub source: Arc<dyn Source>,
    /// What the plan needs of it.
    pub hints: ReadHints,
    /// Decodes records; `None` when the source gives columns.
    pub decoder: Option<DecoderFactory>,
    /// Accepts rows.
    pub gate: GateFactory,
    /// How the dataset tells time; `None` without WATERMARK.
    pub time: Option<SourceTime>,
    /// The schema after the gate.
    pub schema: SchemaRef,
    /// The rules by which rows are accepted; state depends on them.
    pub rules: Arc<String>,
    /// Whether its records are changes: each is right only behind those before it.
    pub changes: bool,
}

/// How a dataset tells time (WATERMARK FOR and its options).
#[derive(Debug, Clone)]
pub struct SourceTime {
    /// How far behind the newest row the watermark stays.
    pub delay: Duration,
    /// After how long without rows at its end a split stops holding time back.
    pub idle: Duration,
    /// Rows further ahead of the clock do not move the watermark; `None` trusts every row.
    pub max_future: Option<Duration>,
    /// How far ahead of the split that is furthest behind, in all sources, a split may be read; `None` for any distance.
    pub max_skew: Option<Duration>,
    /// The pipeline's first instant.
    pub start: Option<Timestamp>,
}

/// Where a node's output goes.
#[derive(Debug, Clone)]
pub struct Edge {
    /// The receiving node.
    pub to: NodeId,
    /// Which of its inputs.
    pub input: usize,
    /// How rows find their lane.
    pub route: Route,
}

/// How rows find their lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// They stay on theirs.
    Forward,
    /// By the hash of these columns; no columns means lane 0 gets everything.
    Hash(Vec<usize>),
}

impl Graph {
    /// Adds a node; edges to it are added by [`Graph::connect`].
    pub fn add(&mut self, name: impl Into<String>, kind: NodeKind) -> NodeId {
        self.nodes.push(Node { name: name.into(), kind, outputs: Vec::new() });
        NodeId(self.nodes.len() - 1)
    }

    /// Sends `from`'s output to an input of `to`.
    pub fn connect(&mut self, from: NodeId, to: NodeId, input: usize, route: Route) {
        self.nodes[from.0].outputs.push(Edge { to, input, route });
    }
}
