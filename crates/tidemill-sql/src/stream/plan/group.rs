//! GROUP BY by windows in a plan: two operators with an exchange between them.
//!
//! **Invariant:** a GROUP BY over a window is emitted once into a sink and as changes into a view.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::common::{Column, DFSchema};
use datafusion::error::DataFusionError;
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Aggregate as GroupBy, Expr, ExprSchemable, LogicalPlan};
use datafusion::physical_expr::aggregate::LoweredAggregateBuilder;
use tidemill_model::Result;
use tidemill_runtime::{OperatorFactory, Route};

use super::build::{Builder, Walk, uncompiled};
use super::closing::ordered_call;
use super::lateness::when;
use super::pending::Stream;
use crate::session::guarded::arrow_schema;
use crate::session::{Meaning, WindowSize, checked, compile, meaning_of};
use crate::stream::aggregate::{
    Aggregate, Emission, FinalFactory, GroupSpec, OutputColumn, PartialFactory, SessionBy, SessionFactory,
    SessionPartialFactory, SlidingFactory, WindowBy,
};

/// How the columns of a GROUP BY's key are used.
pub(super) struct Keys {
    /// The column that tells the window, its length, and what it is behind.
    window: Option<(usize, bool, WindowSize, Vec<WindowSize>)>,
    /// For each group expression what it becomes in the result.
    outputs: Vec<OutputColumn>,
    /// The group expressions that are keys beside the window.
    pub(super) plain: Vec<usize>,
}

impl Builder<'_> {
    pub(super) fn aggregate(&mut self, plan: &LogicalPlan, node: &GroupBy, walk: Walk<'_>) -> Result<Stream> {
        let place = &walk.statement.place;
        if node.group_expr.iter().any(|expr| matches!(expr, Expr::GroupingSet(_))) {
            return Err(super::build::not_yet(place, "group", "GROUPING SETS, CUBE and ROLLUP")
                .fact("write one INSERT for each grouping"));
        }
        if node.aggr_expr.iter().any(|expr| ordered_call(expr).is_some()) {
            return self.held_groups(plan, node, walk);
        }
        let meanings = self.meanings(&node.input);
        let meanings: Vec<Meaning> =
            node.group_expr.iter().map(|expr| meaning_of(expr, &node.input, &meanings)).collect();
        let keys = Keys::of(&meanings);
        if keys.window.is_none() {
            return self.running(plan, node, walk);
        }
        if self.changing(&node.input).is_some() {
            return self.windows_of_changes(plan, node, &keys, walk);
        }
        self.windowed_groups(plan, node, &keys, walk)
    }

    /// A GROUP BY by windows. Of rows that are taken back the states are subtracted.
    pub(super) fn windowed_groups(
        &mut self,
        plan: &LogicalPlan,
        node: &GroupBy,
        keys: &Keys,
        walk: Walk<'_>,
    ) -> Result<Stream> {
        let place = &walk.statement.place;
        let failed = |error: DataFusionError| uncompiled(&error, place);
        let panes = match &keys.window {
            Some((.., size, _)) if !size.tiles() && self.only_groups_by_windows(node, keys) => {
                self.without_windows(&node.input, *size).map_err(failed)?
            }
            _ => None,
        };
        let partition = match (&panes, &keys.window) {
            (Some(_), Some((.., WindowSize::Session { .. }, _))) => self.session_keys(node, keys, walk)?,
            _ => Vec::new(),
        };
        let below = panes.as_ref().unwrap_or(&node.input);
        let mut input = self.walk(below, Walk { emission: Emission::Once, ..walk })?;
        let retracts = input.changes;
        input.prune(&needed(node, keys)).map_err(failed)?;
        let (emission, lateness) = self.corrected(&input, node, walk)?;
        let spec = spec(plan, node, keys, panes.is_some().then_some(partition), input.schema()).map_err(failed)?;
        let spec = Arc::new(GroupSpec { lateness, ..spec });
        let from = match emission {
            Emission::Once => self.waiting(&input, walk)?,
            Emission::Corrected | Emission::Changes => self.place(&input, walk.statement)?,
        };
        let text = words(node, keys);
        let (of, first, at) = (Arc::clone(&spec), format!("pre-aggregate {text}"), place.clone());
        let late = self.late(walk);
        let partial: Arc<dyn OperatorFactory> = match spec.session {
            None => Arc::new(PartialFactory { spec: of, late: late.clone(), retracts, text: first, place: at }),
            Some(_) => Arc::new(SessionPartialFactory { spec: of, keeps_late: late.keeps(), text: first, place: at }),
        };
        let partial = self.add_operator(walk.statement, "partial", partial);
        self.graph.connect(from, partial, 0, Route::Forward);
        let route = spec.route();
        let (text, place) = (format!("aggregate {text}, {}", when(emission, lateness)), place.clone());
        let last: Arc<dyn OperatorFactory> = match panes {
            None => Arc::new(FinalFactory { spec, emission, text, place }),
            Some(_) if spec.session.is_some() => Arc::new(SessionFactory { spec, emission, late, text, place }),
            Some(_) => Arc::new(SlidingFactory { spec, emission, text, place }),
        };
        let last = self.add_operator(walk.statement, "final", last);
        self.graph.connect(partial, last, 0, Route::Hash(route));
        Ok(Stream::of(last, Arc::clone(&node.schema), emission != Emission::Once).settled(emission == Emission::Once))
    }

    /// Whether the bounds of the windows are keys and nothing else.
    fn only_groups_by_windows(&self, node: &GroupBy, keys: &Keys) -> bool {
        let plain = keys.plain.iter().map(|at| &node.group_expr[*at]);
        plain.chain(&node.aggr_expr).all(|expr| self.looks_away(expr, &node.input))
    }
}

impl Keys {
    /// Whether a window is among them.
    pub(super) fn has_window(&self) -> bool {
        self.window.is_some()
    }

    /// The length of the window.
    pub(super) fn size(&self) -> Option<WindowSize> {
        self.window.as_ref().map(|(_, _, size, _)| *size)
    }

    pub(super) fn of(meanings: &[Meaning]) -> Keys {
        let bounds = meanings.iter().enumerate().filter_map(|(at, meaning)| match meaning {
            Meaning::Start { size, behind } => Some((at, false, *size, behind.clone())),
            Meaning::End { size, behind } => Some((at, true, *size, behind.clone())),
            Meaning::Plain | Meaning::Time { .. } => None,
        });
        // Of several windows the shortest closes first; its start says more than its end, which may fall away.
        let window = bounds.min_by_key(|(_, is_end, size, _)| (*size, *is_end));
        let mut outputs = Vec::with_capacity(meanings.len());
        let mut plain = Vec::new();
        for (at, meaning) in meanings.iter().enumerate() {
            let output = match (meaning, &window) {
                (Meaning::Start { size, behind }, Some((_, _, of, past))) if size == of && behind == past => {
                    OutputColumn::Start
                }
                (Meaning::End { size, behind }, Some((_, _, of, past))) if size == of && behind == past => {
                    OutputColumn::End
                }
                _ => {
                    plain.push(at);
                    OutputColumn::Key(plain.len() - 1)
                }
            };
            outputs.push(output);
        }
        Keys { window, outputs, plain }
    }
}

/// The columns of the input that the GROUP BY looks at.
fn needed(node: &GroupBy, keys: &Keys) -> BTreeSet<Column> {
    let window = keys.window.iter().map(|(at, ..)| *at);
    let grouped = window.chain(keys.plain.iter().copied()).map(|at| &node.group_expr[at]);
    grouped.chain(&node.aggr_expr).flat_map(Expr::column_refs).cloned().collect()
}

/// An aggregate call, ready to run.
pub(super) fn aggregate(expr: &Expr, input: &DFSchema) -> Result<Aggregate, DataFusionError> {
    let arrow_input = arrow_schema(input);
    let (props, context) = (ExecutionProps::new(), PhysicalPlanningContext::default());
    let lowered = LoweredAggregateBuilder::new(expr, input, &arrow_input, &props, &context).build()?;
    let function = lowered.aggregate;
    let args = function.expressions().into_iter().map(checked).collect::<Result<Vec<_>, _>>()?;
    let filter = lowered.filter.map(checked).transpose()?;
    let states = function.state_fields()?.len();
    // Made once here so that what it cannot do is told by the plan, not by the run.
    match function.groups_accumulator_supported() {
        true => drop(function.create_groups_accumulator()?),
        false => drop(function.create_accumulator()?),
    }
    let types = args.iter().map(|arg| arg.data_type(&arrow_input)).collect::<Result<_, _>>()?;
    Ok(Aggregate { function, args, types, filter, states })
}

fn spec(
    plan: &LogicalPlan,
    node: &GroupBy,
    keys: &Keys,
    panes: Option<Vec<usize>>,
    input: &DFSchema,
) -> Result<GroupSpec, DataFusionError> {
    let aggregates = node.aggr_expr.iter().map(|expr| aggregate(expr, input)).collect::<Result<Vec<_>, _>>()?;
    let window = match &keys.window {
        None => None,
        Some((at, is_end, size, behind)) => {
            let column = compile(&node.group_expr[*at], input)?;
            // Where there are panes, both bounds tell the pane; of sessions both tell the time.
            let panes = panes.is_some();
            Some(WindowBy { column, is_end: *is_end && !panes, size: *size, panes, behind: behind.clone() })
        }
    };
    let window_type = match &keys.window {
        None => None,
        Some((at, ..)) => Some(node.group_expr[*at].get_type(input)?),
    };
    if let Some(other) = window_type.as_ref().filter(|t| !matches!(t, DataType::Timestamp(TimeUnit::Microsecond, _))) {
        return datafusion::common::plan_err!("a window's bound is a {other}");
    }
    let mut key_exprs = Vec::with_capacity(keys.plain.len());
    let mut fields = Vec::with_capacity(keys.plain.len());
    for at in &keys.plain {
        let expr = &node.group_expr[*at];
        key_exprs.push(compile(expr, input)?);
        fields.push(Arc::new(Field::new("", expr.get_type(input)?, true)));
    }
    let session = match (&keys.window, panes) {
        (Some((.., WindowSize::Session { gap }, _)), Some(partition)) => Some(SessionBy { gap: *gap, partition }),
        _ => None,
    };
    let partial = GroupSpec::partial_schema(window_type.as_ref(), &fields, &aggregates, session.is_some())?;
    let outputs = keys.outputs.iter().copied().chain((0..aggregates.len()).map(OutputColumn::Aggregate)).collect();
    let schema = arrow_schema(plan.schema());
    Ok(GroupSpec { window, session, keys: key_exprs, aggregates, partial, outputs, schema, lateness: 0 })
}

fn words(node: &GroupBy, keys: &Keys) -> String {
    let mut by: Vec<String> = keys.window.iter().map(|(_, _, size, _)| format!("{size} windows")).collect();
    by.extend(keys.plain.iter().map(|at| node.group_expr[*at].human_display().to_string()));
    let of: Vec<String> = node.aggr_expr.iter().map(|expr| expr.human_display().to_string()).collect();
    match (of.is_empty(), by.is_empty()) {
        (true, _) => format!("distinct {}", by.join(", ")),
        (false, true) => of.join(", "),
        (false, false) => format!("{} by {}", of.join(", "), by.join(", ")),
    }
}
