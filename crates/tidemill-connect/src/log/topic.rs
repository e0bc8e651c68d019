//! [`Topic`]: an open topic, its folder and its lock; and what `status` may ask of topics.
//!
//! **Invariant:** the number of partitions is fixed when the head is first put in place, under the lock.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidemill_model::{Error, Kind, Result, Timestamp};

use super::config::{DEFAULT_PARTITIONS, check_topic};
use super::head::{Head, HeadFile, PartitionHead};
use super::segment;

/// An open topic.
#[derive(Debug)]
pub(super) struct Topic {
    pub(super) name: String,
    folder: PathBuf,
    pub(super) head: HeadFile,
    pub(super) partitions: u32,
}

/// Held while the topic is being changed; let go when dropped, also by death.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Topic {
    /// Opens a topic of this project, `None` when it does not exist.
    pub(super) fn open(state: &Path, name: &str, writable: bool) -> Result<Option<Topic>> {
        let folder = topics(state).join(check_topic(name)?);
        let Some(head) = HeadFile::open(&folder.join("head"), writable)? else { return Ok(None) };
        let partitions = u32::try_from(head.visible()?.partitions.len()).unwrap_or(u32::MAX);
        Ok(Some(Topic { name: name.to_owned(), folder, head, partitions }))
    }

    /// Opens a topic, and creates it first when it does not exist. `partitions` is what the dataset says, if anything.
    pub(super) fn open_or_create(state: &Path, name: &str, partitions: Option<u32>) -> Result<Topic> {
        let topic = match Topic::open(state, name, true)? {
            Some(topic) => topic,
            None => {
                Topic::create(state, name, partitions.unwrap_or(DEFAULT_PARTITIONS))?;
                let gone = || Error::internal(format!("topic `{name}` is gone as soon as it is created"));
                Topic::open(state, name, true)?.ok_or_else(gone)?
            }
        };
        match partitions {
            Some(declared) if declared != topic.partitions => {
                let message = format!("topic `{name}` has {} partitions, not {declared}", topic.partitions);
                Err(Error::new(Kind::Config, "C093", message).fact(format!(
                    "the number is fixed when a topic is first used: write partitions = '{}', leave the option out, or \
                     name another topic",
                    topic.partitions
                )))
            }
            _ => Ok(topic),
        }
    }

    fn create(state: &Path, name: &str, partitions: u32) -> Result<()> {
        let folder = topics(state).join(check_topic(name)?);
        let io = |error| Error::io("create", folder.display(), error);
        fs::create_dir_all(&folder).map_err(io)?;
        let _lock = lock(&folder)?;
        if folder.join("head").exists() {
            return Ok(());
        }
        for partition in 0..partitions {
            fs::create_dir_all(folder.join(partition.to_string())).map_err(io)?;
        }
        let empty = vec![PartitionHead::default(); partitions as usize];
        HeadFile::create(&folder.join("head"), &Head { sequence: 1, partitions: empty, ..Head::default() })?;
        sync_folder(&folder)?;
        sync_folder(&topics(state))?;
        sync_folder(state)
    }

    /// Waits until no other writer changes the topic.
    pub(super) fn lock(&self) -> Result<Lock> {
        lock(&self.folder)
    }

    /// The folder of a partition.
    pub(super) fn partition(&self, partition: usize) -> PathBuf {
        self.folder.join(partition.to_string())
    }
}

fn topics(state: &Path) -> PathBuf {
    state.join("topics")
}

fn lock(folder: &Path) -> Result<Lock> {
    let path = folder.join("lock");
    let io = |error| Error::io("lock", path.display(), error);
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(io)?;
    file.lock().map_err(io)?;
    Ok(Lock { _file: file })
}

/// Makes new and renamed entries of a folder durable.
pub(super) fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| Error::io("sync", folder.display(), error))
}

/// What a partition holds now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionStats {
    /// The offset of the first record kept.
    pub earliest: u64,
    /// The offset after the last record.
    pub end: u64,
    /// The bytes of its segments.
    pub bytes: u64,
}

/// What a topic holds now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicStats {
    /// Its name.
    pub name: String,
    /// Each partition, by number.
    pub partitions: Vec<PartitionStats>,
    /// When the last record was committed, if there was any.
    pub last: Option<Timestamp>,
    /// The last epoch of each producer, by `pipeline/sink`.
    pub producers: Vec<(String, tidemill_model::Epoch)>,
}

impl TopicStats {
    /// How many records are kept.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.end - partition.earliest).sum()
    }

    /// How many bytes are kept.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.bytes).sum()
    }
}

/// What a topic of the project with this state folder holds; `None` when there is no such topic.
///
/// # Errors
/// Config for an impossible name, Corrupt when its head is damaged.
pub fn topic_stats(state: &Path, name: &str) -> Result<Option<TopicStats>> {
    let Some(topic) = Topic::open(state, name, false)? else { return Ok(None) };
    let head = topic.head.visible()?;
    let partitions = head.partitions.iter().enumerate().map(|(number, partition)| {
        let bytes = segment::bytes(&topic.partition(number), partition)?;
        Ok(PartitionStats { earliest: partition.earliest, end: partition.end, bytes })
    });
    Ok(Some(TopicStats {
        name: topic.name.clone(),
        partitions: partitions.collect::<Result<_>>()?,
        last: (head.last != 0).then_some(Timestamp(head.last)),
        producers: head.producers.iter().map(|(name, progress)| (name.clone(), progress.epoch)).collect(),
    }))
}

/// The names of the topics of the project with this state folder, in order.
///
/// # Errors
/// When the folder exists and cannot be read.
pub fn list_topics(state: &Path) -> Result<Vec<String>> {
    let folder = topics(state);
    let io = |error| Error::io("list", folder.display(), error);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io)?;
        if entry.path().join("head").exists()
            && let Some(name) = entry.file_name().to_str()
        {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// The offset of the first record of a partition that arrived at `time` or later: the partition's end when none did.
///
/// # Errors
/// Config when there is no such topic or partition; Corrupt when its files are damaged.
pub fn first_offset_at(state: &Path, name: &str, partition: usize, time: Timestamp) -> Result<u64> {
    let missing = || {
        Error::new(Kind::Config, "C094", format!("there is no partition {partition} of a topic `{name}`"))
            .fact("`tidemill status` lists the topics of the project")
    };
    let topic = Topic::open(state, name, false)?.ok_or_else(missing)?;
    let head: Arc<Head> = topic.head.visible()?;
    let held = head.partitions.get(partition).ok_or_else(missing)?;
    segment::first_at(&topic.partition(partition), held, time)
}
