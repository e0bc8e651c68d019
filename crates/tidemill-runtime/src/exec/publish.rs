//! How an epoch becomes durable and visible: what lanes staged is written, the manifest created, sinks commit, views are
//! published.
//!
//! **Invariant:** nothing of an epoch is seen before its manifest is there, and everything of it is afterwards, whoever
//! finishes it.

use std::sync::Arc;
use std::time::Duration;

use tidemill_checkpoint::{Manifest, switch};
use tidemill_model::{Error, Kind, Result, SplitId, Timestamp, Watermark};

use super::board::Holder;
use super::command::Ack;
use super::coordinator::{Again, Coordinator, Phase, Step};
use super::exchange::lock;
use super::persist::{Draft, draft};
use super::progress::SplitStatus;
use super::ticks::Next;
use crate::{Committable, NodeKind};

/// How often a sink's commit is tried before the job gives up, and the first pause; each further one is twice as long.
const COMMIT_TRIES: u32 = 6;
const COMMIT_PAUSE: Duration = Duration::from_millis(100);
/// How many files of old state are removed behind each epoch: one comes with each.
const PRUNED: usize = 3;

/// An epoch whose manifest exists and whose sinks have still to publish it.
pub(super) struct Recorded {
    manifest: Manifest,
    acks: Vec<Ack>,
    began: Timestamp,
    then: Next,
    state_bytes: u64,
}

impl Coordinator {
    /// Writes what lanes staged and creates the manifest: from here on the epoch has happened.
    pub(super) fn record(&mut self, mut acks: Vec<Ack>, began: Timestamp, then: Next) -> Result<()> {
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
    pub(super) fn publish_epoch(&mut self, tries: u32, not_before: Timestamp) -> Result<Step> {
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
        let (then, began) = (recorded.then, recorded.began);
        self.finish_epoch(*recorded)?;
        self.after(then, began, self.job.clock.now());
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
        let visible = self.job.clock.now();
        self.report_offsets(&acks);
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
        self.job.checkpoints.prune_some(&manifest, PRUNED)?;
        self.manifest = Some(manifest);
        Ok(())
    }

    pub(super) fn reached_probe(&mut self, step: &'static str) -> Result<()> {
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
