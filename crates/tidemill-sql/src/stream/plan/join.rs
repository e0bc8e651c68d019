//! Joins in a plan: a stream with a table that is looked up in.
//!
//! **Invariant:** one side of a join is read beside the dataflow, as of an epoch; it has no event time.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{JoinType, NullEquality};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::logical_plan::TableScanBuilder;
use datafusion::logical_expr::{Expr, Join, LogicalPlan};
use tidemill_model::{Error, Kind, Place, Result, Span};
use tidemill_runtime::{LookedUp, Route};

use super::OpenTable;
use super::build::{Builder, Walk, join_words, not_yet, uncompiled};
use super::pending::Stream;
use super::refuse::at_word;
use crate::language::Project;
use crate::session::guarded::{arrow_schema, has_event_time, has_subquery, looked_up};
use crate::session::{compile, lift};
use crate::stream::lookup::{Keep, Load, LookupFactory, LookupTable, read_all};

impl Builder<'_> {
    pub(super) fn join(&mut self, plan: &LogicalPlan, join: &Join, walk: Walk<'_>) -> Result<Stream> {
        let place = &walk.statement.place;
        let Some(left_is_side) = looked_up(join, self.catalog.project()) else {
            if let Some(stream) = self.window_join(plan, join, walk)? {
                return Ok(stream);
            }
            let project = self.catalog.project();
            if has_event_time(&join.left, project) && has_event_time(&join.right, project) {
                return self.join_streams(plan, join, walk);
            }
            return Err(refused(join, place));
        };
        if join.null_aware {
            return Err(not_yet(place, "not", "NOT IN (SELECT …)").fact("write NOT EXISTS (SELECT …)"));
        }
        if join.null_equality == NullEquality::NullEqualsNull && !join.on.is_empty() {
            return Err(not_yet(place, "is", "IS NOT DISTINCT FROM in a join"));
        }
        let exprs = join.on.iter().flat_map(|(left, right)| [left, right]).chain(&join.filter);
        if exprs.into_iter().any(has_subquery) {
            return Err(not_yet(place, "join", "a subquery in a join's condition"));
        }
        let (stream_plan, side_plan) = if left_is_side { (&join.right, &join.left) } else { (&join.left, &join.right) };
        let stream = self.walk(stream_plan, walk)?;
        let factory = self.lookup(plan, join, left_is_side, &stream, side_plan, walk)?;
        let from = self.place(&stream, walk.statement)?;
        self.note_lookup(&factory.table, &walk.statement.name);
        let node = self.add_operator(walk.statement, "lookup", Arc::new(factory));
        self.graph.connect(from, node, 0, Route::Forward);
        let time = self.time_of(plan);
        Ok(Stream::of(node, Arc::clone(&join.schema), stream.changes).timed(time).settled(stream.settled))
    }

    fn lookup(
        &self,
        plan: &LogicalPlan,
        join: &Join,
        left_is_side: bool,
        stream: &Stream,
        side: &Arc<LogicalPlan>,
        walk: Walk<'_>,
    ) -> Result<LookupFactory> {
        let place = &walk.statement.place;
        let failed = |error: DataFusionError| uncompiled(&error, place);
        let kept = stream.changes;
        let (stream, side_schema) = (stream.schema(), side.schema());
        let mut on = Vec::with_capacity(join.on.len());
        let mut keys = Vec::with_capacity(join.on.len());
        for (left, right) in &join.on {
            let (of_stream, of_side) = if left_is_side { (right, left) } else { (left, right) };
            on.push(compile(of_stream, stream).map_err(failed)?);
            keys.push(compile(of_side, side_schema).map_err(failed)?);
        }
        let pair = stream.join(side_schema).map_err(failed)?;
        let residual = join.filter.as_ref().map(|filter| compile(filter, &pair)).transpose().map_err(failed)?;
        let keep = match join.join_type {
            JoinType::Inner => Keep::Matches,
            JoinType::Left | JoinType::Right => Keep::MatchesOrNull,
            JoinType::LeftSemi | JoinType::RightSemi => Keep::IfMatched,
            _ => Keep::IfUnmatched,
        };
        let text = format!("look up {}{}", tables(side), condition(join));
        let named = names(side).into_iter().map(|name| self.catalog.dataset(&name).cloned());
        let table = LookupTable {
            datasets: named.collect::<Result<Vec<_>>>()?,
            tables: Arc::clone(self.open),
            load: self.load(side, place),
            side: arrow_schema(side_schema),
            keys,
            kept,
            place: place.clone(),
        };
        Ok(LookupFactory {
            keep,
            table: Arc::new(table),
            on,
            residual,
            looked_up_first: left_is_side,
            pair: arrow_schema(&pair),
            schema: arrow_schema(plan.schema()),
            text,
            definition: lookup_definition(join, side),
            place: place.clone(),
        })
    }

    /// Says when a table is read.
    fn note_lookup(&mut self, table: &LookupTable, statement: &str) {
        let names = table.datasets();
        if names.is_empty() {
            return;
        }
        let names = names.join(", ");
        let when = match table.refresh() {
            _ if table.kept => {
                "is read once and kept with the state, as rows that change are taken back as they were given; \
                 tidemill replay reads it anew"
                    .to_owned()
            }
            None => "is read once, when a run starts: refresh = 'none'".to_owned(),
            Some(refresh) => format!(
                "is read again when it has changed, asked every {}; each row meets it as of its own epoch",
                Span(refresh)
            ),
        };
        self.notes.push(format!("{statement}: {names} {when}"));
    }

    /// Reads the looked-up side.
    fn load(&self, side: &Arc<LogicalPlan>, place: &Place) -> Load {
        let (state, side, place) = (self.state.clone(), Arc::clone(side), place.clone());
        let (open, project): (OpenTable, Arc<Project>) = (Arc::clone(self.open), Arc::clone(self.catalog.project()));
        Arc::new(move || {
            let opened = side.as_ref().clone().transform_up(|node| match node {
                LogicalPlan::TableScan(scan) => {
                    let name = scan.table_name.table().to_owned();
                    let external = |error: Error| DataFusionError::External(Box::new(error));
                    let dataset = project
                        .datasets
                        .get(&name)
                        .ok_or_else(|| external(Error::internal(format!("the table `{name}` is gone"))))?;
                    let source = open.open(dataset).map_err(external)?;
                    let scan = TableScanBuilder::new(scan.table_name.clone(), source)
                        .with_projection(scan.projection.clone())
                        .with_filters(scan.filters.clone())
                        .build()?;
                    Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
                }
                node => Ok(Transformed::no(node)),
            });
            let opened = opened.map_err(|error| lift(&error, &place))?;
            read_all(state.clone(), opened.data, &place)
        })
    }
}

/// A join that is none in a stream.
fn refused(join: &Join, place: &Place) -> Error {
    let at = at_word(place, "join").unwrap_or_else(|| place.clone());
    let kind = join_words(join.join_type);
    Error::new(Kind::Plan, "P130", format!("{kind} is not available in a stream yet"))
        .at(&at)
        .fact("a stream can be joined to a table by JOIN and LEFT JOIN, the stream on the left")
}

/// The names of the tables that a plan reads.
fn names(plan: &LogicalPlan) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    // Nothing in the closure fails.
    let _ = plan.apply(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && !names.iter().any(|name| name == scan.table_name.table())
        {
            names.push(scan.table_name.table().to_owned());
        }
        Ok(TreeNodeRecursion::Continue)
    });
    names
}

fn tables(plan: &LogicalPlan) -> String {
    let names = names(plan);
    if names.is_empty() { "constants".to_owned() } else { names.join(", ") }
}

fn condition(join: &Join) -> String {
    let pair = |(left, right): &(Expr, Expr)| format!("{} = {}", left.human_display(), right.human_display());
    let on: Vec<String> = join.on.iter().map(pair).collect();
    if on.is_empty() { String::new() } else { format!(" on {}", on.join(" and ")) }
}

/// What decides which rows a lookup gives: the join and the query of the looked-up side.
fn lookup_definition(join: &Join, side: &LogicalPlan) -> String {
    let on: Vec<String> = join.on.iter().map(|(left, right)| format!("{left} = {right}")).collect();
    let filter = join.filter.as_ref().map(ToString::to_string);
    format!("{:?} look up on {on:?} and {filter:?} in {}", join.join_type, side.display_indent())
}
