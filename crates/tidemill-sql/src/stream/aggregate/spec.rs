//! [`GroupSpec`]: a GROUP BY, compiled.
//!
//! **Invariant:** a partial batch is `window_start`, the other keys, then the states of each aggregate; the same
//! columns are what a final operator's state is stored as.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimestampMicrosecondType};
use datafusion::common::Result;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;

use crate::session::WindowSize;
use crate::stream::late::CameLate;

/// What the operators of one GROUP BY share.
#[derive(Debug)]
pub(in crate::stream) struct GroupSpec {
    /// The window in the key, if there is one.
    pub(in crate::stream) window: Option<WindowBy>,
    /// What makes its windows sessions, if they are.
    pub(in crate::stream) session: Option<SessionBy>,
    /// The other keys, over the input.
    pub(in crate::stream) keys: Vec<Arc<dyn PhysicalExpr>>,
    /// The aggregates, over the input.
    pub(in crate::stream) aggregates: Vec<Aggregate>,
    /// The columns between the operators.
    pub(in crate::stream) partial: SchemaRef,
    /// Where each column of the result comes from.
    pub(in crate::stream) outputs: Vec<OutputColumn>,
    /// The columns of the result.
    pub(in crate::stream) schema: SchemaRef,
    /// How long after their window has closed rows are taken, in microseconds.
    pub(in crate::stream) lateness: i64,
}

/// The window of a GROUP BY.
#[derive(Debug)]
pub(in crate::stream) struct WindowBy {
    /// The column that tells it, over the input.
    pub(in crate::stream) column: Arc<dyn PhysicalExpr>,
    /// Whether that is the window's end rather than its start.
    pub(in crate::stream) is_end: bool,
    /// Its length.
    pub(in crate::stream) size: WindowSize,
    /// Whether the column tells the start of a pane rather than of a window.
    pub(in crate::stream) panes: bool,
    /// The windows whose starts the column's times are, innermost first: time is that far behind the watermark.
    pub(in crate::stream) behind: Vec<WindowSize>,
}

/// What sessions are told apart by.
#[derive(Debug)]
pub(in crate::stream) struct SessionBy {
    /// The least silence between two of a key.
    pub(in crate::stream) gap: i64,
    /// Which of the keys sessions are apart by; the others divide the rows of a session.
    pub(in crate::stream) partition: Vec<usize>,
}

impl SessionBy {
    /// The keys that divide the rows of a session.
    pub(super) fn further(&self, spec: &GroupSpec) -> Vec<usize> {
        (0..spec.keys.len()).filter(|at| !self.partition.contains(at)).collect()
    }

    /// The columns by which groups of numbered runs or sessions are told apart.
    pub(super) fn group_schema(&self, spec: &GroupSpec) -> SchemaRef {
        let number = Arc::new(Field::new("session", DataType::UInt32, false));
        let further = self.further(spec).into_iter().map(|at| Arc::new(spec.partial.field(1 + at).clone()));
        Arc::new(Schema::new(std::iter::once(number).chain(further).collect::<Vec<_>>()))
    }
}

/// One aggregate call.
#[derive(Debug)]
pub(in crate::stream) struct Aggregate {
    /// The function.
    pub(in crate::stream) function: Arc<AggregateFunctionExpr>,
    /// Its arguments, over the input.
    pub(in crate::stream) args: Vec<Arc<dyn PhysicalExpr>>,
    /// The types of its arguments.
    pub(in crate::stream) types: Vec<DataType>,
    /// Its FILTER.
    pub(in crate::stream) filter: Option<Arc<dyn PhysicalExpr>>,
    /// How many columns its state has.
    pub(in crate::stream) states: usize,
}

/// Where a column of the result comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::stream) enum OutputColumn {
    /// The window's start.
    Start,
    /// The window's end.
    End,
    /// A key other than the window.
    Key(usize),
    /// An aggregate.
    Aggregate(usize),
}

impl GroupSpec {
    /// The columns between the operators, from the fields of the window and keys and the aggregates.
    pub(in crate::stream) fn partial_schema(
        window: Option<&DataType>,
        keys: &[FieldRef],
        aggregates: &[Aggregate],
        sessions: bool,
    ) -> Result<SchemaRef> {
        let mut fields: Vec<FieldRef> = Vec::new();
        fields.extend(window.map(|data_type| Arc::new(Field::new("window_start", data_type.clone(), false))));
        fields.extend(
            keys.iter()
                .enumerate()
                .map(|(i, key)| Arc::new(key.as_ref().clone().with_name(format!("key_{i}")).with_nullable(true))),
        );
        for (i, aggregate) in aggregates.iter().enumerate() {
            for (j, state) in aggregate.function.state_fields()?.iter().enumerate() {
                fields.push(Arc::new(state.as_ref().clone().with_name(format!("state_{i}_{j}")).with_nullable(true)));
            }
        }
        if sessions {
            // The run's last time, and how many rows it has.
            fields.extend(["last", "rows"].map(|name| Arc::new(Field::new(name, DataType::Int64, false))));
        }
        Ok(Arc::new(Schema::new(fields)))
    }

    /// How many key columns a partial batch begins with, the window's start among them.
    pub(in crate::stream) fn leading(&self) -> usize {
        usize::from(self.window.is_some()) + self.keys.len()
    }

    /// The columns by which groups find their lane.
    pub(in crate::stream) fn route(&self) -> Vec<usize> {
        if let Some(session) = &self.session {
            return session.partition.iter().map(|at| 1 + at).collect();
        }
        // A window is made of several panes, which have to meet.
        let from = usize::from(self.window.as_ref().is_some_and(|window| window.panes));
        (from..self.leading()).collect()
    }

    /// The key fields of a partial batch from column `from` on.
    pub(in crate::stream) fn key_schema(&self, from: usize) -> SchemaRef {
        let fields = self.partial.fields();
        Arc::new(Schema::new(fields.get(from..self.leading()).map(<[FieldRef]>::to_vec).unwrap_or_default()))
    }

    /// Whatever must be equal for stored groups to be readable.
    pub(in crate::stream) fn fingerprint(&self) -> String {
        let window = self.window.as_ref().map(|window| {
            let WindowBy { column, is_end, size, panes, behind } = window;
            format!("{size:?} end={is_end} panes={panes} behind={behind:?} of {column}")
        });
        let window = (window, self.session.as_ref().map(|session| &session.partition));
        let keys: Vec<String> = self.keys.iter().map(ToString::to_string).collect();
        let aggregates: Vec<String> = self
            .aggregates
            .iter()
            .map(|aggregate| {
                let args: Vec<String> = aggregate.args.iter().map(ToString::to_string).collect();
                let filter = aggregate.filter.as_ref().map(|filter| filter.to_string());
                let function = &aggregate.function;
                format!("{}({args:?}) distinct={} filter={filter:?}", function.fun().name(), function.is_distinct())
            })
            .collect();
        let fields: Vec<String> =
            self.partial.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect();
        // What was not waited for is gone, so that waiting longer is another state.
        let lateness = if self.lateness > 0 { format!("; lateness {}", self.lateness) } else { String::new() };
        format!("window {window:?}; keys {keys:?}; aggregates {aggregates:?}; state {fields:?}{lateness}")
    }

    /// The result columns of one window's groups.
    pub(in crate::stream) fn assemble(
        &self,
        start: i64,
        keys: &[ArrayRef],
        results: &[ArrayRef],
        rows: usize,
    ) -> Vec<ArrayRef> {
        let constant = |at: i64, field: &Field| -> ArrayRef {
            let zone = match field.data_type() {
                DataType::Timestamp(_, zone) => zone.clone(),
                _ => None,
            };
            Arc::new(TimestampMicrosecondArray::from_value(at, rows).with_timezone_opt(zone))
        };
        let end = || self.window.as_ref().map_or(start, |window| window.size.end_of(start));
        let columns = self.outputs.iter().zip(self.schema.fields());
        columns
            .map(|(output, field)| match *output {
                OutputColumn::Start => constant(start, field),
                OutputColumn::End => constant(end(), field),
                OutputColumn::Key(key) => Arc::clone(&keys[key]),
                OutputColumn::Aggregate(aggregate) => Arc::clone(&results[aggregate]),
            })
            .collect()
    }
}

impl WindowBy {
    /// The start of each row's window, from the column that tells it.
    pub(super) fn starts(&self, told: &ArrayRef) -> TimestampMicrosecondArray {
        let told = told.as_primitive::<TimestampMicrosecondType>();
        if !self.is_end {
            return told.clone();
        }
        let zone = told.timezone().map(Arc::from);
        let start = |end: i64| self.size.start_of(end);
        let starts: TimestampMicrosecondArray = told.iter().map(|end| end.and_then(start)).collect();
        starts.with_timezone_opt(zone)
    }

    /// The start of the earliest window that rows told apart by this start are in.
    pub(super) fn first_window(&self, start: i64) -> i64 {
        if self.panes && start < i64::MAX { self.size.earliest_open(start) } else { start }
    }

    /// The start of the last window that rows told apart by this start are in.
    pub(super) fn last_window(&self, start: i64) -> i64 {
        if self.panes { self.size.last_start(start).unwrap_or(start) } else { start }
    }

    /// How many windows that begin before `open` rows told apart by this start are in.
    ///
    /// Of panes that is the lane's view: another lane's watermark may still hold such a window open, which then counts
    /// the row though it is counted as late here.
    pub(super) fn closed_windows(&self, start: i64, open: i64) -> u64 {
        match self.panes {
            true => self.size.starts_at(start).take_while(|start| *start < open).count() as u64,
            false => u64::from(start < open),
        }
    }

    /// What there is to tell of rows that are told apart by this start when windows that begin before `open` have closed;
    /// `None` when all of theirs are open.
    pub(super) fn came_late(&self, start: i64, open: i64) -> Option<CameLate> {
        let pairs = self.closed_windows(start, open);
        let first = self.first_window(start);
        (pairs > 0).then(|| CameLate { event_time: None, window: Some((first, self.size.end_of(first))), pairs })
    }

    /// The watermark of the column's times, given that of the rows.
    pub(super) fn time_at(&self, watermark: i64) -> i64 {
        self.behind.iter().fold(watermark, |watermark, window| window.earliest_open(watermark))
    }
}
