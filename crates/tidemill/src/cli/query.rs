//! `tidemill query`: one SELECT, answered.

use tidemill_model::Result;
use tidemill_runtime::exec::StopFlag;
use tidemill_sql::batch;

use super::{output::Output, rows};
use crate::Workspace;

pub(crate) async fn query(workspace: &Workspace, sql: &str, output: &Output) -> Result<()> {
    let (views, resources) = (workspace.stored(), workspace.resources());
    let answer = batch::query(&workspace.catalog, &views, sql, &resources, StopFlag::default()).await?;
    rows::print(&answer.schema, &answer.batches, output)
}
