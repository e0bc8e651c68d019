//! How a step comes to stand: an epoch is taken, prepared, recorded and published.
//!
//! **Invariant:** all of it happens under the runner's lock; a failure is an epoch too, in which nothing is written.

use std::collections::{BTreeMap, BTreeSet};

use tidemill_checkpoint::{Counters, Gone, Manifest, OpenRun, RunFailure, SinkState, Stale, StepDone};
use tidemill_model::{Epoch, Error, Interval, Kind, Result, Timestamp};
use tidemill_runtime::{Committable, DeadLetter, Filed, dead_letter_batch, ipc};

use super::super::provider::SPLIT_VANISHED;
use super::super::reading::STOPPED;
use super::super::sinks::{Target, entry};
use super::gone::{SOURCE_GONE, SOURCE_SILENT};
use super::making::{Head, Made, Making};
use super::programs::StepEvent;
use super::runner::{RetryAt, Runner};
use super::settle::recommit;
use super::steps::{Step, Work};

/// Whether a failed attempt counts as one: what the project says must be mended before anything was tried, a pipeline that
/// another process owns is not ours to write about, and who stops a run has a reason.
pub(super) fn is_worth_a_record(error: &Error) -> bool {
    !matches!(error.kind(), Kind::Config | Kind::Plan | Kind::Fenced) && error.code() != STOPPED
}

/// What the manifest of a step says beside the run.
#[derive(Default)]
struct Entry {
    counters: Counters,
    sink: Option<(String, Vec<Committable>)>,
    tables: BTreeMap<String, tidemill_checkpoint::TableMet>,
}

impl Making<'_> {
    /// What the programs that are done gave.
    pub(super) fn values(&self) -> BTreeMap<String, String> {
        let steps = self.run.steps.iter();
        steps.filter_map(|(name, done)| Some((name.clone(), done.value.clone()?))).collect()
    }
}

impl Runner<'_> {
    /// Makes what a step computed stand.
    pub(super) async fn stand(&self, making: &mut Making<'_>, step: &Step<'_>, made: Made) -> Result<()> {
        let mut head = self.head.lock().await;
        self.settle(&mut head)?;
        let interval = making.run.interval;
        if let Made::Rows(staged) = &made {
            let looks_back = staged.report.read_from.is_none_or(|from| from < interval.start);
            making.looks_back |= looks_back && staged.report.whole_because.is_none();
            if let Work::Insert { reads, .. } = &step.work {
                let of = if staged.report.whole_because.is_some() { &mut making.over_all } else { &mut making.in_part };
                of.extend(reads.iter().cloned());
            }
        }
        let others = self.steps.iter().filter(|other| other.name != step.name);
        if making.looks_back && others.into_iter().all(|other| making.run.steps.contains_key(other.name.as_ref())) {
            // Before the last step stands: a mark too many costs a run, one too few costs rows.
            self.mark_those_after(&mut head, interval).await?;
        }
        let epoch = head.latest.as_ref().map_or(Epoch::NONE, |manifest| manifest.epoch).next();
        let mut done = StepDone {
            epoch,
            fingerprint: step.fingerprint.clone(),
            heard: BTreeSet::new(),
            rows: 0,
            at: self.context.clock.now(),
            value: None,
        };
        let (mut entry, mut report, mut target, mut turn) = (Entry::default(), None, None, None);
        let (mut warnings, mut size) = (Vec::new(), None);
        match made {
            Made::Value(value) => done.value = value,
            Made::Judged { warnings: found, rows } => {
                warnings = found;
                size = Some(rows);
            }
            Made::Rows(staged) => {
                let staged = *staged;
                let committables = staged.written.prepare(epoch).await?;
                turn = staged.turn;
                let mut owners: BTreeMap<(String, bool), Interval> =
                    staged.findings.heard.iter().map(|name| ((name.clone(), false), interval)).collect();
                owners.insert((staged.report.name.clone(), true), staged.report.letters_of(interval));
                let rerun = making.run.generation.0 > 1 || !making.run.wrote.is_empty() || making.run.failed > 0;
                self.dead_letters(epoch, interval, &owners, staged.findings.dead, rerun)?;
                entry.counters = staged.findings.counters;
                entry.counters.rows_written = staged.report.rows;
                entry.sink = Some((staged.target.name.clone(), committables.clone()));
                entry.tables = staged.tables;
                done.rows = staged.report.rows;
                done.heard = staged.findings.heard;
                size = staged.report.whole_because.is_none().then_some(staged.report.rows);
                warnings = staged.warnings;
                warnings.extend(making.lacks.warnings.remove(step.name.as_ref()).unwrap_or_default());
                (report, target) = (Some(staged.report), Some((staged.target, committables)));
            }
        }
        let mut run = making.run.clone();
        run.failure = None;
        if target.is_some() {
            run.wrote.insert(step.name.to_string());
        }
        run.steps.insert(step.name.to_string(), done);
        let mut manifest = self.manifest(&head, epoch, (&run, making), &entry);
        if let Some(rows) = size {
            manifest.note_size(&step.name, interval, rows);
        }
        self.context.checkpoints.create(&manifest)?;
        head.latest = Some(manifest.clone());
        head.published = false;
        making.epoch = epoch;
        making.counters.add(&entry.counters);
        making.targets.extend(report);
        making.run = run;
        if let Some((target, committables)) = &target {
            publish(target, epoch, committables)?;
        }
        self.context.checkpoints.mark_published(&manifest)?;
        head.published = true;
        drop(turn);
        self.context.checkpoints.prune(&manifest)?;
        let given = making.run.steps.get(step.name.as_ref());
        let (rows, value) = given.map_or((0, None), |done| (done.rows, done.value.as_deref()));
        making.watcher.step(&step.name, &StepEvent::Done { rows, value, warnings: &warnings });
        making.warnings.extend(warnings);
        Ok(())
    }

    /// Records that an attempt failed, with when it is tried again. Where a step is on record and could not be published,
    /// nothing is: whoever comes next publishes it first.
    pub(super) async fn record_failure(
        &self,
        making: &mut Making<'_>,
        failures: &[(String, Error)],
        retry: RetryAt<'_>,
    ) -> Result<()> {
        let Some((step, error)) = failures.first() else { return Ok(()) };
        let mut head = self.head.lock().await;
        if !head.published {
            return Ok(());
        }
        making.run.failed += 1;
        // All must be worth another try: one that is not fails again.
        let retries = failures.iter().map(|(_, error)| retry(making.run.failed, making.run.begun_at, error));
        let retry_at = retries.collect::<Option<Vec<_>>>().and_then(|times| times.into_iter().max());
        making.run.failure = Some(RunFailure {
            step: step.clone(),
            code: error.code().to_owned(),
            message: error.message().to_owned(),
            at: self.context.clock.now(),
            retry_at,
        });
        let epoch = head.latest.as_ref().map_or(Epoch::NONE, |manifest| manifest.epoch).next();
        let manifest = self.manifest(&head, epoch, (&making.run, making), &Entry::default());
        self.record(&mut head, manifest)
    }

    /// Publishes the newest manifest where that failed before.
    fn settle(&self, head: &mut Head) -> Result<()> {
        if let (false, Some(latest)) = (head.published, &head.latest) {
            let engine = self.engine()?;
            recommit(self.catalog, &engine, self.pipeline, latest, &self.context.checkpoints)?;
            head.published = true;
        }
        Ok(())
    }

    /// The manifest in which a step stands, and with it the interval when it was the last one.
    fn manifest(
        &self,
        head: &Head,
        epoch: Epoch,
        (run, making): (&OpenRun, &Making<'_>),
        entry_of: &Entry,
    ) -> Manifest {
        let mut manifest = self.next_manifest(head, epoch);
        manifest.counters.add(&entry_of.counters);
        let sinks = entry_of.sink.iter().map(|(name, committables)| {
            let committables = committables.iter().map(|committable| committable.0.clone()).collect();
            (entry(name, run.interval), SinkState { committables })
        });
        manifest.sinks = sinks.collect();
        manifest.tables.extend(entry_of.tables.clone());
        if self.is_whole(run) {
            let by = run.by.clone().unwrap_or_else(|| self.fingerprint());
            manifest.ledger.record(run.interval, run.generation, &by);
            manifest.runs.remove(run.interval);
            if making.reads_all {
                manifest.stale.clear(run.interval);
            }
            if let Some(known) = run.from_what_is_left {
                self.forget_gone(&mut manifest.gone, (run.interval, known), making);
            }
        } else {
            manifest.runs.put(run.clone());
        }
        // What looks have found since it began, for it and for others.
        for mark in Runner::came_after(head, making.look) {
            if !manifest.stale.overlaps(mark.interval) {
                manifest.stale.mark(mark.interval, mark.rows, &mark.datasets.join(", "), mark.since);
            }
        }
        manifest
    }

    /// Leaves off the record what is gone of an interval that was computed without it, and of what only results over all
    /// rows are computed from.
    fn forget_gone(&self, gone: &mut Gone, (interval, known): (Interval, Epoch), making: &Making<'_>) {
        let all = Interval { start: Timestamp(i64::MIN), end: Timestamp(i64::MAX) };
        for dataset in &self.watched {
            let was_kept = |step: &Step<'_>| making.kept.iter().any(|name| *name == step.name);
            let reads = |step: &Step<'_>| matches!(&step.work, Work::Insert { reads, .. } if reads.contains(dataset));
            let kept = self.steps.iter().any(|step| was_kept(step) && reads(step));
            let over_all = !kept && making.over_all.contains(dataset) && !making.in_part.contains(dataset);
            gone.forget(dataset, if over_all { all } else { interval }, known);
        }
    }

    /// Whether all steps of a run are done.
    fn is_whole(&self, run: &OpenRun) -> bool {
        self.steps.iter().all(|step| run.steps.contains_key(step.name.as_ref()))
    }

    /// Records which intervals lack rows and what is gone; `back` when runs that were refused for it may go on.
    pub(super) fn record_look(&self, head: &mut Head, stale: Stale, gone: Gone, back: bool) -> Result<()> {
        self.settle(head)?;
        let epoch = head.latest.as_ref().map_or(Epoch::NONE, |manifest| manifest.epoch).next();
        let mut manifest = self.next_manifest(head, epoch);
        manifest.stale = stale;
        manifest.gone = gone;
        if back {
            manifest.runs.retry(&[SOURCE_GONE, SOURCE_SILENT, SPLIT_VANISHED], self.context.clock.now());
        }
        self.record(head, manifest)
    }

    fn next_manifest(&self, head: &Head, epoch: Epoch) -> Manifest {
        let now = self.context.clock.now();
        let first = || Manifest::first(&self.pipeline.name, Epoch::NONE, now);
        let mut manifest = head.latest.clone().unwrap_or_else(first);
        manifest.epoch = epoch;
        manifest.committed_at = now;
        manifest.seen = head.seen.clone();
        manifest.sinks.clear();
        manifest
    }

    /// Creates a manifest that no target has to hear of.
    fn record(&self, head: &mut Head, manifest: Manifest) -> Result<()> {
        self.context.checkpoints.create(&manifest)?;
        head.published = false;
        let manifest = head.latest.insert(manifest);
        self.context.checkpoints.mark_published(manifest)?;
        head.published = true;
        self.context.checkpoints.prune(manifest)
    }

    /// Writes the dead letters of each dataset, those of records that were read and those of rows that were on their way to
    /// it apart, for the interval that they belong to; after a rerun also where there are none any more.
    fn dead_letters(
        &self,
        epoch: Epoch,
        interval: Interval,
        owners: &BTreeMap<(String, bool), Interval>,
        dead: Vec<DeadLetter>,
        rerun: bool,
    ) -> Result<()> {
        let mut by_owner: BTreeMap<(String, bool), Vec<DeadLetter>> = BTreeMap::new();
        for (owner, owned) in owners {
            if rerun || *owned != interval {
                by_owner.insert(owner.clone(), Vec::new());
            }
        }
        for letter in dead {
            by_owner.entry((letter.dataset.clone(), letter.is_of_statement())).or_default().push(letter);
        }
        let now = self.context.clock.now();
        for (owner, mut letters) in by_owner {
            let Some(owned) = owners.get(&owner) else { continue };
            let (dataset, written) = owner;
            letters.sort_by(|a, b| (&a.split, a.position, &a.raw).cmp(&(&b.split, b.position, &b.raw)));
            let filed: Vec<Filed> = letters.into_iter().map(Filed::from).collect();
            let batch = dead_letter_batch(&filed, &self.pipeline.name, epoch.0, now.0)?;
            let bytes = ipc::encode_batch(&batch)?;
            self.context.checkpoints.write_interval_dead_letters(&dataset, epoch, (*owned, written), &bytes)?;
        }
        Ok(())
    }
}

fn publish(target: &Target, epoch: Epoch, committables: &[Committable]) -> Result<()> {
    target.commit(epoch, committables).map_err(|e| {
        e.fact("the step is on record; running the pipeline again, in any way, finishes its publication first")
    })
}
