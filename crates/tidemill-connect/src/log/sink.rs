//! [`LogSink`] and its writers: rows are encoded, gathered by partition, and staged in one file for each lane and epoch.
//!
//! **Invariant:** a batch that fails leaves nothing in the buffers; a staged file holds whole batches only.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use tidemill_model::{Clock, Epoch, Error, Interval, Kind, Result, nearest};
use tidemill_runtime::{
    Batch, Committable, Encoder, Environment, Format, Rewrites, Sink, SinkCommitter, SinkTarget, SinkWriter, WriteMode,
};

use super::commit::LogCommitter;
use super::config::LogConfig;
use super::partitioner::KeyPartitioner;
use super::staged::Staging;
use super::topic::Topic;

/// The bytes of records that make a frame; reading one back is one batch.
const FRAME: usize = 1 << 20;
/// The most that a lane keeps in memory, over all its partitions.
const MEMORY: usize = 16 << 20;

/// A topic opened for writing.
#[derive(Debug)]
pub(super) struct LogSink {
    config: LogConfig,
    format: Arc<dyn Format>,
    schema: SchemaRef,
    key: Option<usize>,
    producer: String,
    staging: PathBuf,
    state: PathBuf,
    clock: Arc<dyn Clock>,
}

impl LogSink {
    /// Checks that the topic can take these rows; touches no file.
    pub(super) fn new(
        config: LogConfig,
        format: Arc<dyn Format>,
        target: &SinkTarget,
        env: &Environment,
    ) -> Result<LogSink> {
        let refused = |mode: &str, instead: &str| {
            let message = format!("topic `{}` cannot be written by {mode}", config.topic);
            Err(Error::new(Kind::Config, "C095", message).fact(instead))
        };
        match target.mode {
            WriteMode::Append | WriteMode::Changelog { .. } => {}
            WriteMode::Upsert { .. } => {
                return refused(
                    "upsert",
                    "a topic only grows: write = 'append' keeps every version; a `delta` table takes upserts",
                );
            }
            WriteMode::Replace { .. } | WriteMode::Overwrite { .. } => {
                return refused(
                    "replacing rows",
                    "a topic only grows: write = 'append'; `files` and `delta` can replace",
                );
            }
        }
        // All changes of a key must come in order, so they go to one partition.
        let first = match &target.mode {
            WriteMode::Changelog { key } => key.first(),
            _ => None,
        };
        if let (WriteMode::Changelog { key: of }, Some(key)) = (&target.mode, &config.key)
            && !of.contains(key)
        {
            let message =
                format!("option `key`: `{key}` is not in the PRIMARY KEY, so changes of a row could change places");
            return Err(Error::new(Kind::Config, "C099", message)
                .fact(format!("name one of {}, or leave it out", of.join(", "))));
        }
        let key = match config.key.as_ref().or(first) {
            None => None,
            Some(name) => Some(target.schema.index_of(name).map_err(|_| {
                let error = Error::new(Kind::Config, "C096", format!("option `key`: there is no column `{name}`"));
                match nearest(name, target.schema.fields().iter().map(|field| field.name().as_str())) {
                    Some(meant) => error.label(format!("did you mean `{meant}`?")),
                    None => error.fact("name one of the columns of the table"),
                }
            })?),
        };
        format.encoder(target.schema.clone())?;
        Ok(LogSink {
            producer: format!("{}/{}", target.pipeline, target.sink),
            format,
            schema: target.schema.clone(),
            key,
            staging: target.staging.clone(),
            state: env.state.clone(),
            clock: env.clock.clone(),
            config,
        })
    }

    fn topic(&self) -> Result<Topic> {
        Topic::open_or_create(&self.state, &self.config.topic, self.config.partitions)
    }
}

impl Sink for LogSink {
    fn writer(&self, lane: usize) -> Result<Box<dyn SinkWriter>> {
        let partitions = self.topic()?.partitions;
        Ok(Box::new(LogWriter {
            lane,
            staging: self.staging.clone(),
            encoder: self.format.encoder(self.schema.clone())?,
            key: self.key.map(|column| KeyPartitioner::new(column, partitions)),
            buffers: (0..partitions).map(|_| Buffer::default()).collect(),
            encoded: Buffer::default(),
            places: Vec::new(),
            // Lanes begin their rounds at different partitions.
            turn: u32::try_from(lane).unwrap_or(0) % partitions,
            frame: FRAME.min(MEMORY / partitions as usize).max(4096),
            staged: None,
        }))
    }

    fn committer(&self) -> Result<Box<dyn SinkCommitter>> {
        Ok(Box::new(LogCommitter::new(
            self.topic()?,
            self.producer.clone(),
            self.staging.clone(),
            &self.config,
            self.clock.clone(),
        )))
    }

    fn is_unwritten(&self) -> Result<bool> {
        let Some(topic) = Topic::open(&self.state, &self.config.topic, false)? else { return Ok(true) };
        Ok(!topic.head.visible()?.producers.contains_key(&self.producer))
    }

    fn rewrites(&self, _intervals: &[Interval]) -> Result<Option<Rewrites>> {
        Ok(Some(Rewrites::default()))
    }

    fn guarantee(&self) -> String {
        "exactly-once: records become visible by epoch, with the producer's progress in the topic's own head".to_owned()
    }
}

/// Encoded records and where each ends.
#[derive(Debug, Default)]
struct Buffer {
    payload: Vec<u8>,
    ends: Vec<u32>,
}

impl Buffer {
    fn clear(&mut self) {
        self.payload.clear();
        self.ends.clear();
    }

    /// Takes records from `bytes`, where they end at `ends`.
    fn append(&mut self, bytes: &[u8], ends: &[u32]) -> Result<()> {
        let before = self.payload.len();
        let shift = u32::try_from(before).ok().filter(|_| u32::try_from(before + bytes.len()).is_ok());
        let shift = shift.ok_or_else(|| Error::new(Kind::Data, "D070", "a batch of records has more than 4 GiB"))?;
        self.payload.extend_from_slice(bytes);
        self.ends.extend(ends.iter().map(|end| end + shift));
        Ok(())
    }
}

/// One lane.
struct LogWriter {
    lane: usize,
    staging: PathBuf,
    encoder: Box<dyn Encoder>,
    key: Option<KeyPartitioner>,
    buffers: Vec<Buffer>,
    encoded: Buffer,
    places: Vec<u32>,
    turn: u32,
    frame: usize,
    staged: Option<Staging>,
}

impl LogWriter {
    /// Moves a partition's buffer to the staged file.
    fn spill(&mut self, partition: usize) -> Result<()> {
        let partitions = self.buffers.len();
        let Some(buffer) = self.buffers.get_mut(partition).filter(|buffer| !buffer.ends.is_empty()) else {
            return Ok(());
        };
        let staged = match &mut self.staged {
            Some(staged) => staged,
            none => none.insert(Staging::create(&self.staging, self.lane, partitions)?),
        };
        staged.block(partition, &buffer.ends, &buffer.payload)?;
        buffer.clear();
        Ok(())
    }

    /// Copies each encoded record to its partition's buffer.
    fn scatter(&mut self) -> Result<()> {
        let mut begin = 0;
        for (end, place) in self.encoded.ends.iter().zip(&self.places) {
            let end = *end as usize;
            if let (Some(buffer), Some(record)) =
                (self.buffers.get_mut(*place as usize), self.encoded.payload.get(begin..end))
            {
                buffer.append(record, &[u32::try_from(record.len()).unwrap_or(u32::MAX)])?;
            }
            begin = end;
        }
        Ok(())
    }
}

impl SinkWriter for LogWriter {
    fn write(&mut self, batch: &Batch) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        if batch.weights.as_ref().is_some_and(|weights| weights.values().iter().any(|weight| *weight != 1)) {
            return Err(Error::internal("a changelog with retractions was planned into a topic, which only grows"));
        }
        self.encoded.clear();
        self.encoder.encode(&batch.rows, &mut self.encoded.payload, Some(&mut self.encoded.ends))?;
        if self.encoded.ends.len() != batch.len() {
            return Err(Error::internal("an encoder wrote another number of records than rows"));
        }
        let turn = self.turn;
        self.turn = (turn + 1) % u32::try_from(self.buffers.len()).unwrap_or(u32::MAX);
        if let Some(key) = &self.key {
            self.places.clear();
            key.assign(&batch.rows, turn, &mut self.places)?;
            self.scatter()?;
        } else if let Some(buffer) = self.buffers.get_mut(turn as usize) {
            buffer.append(&self.encoded.payload, &self.encoded.ends)?;
        }
        for partition in 0..self.buffers.len() {
            if self.buffers.get(partition).is_some_and(|buffer| buffer.payload.len() >= self.frame) {
                self.spill(partition)?;
            }
        }
        Ok(())
    }

    fn prepare(&mut self, epoch: Epoch) -> Result<Option<Committable>> {
        for partition in 0..self.buffers.len() {
            self.spill(partition)?;
        }
        match self.staged.take() {
            None => Ok(None),
            Some(staged) => Ok(Some(staged.finish(epoch)?.committable()?)),
        }
    }
}
