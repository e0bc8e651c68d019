//! [`run`]: drives a [`Dataflow`] with one thread a lane and the coordinator on the calling one.
//!
//! This is the one place where lanes become threads; everything they do is in their steps.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidemill_model::{Error, Result};

use super::coordinator::Step;
use super::exchange::lock;
use super::job::{Dataflow, StopFlag};
use super::lane::Lane;

/// How long an idle lane sleeps at most: sources do not ring, they are asked again.
const IDLE: Duration = Duration::from_millis(2);

/// Runs a dataflow until its trigger, its sources or `stop` end it.
///
/// # Errors
/// The first error of any lane or of the coordinator. Whatever was not committed then is read again by the next run.
pub fn run(dataflow: Dataflow, stop: &StopFlag) -> Result<()> {
    let Dataflow { lanes, mut coordinator, shared } = dataflow;
    coordinator.stop_by(stop.clone());
    let over = AtomicBool::new(false);
    let failure: Mutex<Option<Error>> = Mutex::new(None);
    let fail = |error: Error| {
        lock(&failure).get_or_insert(error);
        over.store(true, Ordering::Release);
        shared.bell.ring();
        shared.lane_bells.iter().for_each(super::exchange::Bell::ring);
    };
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (number, lane) in lanes.into_iter().enumerate() {
            let (over, shared, fail) = (&over, &shared, &fail);
            let body = move || {
                let guard = Panicked { fail, armed: true };
                if let Err(error) = drive(lane, over, |idle| shared.lane_bells[number].wait(idle)) {
                    fail(error);
                }
                guard.disarm();
            };
            let thread = std::thread::Builder::new().name(format!("lane-{number}")).spawn_scoped(scope, body);
            match thread {
                Ok(thread) => threads.push(thread),
                Err(error) => fail(Error::io("start a thread for", format!("lane {number}"), error)),
            }
        }
        let guard = Panicked { fail: &fail, armed: true };
        while !over.load(Ordering::Acquire) {
            match coordinator.step() {
                Ok(Step::Worked) => {}
                Ok(Step::Wait(at_most)) => shared.bell.wait(at_most.min(Duration::from_millis(100))),
                Ok(Step::Ended) => over.store(true, Ordering::Release),
                Err(error) => fail(error),
            }
        }
        guard.disarm();
        shared.lane_bells.iter().for_each(super::exchange::Bell::ring);
        for thread in threads {
            // A panic was recorded by the lane's guard; the join only waits.
            let _ = thread.join();
        }
    });
    match lock(&failure).take() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

fn drive(mut lane: Lane, over: &AtomicBool, wait: impl Fn(Duration)) -> Result<()> {
    while !over.load(Ordering::Acquire) {
        if !lane.step()? {
            wait(IDLE);
        }
    }
    Ok(())
}

/// Turns a panic into an error of the run, so that the other threads do not wait for ever.
struct Panicked<'a, F: Fn(Error)> {
    fail: &'a F,
    armed: bool,
}

impl<F: Fn(Error)> Panicked<'_, F> {
    fn disarm(mut self) {
        self.armed = false;
    }
}

impl<F: Fn(Error)> Drop for Panicked<'_, F> {
    fn drop(&mut self) {
        if self.armed {
            (self.fail)(Error::internal("a part of the run panicked; the message above says where"));
        }
    }
}
