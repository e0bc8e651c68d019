//! `tidemill query`: one SELECT, answered.

use tidemill_model::Result;
use tidemill_runtime::exec::StopFlag;
use tidemill_sql::batch::{self, Unwritten};

use super::{output::Output, rows};
use crate::{Workspace, engine};

pub(crate) async fn query(workspace: &Workspace, sql: &str, output: &Output) -> Result<()> {
    let (views, resources) = (workspace.stored(), workspace.resources());
    let answer = batch::query(&workspace.catalog, &views, sql, &resources, StopFlag::default()).await?;
    rows::print(&answer.schema, &answer.batches, output)?;
    for nothing in &answer.unwritten {
        output.aside(told(workspace, nothing)?);
    }
    Ok(())
}

/// That something is empty because nothing has written it yet, and what would.
fn told(workspace: &Workspace, nothing: &Unwritten) -> Result<String> {
    let mut commands = Vec::new();
    for name in &nothing.pipelines {
        let pipeline = workspace.catalog.project().pipeline(name)?;
        let how = if engine::is_by_interval(workspace, pipeline)? { " --interval START/PERIOD" } else { "" };
        commands.push(format!("tidemill run {name}{how}"));
    }
    let next = if commands.is_empty() { String::new() } else { format!("; next: {}", commands.join(", or ")) };
    Ok(format!("nothing has written `{}` yet{next}", nothing.name))
}
