//! [`Manifest`]: the durable record of one epoch.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidemill_model::{Epoch, Interval, Offset, SplitId, Timestamp, Watermark};

use crate::{Gone, Ledger, OpenRuns, Stale};

/// Everything that an epoch changed, and everything a later process needs to go on from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The pipeline.
    pub pipeline: String,
    /// The epoch.
    pub epoch: Epoch,
    /// What the state was computed by: the hash of the plan's stateful part.
    pub fingerprint: String,
    /// When it was written.
    pub committed_at: Timestamp,
    /// Source node to progress.
    #[serde(default)]
    pub sources: BTreeMap<String, SourceProgress>,
    /// Operator node to state.
    #[serde(default)]
    pub state: BTreeMap<String, OperatorState>,
    /// Materialized view to what a reader must know beside its rows.
    #[serde(default)]
    pub views: BTreeMap<String, ViewState>,
    /// Sink to what it must commit for this epoch.
    #[serde(default)]
    pub sinks: BTreeMap<String, SinkState>,
    /// Node to the table that its rows met in this epoch; of a run of an interval, dataset to the same.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tables: BTreeMap<String, TableMet>,
    /// Intervals done.
    #[serde(default)]
    pub ledger: Ledger,
    /// Runs of intervals that have begun and are not done.
    #[serde(default, skip_serializing_if = "OpenRuns::is_empty")]
    pub runs: OpenRuns,
    /// Intervals that are done and lack rows that came after.
    #[serde(default, skip_serializing_if = "Stale::is_empty")]
    pub stale: Stale,
    /// Dataset to the splits that runs of intervals have seen, and up to where: what comes after is looked at for rows of
    /// intervals that are done.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub seen: BTreeMap<String, BTreeMap<SplitId, Offset>>,
    /// Splits that were seen and read, and have vanished since.
    #[serde(default, skip_serializing_if = "Gone::is_empty")]
    pub gone: Gone,
    /// Target to how many rows its newest intervals have, the latest last: what an interval is compared with.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sizes: BTreeMap<String, Vec<IntervalSize>>,
    /// Counts since the pipeline's first epoch.
    #[serde(default)]
    pub counters: Counters,
    /// Dataset to the epoch of the generation that found its dead letters anew; those of epochs before no longer count.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dead_from: BTreeMap<String, Epoch>,
}

impl Manifest {
    /// An epoch of a pipeline in which nothing happened yet.
    #[must_use]
    pub fn first(pipeline: &str, epoch: Epoch, committed_at: Timestamp) -> Manifest {
        Manifest {
            pipeline: pipeline.to_owned(),
            epoch,
            fingerprint: String::new(),
            committed_at,
            sources: BTreeMap::new(),
            state: BTreeMap::new(),
            views: BTreeMap::new(),
            sinks: BTreeMap::new(),
            tables: BTreeMap::new(),
            ledger: Ledger::default(),
            runs: OpenRuns::default(),
            stale: Stale::default(),
            seen: BTreeMap::new(),
            gone: Gone::default(),
            sizes: BTreeMap::new(),
            counters: Counters::default(),
            dead_from: BTreeMap::new(),
        }
    }
}

/// How many rows an interval of a target has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntervalSize {
    /// The interval.
    pub interval: Interval,
    /// How many rows.
    pub rows: u64,
}

/// How many of them are kept.
const SIZES: usize = 32;

impl Manifest {
    /// Notes how many rows an interval of a target has.
    pub fn note_size(&mut self, target: &str, interval: Interval, rows: u64) {
        let sizes = self.sizes.entry(target.to_owned()).or_default();
        sizes.retain(|size| size.interval != interval);
        sizes.push(IntervalSize { interval, rows });
        sizes.sort_unstable_by_key(|size| size.interval);
        let excess = sizes.len().saturating_sub(SIZES);
        sizes.drain(..excess);
    }

    /// How many rows the intervals of a target before this one have, the latest first.
    #[must_use]
    pub fn sizes_before(&self, target: &str, interval: Interval) -> Vec<u64> {
        let sizes = self.sizes.get(target).into_iter().flatten().rev();
        sizes.filter(|size| size.interval.end <= interval.start).map(|size| size.rows).collect()
    }
}

/// How far a source was read.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SourceProgress {
    /// Every split that was ever read.
    pub splits: BTreeMap<SplitId, SplitProgress>,
    /// The source's merged watermark; never regresses.
    pub watermark: Option<Watermark>,
}

/// How far a split was read.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SplitProgress {
    /// After the last row of the epoch; `None` when none was read yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<Offset>,
    /// Records read up to there, good and bad: the position of a row whose source has no other.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rows: u64,
    /// The greatest event time counted for the watermark, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<i64>,
    /// Whether it will never give a row again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub finished: bool,
    /// Whether it has an end of its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub finite: bool,
    /// Whether it had no rows for so long that it does not hold time back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub idle: bool,
    /// Since when its reader stands at its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_end_since: Option<Timestamp>,
    /// When the last row was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_row_at: Option<Timestamp>,
}

impl SplitProgress {
    /// Whether anything of the split was read.
    #[must_use]
    pub fn is_begun(&self) -> bool {
        self.finished || self.offset.is_some()
    }
}

fn is_zero(rows: &u64) -> bool {
    *rows == 0
}

/// The state of one operator on all lanes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OperatorState {
    /// The operator's fingerprint; state of another one is never loaded.
    pub fingerprint: String,
    /// How many lanes stored it; of manifests that do not say it 0.
    #[serde(default)]
    pub lanes: usize,
    /// `lane/chunk` to where its rows lie.
    pub chunks: BTreeMap<String, ChunkRef>,
}

/// Rows of state, one Arrow IPC stream: a part of a file, or the manifest itself has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkRef {
    /// The file's name in the checkpoint store; empty when the bytes are here.
    pub file: String,
    /// Where the chunk begins.
    pub start: u64,
    /// How many bytes.
    pub length: u64,
    /// CRC32C of them.
    pub crc: u32,
    /// The bytes in base64, if they are few and lie in no file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub here: Option<String>,
}

impl ChunkRef {
    /// A chunk that lies in the manifest.
    #[must_use]
    pub fn here(bytes: &[u8]) -> ChunkRef {
        let (length, crc) = (bytes.len() as u64, crc32c::crc32c(bytes));
        ChunkRef { file: String::new(), start: 0, length, crc, here: Some(BASE64.encode(bytes)) }
    }

    /// The bytes, if they lie in the manifest; empty when they are damaged, which the checksum tells.
    pub(crate) fn bytes_here(&self) -> Option<Bytes> {
        self.here.as_ref().map(|text| Bytes::from(BASE64.decode(text).unwrap_or_default()))
    }
}

/// So many bytes of state may lie in a manifest. Each epoch writes them once more, and saves a file of its own.
const MOST_HERE: u64 = 64 << 10;

impl Manifest {
    /// Whether chunks of so many bytes have room beside those that lie in the manifest.
    #[must_use]
    pub fn has_room_for(&self, bytes: u64) -> bool {
        let chunks = self.state.values().flat_map(|state| state.chunks.values());
        chunks.filter(|chunk| chunk.here.is_some()).map(|chunk| chunk.length).sum::<u64>() + bytes <= MOST_HERE
    }

    /// Takes out what lies in the manifest, to be written to a file: node, chunk and bytes.
    pub fn take_here(&mut self) -> Vec<(String, String, Bytes)> {
        let mut taken = Vec::new();
        for (node, state) in &mut self.state {
            for (name, chunk) in state.chunks.extract_if(.., |_, chunk| chunk.here.is_some()) {
                taken.extend(chunk.bytes_here().map(|bytes| (node.clone(), name, bytes)));
            }
        }
        taken
    }
}

/// What a reader must know of a view beside its rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ViewState {
    /// The operator node whose state chunks are the view's rows.
    pub node: String,
    /// Event time before which nothing more is expected.
    pub complete_to: Option<Watermark>,
    /// When the newest row that is in the view arrived, if known.
    #[serde(default)]
    pub newest_arrival: Option<Timestamp>,
}

/// What a sink has to commit for the manifest's epoch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SinkState {
    /// One committable for each lane that wrote.
    pub committables: Vec<serde_json::Value>,
}

/// A table that rows were looked up in, as it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableMet {
    /// Dataset to the version of it; without those that cannot tell.
    pub versions: BTreeMap<String, String>,
    /// When it was read.
    pub read_at: Timestamp,
    /// Why it could not be read again, if that was tried since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// Counts since the pipeline's first epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Records read, good and bad.
    #[serde(default)]
    pub rows_read: u64,
    /// Rows that passed the gate.
    #[serde(default)]
    pub rows_accepted: u64,
    /// Rows given to sinks.
    #[serde(default)]
    pub rows_written: u64,
    /// Rows whose window had closed.
    #[serde(default)]
    pub rows_late: u64,
    /// Operator node to how many of them it left out; a row counts for each window that it came too late for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub late_by_step: BTreeMap<String, u64>,
    /// Rows left out by DROP policies.
    #[serde(default)]
    pub rows_dropped: u64,
    /// Rows that broke a WARN policy.
    #[serde(default)]
    pub rows_warned: u64,
    /// Rows before the pipeline's start.
    #[serde(default)]
    pub rows_before_start: u64,
    /// Dataset to reason to number of dead letters; of rows that an expression failed on, the dataset or view written.
    #[serde(default)]
    pub dead_letters: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Counters {
    /// Adds another count to this one.
    pub fn add(&mut self, other: &Counters) {
        self.rows_read += other.rows_read;
        self.rows_accepted += other.rows_accepted;
        self.rows_written += other.rows_written;
        self.rows_late += other.rows_late;
        for (step, rows) in &other.late_by_step {
            *self.late_by_step.entry(step.clone()).or_default() += rows;
        }
        self.rows_dropped += other.rows_dropped;
        self.rows_warned += other.rows_warned;
        self.rows_before_start += other.rows_before_start;
        for (dataset, reasons) in &other.dead_letters {
            let mine = self.dead_letters.entry(dataset.clone()).or_default();
            for (reason, count) in reasons {
                *mine.entry(reason.clone()).or_default() += count;
            }
        }
    }

    /// Counts rows that a step left out as late.
    pub fn count_late(&mut self, step: &str, rows: u64) {
        self.rows_late += rows;
        *self.late_by_step.entry(step.to_owned()).or_default() += rows;
    }

    /// Counts one dead letter.
    pub fn count_dead(&mut self, dataset: &str, reason: &str) {
        let reasons = self.dead_letters.entry(dataset.to_owned()).or_default();
        *reasons.entry(reason.to_owned()).or_default() += 1;
    }

    /// All dead letters.
    #[must_use]
    pub fn rows_dead(&self) -> u64 {
        self.dead_letters.values().flat_map(BTreeMap::values).sum()
    }
}
