//! `tidemill dead-letters replay`: letters enter again, in one epoch, after what made them letters was corrected.
//!
//! **Invariant:** a dry run and the run itself say the same of each letter.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};
use tidemill_model::{Error, Kind, Result};
use tidemill_runtime::exec::Progress;
use tidemill_sql::language::Pipeline;

use super::args::Replaying;
use super::numbers::{counted, duration, grouped};
use super::output::Output;
use super::run::{stop_on_signal, watch};
use crate::letters::{self, Choice, Corrected, Entered, Sorted};
use crate::{RunOptions, Workspace};

/// Lets letters enter again, or says what that would do.
pub(super) async fn replay(
    workspace: &Workspace,
    pipeline: &Pipeline,
    asked: &Replaying,
    output: &Output,
) -> Result<()> {
    let name = pipeline.name.as_str();
    let corrected = |file: &PathBuf| Corrected::read(file, name);
    let choice = Choice {
        dataset: asked.dataset.clone(),
        reasons: asked.reason.clone(),
        condition: asked.condition.clone(),
        corrected: asked.from.as_ref().map(corrected).transpose()?,
    };
    let chosen = letters::choose(workspace, name, &choice).await?;
    let sorted = letters::sort(&letters::graph(workspace, name)?, chosen.clone());
    // Who has corrected a letter by hand must not think that it has entered.
    if choice.corrected.is_some()
        && let Some(((dataset, stays), rows)) = sorted.stays.first_key_value()
    {
        let message = format!("{} of `{dataset}` cannot enter again", counted(*rows, "letter"));
        return Err(Error::new(Kind::Plan, "P240", message)
            .label(stays.why())
            .fact(stays.instead(name, dataset))
            .fact("take them out of the file; nothing was changed"));
    }
    if asked.dry_run {
        dry_run(name, &sorted, output);
        return Ok(());
    }
    let stays = stays_as_json(name, &sorted);
    tell_stays(name, &sorted, output);
    let begun = workspace.clock.now();
    let progress = Arc::new(Progress::default());
    let options = RunOptions { lanes: asked.lanes.map(|lanes| lanes.get()), ..RunOptions::default() };
    let prepared = letters::prepare(workspace, name, chosen, &options, &progress)?;
    let entered = match prepared {
        None => Entered { epoch: None, letters: 0, dead: 0, late: 0 },
        Some(prepared) => {
            let stop = stop_on_signal(output)?;
            let checkpoints = workspace.checkpoints(name);
            let running = tokio::task::spawn_blocking(move || prepared.run(&checkpoints, &stop));
            let entered = watch(running, &progress, name, (workspace, &BTreeMap::new), output).await??;
            if entered.epoch.is_none() {
                output.note("stopped before its epoch was complete; nothing was changed");
            }
            entered
        }
    };
    if !output.is_human() {
        output.value(&json!({
            "pipeline": name,
            "epoch": entered.epoch.map(|epoch| epoch.0),
            "replayed": entered.letters,
            "dead_again": entered.dead,
            "late": entered.late,
            "stays": stays,
        }));
        return Ok(());
    }
    let took = duration(workspace.clock.now().since(begun));
    human(name, &entered, &took, output);
    Ok(())
}

fn human(pipeline: &str, entered: &Entered, took: &str, output: &Output) {
    let Some(epoch) = entered.epoch else {
        output.line("= nothing replayed: no letter was chosen that can enter again");
        return;
    };
    let mut fates = String::new();
    if entered.dead > 0 {
        fates.push_str(&format!(", {} again a letter", grouped(entered.dead)));
    }
    if entered.late > 0 {
        fates.push_str(&format!(", {} too late for closed windows", grouped(entered.late)));
    }
    let letters = counted(entered.letters, "dead letter");
    output.line(format!("= replayed {letters} in {took}{fates}; epoch {}", grouped(epoch.0)));
    if entered.dead > 0 {
        output.note(format!("Next: tidemill dead-letters {pipeline} says why"));
    }
    if entered.late > 0 {
        output.note(format!(
            "Late rows are in NAME.late. What they would change has been given out: tidemill replay {pipeline} --from earliest \
             computes it anew where it can be replaced"
        ));
    }
}

fn dry_run(pipeline: &str, sorted: &Sorted, output: &Output) {
    if !output.is_human() {
        let entry = |(node, letters): (&String, &Vec<letters::Letter>)| {
            let bytes: usize = letters.iter().map(|letter| letter.raw.len()).sum();
            json!({"at": node, "letters": letters.len(), "bytes": bytes})
        };
        let enters: Vec<Value> = sorted.enters.iter().map(entry).collect();
        output.value(&json!({"pipeline": pipeline, "enters": enters, "stays": stays_as_json(pipeline, sorted)}));
        return;
    }
    output.line(format!("{pipeline}  {} would enter again, in one epoch", counted(sorted.entering(), "dead letter")));
    for (node, letters) in &sorted.enters {
        let of_step = letters.first().is_some_and(|letter| letter.step.is_some());
        let how = match of_step {
            true => "as rows, at the step that they failed in",
            false => "as records, through the format and the rules as they are now",
        };
        output.line(format!("  Enters   {node}  {} {how}", counted(letters.len() as u64, "letter")));
    }
    for ((dataset, stays), rows) in &sorted.stays {
        output.line(format!("  Stays    {dataset}  {}: {}", counted(*rows, "letter"), stays.why()));
        output.line(format!("           {}", stays.instead(pipeline, dataset)));
    }
    output.line("Rows keep their event time: those whose window has closed come late. Nothing changed.");
}

fn tell_stays(pipeline: &str, sorted: &Sorted, output: &Output) {
    for ((dataset, stays), rows) in &sorted.stays {
        let letters = counted(*rows, "letter");
        output.note(format!("{letters} of {dataset} stay: {}; {}", stays.why(), stays.instead(pipeline, dataset)));
    }
}

fn stays_as_json(pipeline: &str, sorted: &Sorted) -> Vec<Value> {
    let one = |((dataset, stays), rows): (&(String, letters::Stays), &u64)| json!({"dataset": dataset, "letters": rows, "why": stays.why(), "instead": stays.instead(pipeline, dataset)});
    sorted.stays.iter().map(one).collect()
}
