//! [`Spool`]: rows of a plan put aside in files of this process, to be read more than once.
//!
//! **Invariant:** the files lie in the folder for what spills, and go away with the spool.

use std::fmt;
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::CompressionType;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use datafusion::catalog::TableProvider;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::physical_plan::{ExecutionPlan, execute_stream_partitioned};
use futures::StreamExt;
use tidemill_model::{Error, Result};
use tokio::task::JoinSet;

use crate::batch::progress::BatchProgress;

/// Tells the spools of one process apart.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Rows put aside.
#[derive(Debug)]
pub(in crate::batch) struct Spool {
    folder: PathBuf,
    schema: SchemaRef,
    files: Vec<PathBuf>,
}

impl Spool {
    /// Runs a plan and puts its rows aside, each partition on a thread of its own.
    pub(in crate::batch) async fn fill(
        plan: Arc<dyn ExecutionPlan>,
        task: Arc<TaskContext>,
        below: &Path,
        progress: &Arc<BatchProgress>,
        lift: &(dyn Fn(DataFusionError) -> Error + Sync),
    ) -> Result<Spool> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = below.join(format!("expected-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(|e| Error::io("create", folder.display(), e))?;
        let schema = plan.schema();
        let mut spool = Spool { folder, schema: Arc::clone(&schema), files: Vec::new() };
        let mut lanes: JoinSet<Result<(), Failure>> = JoinSet::new();
        for (lane, stream) in execute_stream_partitioned(plan, task).map_err(lift)?.into_iter().enumerate() {
            let path = spool.folder.join(format!("{lane}.arrow"));
            spool.files.push(path.clone());
            lanes.spawn(drain(stream, path, Arc::clone(&schema), Arc::clone(progress)));
        }
        while let Some(joined) = lanes.join_next().await {
            match joined.map_err(|e| Error::internal("a lane panicked").because(e))? {
                Ok(()) => {}
                Err(Failure::Query(error)) => return Err(lift(error)),
                Err(Failure::Aside(error)) => return Err(error),
            }
        }
        Ok(spool)
    }

    /// The rows as a table.
    pub(in crate::batch) fn table(self: &Arc<Spool>) -> Result<Arc<dyn TableProvider>> {
        let part = |file: &PathBuf| Arc::new(Part { spool: Arc::clone(self), file: file.clone() }) as _;
        let parts: Vec<Arc<dyn PartitionStream>> = self.files.iter().map(part).collect();
        let table = StreamingTable::try_new(Arc::clone(&self.schema), parts);
        Ok(Arc::new(table.map_err(|e| Error::internal("rows put aside are no table").because(e))?))
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        // What stays behind is of no worth, and goes away with the folder for what spills.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

enum Failure {
    Query(DataFusionError),
    Aside(Error),
}

async fn drain(
    mut stream: SendableRecordBatchStream,
    path: PathBuf,
    schema: SchemaRef,
    progress: Arc<BatchProgress>,
) -> Result<(), Failure> {
    let aside = |e: std::io::Error| Failure::Aside(Error::io("write", path.display(), e));
    let broken =
        |e: arrow::error::ArrowError| Failure::Aside(Error::io("write", path.display(), std::io::Error::other(e)));
    let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME)).map_err(broken)?;
    let out = BufWriter::with_capacity(1 << 20, File::create(&path).map_err(aside)?);
    let mut writer = StreamWriter::try_new_with_options(out, &schema, options).map_err(broken)?;
    while let Some(batch) = stream.next().await {
        progress.go_on().map_err(Failure::Aside)?;
        let batch: RecordBatch = batch.map_err(Failure::Query)?;
        writer.write(&batch).map_err(broken)?;
    }
    writer.finish().map_err(broken)
}

/// The rows of one partition.
struct Part {
    spool: Arc<Spool>,
    file: PathBuf,
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part").field("file", &self.file).finish_non_exhaustive()
    }
}

impl PartitionStream for Part {
    fn schema(&self) -> &SchemaRef {
        &self.spool.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (file, spool) = (self.file.clone(), Arc::clone(&self.spool));
        let mut stream = RecordBatchReceiverStreamBuilder::new(Arc::clone(&spool.schema), 2);
        let sender = stream.tx();
        stream.spawn_blocking(move || {
            let reader = StreamReader::try_new(BufReader::with_capacity(1 << 20, File::open(&file)?), None)?;
            for batch in reader {
                // Sending fails only when nobody wants more.
                if sender.blocking_send(Ok(batch?)).is_err() {
                    break;
                }
            }
            drop(spool);
            Ok(())
        });
        stream.build()
    }
}
