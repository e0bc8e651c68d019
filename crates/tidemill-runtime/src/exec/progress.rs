//! [`Progress`]: what a running job shows to those who watch it.

use std::sync::Mutex;
use std::time::Duration;

use tidemill_checkpoint::Counters;
use tidemill_model::{Epoch, Timestamp, Watermark};

use super::exchange::lock;
use super::tables::TableStatus;

/// How many splits a source has, and in which state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SplitStatus {
    /// The source node.
    pub source: String,
    /// All splits.
    pub total: usize,
    /// Those that nobody reads yet.
    pub waiting: usize,
    /// Those that are finished.
    pub finished: usize,
    /// Those that stopped holding time back.
    pub idle: usize,
    /// The source's watermark.
    pub watermark: Option<Watermark>,
}

/// A picture of a running job.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The newest committed epoch.
    pub epoch: Epoch,
    /// When it was committed.
    pub committed_at: Option<Timestamp>,
    /// Epochs committed by this process.
    pub epochs: u64,
    /// Counts since the pipeline's first epoch, as committed.
    pub counters: Counters,
    /// Rows read in this process, committed or not.
    pub rows_read: u64,
    /// Each source.
    pub sources: Vec<SplitStatus>,
    /// Each table that rows are looked up in.
    pub tables: Vec<TableStatus>,
    /// How long the last epoch took from its barrier to its commit.
    pub commit_took: Duration,
    /// Bytes of state written by the last epoch.
    pub state_bytes: u64,
    /// Arrival to visible, of all rows whose arrival is known.
    pub latencies: Latencies,
}

/// The shared, current [`Snapshot`].
#[derive(Debug, Default)]
pub struct Progress(Mutex<Snapshot>);

impl Progress {
    /// The picture now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        lock(&self.0).clone()
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Snapshot)) {
        change(&mut lock(&self.0));
    }
}

/// A histogram of durations: buckets grow by a sixteenth, so a quantile is right to 6 %.
#[derive(Debug, Clone)]
pub struct Latencies {
    buckets: Vec<u64>,
    count: u64,
}

const BUCKETS: usize = 512;

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies { buckets: vec![0; BUCKETS], count: 0 }
    }
}

impl Latencies {
    /// Adds `rows` durations.
    pub fn record(&mut self, latency: Duration, rows: u64) {
        let micros = latency.as_micros().max(1) as f64;
        let bucket = (micros.ln() / (1.0 + 1.0 / 16.0_f64).ln()) as usize;
        self.buckets[bucket.min(BUCKETS - 1)] += rows;
        self.count += rows;
    }

    /// The duration that this share (0 to 1) of rows did not exceed; `None` without rows.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        if self.count == 0 {
            return None;
        }
        let wanted = ((self.count as f64) * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                let micros = (1.0 + 1.0 / 16.0_f64).powi(bucket as i32 + 1);
                return Some(Duration::from_micros(micros as u64));
            }
        }
        None
    }

    /// How many rows.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Adds another histogram.
    pub fn merge(&mut self, other: &Latencies) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.count += other.count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_a_sixteenth() {
        let mut latencies = Latencies::default();
        for millis in 1..=100 {
            latencies.record(Duration::from_millis(millis), 10);
        }
        let p50 = latencies.quantile(0.5).expect("rows").as_secs_f64();
        assert!((0.047..0.054).contains(&p50), "{p50}");
        let p99 = latencies.quantile(0.99).expect("rows").as_secs_f64();
        assert!((0.093..0.106).contains(&p99), "{p99}");
    }
}
