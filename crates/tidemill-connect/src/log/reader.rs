//! [`LogReader`]: follows one partition, a frame at a time, without touching single records.
//!
//! A large frame becomes a batch as it lies on the disk; small ones (of a topic with little traffic and many epochs) are
//! copied together, so that catching up works on whole batches.
//!
//! **Invariant:** nothing beyond the head that was last seen is read, and nothing beyond the bound when there is one.

use std::sync::Arc;

use bytes::Bytes;
use tidemill_model::{Error, Kind, Offset, Result, SplitId, Timestamp};
use tidemill_runtime::{Payload, Positions, Pull, Records, SourceBatch, SplitReader};

use super::frame::{FrameHeader, HEADER};
use super::head::{Head, PartitionHead};
use super::segment::{self, Segment};
use super::topic::Topic;

/// Frames from this size on are batches of their own.
const LARGE: u32 = 256 << 10;
/// Small frames are gathered until a batch has this many bytes.
const GATHERED: usize = 512 << 10;

/// One partition being read.
#[derive(Debug)]
pub(super) struct LogReader {
    topic: Arc<Topic>,
    partition: usize,
    split: SplitId,
    /// The offset of the next record.
    at: u64,
    head: Arc<Head>,
    bound: Option<u64>,
    place: Option<Place>,
}

/// Where in which file the next frame begins.
#[derive(Debug)]
struct Place {
    segment: Segment,
    byte: u64,
    /// The next frame's header, when it came along with the frame before.
    header: Option<FrameHeader>,
}

/// A frame's records from the reader's offset on.
struct Frame {
    first: u64,
    timestamp: i64,
    ends: Vec<u32>,
    records: Bytes,
}

impl LogReader {
    /// Reads from offset `at`; `head` is what is known of the topic.
    pub(super) fn new(topic: Arc<Topic>, partition: usize, split: SplitId, at: u64, head: Arc<Head>) -> LogReader {
        LogReader { topic, partition, split, at, head, bound: None, place: None }
    }

    /// Refuses to go on silently where retention has deleted records that were not read.
    pub(super) fn check_kept(&self, held: &PartitionHead) -> Result<()> {
        if self.at >= held.earliest {
            return Ok(());
        }
        let lost = held.earliest - self.at;
        let message = format!(
            "{lost} records of split `{}` were deleted by the topic's retention before they were read",
            self.split
        );
        Err(Error::new(Kind::Corrupt, "X048", message)
            .fact(format!("saved progress is offset {}, the oldest record kept is {}", self.at, held.earliest))
            .fact("give the topic a longer `retention`; to go on without them, replay the pipeline from earliest"))
    }

    fn held(&self) -> PartitionHead {
        self.head.partitions.get(self.partition).copied().unwrap_or_default()
    }

    /// The offset to stop at, by what is known now.
    fn end(&self) -> u64 {
        self.held().end.min(self.bound.unwrap_or(u64::MAX))
    }

    /// Whether there is a record to read; looks for news only when all that was known is read.
    fn has_more(&mut self) -> Result<bool> {
        if self.at < self.end() {
            return Ok(true);
        }
        if self.bound.is_some_and(|bound| self.at >= bound) {
            return Ok(false);
        }
        self.head = self.topic.head.visible()?;
        Ok(self.at < self.end())
    }

    /// Stands before the frame of the next record and knows its header.
    fn find(&mut self) -> Result<FrameHeader> {
        let held = self.held();
        let folder = self.topic.partition(self.partition);
        let mut place = match self.place.take() {
            Some(place) if place.byte < place.segment.limit(&held)? => place,
            Some(_) => match Segment::open(&folder, self.at)? {
                Some(segment) => Place { segment, byte: 0, header: None },
                None => return Err(self.vanished()),
            },
            None => match segment::locate(&folder, &held, self.at)? {
                Some((segment, byte)) => Place { segment, byte, header: None },
                None => return Err(self.vanished()),
            },
        };
        let header = match place.header {
            Some(header) => header,
            None => {
                let mut bytes = [0; HEADER];
                place.segment.read(&mut bytes, place.byte)?;
                place.segment.header(&bytes, place.byte, None)?
            }
        };
        if self.at < header.base || self.at >= header.end() {
            // Says which file and byte.
            place.segment.header(&header.to_bytes(), place.byte, Some(self.at))?;
        }
        place.header = Some(header);
        self.place = Some(place);
        Ok(header)
    }

    /// A file that should be there is not: retention was quicker, or somebody deleted it.
    fn vanished(&mut self) -> Error {
        let head = match self.topic.head.visible() {
            Ok(head) => head,
            Err(error) => return error,
        };
        self.head = head;
        match self.check_kept(&self.held()) {
            Err(error) => error,
            Ok(()) => Error::new(
                Kind::Corrupt,
                "X041",
                format!("the segment of split `{}` that holds offset {} is missing", self.split, self.at),
            )
            .fact("restore the topic's folder from a copy"),
        }
    }

    /// Reads the frame that `find` found, and the header after it in the same go.
    fn take(&mut self, header: FrameHeader) -> Result<Frame> {
        let held = self.held();
        let Some(place) = self.place.as_mut() else {
            return Err(Error::internal("a frame is read before it is found"));
        };
        let limit = place.segment.limit(&held)?;
        let next = place.byte + header.length();
        let body = header.body as usize;
        let more = next + HEADER as u64 <= limit;
        let mut bytes = vec![0; if more { body + HEADER } else { body }];
        place.segment.read(&mut bytes, place.byte + HEADER as u64)?;
        let following = match bytes.get(body..).filter(|_| more) {
            Some(following) => Some(place.segment.header(following, next, Some(header.end()))?),
            None => None,
        };
        let bytes = Bytes::from(bytes).slice(..body);
        let (mut ends, mut records) = header.open(bytes).map_err(|fault| place.segment.fault(fault, place.byte))?;
        place.byte = next;
        place.header = following;
        let read = usize::try_from(self.at - header.base).unwrap_or(usize::MAX);
        if let Some(before) = read.checked_sub(1).and_then(|last| ends.get(last)).copied() {
            // Somebody resumes inside a frame.
            records = records.slice(before as usize..);
            ends = ends.split_off(read);
            ends.iter_mut().for_each(|end| *end -= before);
        }
        let first = self.at;
        self.at = header.end();
        Ok(Frame { first, timestamp: header.timestamp, ends, records })
    }

    /// Puts further small frames behind a small one.
    fn gather(&mut self, frame: Frame) -> Result<Frame> {
        let mut records = Vec::with_capacity(GATHERED);
        records.extend_from_slice(&frame.records);
        let mut ends = frame.ends;
        while records.len() < GATHERED && self.at < self.end() {
            let header = self.find()?;
            if header.body >= LARGE {
                break;
            }
            let more = self.take(header)?;
            let shift = u32::try_from(records.len()).unwrap_or(u32::MAX);
            records.extend_from_slice(&more.records);
            ends.extend(more.ends.iter().map(|end| end + shift));
        }
        Ok(Frame { ends, records: Bytes::from(records), ..frame })
    }
}

impl SplitReader for LogReader {
    fn next(&mut self) -> Result<Pull> {
        if !self.has_more()? {
            return Ok(Pull::AtEnd);
        }
        let header = self.find()?;
        let mut frame = self.take(header)?;
        if header.body < LARGE && self.at < self.end() {
            frame = self.gather(frame)?;
        }
        Ok(Pull::Rows(SourceBatch {
            payload: Payload::Records(Records {
                data: frame.records,
                ends: Some(frame.ends),
                positions: Positions::Numbered(frame.first),
            }),
            resume: Offset::number(self.at),
            arrived: Some(Timestamp(frame.timestamp)),
            first: None,
        }))
    }

    fn bound_to_present(&mut self) -> Result<()> {
        self.head = self.topic.head.visible()?;
        self.bound = Some(self.held().end);
        Ok(())
    }

    fn stop_at(&mut self, offset: &Offset) -> Result<()> {
        // Batches end with a frame, so no frame goes beyond an offset that a batch carried.
        self.bound = Some(offset.as_number().ok_or_else(|| not_ours(&self.split, offset))?);
        Ok(())
    }
}

fn not_ours(split: &SplitId, offset: &Offset) -> Error {
    Error::new(Kind::Corrupt, "X049", format!("`{offset}` is no offset of split `{split}`"))
        .fact("the table read from another connector when the offset was recorded")
}
