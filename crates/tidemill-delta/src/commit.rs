//! [`DeltaCommitter`]: puts an epoch into the table once, whoever else writes to it.
//!
//! **Invariant:** the decision whether an epoch is there already and the commit of it are made on the same snapshot;
//! whatever moves the table in between makes the commit fail, and the decision is made again.

use std::sync::Arc;
use std::time::Duration;

use deltalake_core::DeltaTable;
use deltalake_core::kernel::Transaction;
use deltalake_core::kernel::transaction::CommitProperties;
use serde_json::json;
use tidemill_model::{Epoch, Error, Kind, Result};
use tidemill_runtime::{Committable, SinkCommitter, WriteMode};

use crate::blocking::block_on;
use crate::merge::merge;
use crate::problem::{is_conflict, problem};
use crate::sink::Target;
use crate::stage::{Staged, remove, sweep};
use crate::table::{columns, open_or_create, turn};
use crate::types::fits;
use crate::write::{append, compact, replace};

/// How often a commit that met other writers is made again before the engine is asked to wait.
const ATTEMPTS: u32 = 12;

/// Publishes epochs into one table.
pub(crate) struct DeltaCommitter {
    target: Arc<Target>,
    /// The table as last seen, so that a commit reads only what is new in its log.
    table: Option<DeltaTable>,
}

impl DeltaCommitter {
    pub(crate) fn new(target: Arc<Target>) -> DeltaCommitter {
        DeltaCommitter { target, table: None }
    }
}

impl SinkCommitter for DeltaCommitter {
    fn commit(&mut self, epoch: Epoch, committables: &[Committable]) -> Result<()> {
        let staged = committables.iter().map(Staged::of).collect::<Result<Vec<_>>>()?;
        // A run without rows still takes away those that it replaces.
        if staged.is_empty() && !self.target.mode.replaces() {
            return Ok(());
        }
        let (target, table, files) = (Arc::clone(&self.target), self.table.take(), staged.clone());
        self.table = Some(block_on(async move { publish(&target, table, epoch, files).await })?);
        for file in &staged {
            remove(&self.target.staging.join(&file.file))?;
        }
        Ok(())
    }

    fn abort_after(&mut self, epoch: Epoch) -> Result<()> {
        let (target, after) = (Arc::clone(&self.target), epoch_number(epoch)?);
        let table = block_on(async move {
            let Some(table) = target.config.location.load().await? else { return Ok(None) };
            match progress(&target, &table).await? {
                Some(done) if done > after => Err(ahead(&target, done, after)),
                _ => Ok(Some(table)),
            }
        })?;
        self.table = table;
        // Files of earlier epochs are in the table: this process or the one before died between commit and removal.
        sweep(&self.target.staging, |staged| staged != epoch)
    }
}

fn epoch_number(epoch: Epoch) -> Result<i64> {
    i64::try_from(epoch.0).map_err(|_| Error::internal("an epoch beyond 2^63"))
}

/// The last epoch of this sink in the table.
pub(crate) async fn progress(target: &Target, table: &DeltaTable) -> Result<Option<i64>> {
    let location = &target.config.location;
    let state = table.snapshot().map_err(|error| problem(location, "read", error))?;
    let done = state.transaction_version(table.log_store().as_ref(), &target.app_id).await;
    done.map_err(|error| problem(location, "read the progress in", error))
}

/// A manifest is written before its epoch is committed, so a table is never ahead of it unless the manifest was lost.
/// Taking its epochs for done would drop their rows.
fn ahead(target: &Target, done: i64, now: i64) -> Error {
    let shown = &target.config.location.shown;
    Error::new(
        Kind::Fenced,
        "F210",
        format!("the Delta table {shown} has epoch {done} of `{}`, and this run is only at epoch {now}", target.app_id),
    )
    .fact("the state of the pipeline was removed or is an older copy, or another project writes under the same names")
    .fact("restore the state, or remove the table with it, or give the pipeline another name")
}

/// Brings the epoch into the table and answers the table after it.
async fn publish(
    target: &Arc<Target>,
    mut known: Option<DeltaTable>,
    epoch: Epoch,
    staged: Vec<Staged>,
) -> Result<DeltaTable> {
    let location = &target.config.location;
    let _turn = turn(location).await;
    let version = epoch_number(epoch)?;
    let mut attempt = 0;
    loop {
        let table = refreshed(target, known.take()).await?;
        match progress(target, &table).await? {
            Some(done) if done == version => return Ok(table),
            Some(done) if done > version => return Err(ahead(target, done, version)),
            _ => {}
        }
        let outcome = match &target.mode {
            WriteMode::Append | WriteMode::Changelog { .. } => {
                append(target, &table, &staged, properties(target, version, true)).await
            }
            WriteMode::Replace { column, part } => {
                let interval = target.interval.ok_or_else(|| Error::internal("a replace without an interval"))?;
                let rows = (Some((column.as_str(), interval)), part);
                replace(target, &table, &staged, rows, properties(target, version, false)).await
            }
            WriteMode::Overwrite { part } => {
                replace(target, &table, &staged, (None, part), properties(target, version, false)).await
            }
            WriteMode::Upsert { key, sequence } => {
                merge(target, &table, &staged, key, sequence.as_deref(), properties(target, version, false)).await
            }
        };
        match outcome {
            Ok(table) => {
                let due = target.config.compact_every.is_some_and(|every| epoch.0.is_multiple_of(every.get()));
                return Ok(if due { compact(target, table).await } else { table });
            }
            Err(Failed::Ours(error)) => return Err(error),
            Err(Failed::Theirs(error)) if is_conflict(&error) && attempt < ATTEMPTS => {
                tokio::time::sleep(backoff(attempt)).await;
                attempt += 1;
                known = Some(table);
            }
            Err(Failed::Theirs(error)) => return Err(problem(location, "write to", error)),
        }
    }
}

/// Why an attempt failed: for a reason of ours, or one that the library saw and that may be a conflict.
pub(crate) enum Failed {
    Ours(Error),
    Theirs(deltalake_core::DeltaTableError),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed::Ours(error)
    }
}

impl From<deltalake_core::DeltaTableError> for Failed {
    fn from(error: deltalake_core::DeltaTableError) -> Failed {
        Failed::Theirs(error)
    }
}

impl From<datafusion::error::DataFusionError> for Failed {
    fn from(error: datafusion::error::DataFusionError) -> Failed {
        Failed::Theirs(error.into())
    }
}

/// The table at its latest version, made if there is none, and checked to take our columns.
async fn refreshed(target: &Target, known: Option<DeltaTable>) -> Result<DeltaTable> {
    let table = match known {
        Some(mut table) => match table.update_state().await {
            Ok(()) => table,
            // The table may have been removed and made anew: read it from the start.
            Err(_) => open_or_create(&target.config, &target.name, &target.stored).await?,
        },
        None => open_or_create(&target.config, &target.name, &target.stored).await?,
    };
    fits(&target.config.location.shown, &target.columns, columns(&table)?.as_ref())?;
    Ok(table)
}

/// What every commit carries: the epoch as application transaction, and who wrote it for people who look.
fn properties(target: &Target, version: i64, blind: bool) -> CommitProperties {
    let now = target.clock.now().0.div_euclid(1000);
    let transaction = Transaction::new_with_last_update(&target.app_id, version, Some(now));
    let mut metadata = vec![("tidemill".to_owned(), json!({ "sink": target.app_id, "epoch": version }))];
    if blind {
        // Says to other writers that this commit read nothing, so that it cannot have missed what they write.
        metadata.push(("isBlindAppend".to_owned(), json!(true)));
    }
    CommitProperties::default().with_metadata(metadata).with_application_transaction(transaction)
}

/// 20 ms, doubling up to about 2.5 s. Only the pace depends on it, never what is written.
fn backoff(attempt: u32) -> Duration {
    Duration::from_millis(20 << attempt.min(7))
}
