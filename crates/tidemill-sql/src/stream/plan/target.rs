//! Where results go: sinks and materialized views.
//!
//! **Invariant:** a sink gets rows that stand; only a view takes rows back.

use std::sync::Arc;

use datafusion::logical_expr::LogicalPlan;
use tidemill_model::{Error, Kind, Result};
use tidemill_runtime::{NodeKind, Route, SinkTarget, WriteMode};

use super::build::Builder;
use super::pending::Stream;
use super::statement::Statement;
use super::{SinkPlan, ViewPlan};
use crate::language::{Insert, MaterializedView};
use crate::session::guarded::arrow_schema;
use crate::session::{Meaning, default_sequence, result_schema};
use crate::stream::view::{ViewFactory, ViewWindow};

impl Builder<'_> {
    pub(super) fn add_sink(&mut self, statement: &Statement, insert: &Insert, stream: Stream) -> Result<()> {
        if stream.changes {
            return Err(Error::internal("a sink was planned over results that change").at(&statement.place));
        }
        let name = insert.target.as_str();
        if self.sources.contains_key(name) {
            return Err(Error::new(Kind::Plan, "P141", format!("the pipeline reads `{name}` and writes it too"))
                .at(&insert.place)
                .label("its own output would come back as input")
                .fact("write to another table, or read it in another pipeline"));
        }
        let from = self.place(&stream, statement)?;
        let schema = result_schema(&statement.plan);
        let mut mode = self.catalog.write_mode(name, &schema).map_err(|error| error.at(&insert.place))?;
        if let WriteMode::Upsert { sequence: sequence @ None, .. } = &mut mode {
            *sequence = default_sequence(&statement.plan, self.catalog.project());
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
        let window = start.or(end).and_then(|column| match &meanings[column] {
            Meaning::Start { size, .. } => Some(ViewWindow { column, is_end: false, size: *size }),
            Meaning::End { size, .. } => Some(ViewWindow { column, is_end: true, size: *size }),
            Meaning::Plain | Meaning::Time { .. } => None,
        });
        let name = |at: usize| plan.schema().field(at).name().clone();
        (window, start.map(name), end.map(name))
    }
}
