//! Splits that vanish after they were read: what stands keeps their rows, and hours that do not need them run on.

use std::sync::Arc;

use async_trait::async_trait;
use tidemill_checkpoint::{Fault, Manifest};
use tidemill_model::{Error, Kind, Result, Timestamp};

use super::super::{Anew, Asked, Call, IntervalReport, Programs, RunContext, Runner, finish_interval};
use super::shelf::Shelf;
use super::{Shop, block_on, seconds, shown};

const HOUR: i64 = 3600;
const OUT: &str = "CREATE TABLE out (id BIGINT, at TIMESTAMP) WITH (connector = 'shelf', path = 'out', write = 'replace', time_column = 'at');
    INSERT INTO out SELECT id, at FROM raw;";

fn order(id: u32, hour: i64, minute: u32) -> String {
    let (day, hour) = (1 + hour / 24, hour % 24);
    format!("{id},eu,1,1970-01-{day:02}T{hour:02}:{minute:02}:00\n")
}

/// How an hour is asked for.
#[derive(Clone, Copy, Default)]
struct How {
    again: bool,
    from_what_is_left: bool,
    keeps_refusal: bool,
}

const AGAIN: How = How { again: true, from_what_is_left: false, keeps_refusal: false };
const ANYWAY: How = How { again: true, from_what_is_left: true, keeps_refusal: false };
/// As a scheduler asks, which goes on with what is on record.
const DUE: How = How { again: false, from_what_is_left: false, keeps_refusal: true };

impl Shop {
    /// Runs an hour in a process of its own.
    fn in_hour(&self, hour: i64, how: How) -> Result<IntervalReport> {
        let asked = Asked {
            anew: if how.again { Anew::All } else { Anew::Rest },
            from_what_is_left: how.from_what_is_left,
            keeps_refusal: how.keeps_refusal,
            ..Asked::of(seconds(hour * HOUR, (hour + 1) * HOUR))
        };
        block_on(async { Runner::open(&self.catalog, "p", self.context())?.run(&asked, &|_, _, _| None).await })
    }

    fn first(&self, hours: impl IntoIterator<Item = i64>) {
        for hour in hours {
            self.in_hour(hour, How::default()).map_err(|e| shown(&e)).expect("runs");
        }
    }

    fn refusal(&self, hour: i64, how: How) -> Error {
        let error = self.in_hour(hour, how).expect_err("is refused");
        assert_eq!((error.code(), error.kind()), ("D113", Kind::Data), "{}", shown(&error));
        error
    }

    fn look(&self) -> Vec<(i64, u64)> {
        let marks = block_on(async { Runner::open(&self.catalog, "p", self.context())?.look().await });
        let hour = |at: Timestamp| at.0 / HOUR / 1_000_000;
        marks.map_err(|e| shown(&e)).expect("looks").iter().map(|m| (hour(m.interval.start), m.rows)).collect()
    }

    fn record(&self) -> Manifest {
        self.context().checkpoints.latest().expect("reads").expect("is there")
    }

    /// First and end of each stretch that is gone, in hours, and of how many splits.
    fn gone(&self) -> Vec<(i64, i64, u64)> {
        let hour = |at: Timestamp| at.0 / HOUR / 1_000_000;
        let gone = self.record().gone.ranges_of("raw");
        gone.iter().map(|r| (hour(r.interval.start), hour(r.interval.end), r.splits)).collect()
    }

    fn out(&self) -> usize {
        self.shelf.rows("out").len()
    }
}

/// Hours of one row each, from a split each, and some rows more that come late.
fn put(shop: &Shop, hours: i64, late: &[String]) {
    let hours = (0..hours).map(|hour| order(u32::try_from(hour).expect("few"), hour, 10));
    let all: Vec<String> = hours.chain(late.iter().cloned()).collect();
    shop.shelf.put("raw", &all.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn rows_of_splits_that_are_gone_stay_until_somebody_says_otherwise() {
    let shop = Shop::new(OUT);
    put(&shop, 6, &[]);
    shop.first(0..4);
    assert_eq!((shop.look(), shop.gone()), (vec![], vec![]));
    // Three are gone, of which one nobody has read, and a late row comes.
    shop.shelf.take_away("raw", [1, 2, 5]);
    put(&shop, 6, &[order(100, 2, 30)]);
    assert_eq!((shop.look(), shop.gone()), (vec![(2, 1)], vec![(1, 3, 2)]));
    for how in [AGAIN, DUE, DUE] {
        let error = shown(&shop.refusal(2, how));
        assert!(error.contains("the file `2` of `raw` is gone"), "{error}");
        assert!(
            error.contains("they had rows from 1970-01-01T02:00:00Z to 1970-01-01T03:00:00Z, which `out` needs"),
            "{error}"
        );
        assert!(
            error.contains("tidemill run p --interval 1970-01-01T02:00:00Z/1970-01-01T03:00:00Z --from-what-is-left")
        );
        assert_eq!(shop.out(), 4);
    }
    // What a person asks for is told; what a scheduler asks for is on record, and not tried again.
    let record = shop.record();
    let open = record.runs.of(seconds(2 * HOUR, 3 * HOUR)).expect("is on record");
    assert_eq!((open.failed, open.is_given_up(), open.generation.0), (2, true, 2));
    // Others run on, first and again.
    assert_eq!(shop.in_hour(3, AGAIN).expect("runs").generation.0, 2);
    shop.first([4]);
    assert_eq!(shop.look(), [(2, 1)]);
    // Back: all rows, and the run that was given up may go on.
    shop.shelf.put_back();
    let mut marks = shop.look();
    marks.sort_unstable();
    assert_eq!((marks, shop.gone()), (vec![(1, 1), (2, 2)], vec![]));
    assert!(!shop.record().runs.of(seconds(2 * HOUR, 3 * HOUR)).expect("is on record").is_given_up());
    assert_eq!(shop.in_hour(2, DUE).map_err(|e| shown(&e)).expect("runs").generation.0, 2);
    assert_eq!((shop.out(), shop.look()), (6, vec![(1, 1)]));
    // Gone again, and somebody says so.
    shop.shelf.take_away("raw", [1, 2]);
    shop.refusal(2, AGAIN);
    shop.in_hour(2, ANYWAY).map_err(|e| shown(&e)).expect("runs");
    assert_eq!((shop.out(), shop.gone()), (5, vec![(1, 2, 1)]));
    shop.in_hour(2, AGAIN).expect("is not asked again");
    shop.refusal(1, AGAIN);
    // What was computed without it has it once it is back.
    shop.shelf.put_back();
    assert_eq!((shop.look().iter().filter(|(hour, _)| *hour == 2).count(), shop.gone()), (1, vec![]));
    shop.in_hour(2, AGAIN).expect("runs");
    assert_eq!(shop.out(), 6);
}

#[test]
fn a_name_that_is_used_again_for_other_rows_brings_nothing_back() {
    let shop = Shop::new(OUT);
    put(&shop, 3, &[]);
    shop.first(0..3);
    shop.shelf.take_away("raw", [0]);
    shop.look();
    shop.shelf.put_back();
    let (other, second, third) = (order(7, 0, 11), order(1, 1, 10), order(2, 2, 10));
    shop.shelf.put("raw", &[&other, &second, &third]);
    assert_eq!((shop.look(), shop.gone()), (vec![(0, 1)], vec![(0, 1, 1)]));
    shop.refusal(0, AGAIN);
    put(&shop, 3, &[]);
    shop.shelf.take_away("raw", [0]);
    shop.look();
    shop.shelf.put_back();
    shop.look();
    // The other rows went the same way, and are missed as well.
    assert_eq!(shop.gone(), [(0, 1, 1)]);
    shop.shelf.put("raw", &[&other, &second, &third]);
    shop.shelf.take_away("raw", [0]);
    shop.look();
    shop.shelf.put_back();
    shop.look();
    assert_eq!(shop.gone(), [(0, 1, 1)], "the first rows, as they came back and went");
}

#[test]
fn rows_that_were_never_looked_at_are_all_that_was_read() {
    let first = |hours: i64| {
        let shop = Shop::new(OUT);
        put(&shop, 1, &[]);
        shop.first(0..hours);
        shop.shelf.take_away("raw", [0]);
        put(&shop, 1, &[order(9, 1, 0), order(9, 2, 0), order(9, 3, 0)]);
        shop.look();
        shop
    };
    // One split is not worth being read for its times before anything is done.
    let shop = first(1);
    assert_eq!(shop.gone(), [(0, 1, 1)]);
    shop.refusal(0, AGAIN);
    shop.first([1, 2]);
    // With the second hour it was.
    let shop = first(3);
    assert_eq!(shop.gone(), [(0, 1, 1)]);
    shop.in_hour(1, AGAIN).map_err(|e| shown(&e)).expect("runs");
    shop.in_hour(2, AGAIN).map_err(|e| shown(&e)).expect("runs");
    shop.refusal(0, AGAIN);
    // What is only told by its name is not known again.
    let shop = first(1);
    shop.shelf.put_back();
    shop.look();
    assert_eq!(shop.gone(), [(0, 1, 1)]);
}

#[test]
fn where_nothing_is_listed_at_all_nothing_is_taken_for_gone() {
    let shop = Shop::new(OUT);
    put(&shop, 4, &[]);
    shop.first(0..3);
    let seen = shop.record().seen.clone();
    shop.shelf.take_away("raw", 0..4);
    assert_eq!((shop.look(), shop.gone()), (vec![], vec![]));
    let error = shop.in_hour(1, DUE).expect_err("is refused");
    assert_eq!((error.code(), error.kind()), ("U064", Kind::Unavailable));
    assert!(shown(&error).contains("`raw` has no file any more, where some were read"), "{}", shown(&error));
    assert_eq!((shop.out(), &shop.record().seen), (3, &seen));
    // The disk is back: nobody has missed anything, and what was given up goes on.
    shop.shelf.put_back();
    assert_eq!((shop.look(), shop.gone()), (vec![], vec![]));
    assert!(!shop.record().runs.of(seconds(HOUR, 2 * HOUR)).expect("is on record").is_given_up());
    shop.in_hour(1, DUE).map_err(|e| shown(&e)).expect("runs");
    // It is not: a first run has nothing to take away, and somebody may say that it will not be back.
    shop.shelf.take_away("raw", 0..4);
    let warned = shop.in_hour(3, How::default()).map_err(|e| shown(&e)).expect("runs");
    assert_eq!((warned.targets[0].rows, shop.out()), (0, 3));
    shop.in_hour(1, ANYWAY).map_err(|e| shown(&e)).expect("runs");
    assert_eq!(shop.out(), 2);
}

/// A table of the windows of a query.
fn windows(query: &str) -> Shop {
    Shop::new(&format!(
        "CREATE TABLE out (n BIGINT, window_start TIMESTAMP, window_end TIMESTAMP, PRIMARY KEY (window_start)) WITH (connector = 'shelf', path = 'out', write = 'upsert');
        INSERT INTO out SELECT count(*) AS n, window_start, window_end FROM {query} GROUP BY window_start, window_end;"
    ))
}

#[test]
fn windows_that_reach_back_to_what_is_gone_are_not_published_without_it() {
    let shop = windows("HOP(raw, at, INTERVAL '30 minutes', INTERVAL '90 minutes')");
    put(&shop, 6, &[]);
    shop.first(0..4);
    shop.shelf.take_away("raw", [0, 3]);
    shop.look();
    assert_eq!(shop.gone(), [(0, 1, 1), (3, 4, 1)]);
    // Its own hour, the one after and those of the other; and one that was never run, whose windows would lack rows.
    for hour in [0, 1, 3, 4] {
        shop.refusal(hour, if hour < 4 { AGAIN } else { How::default() });
    }
    shop.in_hour(2, AGAIN).map_err(|e| shown(&e)).expect("runs");
    shop.first([5]);
    let error = shown(&shop.refusal(4, How::default()));
    assert!(error.contains("rows from 1970-01-01T03:00:00Z to 1970-01-01T04:00:00Z"), "{error}");
    shop.in_hour(4, ANYWAY).map_err(|e| shown(&e)).expect("runs");
    // What it looked back at is of another hour, which still has its rows.
    assert_eq!(shop.gone(), [(0, 1, 1), (3, 4, 1)]);
}

#[test]
fn a_query_that_looks_back_over_all_time_runs_on_with_a_word() {
    let shop = windows("SESSION(raw, at, INTERVAL '10 minutes')");
    put(&shop, 4, &[]);
    shop.first(0..3);
    shop.shelf.take_away("raw", [0]);
    let report = shop.in_hour(3, How::default()).map_err(|e| shown(&e)).expect("runs");
    let [warning] = &report.warnings[..] else { panic!("{:?}", report.warnings) };
    assert_eq!(
        warning,
        "what it owes to rows that are gone is missing: the file `0` of `raw`, with rows from 1970-01-01T00:00:00Z to 1970-01-01T01:00:00Z"
    );
    shop.refusal(2, AGAIN);
}

#[test]
fn a_result_over_all_rows_is_not_set_back() {
    let shop = Shop::new(
        "CREATE TABLE out (region VARCHAR, total BIGINT, PRIMARY KEY (region)) WITH (connector = 'shelf', path = 'out', write = 'upsert');
        INSERT INTO out SELECT region, sum(amount) FROM raw GROUP BY region;",
    );
    put(&shop, 6, &[]);
    shop.first(0..3);
    assert_eq!(shop.shelf.rows("out"), ["eu,3"]);
    shop.shelf.take_away("raw", [0]);
    shop.refusal(3, How::default());
    assert_eq!(shop.shelf.rows("out"), ["eu,3"]);
    shop.in_hour(3, ANYWAY).map_err(|e| shown(&e)).expect("runs");
    assert_eq!((shop.shelf.rows("out"), shop.gone()), (vec!["eu,3".to_owned()], vec![]));
    shop.first([4]);
    assert_eq!(shop.shelf.rows("out"), ["eu,4"]);
}

/// Staging from the files, and a table from staging.
const CHAIN: &str = "
    CREATE TABLE staging (id BIGINT, at TIMESTAMP, WATERMARK FOR at AS at)
        WITH (connector = 'shelf', path = 'staging', write = 'replace', time_column = 'at');
    CREATE TABLE out (id BIGINT, at TIMESTAMP) WITH (connector = 'shelf', path = 'out', write = 'replace', time_column = 'at');
    INSERT INTO staging SELECT id, at FROM raw;
    INSERT INTO out SELECT id, at FROM staging;
";

#[test]
fn steps_that_read_what_others_of_the_run_have_written_need_no_file() {
    let shop = Shop::new(CHAIN);
    put(&shop, 3, &[]);
    shop.first([0]);
    shop.shelf.fail_writing(Some("out"));
    shop.in_hour(1, How::default()).expect_err("fails, but staging stands");
    shop.shelf.fail_writing(None);
    shop.shelf.take_away("raw", [0, 1]);
    shop.look();
    assert_eq!(shop.gone(), [(0, 2, 2)]);
    assert_eq!(shop.in_hour(1, How::default()).map_err(|e| shown(&e)).expect("runs").kept, ["staging"]);
    let from = Asked { anew: Anew::From("out".to_owned()), ..Asked::of(seconds(0, HOUR)) };
    let run = |asked: &Asked| {
        block_on(async { Runner::open(&shop.catalog, "p", shop.context())?.run(asked, &|_, _, _| None).await })
    };
    run(&from).map_err(|e| shown(&e)).expect("runs");
    let from = Asked { from_what_is_left: true, ..from };
    run(&from).map_err(|e| shown(&e)).expect("runs");
    assert_eq!(shop.gone(), [(0, 2, 2)], "staging has its rows as before");
    let error = run(&Asked { anew: Anew::From("staging".to_owned()), ..Asked::of(seconds(0, HOUR)) });
    assert_eq!(error.expect_err("is refused").code(), "D113");
    assert_eq!(shop.out(), 2);
    // One that has failed goes on without being told again, and only what was gone when it began is forgotten.
    put(&shop, 3, &[order(100, 0, 30)]);
    shop.shelf.fail_writing(Some("out"));
    shop.in_hour(0, ANYWAY).expect_err("fails, but staging stands");
    shop.shelf.fail_writing(None);
    assert_eq!(shop.in_hour(0, DUE).map_err(|e| shown(&e)).expect("runs").kept, ["staging"]);
    assert_eq!((shop.shelf.rows("staging").len(), shop.out(), shop.gone()), (2, 2, vec![(1, 2, 1)]));
}

/// A program that takes a split away while the run goes on.
#[derive(Debug)]
struct Thief(Arc<Shelf>);

#[async_trait]
impl Programs for Thief {
    async fn run(&self, _: &Call) -> Result<Option<String>> {
        self.0.take_away("raw", [0]);
        Ok(None)
    }
}

#[test]
fn a_split_that_vanishes_while_the_run_goes_on_is_not_left_out() {
    let shop = Shop::new(&format!("{OUT} CREATE TASK steal BEFORE out WITH (command = 'x');"));
    put(&shop, 3, &[]);
    let context = RunContext { programs: Arc::new(Thief(Arc::clone(&shop.shelf))), ..shop.context() };
    let run = |anew| {
        let asked = Asked { anew, keeps_refusal: true, ..Asked::of(seconds(0, HOUR)) };
        block_on(async { Runner::open(&shop.catalog, "p", context.clone())?.run(&asked, &|_, _, _| None).await })
    };
    assert_eq!(run(Anew::Rest).expect_err("its rows were there").code(), "U065");
    // It is back: whoever looks next lets the run go on.
    shop.shelf.put_back();
    assert_eq!(shop.look(), []);
    let open = shop.record().runs.of(seconds(0, HOUR)).cloned().expect("is on record");
    assert_eq!((open.steps.len(), open.failure.is_some_and(|failure| failure.retry_at.is_some())), (1, true));
    run(Anew::Rest).map_err(|e| shown(&e)).expect("runs, as the thief has been there");
    assert_eq!(run(Anew::All).expect_err("it steals again").code(), "U065");
    assert_eq!(run(Anew::All).expect_err("it is gone").code(), "D113");
    assert_eq!(shop.out(), 1);
}

#[test]
fn a_process_that_dies_at_any_write_loses_no_row_and_forgets_nothing() {
    let begin = || {
        let shop = Shop::new(CHAIN);
        put(&shop, 3, &[]);
        shop.first(0..3);
        shop.shelf.take_away("raw", [0]);
        put(&shop, 3, &[order(100, 0, 30)]);
        shop
    };
    // Refused, then back and run, then away and run without: each by whoever comes next.
    let story = |shop: &Shop, dies: bool| {
        let must = |outcome: Result<IntervalReport>| {
            if let (Err(error), false) = (outcome, dies) {
                panic!("{}", shown(&error));
            }
        };
        for _ in 0..2 {
            let refused = shop.in_hour(0, DUE).expect_err("never runs");
            assert!(refused.code() == "D113" || dies, "{}", shown(&refused));
            assert_eq!(shop.out(), 3);
        }
        shop.shelf.put_back();
        must(shop.in_hour(0, DUE));
        shop.shelf.take_away("raw", [0]);
        must(shop.in_hour(0, ANYWAY));
    };
    let whole = begin();
    let before = whole.store.writes();
    story(&whole, false);
    let writes = whole.store.writes() - before;
    assert!(writes > 12, "{writes}");
    for at in 0..writes {
        for fault in [Fault::Before, Fault::After] {
            let shop = begin();
            shop.store.fail_after(at, fault);
            story(&shop, true);
            shop.store.heal();
            // Whatever was on record: with the file away, nothing that stands goes away unless somebody has said so.
            let open = shop.record().runs.of(seconds(0, HOUR)).cloned();
            let said = open.is_some_and(|run| run.from_what_is_left.is_some());
            finish_interval(&shop.catalog, "p", &shop.context().checkpoints).expect("publishes what is on record");
            let stood = shop.out();
            let outcome = shop.in_hour(0, DUE);
            assert!(outcome.is_err() || said || shop.out() >= stood, "{at} {fault:?}: {stood}");
            shop.shelf.put_back();
            shop.look();
            shop.in_hour(0, AGAIN).map_err(|e| shown(&e)).expect("runs");
            assert_eq!((shop.out(), shop.gone()), (4, vec![]), "{at} {fault:?}");
        }
    }
}

#[test]
fn thousands_of_hours_whose_files_were_archived_run_on_and_leave_a_small_record() {
    const HOURS: i64 = 5_000;
    let shop = Shop::new(OUT);
    let at = |hour: i64| Timestamp(hour * HOUR * 1_000_000).to_string().replace('Z', "");
    let mut all: Vec<String> = (0..HOURS).map(|hour| format!("{hour},eu,1,{}\n", at(hour))).collect();
    let put = |all: &[String]| shop.shelf.put("raw", &all.iter().map(String::as_str).collect::<Vec<_>>());
    let size = || serde_json::to_vec(&shop.record()).expect("writes").len();
    put(&all);
    shop.run(0, HOURS * HOUR).map_err(|e| shown(&e)).expect("runs");
    let before = size();
    shop.shelf.take_away("raw", 0..HOURS as usize);
    all.push(format!("{HOURS},eu,1,{}\n", at(HOURS)));
    put(&all);
    shop.first([HOURS]);
    assert_eq!((shop.out() as i64, shop.gone()), (HOURS + 1, vec![(0, HOURS, HOURS as u64)]));
    assert!(size() < 48 << 10 && size() < before / 4, "{before} bytes became {}", size());
    // Each day one more is archived, and one comes.
    for hour in HOURS + 1..HOURS + 6 {
        shop.shelf.take_away("raw", [hour as usize - 1]);
        all.push(format!("{hour},eu,1,{}\n", at(hour)));
        put(&all);
        shop.first([hour]);
    }
    assert_eq!(shop.gone(), [(0, HOURS + 5, HOURS as u64 + 5)]);
    assert!(size() < 48 << 10, "{}", size());
    shop.refusal(17, AGAIN);
    assert_eq!(shop.out() as i64, HOURS + 6);
}
