//! [`SourceDriver`]: one source on one lane: claims splits, pulls, decodes, and lets rows through the gate.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tidemill_checkpoint::{Counters, SplitProgress};
use tidemill_model::{Clock, Error, Kind, Result, SplitId, Timestamp, Watermark};

use super::board::{Board, Goal, behind};
use super::exchange::lock;
use crate::{Batch, DeadLetter, Intake, Pull, SourceBatch, SourceNode, Split, SplitReader};

struct OpenSplit {
    split: Split,
    reader: Box<dyn SplitReader>,
    intake: Intake,
    progress: SplitProgress,
    at_end_since: Option<Timestamp>,
    /// Whether it has answered `AtEnd` since it was last asked to go on.
    done_for_now: bool,
    /// How far it is read, when what was read before is read again.
    goal: Option<Goal>,
}

impl OpenSplit {
    /// A split that is read again must give the records that it gave before, or results over them would differ silently.
    fn has_read_again(&self, dataset: &str) -> Result<()> {
        let (now, split) = (self.progress.rows, &self.split.id);
        let Some(before) = self.goal.as_ref().and_then(|goal| goal.rows).filter(|before| *before != now) else {
            return Ok(());
        };
        let message = format!("split {split} of `{dataset}` has {now} records of the {before} that were read before");
        Err(Error::new(Kind::Config, "C151", message)
            .fact("a source that forgets (retention, files that were removed) cannot be read again from its beginning")
            .fact("put the query back, or begin under a new name of the pipeline; nothing was changed"))
    }
}

/// What one pull brought.
pub(crate) enum Pulled {
    /// Accepted rows (perhaps none of a batch that held only bad ones), and when the oldest arrived.
    Rows { batch: Batch, arrived: Option<Timestamp>, read: u64 },
    /// No split of this lane has rows now.
    Nothing,
}

/// One source on one lane.
pub(crate) struct SourceDriver {
    node: SourceNode,
    board: Arc<Mutex<Board>>,
    /// The boards of all sources, to stay beside each other by.
    boards: Vec<Arc<Mutex<Board>>>,
    clock: Arc<dyn Clock>,
    lane: usize,
    lanes: usize,
    open: Vec<OpenSplit>,
    finished: BTreeMap<SplitId, SplitProgress>,
    /// Whether readers stop at the present end (`once`, `every`).
    to_present: bool,
    dead: Vec<DeadLetter>,
    dead_bytes: usize,
    counters: Counters,
    emitted: Watermark,
    idle: bool,
}

impl SourceDriver {
    pub(crate) fn new(
        node: SourceNode,
        board: Arc<Mutex<Board>>,
        boards: Vec<Arc<Mutex<Board>>>,
        clock: Arc<dyn Clock>,
        (lane, lanes): (usize, usize),
        to_present: bool,
    ) -> SourceDriver {
        SourceDriver {
            node,
            board,
            boards,
            clock,
            lane,
            lanes,
            open: Vec::new(),
            finished: BTreeMap::new(),
            to_present,
            dead: Vec::new(),
            dead_bytes: 0,
            counters: Counters::default(),
            emitted: Watermark::MIN,
            idle: false,
        }
    }

    /// A new tick: every reader goes on to the end that is present now.
    pub(crate) fn bound_to_present(&mut self) -> Result<()> {
        for open in self.open.iter_mut().filter(|open| open.goal.is_none()) {
            open.reader.bound_to_present()?;
            open.done_for_now = false;
        }
        Ok(())
    }

    /// Reads one batch of the split whose time is furthest behind.
    pub(crate) fn pull(&mut self) -> Result<Pulled> {
        loop {
            self.claim()?;
            // A reader at its present end is asked again only in a new tick; when rows are followed as they come,
            // each reader is asked again once the others had their turn.
            let furthest = self.furthest_time();
            let may =
                |open: &OpenSplit| !open.done_for_now && furthest.is_none_or(|most| open.progress.newest <= Some(most));
            let ready = self.open.iter().enumerate().filter(|(_, open)| may(open));
            let Some(next) = ready.min_by_key(|(_, open)| open.progress.newest).map(|(i, _)| i) else {
                if !self.to_present {
                    self.open.iter_mut().for_each(|open| open.done_for_now = false);
                }
                return Ok(Pulled::Nothing);
            };
            match self.open[next].reader.next() {
                Ok(Pull::Rows(batch)) => return self.take(next, batch),
                Ok(Pull::AtEnd) => {
                    let now = self.clock.now();
                    let open = &mut self.open[next];
                    open.has_read_again(&self.node.dataset)?;
                    open.done_for_now = true;
                    open.at_end_since.get_or_insert(now);
                    lock(&self.board).advance(&open.split.id, &open.progress, open.at_end_since);
                }
                Ok(Pull::Finished) => {
                    let mut open = self.open.swap_remove(next);
                    open.has_read_again(&self.node.dataset)?;
                    open.progress.finished = true;
                    lock(&self.board).advance(&open.split.id, &open.progress, None);
                    self.finished.insert(open.split.id, open.progress);
                }
                Err(error) => {
                    let split = &self.open[next].split.id;
                    return Err(error.context(format!("reading {} split {split}", self.node.dataset)));
                }
            }
        }
    }

    /// The event time up to which splits are read now, when sources stay beside each other: a split ahead of it waits
    /// for the others. It changes speed only, never an answer: a watermark that is held back closes the same windows.
    fn furthest_time(&self) -> Option<i64> {
        let time = self.node.time.as_ref()?;
        let skew = i64::try_from(time.max_skew?.as_micros()).unwrap_or(i64::MAX);
        let least = self.boards.iter().filter_map(|board| lock(board).furthest_behind()).min()?;
        // A split stands at its newest row less the delay.
        Some(least.saturating_add(skew).saturating_sub(behind(0, time.delay)))
    }

    /// How many bytes of refused records wait for the end of the epoch.
    pub(crate) fn dead_bytes(&self) -> usize {
        self.dead_bytes
    }

    /// Whether every split of this lane has answered that there is nothing now, and none waits to be claimed.
    pub(crate) fn is_quiet(&self) -> bool {
        self.open.iter().all(|open| open.done_for_now) && !lock(&self.board).has_waiting()
    }

    fn claim(&mut self) -> Result<()> {
        loop {
            let has_finite = self.open.iter().any(|open| open.split.finite);
            let mut board = lock(&self.board);
            let claimed = board.claim(self.lane, self.lanes, has_finite);
            let Some((split, progress)) = claimed else { return Ok(()) };
            let goal = board.goal(&split.id);
            drop(board);
            let mut reader = self
                .node
                .source
                .open(&split, progress.offset.as_ref(), &self.node.hints)
                .map_err(|e| e.context(format!("opening {} split {}", self.node.dataset, split.id)))?;
            match goal.as_ref().map(|goal| &goal.offset) {
                Some(Some(offset)) => reader.stop_at(offset)?,
                Some(None) => {}
                None if self.to_present => reader.bound_to_present()?,
                None => {}
            }
            let decoder = self.node.decoder.as_ref().map(|make| make()).transpose()?;
            let event_time = self.node.hints.event_time.as_deref();
            let intake = Intake::new(&self.node.dataset, event_time, decoder, (self.node.gate)()?);
            let (at_end_since, done_for_now) = (None, false);
            self.open.push(OpenSplit { split, reader, intake, progress, at_end_since, done_for_now, goal });
        }
    }

    fn take(&mut self, index: usize, batch: SourceBatch) -> Result<Pulled> {
        let now = self.clock.now();
        let horizon = self.node.time.as_ref().and_then(|time| time.max_future).map(|ahead| (now, now.plus(ahead)));
        let open = &mut self.open[index];
        open.intake.gate().set_horizon(horizon);
        let taken = open.intake.take(&open.split.id, open.progress.rows, batch.payload);
        let taken = taken.map_err(|e| e.context(format!("reading {} split {}", self.node.dataset, open.split.id)))?;
        let read = taken.counters.rows_read;
        open.progress.rows += read;
        open.at_end_since = None;
        open.progress.offset = Some(batch.resume);
        open.progress.newest = open.progress.newest.max(taken.newest);
        open.progress.last_row_at = Some(now);
        self.dead_bytes += taken.dead.iter().map(DeadLetter::bytes).sum::<usize>();
        self.dead.extend(taken.dead);
        self.counters.add(&taken.counters);
        Ok(Pulled::Rows { batch: taken.rows, arrived: batch.arrived, read })
    }

    /// Tells the board how far this lane has passed rows on, and answers the source's watermark if it rose,
    /// and whether the source is idle if that changed.
    ///
    /// Called after the rows of the last pull have left the source, so that time never overtakes them.
    pub(crate) fn settle(&mut self) -> (Option<Watermark>, Option<bool>) {
        let mut board = lock(&self.board);
        for open in &self.open {
            board.advance(&open.split.id, &open.progress, open.at_end_since);
        }
        let watermark = board.watermark(self.clock.now());
        let risen = (watermark > self.emitted).then(|| {
            self.emitted = watermark;
            watermark
        });
        let idle = board.is_idle();
        let changed = (std::mem::replace(&mut self.idle, idle) != idle).then_some(idle);
        (risen, changed)
    }

    /// What belongs to the epoch that ends here: progress, dead letters, counts, the watermark given out.
    pub(crate) fn cut(&mut self) -> SourceCut {
        self.dead_bytes = 0;
        let mut splits = std::mem::take(&mut self.finished);
        splits.extend(self.open.iter().map(|open| (open.split.id.clone(), open.progress.clone())));
        SourceCut {
            splits,
            dead: std::mem::take(&mut self.dead),
            counters: std::mem::take(&mut self.counters),
            watermark: self.emitted,
        }
    }
}

/// A source's part of an epoch on one lane.
#[derive(Debug)]
pub(crate) struct SourceCut {
    pub(crate) splits: BTreeMap<SplitId, SplitProgress>,
    pub(crate) dead: Vec<DeadLetter>,
    pub(crate) counters: Counters,
    pub(crate) watermark: Watermark,
}
