//! `tidemill plan`: checks pipelines, and shows their graph, state and guarantees; changes nothing.

use serde_json::{Value, json};
use tidemill_model::{Error, Result};
use tidemill_runtime::{Graph, NodeKind};
use tidemill_sql::language::Pipeline;
use tidemill_sql::stream::StreamPlan;

use super::failure::{Outcome, pipelines};
use super::intervals;
use super::numbers::{counted, grouped};
use super::output::Output;
use crate::rebuild::{self, Action, Changes, Request};
use crate::{Workspace, engine};

pub(crate) fn plan(workspace: &Workspace, only: Option<&str>, output: &Output) -> Outcome {
    let pipelines = pipelines(workspace, only)?;
    let mut errors = Vec::new();
    let mut values = Vec::new();
    let mut planned_all = Vec::new();
    for pipeline in &pipelines {
        match one(workspace, pipeline, &mut values, output) {
            Ok(planned) => planned_all.push((*pipeline, planned)),
            Err(error) => errors.push(error),
        }
    }
    if !output.is_human() {
        output.values(values);
    }
    if let Some(error) = Error::all(errors) {
        return Err(error.into());
    }
    if output.is_human() {
        output.line(format!("= Plan: {} can run. Nothing changed.", counted(pipelines.len() as u64, "pipeline")));
        if pipelines.is_empty() {
            output.note("No pipelines yet: write one into pipelines/NAME.sql, or see tidemill init --example orders.");
        }
        if let [(pipeline, planned)] = planned_all[..] {
            let how = match planned {
                Planned { by_interval: true, .. } => " --interval START/PERIOD",
                Planned { differs: true, .. } => " --rebuild",
                Planned { .. } => "",
            };
            output.note(format!("Next: tidemill run {}{how}", pipeline.name));
        }
    }
    Ok(())
}

/// How a pipeline that can run is run.
#[derive(Clone, Copy)]
struct Planned {
    by_interval: bool,
    /// Whether what is on record was computed by another query.
    differs: bool,
}

/// Plans and shows one pipeline.
fn one(workspace: &Workspace, pipeline: &Pipeline, values: &mut Vec<Value>, output: &Output) -> Result<Planned> {
    if engine::is_by_interval(workspace, pipeline)? {
        let has = intervals::plan(workspace, pipeline, values, output)?;
        return Ok(Planned { by_interval: !has, differs: false });
    }
    let planned = engine::plan(workspace, &pipeline.name)?;
    let state = State::of(workspace, pipeline, &planned)?;
    if output.is_human() {
        human(pipeline, &planned, &state, output);
    } else {
        values.push(as_json(pipeline, &planned, &state));
    }
    Ok(Planned { by_interval: false, differs: state.differs() })
}

/// What the next run does with the state on record.
struct State {
    text: String,
    /// `None` before the first run.
    changes: Option<Changes>,
}

impl State {
    fn of(workspace: &Workspace, pipeline: &Pipeline, planned: &StreamPlan) -> Result<State> {
        let changes = rebuild::changes(workspace, &pipeline.name, planned, &Request::Changed)?;
        let text = match &changes {
            None => "none yet: the first run begins at the start of its sources".to_owned(),
            Some(Changes { record, differs: false, .. }) => {
                format!("= keep, continue after epoch {}", grouped(record.epoch.0))
            }
            Some(Changes { record, .. }) => {
                format!("x epoch {} was computed by another query", grouped(record.epoch.0))
            }
        };
        Ok(State { text, changes })
    }

    fn differs(&self) -> bool {
        self.changes.as_ref().is_some_and(|changes| changes.differs)
    }

    /// Each operator, and what becomes of each target, for people.
    fn lines(&self, pipeline: &Pipeline, output: &Output) {
        output.line(format!("  State    {}", self.text));
        let Some(changes) = self.changes.as_ref().filter(|changes| changes.differs || output.is_verbose()) else {
            return;
        };
        for (operator, fate) in &changes.operators {
            output.line(format!("           {:<8} {operator}", fate.word()));
        }
        if changes.differs {
            let mut label = "Rebuild ";
            for (target, action) in &changes.targets {
                output.line(format!("  {label} > {target}  {}", action_words(*action)));
                label = "        ";
            }
            output.line(format!("           by: tidemill run {} --rebuild", pipeline.name));
        }
    }

    fn operators_json(&self) -> Value {
        let operators = self.changes.iter().flat_map(|changes| &changes.operators);
        operators.map(|(name, fate)| json!({"name": name, "state": fate.word()})).collect()
    }

    fn targets_json(&self) -> Value {
        let changes = self.changes.iter().filter(|changes| changes.differs);
        changes.flat_map(|changes| &changes.targets).map(|(name, action)| action_json(name, *action)).collect()
    }
}

/// What becomes of a target, in words.
pub(super) fn action_words(action: Action) -> String {
    match action {
        Action::Keep => "kept, goes on from where it is".to_owned(),
        Action::Anew(None) => "computed anew and switched in one epoch".to_owned(),
        Action::Anew(Some(note)) => format!("computed anew and switched in one epoch; {note}"),
        Action::Refused(why, instead) => format!("x refused: {why}; {instead}"),
    }
}

/// The same for programs.
pub(super) fn action_json(name: &str, action: Action) -> Value {
    let (word, note, instead) = match action {
        Action::Keep => ("keep", None, None),
        Action::Anew(note) => ("anew", note, None),
        Action::Refused(why, instead) => ("refused", Some(why), Some(instead)),
    };
    json!({"target": name, "action": word, "note": note, "instead": instead})
}

fn human(pipeline: &Pipeline, planned: &StreamPlan, state: &State, output: &Output) {
    let latency = pipeline.latency.map(|l| format!(", latency {}", tidemill_model::Span(l))).unwrap_or_default();
    output.line(format!("{}  {}  {}{latency}", pipeline.name, pipeline.file, pipeline.trigger));
    let mut label = "Graph   ";
    for end in (0..planned.graph.nodes.len()).filter(|&node| planned.graph.nodes[node].outputs.is_empty()) {
        for path in paths(&planned.graph, end) {
            output.line(format!("  {label} {path}"));
            label = "        ";
        }
    }
    if output.is_verbose() {
        let mut label = "Steps   ";
        for node in &planned.graph.nodes {
            output.line(format!("  {label} {}: {}", node.name, step(&node.kind)));
            label = "        ";
        }
    }
    state.lines(pipeline, output);
    for sink in &planned.sinks {
        output.line(format!("  Delivery > {}  {}", sink.name, sink.guarantee));
    }
    for view in &planned.views {
        output.line(format!("  Delivery > {}  exactly-once: its rows are state of the manifest", view.name));
    }
    for note in &planned.notes {
        output.line(format!("  Note   ! {note}"));
    }
}

/// Every way from a source to this node: `raw_orders > lookup > select > cleaned_orders`. Steps of one statement are
/// named without it.
fn paths(graph: &Graph, end: usize) -> Vec<String> {
    let target = &graph.nodes[end].name;
    let mut found = Vec::new();
    let mut open = vec![vec![end]];
    while let Some(path) = open.pop() {
        let first = path.last().copied().unwrap_or(end);
        let before = |node: &usize| graph.nodes[*node].outputs.iter().any(|edge| edge.to.0 == first);
        let inputs: Vec<usize> = (0..first).filter(before).collect();
        if inputs.is_empty() {
            let names = path.iter().rev().map(|&node| {
                let name = &graph.nodes[node].name;
                name.strip_prefix(target.as_str()).and_then(|rest| rest.strip_prefix('.')).unwrap_or(name)
            });
            found.push(names.collect::<Vec<_>>().join(" > "));
        }
        open.extend(inputs.into_iter().map(|input| path.iter().copied().chain([input]).collect::<Vec<_>>()));
    }
    found
}

fn step(kind: &NodeKind) -> String {
    match kind {
        NodeKind::Source(source) => {
            let columns: Vec<&str> = source.schema.fields().iter().map(|c| c.name().as_str()).collect();
            format!("reads {}", columns.join(", "))
        }
        NodeKind::Operator(factory) => factory.describe(),
        NodeKind::Sink(sink) => format!("sink, {}", sink.guarantee()),
    }
}

fn as_json(pipeline: &Pipeline, planned: &StreamPlan, state: &State) -> Value {
    let nodes: Vec<Value> = planned
        .graph
        .nodes
        .iter()
        .map(|node| {
            let (kind, what) = match &node.kind {
                NodeKind::Source(source) => ("source", source.dataset.clone()),
                NodeKind::Operator(factory) => ("operator", factory.describe()),
                NodeKind::Sink(sink) => ("sink", sink.guarantee()),
            };
            let outputs: Vec<&str> =
                node.outputs.iter().map(|edge| planned.graph.nodes[edge.to.0].name.as_str()).collect();
            json!({"name": node.name, "kind": kind, "what": what, "outputs": outputs})
        })
        .collect();
    json!({
        "pipeline": pipeline.name,
        "file": *pipeline.file,
        "trigger": pipeline.trigger.to_string(),
        "nodes": nodes,
        "state": state.text,
        "operators": state.operators_json(),
        "rebuild": state.targets_json(),
        "sinks": planned.sinks.iter().map(|s| json!({"name": s.name, "guarantee": s.guarantee})).collect::<Vec<_>>(),
        "views": planned.views.iter().map(|v| v.name.clone()).collect::<Vec<_>>(),
        "notes": planned.notes,
        "fingerprint": planned.fingerprint,
    })
}
