//! Joins of rows of the same window in a plan: both sides are held until the window closes.
//!
//! **Invariant:** rows that match are on one lane: both sides find it by the window and the pairs of equal columns.

use std::sync::Arc;

use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, ExprSchemable, Join, LogicalPlan};
use tidemill_model::Result;

use super::build::{Builder, Walk, not_yet, uncompiled};
use super::pending::Stream;
use crate::session::guarded::{arrow_schema, has_subquery};
use crate::session::{Told, window_join};
use crate::stream::aggregate::Emission;
use crate::stream::closing::{ClosingFactory, ClosingInput, Recipe, input_of};

impl Builder<'_> {
    /// The join, if it is one of windows.
    pub(super) fn window_join(&mut self, plan: &LogicalPlan, join: &Join, walk: Walk<'_>) -> Result<Option<Stream>> {
        let (left, right) = (self.meanings(&join.left), self.meanings(&join.right));
        let Some((l, r)) = window_join(join, &left, &right) else { return Ok(None) };
        let place = &walk.statement.place;
        if join.null_aware {
            return Err(not_yet(place, "not", "NOT IN (SELECT …)").fact("write NOT EXISTS (SELECT …)"));
        }
        let exprs = join.on.iter().flat_map(|(left, right)| [left, right]).chain(&join.filter);
        if exprs.into_iter().any(has_subquery) {
            return Err(not_yet(place, "join", "a subquery in a join's condition"));
        }
        for side in [&join.left, &join.right] {
            self.in_time(side, place, "join", "a join")?;
        }
        let once = Walk { emission: Emission::Once, ..walk };
        let streams = vec![self.walk(&join.left, once)?, self.walk(&join.right, once)?];
        let failed = |error: DataFusionError| uncompiled(&error, place);
        let (mut left_route, mut right_route) = (vec![l.column], vec![r.column]);
        for (of_left, of_right) in &join.on {
            let (Expr::Column(a), Expr::Column(b)) = (of_left, of_right) else { continue };
            let (left, right) = (streams[0].schema(), streams[1].schema());
            let same = of_left.get_type(left).map_err(failed)? == of_right.get_type(right).map_err(failed)?;
            if let (true, Some(a), Some(b)) = (same, left.maybe_index_of_column(a), right.maybe_index_of_column(b)) {
                left_route.push(a);
                right_route.push(b);
            }
        }
        let text = format!("join of {} windows, given out once when a window closes", l.size);
        let input = |stream: &Stream, told: Told, route| {
            ClosingInput::new(arrow_schema(stream.schema()), told, route, stream.changes)
        };
        let inputs = vec![input(&streams[0], l, left_route), input(&streams[1], r, right_route)];
        let joined = Join::try_new(
            Arc::new(input_of(0, streams[0].schema()).map_err(failed)?),
            Arc::new(input_of(1, streams[1].schema()).map_err(failed)?),
            join.on.clone(),
            join.filter.clone(),
            join.join_type,
            join.join_constraint,
            join.null_equality,
            join.null_aware,
        );
        let recipe = Recipe::new(LogicalPlan::Join(joined.map_err(failed)?), 2, self.state);
        let factory = ClosingFactory { inputs, recipe, prune: None, late: self.late(walk), text, place: place.clone() };
        self.closing(plan, streams, factory, ("join", walk)).map(Some)
    }
}
