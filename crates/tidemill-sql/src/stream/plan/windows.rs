//! HOP and SESSION in a plan: rows once for each window, or what a GROUP BY makes of windows without making those rows.
//!
//! **Invariant:** a GROUP BY takes the windows over only when nothing between the two looks at their bounds.

use std::sync::Arc;

use datafusion::common::tree_node::TreeNode;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{Aggregate as GroupBy, Expr, Filter, Join, LogicalPlan, Projection, SubqueryAlias};
use tidemill_model::{Error, Kind, Result};
use tidemill_runtime::Route;

use super::build::{Builder, Walk, uncompiled};
use super::group::Keys;
use super::pending::Stream;
use super::refuse::at_word;
use crate::session::guarded::{arrow_schema, looked_up};
use crate::session::{Meaning, WindowBounds, WindowNode, WindowSize, compile, meaning_of};
use crate::stream::hop::HopFactory;

impl Builder<'_> {
    /// The rows of HOP, once for each window.
    pub(super) fn windows(&mut self, node: &WindowNode, walk: Walk<'_>) -> Result<Stream> {
        let place = &walk.statement.place;
        if let WindowSize::Session { .. } = node.size {
            return Err(Error::new(Kind::Plan, "P158", "a stream knows sessions by their GROUP BY alone")
                .at(&at_word(place, "session").unwrap_or_else(|| place.clone()))
                .label("grouped in another way, or not at all")
                .fact("GROUP BY window_start, window_end and every column of PARTITION BY; before it, nothing may use window_start or window_end")
                .fact("or compute it in an interval run"));
        }
        let input = self.walk(&node.input, walk)?;
        let failed = |error: DataFusionError| uncompiled(&error, place);
        let time = compile(&node.time, input.schema()).map_err(failed)?;
        let (changes, settled) = (input.changes, input.settled);
        let from = self.place(&input, walk.statement)?;
        let factory = HopFactory {
            time,
            size: node.size,
            schema: arrow_schema(node.columns()),
            text: format!("each row in its windows of {}", node.size),
            place: place.clone(),
        };
        let hop = self.add_operator(walk.statement, "hop", Arc::new(factory));
        self.graph.connect(from, hop, 0, Route::Forward);
        let time = self.time_of(&node.input);
        Ok(Stream::of(hop, Arc::clone(node.columns()), changes).timed(time).settled(settled))
    }

    /// The input of a GROUP BY with something else in the place of the windows' bounds that it groups by: the start of
    /// the pane for both, or a session's time for both. `None` when it has to see the windows themselves.
    pub(super) fn without_windows(
        &self,
        plan: &LogicalPlan,
        size: WindowSize,
    ) -> Result<Option<LogicalPlan>, DataFusionError> {
        let below = |input: &Arc<LogicalPlan>| self.without_windows(input, size);
        let is_session = matches!(size, WindowSize::Session { .. });
        Ok(match plan {
            LogicalPlan::Extension(_) => match WindowNode::of(plan) {
                Some(node) if node.size == size => {
                    let told = || match size {
                        WindowSize::Session { .. } => node.time.clone(),
                        _ => node.bound(WindowBounds::pane(), node.time.clone()),
                    };
                    Some(node.with_bounds(told(), told())?)
                }
                _ => None,
            },
            LogicalPlan::Projection(node) if node.expr.iter().all(|expr| self.ignores_windows(expr, &node.input)) => {
                match below(&node.input)? {
                    Some(input) => {
                        Some(LogicalPlan::Projection(Projection::try_new(node.expr.clone(), Arc::new(input))?))
                    }
                    None => None,
                }
            }
            LogicalPlan::Filter(node) => {
                let rest = self.beside_bounds(&node.predicate, &node.input);
                // Which rows make a session is decided before a condition above it takes some away.
                let fits = rest.as_ref().is_none_or(|rest| !is_session && self.looks_away(rest, &node.input));
                match (if fits { below(&node.input)? } else { None }, rest) {
                    (Some(input), Some(rest)) => Some(LogicalPlan::Filter(Filter::try_new(rest, Arc::new(input))?)),
                    (input, _) => input,
                }
            }
            LogicalPlan::SubqueryAlias(node) => match below(&node.input)? {
                Some(input) => {
                    Some(LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(Arc::new(input), node.alias.clone())?))
                }
                None => None,
            },
            LogicalPlan::Join(node) if !is_session => self.join_without_windows(node, size)?,
            _ => None,
        })
    }

    fn join_without_windows(&self, node: &Join, size: WindowSize) -> Result<Option<LogicalPlan>, DataFusionError> {
        let Some(left_is_side) = looked_up(node, self.catalog.project()) else { return Ok(None) };
        let rows = if left_is_side { &node.right } else { &node.left };
        let pairs = LogicalPlan::Join(node.clone());
        let keys = node.on.iter().map(|(left, right)| if left_is_side { right } else { left });
        let ignores = keys.into_iter().all(|key| self.looks_away(key, rows))
            && node.filter.iter().all(|filter| self.looks_away(filter, &pairs));
        if !ignores
            || pairs.schema().fields().len() != node.left.schema().fields().len() + node.right.schema().fields().len()
        {
            return Ok(None);
        }
        let Some(rows) = self.without_windows(rows, size)? else { return Ok(None) };
        let (left, right) = match left_is_side {
            true => (Arc::clone(&node.left), Arc::new(rows)),
            false => (Arc::new(rows), Arc::clone(&node.right)),
        };
        let (on, filter) = (node.on.clone(), node.filter.clone());
        let (kind, constraint) = (node.join_type, node.join_constraint);
        let joined = Join::try_new(left, right, on, filter, kind, constraint, node.null_equality, node.null_aware)?;
        Ok(Some(LogicalPlan::Join(joined)))
    }

    /// Which keys of a GROUP BY are those that its sessions are apart by; all of these have to be among them.
    pub(super) fn session_keys(&self, node: &GroupBy, keys: &Keys, walk: Walk<'_>) -> Result<Vec<usize>> {
        let place = &walk.statement.place;
        let at = at_word(place, "session").unwrap_or_else(|| place.clone());
        let Some(window) = window_below(&node.input) else { return Err(Error::internal("sessions are gone").at(&at)) };
        let grouped: Vec<Option<usize>> = keys
            .plain
            .iter()
            .map(|at| match node.group_expr[*at].clone().unalias() {
                Expr::Column(column) => origin(&node.input, node.input.schema().maybe_index_of_column(&column)?),
                _ => None,
            })
            .collect();
        let mut found = Vec::with_capacity(window.keys.len());
        for key in &window.keys {
            let column = match key {
                Expr::Column(column) => window.input.schema().maybe_index_of_column(column),
                _ => None,
            };
            let Some(position) = column.and_then(|column| grouped.iter().position(|of| *of == Some(column))) else {
                let name = key.to_string();
                let name = name.rsplit('.').next().unwrap_or_default().to_owned();
                return Err(Error::new(
                    Kind::Plan,
                    "P157",
                    format!("this GROUP BY takes sessions of several `{name}` together"),
                )
                .at(&at)
                .label(format!("PARTITION BY {name}, which is not grouped by"))
                .fact(format!("add `{name}` to the GROUP BY, or leave it out of PARTITION BY")));
            };
            if !found.contains(&position) {
                found.push(position);
            }
        }
        Ok(found)
    }

    /// What a condition asks beside that a window has bounds, which every window has.
    fn beside_bounds(&self, condition: &Expr, input: &LogicalPlan) -> Option<Expr> {
        let asks = |part: &&Expr| match part {
            Expr::IsNotNull(inner) => !matches!(inner.as_ref(), Expr::Column(_)) || self.looks_away(inner, input),
            _ => true,
        };
        conjunction(split_conjunction(condition).into_iter().filter(asks).cloned())
    }

    /// Whether an expression passes bounds of windows on unchanged, or has nothing to do with them.
    fn ignores_windows(&self, expr: &Expr, input: &LogicalPlan) -> bool {
        matches!(expr.clone().unalias(), Expr::Column(_)) || self.looks_away(expr, input)
    }

    /// Whether an expression looks at no bound of a window.
    pub(super) fn looks_away(&self, expr: &Expr, input: &LogicalPlan) -> bool {
        let meanings = self.meanings(input);
        let looks = expr.exists(|part| {
            let told = matches!(part, Expr::Column(_)).then(|| meaning_of(part, input, &meanings));
            Ok(matches!(told, Some(Meaning::Start { .. } | Meaning::End { .. })))
        });
        !looks.unwrap_or(true)
    }
}

/// The windows that rows come from, when only projections, names and conditions lie between.
fn window_below(plan: &LogicalPlan) -> Option<&WindowNode> {
    match plan {
        LogicalPlan::Projection(node) => window_below(&node.input),
        LogicalPlan::Filter(node) => window_below(&node.input),
        LogicalPlan::SubqueryAlias(node) => window_below(&node.input),
        other => WindowNode::of(other),
    }
}

/// Which column of the windows' input a column is.
fn origin(plan: &LogicalPlan, at: usize) -> Option<usize> {
    match plan {
        LogicalPlan::Projection(node) => match node.expr.get(at)?.clone().unalias() {
            Expr::Column(column) => origin(&node.input, node.input.schema().maybe_index_of_column(&column)?),
            _ => None,
        },
        LogicalPlan::SubqueryAlias(node) => origin(&node.input, at),
        LogicalPlan::Filter(node) => origin(&node.input, at),
        other => WindowNode::of(other).map(|_| at),
    }
}
