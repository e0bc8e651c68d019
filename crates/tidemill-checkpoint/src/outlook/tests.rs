//! Intervals at an instant: due, missing, stale, failed, and which are run.

use std::time::Duration;

use tidemill_model::{Catchup, Epoch, Generation, Grid, Interval, Schedule, Timestamp};

use super::{DueRun, Outlook, Rule, Why};
use crate::{Manifest, OpenRun, RunFailure};

const HOUR: i64 = 3_600_000_000;

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).expect("a time")
}

fn hours(first: i64, end: i64) -> Interval {
    Interval { start: Timestamp(first * HOUR), end: Timestamp(end * HOUR) }
}

/// Hours from the epoch on that are done.
fn record(done: &[(i64, i64)]) -> Manifest {
    let mut manifest = Manifest::first("p", Epoch(1), Timestamp(0));
    for (first, end) in done {
        manifest.ledger.record(hours(*first, *end), Generation(1), "q");
    }
    manifest
}

fn rule<'a>(grid: &'a Grid, schedule: &'a Schedule) -> Rule<'a> {
    Rule {
        name: "p",
        grid,
        schedule: Some(schedule),
        delay: Duration::ZERO,
        jitter: None,
        start: Some(Timestamp(0)),
        end: None,
    }
}

fn hourly() -> (Schedule, Grid) {
    let schedule = Schedule::parse("@hourly", None).expect("a schedule");
    let grid = Grid::of(&schedule);
    (schedule, grid)
}

/// Hours as numbers.
fn numbers(intervals: impl IntoIterator<Item = Interval>) -> Vec<(i64, i64)> {
    intervals.into_iter().map(|i| (i.start.0 / HOUR, i.end.0 / HOUR)).collect()
}

fn runs(due: &[DueRun]) -> Vec<(i64, Why)> {
    due.iter().map(|run| (run.interval.start.0 / HOUR, run.why)).collect()
}

#[test]
fn what_is_due_and_not_done_is_missing_wherever_it_is() {
    let (schedule, grid) = hourly();
    let manifest = record(&[(2, 5), (7, 8)]);
    let now = Timestamp(10 * HOUR + 1);
    let outlook = Outlook::new(rule(&grid, &schedule), Some(&manifest), now);
    assert_eq!(numbers(outlook.due()), [(0, 10)]);
    assert_eq!(numbers(outlook.missing()), [(0, 2), (5, 7), (8, 10)]);
    assert_eq!((outlook.count_due(), outlook.count(&outlook.missing())), (10, 6));
    // Ten seconds of delay and the hour that has just ended is not due yet.
    let waiting = Rule { delay: Duration::from_secs(10), ..rule(&grid, &schedule) };
    assert_eq!(numbers(Outlook::new(waiting, Some(&manifest), now).due()), [(0, 9)]);
    assert_eq!(Outlook::new(waiting, Some(&manifest), now).next(), Some(Timestamp(10 * HOUR + 10_000_000)));
    // Bounds of the pipeline, which need not lie on the grid.
    let bounded =
        Rule { start: Some(Timestamp(HOUR / 2)), end: Some(Timestamp(6 * HOUR + HOUR / 2)), ..rule(&grid, &schedule) };
    assert_eq!(numbers(Outlook::new(bounded, None, now).missing()), [(1, 6)]);
    assert_eq!(Outlook::new(bounded, None, now).next(), None);
    // Without a start: from the first that is on record, or the last that is due.
    let open = Rule { start: None, ..rule(&grid, &schedule) };
    assert_eq!(numbers(Outlook::new(open, Some(&manifest), now).missing()), [(5, 7), (8, 10)]);
    assert_eq!(numbers(Outlook::new(open, None, now).missing()), [(9, 10)]);
    // A part of an interval is not the interval.
    let mut partly = record(&[(0, 9)]);
    partly.ledger.record(Interval { start: Timestamp(9 * HOUR), end: Timestamp(9 * HOUR + 5) }, Generation(1), "q");
    assert_eq!(numbers(Outlook::new(rule(&grid, &schedule), Some(&partly), now).missing()), [(9, 10)]);
}

#[test]
fn how_far_is_caught_up() {
    let (schedule, grid) = hourly();
    let manifest = record(&[(0, 3)]);
    let outlook = Outlook::new(rule(&grid, &schedule), Some(&manifest), Timestamp(10 * HOUR));
    // Watched since 07:30, when the last interval due was that of six o'clock.
    let watched = Timestamp(7 * HOUR + HOUR / 2);
    let starts = |catchup: &Catchup, running: &[Interval], at_most: usize| -> Vec<i64> {
        let due = outlook.to_run(catchup, watched, running, at_most);
        due.iter().map(|run| run.interval.start.0 / HOUR).collect()
    };
    assert_eq!(starts(&Catchup::All, &[], 99), [3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(starts(&Catchup::All, &[], 2), [3, 4]);
    assert_eq!(starts(&Catchup::All, &[hours(3, 4), hours(5, 6)], 2), [4, 6]);
    assert_eq!(starts(&Catchup::Latest, &[], 99), [6, 7, 8, 9]);
    assert_eq!(starts(&Catchup::None, &[], 99), [7, 8, 9]);
    assert_eq!(starts(&Catchup::Since(Timestamp(5 * HOUR)), &[], 99), [5, 6, 7, 8, 9]);
}

#[test]
fn runs_that_failed_and_intervals_that_lack_rows_come_in_their_turn() {
    let (schedule, grid) = hourly();
    let mut manifest = record(&[(0, 6)]);
    let mut failed = |hour: i64, retry_at: Option<i64>| {
        let failure = RunFailure {
            step: "s".to_owned(),
            code: "U1".to_owned(),
            message: String::new(),
            at: Timestamp(0),
            retry_at: retry_at.map(|hour| Timestamp(hour * HOUR)),
        };
        let run = OpenRun::new(hours(hour, hour + 1), Generation(1), Timestamp(0));
        manifest.runs.put(OpenRun { failed: 2, failure: Some(failure), ..run });
    };
    failed(6, Some(9));
    failed(7, Some(11));
    failed(8, None);
    manifest.runs.put(OpenRun::new(hours(1, 2), Generation(2), Timestamp(0)));
    manifest.stale.mark(hours(4, 5), 3, "raw", Timestamp(0));
    let outlook = Outlook::new(rule(&grid, &schedule), Some(&manifest), Timestamp(10 * HOUR));
    let due = outlook.to_run(&Catchup::All, Timestamp(0), &[], 99);
    let expected = [(1, Why::Retry(0)), (4, Why::Stale), (6, Why::Retry(2)), (9, Why::Missing)];
    assert_eq!(runs(&due), expected, "one waits for its next attempt, one was given up");
    assert_eq!(numbers(outlook.given_up().map(|run| run.interval)), [(8, 9)]);
    assert_eq!(outlook.next(), Some(Timestamp(11 * HOUR)));
}

#[test]
fn when_to_look_and_which_intervals_are_two_clocks() {
    let schedule = Schedule::parse("30 3 * * *", None).expect("a schedule");
    let grid = Grid::parse("@hourly", None).expect("a grid");
    let rule = Rule { start: Some(at("2026-01-01")), ..rule(&grid, &schedule) };
    let due = |now: &str| Outlook::new(rule, None, at(now)).due().map(|due| due.end);
    assert_eq!(due("2026-01-02T03:29:59"), Some(at("2026-01-01T03:00:00")));
    assert_eq!(due("2026-01-02T03:30:00"), Some(at("2026-01-02T03:00:00")));
    assert_eq!(due("2026-01-03T03:00:00"), Some(at("2026-01-02T03:00:00")));
}

#[test]
fn years_of_intervals_are_a_few_ranges() {
    let schedule = Schedule::parse("*/5 * * * *", None).expect("a schedule");
    let grid = Grid::of(&schedule);
    let rule = Rule { start: Some(at("2020-01-01")), ..rule(&grid, &schedule) };
    let mut manifest = Manifest::first("p", Epoch(1), Timestamp(0));
    let all = Interval { start: at("2020-01-01"), end: at("2026-01-01") };
    manifest.ledger.record(all, Generation(1), "q");
    let outlook = Outlook::new(rule, Some(&manifest), at("2026-11-28"));
    assert_eq!(outlook.missing().len(), 1);
    assert_eq!(outlook.count(&outlook.missing()), 331 * 288);
    assert_eq!(outlook.to_run(&Catchup::All, Timestamp(0), &[], 100_000).len(), 331 * 288);
}
