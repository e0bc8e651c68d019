//! Windows over rows that change: a row that is taken back leaves the window of its own columns.
//!
//! Counts and exact totals are subtracted. Where an aggregate has no inverse the rows are held: until the window closes
//! where it is given out once, for ever where it is shown as it changes.
//!
//! **Invariant:** a window is given out once, and counts the rows that stood in it when it closed.

use std::sync::Arc;

use datafusion::common::Column;
use datafusion::error::DataFusionError;
use datafusion::functions_aggregate::count::count_udaf;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::{Aggregate as GroupBy, Expr, LogicalPlan, lit, when};
use tidemill_model::{Error, Kind, Place, Result};

use super::build::{Builder, Walk, not_yet, uncompiled};
use super::group::{Keys, aggregate};
use super::pending::Stream;
use super::refuse::at_word;
use super::statement::Target;
use crate::session::guarded::{columns, looked_up};
use crate::session::{AsofNode, WindowSize, meaning_of};
use crate::stream::aggregate::Emission;
use crate::stream::running::is_linear;

/// The names of columns that only the engine needs.
const ROWS: &str = "__rows";
const VALUES: &str = "__values";

/// A GROUP BY whose aggregates can be subtracted, with what that needs: how many rows and values there are.
struct Subtractable {
    node: GroupBy,
    /// The column that counts the rows of a group: one without rows is gone.
    rows: usize,
    /// Sums with the column that counts their values: a sum of none is NULL.
    sums: Vec<(usize, usize)>,
}

/// Why rows may be taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Changing {
    /// They are records of a changelog, and come as time goes on.
    Records,
    /// They are results of all time, and come when an epoch ends.
    Results,
}

impl Builder<'_> {
    /// Why rows of a plan may be taken back, when windows in it are given out once.
    pub(super) fn changing(&self, plan: &LogicalPlan) -> Option<Changing> {
        match plan {
            LogicalPlan::TableScan(scan) => {
                let changes = &self.sources.get(scan.table_name.table())?.changes;
                changes.as_ref().map(|_| Changing::Records)
            }
            LogicalPlan::Aggregate(node) => {
                let below = self.meanings(&node.input);
                let told: Vec<_> = node.group_expr.iter().map(|expr| meaning_of(expr, &node.input, &below)).collect();
                let windowed = Keys::of(&told).has_window();
                let changes = !node.aggr_expr.is_empty() || self.changing(&node.input).is_some();
                (!windowed && changes).then_some(Changing::Results)
            }
            LogicalPlan::Window(_) => None,
            LogicalPlan::Join(join) => match looked_up(join, self.catalog.project()) {
                Some(left_is_side) => self.changing(if left_is_side { &join.right } else { &join.left }),
                None => None,
            },
            other if AsofNode::of(other).is_some() => None,
            other => other.inputs().into_iter().filter_map(|input| self.changing(input)).max(),
        }
    }

    /// Refuses to hold until time has passed what is known at the end of an epoch only.
    pub(super) fn in_time(&self, plan: &LogicalPlan, place: &Place, word: &str, what: &str) -> Result<()> {
        match self.changing(plan) {
            Some(Changing::Results) => Err(not_yet(place, word, &format!("{what} of results that change"))),
            Some(Changing::Records) | None => Ok(()),
        }
    }

    /// A GROUP BY by windows of rows that change.
    pub(super) fn windows_of_changes(
        &mut self,
        plan: &LogicalPlan,
        node: &GroupBy,
        keys: &Keys,
        walk: Walk<'_>,
    ) -> Result<Stream> {
        let place = &walk.statement.place;
        let failed = |error: DataFusionError| uncompiled(&error, place);
        self.in_time(&node.input, place, "group", "GROUP BY")?;
        if matches!(keys.size(), Some(WindowSize::Session { .. })) {
            return Err(Error::new(Kind::Plan, "P223", "sessions of rows that change are not available in a stream")
                .at(&at_word(place, "session").unwrap_or_else(|| place.clone()))
                .label("a row that is taken back may divide a session that was one")
                .fact("TUMBLE and HOP follow rows that change; or compute it in an interval run"));
        }
        if let Some(wide) = subtractable(node).map_err(failed)? {
            let whole = LogicalPlan::Aggregate(wide.node.clone());
            let mut stream = self.windowed_groups(&whole, &wide.node, keys, walk)?;
            let column = |at: usize| Expr::Column(Column::from(wide.node.schema.qualified_field(at)));
            stream.filter(column(wide.rows).gt(lit(0_i64)));
            let mut exprs = columns(&wide.node.schema);
            exprs.truncate(node.schema.fields().len());
            for (sum, values) in wide.sums {
                exprs[sum] = when(column(values).gt(lit(0_i64)), column(sum)).end().map_err(failed)?;
            }
            stream.project(exprs, Arc::clone(&node.schema));
            return Ok(stream);
        }
        if walk.emission != Emission::Changes {
            return self.held_groups(plan, node, walk);
        }
        if let Target::View(view) = &walk.statement.target
            && view.settings.span("retention").is_some()
        {
            let message = format!("the view `{}` cannot forget windows whose rows may still change", view.name);
            return Err(Error::new(Kind::Plan, "P224", message)
                .at(&view.place)
                .label("some aggregate of it is computed anew from all rows of a window")
                .fact("leave retention out; counts and sums of integers and decimals are subtracted, and can be forgotten"));
        }
        let name = &walk.statement.name;
        self.notes.push(format!(
            "{name}: the rows of every window are kept, as some aggregate is computed anew when one of them changes"
        ));
        self.running(plan, node, walk)
    }
}

/// Whether rows that are taken back are subtracted from the aggregates of a GROUP BY, and not held until its window closes.
pub(crate) fn subtracts(node: &GroupBy) -> Result<bool, DataFusionError> {
    for expr in &node.aggr_expr {
        if !is_linear(&aggregate(expr, node.input.schema())?.function)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The GROUP BY with what subtracting needs; `None` when an aggregate of it cannot be subtracted.
fn subtractable(node: &GroupBy) -> Result<Option<Subtractable>, DataFusionError> {
    let count = |args: Vec<Expr>, filter: Option<Box<Expr>>, name: String| {
        Expr::AggregateFunction(AggregateFunction::new_udf(count_udaf(), args, false, filter, Vec::new(), None))
            .alias(name)
    };
    let leading = node.group_expr.len();
    let mut wide = node.aggr_expr.clone();
    let mut sums = Vec::new();
    for (number, expr) in node.aggr_expr.iter().enumerate() {
        let asked = aggregate(expr, node.input.schema())?;
        if !is_linear(&asked.function)? {
            return Ok(None);
        }
        if asked.function.fun().name() == "sum"
            && let Expr::AggregateFunction(call) = expr.clone().unalias()
        {
            sums.push((leading + number, leading + wide.len()));
            wide.push(count(call.params.args, call.params.filter, format!("{VALUES}{number}")));
        }
    }
    let rows = leading + wide.len();
    wide.push(count(vec![lit(1_i64)], None, ROWS.to_owned()));
    let node = GroupBy::try_new(Arc::clone(&node.input), node.group_expr.clone(), wide)?;
    Ok(Some(Subtractable { node, rows, sums }))
}
