//! [`write`]: the rows of a physical plan into the writers of a sink, one lane for each partition.
//!
//! **Invariant:** each lane computes and writes on a thread of its own; when one fails the others end, and nothing of
//! what they staged is ever committed.

use std::sync::Arc;
use std::time::Duration;

use super::progress::BatchProgress;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::{ExecutionPlan, execute_stream_partitioned};
use futures::StreamExt;
use tidemill_model::{Epoch, Error, Result};
use tidemill_runtime::{Batch, Committable, Sink, SinkWriter};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What one sink got.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) rows: u64,
    pub(super) committables: Vec<Committable>,
}

/// Why a lane ended early.
enum Failure {
    Query(DataFusionError),
    Sink(Error),
    /// Another lane failed; that one says why.
    Elsewhere,
}

/// How often a lane that waits for its next rows looks whether the run was asked to stop.
const LOOK: Duration = Duration::from_millis(100);

/// Runs the plan and stages its rows for an epoch.
pub(super) async fn write(
    plan: Arc<dyn ExecutionPlan>,
    task: Arc<TaskContext>,
    sink: &Arc<dyn Sink>,
    epoch: Epoch,
    progress: &Arc<BatchProgress>,
    lift: &(dyn Fn(DataFusionError) -> Error + Sync),
) -> Result<Written> {
    let streams = execute_stream_partitioned(plan, task).map_err(lift)?;
    let (failed, _) = watch::channel(false);
    let failed = Arc::new(failed);
    let mut lanes = JoinSet::new();
    for (lane, stream) in streams.into_iter().enumerate() {
        let writer = sink.writer(lane)?;
        let (handle, failed, progress) = (Handle::current(), Arc::clone(&failed), Arc::clone(progress));
        lanes.spawn_blocking(move || {
            let outcome = drain(&handle, stream, writer, epoch, &failed, &progress);
            if outcome.is_err() {
                failed.send_replace(true);
            }
            (lane, outcome)
        });
    }
    let mut outcomes = Vec::new();
    while let Some(joined) = lanes.join_next().await {
        outcomes.push(joined.map_err(|e| Error::internal("a lane panicked").because(e))?);
    }
    // In the order of lanes, so that a manifest does not depend on which thread was first.
    outcomes.sort_by_key(|(lane, _)| *lane);
    let mut written = Written::default();
    let mut elsewhere = false;
    for (_, outcome) in outcomes {
        match outcome {
            Ok((rows, committable)) => {
                written.rows += rows;
                written.committables.extend(committable);
            }
            Err(Failure::Query(error)) => return Err(lift(error)),
            Err(Failure::Sink(error)) => return Err(error),
            Err(Failure::Elsewhere) => elsewhere = true,
        }
    }
    if elsewhere { Err(Error::internal("a lane ended without saying why")) } else { Ok(written) }
}

fn drain(
    handle: &Handle,
    mut stream: SendableRecordBatchStream,
    mut writer: Box<dyn SinkWriter>,
    epoch: Epoch,
    failed: &watch::Sender<bool>,
    progress: &BatchProgress,
) -> Result<(u64, Option<Committable>), Failure> {
    let mut rows = 0;
    let mut over = failed.subscribe();
    loop {
        let next = handle.block_on(async {
            tokio::select! {
                biased;
                _ = over.wait_for(|over| *over) => Err(Failure::Elsewhere),
                next = stream.next() => Ok(Some(next)),
                () = tokio::time::sleep(LOOK) => Ok(None),
            }
        })?;
        progress.gathered().go_on().map_err(Failure::Sink)?;
        let Some(next) = next else { continue };
        let Some(batch) = next else { break };
        let batch = batch.map_err(Failure::Query)?;
        if batch.num_rows() == 0 {
            continue;
        }
        rows += batch.num_rows() as u64;
        progress.wrote(batch.num_rows() as u64);
        writer.write(&Batch::inserts(batch)).map_err(Failure::Sink)?;
    }
    let prepared = writer.prepare(epoch).map_err(Failure::Sink)?;
    Ok((rows, prepared))
}
