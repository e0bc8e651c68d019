//! [`BlackholeSink`]: counts rows and drops them.
//!
//! **Invariant:** it costs nothing that a real sink would not cost too.

use tidemill_model::{Epoch, Error, Interval, Kind, Result};
use tidemill_runtime::{Batch, Committable, Rewrites, Sink, SinkCommitter, SinkWriter};

/// Counts rows and drops them.
#[derive(Debug)]
pub(super) struct BlackholeSink;

#[derive(Debug, Default)]
struct Counter {
    inserts: u64,
    retractions: u64,
}

/// Checks what was counted; there is nothing to publish.
struct Nothing;

impl Sink for BlackholeSink {
    fn writer(&self, _lane: usize) -> Result<Box<dyn SinkWriter>> {
        Ok(Box::new(Counter::default()))
    }

    fn committer(&self) -> Result<Box<dyn SinkCommitter>> {
        Ok(Box::new(Nothing))
    }

    fn rewrites(&self, _intervals: &[Interval]) -> Result<Option<Rewrites>> {
        Ok(Some(Rewrites::default()))
    }

    fn guarantee(&self) -> String {
        "none needed: rows are counted and dropped".to_owned()
    }
}

impl SinkWriter for Counter {
    fn write(&mut self, batch: &Batch) -> Result<()> {
        let rows = batch.len() as u64;
        let weights = batch.weights.as_ref().map(|weights| weights.values());
        let retractions = weights.map_or(0, |weights| weights.iter().filter(|weight| **weight < 0).count() as u64);
        self.retractions += retractions;
        self.inserts += rows - retractions;
        Ok(())
    }

    fn prepare(&mut self, _epoch: Epoch) -> Result<Option<Committable>> {
        let Counter { inserts, retractions } = std::mem::take(self);
        if inserts + retractions == 0 {
            return Ok(None);
        }
        Ok(Some(Committable(serde_json::json!({ "rows": inserts, "retractions": retractions }))))
    }
}

impl SinkCommitter for Nothing {
    fn commit(&mut self, epoch: Epoch, committables: &[Committable]) -> Result<()> {
        match committables.iter().find(|committable| committable.0.get("rows").is_none()) {
            None => Ok(()),
            Some(other) => Err(Error::new(
                Kind::Corrupt,
                "X340",
                format!("epoch {epoch} was not written to a blackhole: {}", other.0),
            )
            .fact("the pipeline's sink was another one; finish that run first, or rename the dataset")),
        }
    }

    fn abort_after(&mut self, _epoch: Epoch) -> Result<()> {
        Ok(())
    }
}
