//! GROUP BY without a window in a plan, and which key its changes have on their way to a sink.
//!
//! **Invariant:** changes go only where they can be taken back: into views, into targets that are upserted by a key
//! which the changes have, and into other groups.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{FieldRef, Schema};
use datafusion::common::{Column, DFSchema};
use datafusion::error::DataFusionError;
use datafusion::functions_aggregate::count::count_udaf;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::{Aggregate as GroupBy, Expr, ExprSchemable, LogicalPlan, lit};
use tidemill_model::{Error, Kind, Place, Result};
use tidemill_runtime::Route;

use super::build::{Builder, Walk, uncompiled};
use super::closing::{Most, most};
use super::group::aggregate;
use super::pending::Stream;
use super::refuse::at_word;
use super::statement::{Statement, Target};
use crate::session::guarded::arrow_schema;
use crate::session::{Meaning, compile, meaning_of};
use crate::stream::aggregate::{GroupSpec, OutputColumn};
use crate::stream::running::{
    CountPartialFactory, KeyByFactory, RecomputeFactory, RunningFactory, RunningSpec, is_linear,
};

impl Builder<'_> {
    /// A GROUP BY without a window.
    pub(super) fn running(&mut self, plan: &LogicalPlan, node: &GroupBy, walk: Walk<'_>) -> Result<Stream> {
        let place = &walk.statement.place;
        let failed = |error: DataFusionError| uncompiled(&error, place);
        let mut input = self.walk(&node.input, walk)?;
        if !input.changes && !node.aggr_expr.is_empty() && !self.takes_changes(walk.statement) {
            return Err(endless(node, place));
        }
        let needed = node.group_expr.iter().chain(&node.aggr_expr);
        input.prune(&needed.flat_map(Expr::column_refs).cloned().collect::<BTreeSet<Column>>()).map_err(failed)?;
        let changing = input.changes;
        let schema = input.schema().clone();
        let (spec, linear) = compiled(plan, node, &schema, changing).map_err(failed)?;
        let spec = Arc::new(spec);
        let from = self.place(&input, walk.statement)?;
        let text = words(node);
        let last = if changing && !linear {
            let keyed = keyed_schema(&spec, &schema);
            let first = KeyByFactory {
                spec: Arc::clone(&spec),
                text: format!("key by {}", by(node)),
                place: place.clone(),
                schema: Arc::clone(&keyed),
            };
            let first = self.add_operator(walk.statement, "keyed", Arc::new(first));
            self.graph.connect(from, first, 0, Route::Forward);
            let route = Route::Hash((0..spec.groups.keys.len()).collect());
            let last = RecomputeFactory {
                spec,
                text: format!(
                    "aggregate {text}, changes at each epoch, groups that changed computed anew from their rows"
                ),
                place: place.clone(),
                schema: keyed,
                input: arrow_schema(&schema),
            };
            let last = self.add_operator(walk.statement, "groups", Arc::new(last));
            self.graph.connect(first, last, 0, route);
            last
        } else {
            let first = CountPartialFactory {
                spec: Arc::clone(&spec),
                text: format!("pre-aggregate {text}"),
                place: place.clone(),
            };
            let first = self.add_operator(walk.statement, "partial", Arc::new(first));
            self.graph.connect(from, first, 0, Route::Forward);
            let route = Route::Hash(spec.groups.route());
            let when =
                if changing || !node.aggr_expr.is_empty() { "changes at each epoch" } else { "new ones at each epoch" };
            let last = RunningFactory { spec, text: format!("aggregate {text}, {when}"), place: place.clone() };
            let last = self.add_operator(walk.statement, "groups", Arc::new(last));
            self.graph.connect(first, last, 0, route);
            last
        };
        // Distinct rows of rows that only come are never taken back.
        let changes = changing || !node.aggr_expr.is_empty();
        Ok(Stream::of(last, Arc::clone(&node.schema), changes))
    }

    /// Whether what a statement writes can be taken back.
    pub(super) fn takes_changes(&self, statement: &Statement) -> bool {
        match &statement.target {
            Target::View(_) => true,
            Target::Sink(insert) => {
                let settings = self.catalog.settings(&insert.target, crate::catalog::Side::Live);
                settings.is_ok_and(|settings| settings.text("write") == Some("upsert"))
                    || self.catalog.is_changelog(&insert.target).is_ok_and(|is| is)
            }
        }
    }
}

/// A GROUP BY whose results are never final, into something that wants final results.
pub(super) fn endless(node: &GroupBy, place: &Place) -> Error {
    let at = at_word(place, "group").or_else(|| at_word(place, "distinct")).unwrap_or_else(|| place.clone());
    let timed = node.input.schema().fields().iter().any(|field| field.name() == "window_start");
    let (message, label) = if timed {
        ("the windows of this GROUP BY never close", "window_start and window_end are not in it, or of no event time")
    } else {
        ("this GROUP BY has no window, so its results are never final", "its results change with every row")
    };
    Error::new(Kind::Plan, "P137", message)
        .at(&at)
        .label(label)
        .fact("group by window_start, window_end of TUMBLE(table, time, INTERVAL '…'), where time has a WATERMARK")
        .fact("or write into a table with write = 'upsert' and a PRIMARY KEY of the GROUP BY's columns, or as a changelog: format = 'debezium_json'")
        .fact("or keep the running result in a CREATE MATERIALIZED VIEW")
}

/// The GROUP BY ready to run, and whether all its aggregates can be subtracted.
fn compiled(
    plan: &LogicalPlan,
    node: &GroupBy,
    input: &DFSchema,
    changing: bool,
) -> Result<(RunningSpec, bool), DataFusionError> {
    let asked = node.aggr_expr.iter().map(|expr| aggregate(expr, input)).collect::<Result<Vec<_>, _>>()?;
    let mut linear = true;
    for aggregate in &asked {
        linear &= is_linear(&aggregate.function)?;
    }
    let wanted = asked.len();
    let mut aggregates = asked;
    let (mut rows, mut sums) = (None, Vec::new());
    if changing && linear {
        for at in 0..wanted {
            if aggregates[at].function.fun().name() == "sum"
                && let Expr::AggregateFunction(call) = node.aggr_expr[at].clone().unalias()
            {
                let count = AggregateFunction::new_udf(
                    count_udaf(),
                    call.params.args,
                    false,
                    call.params.filter,
                    Vec::new(),
                    None,
                );
                sums.push((at, aggregates.len()));
                aggregates.push(aggregate(&Expr::AggregateFunction(count), input)?);
            }
        }
        rows = Some(aggregates.len());
        let count = AggregateFunction::new_udf(count_udaf(), vec![lit(1_i64)], false, None, Vec::new(), None);
        aggregates.push(aggregate(&Expr::AggregateFunction(count), input)?);
    }
    let mut keys = Vec::with_capacity(node.group_expr.len());
    let mut fields = Vec::with_capacity(node.group_expr.len());
    for expr in &node.group_expr {
        keys.push(compile(expr, input)?);
        fields.push(Arc::new(arrow::datatypes::Field::new("", expr.get_type(input)?, true)));
    }
    let partial = GroupSpec::partial_schema(None, &fields, &aggregates, false)?;
    let columns = (0..keys.len()).map(OutputColumn::Key).chain((0..wanted).map(OutputColumn::Aggregate));
    let schema = arrow_schema(plan.schema());
    let groups = GroupSpec {
        window: None,
        session: None,
        outputs: columns.collect(),
        keys,
        aggregates,
        partial,
        schema,
        lateness: 0,
    };
    Ok((RunningSpec { groups, rows, sums }, linear))
}

/// Keys, then the columns of the input.
fn keyed_schema(spec: &RunningSpec, input: &DFSchema) -> Arc<Schema> {
    let keys = spec.groups.partial.fields().iter().take(spec.groups.keys.len()).cloned();
    let rest = arrow_schema(input);
    let rest = rest.fields().iter().enumerate().map(|(at, field)| -> FieldRef {
        Arc::new(field.as_ref().clone().with_name(format!("column_{at}")).with_nullable(true))
    });
    Arc::new(Schema::new(keys.chain(rest).collect::<Vec<_>>()))
}

fn by(node: &GroupBy) -> String {
    let by: Vec<String> = node.group_expr.iter().map(|expr| expr.human_display().to_string()).collect();
    if by.is_empty() { "nothing".to_owned() } else { by.join(", ") }
}

fn words(node: &GroupBy) -> String {
    let of: Vec<String> = node.aggr_expr.iter().map(|expr| expr.human_display().to_string()).collect();
    match (of.is_empty(), node.group_expr.is_empty()) {
        (true, _) => format!("distinct {}", by(node)),
        (false, true) => of.join(", "),
        (false, false) => format!("{} by {}", of.join(", "), by(node)),
    }
}

/// What tells the rows of a changing result apart.
impl Builder<'_> {
    /// The columns of a changing result that tell its rows apart; `None` when none are known to.
    pub(super) fn key_of(&self, plan: &LogicalPlan) -> Option<Vec<usize>> {
        self.key_of_most(plan, None)
    }

    /// The same, where only so much is wanted of the ranks that a node below gives.
    fn key_of_most(&self, plan: &LogicalPlan, wanted: Option<Most>) -> Option<Vec<usize>> {
        match plan {
            LogicalPlan::Aggregate(node) => {
                let meanings = self.meanings(&node.input);
                let meanings: Vec<Meaning> =
                    node.group_expr.iter().map(|expr| meaning_of(expr, &node.input, &meanings)).collect();
                // A window's end follows from its start.
                let follows = |at: usize| match &meanings[at] {
                    Meaning::End { size, behind } => {
                        meanings.contains(&Meaning::Start { size: *size, behind: behind.clone() })
                    }
                    _ => false,
                };
                Some((0..node.group_expr.len()).filter(|at| !follows(*at)).collect())
            }
            LogicalPlan::TableScan(scan) => {
                let key = self.sources.get(scan.table_name.table())?.changes.as_ref()?.key.iter();
                let key: Option<Vec<usize>> =
                    key.map(|name| scan.projected_schema.index_of_column_by_name(None, name)).collect();
                key.filter(|key| !key.is_empty())
            }
            LogicalPlan::Filter(node) => self.key_of_most(&node.input, most(node).or(wanted)),
            LogicalPlan::SubqueryAlias(node) => self.key_of_most(&node.input, wanted),
            LogicalPlan::Sort(node) => self.key_of_most(&node.input, wanted),
            LogicalPlan::Window(node) => wanted?.key_of(node),
            LogicalPlan::Projection(node) => {
                let input = self.key_of_most(&node.input, wanted)?;
                let kept = input.into_iter().map(|at| {
                    let column = Column::from(node.input.schema().qualified_field(at));
                    node.expr.iter().position(|expr| is_column(expr, &column))
                });
                kept.collect()
            }
            _ => None,
        }
    }
}

/// Whether an expression is this column, maybe in a wider type.
fn is_column(expr: &Expr, column: &Column) -> bool {
    match expr {
        Expr::Alias(alias) => is_column(&alias.expr, column),
        Expr::Cast(cast) => is_column(&cast.expr, column),
        Expr::Column(named) => named == column,
        _ => false,
    }
}
