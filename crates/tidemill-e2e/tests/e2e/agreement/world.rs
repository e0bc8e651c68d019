//! [`World`]: where rows come from, chunk by chunk, while a pipeline reads them.
//!
//! **Invariant:** rows of a table arrive in their order, each chunk at once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use tidemill::Workspace;
use tidemill_model::{Epoch, Result};
use tidemill_runtime::exec::{Dataflow, Progress, StopFlag};
use tidemill_runtime::{Batch, Committable, SinkCommitter, SinkTarget, SinkWriter, WriteMode, changed_schema};
use tidemill_testkit::{Crash, Ending, Outside, Rng, Simulation, VirtualClock};

/// Writes rows where a table reads them.
struct Feed {
    writer: Box<dyn SinkWriter>,
    committer: Box<dyn SinkCommitter>,
    epoch: Epoch,
    chunks: VecDeque<RecordBatch>,
}

/// All that is still to arrive.
pub(crate) struct World {
    feeds: Vec<Feed>,
}

impl World {
    /// Steps a job to its end or its crash while rows go on arriving, at one step in so many.
    pub(crate) fn beside(
        &mut self,
        job: Dataflow,
        (clock, progress): (&Arc<VirtualClock>, &Arc<Progress>),
        crash: Option<Crash>,
        seldom: u32,
        random: &mut Rng,
    ) -> Result<Ending> {
        let stop = StopFlag::default();
        let settles_in = Duration::from_secs(3600);
        let mut simulation = Simulation { clock, random, progress, stop: &stop, settles_in, crash };
        let mut arrive = |random: &mut Rng| -> Result<Outside> {
            if random.u32(0..seldom) == 0 {
                self.deliver(random)?;
            }
            Ok(Outside::Goes)
        };
        simulation.run(job, &mut arrive)
    }

    /// Cuts the rows of each table at random; those of `last` arrive after them, at once.
    pub(crate) fn new(
        workspace: &Workspace,
        tables: &[(String, RecordBatch)],
        last: &[(String, RecordBatch)],
        random: &mut Rng,
    ) -> Result<World> {
        let mut feeds = Vec::new();
        for (table, rows) in tables {
            let target = SinkTarget {
                pipeline: "outside".to_owned(),
                sink: table.clone(),
                schema: rows.schema(),
                mode: match changed_schema(&rows.schema()) {
                    Some(_) => WriteMode::Changelog { key: vec![rows.schema().field(0).name().clone()] },
                    None => WriteMode::Append,
                },
                interval: None,
                staging: workspace.state.join("outside").join(table),
            };
            let sink = workspace.catalog.sink(table, &target)?;
            let mut chunks = cut(rows, random);
            chunks.extend(last.iter().filter(|(of, _)| of == table).map(|(_, rows)| rows.clone()));
            feeds.push(Feed { writer: sink.writer(0)?, committer: sink.committer()?, epoch: Epoch::NONE, chunks });
        }
        Ok(World { feeds })
    }

    /// Lets the next chunk of some table arrive; `false` when there is none any more.
    pub(crate) fn deliver(&mut self, random: &mut Rng) -> Result<bool> {
        let mut waiting: Vec<&mut Feed> = self.feeds.iter_mut().filter(|feed| !feed.chunks.is_empty()).collect();
        if waiting.is_empty() {
            return Ok(false);
        }
        let chosen = random.usize(0..waiting.len());
        waiting[chosen].deliver()?;
        Ok(true)
    }

    /// Lets one chunk of each table arrive.
    pub(crate) fn begin(&mut self) -> Result<()> {
        self.feeds.iter_mut().try_for_each(Feed::deliver)
    }

    /// Lets everything arrive.
    pub(crate) fn deliver_all(&mut self, random: &mut Rng) -> Result<()> {
        while self.deliver(random)? {}
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.feeds.iter().all(|feed| feed.chunks.is_empty())
    }
}

impl Feed {
    fn deliver(&mut self) -> Result<()> {
        let Some(chunk) = self.chunks.pop_front() else { return Ok(()) };
        self.epoch = self.epoch.next();
        self.writer.write(&Batch::inserts(chunk))?;
        let prepared: Vec<Committable> = self.writer.prepare(self.epoch)?.into_iter().collect();
        self.committer.commit(self.epoch, &prepared)
    }
}

fn cut(rows: &RecordBatch, random: &mut Rng) -> VecDeque<RecordBatch> {
    let mut chunks = VecDeque::new();
    let mut from = 0;
    while from < rows.num_rows() {
        // Some for each partition at first: one that never had a row does not hold the time of `once` back.
        let least = if from == 0 { 30 } else { 1 };
        let length = (least + random.usize(0..rows.num_rows().div_ceil(4))).min(rows.num_rows() - from);
        chunks.push_back(rows.slice(from, length));
        from += length;
    }
    chunks
}
