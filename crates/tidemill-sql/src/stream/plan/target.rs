//! Where results go: sinks and materialized views.
//!
//! **Invariant:** a sink gets rows that stand, unless it is upserted by a key that tells the rows of the query apart.

use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::logical_expr::LogicalPlan;
use tidemill_model::{Error, Kind, Result};
use tidemill_runtime::{NodeKind, Route, SinkTarget, WriteMode, changelog_schema};

use super::build::Builder;
use super::pending::Stream;
use super::statement::Statement;
use super::{SinkPlan, ViewPlan};
use crate::language::{Insert, MaterializedView};
use crate::session::guarded::arrow_schema;
use crate::session::{Meaning, WindowSize, default_sequence, result_schema};
use crate::stream::envelope::EnvelopeFactory;
use crate::stream::thin::{self, ThinFactory};
use crate::stream::view::{ViewFactory, ViewWindow};

impl Builder<'_> {
    pub(super) fn add_sink(&mut self, statement: &Statement, insert: &Insert, stream: Stream) -> Result<()> {
        let name = insert.target.as_str();
        if self.sources.contains_key(name) {
            return Err(Error::new(Kind::Plan, "P141", format!("the pipeline reads `{name}` and writes it too"))
                .at(&insert.place)
                .label("its own output would come back as input")
                .fact("write to another table, or read it in another pipeline"));
        }
        let mut from = self.place(&stream, statement)?;
        let mut schema = result_schema(&statement.plan);
        let mut mode =
            self.catalog.write_mode(name, &schema, insert.part.as_ref()).map_err(|error| error.at(&insert.place))?;
        if stream.changes {
            by_key(&mut mode, self.key_of(&statement.plan), statement, insert)?;
        } else if let WriteMode::Upsert { sequence: sequence @ None, .. } = &mut mode {
            *sequence = default_sequence(&statement.plan, self.catalog.project());
        }
        if let (Some(every), true) = (self.pipeline.emit_every, stream.changes) {
            let every = i64::try_from(every.as_micros()).unwrap_or(i64::MAX);
            let (rows, key) = (Arc::clone(&schema), key_places(&mode, &schema)?);
            let factory = ThinFactory { rows, key: key.clone(), every, place: statement.place.clone() };
            let node = self.add_operator(statement, thin::NODE, Arc::new(factory));
            self.graph.connect(from, node, 0, Route::Hash(key));
            (from, self.thins) = (node, true);
        }
        if let WriteMode::Changelog { .. } = &mode {
            let key = key_places(&mode, &schema)?;
            let factory = EnvelopeFactory {
                rows: Arc::clone(&schema),
                key: key.clone(),
                changing: stream.changes,
                text: "changes by key, one an epoch".to_owned(),
                place: statement.place.clone(),
            };
            let node = self.add_operator(statement, "changes", Arc::new(factory));
            let route = if stream.changes { Route::Hash(key) } else { Route::Forward };
            self.graph.connect(from, node, 0, route);
            (from, schema) = (node, changelog_schema(&schema));
        }
        let staging = self.catalog.environment().state.join("pipelines").join(&self.pipeline.name);
        let target = SinkTarget {
            pipeline: self.pipeline.name.clone(),
            sink: name.to_owned(),
            schema: Arc::clone(&schema),
            mode: mode.clone(),
            interval: None,
            staging: staging.join("staging").join(name),
        };
        let sink = self.catalog.sink(name, &target)?;
        let guarantee = sink.guarantee();
        let node = self.graph.add(name, NodeKind::Sink(sink));
        self.graph.connect(from, node, 0, Route::Forward);
        self.sinks.push(SinkPlan { name: name.to_owned(), mode, schema, guarantee });
        Ok(())
    }

    pub(super) fn add_view(&mut self, statement: &Statement, view: &MaterializedView, stream: Stream) -> Result<()> {
        let schema = arrow_schema(statement.plan.schema());
        let (window, starts, ends) = self.windows_of(&statement.plan);
        let retention = view.settings.span("retention");
        if retention.is_some() && window.is_none() {
            return Err(Error::new(Kind::Plan, "P142", format!("the view `{}` has no window to forget", view.name))
                .at(&view.place)
                .label("retention needs window_start or window_end among its columns")
                .fact("select window_start of TUMBLE(…), or leave retention out"));
        }
        let from = self.place(&stream, statement)?;
        let text = match retention {
            None => "view, kept for ever".to_owned(),
            Some(retention) => format!("view, closed windows kept for {}", tidemill_model::Span(retention)),
        };
        let factory = ViewFactory { schema: Arc::clone(&schema), window, retention, text };
        let node = self.graph.add(view.name.clone(), NodeKind::Operator(Arc::new(factory)));
        let all = (0..schema.fields().len()).collect();
        self.graph.connect(from, node, 0, Route::Hash(all));
        self.views.push(ViewPlan {
            name: view.name.clone(),
            node: view.name.clone(),
            schema,
            window_start: starts,
            window_end: ends,
            window_size: window.map(|window| window.size),
            retention,
        });
        Ok(())
    }

    /// The column by which a view's rows are kept by window, and the names of the columns with a window's bounds.
    fn windows_of(&self, plan: &LogicalPlan) -> (Option<ViewWindow>, Option<String>, Option<String>) {
        let meanings = self.meanings(plan);
        let find = |wanted: fn(&Meaning) -> bool| meanings.iter().position(wanted);
        let start = find(|meaning| matches!(meaning, Meaning::Start { .. }));
        let end = find(|meaning| matches!(meaning, Meaning::End { .. }));
        let window = start.into_iter().chain(end).find_map(|column| match &meanings[column] {
            // When a session ends, its start does not say.
            Meaning::Start { size: WindowSize::Session { .. }, .. } => None,
            Meaning::Start { size, .. } => Some(ViewWindow { column, is_end: false, size: *size }),
            Meaning::End { size, .. } => Some(ViewWindow { column, is_end: true, size: *size }),
            Meaning::Plain | Meaning::Time { .. } => None,
        });
        let name = |at: usize| plan.schema().field(at).name().clone();
        (window, start.map(name), end.map(name))
    }
}

/// Where the key of a table lies among these columns.
fn key_places(mode: &WriteMode, schema: &Schema) -> Result<Vec<usize>> {
    let key = match mode {
        WriteMode::Upsert { key, .. } | WriteMode::Changelog { key } => key.as_slice(),
        _ => &[],
    };
    let at = |name: &String| schema.index_of(name).map_err(|e| Error::internal("a key without a column").because(e));
    key.iter().map(at).collect()
}

/// Makes sure that changes find the row that they change, and that the newest change is right whatever it says.
fn by_key(mode: &mut WriteMode, of_query: Option<Vec<usize>>, statement: &Statement, insert: &Insert) -> Result<()> {
    let refuse = |label: &str| {
        let message = format!("the rows of this query change, and `{}` cannot follow", insert.target);
        Error::new(Kind::Plan, "P146", message).at(&insert.place).label(label.to_owned())
    };
    let none = &mut None;
    let (key, sequence) = match mode {
        WriteMode::Upsert { key, sequence } => (&*key, sequence),
        WriteMode::Changelog { key } => (&*key, none),
        _ => {
            return Err(refuse("rows are only added here")
                .fact("declare the table with write = 'upsert' and a PRIMARY KEY, or with format = 'debezium_json'")
                .fact("or keep the result in a MATERIALIZED VIEW"));
        }
    };
    let schema = statement.plan.schema();
    let names =
        |columns: &[usize]| -> Vec<String> { columns.iter().map(|at| schema.field(*at).name().clone()).collect() };
    let Some(of_query) = of_query else {
        return Err(refuse("nothing is known to tell the rows of this query apart")
            .fact("select all columns of its GROUP BY, or of the PRIMARY KEY that it reads; or keep the result in a MATERIALIZED VIEW"));
    };
    if let Some(missing) = names(&of_query).into_iter().find(|name| !key.contains(name)) {
        return Err(refuse(&format!("`{missing}` is not in the PRIMARY KEY"))
            .fact(format!("several rows of the query would be one row of the table; its key is ({})", key.join(", ")))
            .fact(format!("the rows of the query are told apart by ({})", names(&of_query).join(", "))));
    }
    // The changes of a key come in order, epoch by epoch; nothing in the row orders them.
    *sequence = None;
    Ok(())
}
