//! [`Coordinator`]: decides when epochs begin and end.
//!
//! The life of an epoch: barriers to all lanes, acknowledgements from all; then `publish.rs`: state and dead letters
//! written, manifest created if absent (the one commit point), sinks committed, views published.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidemill_checkpoint::{Manifest, TableMet};
use tidemill_model::{Epoch, Error, Result, Timestamp, Trigger, Watermark};

use super::command::Command;
use super::exchange::lock;
use super::job::{Job, Shared, StopFlag, all_bounded};
use super::publish::Recorded;
use super::rebuild::{Rebuild, gone, too_many_dead};
use super::reentry::{Reentering, too_many};
use super::tables::Tables;
use super::ticks::{Next, Observed, next};
use crate::{EpochEnd, NodeKind, SinkCommitter, StateMemory};

/// What a step of the coordinator answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Something was done.
    Worked,
    /// Nothing to do for at most this long.
    Wait(Duration),
    /// The job has ended; everything it will ever commit is committed.
    Ended,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Phase {
    Starting,
    /// Tables that rows are looked up in are read before the tick, but not for longer than this.
    Looking {
        until: Timestamp,
    },
    Reading {
        since: Timestamp,
    },
    Aligning {
        began: Timestamp,
        then: Next,
    },
    Publishing {
        tries: u32,
        not_before: Timestamp,
    },
    Resting {
        until: Timestamp,
    },
    Ending,
    Ended,
}

/// Decides about epochs.
pub struct Coordinator {
    pub(super) job: Job,
    pub(super) shared: Arc<Shared>,
    pub(super) committers: BTreeMap<String, Box<dyn SinkCommitter>>,
    pub(super) manifest: Option<Manifest>,
    pub(super) recorded: Option<Box<Recorded>>,
    pub(super) fingerprints: BTreeMap<String, String>,
    pub(super) stop: StopFlag,
    pub(super) phase: Phase,
    pub(super) tick: u64,
    pub(super) next_discovery: Timestamp,
    /// Watermarks at the last barrier.
    pub(super) marks: Vec<Watermark>,
    /// When an epoch shall end though nothing be read: an operator holds rows back until then.
    pub(super) due: Option<Timestamp>,
    /// Whether the next manifest is the first of this process.
    pub(super) first: bool,
    /// Operator nodes whose chunks stayed as they were when this process began.
    pub(super) kept: BTreeSet<String>,
    /// Whether every source ends.
    pub(super) bounded: bool,
    /// What goes through once more, if that is the job.
    pub(super) again: Again,
    pub(super) tables: Tables,
    /// What the rows of the epoch in hand met.
    pub(super) met: BTreeMap<String, TableMet>,
    /// Called between any two steps of the commit; tests crash there.
    pub(super) probe: Option<Probe>,
}

/// What may be the whole of a job in one epoch: a result that is computed anew, or dead letters that enter again.
pub(crate) struct Again {
    pub(crate) rebuild: Option<Rebuild>,
    pub(crate) reentering: Option<Reentering>,
    /// Of the nodes of the plan, before letters entered between them.
    pub(crate) fingerprints: Vec<(String, String)>,
}

/// Called with the name of a step that was just done; an error stands for a crash there.
pub type Probe = Box<dyn FnMut(&'static str) -> Result<()> + Send>;

impl Coordinator {
    pub(crate) fn new(
        job: Job,
        (resumed, again): (Option<Manifest>, Again),
        kept: BTreeSet<String>,
        committers: BTreeMap<String, Box<dyn SinkCommitter>>,
        tables: Tables,
        shared: Arc<Shared>,
    ) -> Coordinator {
        let stateful = again.fingerprints.iter().filter(|(_, fingerprint)| !fingerprint.is_empty());
        let fingerprints = stateful.cloned().collect();
        if let Some(manifest) = &resumed {
            job.progress.update(|p| {
                p.epoch = manifest.epoch;
                p.committed_at = Some(manifest.committed_at);
                p.counters = manifest.counters.clone();
            });
        }
        let bounded = all_bounded(&job.graph);
        Coordinator {
            job,
            shared,
            committers,
            manifest: resumed,
            recorded: None,
            fingerprints,
            stop: StopFlag::default(),
            phase: Phase::Starting,
            tick: 0,
            next_discovery: Timestamp(i64::MIN),
            marks: Vec::new(),
            due: None,
            first: true,
            kept,
            bounded,
            again,
            met: BTreeMap::new(),
            tables,
            probe: None,
        }
    }

    pub(crate) fn memory(&self) -> StateMemory {
        self.job.memory.clone()
    }

    /// Lets `flag` end the job after the epoch in hand.
    pub fn stop_by(&mut self, flag: StopFlag) {
        self.stop = flag;
    }

    /// Calls `probe` between any two steps of every commit.
    pub fn probe_by(&mut self, probe: Probe) {
        self.probe = Some(probe);
    }

    /// Does a piece of work.
    ///
    /// # Errors
    /// Whatever sources, sinks and the store answer. The epoch in hand is then as good as never begun, unless its
    /// manifest exists: then the next start commits it.
    pub fn step(&mut self) -> Result<Step> {
        match self.phase {
            Phase::Starting => {
                self.begin_reading()?;
                Ok(Step::Worked)
            }
            Phase::Looking { until } => self.look_before_tick(until),
            Phase::Reading { since } => self.read_on(since),
            Phase::Aligning { began, then } => self.align(began, then),
            Phase::Publishing { tries, not_before } => self.publish_epoch(tries, not_before),
            Phase::Resting { until } => {
                let now = self.job.clock.now();
                let stop = self.stop.is_set();
                if stop && self.due.is_none() {
                    self.phase = Phase::Ending;
                    return Ok(Step::Worked);
                }
                // What is held back goes out with one more epoch.
                if now < until && !stop {
                    return Ok(Step::Wait(until.since(now)));
                }
                self.phase = Phase::Looking { until: now.plus(self.tables.patience()) };
                Ok(Step::Worked)
            }
            Phase::Ending => {
                if let Some(manifest) = &self.manifest {
                    self.job.checkpoints.prune(manifest)?;
                    self.job.checkpoints.mark_published(manifest)?;
                }
                self.phase = Phase::Ended;
                Ok(Step::Worked)
            }
            Phase::Ended => Ok(Step::Ended),
        }
    }

    /// A tick meets the tables as they are when it begins. One that does not answer holds nothing up for long.
    fn look_before_tick(&mut self, until: Timestamp) -> Result<Step> {
        let now = self.job.clock.now();
        if self.tables.look(now, &self.shared) && now < until && !self.stop.is_set() {
            return Ok(Step::Wait(until.since(now)));
        }
        self.tables.switch(self.epoch().next());
        self.begin_reading()?;
        Ok(Step::Worked)
    }

    fn begin_reading(&mut self) -> Result<()> {
        self.discover()?;
        let command = match self.job.trigger {
            Trigger::Continuous => Command::Follow,
            Trigger::Once | Trigger::Every(_) | Trigger::Scheduled(_) | Trigger::On(_) => {
                self.tick += 1;
                Command::Tick(self.tick)
            }
        };
        self.tell(command);
        self.phase = Phase::Reading { since: self.job.clock.now() };
        Ok(())
    }

    fn tell(&self, command: Command) {
        for (commands, bell) in self.shared.commands.iter().zip(&self.shared.lane_bells) {
            lock(commands).push_back(command);
            bell.ring();
        }
    }

    /// Lists splits, so that lanes can claim the new ones.
    fn discover(&mut self) -> Result<()> {
        for (number, board) in &self.shared.boards {
            if let NodeKind::Source(node) = &self.job.graph.nodes[*number].kind {
                let listed = node.source.list_splits().map_err(|e| e.context(format!("reading {}", node.dataset)))?;
                let mut board = lock(board);
                if let Some(split) = board.missing(&listed) {
                    return Err(gone(&node.dataset, split));
                }
                board.list(listed);
            }
        }
        self.next_discovery = self.job.clock.now().plus(self.job.limits.discovery);
        self.shared.lane_bells.iter().for_each(|bell| bell.ring());
        Ok(())
    }

    fn read_on(&mut self, since: Timestamp) -> Result<Step> {
        let now = self.job.clock.now();
        if self.again.rebuild.is_some() || self.again.reentering.is_some() {
            if self.stop.is_set() {
                // Half a result is none; what is on record stands.
                self.phase = Phase::Ended;
                return Ok(Step::Worked);
            }
            if self.shared.wants_barrier.load(Ordering::Relaxed) {
                let letters = self.again.reentering.is_some();
                return Err(if letters { too_many(self.epoch()) } else { too_many_dead() });
            }
        }
        let following = matches!(self.job.trigger, Trigger::Continuous);
        if following && now >= self.next_discovery && !self.bounded {
            self.discover()?;
        }
        if following {
            self.tables.look(now, &self.shared);
        }
        if let Some(tables) = self.tables.news() {
            self.job.progress.update(|p| p.tables = tables);
        }
        // In this order: a lane counts its rows before it is quiet, so rows seen after `quiet` are all of the tick's.
        let quiet = self.tick > 0 && self.shared.quiet.iter().all(|quiet| quiet.load(Ordering::Acquire) == self.tick);
        let finished = self.shared.boards.values().all(|board| lock(board).is_finished());
        let rows = self.shared.rows_since_barrier.load(Ordering::Acquire);
        // A lane at its bound reads on behind a barrier only, though it may be full of what its operators made of earlier rows.
        let full = self.shared.wants_barrier.load(Ordering::Relaxed);
        let seen = Observed {
            now,
            since,
            changed: self.first
                || rows > 0
                || full
                || self.watermarks() != self.marks
                || self.due.is_some_and(|due| due <= now)
                || self.tables.has_ready() && following,
            quiet,
            finished: self.bounded && finished,
            full,
            stop: self.stop.is_set(),
        };
        self.job.progress.update(|p| p.rows_read = p.counters.rows_read + rows);
        let decided = next(&self.job.trigger, self.job.checkpoint, seen);
        if decided == Next::Read {
            // While a tick is read, lanes ring when they are done; while following, time has to be watched.
            let due = self.job.checkpoint.saturating_sub(now.since(since));
            // When it is over, the first row that comes ends it.
            let wait = if due.is_zero() { self.job.checkpoint / 4 } else { due };
            return Ok(Step::Wait(wait.clamp(Duration::from_millis(1), Duration::from_millis(20))));
        }
        let held_back = decided == Next::Last && self.due.is_some();
        if !seen.changed && !held_back {
            self.after(decided, now, now);
            return Ok(Step::Worked);
        }
        self.marks = self.watermarks();
        self.shared.wants_barrier.store(false, Ordering::Relaxed);
        // Less what was seen, not to zero: a lane may have read on since, and rows that count nowhere would be taken
        // for nothing to commit when the tick is over.
        self.shared.rows_since_barrier.fetch_sub(rows, Ordering::AcqRel);
        if decided != Next::Epoch {
            self.tell(Command::Rest);
        }
        let epoch = self.epoch().next();
        self.met = self.tables.met();
        if following {
            // Before the barrier: no lane can have read a row behind it.
            self.tables.switch(epoch.next());
        }
        self.tell(Command::Barrier(epoch, EpochEnd { at: now, last: decided == Next::Last }));
        self.phase = Phase::Aligning { began: now, then: decided };
        Ok(Step::Worked)
    }

    fn watermarks(&self) -> Vec<Watermark> {
        let now = self.job.clock.now();
        self.shared.boards.values().map(|board| lock(board).watermark(now)).collect()
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.manifest.as_ref().map_or(Epoch::NONE, |m| m.epoch)
    }

    fn align(&mut self, began: Timestamp, then: Next) -> Result<Step> {
        if lock(&self.shared.acks).len() < self.job.lanes.max(1) {
            return Ok(Step::Wait(Duration::from_millis(20)));
        }
        let mut acks = std::mem::take(&mut *lock(&self.shared.acks));
        acks.sort_by_key(|ack| ack.lane);
        if let Some(stray) = acks.iter().find(|ack| ack.epoch != self.epoch().next()) {
            return Err(Error::internal(format!("lane {} acknowledged epoch {}", stray.lane, stray.epoch)));
        }
        self.record(acks, began, then)?;
        self.phase = Phase::Publishing { tries: 1, not_before: began };
        Ok(Step::Worked)
    }

    /// What follows an epoch.
    pub(super) fn after(&mut self, decided: Next, began: Timestamp, now: Timestamp) {
        self.phase = match (decided, &self.job.trigger) {
            (Next::Last, _) => Phase::Ending,
            (Next::Tick, Trigger::Every(every)) => {
                // Ticks keep their grid: a long epoch takes the next free cell, it does not shift the others.
                let period = i64::try_from(every.0.as_micros()).unwrap_or(i64::MAX).max(1);
                Phase::Resting { until: Timestamp((now.0.div_euclid(period) + 1).saturating_mul(period)) }
            }
            // From barrier to barrier: what a commit takes does not make epochs longer.
            _ => Phase::Reading { since: began },
        };
    }
}
