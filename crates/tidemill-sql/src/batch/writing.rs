//! [`write`]: the rows of a physical plan into the writers of a sink, one lane for each partition; [`Written`] makes them
//! durable for an epoch.
//!
//! **Invariant:** each lane computes and writes on a thread of its own; when one fails the others end, and nothing of
//! what they staged is ever committed. Rows have no epoch until all of them are there: runs of several intervals go on
//! side by side, and whichever is ready first takes the next epoch.

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
use tokio::task::{JoinSet, spawn_blocking};

/// What one sink got.
#[derive(Default)]
pub(super) struct Written {
    pub(super) rows: u64,
    /// In the order of lanes, so that a manifest does not depend on which thread was first.
    writers: Vec<Box<dyn SinkWriter>>,
}

impl Written {
    /// Makes all rows durable for an epoch, each lane on a thread of its own.
    pub(super) async fn prepare(self, epoch: Epoch) -> Result<Vec<Committable>> {
        let lanes = self.writers.into_iter().map(|mut writer| spawn_blocking(move || writer.prepare(epoch)));
        let mut committables = Vec::new();
        let mut failure = None;
        for lane in lanes.collect::<Vec<_>>() {
            match lane.await.map_err(|e| Error::internal("a lane panicked").because(e)).flatten() {
                Ok(committable) => committables.extend(committable),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(committables), Err)
    }
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

/// Runs the plan and gives its rows to the writers of the sink.
pub(super) async fn write(
    plan: Arc<dyn ExecutionPlan>,
    task: Arc<TaskContext>,
    sink: &Arc<dyn Sink>,
    progress: &Arc<BatchProgress>,
    lift: &(dyn Fn(DataFusionError) -> Error + Sync),
) -> Result<Written> {
    let streams = execute_stream_partitioned(plan, task).map_err(lift)?;
    let (failed, _) = watch::channel(false);
    let failed = Arc::new(failed);
    let mut lanes = JoinSet::new();
    // All of them before the first lane begins: none goes on when another cannot.
    let writers = (0..streams.len()).map(|lane| sink.writer(lane)).collect::<Result<Vec<_>>>()?;
    for (lane, (stream, writer)) in streams.into_iter().zip(writers).enumerate() {
        let (handle, failed, progress) = (Handle::current(), Arc::clone(&failed), Arc::clone(progress));
        lanes.spawn_blocking(move || {
            let outcome = drain(&handle, stream, writer, &failed, &progress);
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
    outcomes.sort_by_key(|(lane, _)| *lane);
    let mut written = Written::default();
    let mut elsewhere = false;
    for (_, outcome) in outcomes {
        match outcome {
            Ok((rows, writer)) => {
                written.rows += rows;
                written.writers.push(writer);
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
    failed: &watch::Sender<bool>,
    progress: &BatchProgress,
) -> Result<(u64, Box<dyn SinkWriter>), Failure> {
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
        progress.go_on().map_err(Failure::Sink)?;
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
    Ok((rows, writer))
}
