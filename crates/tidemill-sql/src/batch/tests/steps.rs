//! Runs of several steps: their order, what is kept of a run that failed, programs, and rows that come late.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tidemill_checkpoint::{Fault, Manifest};
use tidemill_model::{Error, Kind, Result, Timestamp};

use super::super::{Anew, Asked, Call, IntervalReport, Programs, RunContext, Runner, StepEvent, Watcher};
use super::{Shop, block_on, seconds, shown};

/// Staging, then silver, then two tables of it.
const CHAIN: &str = "
    CREATE TABLE report (region VARCHAR, n BIGINT, window_start TIMESTAMP, WATERMARK FOR window_start AS window_start)
        WITH (connector = 'shelf', path = 'report', write = 'replace', time_column = 'window_start');
    CREATE TABLE silver (id BIGINT, region VARCHAR, at TIMESTAMP, WATERMARK FOR at AS at)
        WITH (connector = 'shelf', path = 'silver', write = 'replace', time_column = 'at');
    CREATE TABLE staging (id BIGINT, region VARCHAR, at TIMESTAMP, WATERMARK FOR at AS at)
        WITH (connector = 'shelf', path = 'staging', write = 'replace', time_column = 'at');
    CREATE TABLE biggest (id BIGINT, at TIMESTAMP)
        WITH (connector = 'shelf', path = 'biggest', write = 'replace', time_column = 'at');
    INSERT INTO report SELECT region, count(*) AS n, window_start FROM TUMBLE(silver, at, INTERVAL '2 seconds')
        GROUP BY region, window_start, window_end;
    INSERT INTO silver SELECT id, upper(region) AS region, at FROM staging;
    INSERT INTO staging SELECT id, region, at FROM raw;
    INSERT INTO biggest SELECT id, at FROM silver WHERE id > 2;
";

/// Tells what happened, step by step.
#[derive(Debug, Default)]
struct Told(Mutex<Vec<String>>);

impl Watcher for Told {
    fn step(&self, step: &str, event: &StepEvent<'_>) {
        let event = match event {
            StepEvent::Kept => "kept".to_owned(),
            StepEvent::Begun => return,
            StepEvent::Done { rows, value, .. } => value.map_or_else(|| rows.to_string(), ToOwned::to_owned),
            StepEvent::Failed(error) => error.code().to_owned(),
        };
        self.0.lock().expect("locks").push(format!("{step} {event}"));
    }
}

impl Shop {
    fn attempt(&self, anew: Anew, context: &RunContext) -> (Result<IntervalReport>, Vec<String>) {
        let told = Arc::new(Told::default());
        let asked = Asked { anew, watcher: Arc::clone(&told) as _, ..Asked::of(seconds(0, 10)) };
        let retry = |failed: u32, begun: Timestamp, _: &Error| (failed < 3).then_some(Timestamp(begun.0 + 5));
        let outcome = block_on(async {
            let runner = Runner::open(&self.catalog, "p", context.clone())?;
            runner.run(&asked, &retry).await
        });
        let told = std::mem::take(&mut *told.0.lock().expect("locks"));
        (outcome, told)
    }

    fn manifest(&self) -> Manifest {
        self.context().checkpoints.latest().expect("reads").expect("is there")
    }

    fn all(&self) -> Vec<Vec<String>> {
        ["staging", "silver", "report", "biggest"].map(|path| self.shelf.rows(path)).to_vec()
    }
}

#[test]
fn each_step_comes_after_those_whose_tables_it_reads() {
    let shop = Shop::new(CHAIN);
    let (outcome, told) = shop.attempt(Anew::Rest, &shop.context());
    let report = outcome.map_err(|e| shown(&e)).expect("runs");
    assert_eq!(told[..2], ["staging 7", "silver 7"]);
    assert_eq!((report.epoch.0, report.generation.0, report.counters.rows_read), (4, 1, 23));
    assert_eq!(shop.shelf.rows("biggest").len(), 5);
    assert_eq!(shop.shelf.rows("report").len(), 6, "{:?}", shop.shelf.rows("report"));
    assert!(shop.manifest().runs.is_empty() && shop.manifest().ledger.contains(seconds(0, 10)));
    let letters = shop.query("SELECT count(*) FROM raw.dead_letters").expect("answers");
    assert_eq!(letters, ["2"], "refused records of the run are told once, whatever steps read them");
}

#[test]
fn a_failed_step_is_run_again_without_those_before_it() {
    let shop = Shop::new(CHAIN);
    shop.shelf.fail_writing(Some("report"));
    for failed in 1..=3 {
        let (outcome, told) = shop.attempt(Anew::Rest, &shop.context());
        let error = shown(&outcome.expect_err("fails"));
        assert!(error.contains("step report") && error.contains("no room"), "{error}");
        let manifest = shop.manifest();
        let open = manifest.runs.of(seconds(0, 10)).expect("is open").clone();
        assert_eq!((open.failed, open.is_given_up(), manifest.ledger.entries().len()), (failed, failed == 3, 0));
        assert_eq!(open.steps.keys().map(String::as_str).collect::<Vec<_>>(), ["biggest", "silver", "staging"]);
        if failed > 1 {
            assert_eq!(told, ["staging kept", "silver kept", "biggest kept", "report U999"]);
        }
    }
    shop.shelf.fail_writing(None);
    let (outcome, told) = shop.attempt(Anew::Rest, &shop.context());
    let report = outcome.map_err(|e| shown(&e)).expect("runs");
    assert_eq!(told, ["staging kept", "silver kept", "biggest kept", "report 6"]);
    assert_eq!((report.kept.len(), report.targets.len(), report.generation.0), (3, 1, 1));
    assert!(shop.manifest().runs.is_empty());
    // From a step on: it and what comes after it, in a new generation.
    let (outcome, told) = shop.attempt(Anew::From("silver".to_owned()), &shop.context());
    assert_eq!(outcome.expect("runs").generation.0, 2);
    assert_eq!(told[0], "staging kept");
    assert_eq!(told.len(), 4);
    let (outcome, _) = shop.attempt(Anew::From("sliver".to_owned()), &shop.context());
    assert!(shown(&outcome.expect_err("no such step")).contains("did you mean `silver`?"));
}

#[test]
fn a_crash_at_any_write_of_a_run_of_steps_is_gone_on_from() {
    let whole = Shop::new(CHAIN);
    whole.attempt(Anew::Rest, &whole.context()).0.expect("runs");
    let expected = whole.all();
    let writes = whole.store.writes();
    assert!(writes >= 8, "{writes}");
    let mut kept = 0;
    for at in 0..writes {
        for fault in [Fault::Before, Fault::After] {
            let shop = Shop::new(CHAIN);
            shop.store.fail_after(at, fault);
            let _ = shop.attempt(Anew::Rest, &shop.context());
            shop.store.heal();
            let (outcome, told) = shop.attempt(Anew::Rest, &shop.context());
            let report = outcome.map_err(|e| shown(&e)).expect("runs again");
            kept += told.iter().filter(|told| told.ends_with(" kept")).count();
            assert!(report.generation.0 <= 2, "{at} {fault:?}");
            assert_eq!(shop.all(), expected, "{at} {fault:?}");
            let letters = shop.query("SELECT count(*) FROM raw.dead_letters").expect("answers");
            assert_eq!(letters, ["2"], "{at} {fault:?}");
            let counted = &shop.manifest().counters.dead_letters["raw"];
            assert_eq!(counted.values().sum::<u64>(), 2 * report.generation.0, "{at} {fault:?}");
        }
    }
    assert!(kept > writes, "only {kept} steps were kept");
}

#[test]
fn steps_that_wait_for_each_other_are_refused() {
    let shop = Shop::new(
        "CREATE TABLE a (id BIGINT, at TIMESTAMP, WATERMARK FOR at AS at) WITH (connector = 'shelf', path = 'a', write = 'replace', time_column = 'at');
        CREATE TABLE b (id BIGINT, at TIMESTAMP, WATERMARK FOR at AS at) WITH (connector = 'shelf', path = 'b', write = 'replace', time_column = 'at');
        INSERT INTO a SELECT id, at FROM b; INSERT INTO b SELECT id, at FROM a;",
    );
    let error = shop.run(0, 4).expect_err("refused");
    assert_eq!(error.code(), "P141");
    assert!(shown(&error).contains("a > b > a") || shown(&error).contains("b > a > b"), "{}", shown(&error));
}

/// Programs that are one letter: each gives what was given before it, and itself.
#[derive(Debug, Default)]
struct Letters(Mutex<BTreeMap<String, u32>>);

#[async_trait]
impl Programs for Letters {
    async fn run(&self, call: &Call) -> Result<Option<String>> {
        let mut ran = self.0.lock().expect("locks");
        let times = ran.entry(call.task.name.clone()).or_default();
        *times += 1;
        if call.task.settings.text("command") == Some("fail once") && *times == 1 {
            return Err(Error::new(Kind::Unavailable, "U999", "failed"));
        }
        let before: Vec<&str> = call.values.values().map(String::as_str).collect();
        Ok(Some(format!("{}{}", before.join("+"), call.task.name)))
    }
}

#[test]
fn programs_are_steps_and_give_values_to_those_after_them() {
    let shop = Shop::new(&format!(
        "{CHAIN}
        CREATE TASK fetch BEFORE staging WITH (command = 'x');
        CREATE TASK check AFTER silver, fetch WITH (command = 'fail once');
        CREATE TASK notify AFTER report, check WITH (command = 'x');"
    ));
    let programs = Arc::new(Letters::default());
    let context = RunContext { programs: Arc::clone(&programs) as _, ..shop.context() };
    let (outcome, told) = shop.attempt(Anew::Rest, &context);
    assert!(shown(&outcome.expect_err("fails")).contains("step check"));
    assert_eq!(told[0], "fetch fetch");
    let (outcome, told) = shop.attempt(Anew::Rest, &context);
    outcome.map_err(|e| shown(&e)).expect("runs");
    assert_eq!(told[told.len() - 2..], ["check fetchcheck", "notify fetchcheck+fetchnotify"]);
    let ran: Vec<(String, u32)> = programs.0.lock().expect("locks").clone().into_iter().collect();
    assert_eq!(ran, [("check".to_owned(), 2), ("fetch".to_owned(), 1), ("notify".to_owned(), 1)]);
}

#[test]
fn a_statement_takes_what_a_task_gave() {
    let shop = Shop::new(
        "CREATE TABLE out (id BIGINT, batch VARCHAR, at TIMESTAMP) WITH (connector = 'shelf', path = 'out', write = 'replace', time_column = 'at');
        INSERT INTO out SELECT id, task_value('fetch') || '-' || region AS batch, at FROM raw WHERE id < 3 AND task_value('fetch') = 'fetch';
        CREATE TASK fetch WITH (command = 'x');",
    );
    let context = RunContext { programs: Arc::new(Letters::default()), ..shop.context() };
    let (outcome, told) = shop.attempt(Anew::Rest, &context);
    outcome.map_err(|e| shown(&e)).expect("runs");
    assert_eq!(told, ["fetch fetch", "out 2"]);
    assert_eq!(shop.shelf.rows("out"), ["1,fetch-eu,1970-01-01T00:00:00", "2,fetch-us,1970-01-01T00:00:01.500"]);
    let wrong = Shop::new(
        "CREATE TABLE out (id BIGINT, batch VARCHAR, at TIMESTAMP) WITH (connector = 'shelf', path = 'out', write = 'replace', time_column = 'at');
        INSERT INTO out SELECT id, task_value('fetsh') AS batch, at FROM raw;
        CREATE TASK fetch WITH (command = 'x');",
    );
    assert!(shown(&wrong.run(0, 4).expect_err("refused")).contains("did you mean `fetch`?"));
    assert!(shown(&wrong.query("SELECT task_value('fetch')").expect_err("no run")).contains("only in the runs"));
}

#[test]
fn rows_that_come_after_an_interval_is_done_mark_it_and_no_other() {
    const HOURS: &str = "CREATE TABLE out (id BIGINT, at TIMESTAMP) WITH (connector = 'shelf', path = 'out', write = 'replace', time_column = 'at');
        INSERT INTO out SELECT id, at FROM raw;";
    let shop = Shop::new(HOURS);
    let row = |id: u32, at: &str| format!("{id},eu,1,1970-01-01T{at}\n");
    let (first, second) = (row(1, "00:30:00"), row(2, "01:30:00"));
    shop.shelf.put("raw", &[&first, &second]);
    let run = |hour: i64| shop.run(hour * 3600, (hour + 1) * 3600).map_err(|e| shown(&e));
    let look = || -> Vec<(i64, u64)> {
        let marks = block_on(async { Runner::open(&shop.catalog, "p", shop.context())?.look().await });
        marks.expect("looks").iter().map(|mark| (mark.interval.start.0 / 3_600_000_000, mark.rows)).collect()
    };
    run(0).expect("runs");
    run(1).expect("runs");
    assert_eq!(look(), []);
    // Of the first hour two rows, of the one that is missing one.
    shop.shelf
        .put("raw", &[&first, &second, &format!("{}{}{}", row(3, "00:01:00"), row(4, "00:59:59"), row(5, "02:00:00"))]);
    assert_eq!(look(), [(0, 2)]);
    assert_eq!(look(), [(0, 2)], "they are counted once");
    run(2).expect("runs");
    assert_eq!(look(), [(0, 2)]);
    assert_eq!(run(0).expect("runs").generation.0, 2);
    assert_eq!(look(), []);
    assert_eq!(shop.shelf.rows("out").len(), 5);
}

#[test]
fn late_rows_mark_the_intervals_whose_windows_reach_back_to_them() {
    let shop = Shop::new(
        "CREATE TABLE out (n BIGINT, window_start TIMESTAMP, window_end TIMESTAMP, PRIMARY KEY (window_start)) WITH (connector = 'shelf', path = 'out', write = 'upsert');
        INSERT INTO out SELECT count(*) AS n, window_start, window_end FROM HOP(raw, at, INTERVAL '30 minutes', INTERVAL '90 minutes') GROUP BY window_start, window_end;",
    );
    let row = |id: u32, at: &str| format!("{id},eu,1,1970-01-01T{at}\n");
    let all = row(1, "00:30:00");
    shop.shelf.put("raw", &[&all]);
    for hour in 0..4 {
        shop.run(hour * 3600, (hour + 1) * 3600).map_err(|e| shown(&e)).expect("runs");
    }
    shop.shelf.put("raw", &[&all, &row(2, "00:50:00")]);
    let marks = block_on(async { Runner::open(&shop.catalog, "p", shop.context())?.look().await }).expect("looks");
    let hours: Vec<i64> = marks.iter().map(|mark| mark.interval.start.0 / 3_600_000_000).collect();
    let ends: Vec<i64> = marks.iter().map(|mark| mark.interval.end.0 / 3_600_000_000).collect();
    // Its windows end at 01:00, 01:30 and 02:00; a window belongs to the interval in which it ends.
    assert_eq!((hours, ends), (vec![0, 1], vec![1, 2]));
}

/// Hours of two steps: the second looks back half an hour at the first one's table.
const LOOKING_BACK: &str = "
    CREATE TABLE staging (id BIGINT, region VARCHAR, at TIMESTAMP, WATERMARK FOR at AS at)
        WITH (connector = 'shelf', path = 'staging', write = 'replace', time_column = 'at');
    CREATE TABLE report (n BIGINT, window_start TIMESTAMP, window_end TIMESTAMP, PRIMARY KEY (window_start))
        WITH (connector = 'shelf', path = 'report', write = 'upsert');
    INSERT INTO staging SELECT id, region, at FROM raw;
    INSERT INTO report SELECT count(*) AS n, window_start, window_end
        FROM HOP(staging, at, INTERVAL '30 minutes', INTERVAL '1 hour') GROUP BY window_start, window_end;
";

impl Shop {
    fn hour(&self, hour: i64, anew: Anew) -> Result<IntervalReport> {
        let asked = Asked { anew, ..Asked::of(seconds(hour * 3600, (hour + 1) * 3600)) };
        block_on(async { Runner::open(&self.catalog, "p", self.context())?.run(&asked, &|_, _, _| None).await })
    }

    /// The hours that lack rows, and how many.
    fn stale(&self) -> Vec<(i64, u64)> {
        let marks = block_on(async { Runner::open(&self.catalog, "p", self.context())?.look().await });
        marks.expect("looks").iter().map(|mark| (mark.interval.start.0 / 3_600_000_000, mark.rows)).collect()
    }
}

fn order(id: u32, at: &str) -> String {
    format!("{id},eu,1,1970-01-01T{at}\n")
}

#[test]
fn rows_that_come_between_two_attempts_are_not_lost() {
    let shop = Shop::new(LOOKING_BACK);
    let first = order(1, "00:10:00");
    shop.shelf.put("raw", &[&first]);
    shop.shelf.fail_writing(Some("report"));
    shop.hour(0, Anew::Rest).expect_err("fails");
    // Staging stands without it, and is kept by the next attempt.
    shop.shelf.put("raw", &[&first, &order(2, "00:20:00")]);
    shop.shelf.fail_writing(None);
    assert_eq!(shop.hour(0, Anew::Rest).map_err(|e| shown(&e)).expect("runs").kept, ["staging"]);
    assert_eq!(shop.stale(), [(0, 1)]);
    // A run from a later step on reads nothing again, so the mark stays.
    shop.hour(0, Anew::From("report".to_owned())).expect("runs");
    assert_eq!(shop.stale(), [(0, 1)]);
    shop.hour(0, Anew::All).expect("runs");
    assert_eq!(shop.stale(), []);
    assert_eq!(shop.shelf.rows("staging").len(), 2);
}

#[test]
fn hours_that_looked_back_at_one_that_was_missing_are_run_again() {
    let shop = Shop::new(LOOKING_BACK);
    shop.shelf
        .put("raw", &[&order(1, "00:40:00"), &order(2, "01:10:00"), &order(3, "02:50:00"), &order(4, "03:10:00")]);
    for hour in [1, 2, 3] {
        shop.hour(hour, Anew::Rest).map_err(|e| shown(&e)).expect("runs");
    }
    assert_eq!(shop.stale(), []);
    shop.hour(0, Anew::Rest).expect("runs");
    assert_eq!(shop.stale(), [(1, 0)], "its first window begins in the hour that was missing");
    shop.hour(1, Anew::All).expect("runs");
    assert!(shop.stale().iter().all(|(hour, _)| *hour == 2), "{:?}", shop.stale());
    let whole = Shop::new(LOOKING_BACK);
    whole
        .shelf
        .put("raw", &[&order(1, "00:40:00"), &order(2, "01:10:00"), &order(3, "02:50:00"), &order(4, "03:10:00")]);
    for hour in 0..4 {
        whole.hour(hour, Anew::Rest).expect("runs");
    }
    assert_eq!(whole.stale(), []);
    assert_eq!(shop.shelf.rows("report"), whole.shelf.rows("report"));
}

#[test]
fn letters_of_rows_written_and_of_records_read_stand_beside_each_other() {
    let shop = Shop::new(&format!(
        "{LOOKING_BACK} CREATE EXPECTATION known ON staging CHECK (region = 'eu') ON VIOLATION QUARANTINE;"
    ));
    shop.shelf.put("raw", &[&order(1, "00:10:00"), "2,xx,1,1970-01-01T00:11:00\n", "3,eu,-1,1970-01-01T00:12:00\n"]);
    let letters = || {
        let of = |dataset: &str| {
            shop.query(&format!("SELECT reason, count(*) FROM {dataset}.dead_letters GROUP BY 1")).expect("answers")
        };
        (of("raw"), of("staging"))
    };
    let expected = (vec!["positive,1".to_owned()], vec!["known,1".to_owned()]);
    for anew in [Anew::Rest, Anew::All, Anew::From("report".to_owned()), Anew::All] {
        shop.hour(0, anew).map_err(|e| shown(&e)).expect("runs");
        assert_eq!(letters(), expected);
    }
}

#[test]
fn what_only_ever_adds_rows_is_tried_again_until_they_stand_and_never_after() {
    let shop = Shop::new(
        "CREATE TABLE staging (id BIGINT, at TIMESTAMP, WATERMARK FOR at AS at)
            WITH (connector = 'shelf', path = 'staging', write = 'replace', time_column = 'at');
        CREATE TABLE added (id BIGINT) WITH (connector = 'shelf', path = 'added');
        CREATE TABLE last (id BIGINT, at TIMESTAMP) WITH (connector = 'shelf', path = 'last', write = 'replace', time_column = 'at');
        INSERT INTO staging SELECT id, at FROM raw; INSERT INTO added SELECT id FROM staging; INSERT INTO last SELECT id, at FROM staging;",
    );
    shop.shelf.put("raw", &[&order(1, "00:10:00")]);
    shop.shelf.fail_writing(Some("added"));
    shop.hour(0, Anew::Rest).expect_err("fails");
    shop.shelf.fail_writing(None);
    let report = shop.hour(0, Anew::Rest).map_err(|e| shown(&e)).expect("runs");
    assert_eq!((report.kept.len(), shop.shelf.rows("added")), (2, vec!["1".to_owned()]));
    // In another hour the rows stand, and what fails is beside them.
    shop.shelf.put("raw", &[&order(1, "00:10:00"), &order(2, "01:10:00")]);
    shop.shelf.fail_writing(Some("last"));
    shop.hour(1, Anew::Rest).expect_err("fails, but the rows are added");
    assert_eq!(shop.shelf.rows("added"), ["1", "2"]);
    shop.shelf.fail_writing(None);
    assert!(shown(&shop.hour(1, Anew::All).expect_err("refused")).contains("P182"));
    shop.hour(1, Anew::Rest).map_err(|e| shown(&e)).expect("runs");
    assert_eq!(shop.shelf.rows("added"), ["1", "2"]);
}
