//! Allowed lateness in a plan: where results are corrected, and where they are given out once and that much later.
//!
//! **Invariant:** of the steps that rows come through, the first for which time matters deals with late rows; below it
//! none is late.

use std::sync::Arc;

use datafusion::logical_expr::Aggregate as GroupBy;
use tidemill_model::{Error, Kind, Result, Span};
use tidemill_runtime::{NodeId, Route};

use super::build::{Builder, Walk};
use super::pending::Stream;
use super::statement::{Statement, Target};
use crate::stream::aggregate::Emission;
use crate::stream::late::LateHome;
use crate::stream::wait::WaitFactory;

impl Builder<'_> {
    /// How long after their window has closed rows are waited for, in microseconds.
    pub(super) fn lateness(&self, statement: &Statement) -> i64 {
        let own = match &statement.target {
            Target::View(view) => view.settings.span("allowed_lateness"),
            Target::Sink(_) => None,
        };
        i64::try_from(own.unwrap_or(self.pipeline.lateness).as_micros()).unwrap_or(i64::MAX)
    }

    /// Where rows go that come too late for a step of the statement.
    pub(super) fn late(&self, walk: Walk<'_>) -> LateHome {
        LateHome::of(self.pipeline, &walk.statement.name)
    }

    /// The node of a stream whose rows a step gives results of once: late rows are waited for before.
    pub(super) fn waiting(&mut self, stream: &Stream, walk: Walk<'_>) -> Result<NodeId> {
        let from = self.place(stream, walk.statement)?;
        let lateness = self.lateness(walk.statement);
        if lateness == 0 || stream.settled {
            return Ok(from);
        }
        self.waits = true;
        let node = self.add_operator(walk.statement, "wait", Arc::new(WaitFactory { lateness }));
        self.graph.connect(from, node, 0, Route::Forward);
        let (name, span) = (&walk.statement.name, words(lateness));
        self.note(format!("{name}: what waits for time waits {span} longer, for late rows, and is given out once"));
        Ok(node)
    }

    /// When a GROUP BY over windows of these rows gives them out, and how long it corrects them.
    pub(super) fn corrected(&mut self, input: &Stream, node: &GroupBy, walk: Walk<'_>) -> Result<(Emission, i64)> {
        let lateness = if input.settled { 0 } else { self.lateness(walk.statement) };
        match walk.emission {
            // What is given out once waits before.
            Emission::Once => Ok((Emission::Once, 0)),
            Emission::Corrected if lateness == 0 => Ok((Emission::Once, 0)),
            Emission::Corrected if !self.takes_changes(walk.statement) => Err(self.uncorrected(node, walk)),
            emission => {
                self.waits |= lateness > 0;
                Ok((emission, lateness))
            }
        }
    }

    fn uncorrected(&self, node: &GroupBy, walk: Walk<'_>) -> Error {
        let statement = walk.statement;
        let place = match &statement.target {
            Target::Sink(insert) => insert.place.clone(),
            Target::View(view) => view.place.clone(),
        };
        let keys: Vec<String> = node.group_expr.iter().map(|expr| expr.schema_name().to_string()).collect();
        let message = format!("`{}` takes no corrections, which allowed_lateness would give it", statement.name);
        Error::new(Kind::Plan, "P160", message)
            .at(&place)
            .label("rows are only added here")
            .fact(format!(
                "declare the table with write = 'upsert' and a PRIMARY KEY of the columns of the GROUP BY ({}), or with format = 'debezium_json'",
                keys.join(", ")
            ))
            .fact(format!(
                "or leave allowed_lateness out: each window is written once, when it has closed, and rows that come later go to {}.late",
                statement.name
            ))
    }

    /// Adds a note, once.
    pub(super) fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

/// When windows go out, for people.
pub(super) fn when(emission: Emission, lateness: i64) -> String {
    match (emission, lateness) {
        (Emission::Once, _) => "emitted once when a window closes".to_owned(),
        (Emission::Corrected, _) => {
            format!("emitted when a window closes, then changes at each epoch, until {} later", words(lateness))
        }
        (Emission::Changes, 0) => "changes at each epoch, until a window closes".to_owned(),
        (Emission::Changes, _) => {
            format!("changes at each epoch, until {} after a window has closed", words(lateness))
        }
    }
}

fn words(lateness: i64) -> String {
    Span(std::time::Duration::from_micros(lateness.unsigned_abs())).to_string()
}
