//! [`Process`]: what a simulated process may do to the outside, and what goes wrong when it does.
//!
//! Every call to a store, a source or a sink goes through [`Process::call`]. It may fail before it has an effect or
//! after it (the answer is lost), fail for a while, be slow, or be the last thing that the process ever does.
//!
//! **Invariant:** a dead process has no effect on anything.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use tidemill_model::{Clock, Error, Result, Timestamp};

use super::scenario::Scenario;
use crate::VirtualClock;

/// One process.
#[derive(Debug)]
pub(super) struct Process {
    /// Its number; no two have the same.
    pub(super) number: usize,
    /// Where it runs. One process at a time runs on a machine, as the lock on the state folder has it.
    pub(super) machine: usize,
    clock: Arc<VirtualClock>,
    fails_one_in: u32,
    slow_one_in: u32,
    /// Faults left in the world.
    faults: Arc<AtomicU32>,
    reads: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    random: Rng,
    dead: bool,
    /// Calls until the one that is its last.
    dies_in: Option<u32>,
    fails_until: Timestamp,
    stall: Duration,
    /// What went wrong last, in words.
    last: String,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Works,
    Before,
    After,
}

impl Process {
    /// A process of a scenario; `dies_in` counts the calls to its death.
    #[must_use]
    pub(super) fn new(
        scenario: &Scenario,
        (number, machine): (usize, usize),
        clock: &Arc<VirtualClock>,
        faults: &Arc<AtomicU32>,
        dies_in: Option<u32>,
    ) -> Arc<Process> {
        let random = Rng::with_seed(scenario.seed.wrapping_mul(31).wrapping_add(number as u64));
        let inner = Inner {
            random,
            dead: false,
            dies_in,
            fails_until: Timestamp(i64::MIN),
            stall: Duration::ZERO,
            last: String::new(),
        };
        Arc::new(Process {
            number,
            machine,
            clock: Arc::clone(clock),
            fails_one_in: scenario.fails_one_in,
            slow_one_in: scenario.slow_one_in,
            faults: Arc::clone(faults),
            reads: AtomicU64::new(0),
            inner: Mutex::new(inner),
        })
    }

    /// Calls the outside.
    ///
    /// # Errors
    /// Unavailable, when something goes wrong; whether `effect` happened is then unknown to the caller.
    pub(super) fn call<T>(&self, what: &str, effect: impl FnOnce() -> T) -> Result<T> {
        match self.fate(what) {
            Fate::Works => Ok(effect()),
            Fate::Before => Err(failure(what)),
            Fate::After => {
                effect();
                Err(failure(what))
            }
        }
    }

    /// How long the calls since the last question took.
    #[must_use]
    pub(super) fn take_stall(&self) -> Duration {
        std::mem::take(&mut self.inner().stall)
    }

    /// Counts a pull that brought rows.
    pub(super) fn note_read(&self) {
        self.reads.fetch_add(1, Ordering::Relaxed);
    }

    /// How many pulls brought rows.
    #[cfg(test)]
    pub(super) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Whether calls fail at times.
    #[must_use]
    pub(super) fn may_fail(&self) -> bool {
        self.fails_one_in > 0
    }

    /// Ends its effects.
    pub(super) fn kill(&self) {
        self.inner().dead = true;
    }

    /// Whether it died in a call.
    #[must_use]
    pub(super) fn is_dead(&self) -> bool {
        self.inner().dead
    }

    /// What went wrong last.
    #[must_use]
    pub(super) fn last_fault(&self) -> String {
        self.inner().last.clone()
    }

    fn fate(&self, what: &str) -> Fate {
        let now = self.clock.now();
        let mut inner = self.inner();
        if inner.dead {
            return Fate::Before;
        }
        if let Some(left) = inner.dies_in.as_mut() {
            if *left == 0 {
                inner.dead = true;
                inner.last = format!("died in {what}");
                return if inner.random.bool() { Fate::Before } else { Fate::After };
            }
            *left -= 1;
        }
        if self.slow_one_in > 0 && inner.random.u32(0..self.slow_one_in) == 0 {
            let most = if inner.random.u32(0..10) == 0 { 5_000 } else { 100 };
            let took = Duration::from_millis(inner.random.u64(0..most));
            inner.stall += took;
        }
        if now < inner.fails_until {
            return Fate::Before;
        }
        let fails = self.fails_one_in > 0 && inner.random.u32(0..self.fails_one_in) == 0;
        if !fails || self.faults.load(Ordering::Relaxed) == 0 {
            return Fate::Works;
        }
        self.faults.fetch_sub(1, Ordering::Relaxed);
        let choice = inner.random.u32(0..3);
        inner.last = format!("{what} failed ({choice})");
        match choice {
            0 => Fate::Before,
            1 => Fate::After,
            _ => {
                let outage = Duration::from_millis(inner.random.u64(1..4_000));
                inner.fails_until = now.plus(outage);
                Fate::Before
            }
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failure(what: &str) -> Error {
    Error::io("reach", what, std::io::Error::from(ErrorKind::TimedOut))
}
