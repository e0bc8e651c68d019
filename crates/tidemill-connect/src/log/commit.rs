//! [`LogCommitter`]: publishes epochs into a topic that other producers, of any process, may write too.
//!
//! Under the topic's lock: append the staged records with their final offsets, sync the segments (side by side, so that
//! the disk's journal takes them as one), write and sync the head, name it. Then staged files and expired segments go.
//!
//! **Invariant:** before the head is synced nothing of an epoch counts: the next commit cuts it off; after it, nothing is
//! done twice, for the head holds the producer's epoch.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use tidemill_model::{Clock, Epoch, Error, Kind, Result};
use tidemill_runtime::{Committable, SinkCommitter};

use super::config::LogConfig;
use super::frame::{FrameHeader, HEADER};
use super::head::{Head, PartitionHead, Progress};
use super::retention::Retention;
use super::staged::{Block, Staged, StagedFile, epoch_of, remove, remove_after};
use super::topic::{Topic, sync_folder};
use super::{retention, segment};

/// How many files are synced side by side.
const SYNCS: usize = 16;

/// The committer of one producer.
pub(super) struct LogCommitter {
    topic: Topic,
    producer: String,
    staging: PathBuf,
    segment_bytes: u64,
    retention: Retention,
    clock: Arc<dyn Clock>,
    /// Dies after so many steps, so that tests see every state that a crash can leave.
    #[cfg(test)]
    pub(super) dies_after: Option<usize>,
}

/// What to do with an epoch, from what the head says of its producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    /// It is new.
    Append,
    /// It is in the topic already.
    Done,
    /// The topic is ahead of this run and what is offered now is something else.
    Regressed,
}

fn decide(known: Option<&Progress>, epoch: Epoch, fingerprint: u32, staged_remain: bool) -> Decision {
    match known {
        None => Decision::Append,
        Some(known) if epoch > known.epoch => Decision::Append,
        Some(known) if epoch == known.epoch && fingerprint == known.fingerprint => Decision::Done,
        Some(known) if epoch == known.epoch => Decision::Regressed,
        // Files of an epoch long done are gone; if they are here, somebody counts epochs anew.
        Some(_) if staged_remain => Decision::Regressed,
        Some(_) => Decision::Done,
    }
}

impl LogCommitter {
    /// A committer for the producer of this name, `pipeline/sink`.
    pub(super) fn new(
        topic: Topic,
        producer: String,
        staging: PathBuf,
        config: &LogConfig,
        clock: Arc<dyn Clock>,
    ) -> LogCommitter {
        LogCommitter {
            topic,
            producer,
            staging,
            segment_bytes: config.segment_bytes,
            retention: Retention { age: config.retention, bytes: config.retention_bytes },
            clock,
            #[cfg(test)]
            dies_after: None,
        }
    }

    /// One step is behind us. Only tests die here.
    fn step(&mut self) -> Result<()> {
        #[cfg(test)]
        match &mut self.dies_after {
            Some(0) => return Err(Error::internal("killed by the test")),
            Some(steps) => *steps -= 1,
            None => {}
        }
        Ok(())
    }

    fn remaining(&self, staged: &[Staged], epoch: Epoch) -> Result<bool> {
        for staged in staged {
            let path = self.staging.join(&staged.file);
            if path.exists() && epoch_of(&path)? == Some(epoch) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn publish(&mut self, head: Head, epoch: Epoch, staged: &[Staged], fingerprint: u32) -> Result<()> {
        let now = self.clock.now().0.max(head.last);
        let mut next = head;
        let mut appends: BTreeMap<usize, Append> = BTreeMap::new();
        let mut frame = Vec::new();
        for staged in staged {
            let mut file = StagedFile::open(&self.staging, staged, epoch)?;
            while let Some(block) = file.next(HEADER, &mut frame)? {
                let append = match appends.entry(block.partition) {
                    std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                    std::collections::btree_map::Entry::Vacant(entry) => {
                        let held =
                            next.partitions.get(block.partition).copied().ok_or_else(|| self.no_partition(&block))?;
                        entry.insert(Append::begin(self.topic.partition(block.partition), held)?)
                    }
                };
                append.frame(&block, &mut frame, now, self.segment_bytes)?;
            }
            self.step()?;
        }
        sync_all(&appends)?;
        self.step()?;
        for append in appends.values().filter(|append| append.created) {
            sync_folder(&append.folder)?;
        }
        for (number, append) in appends {
            if let Some(partition) = next.partitions.get_mut(number) {
                *partition = append.head;
            }
        }
        self.step()?;
        let expired = retention::apply(&self.topic, &mut next, self.retention, now)?;
        next.sequence += 1;
        next.last = now;
        next.producers.insert(self.producer.clone(), Progress { epoch, fingerprint });
        self.topic.head.write(&next)?;
        self.step()?;
        self.topic.head.sync()?;
        self.step()?;
        self.topic.head.publish(next.sequence)?;
        self.step()?;
        for staged in staged {
            remove(&self.staging.join(&staged.file))?;
        }
        self.step()?;
        for path in expired {
            remove(&path)?;
        }
        Ok(())
    }

    fn no_partition(&self, block: &Block) -> Error {
        let message =
            format!("topic `{}` has no partition {} that a staged file names", self.topic.name, block.partition);
        Error::new(Kind::Corrupt, "X044", message)
            .fact("the topic was removed and made anew since; remove the pipeline's state")
    }

    fn regressed(&self, epoch: Epoch, known: Option<&Progress>) -> Error {
        let known = known.map_or(Epoch::NONE, |known| known.epoch);
        let message = format!(
            "topic `{}` holds epoch {known} of `{}` already, and this run offers another epoch {epoch}",
            self.topic.name, self.producer
        );
        Error::new(Kind::Fenced, "F040", message)
            .fact("the pipeline's state was removed or put back to an older copy, or two copies of it run")
            .fact("put the newest state back; or rename the pipeline, so that it counts its epochs anew and appends")
    }
}

impl SinkCommitter for LogCommitter {
    fn commit(&mut self, epoch: Epoch, committables: &[Committable]) -> Result<()> {
        if committables.is_empty() {
            return Ok(());
        }
        let mut staged = committables.iter().map(Staged::of).collect::<Result<Vec<_>>>()?;
        staged.sort_by_key(|staged| staged.lane);
        let fingerprint = staged.iter().fold(0, |crc, staged| {
            let fields = [u64::from(staged.crc), staged.length];
            fields.iter().fold(crc, |crc, field| crc32c::crc32c_append(crc, &field.to_le_bytes()))
        });
        let _lock = self.topic.lock()?;
        let head = self.topic.head.newest()?;
        self.step()?;
        let known = head.producers.get(&self.producer);
        match decide(known, epoch, fingerprint, self.remaining(&staged, epoch)?) {
            Decision::Append => self.publish(head, epoch, &staged, fingerprint),
            Decision::Regressed => Err(self.regressed(epoch, known)),
            Decision::Done => staged.iter().try_for_each(|staged| remove(&self.staging.join(&staged.file))),
        }
    }

    fn abort_after(&mut self, epoch: Epoch) -> Result<()> {
        // A topic that is ahead of the pipeline has outlived the pipeline's state: writing on would double its records.
        let _lock = self.topic.lock()?;
        let head = self.topic.head.newest()?;
        let known = head.producers.get(&self.producer);
        if known.is_some_and(|known| known.epoch > epoch) {
            return Err(self.regressed(epoch, known));
        }
        remove_after(&self.staging, epoch)
    }
}

/// The end of a partition, being appended to.
#[derive(Debug)]
struct Append {
    folder: PathBuf,
    head: PartitionHead,
    file: File,
    /// Files that were filled by this commit before `file`.
    filled: Vec<File>,
    created: bool,
}

impl Append {
    /// Cuts off what an unfinished commit left, and stands at the committed end.
    fn begin(folder: PathBuf, head: PartitionHead) -> Result<Append> {
        for base in segment::list(&folder)?.into_iter().filter(|base| *base > head.segment) {
            remove(&segment::path(&folder, base))?;
        }
        let path = segment::path(&folder, head.segment);
        let io = |error| Error::io("open", path.display(), error);
        let created = !path.exists();
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        if length < head.bytes {
            let message = format!("{} ends at byte {length}, inside committed records", path.display());
            return Err(Error::new(Kind::Corrupt, "X041", message).fact("restore the file from a copy"));
        }
        if length > head.bytes {
            file.set_len(head.bytes).map_err(io)?;
        }
        Ok(Append { folder, head, file, filled: Vec::new(), created })
    }

    /// Appends a block whose body lies behind [`HEADER`] free bytes of `frame`.
    fn frame(&mut self, block: &Block, frame: &mut [u8], now: i64, segment_bytes: u64) -> Result<()> {
        if self.head.bytes >= segment_bytes {
            self.roll()?;
        }
        let header = FrameHeader {
            body: u32::try_from(frame.len() - HEADER).unwrap_or(u32::MAX),
            body_crc: block.body_crc,
            base: self.head.end,
            timestamp: now,
            count: block.count,
        };
        if let Some(room) = frame.get_mut(..HEADER) {
            room.copy_from_slice(&header.to_bytes());
        }
        let path = || segment::path(&self.folder, self.head.segment);
        self.file.write_all_at(frame, self.head.bytes).map_err(|error| Error::io("write", path().display(), error))?;
        if self.head.bytes == 0 {
            self.head.since = now;
        }
        self.head.bytes += header.length();
        self.head.end = header.end();
        Ok(())
    }

    /// Continues in a new segment.
    fn roll(&mut self) -> Result<()> {
        let path = segment::path(&self.folder, self.head.end);
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path);
        let file = file.map_err(|error| Error::io("create", path.display(), error))?;
        self.filled.push(std::mem::replace(&mut self.file, file));
        self.head.segment = self.head.end;
        self.head.bytes = 0;
        self.created = true;
        Ok(())
    }
}

/// Makes all that was appended durable.
fn sync_all(appends: &BTreeMap<usize, Append>) -> Result<()> {
    let files: Vec<(&Append, &File)> = appends
        .values()
        .flat_map(|append| append.filled.iter().chain([&append.file]).map(move |file| (append, file)))
        .collect();
    let sync = |(append, file): &(&Append, &File)| {
        file.sync_data().map_err(|error| Error::io("sync", append.folder.display(), error))
    };
    for some in files.chunks(SYNCS) {
        let (mine, others) = match some.split_first() {
            Some(split) => split,
            None => continue,
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = others.iter().map(|file| scope.spawn(move || sync(file))).collect();
            let mut result = sync(mine);
            for thread in threads {
                let joined = thread.join().unwrap_or_else(|_| Err(Error::internal("a thread that syncs a file died")));
                result = result.and(joined);
            }
            result
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Decision, decide};
    use crate::log::head::Progress;
    use tidemill_model::Epoch;

    #[test]
    fn an_epoch_is_appended_once_and_a_strange_one_never() {
        let known = Progress { epoch: Epoch(5), fingerprint: 9 };
        let cases = [
            (None, 1, 1, true, Decision::Append),
            (Some(&known), 6, 9, true, Decision::Append),
            (Some(&known), 5, 9, true, Decision::Done),
            (Some(&known), 5, 9, false, Decision::Done),
            (Some(&known), 5, 8, true, Decision::Regressed),
            (Some(&known), 4, 8, false, Decision::Done),
            (Some(&known), 4, 8, true, Decision::Regressed),
        ];
        for (known, epoch, fingerprint, remain, expected) in cases {
            assert_eq!(decide(known, Epoch(epoch), fingerprint, remain), expected, "{epoch} {fingerprint} {remain}");
        }
    }
}
