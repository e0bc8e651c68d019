//! [`VirtualClock`]: time that a test moves.
//!
//! **Invariant:** it never goes back.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tidemill_model::{Clock, Timestamp};

/// A clock that stands still until it is moved on.
#[derive(Debug)]
pub struct VirtualClock(AtomicI64);

impl VirtualClock {
    /// A clock that shows this instant.
    #[must_use]
    pub fn at(instant: Timestamp) -> VirtualClock {
        VirtualClock(AtomicI64::new(instant.0))
    }

    /// Moves it on.
    pub fn advance(&self, span: Duration) {
        self.0.fetch_add(i64::try_from(span.as_micros()).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// Moves it on to an instant, unless it shows a later one.
    pub fn advance_to(&self, instant: Timestamp) {
        self.0.fetch_max(instant.0, Ordering::Relaxed);
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::Relaxed))
    }
}
