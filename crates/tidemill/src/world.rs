//! [`SystemClock`], [`variable`] and [`holder`]: the only places where the process's clock and environment are read.

use std::time::{SystemTime, UNIX_EPOCH};

use tidemill_model::{Clock, Timestamp};

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock that everyone else is given")]
    fn now(&self) -> Timestamp {
        let now = SystemTime::now();
        match now.duration_since(UNIX_EPOCH) {
            Ok(since) => Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX)),
            Err(before) => Timestamp(-i64::try_from(before.duration().as_micros()).unwrap_or(i64::MAX)),
        }
    }
}

/// What names this process and no other start of it: its machine, its number, and when it was asked.
#[must_use]
pub fn holder(now: Timestamp) -> String {
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| variable("HOSTNAME"));
    let machine = machine.as_deref().map_or("localhost", str::trim).to_owned();
    format!("{machine}/{}/{}", std::process::id(), now.0)
}

/// An environment variable, if it is set and text.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the environment that everyone else is given")]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
