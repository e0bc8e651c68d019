//! [`Builder`]: walks the plans of a pipeline's statements and adds their nodes to one graph.
//!
//! **Invariant:** nodes are added inputs first, so the graph is in topological order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{Distinct, JoinType, LogicalPlan};
use tidemill_model::{Error, Kind, Place, Result};
use tidemill_runtime::{Graph, NodeId, NodeKind, OperatorFactory, Reentrance, Route};

use super::closing::Most;
use super::pending::Stream;
use super::refuse::at_word;
use super::sources::Placed;
use super::statement::{Statement, Target};
use super::versioned::Versioned;
use super::{OpenTable, SinkPlan, StreamPlan, ViewPlan, fingerprint};
use crate::catalog::{Catalog, Side};
use crate::language::Pipeline;
use crate::session::guarded::{Chain, Failing, Guarded, OnItsWay, Step, arrow_schema, columns};
use crate::session::{AsofNode, DedupNode, Meaning, WindowNode, lift, lineage};
use crate::stream::aggregate::Emission;
use crate::stream::transform::TransformFactory;

/// A graph while it grows.
pub(super) struct Builder<'a> {
    pub(super) catalog: &'a Catalog,
    pub(super) pipeline: &'a Pipeline,
    pub(super) side: Side,
    pub(super) state: &'a SessionState,
    pub(super) open: &'a OpenTable,
    pub(super) graph: Graph,
    pub(super) sources: BTreeMap<String, Placed>,
    pub(super) views: Vec<ViewPlan>,
    pub(super) sinks: Vec<SinkPlan>,
    pub(super) notes: Vec<String>,
    /// Whether changes are held back on their way to some sink.
    pub(super) thins: bool,
    /// Whether late rows are waited for somewhere.
    pub(super) waits: bool,
}

/// What is being walked: the statement, and when its results go out.
#[derive(Clone, Copy)]
pub(super) struct Walk<'s> {
    pub(super) statement: &'s Statement,
    pub(super) emission: Emission,
    /// What is wanted of the ranks that a node below gives.
    pub(super) most: Option<Most>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(
        catalog: &'a Catalog,
        pipeline: &'a Pipeline,
        side: Side,
        state: &'a SessionState,
        open: &'a OpenTable,
    ) -> Builder<'a> {
        Builder {
            catalog,
            pipeline,
            side,
            state,
            open,
            graph: Graph::default(),
            sources: BTreeMap::new(),
            views: Vec::new(),
            sinks: Vec::new(),
            notes: Vec::new(),
            thins: false,
            waits: false,
        }
    }

    /// Adds the nodes of a statement.
    pub(super) fn add_statement(&mut self, statement: &Statement) -> Result<()> {
        self.notes.extend(statement.notes.iter().cloned());
        let emission = match &statement.target {
            Target::Sink(_) if !self.pipeline.emit_changes && self.lateness(statement) > 0 => Emission::Corrected,
            Target::Sink(_) if !self.pipeline.emit_changes => Emission::Once,
            Target::Sink(_) | Target::View(_) => Emission::Changes,
        };
        let stream = self.walk(&statement.plan, Walk { statement, emission, most: None })?;
        if let Target::Sink(insert) = &statement.target
            && emission == Emission::Changes
            && stream.changes
            && !self.takes_changes(statement)
        {
            let message = format!("`{}` takes no changes, which emit = 'changes' would give it", insert.target);
            return Err(Error::new(Kind::Plan, "P149", message)
                .at(&insert.place)
                .fact("declare the table with write = 'upsert' and a PRIMARY KEY, or with format = 'debezium_json'")
                .fact("or leave emit out, so that each window is written once, when it has closed"));
        }
        match &statement.target {
            Target::Sink(insert) => self.add_sink(statement, insert, stream),
            Target::View(view) => self.add_view(statement, view, stream),
        }
    }

    pub(super) fn finish(mut self) -> StreamPlan {
        if self.pipeline.emit_every.is_some() && !self.thins {
            self.notes.push("emit_every has no effect here: no INSERT writes rows that change".to_owned());
        }
        if !self.pipeline.lateness.is_zero() && !self.waits {
            self.notes.push("allowed_lateness has no effect here: nothing has windows or waits for time".to_owned());
        }
        let fingerprint = fingerprint(&self.graph);
        StreamPlan { graph: self.graph, views: self.views, sinks: self.sinks, fingerprint, notes: self.notes }
    }

    /// The rows of a plan.
    pub(super) fn walk(&mut self, plan: &LogicalPlan, walk: Walk<'_>) -> Result<Stream> {
        let place = &walk.statement.place;
        match plan {
            LogicalPlan::TableScan(scan) => {
                let mut stream = self.scan(scan, walk.statement)?;
                let schema = Arc::clone(&scan.projected_schema);
                // Rows without any column could not be counted.
                if !schema.fields().is_empty() && schema.fields() != stream.schema().fields() {
                    stream.project(columns(&schema), schema);
                }
                Ok(stream)
            }
            LogicalPlan::Projection(node) => {
                let most = Most::below(&node.expr, &node.input).or(walk.most);
                let mut stream = self.walk(&node.input, Walk { most, ..walk })?;
                stream.project(node.expr.clone(), Arc::clone(&node.schema));
                Ok(stream)
            }
            LogicalPlan::Filter(node) => {
                let most = Most::within(node, walk.most);
                let mut stream = self.walk(&node.input, Walk { most, ..walk })?;
                stream.filter(node.predicate.clone());
                Ok(stream)
            }
            LogicalPlan::SubqueryAlias(node) => {
                let mut stream = self.walk(&node.input, walk)?;
                stream.rename(Arc::clone(&node.schema));
                Ok(stream)
            }
            LogicalPlan::Union(node) => self.union(plan, &node.inputs, walk),
            LogicalPlan::Aggregate(node) => self.aggregate(plan, node, walk),
            LogicalPlan::Distinct(Distinct::All(_)) => Err(not_yet(place, "distinct", "DISTINCT here")),
            LogicalPlan::Distinct(Distinct::On(_)) => Err(not_yet(place, "on", "DISTINCT ON here")),
            LogicalPlan::Join(join) => self.join(plan, join, walk),
            LogicalPlan::Sort(node) if node.fetch.is_none() => {
                // Rows of a relation have no order; the choice of DISTINCT ON is made below.
                self.walk(&node.input, walk)
            }
            LogicalPlan::Sort(_) | LogicalPlan::Limit(_) => Err(not_yet(place, "limit", "LIMIT").fact(
                "rows of a stream never end; for the first of each window filter by \
                     ROW_NUMBER() OVER (PARTITION BY window_start ORDER BY …) <= N",
            )),
            LogicalPlan::Window(node) => self.window(plan, node, walk),
            LogicalPlan::EmptyRelation(_) | LogicalPlan::Values(_) => {
                Err(Error::new(Kind::Plan, "P138", "this query reads no dataset, so it has nothing to wait for")
                    .at(place)
                    .fact("read a table in FROM; constants can be joined to it"))
            }
            LogicalPlan::Unnest(_) => Err(not_yet(place, "unnest", "UNNEST")),
            LogicalPlan::RecursiveQuery(_) => Err(not_yet(place, "recursive", "WITH RECURSIVE")),
            other => match (WindowNode::of(other), AsofNode::of(other), DedupNode::of(other)) {
                (Some(node), ..) => self.windows(node, walk),
                (_, Some(node), _) => self.asof(other, node, walk),
                (.., Some(node)) => self.dedup(other, node, walk),
                _ => Err(not_yet(place, "select", &format!("the step {}", other.display()))),
            },
        }
    }

    fn union(&mut self, plan: &LogicalPlan, inputs: &[Arc<LogicalPlan>], walk: Walk<'_>) -> Result<Stream> {
        let schema = Arc::clone(plan.schema());
        let mut nodes = Vec::with_capacity(inputs.len());
        let (mut changes, mut settled) = (false, true);
        for input in inputs {
            let mut stream = self.walk(input, walk)?;
            if stream.schema().fields() != schema.fields() {
                stream.project(columns(stream.schema()), Arc::clone(&schema));
            }
            changes |= stream.changes;
            settled &= stream.settled;
            nodes.push(self.place(&stream, walk.statement)?);
        }
        let text = format!("union of {}", nodes.len());
        let steps = self.guarded(&Chain::over(Arc::clone(&schema)), Vec::new(), None, walk.statement);
        let definition = text.clone();
        let place = walk.statement.place.clone();
        let factory = TransformFactory { steps, text, definition, place, reentrance: None };
        let union = self.add_operator(walk.statement, "union", Arc::new(factory));
        for (input, node) in nodes.into_iter().enumerate() {
            self.graph.connect(node, union, input, Route::Forward);
        }
        Ok(Stream::of(union, schema, changes).settled(settled))
    }

    /// The node whose output is the stream after its pending steps.
    pub(super) fn place(&mut self, stream: &Stream, statement: &Statement) -> Result<NodeId> {
        if stream.is_plain() {
            return Ok(stream.node);
        }
        let (steps, text) = stream.chain.compiled().map_err(|error| uncompiled(&error, &statement.place))?;
        let steps = self.guarded(&stream.chain, steps, stream.time, statement);
        let definition = stream.chain.definition();
        let reentrance = reentrance(stream);
        let place = statement.place.clone();
        let factory = TransformFactory { steps, text, definition, place, reentrance };
        let node = self.add_operator(statement, "select", Arc::new(factory));
        self.graph.connect(stream.node, node, 0, Route::Forward);
        Ok(node)
    }

    /// The steps of a chain, with what becomes of rows that fail in it.
    pub(super) fn guarded(
        &self,
        chain: &Chain,
        steps: Vec<Step>,
        time: Option<usize>,
        statement: &Statement,
    ) -> Arc<Guarded> {
        let way = OnItsWay::to(&statement.name, &statement.place);
        Arc::new(Guarded::new(steps, Failing::of(chain, self.pipeline.on_error, way, time)))
    }

    /// The column of a plan's result that tells the event time of its rows.
    pub(super) fn time_of(&self, plan: &LogicalPlan) -> Option<usize> {
        self.meanings(plan).iter().position(|meaning| matches!(meaning, Meaning::Time { .. }))
    }

    /// Adds an operator under a name that begins with the statement's.
    pub(super) fn add_operator(
        &mut self,
        statement: &Statement,
        kind: &str,
        factory: Arc<dyn OperatorFactory>,
    ) -> NodeId {
        let factory: Arc<dyn OperatorFactory> = match &statement.functions {
            none if none.is_empty() => factory,
            called => Arc::new(Versioned { step: factory, functions: called.clone() }),
        };
        let base = format!("{}.{kind}", statement.name);
        let mut name = base.clone();
        let mut number = 1;
        while self.graph.nodes.iter().any(|node| node.name == name) {
            number += 1;
            name = format!("{base}{number}");
        }
        self.graph.add(name, NodeKind::Operator(factory))
    }

    /// What the columns of a plan say about time.
    pub(super) fn meanings(&self, plan: &LogicalPlan) -> Vec<Meaning> {
        let project = self.catalog.project();
        lineage(plan, &|name| Some(project.datasets.get(name)?.watermark.as_ref()?.column.clone()))
    }
}

/// What a row must have that enters before the pending steps of a stream again. Rows that may be taken back cannot: what
/// takes back such a row leaves no letter. Nor can those of which two columns have one name, as letters go by names.
fn reentrance(stream: &Stream) -> Option<Reentrance> {
    let schema = arrow_schema(stream.chain.input());
    let names: BTreeSet<&String> = schema.fields().iter().map(|field| field.name()).collect();
    let whole = !stream.changes && names.len() == schema.fields().len();
    whole.then(|| Reentrance { read: stream.chain.shown(), schema: Arc::clone(&schema) })
}

/// A construct that streams do not have yet.
pub(super) fn not_yet(place: &Place, word: &str, what: &str) -> Error {
    let at = at_word(place, word).unwrap_or_else(|| place.clone());
    Error::new(Kind::Plan, "P130", format!("{what} is not available in a stream yet")).at(&at)
}

/// An expression that cannot be evaluated row by row.
pub(super) fn uncompiled(error: &datafusion::error::DataFusionError, place: &Place) -> Error {
    lift(error, place)
}

/// Words for a kind of join.
pub(super) fn join_words(join_type: JoinType) -> &'static str {
    match join_type {
        JoinType::Inner => "JOIN",
        JoinType::Left | JoinType::Right => "outer JOIN",
        JoinType::Full => "FULL JOIN",
        _ => "this kind of JOIN",
    }
}
