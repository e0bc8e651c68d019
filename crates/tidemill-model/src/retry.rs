//! [`RetryPolicy`]: whether a run that failed begins again, and when.
//!
//! **Invariant:** the verdict is a function of what is passed in. Jitter comes from a stable hash, so the same failure
//! has the same answer after a restart.

use std::fmt;
use std::time::Duration;

use crate::hash::stable_hash;
use crate::{Error, Kind, Result, Span, Timestamp, nearest};

/// How often, how soon and after which errors to try again.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// How many more attempts follow the first.
    pub count: u32,
    /// The wait before the first of them.
    pub delay: Duration,
    /// By how much each wait is longer than the one before; 1 or more.
    pub factor: f64,
    /// What no wait exceeds, before its jitter.
    pub max_delay: Option<Duration>,
    /// How waits are spread, so that what failed together does not come back together.
    pub jitter: Jitter,
    /// How long after the first attempt began another may begin.
    pub limit: Option<Duration>,
    /// The kinds of error that are tried again.
    pub on: RetryOn,
}

/// How a wait is spread. `wait` is `delay × factor^(n − 1)` after the n-th failed attempt, `max_delay` at most, and
/// `hash` the stable hash of the seed and n.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Jitter {
    /// `wait`.
    None,
    /// `hash mod (wait + 1 µs)`: between nothing and the whole wait.
    Full,
    /// `wait + hash mod (wait / 2 + 1 µs)`: never less than was asked for, half of it more at most.
    #[default]
    Deterministic,
}

/// What to do after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Begin again at this instant.
    Retry {
        /// The instant.
        at: Timestamp,
    },
    /// Do not begin again, for this reason.
    GiveUp(&'static str),
}

impl RetryPolicy {
    /// What to do once `failed_attempts` attempts have failed, one at least, the last of them `now` with an error of
    /// `kind`. `seed` names the work, so that each pipeline and interval has waits of its own.
    #[must_use]
    pub fn after(
        &self,
        failed_attempts: u32,
        first_begun: Timestamp,
        now: Timestamp,
        kind: Kind,
        seed: &str,
    ) -> Verdict {
        if !self.on.contains(kind) {
            return Verdict::GiveUp("errors of this kind are not retried");
        }
        if failed_attempts > self.count {
            return Verdict::GiveUp("no attempt is left");
        }
        let at = now.plus(self.wait(failed_attempts, seed));
        match self.limit {
            Some(limit) if at > first_begun.plus(limit) => {
                Verdict::GiveUp("the next attempt would begin after the limit")
            }
            _ => Verdict::Retry { at },
        }
    }

    /// Refuses what cannot be meant: a factor below 1, or a longest wait shorter than the first.
    ///
    /// # Errors
    /// Config.
    pub fn check(&self) -> Result<()> {
        if !(self.factor.is_finite() && self.factor >= 1.0) {
            return Err(Error::new(Kind::Config, "C067", format!("waits cannot grow by the factor {}", self.factor))
                .fact("write 1 for equal waits, 2 to double them each time"));
        }
        match self.max_delay.filter(|max| *max < self.delay) {
            Some(max) => {
                let (max, delay) = (Span(max), Span(self.delay));
                Err(Error::new(
                    Kind::Config,
                    "C067",
                    format!("the longest wait, {max}, is shorter than the first, {delay}"),
                ))
            }
            None => Ok(()),
        }
    }

    /// The wait after so many failed attempts. What does not fit into the number saturates.
    fn wait(&self, failed_attempts: u32, seed: &str) -> Duration {
        let most = self.max_delay.map_or(u64::MAX, micros);
        let power = i32::try_from(failed_attempts.saturating_sub(1)).unwrap_or(i32::MAX);
        // A factor that is no number, or less than 1, counts as 1: `check` refuses it where it is written.
        let grown = micros(self.delay) as f64 * self.factor.max(1.0).powi(power);
        let wait = if self.delay.is_zero() { 0 } else { (grown as u64).min(most) };
        let hash = stable_hash(&[seed.as_bytes(), &failed_attempts.to_le_bytes()]);
        Duration::from_micros(match self.jitter {
            Jitter::None => wait,
            Jitter::Full => hash.checked_rem(wait.saturating_add(1)).unwrap_or(0),
            Jitter::Deterministic => wait.saturating_add(hash % (wait / 2 + 1)),
        })
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

impl Jitter {
    /// Reads `none`, `full`, `deterministic`.
    ///
    /// # Errors
    /// Config, when it is none of these.
    pub fn parse(text: &str) -> Result<Jitter> {
        match text.trim().to_ascii_lowercase().as_str() {
            "none" => Ok(Jitter::None),
            "full" => Ok(Jitter::Full),
            "deterministic" => Ok(Jitter::Deterministic),
            other => {
                let error = Error::new(Kind::Config, "C067", format!("`{text}` is no jitter"));
                Err(meant(error, other, &["none", "full", "deterministic"]).fact("jitters: none, full, deterministic"))
            }
        }
    }
}

impl fmt::Display for Jitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Jitter::None => "none",
            Jitter::Full => "full",
            Jitter::Deterministic => "deterministic",
        })
    }
}

/// The kinds of error after which a run is tried again: those that may be gone the next time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryOn {
    unavailable: bool,
    data: bool,
    internal: bool,
}

impl Default for RetryOn {
    /// `unavailable, internal`: a bad record is the same record the next time, unless its source is mended meanwhile.
    fn default() -> RetryOn {
        RetryOn { unavailable: true, data: false, internal: true }
    }
}

/// The kinds that can be retried.
const RETRIED: [&str; 3] = ["unavailable", "data", "internal"];

/// The kinds that cannot, and why.
const REFUSED: [(&str, &str); 4] = [
    ("config", "the project stays wrong until it is changed"),
    ("plan", "the SQL stays wrong until it is changed"),
    ("fenced", "another run owns the work, and one more attempt would take it away from that run"),
    ("corrupt", "the bytes stored stay what they are"),
];

impl RetryOn {
    /// Every kind that can be retried.
    pub const ALL: RetryOn = RetryOn { unavailable: true, data: true, internal: true };

    /// Reads `unavailable, data, internal`, or `all` for every kind that can be retried.
    ///
    /// # Errors
    /// Config, when a word is no kind, or a kind whose errors stay until something is changed.
    pub fn parse(text: &str) -> Result<RetryOn> {
        if text.trim().eq_ignore_ascii_case("all") {
            return Ok(RetryOn::ALL);
        }
        let mut on = RetryOn { unavailable: false, data: false, internal: false };
        for word in text.split(',').map(|word| word.trim().to_ascii_lowercase()) {
            match word.as_str() {
                "unavailable" => on.unavailable = true,
                "data" => on.data = true,
                "internal" => on.internal = true,
                word => return Err(not_retried(word)),
            }
        }
        Ok(on)
    }

    /// Whether errors of the kind are tried again.
    #[must_use]
    pub fn contains(self, kind: Kind) -> bool {
        match kind {
            Kind::Unavailable => self.unavailable,
            Kind::Data => self.data,
            Kind::Internal => self.internal,
            Kind::Config | Kind::Plan | Kind::Fenced | Kind::Corrupt => false,
        }
    }
}

fn not_retried(word: &str) -> Error {
    let kinds = "kinds of error: unavailable, data, internal, or all of these by `all`";
    match REFUSED.iter().find(|(name, _)| *name == word) {
        Some((name, why)) => {
            Error::new(Kind::Config, "C067", format!("errors of kind `{name}` cannot be retried: {why}")).fact(kinds)
        }
        None => {
            let error = Error::new(Kind::Config, "C067", format!("`{word}` is no kind of error"));
            meant(error, word, &RETRIED).fact(kinds)
        }
    }
}

fn meant(error: Error, word: &str, words: &[&str]) -> Error {
    match nearest(word, words.iter().copied()) {
        Some(meant) if !word.is_empty() => error.label(format!("did you mean `{meant}`?")),
        _ => error,
    }
}

impl fmt::Display for RetryOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = [self.unavailable, self.data, self.internal].into_iter().zip(RETRIED);
        let words: Vec<&str> = named.filter(|(is, _)| *is).map(|(_, word)| word).collect();
        f.write_str(&words.join(", "))
    }
}

#[cfg(test)]
mod tests;
