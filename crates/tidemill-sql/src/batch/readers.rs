//! [`Readers`]: the splits of one scan, shared by all its partitions.
//!
//! Reading a block is done by one partition at a time for each split, decoding it by whoever read it while the next
//! one reads on. So a dataset of one large split is decoded on every core, and one of many is read on every core.
//!
//! **Invariant:** each block of each split is given out exactly once.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tidemill_model::{Result, SplitId};
use tidemill_runtime::{Payload, Pull, ReadHints, Source, Split, SplitReader};

/// Splits waiting, open and being read.
pub(super) struct Readers {
    source: Arc<dyn Source>,
    hints: ReadHints,
    state: Mutex<State>,
    changed: Condvar,
    passed_over: AtomicU64,
}

struct State {
    waiting: VecDeque<Split>,
    idle: Vec<OpenSplit>,
    busy: usize,
}

struct OpenSplit {
    id: SplitId,
    reader: Box<dyn SplitReader>,
    rows_before: u64,
}

/// Rows as a split gave them.
pub(super) struct Block {
    pub(super) split: SplitId,
    /// For columns: how many rows of the split came before.
    pub(super) rows_before: u64,
    pub(super) payload: Payload,
}

impl Readers {
    pub(super) fn new(source: Arc<dyn Source>, hints: ReadHints, splits: Vec<Split>) -> Readers {
        let state = State { waiting: splits.into(), idle: Vec::new(), busy: 0 };
        Readers { source, hints, state: Mutex::new(state), changed: Condvar::new(), passed_over: AtomicU64::new(0) }
    }

    /// The next block of any split; `None` when all are at the end that they had when they were opened. Blocks.
    pub(super) fn next(&self) -> Result<Option<Block>> {
        let mut state = self.state();
        loop {
            if let Some(open) = state.idle.pop() {
                state.busy += 1;
                drop(state);
                if let Some(block) = self.read(open)? {
                    return Ok(Some(block));
                }
            } else if let Some(split) = state.waiting.pop_front() {
                state.busy += 1;
                drop(state);
                if let Some(block) = self.open(&split)? {
                    return Ok(Some(block));
                }
            } else if state.busy == 0 {
                return Ok(None);
            } else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state = self.state();
        }
    }

    /// How many rows the splits that were read to their end have that nobody needs, since this was asked last.
    pub(super) fn take_passed_over(&self) -> u64 {
        self.passed_over.swap(0, Ordering::Relaxed)
    }

    fn open(&self, split: &Split) -> Result<Option<Block>> {
        let busy = Busy(self);
        let context = |e: tidemill_model::Error| e.context(format!("opening split {}", split.id));
        let mut reader = self.source.open(split, None, &self.hints).map_err(context)?;
        reader.bound_to_present().map_err(context)?;
        let open = OpenSplit { id: split.id.clone(), reader, rows_before: 0 };
        self.pull(open, busy)
    }

    fn read(&self, open: OpenSplit) -> Result<Option<Block>> {
        self.pull(open, Busy(self))
    }

    fn pull(&self, mut open: OpenSplit, busy: Busy<'_>) -> Result<Option<Block>> {
        match open.reader.next().map_err(|e| e.context(format!("reading split {}", open.id)))? {
            Pull::AtEnd | Pull::Finished => {
                self.passed_over.fetch_add(open.reader.passed_over(), Ordering::Relaxed);
                Ok(None)
            }
            Pull::Rows(batch) => {
                let (split, rows_before) = (open.id.clone(), batch.first.unwrap_or(open.rows_before));
                if let Payload::Columns(rows) = &batch.payload {
                    open.rows_before = rows_before + rows.num_rows() as u64;
                }
                self.state().idle.push(open);
                drop(busy);
                Ok(Some(Block { split, rows_before, payload: batch.payload }))
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A split that was counted as being read. Dropping it, by a panic too, lets those who wait look again.
struct Busy<'a>(&'a Readers);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.state().busy -= 1;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use tidemill_model::{Error, Kind, Offset, Result, SplitId};
    use tidemill_runtime::{
        Boundedness, Payload, Positions, Pull, ReadHints, Records, Source, SourceBatch, Split, SplitReader,
    };

    use super::Readers;

    /// Splits of so many blocks; a block is its number. A split of 13 blocks fails at its last.
    #[derive(Debug)]
    struct Counting(Vec<usize>);

    struct CountingReader {
        split: usize,
        next: usize,
        blocks: usize,
        bounded: bool,
    }

    impl Source for Counting {
        fn boundedness(&self) -> Boundedness {
            Boundedness::Unbounded
        }

        fn list_splits(&self) -> Result<Vec<Split>> {
            let ids = (0..self.0.len()).map(|i| SplitId::new(i.to_string()));
            Ok(ids
                .map(|id| Split {
                    id,
                    finite: false,
                    min_event_time: None,
                    max_event_time: None,
                    bytes: None,
                    content: None,
                })
                .collect())
        }

        fn open(&self, split: &Split, _: Option<&Offset>, _: &ReadHints) -> Result<Box<dyn SplitReader>> {
            let split: usize = split.id.as_str().parse().expect("a number");
            Ok(Box::new(CountingReader { split, next: 0, blocks: self.0[split], bounded: false }))
        }
    }

    impl SplitReader for CountingReader {
        fn next(&mut self) -> Result<Pull> {
            assert!(self.bounded, "an endless split was not bounded");
            if self.next == self.blocks {
                return Ok(Pull::AtEnd);
            }
            if self.next == 12 {
                return Err(Error::new(Kind::Unavailable, "U011", "gone"));
            }
            self.next += 1;
            let data = Bytes::from(format!("{}/{}", self.split, self.next));
            let payload = Payload::Records(Records { data, ends: None, positions: Positions::Numbered(0) });
            Ok(Pull::Rows(SourceBatch { payload, resume: Offset::number(0), arrived: None, first: None }))
        }

        fn bound_to_present(&mut self) -> Result<()> {
            self.bounded = true;
            Ok(())
        }
    }

    fn read_all(blocks: &[usize], threads: usize) -> Result<Vec<String>> {
        let source = Arc::new(Counting(blocks.to_vec()));
        let splits = source.list_splits()?;
        let readers = Readers::new(source, ReadHints::default(), splits);
        let seen = Mutex::new(Vec::new());
        let outcomes: Vec<Result<()>> = std::thread::scope(|scope| {
            let read = || {
                while let Some(block) = readers.next()? {
                    let Payload::Records(records) = block.payload else { continue };
                    seen.lock().expect("locks").push(String::from_utf8_lossy(&records.data).into_owned());
                }
                Ok(())
            };
            let handles: Vec<_> = (0..threads).map(|_| scope.spawn(read)).collect();
            handles.into_iter().map(|handle| handle.join().expect("joins")).collect()
        });
        outcomes.into_iter().collect::<Result<Vec<()>>>()?;
        let mut seen = seen.into_inner().expect("unlocks");
        seen.sort();
        Ok(seen)
    }

    #[test]
    fn every_block_comes_once_whatever_the_number_of_splits_and_threads() {
        for blocks in [&[][..], &[0], &[5], &[1, 0, 7, 3], &[2; 9]] {
            let mut expected: Vec<String> = Vec::new();
            for (split, count) in blocks.iter().enumerate() {
                expected.extend((1..=*count).map(|block| format!("{split}/{block}")));
            }
            expected.sort();
            for threads in [1, 2, 5] {
                assert_eq!(read_all(blocks, threads).expect("reads"), expected, "{blocks:?} {threads}");
            }
        }
    }

    #[test]
    fn an_error_ends_the_scan_and_leaves_nobody_waiting() {
        for threads in [1, 4] {
            let error = read_all(&[13, 2], threads).expect_err("fails");
            assert_eq!(error.message(), "reading split 0: gone");
        }
    }
}
