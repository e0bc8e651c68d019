//! `tidemill pause` and `tidemill resume`: pipelines that schedulers leave alone.
//!
//! **Invariant:** pausing ends nothing that goes on; a live pipeline ends after its epoch.

use std::sync::Arc;

use serde_json::json;
use tidemill_checkpoint::Pauses;
use tidemill_model::Result;
use tidemill_sql::language::Pipeline;

use super::numbers::instant;
use super::output::Output;
use crate::{Workspace, variable};

pub(super) fn pause(workspace: &Workspace, pipeline: &Pipeline, why: &str, output: &Output) -> Result<()> {
    let by = variable("USER").unwrap_or_else(|| "somebody".to_owned());
    let pauses = Pauses::new(Arc::clone(&workspace.store));
    let pause = pauses.pause(&pipeline.name, &by, why, workspace.clock.now())?;
    if output.is_human() {
        output.line(format!("- {} is paused since {}; schedulers leave it alone", pipeline.name, instant(pause.since)));
        output.note(format!("Next: tidemill resume {}", pipeline.name));
    } else {
        output.value(&json!({"pipeline": pipeline.name, "paused_since": pause.since.to_string(), "by": pause.by, "why": pause.why}));
    }
    Ok(())
}

pub(super) fn resume(workspace: &Workspace, pipeline: &Pipeline, output: &Output) -> Result<()> {
    let was = Pauses::new(Arc::clone(&workspace.store)).resume(&pipeline.name, workspace.clock.now())?;
    if output.is_human() {
        output.line(match was {
            true => format!("= {} is resumed; a scheduler looks at it within seconds", pipeline.name),
            false => format!("= {} was not paused", pipeline.name),
        });
        if was {
            output
                .note(format!("what was due meanwhile is run as its `catchup` says: {}", pipeline.scheduling.catchup));
        }
    } else {
        output.value(&json!({"pipeline": pipeline.name, "was_paused": was}));
    }
    Ok(())
}
