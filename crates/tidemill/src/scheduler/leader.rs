//! [`Scheduler`]: leads or waits to lead, tick by tick.
//!
//! **Invariant:** nothing is begun unless the lease is valid at that instant; when it is lost, everything is stopped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidemill_checkpoint::{Acquired, Lease, Pauses};
use tidemill_model::{Error, Kind, Result, Timestamp, Trigger};
use tidemill_runtime::exec::{StopFlag, Views};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::alerts::{Alert, AlertKind, Alerts};
use super::live::LivePipelines;
use crate::Workspace;
use crate::history::{History, RunState};
use crate::runs::{Intervals, News, Slots, Tell, Wants, Worked, Worker};

/// For how long a leader leads unless it renews.
const TTL: Duration = Duration::from_secs(15);
/// A pause without a leader up to this long is none: nothing that was due in it counts as missed.
const PAUSE: Duration = Duration::from_secs(300);
/// How soon who does not lead asks again.
const ASK: Duration = Duration::from_secs(2);
/// How soon a pipeline is tried again that could not be worked on, the first time; then twice as long each time.
const AGAIN: Duration = Duration::from_secs(10);
/// And at most.
const MOST: Duration = Duration::from_secs(300);
/// How often pauses are read, and what other processes may have done is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// How often a pipeline that is triggered by others is looked at, whether or not they were run here.
const FOLLOW: Duration = Duration::from_secs(30);

/// A scheduler of a project.
pub struct Scheduler {
    workspace: Arc<Workspace>,
    tell: Arc<dyn Tell>,
    history: Option<History>,
    slots: Arc<Slots>,
    holder: String,
    alerts: Alerts,
    live: LivePipelines,
    pipelines: BTreeMap<String, Watched>,
    pauses: Pauses,
    /// Pipelines that are paused, and when that was read.
    paused: (Vec<String>, Option<Timestamp>),
    lease: Option<Lease>,
    /// When it was last looked for what is late.
    watched_at: Option<Timestamp>,
    /// Who led when this one asked last.
    leader: Option<String>,
}

/// A pipeline with intervals.
struct Watched {
    intervals: Arc<Intervals>,
    /// When it is looked at next.
    wake: Timestamp,
    /// How often in a row it could not be worked on.
    broken: u32,
    working: Option<(JoinHandle<Result<Worked>>, StopFlag)>,
}

/// What a tick found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticked {
    /// Whether this process leads; otherwise who does.
    pub leads: bool,
    /// The leader, when it is another one.
    pub leader: Option<String>,
    /// When there is something to do again.
    pub next: Timestamp,
    /// How many pipelines are being worked on.
    pub working: usize,
}

impl Scheduler {
    /// A scheduler of a project. `holder` names the process, and no other start of it.
    ///
    /// # Errors
    /// Plan and Config: everything in the pipelines that keeps one of them from being run.
    pub fn new(
        workspace: Arc<Workspace>,
        holder: &str,
        history: Option<History>,
        tell: Arc<dyn Tell>,
        views: Arc<Views>,
    ) -> Result<Scheduler> {
        let (mut pipelines, mut live, mut errors) = (BTreeMap::new(), Vec::new(), Vec::new());
        let never = Timestamp(i64::MIN);
        for pipeline in workspace.catalog.project().pipelines.values() {
            match Intervals::of(&workspace, pipeline) {
                Ok(Some(intervals)) => {
                    let watched = Watched { intervals: Arc::new(intervals), wake: never, broken: 0, working: None };
                    pipelines.insert(pipeline.name.clone(), watched);
                }
                Ok(None) if pipeline.trigger != Trigger::Once => live.push(pipeline.name.clone()),
                Ok(None) => {}
                Err(error) => errors.push(error),
            }
        }
        if let Some(error) = Error::all(errors) {
            return Err(error);
        }
        let config = &workspace.catalog.project().config;
        let (store, clock) = (Arc::clone(&workspace.store), Arc::clone(&workspace.clock));
        let slots = Slots::new(config.slots, Arc::clone(&store), config.pools.clone(), holder, Arc::clone(&clock));
        Ok(Scheduler {
            slots,
            alerts: Alerts::new(config.alerts.clone(), Arc::clone(&tell)),
            live: LivePipelines::new(Arc::clone(&workspace), live, Arc::clone(&tell), views),
            pauses: Pauses::new(store),
            paused: (Vec::new(), None),
            holder: holder.to_owned(),
            lease: None,
            watched_at: None,
            leader: None,
            workspace,
            tell,
            history,
            pipelines,
        })
    }

    /// The pipelines that are run by intervals, and those that are live.
    #[must_use]
    pub fn pipelines(&self) -> (Vec<&str>, Vec<&str>) {
        (self.pipelines.keys().map(String::as_str).collect(), self.live.names())
    }

    /// Does what is to be done now.
    ///
    /// # Errors
    /// Corrupt, when the lease cannot be read; what pipelines fail with is told, and they are tried again.
    pub async fn tick(&mut self) -> Result<Ticked> {
        let now = self.workspace.clock.now();
        if !self.lead(now)? {
            self.collect(now).await;
            let working = self.pipelines.values().filter(|watched| watched.working.is_some()).count();
            return Ok(Ticked { leads: false, leader: self.leader.clone(), next: now.plus(ASK), working });
        }
        self.read_pauses(now);
        self.collect(now).await;
        self.begin(now);
        self.live.keep(now, &self.paused.0);
        self.watch_lateness(now);
        let renew = now.plus(TTL / 3);
        let wakes = self.pipelines.iter().filter(|(name, watched)| watched.working.is_none() && !self.is_paused(name));
        let next = wakes.map(|(_, watched)| watched.wake).chain(self.live.wake(&self.paused.0)).min().unwrap_or(renew);
        let working = self.pipelines.values().filter(|watched| watched.working.is_some()).count();
        Ok(Ticked { leads: true, leader: None, next: next.min(renew).max(now), working })
    }

    /// Waits until a pipeline that is worked on has ended, if any is.
    pub async fn one_ended(&mut self) {
        let working = self.pipelines.values_mut().filter_map(|watched| watched.working.as_mut());
        let handles = working.map(|(handle, _)| {
            Box::pin(async move {
                while !handle.is_finished() {
                    tokio::time::sleep(Duration::from_millis(5)).await
                }
            })
        });
        let handles: Vec<_> = handles.collect();
        if !handles.is_empty() {
            futures::future::select_all(handles).await;
        }
    }

    /// Stops everything after the steps in hand, and gives the lease back.
    pub async fn stop(&mut self) {
        self.stop_all();
        self.live.stop().await;
        let now = self.workspace.clock.now();
        for watched in self.pipelines.values_mut() {
            if let Some((handle, _)) = watched.working.take() {
                let _ = handle.await;
            }
        }
        if let Some(lease) = self.lease.take() {
            // What is not given back runs out.
            let _ = lease.release(now);
        }
    }

    fn stop_all(&mut self) {
        self.pipelines.values().filter_map(|watched| watched.working.as_ref()).for_each(|(_, stop)| stop.stop());
        self.live.ask_to_stop();
    }

    /// Whether this process leads now; takes or renews the lease.
    fn lead(&mut self, now: Timestamp) -> Result<bool> {
        if let Some(lease) = &mut self.lease {
            let renewed = if lease.until().since(now) < TTL * 2 / 3 {
                lease.renew(self.workspace.clock.as_ref())
            } else {
                Ok(())
            };
            match renewed {
                Ok(()) => {}
                Err(error) if error.kind() == Kind::Fenced => {
                    self.tell.tell(&News::Note(format!("! this process no longer leads: {error}")));
                    self.lease = None;
                    self.stop_all();
                }
                Err(error) => self.tell.tell(&News::Note(format!("! the lease cannot be renewed: {error}"))),
            }
            if self.lease.as_ref().is_some_and(|lease| lease.is_valid(now)) {
                return Ok(true);
            }
            // Nobody else may lead before it has run out, and by then nothing of this process goes on.
            self.stop_all();
            if self.lease.is_some() {
                return Ok(false);
            }
        }
        let store = Arc::clone(&self.workspace.store);
        match Lease::try_acquire(store, "scheduler", &self.holder, TTL, PAUSE, now) {
            Ok(Acquired::Held(lease)) => {
                self.leader = None;
                self.lease = Some(lease);
                self.pipelines.values_mut().for_each(|watched| watched.wake = now);
                Ok(true)
            }
            Ok(Acquired::HeldBy(view)) => {
                self.leader = Some(view.holder);
                Ok(false)
            }
            Err(error) if error.kind() == Kind::Unavailable => {
                self.tell.tell(&News::Note(format!("! it cannot be asked who leads: {error}")));
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn is_paused(&self, name: &str) -> bool {
        self.paused.0.iter().any(|paused| paused == name)
    }

    fn read_pauses(&mut self, now: Timestamp) {
        if self.paused.1.is_some_and(|read| now.since(read) < LOOK && now >= read) {
            return;
        }
        match self.pauses.all() {
            Ok(all) => {
                let names: Vec<String> = all.into_iter().map(|pause| pause.pipeline).collect();
                for (name, watched) in &mut self.pipelines {
                    if self.paused.0.contains(name) && !names.contains(name) {
                        watched.wake = now;
                    }
                }
                self.paused = (names, Some(now));
            }
            Err(error) => self.tell.tell(&News::Note(format!("! it cannot be read what is paused: {error}"))),
        }
    }

    /// Takes note of what has ended.
    async fn collect(&mut self, now: Timestamp) {
        let mut advanced = Vec::new();
        for (name, watched) in &mut self.pipelines {
            if !watched.working.as_ref().is_some_and(|(handle, _)| handle.is_finished()) {
                continue;
            }
            let Some((handle, _)) = watched.working.take() else { continue };
            let worked =
                handle.await.unwrap_or_else(|e| Err(Error::internal("a pipeline's work was cut off").because(e)));
            match worked {
                Ok(worked) => {
                    watched.broken = 0;
                    watched.wake = worked.next.unwrap_or(Timestamp(i64::MAX));
                    if watched.intervals.schedule.is_none() {
                        watched.wake = watched.wake.min(now.plus(FOLLOW));
                    }
                    if !worked.done.is_empty() {
                        advanced.push(name.clone());
                    }
                    let given_up = worked.failed.iter().filter(|(interval, _)| !worked.again.contains(interval));
                    for (interval, error) in given_up.filter(|(_, error)| error.code() != "U030") {
                        self.alerts.raise(Alert::failed(name, *interval, error), now);
                    }
                }
                Err(error) => {
                    let wait = AGAIN.saturating_mul(1 << watched.broken.min(5)).min(MOST);
                    watched.broken += 1;
                    watched.wake = now.plus(wait);
                    // Another process runs it: that is nobody's fault, and it is looked at again.
                    if error.kind() == Kind::Fenced {
                        self.tell.tell(&News::Note(format!(". {name} waits: {error}")));
                    } else {
                        self.alerts.raise(Alert::broken(name, &error), now);
                    }
                }
            }
        }
        let follows = |watched: &Watched| advanced.iter().any(|name| watched.intervals.upstream.contains(name));
        self.pipelines
            .values_mut()
            .filter(|watched| follows(watched))
            .for_each(|watched| watched.wake = watched.wake.min(now));
    }

    /// Begins to work on what is to be looked at.
    fn begin(&mut self, now: Timestamp) {
        let Some(since) = self.lease.as_ref().map(Lease::since) else { return };
        let paused = self.paused.0.clone();
        for (name, watched) in &mut self.pipelines {
            if watched.working.is_some() || watched.wake > now || paused.contains(name) {
                continue;
            }
            let resumed = match self.pauses.resumed_at(name) {
                Ok(resumed) => resumed,
                Err(error) => {
                    self.tell.tell(&News::Note(format!("! {name}: {error}")));
                    watched.wake = now.plus(AGAIN);
                    continue;
                }
            };
            let wants = Wants::Due { watched: resumed.map_or(since, |resumed| resumed.max(since)), catchup: None };
            let stop = StopFlag::default();
            let (workspace, intervals) = (Arc::clone(&self.workspace), Arc::clone(&watched.intervals));
            let (tell, history, slots) = (Arc::clone(&self.tell), self.history.clone(), Arc::clone(&self.slots));
            let (flag, holder) = (stop.clone(), self.holder.clone());
            // On a thread of its own: whatever a run waits for, the lease is renewed meanwhile.
            let handle = Handle::current();
            let work = tokio::task::spawn_blocking(move || {
                let worker = Worker {
                    workspace: &workspace,
                    intervals: &intervals,
                    tell,
                    history,
                    slots,
                    stop: flag,
                    holder,
                    concurrency: None,
                    patient: false,
                };
                handle.block_on(worker.work(wants))
            });
            watched.working = Some((work, stop));
        }
    }

    /// Raises what is late beyond what was promised, and what does not end.
    fn watch_lateness(&mut self, now: Timestamp) {
        let Some(since) = self.lease.as_ref().map(Lease::since) else { return };
        if self.watched_at.is_some_and(|at| now.since(at) < LOOK && now >= at) {
            return;
        }
        self.watched_at = Some(now);
        let project = Arc::clone(&self.workspace.catalog);
        for (name, watched) in &self.pipelines {
            let Ok(pipeline) = project.project().pipeline(name) else { continue };
            if self.is_paused(name) {
                continue;
            }
            let Some(latency) = pipeline.latency else { continue };
            let Ok(record) = self.workspace.checkpoints(name).latest() else { continue };
            let micros = i64::try_from(latency.as_micros()).unwrap_or(i64::MAX);
            let outlook = watched.intervals.outlook(record.as_ref(), Timestamp(now.0.saturating_sub(micros)));
            let last = outlook.due().and_then(|due| watched.intervals.grid.cell_containing(Timestamp(due.end.0 - 1)));
            // What was late before anybody watched is a matter of catching up.
            let Some(cell) = last.filter(|cell| cell.end.plus(latency) > since) else { continue };
            let is_done = record.as_ref().is_some_and(|record| record.ledger.contains(cell));
            if !is_done && self.alerts.asks(AlertKind::Late, name, Some(cell)) {
                self.alerts.raise(Alert::late(name, cell, latency, now), now);
            }
        }
        for (name, is, asked) in self.live.slow() {
            self.alerts.raise(Alert::slow(&name, is, asked), now);
        }
        let Some(history) = &self.history else { return };
        if !self.alerts.looks_for_stuck(now) {
            return;
        }
        for (name, _) in self.pipelines.iter().filter(|(_, watched)| watched.working.is_some()) {
            let running = history.newest(Some(name), 20).unwrap_or_default();
            let mut took = history.took(name, 20).unwrap_or_default();
            took.sort_unstable();
            let usual = took.get(took.len() / 2).copied().unwrap_or_default();
            for run in running.iter().filter(|run| run.state == RunState::Running && run.holder == self.holder) {
                let so_far = now.since(run.begun);
                if so_far >= self.alerts.stuck_after().max(usual * 3) {
                    self.alerts.raise(Alert::stuck(name, run, so_far, usual), now);
                }
            }
        }
    }
}
