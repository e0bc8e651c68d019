//! What waits in a plan until time has passed: OVER, and GROUP BY with aggregates that depend on the order of rows.
//!
//! **Invariant:** what waits needs rows of a bounded time only; the rest is refused, with what to write instead.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::expr::Sort;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    Aggregate as GroupBy, Expr, Filter, LogicalPlan, Operator, Projection, Window, WindowFunctionDefinition, lit,
};
use tidemill_model::{Error, Kind, Place, Result};
use tidemill_runtime::Route;

use super::build::{Builder, Walk, uncompiled};
use super::pending::Stream;
use super::refuse::at_word;
use crate::session::guarded::{arrow_schema, columns};
use crate::session::{Meaning, ORDERED_AGGREGATES, Over, Told, WindowSize, call_of, meaning_of, over};
use crate::stream::aggregate::Emission;
use crate::stream::closing::{ClosingFactory, ClosingInput, Prune, RangeFactory, Recipe, input_of};

/// Functions of OVER that number rows from the first on: rows beyond the greatest number wanted are not needed.
const RANKS: &[&str] = &["row_number", "rank", "dense_rank"];

/// The most that a filter above wants of what a node of OVER numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Most {
    window: *const Window,
    rank: u64,
    /// Whether nobody looks at the number itself but the filter, which only says how many.
    hidden: bool,
}

impl Most {
    /// Whether it is wanted of this node.
    pub(super) fn is_of(&self, node: &Window) -> bool {
        std::ptr::eq(self.window, node)
    }

    /// The greatest number that is wanted.
    pub(super) fn rank(&self) -> u64 {
        self.rank
    }

    /// Whether a row with another number is the same row to whoever is above.
    pub(super) fn is_hidden(&self) -> bool {
        self.hidden
    }

    /// What a filter wants of the ranks that a node below gives, when something is wanted of them above it.
    pub(super) fn within(filter: &Filter, above: Option<Most>) -> Option<Most> {
        match (most(filter), above) {
            (Some(own), Some(above)) if std::ptr::eq(own.window, above.window) => Some(above),
            (own, above) => own.or(above),
        }
    }

    /// What a filter right below these expressions wants.
    pub(super) fn below(exprs: &[Expr], input: &LogicalPlan) -> Option<Most> {
        let LogicalPlan::Filter(filter) = input else { return None };
        let (most, column, only_bounds) = wanted(filter)?;
        let named = |exprs: &mut dyn Iterator<Item = &Expr>| exprs.filter(|e| e.column_refs().contains(column)).count();
        let hidden = only_bounds
            && named(&mut exprs.iter()) == 0
            && named(&mut split_conjunction(&filter.predicate).into_iter()) == 1;
        Some(Most { hidden, ..most })
    }
}

impl Builder<'_> {
    /// A node of OVER, with those right below it.
    pub(super) fn window(&mut self, plan: &LogicalPlan, node: &Window, walk: Walk<'_>) -> Result<Stream> {
        let mut nodes = vec![node];
        let mut base = &node.input;
        while let LogicalPlan::Window(below) = base.as_ref() {
            nodes.push(below);
            base = &below.input;
        }
        let calls = |nodes: &[&Window]| -> Vec<Expr> {
            nodes.iter().rev().flat_map(|node| node.window_expr.iter().cloned()).collect()
        };
        let mut reach = over(&calls(&nodes), base, &self.meanings(base));
        if matches!(reach, Over::Endless(_)) && nodes.len() > 1 {
            // Each for itself, when they look at different times.
            nodes.truncate(1);
            base = &node.input;
            reach = over(&calls(&nodes), base, &self.meanings(base));
        }
        if let Over::Endless(reason) = reach {
            let refused = endless(reason, &calls(&nodes), &walk.statement.place);
            return self.numbered(plan, node, walk)?.ok_or(refused);
        }
        self.in_time(base, &walk.statement.place, "over", "OVER (…)")?;
        let input = self.walk(base, Walk { emission: Emission::Once, ..walk })?;
        if input.changes && matches!(reach, Over::Range { .. }) {
            return Err(changing_frame(&walk.statement.place));
        }
        let route = common_columns(&calls(&nodes), input.schema());
        match reach {
            Over::Window(told) => self.windowed(plan, &nodes, input, (told, route), walk),
            Over::Range { time, before, after } => self.ranged(plan, &nodes, input, (time, before, after, route), walk),
            Over::Endless(reason) => Err(Error::internal(reason)),
        }
    }

    fn windowed(
        &mut self,
        plan: &LogicalPlan,
        nodes: &[&Window],
        input: Stream,
        (told, route): (Told, Vec<usize>),
        walk: Walk<'_>,
    ) -> Result<Stream> {
        let failed = |error: DataFusionError| uncompiled(&error, &walk.statement.place);
        let leaf = input_of(0, input.schema()).map_err(failed)?;
        let prune = match (nodes, walk.most) {
            // Of rows that may be taken back the next ones matter too.
            ([only], Some(most)) if most.is_of(only) && !input.changes => {
                Some(Prune(self.best(only, &leaf, input.schema(), most.rank).map_err(failed)?))
            }
            _ => None,
        };
        let words = match walk.most {
            Some(most) if prune.is_some() => format!(", at most {} kept", most.rank),
            _ => String::new(),
        };
        let recipe = Recipe::new(stacked(nodes, leaf).map_err(failed)?, 1, self.state);
        let size = told.size;
        let inputs = vec![ClosingInput::new(arrow_schema(input.schema()), told, route, input.changes)];
        let text = format!("{} over {size} windows{words}, given out once when a window closes", call_words(nodes));
        self.closing(
            plan,
            vec![input],
            ClosingFactory { inputs, recipe, prune, late: self.late(walk), text, place: walk.statement.place.clone() },
            ("over", walk),
        )
    }

    /// The rows of a window that are among the first.
    fn best(&self, node: &Window, leaf: &LogicalPlan, schema: &DFSchema, most: u64) -> Result<Recipe, DataFusionError> {
        let ranked = Window::try_new(node.window_expr.clone(), Arc::new(leaf.clone()))?;
        let rank = Column::from(ranked.schema.qualified_field(schema.fields().len()));
        let first = Filter::try_new(Expr::Column(rank).lt_eq(lit(most)), Arc::new(LogicalPlan::Window(ranked)))?;
        let rows = Projection::try_new(columns(schema), Arc::new(LogicalPlan::Filter(first)))?;
        Ok(Recipe::new(LogicalPlan::Projection(rows), 1, self.state))
    }

    fn ranged(
        &mut self,
        plan: &LogicalPlan,
        nodes: &[&Window],
        input: Stream,
        (time, before, after, route): (usize, i64, i64, Vec<usize>),
        walk: Walk<'_>,
    ) -> Result<Stream> {
        let place = &walk.statement.place;
        let failed = |error: DataFusionError| uncompiled(&error, place);
        let given = Field::new(RangeFactory::GIVEN, DataType::Boolean, false);
        let mark = DFSchema::from_unqualified_fields(vec![given].into(), Default::default()).map_err(failed)?;
        let marked = input.schema().join(&mark).map_err(failed)?;
        let leaf = input_of(0, &marked).map_err(failed)?;
        let recipe = Recipe::new(stacked(nodes, leaf).map_err(failed)?, 1, self.state);
        recipe.compile().map_err(failed)?;
        let span = |micros: i64| tidemill_model::Span(std::time::Duration::from_micros(micros.unsigned_abs()));
        let ahead = if after > 0 { format!(" and {} ahead", span(after)) } else { String::new() };
        let text = format!(
            "{} over {} back{ahead}, given out once when time has passed a row",
            call_words(nodes),
            span(before)
        );
        let (schema, result) = (arrow_schema(input.schema()), arrow_schema(plan.schema()));
        let to = Route::Hash(route.clone());
        let reach = (before, after);
        let (late, place) = (self.late(walk), place.clone());
        let factory = RangeFactory { schema, result, time, reach, route, recipe, late, text, place };
        let from = self.waiting(&input, walk)?;
        let node = self.add_operator(walk.statement, "over", Arc::new(factory));
        self.graph.connect(from, node, 0, to);
        Ok(Stream::of(node, Arc::clone(plan.schema()), false).timed(self.time_of(plan)).settled(true))
    }

    /// A GROUP BY with aggregates that depend on the order of rows, or have no inverse where rows are taken back: the rows
    /// are held until their window closes.
    pub(super) fn held_groups(&mut self, plan: &LogicalPlan, node: &GroupBy, walk: Walk<'_>) -> Result<Stream> {
        let place = &walk.statement.place;
        let failed = |error: DataFusionError| uncompiled(&error, place);
        let meanings = self.meanings(&node.input);
        let told = |expr: &Expr| match expr.clone().unalias() {
            Expr::Column(column) => {
                let at = node.input.schema().maybe_index_of_column(&column)?;
                Some((column, Told::by(at, meanings.get(at)?)?))
            }
            _ => None,
        };
        let windows = node.group_expr.iter().filter_map(told);
        let Some((column, told)) = windows.min_by_key(|(_, told)| (told.size, told.is_end)) else {
            return self.one_of_each(plan, node, walk)?.ok_or_else(|| self.unordered(node, place));
        };
        self.in_time(&node.input, place, "group", "GROUP BY")?;
        let mut input = self.walk(&node.input, Walk { emission: Emission::Once, ..walk })?;
        let needed: BTreeSet<Column> =
            node.group_expr.iter().chain(&node.aggr_expr).flat_map(Expr::column_refs).cloned().collect();
        input.prune(&needed).map_err(failed)?;
        let at = |column: &Column| input.schema().index_of_column(column);
        let told = Told { column: at(&column).map_err(failed)?, ..told };
        let keys = node.group_expr.iter().filter_map(|expr| match expr.clone().unalias() {
            Expr::Column(column) => at(&column).ok(),
            _ => None,
        });
        let route: BTreeSet<usize> = keys.collect();
        let leaf = input_of(0, input.schema()).map_err(failed)?;
        let groups = GroupBy::try_new(Arc::new(leaf), node.group_expr.clone(), node.aggr_expr.clone());
        let recipe = Recipe::new(LogicalPlan::Aggregate(groups.map_err(failed)?), 1, self.state);
        let of: Vec<String> = node.aggr_expr.iter().map(|expr| expr.human_display().to_string()).collect();
        let text =
            format!("{} by {} windows of whole rows, given out once when a window closes", of.join(", "), told.size);
        let route = route.into_iter().collect();
        let inputs = vec![ClosingInput::new(arrow_schema(input.schema()), told, route, input.changes)];
        let factory = ClosingFactory { inputs, recipe, prune: None, late: self.late(walk), text, place: place.clone() };
        let orders: HashSet<&[Sort]> = node.aggr_expr.iter().filter_map(kept_in_order).collect();
        self.closing(plan, vec![input], factory, ("ordered", walk)).map_err(|error| match orders.len() {
            0 | 1 => error,
            _ => error.fact("give array_agg, string_agg and nth_value of one GROUP BY the same ORDER BY, or join two of them on window_start"),
        })
    }

    /// Adds an operator that holds these inputs until their windows close.
    pub(super) fn closing(
        &mut self,
        plan: &LogicalPlan,
        inputs: Vec<Stream>,
        factory: ClosingFactory,
        (kind, walk): (&str, Walk<'_>),
    ) -> Result<Stream> {
        // Made once here so that what is wrong is told by the plan, not by the run.
        factory.recipe.compile().map_err(|error| uncompiled(&error, &walk.statement.place))?;
        let routes: Vec<Vec<usize>> = factory.inputs.iter().map(|input| input.route.clone()).collect();
        let mut from = Vec::with_capacity(inputs.len());
        for input in &inputs {
            from.push(self.waiting(input, walk)?);
        }
        let node = self.add_operator(walk.statement, kind, Arc::new(factory));
        for (number, (from, route)) in from.into_iter().zip(routes).enumerate() {
            self.graph.connect(from, node, number, Route::Hash(route));
        }
        if walk.emission == Emission::Changes {
            let name = &walk.statement.name;
            let note = format!("{name}: rows appear when their window closes, not before");
            if !self.notes.contains(&note) {
                self.notes.push(note);
            }
        }
        Ok(Stream::of(node, Arc::clone(plan.schema()), false).timed(self.time_of(plan)).settled(true))
    }

    fn unordered(&self, node: &GroupBy, place: &Place) -> Error {
        let names = node.aggr_expr.iter().filter_map(ordered_call);
        let found = names.into_iter().find_map(|name| Some((at_word(place, name)?, name)));
        let (at, what) = match found {
            Some((at, name)) => (at, format!("{name} depends on the order of rows")),
            None => (place.clone(), "an aggregate depends on the order of rows".to_owned()),
        };
        let meanings = self.meanings(&node.input);
        let told = node.group_expr.iter().map(|expr| meaning_of(expr, &node.input, &meanings));
        let in_sessions = |meaning: Meaning| matches!(meaning, Meaning::Start { size, .. } | Meaning::End { size, .. } if matches!(size, WindowSize::Session { .. }));
        if told.into_iter().any(in_sessions) {
            return Error::new(Kind::Plan, "P133", what)
                .at(&at)
                .label("the rows of a session are not held in a stream")
                .fact("TUMBLE and HOP hold the rows of a window until it closes")
                .fact("min and max do not depend on order; an interval run computes all of them in sessions too");
        }
        let windowed = meaning_words(&meanings);
        Error::new(Kind::Plan, "P133", what)
            .at(&at)
            .label("no window here, so it is never final")
            .fact(format!("add window_start{windowed}: rows are held until their window closes"))
            .fact("first_value, or last_value, alone or with others of the same ORDER BY needs no window where changes are taken")
            .fact("min and max need no window in a CREATE MATERIALIZED VIEW; an interval run computes it over all rows")
    }
}

fn meaning_words(meanings: &[Meaning]) -> &'static str {
    if meanings.iter().any(|meaning| matches!(meaning, Meaning::Start { .. })) {
        " to its keys"
    } else {
        " of TUMBLE(table, time, INTERVAL '…') to its keys"
    }
}

/// The name of an aggregate that depends on the order of rows.
pub(super) fn ordered_call(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Alias(alias) => ordered_call(&alias.expr),
        Expr::AggregateFunction(call) => {
            let ordered = ORDERED_AGGREGATES.contains(&call.func.name())
                || !call.params.order_by.is_empty() && !call.func.inner().supports_within_group_clause();
            ordered.then(|| call.func.name())
        }
        _ => None,
    }
}

/// The order of an aggregate that keeps all of its rows in order; those of one GROUP BY share one.
fn kept_in_order(expr: &Expr) -> Option<&[Sort]> {
    match expr {
        Expr::Alias(alias) => kept_in_order(&alias.expr),
        Expr::AggregateFunction(call) => {
            let keeps = ["array_agg", "string_agg", "nth_value"].contains(&call.func.name());
            keeps.then_some(call.params.order_by.as_slice())
        }
        _ => None,
    }
}

/// What a filter wants of the ranks that a node below gives.
pub(super) fn most(filter: &Filter) -> Option<Most> {
    wanted(filter).map(|(most, ..)| most)
}

/// The same, the column with the ranks, and whether the filter lets all ranks through up to the greatest.
fn wanted(filter: &Filter) -> Option<(Most, &Column, bool)> {
    split_conjunction(&filter.predicate).into_iter().find_map(|part| {
        let Expr::BinaryExpr(binary) = part else { return None };
        let (column, op, value) = match (binary.left.as_ref(), binary.right.as_ref()) {
            (Expr::Column(column), Expr::Literal(value, _)) => (column, binary.op, value),
            (Expr::Literal(value, _), Expr::Column(column)) => (column, binary.op.swap()?, value),
            _ => return None,
        };
        let ScalarValue::UInt64(Some(value)) = value.cast_to(&DataType::UInt64).ok()? else { return None };
        let rank = match op {
            Operator::LtEq | Operator::Eq => value,
            Operator::Lt => value.saturating_sub(1),
            _ => return None,
        };
        let all = op != Operator::Eq || rank == 1;
        Some((Most { window: ranked(&filter.input, column)?, rank, hidden: false }, column, all))
    })
}

/// The node of OVER that numbers the rows in this column, if it does nothing else.
fn ranked(plan: &LogicalPlan, column: &Column) -> Option<*const Window> {
    match plan {
        LogicalPlan::Projection(node) => {
            let at = node.schema.maybe_index_of_column(column)?;
            match node.expr.get(at)?.clone().unalias() {
                Expr::Column(column) => ranked(&node.input, &column),
                _ => None,
            }
        }
        LogicalPlan::SubqueryAlias(node) => {
            let at = node.schema.maybe_index_of_column(column)?;
            ranked(&node.input, &Column::from(node.input.schema().qualified_field(at)))
        }
        LogicalPlan::Filter(node) => ranked(&node.input, column),
        LogicalPlan::Window(node) => {
            let at = node.schema.maybe_index_of_column(column)?;
            let [only] = node.window_expr.as_slice() else { return None };
            let WindowFunctionDefinition::WindowUDF(function) = &call_of(only)?.fun else { return None };
            let alone = !matches!(node.input.as_ref(), LogicalPlan::Window(_));
            let numbers = at == node.input.schema().fields().len() && RANKS.contains(&function.name());
            (alone && numbers).then_some(std::ptr::from_ref(node))
        }
        _ => None,
    }
}

/// These nodes, the first on top, over another input.
fn stacked(nodes: &[&Window], input: LogicalPlan) -> Result<LogicalPlan, DataFusionError> {
    nodes.iter().rev().try_fold(input, |input, node| {
        Ok(LogicalPlan::Window(Window::try_new(node.window_expr.clone(), Arc::new(input))?))
    })
}

/// The columns that every call is partitioned by.
fn common_columns(calls: &[Expr], schema: &DFSchema) -> Vec<usize> {
    let of = |call: &Expr| -> BTreeSet<usize> {
        let parts = call_of(call).map(|call| call.params.partition_by.as_slice()).unwrap_or_default();
        let column = |part: &Expr| match part {
            Expr::Column(column) => schema.maybe_index_of_column(column),
            _ => None,
        };
        parts.iter().filter_map(column).collect()
    };
    let common = calls.iter().map(of).reduce(|all, next| all.intersection(&next).copied().collect());
    common.unwrap_or_default().into_iter().collect()
}

fn call_words(nodes: &[&Window]) -> String {
    let name = |expr: &Expr| {
        call_of(expr).map(|call| match &call.fun {
            WindowFunctionDefinition::AggregateUDF(function) => function.name().to_owned(),
            WindowFunctionDefinition::WindowUDF(function) => function.name().to_owned(),
        })
    };
    let names: Vec<String> = nodes.iter().rev().flat_map(|node| &node.window_expr).filter_map(name).collect();
    names.join(", ")
}

/// A frame of time over rows that are taken back.
fn changing_frame(place: &Place) -> Error {
    let at = at_word(place, "over").unwrap_or_else(|| place.clone());
    Error::new(Kind::Plan, "P225", "a frame of time over rows that change is not available in a stream")
        .at(&at)
        .label("a row that is taken back would change what later rows were given")
        .fact("PARTITION BY window_start of TUMBLE(table, time, INTERVAL '…'): the rows that stand when a window closes are taken")
        .fact("or compute it in an interval run: tidemill run PIPELINE --interval START/PERIOD")
}

fn endless(reason: &str, calls: &[Expr], place: &Place) -> Error {
    let ranks = calls.iter().filter_map(call_of).any(|call| match &call.fun {
        WindowFunctionDefinition::WindowUDF(function) => RANKS.contains(&function.name()),
        WindowFunctionDefinition::AggregateUDF(_) => false,
    });
    let at = at_word(place, "over").or_else(|| at_word(place, "window")).unwrap_or_else(|| place.clone());
    let error = Error::new(Kind::Plan, "P143", format!("this OVER (…) is never final in a stream: {reason}"))
        .at(&at)
        .label("it looks at rows of all time")
        .fact("PARTITION BY window_start of TUMBLE(table, time, INTERVAL '…') keeps it to a window");
    if ranks {
        return error.fact("the first rows of each key by all time are ROW_NUMBER() … <= N, in a CREATE MATERIALIZED VIEW or a table with write = 'upsert'");
    }
    error.fact("or an aggregate with ORDER BY time RANGE BETWEEN INTERVAL '…' PRECEDING AND CURRENT ROW, where time has a WATERMARK")
}
