//! [`Versions`]: the rows of the side that an ASOF JOIN chooses from.
//!
//! **Invariant:** of each key there is the newest version before the time that rows may still ask for, all versions of
//! that time, and every later one. What is stored of a segment does not change; when half of it is gone, what is left
//! moves to the end and is stored anew, so little is stored that is gone.

use std::collections::BTreeSet;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{interleave_record_batch, take_record_batch};
use arrow::error::ArrowError;
use tidemill_runtime::{StateChunk, bytes_of};

use super::keys::Keys;

/// Which side of [`Keys`] versions are.
pub(super) const RIGHT: usize = 1;

struct Segment {
    base: u64,
    rows: RecordBatch,
    times: Vec<i64>,
    keys: Vec<u32>,
    live: Vec<bool>,
    left: usize,
    saved: bool,
}

/// See the module.
pub(super) struct Versions {
    lane: usize,
    segments: Vec<Segment>,
    next: u64,
    /// Keys with more than one version, by the time of the second: when that is passed, the first is not needed.
    crowded: BTreeSet<(i64, u32)>,
    /// How far back a version may be matched.
    within: Option<i64>,
    /// Every version with its time and key, where they end of themselves.
    ends: BTreeSet<(i64, u32)>,
    gone: Vec<String>,
}

impl Versions {
    pub(super) fn new(lane: usize, within: Option<i64>) -> Versions {
        Versions {
            lane,
            segments: Vec::new(),
            next: 0,
            crowded: BTreeSet::new(),
            within,
            ends: BTreeSet::new(),
            gone: Vec::new(),
        }
    }

    /// How many bytes of memory it takes, with what the keys know of its rows.
    pub(super) fn bytes(&self) -> usize {
        let beside = size_of::<(i64, u64)>() + size_of::<i64>() + size_of::<u32>() + size_of::<bool>();
        let segments: usize =
            self.segments.iter().map(|segment| bytes_of(&segment.rows) + segment.times.len() * beside).sum();
        segments + (self.crowded.len() + self.ends.len()) * 2 * size_of::<(i64, u32)>()
    }

    /// Keeps rows, all of which have a key.
    pub(super) fn keep(&mut self, keys: &mut Keys, rows: RecordBatch, times: Vec<i64>, numbers: Vec<u32>) {
        if rows.num_rows() == 0 {
            return;
        }
        keys.insert(RIGHT, &numbers, &times, self.next);
        for (key, at) in numbers.iter().zip(&times) {
            self.note(keys, *key);
            if self.within.is_some() {
                self.ends.insert((*at, *key));
            }
        }
        let (left, live) = (times.len(), vec![true; times.len()]);
        let segment = Segment { base: self.next, rows, times, keys: numbers, live, left, saved: false };
        self.next += left as u64;
        self.segments.push(segment);
    }

    /// Notes when a key will have a version too many. Notes that are out of date do no harm.
    fn note(&mut self, keys: &Keys, key: u32) {
        let line = keys.within(key, RIGHT, (i64::MIN, i64::MAX));
        if let [first, .., last] = line {
            let second = line[line.partition_point(|(at, _)| *at == first.0).min(line.len() - 1)];
            if last.0 > first.0 {
                self.crowded.insert((second.0, key));
            }
        }
    }

    fn find(&self, number: u64) -> (usize, usize) {
        let segment = self.segments.partition_point(|segment| segment.base <= number) - 1;
        (segment, (number - self.segments[segment].base) as usize)
    }

    /// Rows by number, in this order.
    pub(super) fn take(&self, numbers: &[u64]) -> Result<RecordBatch, ArrowError> {
        let batches: Vec<&RecordBatch> = self.segments.iter().map(|segment| &segment.rows).collect();
        let places: Vec<(usize, usize)> = numbers.iter().map(|number| self.find(*number)).collect();
        interleave_record_batch(&batches, &places)
    }

    /// Drops what no row at `asked` or later can be matched with.
    pub(super) fn drop_before(&mut self, keys: &mut Keys, asked: i64) -> Result<(), ArrowError> {
        if asked == i64::MAX {
            self.clear(keys);
            return Ok(());
        }
        while let Some((second, key)) = self.crowded.first().copied().filter(|(second, _)| *second < asked) {
            self.crowded.remove(&(second, key));
            let line = keys.within(key, RIGHT, (i64::MIN, i64::MAX));
            let older = line.partition_point(|(at, _)| *at < asked);
            let Some((newest, _)) = older.checked_sub(1).map(|at| line[at]) else { continue };
            self.remove(keys, key, newest);
            self.note(keys, key);
        }
        if let Some(within) = self.within.filter(|_| asked > i64::MIN) {
            let oldest = asked.saturating_sub(within);
            while let Some((at, key)) = self.ends.first().copied().filter(|(at, _)| *at < oldest) {
                self.ends.remove(&(at, key));
                self.remove(keys, key, oldest);
            }
        }
        self.compact(keys)
    }

    /// Drops every version: nobody will ask.
    fn clear(&mut self, keys: &mut Keys) {
        self.crowded.clear();
        self.ends.clear();
        for segment in std::mem::take(&mut self.segments) {
            segment.keys.iter().for_each(|key| keys.drop_before(RIGHT, *key, i64::MAX));
            if segment.saved {
                self.gone.push(self.name(&segment));
            }
        }
    }

    /// Drops the versions of a key before a time.
    fn remove(&mut self, keys: &mut Keys, key: u32, before: i64) {
        if before == i64::MIN {
            return;
        }
        let numbers: Vec<u64> =
            keys.within(key, RIGHT, (i64::MIN, before - 1)).iter().map(|(_, number)| *number).collect();
        for number in numbers {
            let (segment, row) = self.find(number);
            let segment = &mut self.segments[segment];
            if std::mem::replace(&mut segment.live[row], false) {
                segment.left -= 1;
            }
        }
        keys.drop_before(RIGHT, key, before);
    }

    /// Moves what is left of segments that are half gone to the end, and puts small segments together.
    fn compact(&mut self, keys: &mut Keys) -> Result<(), ArrowError> {
        let small = |segment: &Segment| !segment.saved && segment.left < 1_024;
        let several = self.segments.iter().filter(|segment| small(segment)).count() > 16;
        if !several && self.segments.iter().all(|segment| segment.left * 2 > segment.live.len()) {
            return Ok(());
        }
        let all = std::mem::take(&mut self.segments);
        let (moved, stay): (Vec<Segment>, Vec<Segment>) =
            all.into_iter().partition(|segment| segment.left * 2 <= segment.live.len() || several && small(segment));
        self.segments = stay;
        let mut parts = Vec::new();
        let (mut times, mut numbers) = (Vec::new(), Vec::new());
        for segment in &moved {
            if segment.saved {
                self.gone.push(self.name(segment));
            }
            let left: Vec<u32> =
                (0..segment.live.len()).filter(|row| segment.live[*row]).map(|row| row as u32).collect();
            for row in &left {
                let row = *row as usize;
                times.push(segment.times[row]);
                numbers.push(segment.keys[row]);
                keys.renumber(
                    RIGHT,
                    segment.keys[row],
                    (segment.times[row], segment.base + row as u64),
                    self.next + times.len() as u64 - 1,
                );
            }
            parts.push(take_record_batch(&segment.rows, &UInt32Array::from(left))?);
        }
        let (Some(first), false) = (parts.first(), times.is_empty()) else { return Ok(()) };
        let rows = arrow::compute::concat_batches(&first.schema(), &parts)?;
        let (left, live) = (times.len(), vec![true; times.len()]);
        self.segments.push(Segment { base: self.next, rows, times, keys: numbers, live, left, saved: false });
        self.next += left as u64;
        Ok(())
    }

    fn name(&self, segment: &Segment) -> String {
        format!("{RIGHT}.{}.{}", self.lane, segment.base)
    }

    /// What changed since it was last asked.
    pub(super) fn changed(&mut self) -> Vec<StateChunk> {
        let mut chunks: Vec<StateChunk> =
            std::mem::take(&mut self.gone).into_iter().map(|name| StateChunk { name, rows: None }).collect();
        for at in 0..self.segments.len() {
            let name = self.name(&self.segments[at]);
            let segment = &mut self.segments[at];
            if !std::mem::replace(&mut segment.saved, true) {
                chunks.push(StateChunk { name, rows: Some(segment.rows.clone()) });
            }
        }
        chunks
    }
}
