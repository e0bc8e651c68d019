//! Choices among rows of all time in a plan: DISTINCT ON and ROW_NUMBER by key, whose answer changes, and DEDUP, whose
//! answer is final.
//!
//! **Invariant:** what is kept of a key is bounded by what is asked for, unless rows are taken back.

use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::{Field, Schema};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::expr::Sort;
use datafusion::logical_expr::{Aggregate as GroupBy, Expr, ExprSchemable, LogicalPlan, Window};
use tidemill_model::{Error, Kind, Result};
use tidemill_runtime::{OperatorFactory, Route};

use super::build::{Builder, Walk, not_yet, uncompiled};
use super::closing::Most;
use super::pending::Stream;
use super::refuse::at_word;
use crate::session::guarded::arrow_schema;
use crate::session::{DedupNode, Meaning, compile, one_of_each, row_number};
use crate::stream::aggregate::Emission;
use crate::stream::dedup::DedupFactory;
use crate::stream::late::LateHome;
use crate::stream::top::{FirstHalfFactory, TopFactory, TopOfChangesFactory, TopSpec};

/// The first rows of each key.
struct Choice {
    keys: Vec<Expr>,
    order: Vec<Sort>,
    most: usize,
    /// Whether a row with another number is another row.
    numbered: bool,
    /// For each column of the result an expression over the input; `None` is the row's number.
    outputs: Vec<Option<Expr>>,
    words: String,
}

impl Builder<'_> {
    /// DEDUP of a stream.
    pub(super) fn dedup(&mut self, plan: &LogicalPlan, node: &DedupNode, walk: Walk<'_>) -> Result<Stream> {
        let place = &walk.statement.place;
        let at = at_word(place, "dedup").unwrap_or_else(|| place.clone());
        if !matches!(&self.meanings(&node.input)[node.time], Meaning::Time { behind } if behind.is_empty()) {
            return Err(Error::new(Kind::Plan, "P230", "DEDUP of a stream goes by its event time")
                .at(&at)
                .label("the second argument is not the event time of these rows")
                .fact("name the column of WATERMARK FOR in CREATE TABLE, unchanged"));
        }
        let input = self.walk(&node.input, Walk { emission: Emission::Once, ..walk })?;
        if input.changes {
            return Err(not_yet(place, "dedup", "DEDUP of results that change")
                .fact("DISTINCT ON (key) … ORDER BY key, time keeps the first row of each key, as it changes"));
        }
        let schema = arrow_schema(input.schema());
        let factory = DedupFactory {
            keys: node.keys.clone(),
            time: node.time,
            ttl: node.ttl,
            rest: DedupNode::rest(&schema, &node.keys, node.time),
            schema,
            late: LateHome::of(self.pipeline, &walk.statement.name),
            text: format!("{}, given out once when time has passed a row", node.words()),
            place: place.clone(),
        };
        let from = self.place(&input, walk.statement)?;
        let operator = self.add_operator(walk.statement, "dedup", Arc::new(factory));
        self.graph.connect(from, operator, 0, Route::Hash(node.keys.clone()));
        let time = self.time_of(plan);
        // A row that is behind time is late here, so none comes late below.
        Ok(Stream::of(operator, Arc::clone(plan.schema()), false).timed(time).settled(true))
    }

    /// A GROUP BY without a window whose aggregates are columns of one row of each group: DISTINCT ON, and `last_value` or
    /// `first_value` alone. `None` when it is another one.
    pub(super) fn one_of_each(&mut self, plan: &LogicalPlan, node: &GroupBy, walk: Walk<'_>) -> Result<Option<Stream>> {
        if node.group_expr.is_empty() {
            // One row even of no rows, which no row is chosen for.
            return Ok(None);
        }
        let Some((order, values)) = one_of_each(&node.aggr_expr) else { return Ok(None) };
        let outputs = node.group_expr.iter().cloned().chain(values).map(Some).collect();
        let keys = node.group_expr.clone();
        let words = format!("first row of each {}", display(&keys));
        let choice = Choice { keys, order, most: 1, numbered: false, outputs, words };
        self.choose(plan, &node.input, choice, walk).map(Some)
    }

    /// ROW_NUMBER over rows of all time, of which only the first are wanted. `None` when it is something else.
    pub(super) fn numbered(&mut self, plan: &LogicalPlan, node: &Window, walk: Walk<'_>) -> Result<Option<Stream>> {
        let Some(most) = walk.most.filter(|most| most.is_of(node)) else { return Ok(None) };
        let Some((keys, order)) = row_number(node) else { return Ok(None) };
        let numbered = !most.is_hidden();
        let most = usize::try_from(most.rank()).unwrap_or(usize::MAX).clamp(1, MOST);
        let input = node.input.schema();
        let mut outputs: Vec<Option<Expr>> = crate::session::guarded::columns(input).into_iter().map(Some).collect();
        outputs.push(None);
        let of = if keys.is_empty() { "all".to_owned() } else { format!("each {}", display(&keys)) };
        let words = if most == 1 { format!("first row of {of}") } else { format!("first {most} rows of {of}") };
        self.choose(plan, &node.input, Choice { keys, order, most, numbered, outputs, words }, walk).map(Some)
    }

    fn choose(&mut self, plan: &LogicalPlan, below: &LogicalPlan, choice: Choice, walk: Walk<'_>) -> Result<Stream> {
        let place = &walk.statement.place;
        let failed = |error: DataFusionError| uncompiled(&error, place);
        if !self.takes_changes(walk.statement) {
            return Err(self.unchanging(&choice, walk));
        }
        let input = self.walk(below, Walk { emission: Emission::Once, most: None, ..walk })?;
        let schema = input.schema();
        let mut exprs: Vec<Expr> = choice.keys.clone();
        let keys = exprs.len();
        let mut order = Vec::with_capacity(choice.order.len());
        for sort in &choice.order {
            if !exprs.contains(&sort.expr) {
                exprs.push(sort.expr.clone());
                order.push(SortOptions { descending: !sort.asc, nulls_first: sort.nulls_first });
            }
        }
        let mut outputs = Vec::with_capacity(choice.outputs.len());
        for output in choice.outputs {
            let Some(expr) = output.map(Expr::unalias) else {
                outputs.push(None);
                continue;
            };
            let at = exprs.iter().position(|known| *known == expr).unwrap_or_else(|| {
                exprs.push(expr);
                exprs.len() - 1
            });
            outputs.push(Some(at));
        }
        let mut fields = Vec::with_capacity(exprs.len());
        let mut compiled = Vec::with_capacity(exprs.len());
        for (number, expr) in exprs.iter().enumerate() {
            fields.push(Field::new(format!("c{number}"), expr.get_type(schema).map_err(failed)?, true));
            compiled.push(compile(expr, schema).map_err(failed)?);
        }
        let by = choice.order.iter().map(|sort| {
            let descending = if sort.asc { "" } else { " DESC" };
            format!("{}{descending}", display(std::slice::from_ref(&sort.expr)))
        });
        let by: Vec<String> = by.collect();
        let spec = Arc::new(TopSpec {
            exprs: compiled,
            schema: Arc::new(Schema::new(fields)),
            keys,
            order,
            most: choice.most,
            numbered: choice.numbered && choice.most > 1,
            outputs,
            result: arrow_schema(plan.schema()),
            words: format!("{} by {}", choice.words, by.join(", ")),
            place: place.clone(),
        });
        let from = self.place(&input, walk.statement)?;
        let half = FirstHalfFactory { spec: Arc::clone(&spec), changing: input.changes };
        let first = self.add_operator(walk.statement, "ordered", Arc::new(half));
        self.graph.connect(from, first, 0, Route::Forward);
        let last: Arc<dyn OperatorFactory> =
            if input.changes { Arc::new(TopOfChangesFactory(spec)) } else { Arc::new(TopFactory(spec)) };
        let last = self.add_operator(walk.statement, "first", last);
        self.graph.connect(first, last, 0, Route::Hash((0..keys).collect()));
        Ok(Stream::of(last, Arc::clone(plan.schema()), true))
    }

    /// A choice that changes, into a table that only takes rows that stand.
    fn unchanging(&self, choice: &Choice, walk: Walk<'_>) -> Error {
        let place = &walk.statement.place;
        let calls = ["row_number", "distinct", "first_value", "last_value"];
        let at = calls.iter().find_map(|word| at_word(place, word)).unwrap_or_else(|| place.clone());
        let target = &walk.statement.name;
        let key = display(&choice.keys);
        Error::new(Kind::Plan, "P231", format!("the {} is never final, and `{target}` only takes final rows", choice.words))
            .at(&at)
            .label("a row that comes later may take its place")
            .fact(format!(
                "write it into a CREATE MATERIALIZED VIEW, into a table with write = 'upsert' and PRIMARY KEY ({key}), or as a changelog: format = 'debezium_json'"
            ))
            .fact(format!(
                "the first row of each key within a time is final: FROM DEDUP(table, time, INTERVAL '1 hour', PARTITION BY {key})"
            ))
            .fact("and so is that of each window: add window_start of TUMBLE(table, time, INTERVAL '…') to the key")
    }
}

/// The most rows of a key.
const MOST: usize = 100_000;

fn display(exprs: &[Expr]) -> String {
    let name = |expr: &Expr| match expr {
        Expr::Column(column) => column.name.clone(),
        other => other.human_display().to_string(),
    };
    exprs.iter().map(name).collect::<Vec<_>>().join(", ")
}

impl Most {
    /// The columns that tell apart the rows that a node lets through, when these are the first of each key.
    pub(super) fn key_of(&self, node: &Window) -> Option<Vec<usize>> {
        let (keys, _) = row_number(node).filter(|_| self.is_of(node))?;
        let schema = node.input.schema();
        let at = |expr: &Expr| match expr {
            Expr::Column(column) => schema.maybe_index_of_column(column),
            _ => None,
        };
        let mut columns = keys.iter().map(at).collect::<Option<Vec<usize>>>()?;
        if self.rank() > 1 {
            columns.push(schema.fields().len());
        }
        Some(columns)
    }
}
