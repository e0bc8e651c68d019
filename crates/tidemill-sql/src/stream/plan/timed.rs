//! Joins of two streams in a plan: by how far apart the event times of both rows may be.
//!
//! **Invariant:** both sides are append-only and have event time, so that what is kept of them ends.

use std::sync::Arc;

use arrow::datatypes::Field;
use datafusion::common::{DFSchema, DFSchemaRef, JoinType, NullEquality};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, ExprSchemable, Join, LogicalPlan};
use tidemill_model::{Error, Kind, Place, Result, Span};
use tidemill_runtime::{NodeId, Route};

use super::build::{Builder, Walk, join_words, not_yet, uncompiled};
use super::pending::Stream;
use super::refuse::at_word;
use crate::session::guarded::{arrow_schema, columns, has_subquery};
use crate::session::{AsofNode, Between, Meaning, TimeBounds, compile, time_bounds};
use crate::stream::aggregate::Emission;
use crate::stream::joins::{self, AsofFactory, AsofSpec, IntervalJoinFactory, IntervalSpec, SideSpec};

impl Builder<'_> {
    /// A join of two streams.
    pub(super) fn join_streams(&mut self, plan: &LogicalPlan, join: &Join, walk: Walk<'_>) -> Result<Stream> {
        let place = &walk.statement.place;
        let at = at_word(place, "join").unwrap_or_else(|| place.clone());
        let (left, right) = (self.meanings(&join.left), self.meanings(&join.right));
        let (bounds, residual) = match time_bounds(join, &left, &right) {
            Between::Both(bounds, residual) => (bounds, residual),
            Between::OneSided => {
                return Err(Error::new(Kind::Plan, "P154", "this JOIN bounds the times of its rows on one side only")
                    .at(&at)
                    .label("rows would be kept for ever, waiting for a partner")
                    .fact(HOW));
            }
            Between::Nothing => return Err(unbounded(join, &at)),
        };
        let Some(kind) = kind_of(join.join_type) else { return Err(unbounded(join, &at)) };
        if join.null_aware {
            return Err(not_yet(place, "not", "NOT IN (SELECT …)").fact("write NOT EXISTS (SELECT …)"));
        }
        if residual.iter().any(has_subquery) {
            return Err(not_yet(place, "join", "a subquery in a join's condition"));
        }
        let inner = Walk { emission: Emission::Once, ..walk };
        let (left, right) = (self.walk(&join.left, inner)?, self.walk(&join.right, inner)?);
        if left.changes || right.changes {
            return Err(changing(&at));
        }
        let failed = |error: DataFusionError| uncompiled(&error, place);
        let pair = left.schema().join(right.schema()).map_err(failed)?;
        let residual = residual.map(|residual| compile(&residual, &pair)).transpose().map_err(failed)?;
        let (of_left, of_right): (Vec<Expr>, Vec<Expr>) = join.on.iter().cloned().unzip();
        let (from_left, left) = self.side(left, of_left, bounds.left, walk)?;
        let (from_right, right) = self.side(right, of_right, bounds.right, walk)?;
        let routes = [Route::Hash(left.keys.clone()), Route::Hash(right.keys.clone())];
        if join.on.is_empty() {
            let name = &walk.statement.name;
            self.notes.push(format!("{name}: a JOIN without equal columns runs on one lane; add a = b to divide it"));
        }
        let spec = IntervalSpec {
            kind,
            sides: [left, right],
            bounds: (bounds.least, bounds.most),
            null_equal: join.null_equality == NullEquality::NullEqualsNull,
            residual,
            pair: arrow_schema(&pair),
            schema: arrow_schema(plan.schema()),
            late: self.late(walk),
            text: words(join, bounds),
            place: place.clone(),
        };
        let node = self.add_operator(walk.statement, "join", Arc::new(IntervalJoinFactory(Arc::new(spec))));
        for (input, (from, route)) in [from_left, from_right].into_iter().zip(routes).enumerate() {
            self.graph.connect(from, node, input, route);
        }
        let time = self.time_of(plan);
        // What comes late is late here, so that nothing is below.
        Ok(Stream::of(node, Arc::clone(&join.schema), false).timed(time).settled(true))
    }

    /// An ASOF JOIN of two streams.
    pub(super) fn asof(&mut self, plan: &LogicalPlan, node: &AsofNode, walk: Walk<'_>) -> Result<Stream> {
        let place = &walk.statement.place;
        let at = at_word(place, "asof").unwrap_or_else(|| place.clone());
        let is_time =
            |meanings: Vec<Meaning>, at: usize| matches!(&meanings[at], Meaning::Time { behind } if behind.is_empty());
        if !is_time(self.meanings(&node.left), node.times.0) || !is_time(self.meanings(&node.right), node.times.1) {
            return Err(Error::new(Kind::Plan, "P156", "ASOF JOIN of streams compares their event times")
                .at(&at)
                .label("a column of MATCH_CONDITION is not the event time of its side")
                .fact("compare the columns that WATERMARK FOR names in CREATE TABLE, unchanged"));
        }
        if !node.looks_back() {
            return Err(not_yet(place, "asof", "ASOF JOIN with the next row (<=, <)")
                .fact("the row before is: MATCH_CONDITION (a.time >= b.time); or use it in an interval run"));
        }
        let inner = Walk { emission: Emission::Once, ..walk };
        let (left, right) = (self.walk(&node.left, inner)?, self.walk(&node.right, inner)?);
        if left.changes || right.changes {
            return Err(changing(&at));
        }
        let (from_left, left) = self.side(left, Vec::new(), node.times.0, walk)?;
        let (from_right, right) = self.side(right, Vec::new(), node.times.1, walk)?;
        let (of_left, of_right): (Vec<usize>, Vec<usize>) = node.on.iter().copied().unzip();
        let routes = [Route::Hash(of_left.clone()), Route::Hash(of_right.clone())];
        let text = match node.within {
            None => node.words(),
            Some(within) => format!("{}, at most {} apart", node.words(), signed(within)),
        };
        if node.within.is_none() {
            let name = &walk.statement.name;
            self.notes.push(format!(
                "{name}: ASOF JOIN keeps the newest row of each key for ever; AND b.time >= a.time - INTERVAL '…' in ON bounds that"
            ));
        }
        let spec = AsofSpec {
            rest: AsofNode::rest(&right.schema),
            sides: [SideSpec { keys: of_left, ..left }, SideSpec { keys: of_right, ..right }],
            op: node.op,
            within: node.within,
            schema: arrow_schema(plan.schema()),
            late: self.late(walk),
            text,
            place: place.clone(),
        };
        let operator = self.add_operator(walk.statement, "asof", Arc::new(AsofFactory(Arc::new(spec))));
        for (input, (from, route)) in [from_left, from_right].into_iter().zip(routes).enumerate() {
            self.graph.connect(from, operator, input, route);
        }
        let time = self.time_of(plan);
        Ok(Stream::of(operator, Arc::clone(plan.schema()), false).timed(time).settled(true))
    }

    /// A side with its keys as columns.
    fn side(&mut self, mut stream: Stream, on: Vec<Expr>, time: usize, walk: Walk<'_>) -> Result<(NodeId, SideSpec)> {
        let failed = |error: DataFusionError| uncompiled(&error, &walk.statement.place);
        let schema = Arc::clone(stream.schema());
        let own = schema.fields().len();
        let mut keys = Vec::with_capacity(on.len());
        let mut computed = Vec::new();
        for expr in on {
            let plain = match &expr {
                Expr::Column(column) => schema.maybe_index_of_column(column),
                _ => None,
            };
            keys.push(plain.unwrap_or_else(|| {
                computed.push(expr);
                own + computed.len() - 1
            }));
        }
        if !computed.is_empty() {
            let wider = with_keys(&schema, &computed).map_err(failed)?;
            let exprs = [columns(&schema), computed].concat();
            stream.project(exprs, wider);
        }
        let spec = SideSpec { schema: arrow_schema(stream.schema()), columns: own, keys, time };
        Ok((self.place(&stream, walk.statement)?, spec))
    }
}

/// What to write instead, where times are not bounded.
const HOW: &str = "write both bounds: … AND b.time BETWEEN a.time - INTERVAL '1 hour' AND a.time + INTERVAL '1 hour'";

fn with_keys(schema: &DFSchema, computed: &[Expr]) -> Result<DFSchemaRef, DataFusionError> {
    let mut fields: Vec<_> = schema.iter().map(|(name, field)| (name.cloned(), Arc::clone(field))).collect();
    for (number, expr) in computed.iter().enumerate() {
        let field = Field::new(format!("join key {number}"), expr.get_type(schema)?, true);
        fields.push((None, Arc::new(field)));
    }
    Ok(Arc::new(DFSchema::new_with_metadata(fields, schema.metadata().clone())?))
}

fn kind_of(join_type: JoinType) -> Option<joins::Kind> {
    Some(match join_type {
        JoinType::Inner => joins::Kind::Pairs { outer: [false, false] },
        JoinType::Left => joins::Kind::Pairs { outer: [true, false] },
        JoinType::Right => joins::Kind::Pairs { outer: [false, true] },
        JoinType::Full => joins::Kind::Pairs { outer: [true, true] },
        JoinType::LeftSemi => joins::Kind::Matched(0),
        JoinType::RightSemi => joins::Kind::Matched(1),
        JoinType::LeftAnti => joins::Kind::Alone(0),
        JoinType::RightAnti => joins::Kind::Alone(1),
        JoinType::LeftMark | JoinType::RightMark => return None,
    })
}

/// Two streams whose rows may be any time apart.
fn unbounded(join: &Join, at: &Place) -> Error {
    let kind = join_words(join.join_type);
    Error::new(Kind::Plan, "P130", format!("{kind} of two streams without bounds on their times is not available"))
        .at(at)
        .label("both sides have a WATERMARK, and rows would be kept for ever")
        .fact(HOW)
        .fact("or join windows of the same size on both sides: ON l.window_start = r.window_start AND …")
        .fact("for the latest row of one side as of the other, write ASOF JOIN … MATCH_CONDITION (a.time >= b.time) ON …")
        .fact("or look up in a table without WATERMARK; or join in an interval run: tidemill run PIPELINE --interval START/PERIOD")
}

/// A side that takes rows back.
fn changing(at: &Place) -> Error {
    Error::new(Kind::Plan, "P130", "JOIN over rows that change is not available in a stream yet")
        .at(at)
        .fact("join before grouping; or group by window_start, window_end, whose results are final, and join those")
        .fact("or join windows of both sides, ON l.window_start = r.window_start AND …: the rows that stand when a window closes")
}

fn words(join: &Join, bounds: TimeBounds) -> String {
    let on: Vec<String> =
        join.on.iter().map(|(left, right)| format!("{} = {}", left.human_display(), right.human_display())).collect();
    let on = if on.is_empty() { "any row".to_owned() } else { on.join(" and ") };
    let times = |schema: &DFSchema, at: usize| schema.field(at).name().clone();
    let (left, right) = (times(join.left.schema(), bounds.left), times(join.right.schema(), bounds.right));
    format!(
        "{} join on {on}, where {right} is {} to {} after {left}",
        format!("{}", join.join_type).to_lowercase(),
        signed(bounds.least),
        signed(bounds.most)
    )
}

/// A length of time that may be negative.
fn signed(micros: i64) -> String {
    let span = Span(std::time::Duration::from_micros(micros.unsigned_abs()));
    if micros < 0 { format!("-{span}") } else { span.to_string() }
}
