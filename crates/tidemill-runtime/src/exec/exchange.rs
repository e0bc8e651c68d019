//! The exchange: one bounded-by-courtesy [`Queue`] from each lane to each other lane for each hash edge.
//!
//! A push never waits. The bound is kept by the pulling side: a lane reads new rows only while every queue it feeds
//! has room, so one pull's output is the most a queue can exceed its bound by, and lanes cannot block each other.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidemill_model::{Epoch, Watermark};

use crate::Batch;

/// What flows along an edge.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// Rows.
    Rows(Batch),
    /// Time rose.
    Watermark(Watermark),
    /// Whether nothing is to be expected for now.
    Idle(bool),
    /// Everything before belongs to this epoch or an earlier one.
    Barrier(Epoch),
}

/// A lock that goes on after a panic elsewhere: the run fails anyhow, with the panic as its cause.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Events from one lane to another.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    events: Mutex<VecDeque<Event>>,
    batches: AtomicUsize,
}

impl Queue {
    pub(crate) fn push(&self, event: Event) {
        if matches!(event, Event::Rows(_)) {
            self.batches.fetch_add(1, Ordering::Relaxed);
        }
        lock(&self.events).push_back(event);
    }

    pub(crate) fn pop(&self) -> Option<Event> {
        let event = lock(&self.events).pop_front()?;
        if matches!(event, Event::Rows(_)) {
            self.batches.fetch_sub(1, Ordering::Relaxed);
        }
        Some(event)
    }

    /// How many batches wait.
    pub(crate) fn len(&self) -> usize {
        self.batches.load(Ordering::Relaxed)
    }
}

/// Wakes a lane or the coordinator that has nothing to do.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rung: Mutex<bool>,
    signal: Condvar,
}

impl Bell {
    pub(crate) fn ring(&self) {
        *lock(&self.rung) = true;
        self.signal.notify_one();
    }

    /// Waits until rung, or for this long.
    pub(crate) fn wait(&self, at_most: Duration) {
        let rung = lock(&self.rung);
        let (mut rung, _) =
            self.signal.wait_timeout_while(rung, at_most, |rung| !*rung).unwrap_or_else(PoisonError::into_inner);
        *rung = false;
    }
}

/// All queues of one hash edge, by sender and receiver.
#[derive(Debug, Clone)]
pub(crate) struct EdgeQueues {
    lanes: usize,
    queues: Arc<Vec<Queue>>,
}

impl EdgeQueues {
    pub(crate) fn new(lanes: usize) -> EdgeQueues {
        EdgeQueues { lanes, queues: Arc::new((0..lanes * lanes).map(|_| Queue::default()).collect()) }
    }

    pub(crate) fn between(&self, from: usize, to: usize) -> &Queue {
        &self.queues[from * self.lanes + to]
    }
}
