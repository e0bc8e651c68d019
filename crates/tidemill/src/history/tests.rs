//! What is told to the history is found again by another process.

use tidemill_model::{Interval, Timestamp};

use super::{Cause, History, RunRecord, RunState, StepRecord};

fn hour(n: i64) -> Interval {
    Interval { start: Timestamp(n * 3_600_000_000), end: Timestamp((n + 1) * 3_600_000_000) }
}

fn step(name: &str, state: RunState) -> StepRecord {
    let (begun, ended) = (Some(Timestamp(1)), (state != RunState::Running).then_some(Timestamp(2)));
    StepRecord { step: name.to_owned(), state, begun, ended, rows: Some(5), value: None, error: None }
}

#[test]
fn what_was_told_is_found_again_by_another_process() {
    let folder = tempfile::tempdir().expect("a folder");
    assert!(History::look(folder.path()).expect("looks").is_none(), "looking creates nothing");
    let history = History::open(folder.path()).expect("opens");
    let first = history.begin("sales", hour(1), (Cause::Schedule, 1), (Timestamp(10), "host/1")).expect("begins");
    let second = history.begin("other", hour(1), (Cause::Backfill, 1), (Timestamp(11), "host/1")).expect("begins");
    history.step(first, &step("staging", RunState::Running)).expect("steps");
    history.step(first, &step("staging", RunState::Done)).expect("steps");
    history.step(first, &step("report", RunState::Failed)).expect("steps");
    let ended = RunRecord {
        state: RunState::Failed,
        ended: Some(Timestamp(20)),
        rows_written: Some(7),
        step: Some("report".to_owned()),
        error: Some("no space".to_owned()),
        retry_at: Some(Timestamp(90)),
        ..RunRecord::begun("sales", hour(1), (Cause::Schedule, 1), Timestamp(10))
    };
    history.end(first, &ended).expect("ends");

    let other = History::look(folder.path()).expect("looks").expect("is there");
    let runs = other.newest(None, 10).expect("reads");
    assert_eq!(runs.iter().map(|run| run.run).collect::<Vec<_>>(), [second, first]);
    assert_eq!(runs[1], RunRecord { run: first, holder: "host/1".to_owned(), ..ended });
    assert_eq!(other.newest(Some("sales"), 10).expect("reads").len(), 1);
    let steps = other.steps(first).expect("reads");
    let told: Vec<_> = steps.iter().map(|step| (step.step.as_str(), step.state)).collect();
    assert_eq!(told, [("staging", RunState::Done), ("report", RunState::Failed)]);
    // Whoever ran the second one is gone.
    assert_eq!(other.died("other", Timestamp(99)).expect("marks"), 1);
    assert_eq!(history.run(second).expect("reads").expect("is there").state, RunState::Died);
    assert_eq!(history.run(99).expect("reads"), None);
}

#[test]
fn what_is_no_history_is_said_to_be_none() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("history.sqlite"), "this is text, and long enough to be no header of a database")
        .expect("writes");
    assert_eq!(History::open(folder.path()).expect_err("refused").code(), "X060");
}
