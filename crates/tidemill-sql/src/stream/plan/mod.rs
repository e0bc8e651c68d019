//! [`plan_stream`]: a pipeline's statements as one dataflow.
//!
//! **Invariant:** planning opens sources and sinks but reads no row; the same project gives the same graph, names and
//! fingerprints included.

mod build;
mod changing;
mod choice;
mod closing;
mod group;
mod join;
mod lateness;
mod pending;
mod refuse;
mod running;
mod sources;
mod statement;
mod target;
#[cfg(test)]
mod tests;
mod timed;
mod versioned;
mod window_join;
mod windows;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use datafusion::logical_expr::TableSource;
use tidemill_model::{Error, Kind, Result, Timestamp};
use tidemill_runtime::{Graph, NodeKind, Version, WriteMode};

use crate::catalog::{Catalog, Side};
use crate::language::{Dataset, Pipeline};
use crate::session::WindowSize;
use build::Builder;
pub(crate) use changing::subtracts;
use statement::Statement;

/// The tables that a run looks rows up in.
pub trait SideTables: Send + Sync {
    /// Opens a dataset, as it is now, as a table that DataFusion can read.
    ///
    /// # Errors
    /// As opening it answers.
    fn open(&self, dataset: &Dataset) -> Result<Arc<dyn TableSource>>;

    /// Which content a dataset has now. Conservative default: it cannot be told.
    ///
    /// # Errors
    /// As `open`.
    fn version(&self, dataset: &Dataset) -> Result<Option<Version>> {
        let _ = dataset;
        Ok(None)
    }

    /// How often to ask for that; `None` for never. Conservative default: never.
    fn refresh(&self, dataset: &Dataset) -> Option<Duration> {
        let _ = dataset;
        None
    }
}

impl<F: Fn(&Dataset) -> Result<Arc<dyn TableSource>> + Send + Sync> SideTables for F {
    fn open(&self, dataset: &Dataset) -> Result<Arc<dyn TableSource>> {
        self(dataset)
    }
}

/// See [`SideTables`].
pub type OpenTable = Arc<dyn SideTables>;

/// A pipeline as a dataflow.
#[derive(Debug)]
pub struct StreamPlan {
    /// What runs.
    pub graph: Graph,
    /// Its materialized views.
    pub views: Vec<ViewPlan>,
    /// Its sinks.
    pub sinks: Vec<SinkPlan>,
    /// The hash of everything that stored state depends on.
    pub fingerprint: String,
    /// What a user should know of the plan, in sentences.
    pub notes: Vec<String>,
}

/// A materialized view in a plan.
#[derive(Debug, Clone)]
pub struct ViewPlan {
    /// Its name.
    pub name: String,
    /// The node whose state chunks are its rows.
    pub node: String,
    /// Its columns.
    pub schema: SchemaRef,
    /// The column with the start of the window, if there is one.
    pub window_start: Option<String>,
    /// The column with the end of the window, if there is one.
    pub window_end: Option<String>,
    /// The length of its windows, if there are any.
    pub window_size: Option<WindowSize>,
    /// How long closed windows are kept.
    pub retention: Option<Duration>,
}

/// The end of a row's window, in microseconds, from the value of a column.
pub type WindowEnd = Arc<dyn Fn(i64) -> i64 + Send + Sync>;

impl ViewPlan {
    /// The column that says which window a row is of, and how the window's end follows from it.
    #[must_use]
    pub fn window(&self) -> Option<(String, WindowEnd)> {
        if let Some(column) = &self.window_end {
            return Some((column.clone(), Arc::new(|end| end)));
        }
        let (column, size) = (self.window_start.as_ref()?, self.window_size?);
        // When a session ends, its start does not say.
        if matches!(size, WindowSize::Session { .. }) {
            return None;
        }
        Some((column.clone(), Arc::new(move |start| size.end_of(start))))
    }
}

/// A sink in a plan.
#[derive(Debug, Clone)]
pub struct SinkPlan {
    /// The dataset written, which is also the node's name.
    pub name: String,
    /// How rows change it.
    pub mode: WriteMode,
    /// The columns written.
    pub schema: SchemaRef,
    /// What this path guarantees, in words.
    pub guarantee: String,
}

/// Plans the INSERTs and materialized views of a pipeline over one side of its datasets. `open` is only called when a
/// run starts, for the tables that are looked up in.
///
/// # Errors
/// Plan, with the place and advice, for what cannot be a dataflow; Config, when a source or sink cannot be opened.
pub fn plan_stream(catalog: &Catalog, pipeline: &str, side: Side, open: &OpenTable) -> Result<StreamPlan> {
    plan_stream_from(catalog, pipeline, side, open, None)
}

/// As [`plan_stream`], over the rows whose event time is not before `start` either.
///
/// # Errors
/// As [`plan_stream`].
pub fn plan_stream_from(
    catalog: &Catalog,
    pipeline: &str,
    side: Side,
    open: &OpenTable,
    start: Option<Timestamp>,
) -> Result<StreamPlan> {
    let project = catalog.project();
    let Some(declared) = project.pipelines.get(pipeline) else {
        let known: Vec<&str> = project.pipelines.keys().map(String::as_str).collect();
        let mut error = Error::new(Kind::Config, "C020", format!("no pipeline `{pipeline}`"));
        if let Some(meant) = tidemill_model::nearest(pipeline, known.iter().copied()) {
            error = error.label(format!("did you mean `{meant}`?"));
        }
        return Err(error.fact(format!("pipelines: {}", known.join(", "))));
    };
    let declared = &Pipeline { start: declared.start.max(start), ..declared.clone() };
    let state = crate::session::session_state_with(catalog.functions());
    let statements = Statement::of_pipeline(catalog, declared, side, &state)?;
    if statements.is_empty() {
        return Err(Error::new(Kind::Plan, "P139", format!("the pipeline `{pipeline}` does nothing"))
            .at(&declared.place)
            .fact("add an INSERT INTO or a CREATE MATERIALIZED VIEW to its file"));
    }
    let mut builder = Builder::new(catalog, declared, side, &state, open);
    builder.add_sources(&statements)?;
    for statement in &statements {
        builder.add_statement(statement)?;
    }
    Ok(builder.finish())
}

impl StreamPlan {
    /// The stateful part of the plan: node to fingerprint, sources with an empty one.
    #[must_use]
    pub fn fingerprints(&self) -> Vec<(String, String)> {
        self.graph.fingerprints()
    }
}

impl fmt::Display for StreamPlan {
    /// One line a node, with where its rows go.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for node in &self.graph.nodes {
            let what = match &node.kind {
                NodeKind::Source(source) => {
                    let columns: Vec<&str> = source.schema.fields().iter().map(|c| c.name().as_str()).collect();
                    format!("source ({})", columns.join(", "))
                }
                NodeKind::Operator(factory) => factory.describe(),
                NodeKind::Sink(sink) => format!("sink, {}", sink.guarantee()),
            };
            writeln!(f, "{}: {what}", node.name)?;
            for edge in &node.outputs {
                let route = match &edge.route {
                    tidemill_runtime::Route::Forward => "->",
                    tidemill_runtime::Route::Hash(_) => "=>",
                };
                writeln!(f, "  {route} {}", self.graph.nodes[edge.to.0].name)?;
            }
        }
        Ok(())
    }
}

/// A short stable hash of the stateful nodes.
fn fingerprint(graph: &Graph) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for (name, fingerprint) in graph.fingerprints().iter().filter(|(_, fingerprint)| !fingerprint.is_empty()) {
        for byte in name.bytes().chain([0]).chain(fingerprint.bytes()).chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    format!("{hash:016x}")
}
