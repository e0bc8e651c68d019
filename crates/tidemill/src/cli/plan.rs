//! `tidemill plan`: checks pipelines, and shows their graph, state and guarantees; changes nothing.

use serde_json::{Value, json};
use tidemill_checkpoint::{Recovery, recover};
use tidemill_model::{Error, Result};
use tidemill_runtime::{NodeKind, Route};
use tidemill_sql::language::Pipeline;
use tidemill_sql::stream::StreamPlan;

use super::numbers::grouped;
use super::output::Output;
use crate::{Workspace, engine};

pub(crate) fn plan(workspace: &Workspace, only: Option<&str>, output: &Output) -> Result<()> {
    let project = workspace.catalog.project();
    let pipelines: Vec<&Pipeline> = match only {
        Some(name) => vec![project.pipeline(name)?],
        None => project.pipelines.values().collect(),
    };
    let mut errors = Vec::new();
    let mut values = Vec::new();
    for pipeline in &pipelines {
        match engine::plan(workspace, &pipeline.name) {
            Ok(planned) => {
                let state = state(workspace, pipeline, &planned)?;
                if output.is_human() {
                    human(pipeline, &planned, &state, output);
                } else {
                    values.push(as_json(pipeline, &planned, &state));
                }
            }
            Err(error) => errors.push(error),
        }
    }
    if !output.is_human() {
        output.value(&Value::Array(values));
    }
    if let Some(error) = Error::all(errors) {
        return Err(error);
    }
    if output.is_human() {
        let word = if pipelines.len() == 1 { "pipeline" } else { "pipelines" };
        output.line(format!("= Plan: {} {word} can run. Nothing changed.", pipelines.len()));
        if let [pipeline] = pipelines[..] {
            output.note(format!("Next: tidemill run {}", pipeline.name));
        }
    }
    Ok(())
}

/// What the next run does with the state on record.
fn state(workspace: &Workspace, pipeline: &Pipeline, planned: &StreamPlan) -> Result<String> {
    let latest = workspace.checkpoints(&pipeline.name).latest()?;
    Ok(match recover(latest, &planned.fingerprints()) {
        Recovery::Fresh => "none yet: the first run begins at the start of its sources".to_owned(),
        Recovery::Resume(manifest) => format!("= keep, continue after epoch {}", grouped(manifest.epoch.0)),
        Recovery::Changed { epoch, nodes } => {
            format!("x epoch {epoch} was computed by another query; these steps differ: {}", nodes.join(", "))
        }
    })
}

fn human(pipeline: &Pipeline, planned: &StreamPlan, state: &str, output: &Output) {
    let latency = pipeline.latency.map(|l| format!(", latency {}", tidemill_model::Span(l))).unwrap_or_default();
    output.line(format!("{}  {}  {}{latency}", pipeline.name, pipeline.file, pipeline.trigger));
    for (i, node) in planned.graph.nodes.iter().enumerate() {
        let label = if i == 0 { "Graph   " } else { "        " };
        let what = match &node.kind {
            NodeKind::Source(source) => {
                let columns: Vec<&str> = source.schema.fields().iter().map(|c| c.name().as_str()).collect();
                format!("reads {}", columns.join(", "))
            }
            NodeKind::Operator(factory) => factory.describe(),
            NodeKind::Sink(_) => "sink".to_owned(),
        };
        let outputs: Vec<String> = node
            .outputs
            .iter()
            .map(|edge| {
                let to = &planned.graph.nodes[edge.to.0].name;
                match edge.route {
                    Route::Forward => format!("> {to}"),
                    Route::Hash(_) => format!("=> {to} by key"),
                }
            })
            .collect();
        output.line(format!("  {label} {}  {what}  {}", node.name, outputs.join("  ")));
    }
    output.line(format!("  State    {state}"));
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

fn as_json(pipeline: &Pipeline, planned: &StreamPlan, state: &str) -> Value {
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
        "state": state,
        "sinks": planned.sinks.iter().map(|s| json!({"name": s.name, "guarantee": s.guarantee})).collect::<Vec<_>>(),
        "views": planned.views.iter().map(|v| v.name.clone()).collect::<Vec<_>>(),
        "notes": planned.notes,
        "fingerprint": planned.fingerprint,
    })
}
