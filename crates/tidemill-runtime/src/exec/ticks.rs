//! When an epoch ends, as a pure function of the trigger and what was observed.

use std::time::Duration;

use tidemill_model::{Timestamp, Trigger};

/// What the coordinator sees while lanes read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Observed {
    pub(crate) now: Timestamp,
    /// When reading for this epoch began.
    pub(crate) since: Timestamp,
    /// Anything that a manifest would record.
    pub(crate) changed: bool,
    /// Every lane has read to the end of the tick.
    pub(crate) quiet: bool,
    /// Every source has ended for good.
    pub(crate) finished: bool,
    /// A lane has reached its bound for one epoch.
    pub(crate) full: bool,
    /// Someone asked the job to end.
    pub(crate) stop: bool,
}

/// What happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Read on.
    Read,
    /// End the epoch and read on.
    Epoch,
    /// End the epoch; the tick is over.
    Tick,
    /// End the epoch and the job.
    Last,
}

pub(crate) fn next(trigger: &Trigger, checkpoint: Duration, seen: Observed) -> Next {
    if seen.stop {
        return Next::Last;
    }
    match trigger {
        // A look of a schedule reads to the present end.
        Trigger::Scheduled(_) | Trigger::On(_) => next(&Trigger::Once, checkpoint, seen),
        Trigger::Continuous if seen.finished => Next::Last,
        Trigger::Continuous if seen.full => Next::Epoch,
        Trigger::Continuous if seen.changed && seen.now.since(seen.since) >= checkpoint => Next::Epoch,
        Trigger::Continuous => Next::Read,
        Trigger::Once if seen.quiet => Next::Last,
        // A bounded source that has ended has no further tick.
        Trigger::Every(_) if seen.quiet && seen.finished => Next::Last,
        Trigger::Every(_) if seen.quiet => Next::Tick,
        Trigger::Once | Trigger::Every(_) if seen.full => Next::Epoch,
        Trigger::Once | Trigger::Every(_) => Next::Read,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_model::Span;

    #[test]
    fn table() {
        let base = Observed {
            now: Timestamp(1_000_000),
            since: Timestamp(0),
            changed: true,
            quiet: false,
            finished: false,
            full: false,
            stop: false,
        };
        let second = Duration::from_secs(1);
        let every = Trigger::Every(Span(second));
        let quiet = Observed { quiet: true, ..base };
        let ended = Observed { quiet: true, finished: true, ..base };
        let cases = [
            (Trigger::Continuous, base, Next::Epoch),
            (Trigger::Continuous, Observed { changed: false, ..base }, Next::Read),
            (Trigger::Continuous, Observed { now: Timestamp(999_999), ..base }, Next::Read),
            (Trigger::Continuous, ended, Next::Last),
            (Trigger::Once, base, Next::Read),
            (Trigger::Once, quiet, Next::Last),
            (Trigger::Once, Observed { full: true, ..base }, Next::Epoch),
            (every.clone(), quiet, Next::Tick),
            (every.clone(), ended, Next::Last),
            (every, Observed { stop: true, ..base }, Next::Last),
        ];
        for (trigger, seen, expected) in cases {
            assert_eq!(next(&trigger, second, seen), expected, "{trigger} {seen:?}");
        }
    }
}
