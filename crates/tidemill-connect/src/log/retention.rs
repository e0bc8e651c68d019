//! [`Retention`]: which old segments a commit drops.
//!
//! **Invariant:** only whole segments go, never the one being written; the head moves first, the files are deleted after it
//! is durable, and a file that death left behind goes with the next commit.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use tidemill_model::{Result, Timestamp};

use super::head::{Head, PartitionHead};
use super::segment;
use super::topic::Topic;

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retention {
    /// Records younger than this.
    pub(super) age: Option<Duration>,
    /// At least this many bytes of each partition.
    pub(super) bytes: Option<u64>,
}

/// Moves `earliest` of each partition and answers the files to delete once the head is durable.
pub(super) fn apply(topic: &Topic, head: &mut Head, retention: Retention, now: i64) -> Result<Vec<PathBuf>> {
    let mut expired = Vec::new();
    if retention.age.is_none() && retention.bytes.is_none() {
        return Ok(expired);
    }
    for (number, partition) in head.partitions.iter_mut().enumerate() {
        let folder = topic.partition(number);
        let bases = segment::list(&folder)?;
        partition.earliest = first_kept(&folder, &bases, partition, retention, now)?;
        let dropped = bases.into_iter().filter(|base| *base < partition.earliest);
        expired.extend(dropped.map(|base| segment::path(&folder, base)));
    }
    Ok(expired)
}

/// The first offset that stays.
fn first_kept(
    folder: &std::path::Path,
    bases: &[u64],
    partition: &PartitionHead,
    retention: Retention,
    now: i64,
) -> Result<u64> {
    let closed: Vec<u64> =
        bases.iter().copied().filter(|base| (partition.earliest..partition.segment).contains(base)).collect();
    let mut sizes = Vec::with_capacity(closed.len());
    for base in &closed {
        sizes.push(fs::metadata(segment::path(folder, *base)).map_or(0, |meta| meta.len()));
    }
    let mut total = sizes.iter().sum::<u64>() + partition.bytes;
    let mut earliest = partition.earliest;
    for (i, size) in sizes.iter().enumerate() {
        let following = closed.get(i + 1).copied().unwrap_or(partition.segment);
        let too_much = retention.bytes.is_some_and(|bytes| total - size >= bytes);
        let too_old = match retention.age {
            None => false,
            Some(age) => {
                // All records of a segment arrived before the first one of the next.
                let newest = if following == partition.segment {
                    Some(partition.since)
                } else {
                    segment::first_timestamp(folder, following)?
                };
                newest.is_some_and(|newest| Timestamp(newest).plus(age).0 <= now)
            }
        };
        if !too_much && !too_old {
            break;
        }
        total -= size;
        earliest = following;
    }
    Ok(earliest)
}
