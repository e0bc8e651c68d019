//! Sources of a plan: one node for each dataset, read once for all statements.
//!
//! **Invariant:** a source decodes the columns that some statement needs or the gate judges by, and no others.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use datafusion::common::DFSchema;
use datafusion::logical_expr::{LogicalPlan, TableScan};
use tidemill_model::{Error, Result};
use tidemill_runtime::{Decoder, Gate, NodeId, NodeKind, OperatorFactory, ReadHints, Route, SourceNode, SourceTime};

use super::build::Builder;
use super::pending::Stream;
use super::statement::Statement;
use crate::catalog::{Changes, decoder_of};
use crate::language::Dataset;
use crate::session::guarded::{Chain, columns, looked_up};
use crate::session::{accepted_schema, lift};
use crate::stream::GateRules;
use crate::stream::current::CurrentFactory;
use crate::stream::transform::TransformFactory;

type MakeGate = Arc<dyn Fn() -> Result<Box<dyn Gate>> + Send + Sync>;
type MakeDecoder = Arc<dyn Fn() -> Result<Box<dyn Decoder>> + Send + Sync>;

/// A source that is in the graph.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub(super) node: NodeId,
    pub(super) schema: SchemaRef,
    /// How its records change rows, when it is a changelog.
    pub(super) changes: Option<Changes>,
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
        let changes = self.catalog.changes(name, self.side)?;
        let rules = GateRules::new(self.catalog.project(), self.state, dataset, &spec.schema, start)?;
        let rules = rules.of_changes(changes.clone());
        let key = changes.iter().flat_map(|changes| &changes.key);
        let wanted: Vec<String> = wanted.iter().chain(key).cloned().collect();
        let accepted = columns_of(&accepted_schema(dataset, &spec.schema), &wanted);
        let keyed = changes.as_ref().is_some_and(Changes::is_keyed);
        let accepted = if keyed { nullable(&accepted) } else { accepted };
        // A batch counts its rows by its columns, so there is always one.
        let decoded = match rules.decoded(&wanted) {
            none if none.fields().is_empty() => columns_of(&spec.schema, &first_column(&spec.schema)),
            some => some,
        };
        let state = self.state.clone();
        let (gate_input, gate_output) = (Arc::clone(&decoded), Arc::clone(&accepted));
        let mut definition = rules.definition();
        let called = self.catalog.functions().called_by(rules.conditions());
        let called = called.map_err(|error| lift(&error, &dataset.place))?;
        if !called.is_empty() {
            definition.push_str(&format!("; functions {called}"));
        }
        // Made once here so that what is wrong is told by the plan, not by the run.
        rules.gate(&state, &gate_input, &gate_output)?;
        let gate: MakeGate = Arc::new(move || rules.gate(&state, &gate_input, &gate_output));
        let decoder: Option<MakeDecoder> = match spec.format.clone() {
            None => None,
            Some(format) => {
                let (decoded, of) = (Arc::clone(&decoded), changes.clone());
                let make = move || decoder_of(format.as_ref(), Arc::clone(&decoded), of.as_ref());
                make().map_err(|error| error.at(&dataset.place))?;
                Some(Arc::new(make))
            }
        };
        let source = self.catalog.source(name, self.side)?;
        let hints = ReadHints {
            schema: Some(Arc::clone(&decoded)),
            interval: None,
            event_time: dataset.watermark.as_ref().map(|clause| clause.column.clone()),
            needed: None,
        };
        let time = self.source_time(dataset)?;
        let schema = Arc::clone(&accepted);
        let dataset = name.to_owned();
        let (rules, follow) = (Arc::new(definition), changes.is_some());
        let kind = SourceNode { dataset, source, hints, decoder, gate, time, schema, rules, changes: follow };
        let node = self.graph.add(name, NodeKind::Source(kind));
        Ok(Placed { node, schema: accepted, changes })
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
    pub(super) fn scan(&mut self, scan: &TableScan, statement: &Statement) -> Result<Stream> {
        let name = scan.table_name.table();
        let placed = self.sources.get(name).cloned();
        let placed = placed.ok_or_else(|| Error::internal(format!("the source `{name}` was not planned")))?;
        let failed = |error| lift(&error, &self.pipeline.place);
        let all = DFSchema::try_from_qualified_schema(scan.table_name.clone(), &placed.schema).map_err(failed)?;
        let clause = self.catalog.dataset(name)?.watermark.as_ref();
        let time = clause.and_then(|clause| placed.schema.index_of(&clause.column).ok());
        let mut stream = Stream::of(placed.node, Arc::new(all), placed.changes.is_some()).timed(time);
        match &placed.changes {
            Some(changes) if changes.is_keyed() => stream = self.current(stream, scan, &changes.key, statement)?,
            Some(_) => {
                let name = &statement.name;
                let note = format!(
                    "{name}: `{}` has no PRIMARY KEY, so a change that was written twice counts twice",
                    scan.table_name.table()
                );
                if !self.notes.contains(&note) {
                    self.notes.push(note);
                }
                stream = self.by_row(stream, name, statement)?;
            }
            None => {}
        }
        for filter in &scan.filters {
            stream.filter(filter.clone());
        }
        Ok(stream)
    }
}

impl Builder<'_> {
    /// The rows of a changelog without a key, each where it is taken back. Behind the exchange time is what all lanes have
    /// given out, as on record: a row that is late there stays so after a restart, and what takes it back is late too.
    fn by_row(&mut self, stream: Stream, name: &str, statement: &Statement) -> Result<Stream> {
        let from = self.place(&stream, statement)?;
        let schema = Arc::clone(stream.schema());
        let text = format!("rows of {name} by their values");
        let steps = self.guarded(&Chain::over(Arc::clone(&schema)), Vec::new(), None, statement);
        let (definition, place) = (text.clone(), statement.place.clone());
        let factory = TransformFactory { steps, text, definition, place, reentrance: None };
        let node = self.add_operator(statement, "rows", Arc::new(factory));
        let told = |at: &usize| RowConverter::supports_fields(&[SortField::new(schema.field(*at).data_type().clone())]);
        self.graph.connect(from, node, 0, Route::Hash((0..schema.fields().len()).filter(told).collect()));
        Ok(Stream::of(node, schema, true).timed(stream.time))
    }

    /// The rows of a changelog by key: those that a statement needs, as changes. Each statement keeps a table of its own, of
    /// the columns that it needs, so that none depends on what others read.
    fn current(
        &mut self,
        mut stream: Stream,
        scan: &TableScan,
        key: &[String],
        statement: &Statement,
    ) -> Result<Stream> {
        let (name, place) = (scan.table_name.table(), statement.place.clone());
        let failed = |error| lift(&error, &place);
        let wanted: Vec<String> = scan.projected_schema.fields().iter().map(|field| field.name().clone()).collect();
        let wanted: Vec<String> = wanted.iter().chain(key).cloned().collect();
        let dataset = self.catalog.dataset(name)?;
        let spec = self.catalog.spec(name, self.side)?;
        let schema = columns_of(&accepted_schema(dataset, &spec.schema), &wanted);
        let time = dataset.watermark.as_ref().and_then(|clause| schema.index_of(&clause.column).ok());
        let of =
            |schema: &SchemaRef| DFSchema::try_from_qualified_schema(scan.table_name.clone(), schema).map(Arc::new);
        if stream.schema().fields().len() != schema.fields().len() {
            let narrow = of(&nullable(&schema)).map_err(failed)?;
            stream.project(columns(&narrow), narrow);
        }
        let missing = |e| Error::internal(format!("`{name}` is read without its key")).because(e);
        let key = key.iter().map(|name| schema.index_of(name)).collect::<Result<Vec<usize>, _>>().map_err(missing)?;
        let names: Vec<&str> = key.iter().map(|at| schema.field(*at).name().as_str()).collect();
        let text = format!(
            "rows of {name} that stand, by {}, in a table of {} columns",
            names.join(", "),
            schema.fields().len()
        );
        let from = self.place(&stream, statement)?;
        let factory = CurrentFactory { schema: Arc::clone(&schema), key: key.clone(), text, place: place.clone() };
        // Made once here so that what is wrong is told by the plan, not by the run.
        factory.create(0, 1)?;
        let node = self.add_operator(statement, "current", Arc::new(factory));
        self.graph.connect(from, node, 0, Route::Hash(key));
        Ok(Stream::of(node, of(&schema).map_err(failed)?, true).timed(time))
    }
}

/// The same columns, each of which may be NULL.
fn nullable(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
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
