//! [`Coordinator`]: decides when epochs end, and makes them durable and visible.
//!
//! The life of an epoch: barriers to all lanes, acknowledgements from all, state and dead letters written, manifest
//! created if absent (the one commit point), sinks committed, views published.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidemill_checkpoint::{Manifest, TableMet, switch};
use tidemill_model::{Epoch, Error, Kind, Result, SplitId, Timestamp, Trigger, Watermark};

use super::board::Holder;
use super::command::{Ack, Command};
use super::exchange::lock;
use super::job::{Job, Shared, StopFlag, all_bounded};
use super::persist::{Draft, draft};
use super::progress::SplitStatus;
use super::rebuild::{Rebuild, gone, too_many_dead};
use super::reentry::{Reentering, too_many};
use super::tables::Tables;
use super::ticks::{Next, Observed, next};
use crate::{Committable, EpochEnd, NodeKind, SinkCommitter, StateMemory};

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
enum Phase {
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

/// How often a sink's commit is tried before the job gives up, and the first pause; each further one is twice as long.
const COMMIT_TRIES: u32 = 6;
const COMMIT_PAUSE: Duration = Duration::from_millis(100);

/// An epoch whose manifest exists and whose sinks have still to publish it.
struct Recorded {
    manifest: Manifest,
    acks: Vec<Ack>,
    began: Timestamp,
    then: Next,
    state_bytes: u64,
}

/// Decides about epochs.
pub struct Coordinator {
    job: Job,
    shared: Arc<Shared>,
    committers: BTreeMap<String, Box<dyn SinkCommitter>>,
    manifest: Option<Manifest>,
    recorded: Option<Box<Recorded>>,
    fingerprints: BTreeMap<String, String>,
    stop: StopFlag,
    phase: Phase,
    tick: u64,
    next_discovery: Timestamp,
    /// Watermarks at the last barrier.
    marks: Vec<Watermark>,
    /// When an epoch shall end though nothing be read: an operator holds rows back until then.
    due: Option<Timestamp>,
    /// Whether the next manifest is the first of this process.
    first: bool,
    /// Operator nodes whose chunks stayed as they were when this process began.
    kept: BTreeSet<String>,
    /// Whether every source ends.
    bounded: bool,
    /// What goes through once more, if that is the job.
    again: Again,
    tables: Tables,
    /// What the rows of the epoch in hand met.
    met: BTreeMap<String, TableMet>,
    /// Called between any two steps of the commit; tests crash there.
    probe: Option<Probe>,
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
            Trigger::Once | Trigger::Every(_) => {
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
            let wait = self.job.checkpoint.min(Duration::from_millis(20));
            return Ok(Step::Wait(wait.max(Duration::from_millis(1))));
        }
        let held_back = decided == Next::Last && self.due.is_some();
        if !seen.changed && !held_back {
            self.after(decided, now);
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

    fn epoch(&self) -> Epoch {
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
    fn after(&mut self, decided: Next, now: Timestamp) {
        self.phase = match (decided, &self.job.trigger) {
            (Next::Last, _) => Phase::Ending,
            (Next::Tick, Trigger::Every(every)) => {
                // Ticks keep their grid: a long epoch takes the next free cell, it does not shift the others.
                let period = i64::try_from(every.0.as_micros()).unwrap_or(i64::MAX).max(1);
                Phase::Resting { until: Timestamp((now.0.div_euclid(period) + 1).saturating_mul(period)) }
            }
            _ => Phase::Reading { since: now },
        };
    }

    /// Writes what lanes staged and creates the manifest: from here on the epoch has happened.
    fn record(&mut self, mut acks: Vec<Ack>, began: Timestamp, then: Next) -> Result<()> {
        let epoch = self.epoch().next();
        self.reached_probe("staged")?;
        if let Some(rebuild) = &self.again.rebuild {
            rebuild.without_known(&mut acks);
        }
        let from = Draft {
            pipeline: &self.job.pipeline,
            fingerprint: &self.job.fingerprint,
            views: &self.job.views,
            fingerprints: &self.fingerprints,
            previous: self.manifest.as_ref().filter(|_| self.again.rebuild.is_none()),
            whole: self.first,
            kept: &self.kept,
            lanes: self.shared.quiet.len(),
            now: self.job.clock.now(),
            errors: self.job.errors,
            reentering: self.again.reentering.as_ref(),
            tables: &self.met,
        };
        let (mut manifest, state_bytes) = draft(&self.job.checkpoints, epoch, &mut acks, &from)?;
        match (&self.again, &self.manifest) {
            (Again { rebuild: Some(rebuild), .. }, Some(record)) => {
                manifest = switch(record, manifest, &rebuild.kept, &rebuild.datasets, &rebuild.from)?;
            }
            (Again { reentering: Some(reentering), .. }, Some(record)) => {
                manifest = reentering.record(&self.job.checkpoints, record, manifest)?;
            }
            _ => self.record_listed_splits(&mut manifest),
        }
        self.reached_probe("state written")?;
        self.job.checkpoints.create(&manifest)?;
        self.reached_probe("manifest created")?;
        self.recorded = Some(Box::new(Recorded { manifest, acks, began, then, state_bytes }));
        Ok(())
    }

    /// Lets every sink publish the recorded epoch, and then everyone else see it.
    fn publish_epoch(&mut self, tries: u32, not_before: Timestamp) -> Result<Step> {
        let now = self.job.clock.now();
        if now < not_before {
            return Ok(Step::Wait(not_before.since(now)));
        }
        let Some(recorded) = self.recorded.take() else {
            return Err(Error::internal("there is no epoch to publish"));
        };
        if let Err(error) = self.commit_sinks(&recorded.manifest) {
            if error.kind() == Kind::Unavailable && tries < COMMIT_TRIES && !self.stop.is_set() {
                let pause = COMMIT_PAUSE * 2_u32.pow(tries - 1);
                self.recorded = Some(recorded);
                self.phase = Phase::Publishing { tries: tries + 1, not_before: now.plus(pause) };
                return Ok(Step::Wait(pause));
            }
            return Err(self.unpublished(error, &recorded.manifest));
        }
        self.reached_probe("sinks committed")?;
        let then = recorded.then;
        self.finish_epoch(*recorded)?;
        self.after(then, self.job.clock.now());
        Ok(Step::Worked)
    }

    fn unpublished(&self, error: Error, manifest: &Manifest) -> Error {
        if error.kind() == Kind::Fenced {
            return error;
        }
        let epoch = manifest.epoch;
        error.fact(format!("epoch {epoch} is on record and complete: the next run commits it first, nothing is lost"))
    }

    fn finish_epoch(&mut self, recorded: Recorded) -> Result<()> {
        let Recorded { manifest, acks, began, state_bytes, .. } = recorded;
        let whole = std::mem::replace(&mut self.first, false);
        self.due = acks.iter().filter_map(|ack| ack.due).min();
        self.publish(&acks, &manifest, whole);
        self.report_offsets(&acks);
        self.job.checkpoints.prune(&manifest)?;
        let visible = self.job.clock.now();
        let sources = self.statuses();
        self.job.progress.update(|p| {
            p.epoch = manifest.epoch;
            p.epochs += 1;
            p.committed_at = Some(visible);
            p.counters = manifest.counters.clone();
            p.commit_took = visible.since(began);
            p.state_bytes = state_bytes;
            p.sources = sources;
            for (arrived, rows) in acks.iter().flat_map(|ack| &ack.arrivals) {
                p.latencies.record(visible.since(*arrived), *rows);
            }
        });
        self.manifest = Some(manifest);
        Ok(())
    }

    fn reached_probe(&mut self, step: &'static str) -> Result<()> {
        match &mut self.probe {
            Some(probe) => probe(step),
            None => Ok(()),
        }
    }

    /// A bounded source is what it was at its first listing, so every listed split is on record. One that no lane has
    /// cut yet counts as unread, whoever has claimed it since: its rows belong to a later epoch.
    fn record_listed_splits(&self, manifest: &mut Manifest) {
        for (number, board) in &self.shared.boards {
            let name = &self.job.graph.nodes[*number].name;
            let progress = manifest.sources.entry(name.clone()).or_default();
            for (id, entry) in &lock(board).entries {
                let split = progress.splits.entry(id.clone()).or_default();
                // For people who ask why time stands: as it is now, which may be a little after the epoch.
                split.finite = entry.split.finite;
                split.idle = entry.idle;
                split.at_end_since = entry.at_end_since;
            }
        }
    }

    fn commit_sinks(&mut self, manifest: &Manifest) -> Result<()> {
        let epoch = manifest.epoch;
        for (name, state) in &manifest.sinks {
            let Some(committer) = self.committers.get_mut(name) else { continue };
            let committables: Vec<_> = state.committables.iter().cloned().map(Committable).collect();
            let committed = committer.commit(epoch, &committables);
            committed.map_err(|error| error.context(format!("committing epoch {epoch} to {name}")))?;
            if let Some(probe) = &mut self.probe {
                probe("sink committed")?;
            }
        }
        Ok(())
    }

    fn publish(&self, acks: &[Ack], manifest: &Manifest, whole: bool) {
        for view in &self.job.views {
            let Some(state) = manifest.views.get(&view.view) else { continue };
            let mut changed = Vec::new();
            for ack in acks {
                for chunk in ack.state.get(&view.node).into_iter().flatten() {
                    changed.push((format!("{}/{}", ack.lane, chunk.name), chunk.rows.clone()));
                }
            }
            let whole = whole && !self.kept.contains(&view.node);
            self.job.published.publish(&view.view, changed, whole, manifest.epoch, state);
        }
    }

    /// Tells sources how far an epoch read, for the outside to see.
    fn report_offsets(&self, acks: &[Ack]) {
        for number in self.shared.boards.keys() {
            let node = &self.job.graph.nodes[*number];
            let NodeKind::Source(source) = &node.kind else { continue };
            let cuts = acks.iter().filter_map(|ack| ack.sources.get(&node.name));
            let offsets: Vec<(SplitId, _)> = cuts
                .flat_map(|cut| &cut.splits)
                .filter_map(|(id, split)| split.offset.clone().map(|offset| (id.clone(), offset)))
                .collect();
            // Only shown to people; progress itself is in the manifest, so a failure here changes nothing.
            let _ = source.source.on_committed(&offsets);
        }
    }

    fn statuses(&self) -> Vec<SplitStatus> {
        let now = self.job.clock.now();
        let status = |(number, board): (&usize, &Arc<std::sync::Mutex<super::board::Board>>)| {
            let mut board = lock(board);
            let watermark = Some(board.watermark(now)).filter(|w| *w > Watermark::MIN);
            let count = |holder: Holder| board.entries.values().filter(|e| e.holder == holder).count();
            SplitStatus {
                source: self.job.graph.nodes[*number].name.clone(),
                total: board.entries.len(),
                waiting: count(Holder::Waiting),
                finished: count(Holder::Nobody),
                idle: board.entries.values().filter(|e| e.idle).count(),
                watermark,
            }
        };
        self.shared.boards.iter().map(status).collect()
    }
}
