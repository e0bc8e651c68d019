//! [`Rhythm`]: when something fires, and [`Fires`], the walk from one fire to the next.
//!
//! **Invariant:** fires rise strictly, and the one rule of clocks that jump (see the module) is applied here and
//! nowhere else. Without a zone, equal steps are arithmetic of whole numbers.

use std::sync::Arc;

use super::pattern::Pattern;
use super::zone::{FIRST, LAST, Stretch, Zone};
use crate::Timestamp;

/// When something fires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rhythm {
    /// At `origin` and each multiple of `size` from it, both in microseconds.
    Even {
        /// The distance of two fires, above zero.
        size: i64,
        /// One of the fires.
        origin: i64,
    },
    /// At local times. Shared, because schedules are cloned with their pipelines.
    Local(Arc<Local>),
}

/// Local times and the clock that shows them; UTC when there is no zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Local {
    /// The times.
    pub(super) pattern: Pattern,
    /// The clock.
    pub(super) zone: Option<Zone>,
}

impl Rhythm {
    /// Of a pattern on a clock: even when the clock never jumps and the times are equally far apart.
    pub(super) fn of(pattern: Pattern, zone: Option<&Zone>) -> Rhythm {
        let zone = zone.filter(|zone| !zone.is_utc()).cloned();
        match pattern.even().filter(|_| zone.is_none()) {
            Some((step, first)) => Rhythm::Even { size: step * 60_000_000, origin: first * 60_000_000 },
            None => Rhythm::Local(Arc::new(Local { pattern, zone })),
        }
    }

    /// The fires strictly after the instant, in order.
    pub(super) fn after(&self, at: Timestamp) -> Fires<'_> {
        match self {
            Rhythm::Even { size, origin } => {
                let next = at.0.checked_add(size - since_fire(at, *size, *origin));
                Fires::Even { next, size: *size }
            }
            Rhythm::Local(local) => {
                let from = (at.0.div_euclid(SECOND) + 1).max(FIRST);
                // Past the end any stretch will do: the search ends at once.
                let stretch = local.stretch(from.min(LAST - 1));
                Fires::Local { local, stretch, from }
            }
        }
    }

    /// The last fire at or before the instant.
    pub(super) fn last_at_or_before(&self, at: Timestamp) -> Option<Timestamp> {
        match self {
            Rhythm::Even { size, origin } => at.0.checked_sub(since_fire(at, *size, *origin)).map(Timestamp),
            Rhythm::Local(local) => local.last_before(at.0.div_euclid(SECOND).saturating_add(1)),
        }
    }

    /// Whether it fires at the instant.
    pub(super) fn is_at(&self, at: Timestamp) -> bool {
        self.last_at_or_before(at) == Some(at)
    }
}

const SECOND: i64 = 1_000_000;

/// How long before the instant the last fire was, in microseconds; right at the ends of time too.
fn since_fire(at: Timestamp, size: i64, origin: i64) -> i64 {
    (at.0.rem_euclid(size) - origin.rem_euclid(size)).rem_euclid(size)
}

fn instant(second: i64) -> Timestamp {
    Timestamp(second * SECOND)
}

impl Local {
    fn stretch(&self, at: i64) -> Stretch {
        self.zone.as_ref().map_or(Stretch::UTC, |zone| zone.stretch(at))
    }

    /// The first local time in the stretch that is not a repetition. A clock that was set back shows times again, and
    /// only what follows the clock fires again at them.
    fn shown_from(&self, stretch: &Stretch) -> i64 {
        let now = stretch.start + stretch.offset;
        if self.pattern.follows_clock { now } else { now.max(stretch.start + stretch.before) }
    }

    /// Whether a time that the clock leapt over at the start of the stretch fires there.
    fn leapt_over(&self, stretch: &Stretch) -> bool {
        let (gap, end) = (stretch.start + stretch.before, stretch.start + stretch.offset);
        !self.pattern.follows_clock && gap < end && self.pattern.first(gap, end).is_some()
    }

    /// The first fire of the stretch at or after the second.
    fn first_in(&self, stretch: &Stretch, from: i64) -> Option<i64> {
        if from <= stretch.start && self.leapt_over(stretch) {
            return Some(stretch.start);
        }
        let from = (from + stretch.offset).max(self.shown_from(stretch));
        self.pattern.first(from, stretch.end + stretch.offset).map(|local| local - stretch.offset)
    }

    /// The last fire of the stretch before the second.
    fn last_in(&self, stretch: &Stretch, before: i64) -> Option<i64> {
        let before = before.min(stretch.end);
        let found = self.pattern.last(self.shown_from(stretch), before + stretch.offset);
        match found {
            Some(local) => Some(local - stretch.offset),
            None => (before > stretch.start && self.leapt_over(stretch)).then_some(stretch.start),
        }
    }

    /// The last fire before the second.
    fn last_before(&self, before: i64) -> Option<Timestamp> {
        let before = before.min(LAST);
        if before <= FIRST {
            return None;
        }
        let mut stretch = self.stretch(before - 1);
        loop {
            if let Some(fire) = self.last_in(&stretch, before) {
                return Some(instant(fire));
            }
            if stretch.start <= FIRST {
                return None;
            }
            stretch = self.stretch(stretch.start - 1);
        }
    }
}

/// The fires from some instant on, in order. A zone is asked once for each stretch of its clock, not for each fire.
#[derive(Debug, Clone)]
pub(super) enum Fires<'a> {
    /// Of equal steps.
    Even {
        /// The next fire, unless time ends first.
        next: Option<i64>,
        /// The step.
        size: i64,
    },
    /// Of local times.
    Local {
        /// The times and their clock.
        local: &'a Local,
        /// Where the search is.
        stretch: Stretch,
        /// The first second not searched.
        from: i64,
    },
}

impl Iterator for Fires<'_> {
    type Item = Timestamp;

    fn next(&mut self) -> Option<Timestamp> {
        match self {
            Fires::Even { next, size } => {
                let fire = (*next)?;
                *next = fire.checked_add(*size);
                Some(Timestamp(fire))
            }
            Fires::Local { local, stretch, from } => loop {
                if *from >= LAST {
                    return None;
                }
                if let Some(fire) = local.first_in(stretch, *from) {
                    *from = fire + 1;
                    return Some(instant(fire));
                }
                *from = stretch.end;
                *stretch = local.stretch(stretch.end.min(LAST - 1));
            },
        }
    }
}
