//! [`LogSource`]: a topic as a source; its partitions are the splits.
//!
//! **Invariant:** a split's offset is the number of the next record, so that it means the same after any restart.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tidemill_model::{Error, Kind, Offset, Result, SplitId};
use tidemill_runtime::{Boundedness, ReadHints, Source, Split, SplitReader, Version};

use super::config::{LogConfig, StartFrom};
use super::head::PartitionHead;
use super::reader::LogReader;
use super::segment;
use super::topic::Topic;

/// A topic opened for reading.
#[derive(Debug)]
pub(super) struct LogSource {
    config: LogConfig,
    state: PathBuf,
    topic: Mutex<Option<Arc<Topic>>>,
}

impl LogSource {
    /// Touches no file.
    pub(super) fn new(config: LogConfig, state: PathBuf) -> LogSource {
        LogSource { config, state, topic: Mutex::new(None) }
    }

    /// The topic, created when nobody has used it yet: a reader may well start before the first writer.
    fn topic(&self) -> Result<Arc<Topic>> {
        let mut topic = self.topic.lock().unwrap_or_else(PoisonError::into_inner);
        match topic.as_ref() {
            Some(topic) => Ok(topic.clone()),
            None => {
                let opened = Topic::open_or_create(&self.state, &self.config.topic, self.config.partitions)?;
                Ok(topic.insert(Arc::new(opened)).clone())
            }
        }
    }

    fn id(&self, partition: u32) -> SplitId {
        SplitId::new(format!("{}/{partition}", self.config.topic))
    }

    fn start(&self, topic: &Topic, partition: usize, held: &PartitionHead) -> Result<u64> {
        match self.config.start_from {
            StartFrom::Earliest => Ok(held.earliest),
            StartFrom::Latest => Ok(held.end),
            StartFrom::Time(time) => segment::first_at(&topic.partition(partition), held, time),
        }
    }
}

impl Source for LogSource {
    fn boundedness(&self) -> Boundedness {
        Boundedness::Unbounded
    }

    fn keeps_order(&self) -> bool {
        true
    }

    fn list_splits(&self) -> Result<Vec<Split>> {
        let topic = self.topic()?;
        let head = topic.head.visible()?;
        let splits = head.partitions.iter().zip(0_u32..).map(|(held, partition)| {
            let bytes = segment::bytes(&topic.partition(partition as usize), held)?;
            Ok(Split {
                id: self.id(partition),
                finite: false,
                min_event_time: None,
                max_event_time: None,
                bytes: Some(bytes),
                content: None,
            })
        });
        splits.collect()
    }

    fn version(&self) -> Result<Option<Version>> {
        let head = self.topic()?.head.visible()?;
        let held = head.partitions.iter().map(|held| format!("{}-{}", held.earliest, held.end));
        Ok(Some(Version { token: held.collect::<Vec<_>>().join(" "), grows: true }))
    }

    fn open(&self, split: &Split, resume: Option<&Offset>, _hints: &ReadHints) -> Result<Box<dyn SplitReader>> {
        let topic = self.topic()?;
        let partition = (0..topic.partitions).find(|partition| self.id(*partition) == split.id).ok_or_else(|| {
            Error::new(Kind::Corrupt, "X045", format!("topic `{}` has no split `{}`", self.config.topic, split.id))
                .fact(
                    "the topic was removed and made anew since; remove the pipeline's state to read it from its start",
                )
        })? as usize;
        let head = topic.head.visible()?;
        let held = head.partitions.get(partition).copied().unwrap_or_default();
        let at = match resume {
            None => self.start(&topic, partition, &held)?,
            Some(offset) => {
                let at = offset.as_number().ok_or_else(|| not_ours(split, offset))?;
                if at > held.end {
                    return Err(Error::new(
                        Kind::Corrupt,
                        "X046",
                        format!("split `{}` ends at offset {}, before the saved offset {at}", split.id, held.end),
                    )
                    .fact("the topic was removed and made anew since; remove the pipeline's state to read it from its start"));
                }
                at
            }
        };
        let reader = LogReader::new(topic, partition, split.id.clone(), at, head);
        reader.check_kept(&held)?;
        Ok(Box::new(reader))
    }
}

fn not_ours(split: &Split, offset: &Offset) -> Error {
    Error::new(Kind::Corrupt, "X047", format!("`{offset}` is not an offset of split `{}`", split.id))
        .fact("the offset of a topic's split is the number of its next record")
}
