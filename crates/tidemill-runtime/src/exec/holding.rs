//! [`holding`]: which split of a source holds its time back, from what a manifest has.
//!
//! **Invariant:** it judges as the board does (`board.rs`): finished and idle splits do not vote, a finite one holds time
//! until it is finished, and the least of the others is the source's time, which never goes back.

use std::time::Duration;

use tidemill_checkpoint::{SourceProgress, SplitProgress};
use tidemill_model::{SplitId, Timestamp, Watermark};

/// What a split does to the time of its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SplitTime {
    /// It votes with its own watermark.
    Active,
    /// It has not had a row whose time counts, and holds time at its beginning.
    Empty,
    /// It is finite and not read to its end; until then it holds time.
    Unfinished,
    /// It stands at its end for so long that it does not vote.
    Idle,
    /// It will give no more rows and does not vote.
    Finished,
}

/// One split as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitHolding {
    /// The split.
    pub id: SplitId,
    /// What it does.
    pub time: SplitTime,
    /// The watermark that it votes for.
    pub watermark: Option<Watermark>,
    /// How far that is behind the greatest vote of any split.
    pub behind: Option<Duration>,
    /// Whether it is the one that holds the source's time back.
    pub holds: bool,
}

/// Every split of a source, in the order of their names.
#[must_use]
pub fn holding(source: &SourceProgress, delay: Duration) -> Vec<SplitHolding> {
    let micros = i64::try_from(delay.as_micros()).unwrap_or(i64::MAX);
    let of = |(id, split): (&SplitId, &SplitProgress)| {
        let time = what(split);
        let watermark = match time {
            SplitTime::Active => split.newest.map(|newest| Watermark(newest.saturating_sub(micros))),
            SplitTime::Empty | SplitTime::Unfinished => Some(source.watermark.unwrap_or(Watermark::MIN)),
            SplitTime::Idle | SplitTime::Finished => None,
        };
        SplitHolding { id: id.clone(), time, watermark, behind: None, holds: false }
    };
    let mut splits: Vec<SplitHolding> = source.splits.iter().map(of).collect();
    if source.watermark == Some(Watermark::MAX) {
        return splits;
    }
    let greatest = splits.iter().filter_map(|split| split.watermark).max();
    let behind = |at: Watermark| {
        let (at, greatest) = (at.instant()?, greatest?.instant()?);
        Some(greatest.since(at))
    };
    for split in &mut splits {
        split.behind = split.watermark.and_then(behind);
    }
    // One that has no row yet, or is not read to its end, holds time whatever the others say.
    let rank = |split: &&mut SplitHolding| {
        let votes = !matches!(split.time, SplitTime::Empty | SplitTime::Unfinished);
        (split.watermark.is_none(), votes, split.watermark)
    };
    if let Some(holder) = splits.iter_mut().min_by_key(rank).filter(|split| split.watermark.is_some()) {
        holder.holds = true;
    }
    splits
}

fn what(split: &SplitProgress) -> SplitTime {
    match (split.finished, split.finite, split.idle, split.newest) {
        (true, ..) => SplitTime::Finished,
        (false, true, ..) => SplitTime::Unfinished,
        (false, false, true, _) => SplitTime::Idle,
        (false, false, false, None) => SplitTime::Empty,
        (false, false, false, Some(_)) => SplitTime::Active,
    }
}

/// How long a split has had no rows at an instant; `None` when that is not known.
#[must_use]
pub fn without_rows(split: &SplitProgress, now: Timestamp) -> Option<Duration> {
    split.last_row_at.map(|at| now.since(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(newest: Option<i64>) -> SplitProgress {
        SplitProgress { newest, ..SplitProgress::default() }
    }

    fn told(splits: &[(&str, SplitProgress)], watermark: Watermark) -> Vec<(String, SplitTime, Option<i64>, bool)> {
        let splits = splits.iter().map(|(id, split)| (SplitId::new(*id), split.clone())).collect();
        let source = SourceProgress { splits, watermark: Some(watermark) };
        let all = holding(&source, Duration::from_micros(10));
        all.into_iter().map(|s| (s.id.to_string(), s.time, s.watermark.map(|w| w.0), s.holds)).collect()
    }

    #[test]
    fn the_split_that_is_furthest_behind_holds_time_back() {
        use SplitTime::{Active, Empty, Finished, Idle, Unfinished};
        let idle = SplitProgress { idle: true, ..split(Some(20)) };
        let finished = SplitProgress { finished: true, finite: true, ..split(Some(5)) };
        let finite = SplitProgress { finite: true, ..split(Some(500)) };
        let row = |id: &str, time, watermark, holds| (id.to_owned(), time, watermark, holds);
        assert_eq!(
            told(&[("a", split(Some(100))), ("b", split(Some(60))), ("c", idle), ("d", finished)], Watermark(50)),
            [
                row("a", Active, Some(90), false),
                row("b", Active, Some(50), true),
                row("c", Idle, None, false),
                row("d", Finished, None, false)
            ]
        );
        assert_eq!(
            told(&[("a", split(Some(100))), ("b", split(None))], Watermark(40)),
            [row("a", Active, Some(90), false), row("b", Empty, Some(40), true)]
        );
        assert_eq!(
            told(&[("a", split(Some(20))), ("b", finite.clone())], Watermark(40)),
            [row("a", Active, Some(10), false), row("b", Unfinished, Some(40), true)]
        );
        assert!(told(&[("b", finite)], Watermark::MAX).iter().all(|split| !split.3), "the input has ended");
    }

    #[test]
    fn how_far_a_split_is_behind_the_first_is_told() {
        let splits = [("a", split(Some(100))), ("b", split(Some(60)))];
        let splits = splits.into_iter().map(|(id, split)| (SplitId::new(id), split)).collect();
        let all = holding(&SourceProgress { splits, watermark: Some(Watermark(50)) }, Duration::from_micros(10));
        let behind: Vec<_> = all.iter().map(|split| split.behind).collect();
        assert_eq!(behind, [Some(Duration::ZERO), Some(Duration::from_micros(40))]);
    }
}
