//! [`Board`]: all splits of one source, who reads them, and the source's watermark.
//!
//! **Invariant:** the watermark is the minimum over everything that may still bring a row, and never regresses.
//! Finite splits promise nothing inside: while listed or being read they hold it.

use std::collections::BTreeMap;
use std::time::Duration;

use tidemill_checkpoint::{SourceProgress, SplitProgress};
use tidemill_model::{Offset, SplitId, Timestamp, Watermark};

use crate::{Boundedness, SourceTime, Split};

/// Who has a split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// Nobody yet.
    Waiting,
    /// This lane.
    Lane(usize),
    /// It is finished.
    Nobody,
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) split: Split,
    pub(crate) holder: Holder,
    pub(crate) progress: SplitProgress,
    /// Since when its reader stands at its end.
    pub(crate) at_end_since: Option<Timestamp>,
    pub(crate) idle: bool,
}

/// How far a split is read again.
#[derive(Debug, Clone)]
pub(crate) struct Goal {
    /// The offset after the last row; `None` for its end.
    pub(crate) offset: Option<Offset>,
    /// How many records that must be, when it is read from its beginning.
    pub(crate) rows: Option<u64>,
}

/// The splits of one source.
#[derive(Debug)]
pub(crate) struct Board {
    boundedness: Boundedness,
    time: Option<SourceTime>,
    /// In `once`, a split that never had a row counts as idle at its end.
    once: bool,
    listed: bool,
    pub(crate) entries: BTreeMap<SplitId, Entry>,
    watermark: Watermark,
    /// Whether nothing is read or waits to be, and every endless split is idle.
    idle: bool,
    /// What is read again, when this is no first reading.
    again: Option<SourceProgress>,
    /// Whether time stands still, whatever is read.
    still: bool,
}

impl Board {
    pub(crate) fn new(boundedness: Boundedness, time: Option<SourceTime>, once: bool, from: &SourceProgress) -> Board {
        let entries = from
            .splits
            .iter()
            .map(|(id, progress)| {
                let split = Split {
                    id: id.clone(),
                    finite: progress.finished,
                    min_event_time: None,
                    max_event_time: None,
                    bytes: None,
                    content: None,
                };
                let holder = if progress.finished { Holder::Nobody } else { Holder::Waiting };
                let entry = Entry { split, holder, progress: progress.clone(), at_end_since: None, idle: false };
                (id.clone(), entry)
            })
            .collect();
        let watermark = from.watermark.unwrap_or(Watermark::MIN);
        Board {
            boundedness,
            time,
            once,
            listed: !from.splits.is_empty(),
            entries,
            watermark,
            idle: false,
            again: None,
            still: false,
        }
    }

    /// The board of a reading from the beginning up to where `before` stands: no split and no row more. Its watermark
    /// follows the rows, is never ahead of the one on record, and meets it at the end.
    pub(crate) fn again(
        boundedness: Boundedness,
        time: Option<SourceTime>,
        before: &SourceProgress,
        starts: Option<&BTreeMap<SplitId, Offset>>,
    ) -> Board {
        let begun = before.splits.iter().filter(|(_, split)| split.is_begun());
        let entries = begun.map(|(id, _)| {
            let split = Split {
                id: id.clone(),
                finite: true,
                min_event_time: None,
                max_event_time: None,
                bytes: None,
                content: None,
            };
            let offset = starts.and_then(|starts| starts.get(id)).cloned();
            let (holder, progress) = (Holder::Waiting, SplitProgress { offset, ..SplitProgress::default() });
            (id.clone(), Entry { split, holder, progress, at_end_since: None, idle: false })
        });
        Board {
            boundedness,
            time,
            once: true,
            listed: true,
            entries: entries.collect(),
            watermark: Watermark::MIN,
            idle: false,
            again: Some(before.clone()),
            still: false,
        }
    }

    /// The board of records that are no news: time stays where it is, and no split on record is read.
    pub(crate) fn still(watermark: Watermark) -> Board {
        let nothing = SourceProgress { watermark: Some(watermark), ..SourceProgress::default() };
        Board { still: true, ..Board::new(Boundedness::Unbounded, None, true, &nothing) }
    }

    /// How far a split is read, when it is read again.
    pub(crate) fn goal(&self, id: &SplitId) -> Option<Goal> {
        let before = self.again.as_ref()?.splits.get(id)?;
        let from_beginning = self.entries.get(id).is_some_and(|entry| entry.progress.offset.is_none());
        Some(Goal { offset: before.offset.clone(), rows: from_beginning.then_some(before.rows) })
    }

    /// A split that is to be read again and is not there any more.
    pub(crate) fn missing(&self, listed: &[Split]) -> Option<&SplitId> {
        self.again.as_ref()?;
        self.entries.keys().find(|id| !listed.iter().any(|split| split.id == **id))
    }

    /// Takes a fresh listing. A bounded source is what it was at its first listing: later splits are not its.
    pub(crate) fn list(&mut self, splits: Vec<Split>) {
        let frozen = self.again.is_some() || self.boundedness == Boundedness::Bounded && self.listed;
        for split in splits {
            match self.entries.get_mut(&split.id) {
                Some(entry) => entry.split = split,
                None if frozen => {}
                None => {
                    let entry = Entry {
                        holder: Holder::Waiting,
                        progress: SplitProgress::default(),
                        at_end_since: None,
                        idle: false,
                        split,
                    };
                    self.entries.insert(entry.split.id.clone(), entry);
                }
            }
        }
        self.listed = true;
    }

    /// The next split for a lane: endless ones by turns so that each lane has its share, finite ones by time.
    pub(crate) fn claim(&mut self, lane: usize, lanes: usize, has_finite: bool) -> Option<(Split, SplitProgress)> {
        let turn = self
            .entries
            .values()
            .enumerate()
            .find(|(i, e)| e.holder == Holder::Waiting && !e.split.finite && i % lanes == lane)
            .map(|(_, e)| e.split.id.clone());
        let id = match turn {
            Some(id) => Some(id),
            None if has_finite => None,
            None => self
                .entries
                .values()
                .filter(|e| e.holder == Holder::Waiting && e.split.finite)
                .min_by_key(|e| (e.split.min_event_time.unwrap_or(i64::MIN), e.split.id.clone()))
                .map(|e| e.split.id.clone()),
        }?;
        let entry = self.entries.get_mut(&id)?;
        entry.holder = Holder::Lane(lane);
        Some((entry.split.clone(), entry.progress.clone()))
    }

    /// Whether splits wait that no lane has claimed.
    pub(crate) fn has_waiting(&self) -> bool {
        self.entries.values().any(|e| e.holder == Holder::Waiting)
    }

    /// Whether a bounded source is wholly read.
    pub(crate) fn is_finished(&self) -> bool {
        self.boundedness == Boundedness::Bounded
            && self.listed
            && self.entries.values().all(|e| e.holder == Holder::Nobody)
    }

    /// Takes what a lane read of a split, after it has passed the rows on.
    pub(crate) fn advance(&mut self, id: &SplitId, progress: &SplitProgress, at_end_since: Option<Timestamp>) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.progress = progress.clone();
            entry.at_end_since = at_end_since;
            if at_end_since.is_none() {
                entry.idle = false;
            }
            if progress.finished {
                entry.holder = Holder::Nobody;
            }
        }
    }

    /// The watermark at this instant.
    pub(crate) fn watermark(&mut self, now: Timestamp) -> Watermark {
        if self.still {
            return self.watermark;
        }
        let mut candidate = self.candidate(now);
        if let Some(before) = &self.again {
            let known = before.watermark.unwrap_or(Watermark::MIN);
            let read = self.entries.values().all(|e| e.holder == Holder::Nobody || e.at_end_since.is_some());
            candidate = if read { known } else { candidate.min(known) };
        }
        if candidate > self.watermark {
            self.watermark = candidate;
        }
        self.watermark
    }

    /// Whether no row is to be expected for now; as of the last call of [`Board::watermark`].
    pub(crate) fn is_idle(&self) -> bool {
        self.idle
    }

    /// Where the split stands that is furthest behind among those that may give a row when they are asked: event time
    /// less the delay. Whoever waits for it does not wait for ever, since a split at its end is not among them, nor a
    /// file that no lane has begun. `None` when there is no such split, or the source tells no time.
    pub(crate) fn furthest_behind(&self) -> Option<i64> {
        let delay = self.time.as_ref()?.delay;
        let reading = self.entries.values().filter(|entry| match entry.holder {
            Holder::Lane(_) => entry.at_end_since.is_none(),
            Holder::Waiting => !entry.split.finite,
            Holder::Nobody => false,
        });
        let stands = |entry: &Entry| match entry.progress.newest {
            Some(newest) => behind(newest, delay),
            None => entry.split.min_event_time.unwrap_or(i64::MIN),
        };
        reading.map(stands).min()
    }

    fn candidate(&mut self, now: Timestamp) -> Watermark {
        if self.is_finished() {
            return Watermark::MAX;
        }
        let Some(time) = &self.time else { return Watermark::MIN };
        let delay = i64::try_from(time.delay.as_micros()).unwrap_or(i64::MAX);
        let idle_after = time.idle;
        let mut hold = i64::MAX;
        let mut newest_finished: Option<i64> = None;
        let mut endless: Option<i64> = None;
        for entry in self.entries.values_mut() {
            if entry.holder == Holder::Nobody {
                newest_finished = newest_finished.max(entry.progress.newest);
            } else if entry.split.finite {
                hold = hold.min(entry.split.min_event_time.unwrap_or(self.watermark.0));
            } else {
                entry.idle = is_idle(entry, now, idle_after, self.once);
                if !entry.idle {
                    let own = entry.progress.newest.map_or(i64::MIN, |newest| newest.saturating_sub(delay));
                    endless = Some(endless.map_or(own, |least| least.min(own)));
                }
            }
        }
        let is_endless = |entry: &Entry| entry.holder != Holder::Nobody && !entry.split.finite;
        self.idle = endless.is_none() && hold == i64::MAX && self.entries.values().any(is_endless);
        // Finished splits only speak when no endless one can: they leave the minimum and do not vote for the end.
        let reached = endless.or_else(|| newest_finished.map(|newest| newest.saturating_sub(delay)));
        Watermark(reached.unwrap_or(i64::MIN).min(hold))
    }
}

/// An event time less a delay.
pub(crate) fn behind(newest: i64, delay: Duration) -> i64 {
    newest.saturating_sub(i64::try_from(delay.as_micros()).unwrap_or(i64::MAX))
}

fn is_idle(entry: &Entry, now: Timestamp, idle_after: Duration, once: bool) -> bool {
    match entry.at_end_since {
        None => false,
        Some(_) if once && entry.progress.newest.is_none() => true,
        Some(since) => now.since(since) >= idle_after,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time() -> SourceTime {
        SourceTime {
            delay: Duration::from_micros(10),
            idle: Duration::from_micros(100),
            max_future: None,
            max_skew: None,
            start: None,
        }
    }

    fn split(name: &str, finite: bool) -> Split {
        Split { id: SplitId::new(name), finite, min_event_time: None, max_event_time: None, bytes: None, content: None }
    }

    fn read(board: &mut Board, name: &str, newest: Option<i64>, finished: bool, at_end: Option<i64>) {
        let progress = SplitProgress { newest, finished, ..SplitProgress::default() };
        board.advance(&SplitId::new(name), &progress, at_end.map(Timestamp));
    }

    #[test]
    fn an_idle_split_stops_holding_time_and_votes_again_on_return() {
        let mut board = Board::new(Boundedness::Unbounded, Some(time()), false, &SourceProgress::default());
        board.list(vec![split("a", false), split("b", false)]);
        read(&mut board, "a", Some(1000), false, None);
        assert_eq!(board.watermark(Timestamp(0)), Watermark::MIN, "b has given no row yet");
        read(&mut board, "b", None, false, Some(0));
        assert_eq!(board.watermark(Timestamp(99)), Watermark::MIN);
        assert_eq!(board.watermark(Timestamp(100)), Watermark(990), "b is idle");
        assert!(!board.is_idle(), "a is not");
        read(&mut board, "a", Some(1000), false, Some(0));
        assert_eq!((board.watermark(Timestamp(100)), board.is_idle()), (Watermark(990), true), "all are");
        read(&mut board, "b", Some(500), false, None);
        assert_eq!(board.watermark(Timestamp(101)), Watermark(990), "and never regresses");
        read(&mut board, "a", Some(3000), false, None);
        assert_eq!(board.watermark(Timestamp(102)), Watermark(990), "b votes again");
    }

    #[test]
    fn who_is_furthest_behind_is_asked_of_those_that_may_give_rows() {
        let mut board = Board::new(Boundedness::Unbounded, Some(time()), false, &SourceProgress::default());
        board.list(vec![split("a", false), split("b", false)]);
        assert_eq!(board.furthest_behind(), Some(i64::MIN), "a lane will claim them");
        assert!(board.claim(0, 1, false).is_some() && board.claim(0, 1, false).is_some());
        read(&mut board, "a", Some(1000), false, None);
        read(&mut board, "b", Some(500), false, None);
        assert_eq!(board.furthest_behind(), Some(490));
        read(&mut board, "b", Some(500), false, Some(7));
        assert_eq!(board.furthest_behind(), Some(990), "b has nothing now");
        read(&mut board, "a", Some(1000), false, Some(8));
        assert_eq!(board.furthest_behind(), None);
    }

    #[test]
    fn files_hold_time_until_they_are_finished() {
        let mut board = Board::new(Boundedness::Bounded, Some(time()), true, &SourceProgress::default());
        board.list(vec![split("a", true), split("b", true)]);
        assert!(board.claim(0, 1, false).is_some());
        read(&mut board, "a", Some(1000), false, None);
        assert_eq!(board.watermark(Timestamp(0)), Watermark::MIN);
        read(&mut board, "a", Some(1000), true, None);
        assert_eq!(board.watermark(Timestamp(0)), Watermark::MIN, "b is not read yet");
        read(&mut board, "b", Some(900), true, None);
        assert_eq!(board.watermark(Timestamp(0)), Watermark::MAX, "a bounded source ends");
    }

    #[test]
    fn a_bounded_source_ignores_what_comes_after_its_first_listing() {
        let mut board = Board::new(Boundedness::Bounded, None, true, &SourceProgress::default());
        board.list(vec![split("a", true)]);
        board.list(vec![split("a", true), split("b", true)]);
        assert_eq!(board.entries.len(), 1);
    }
}
