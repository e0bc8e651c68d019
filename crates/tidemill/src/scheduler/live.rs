//! [`LivePipelines`]: the pipelines of a project that have no intervals, each on a thread of its own for as long as this
//! process leads.
//!
//! **Invariant:** one that fails is begun again, later each time, and says why; one that is paused ends after its epoch.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidemill_model::{Error, Result, Schedule, Timestamp, Trigger};
use tidemill_runtime::exec::{Progress, StopFlag, Views};
use tokio::task::JoinHandle;

use crate::Workspace;
use crate::engine::{Live, RunOptions};
use crate::runs::{News, Tell};

const AGAIN: Duration = Duration::from_secs(2);
const MOST: Duration = Duration::from_secs(300);

/// The live pipelines of a project.
pub(super) struct LivePipelines {
    workspace: Arc<Workspace>,
    tell: Arc<dyn Tell>,
    views: Arc<Views>,
    all: Vec<One>,
}

struct One {
    name: String,
    /// When its looks are, if it reads to the present end at each look rather than following.
    schedule: Option<Schedule>,
    running: Option<(JoinHandle<Result<()>>, StopFlag)>,
    /// What it shows, once it runs.
    progress: Arc<Mutex<Option<Arc<Progress>>>>,
    failures: u32,
    wake: Timestamp,
}

impl One {
    fn shown(&self) -> MutexGuard<'_, Option<Arc<Progress>>> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LivePipelines {
    pub(super) fn new(
        workspace: Arc<Workspace>,
        names: Vec<String>,
        tell: Arc<dyn Tell>,
        views: Arc<Views>,
    ) -> LivePipelines {
        let schedule = |name: &str| match workspace.catalog.project().pipeline(name).map(|pipeline| &pipeline.trigger) {
            Ok(Trigger::Scheduled(schedule)) => Some(schedule.as_ref().clone()),
            _ => None,
        };
        let all = names.into_iter().map(|name| One {
            schedule: schedule(&name),
            name,
            running: None,
            progress: Arc::default(),
            failures: 0,
            wake: Timestamp(i64::MIN),
        });
        LivePipelines { all: all.collect(), workspace, tell, views }
    }

    pub(super) fn names(&self) -> Vec<&str> {
        self.all.iter().map(|one| one.name.as_str()).collect()
    }

    /// When the next of them is to be begun.
    pub(super) fn wake(&self, paused: &[String]) -> Option<Timestamp> {
        let waiting = self.all.iter().filter(|one| one.running.is_none() && !paused.contains(&one.name));
        waiting.map(|one| one.wake).min()
    }

    /// Begins those that do not run and are due, and notes those that have ended.
    pub(super) fn keep(&mut self, now: Timestamp, paused: &[String]) {
        for one in &mut self.all {
            let is_paused = paused.contains(&one.name);
            if let Some((handle, stop)) = &one.running {
                if is_paused {
                    stop.stop();
                }
                if !handle.is_finished() {
                    continue;
                }
            }
            if let Some((handle, stop)) = one.running.take() {
                one.shown().take();
                let ended = futures::executor::block_on(handle);
                let ended = ended.unwrap_or_else(|e| Err(Error::internal("a live pipeline was cut off").because(e)));
                one.wake = match (&ended, &one.schedule) {
                    (Err(error), _) => {
                        let wait = AGAIN.saturating_mul(1 << one.failures.min(8)).min(MOST);
                        one.failures += 1;
                        self.tell.tell(&News::Note(format!("x {} failed and begins again: {error}", one.name)));
                        now.plus(wait)
                    }
                    (Ok(()), Some(schedule)) => {
                        one.failures = 0;
                        schedule.next_after(now).unwrap_or(Timestamp(i64::MAX))
                    }
                    // It was asked to end, and goes on when it may.
                    (Ok(()), None) if stop.is_set() => now,
                    // A source with an end of its own has ended: there is nothing more to read.
                    (Ok(()), None) => Timestamp(i64::MAX),
                };
            }
            if is_paused || one.wake > now {
                continue;
            }
            let (workspace, views) = (Arc::clone(&self.workspace), Arc::clone(&self.views));
            let (stop, name) = (StopFlag::default(), one.name.clone());
            let (flag, shown) = (stop.clone(), Arc::clone(&one.progress));
            let work = move || {
                let live = Live::open(&workspace, &name, &RunOptions::default(), &views, &flag)?;
                *shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&live.progress));
                live.run()
            };
            one.running = Some((tokio::task::spawn_blocking(work), stop));
        }
    }

    /// Those whose rows are visible later than was promised: how late, and what was promised.
    pub(super) fn slow(&self) -> Vec<(String, Duration, Duration)> {
        let project = self.workspace.catalog.project();
        let slow = self.all.iter().filter_map(|one| {
            let asked = project.pipeline(&one.name).ok()?.latency?;
            let is = one.shown().as_ref()?.snapshot().latencies.quantile(0.99)?;
            (is > asked).then(|| (one.name.clone(), is, asked))
        });
        slow.collect()
    }

    pub(super) fn ask_to_stop(&self) {
        self.all.iter().filter_map(|one| one.running.as_ref()).for_each(|(_, stop)| stop.stop());
    }

    pub(super) async fn stop(&mut self) {
        self.ask_to_stop();
        for one in &mut self.all {
            if let Some((handle, _)) = one.running.take() {
                let _ = handle.await;
            }
        }
    }
}
