//! [`Simulation`]: steps the lanes and the coordinator of a dataflow on one thread, in an order made up from a seed.
//!
//! What threads might do in some interleaving, a simulation does in one that can be repeated: a lane that sleeps while
//! others race ahead, rows that arrive in the middle of a barrier, a death between any two steps.
//!
//! **Invariant:** no thread, no waiting: time moves only when the simulation moves it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fastrand::Rng;
use tidemill_model::{Clock, Error, Result, Timestamp};
use tidemill_runtime::exec::{Dataflow, Progress, Step, StopFlag};

use crate::VirtualClock;

/// Where a process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// When its commits have done so many steps together.
    AfterCommitSteps(u64),
    /// When it was scheduled so many times.
    AtPoint(u64),
}

/// How a simulated process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// By itself, or because it was asked to once nothing more happened.
    Ended,
    /// It died; the words say where.
    Crashed(String),
}

/// What the world outside did when it had its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outside {
    /// Rows arrived, or may still arrive.
    Goes,
    /// Everything that will ever arrive is there.
    Done,
}

/// One process of a simulated pipeline.
pub struct Simulation<'a> {
    /// The pipeline's clock.
    pub clock: &'a VirtualClock,
    /// Decides who is next.
    pub random: &'a mut Rng,
    /// What the dataflow shows.
    pub progress: &'a Progress,
    /// Set once nothing more happens, so that endless pipelines end.
    pub stop: &'a StopFlag,
    /// How long nothing must happen before that.
    pub settles_in: Duration,
    /// Where it dies, if it does.
    pub crash: Option<Crash>,
}

/// More turns than this is a pipeline that does not come to its end.
const MOST_POINTS: u64 = 3_000_000;

impl Simulation<'_> {
    /// Steps the dataflow to its end, or to its death. `outside` has its turns between the steps.
    ///
    /// # Errors
    /// Whatever the dataflow answers; Internal, when it does not come to its end.
    pub fn run(&mut self, dataflow: Dataflow, outside: &mut dyn FnMut(&mut Rng) -> Result<Outside>) -> Result<Ending> {
        let Dataflow { mut lanes, mut coordinator, .. } = dataflow;
        coordinator.stop_by(self.stop.clone());
        let died = Arc::new(AtomicBool::new(false));
        if let Some(Crash::AfterCommitSteps(after)) = self.crash {
            let (died, mut left) = (Arc::clone(&died), after);
            coordinator.probe_by(Box::new(move |step| {
                left = left.saturating_sub(1);
                if left > 0 {
                    return Ok(());
                }
                died.store(true, Ordering::Relaxed);
                Err(Error::internal(format!("died by the test at `{step}`")))
            }));
        }
        // Some are slow and some are fast, in each simulation others.
        let mut turns = Vec::new();
        for actor in 0..lanes.len() + 2 {
            turns.extend(std::iter::repeat_n(actor, 1 + self.random.usize(0..6)));
        }
        let mut calm = Calm { seen: (0, 0), since: self.clock.now() };
        let mut done = false;
        let mut idle = 0;
        for point in 1..=MOST_POINTS {
            if self.crash == Some(Crash::AtPoint(point)) {
                return Ok(Ending::Crashed(format!("scheduling point {point}")));
            }
            let actor = turns[self.random.usize(0..turns.len())];
            let worked = if actor < lanes.len() {
                lanes[actor].step()?
            } else if actor == lanes.len() {
                match coordinator.step() {
                    Ok(Step::Worked) => true,
                    Ok(Step::Wait(_)) => false,
                    Ok(Step::Ended) => return Ok(Ending::Ended),
                    Err(error) if died.load(Ordering::Relaxed) => return Ok(Ending::Crashed(error.to_string())),
                    Err(error) => return Err(error),
                }
            } else {
                done = outside(self.random)? == Outside::Done;
                false
            };
            idle = if worked { 0 } else { idle + 1 };
            self.pass_time(idle, turns.len());
            if done && point % 16 == 0 {
                self.watch(&mut calm);
            }
        }
        let seen = self.progress.snapshot();
        let message =
            format!("no end after {MOST_POINTS} turns, at epoch {}, {} rows read", seen.epoch, seen.rows_read);
        Err(Error::internal(message))
    }

    /// A turn takes a while; when nobody has work, time passes until somebody has.
    fn pass_time(&mut self, idle: usize, actors: usize) {
        let most = if idle > 3 * actors { 20_000 } else { 500 };
        self.clock.advance(Duration::from_micros(self.random.u64(0..most)));
    }

    fn watch(&mut self, calm: &mut Calm) {
        let now = self.clock.now();
        let snapshot = self.progress.snapshot();
        let seen = (snapshot.epoch.0, snapshot.rows_read);
        if seen != calm.seen {
            *calm = Calm { seen, since: now };
        } else if now.since(calm.since) >= self.settles_in {
            self.stop.stop();
        }
    }
}

/// Since when nothing has happened.
struct Calm {
    seen: (u64, u64),
    since: Timestamp,
}
