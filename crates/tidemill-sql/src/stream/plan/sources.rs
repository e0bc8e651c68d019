//! Sources of a plan: one node for each dataset, read once for all statements.
//!
//! **Invariant:** a source decodes the columns that some statement needs or the gate judges by, and no others.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::logical_expr::{LogicalPlan, TableScan};
use tidemill_model::{Error, Result};
use tidemill_runtime::{Decoder, Gate, NodeId, NodeKind, ReadHints, SourceNode, SourceTime};

use super::build::Builder;
use super::pending::Stream;
use super::statement::Statement;
use crate::language::Dataset;
use crate::session::guarded::looked_up;
use crate::session::{accepted_schema, lift};
use crate::stream::GateRules;

type MakeGate = Arc<dyn Fn() -> Result<Box<dyn Gate>> + Send + Sync>;
type MakeDecoder = Arc<dyn Fn() -> Result<Box<dyn Decoder>> + Send + Sync>;

/// A source that is in the graph.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub(super) node: NodeId,
    pub(super) schema: SchemaRef,
}

impl Builder<'_> {
    /// Adds a node for each dataset that the statements read as a stream.
    pub(super) fn add_sources(&mut self, statements: &[Statement]) -> Result<()> {
        let mut wanted: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut order = Vec::new();
        for statement in statements {
            scans(&statement.plan, self, &mut |scan| {
                let name = scan.table_name.table().to_owned();
                if !order.contains(&name) {
                    order.push(name.clone());
                }
                let columns = wanted.entry(name).or_default();
                for field in scan.projected_schema.fields() {
                    if !columns.contains(field.name()) {
                        columns.push(field.name().clone());
                    }
                }
            });
        }
        for name in order {
            let columns = wanted.remove(&name).unwrap_or_default();
            let placed = self.add_source(&name, &columns)?;
            self.sources.insert(name, placed);
        }
        Ok(())
    }

    fn add_source(&mut self, name: &str, wanted: &[String]) -> Result<Placed> {
        let dataset = self.catalog.dataset(name)?;
        let spec = self.catalog.spec(name, self.side)?;
        let start = self.pipeline.start;
        let rules = GateRules::new(self.catalog.project(), self.state, dataset, &spec.schema, start)?;
        let accepted = columns_of(&accepted_schema(dataset, &spec.schema), wanted);
        // A batch counts its rows by its columns, so there is always one.
        let decoded = match rules.decoded(wanted) {
            none if none.fields().is_empty() => columns_of(&spec.schema, &first_column(&spec.schema)),
            some => some,
        };
        let state = self.state.clone();
        let (gate_input, gate_output) = (Arc::clone(&decoded), Arc::clone(&accepted));
        let definition = rules.definition();
        // Made once here so that what is wrong is told by the plan, not by the run.
        rules.gate(&state, &gate_input, &gate_output)?;
        let gate: MakeGate = Arc::new(move || rules.gate(&state, &gate_input, &gate_output));
        let decoder: Option<MakeDecoder> = match spec.format.clone() {
            None => None,
            Some(format) => {
                let decoded = Arc::clone(&decoded);
                format.decoder(Arc::clone(&decoded)).map_err(|error| error.at(&dataset.place))?;
                Some(Arc::new(move || format.decoder(Arc::clone(&decoded))))
            }
        };
        let source = self.catalog.source(name, self.side)?;
        let hints = ReadHints {
            schema: Some(Arc::clone(&decoded)),
            interval: None,
            event_time: dataset.watermark.as_ref().map(|clause| clause.column.clone()),
        };
        let time = self.source_time(dataset)?;
        let schema = Arc::clone(&accepted);
        let dataset = name.to_owned();
        let kind = SourceNode { dataset, source, hints, decoder, gate, time, schema, rules: Arc::new(definition) };
        let node = self.graph.add(name, NodeKind::Source(kind));
        Ok(Placed { node, schema: accepted })
    }

    fn source_time(&self, dataset: &Dataset) -> Result<Option<SourceTime>> {
        let Some(clause) = &dataset.watermark else { return Ok(None) };
        let settings = self.catalog.settings(&dataset.name, self.side)?;
        let missing = || Error::internal(format!("`{}` has no idle timeout", dataset.name));
        Ok(Some(SourceTime {
            delay: clause.delay,
            idle: settings.span("idle").ok_or_else(missing)?,
            max_future: settings.span("max_future"),
            max_skew: settings.span("max_skew"),
            start: self.pipeline.start,
        }))
    }

    /// The rows of a scan.
    pub(super) fn scan(&self, scan: &TableScan) -> Result<Stream> {
        let name = scan.table_name.table();
        let placed =
            self.sources.get(name).ok_or_else(|| Error::internal(format!("the source `{name}` was not planned")))?;
        let failed = |error| lift(&error, &self.pipeline.place);
        let all = DFSchema::try_from_qualified_schema(scan.table_name.clone(), &placed.schema).map_err(failed)?;
        let clause = self.catalog.dataset(name)?.watermark.as_ref();
        let time = clause.and_then(|clause| placed.schema.index_of(&clause.column).ok());
        let mut stream = Stream::of(placed.node, Arc::new(all), false).timed(time);
        for filter in &scan.filters {
            stream.filter(filter.clone());
        }
        Ok(stream)
    }
}

/// Calls `found` for each scan that is read as a stream, left to right.
fn scans(plan: &LogicalPlan, builder: &Builder<'_>, found: &mut dyn FnMut(&TableScan)) {
    match plan {
        LogicalPlan::TableScan(scan) => found(scan),
        LogicalPlan::Join(join) => match looked_up(join, builder.catalog.project()) {
            Some(true) => scans(&join.right, builder, found),
            Some(false) => scans(&join.left, builder, found),
            None => join_inputs(join, builder, found),
        },
        other => other.inputs().into_iter().for_each(|input| scans(input, builder, found)),
    }
}

fn join_inputs(join: &datafusion::logical_expr::Join, builder: &Builder<'_>, found: &mut dyn FnMut(&TableScan)) {
    scans(&join.left, builder, found);
    scans(&join.right, builder, found);
}

fn first_column(schema: &SchemaRef) -> Vec<String> {
    schema.fields().first().map(|field| field.name().clone()).into_iter().collect()
}

/// Some columns of a schema, in its order.
fn columns_of(schema: &SchemaRef, names: &[String]) -> SchemaRef {
    let kept = schema.fields().iter().filter(|field| names.contains(field.name()));
    Arc::new(Schema::new(kept.cloned().collect::<Vec<_>>()))
}
