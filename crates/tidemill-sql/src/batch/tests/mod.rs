//! Runs of intervals and queries over tables in memory; the oracle is the same query over everything at once.

mod expect;
mod forecast;
mod gone;
mod overwrite;
mod queries;
mod shelf;
mod steps;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use tidemill_checkpoint::{Checkpoints, Manifest, Memory, OperatorState, ViewState};
use tidemill_model::{Epoch, Error, Interval, Kind, Result, Timestamp};
use tidemill_runtime::exec::StopFlag;
use tidemill_runtime::{GONE, WEIGHT, ipc};

use super::{
    Asked, BatchProgress, IntervalReport, NoPrograms, Resources, RunContext, Stored, finish_interval, query,
    run_interval,
};
use crate::catalog::Catalog;
use crate::language::render;
use shelf::{Shelf, Still, catalog};

const RAW: &str = "
    CREATE PIPELINE p;
    CREATE TABLE raw (id BIGINT, region VARCHAR, amount BIGINT, at TIMESTAMP,
        WATERMARK FOR at AS at - INTERVAL '1 second',
        CONSTRAINT positive CHECK (amount > 0) ON VIOLATION DEAD LETTER) WITH (connector = 'shelf', path = 'raw');
    CREATE TABLE regions (region VARCHAR, name VARCHAR) WITH (connector = 'shelf', path = 'regions');
";

/// Rows over ten seconds, in two splits; one is negative, one has no event time.
const ROWS: [&str; 2] = [
    "1,eu,10,1970-01-01T00:00:00\n2,us,20,1970-01-01T00:00:01.5\n3,eu,30,1970-01-01T00:00:04\n4,us,-1,1970-01-01T00:00:05\n",
    "5,eu,50,1970-01-01T00:00:04.999999\n6,us,60,\n7,us,70,1970-01-01T00:00:09.999999\n8,eu,80,1970-01-01T00:00:06\n9,xx,90,1970-01-01T00:00:05\n",
];

struct Shop {
    shelf: Arc<Shelf>,
    store: Arc<Memory>,
    catalog: Catalog,
    lanes: usize,
}

impl Shop {
    fn new(sql: &str) -> Shop {
        Shop::with(sql, false)
    }

    /// With these options of the pipeline.
    fn with_options(options: &str, sql: &str) -> Shop {
        let mut shop = Shop::new(sql);
        let raw = RAW.replace("CREATE PIPELINE p;", &format!("CREATE PIPELINE p WITH ({options});"));
        shop.catalog = catalog(&shop.shelf, &format!("{raw}{sql}"), false);
        shop
    }

    /// `native` when DataFusion reads the tables itself.
    fn with(sql: &str, native: bool) -> Shop {
        let shelf = Arc::new(Shelf::default());
        shelf.put("raw", &ROWS);
        shelf.put("regions", &["eu,Europe\nus,America\n"]);
        let catalog = catalog(&shelf, &format!("{RAW}{sql}"), native);
        Shop { shelf, store: Arc::new(Memory::new()), catalog, lanes: 3 }
    }

    fn context(&self) -> RunContext {
        RunContext {
            clock: Arc::new(Still),
            checkpoints: Arc::new(Checkpoints::new(Arc::clone(&self.store) as _, "p")),
            programs: Arc::new(NoPrograms),
            lanes: self.lanes,
            memory: 100 << 20,
            spill: spill(),
        }
    }

    /// Runs `[start, end)` in seconds.
    fn run(&self, start: i64, end: i64) -> Result<IntervalReport> {
        block_on(run_interval(&self.catalog, "p", Asked::of(seconds(start, end)), &self.context()))
    }

    fn query(&self, sql: &str) -> Result<Vec<String>> {
        let resources = Resources { partitions: self.lanes, memory: 100 << 20, spill: spill() };
        let views = Stored::new(Arc::clone(&self.store) as _);
        let answer = block_on(query(&self.catalog, &views, sql, &resources, StopFlag::default()))?;
        Ok(lines(&answer.batches))
    }
}

fn spill() -> PathBuf {
    std::env::temp_dir().join("tidemill-batch-tests")
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build();
    runtime.expect("a runtime").block_on(future)
}

fn seconds(start: i64, end: i64) -> Interval {
    Interval { start: Timestamp(start * 1_000_000), end: Timestamp(end * 1_000_000) }
}

/// Rows as lines of text, in order.
fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let mut lines = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let cell = |c: &Arc<dyn arrow::array::Array>| {
                ArrayFormatter::try_new(c.as_ref(), &options).expect("shows").value(row).to_string()
            };
            lines.push(batch.columns().iter().map(cell).collect::<Vec<_>>().join(","));
        }
    }
    lines
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

fn shown(error: &Error) -> String {
    render(error, false)
}

/// Queries whose results belong to intervals: columns of the target, its write clause, and the query.
const LOCAL: &[(&str, &str, &str)] = &[
    ("id BIGINT, amount BIGINT, at TIMESTAMP", "write = 'replace', time_column = 'at'", "SELECT id, amount * 2, at FROM raw WHERE region <> 'xx'"),
    (
        "id BIGINT, name VARCHAR, at TIMESTAMP",
        "write = 'replace', time_column = 'at'",
        "SELECT r.id, d.name, r.at FROM raw r LEFT JOIN regions d ON r.region = d.region",
    ),
    (
        "region VARCHAR, window_start TIMESTAMP, total BIGINT",
        "write = 'replace'",
        "SELECT region, window_start, sum(amount) FROM TUMBLE(raw, at, INTERVAL '1 second') GROUP BY region, window_start, window_end",
    ),
    // Windows that are longer than the interval, and lie across its ends.
    (
        "region VARCHAR, window_end TIMESTAMP, n BIGINT, PRIMARY KEY (region, window_end)",
        "write = 'upsert'",
        "SELECT region, window_end, count(*) FROM TUMBLE(raw, at, INTERVAL '3 seconds') GROUP BY region, window_start, window_end",
    ),
    // Windows over windows.
    (
        "w TIMESTAMP, most BIGINT, PRIMARY KEY (w)",
        "write = 'upsert'",
        "SELECT window_start, max(total) FROM TUMBLE((SELECT window_start AS t, region, sum(amount) AS total
            FROM TUMBLE(raw, at, INTERVAL '2 seconds') GROUP BY region, window_start, window_end), t, INTERVAL '4 seconds')
         GROUP BY window_start, window_end",
    ),
    (
        "region VARCHAR, at TIMESTAMP",
        "write = 'replace', time_column = 'at'",
        "SELECT region, at FROM raw UNION ALL SELECT 'again', at FROM raw WHERE amount > 20",
    ),
    ("region VARCHAR, w TIMESTAMP, PRIMARY KEY (region, w)", "write = 'upsert'",
        "SELECT DISTINCT region, window_start FROM TUMBLE(raw, at, INTERVAL '2 seconds')"),
    (
        "w TIMESTAMP, a BIGINT, b BIGINT, PRIMARY KEY (w)",
        "write = 'upsert'",
        "SELECT a.window_start, a.n AS a, b.n AS b FROM
            (SELECT window_start, count(*) AS n FROM TUMBLE(raw, at, INTERVAL '2 seconds') WHERE region = 'eu' GROUP BY window_start, window_end) a
            JOIN (SELECT window_start, count(*) AS n FROM TUMBLE(raw, at, INTERVAL '2 seconds') WHERE region = 'us' GROUP BY window_start, window_end) b
            ON a.window_start = b.window_start",
    ),
];

#[test]
fn the_union_over_intervals_is_the_whole_whatever_the_cuts_and_lanes() {
    for (columns, write, select) in LOCAL {
        for (lanes, native) in [(1, false), (3, false), (2, true)] {
            for cuts in [&[0, 12][..], &[0, 4, 8, 12], &[-4, 0, 2, 5, 6, 10, 12]] {
                let sql = format!(
                    "CREATE TABLE out ({columns}) WITH (connector = 'shelf', path = 'out', {write}); INSERT INTO out {select};"
                );
                let shop = Shop { lanes, ..Shop::with(&sql, native) };
                let expected = sorted(shop.query(select).map_err(|e| shown(&e)).expect("the oracle answers"));
                assert!(!expected.is_empty(), "{select}");
                // In any order, and one of them twice.
                let mut intervals: Vec<(i64, i64)> = cuts.windows(2).map(|cut| (cut[0], cut[1])).collect();
                intervals.reverse();
                intervals.push(intervals[0]);
                for (start, end) in intervals {
                    let report = shop.run(start, end).map_err(|e| shown(&e)).expect("runs");
                    assert_eq!(report.targets[0].whole_because, None, "{select}");
                }
                assert_eq!(shop.shelf.rows("out"), expected, "{select} {cuts:?} {lanes} {native}");
            }
        }
    }
}

#[test]
fn a_run_reads_no_more_than_it_needs() {
    let cases = [
        ("SELECT id, at FROM raw", 6),
        (
            "SELECT count(*), window_start FROM TUMBLE(raw, at, INTERVAL '4 seconds') GROUP BY window_start, window_end",
            4,
        ),
        ("SELECT count(*), window_start FROM TUMBLE(raw, at, INTERVAL '1 day') GROUP BY window_start, window_end", 0),
    ];
    for (select, from) in cases {
        let sql = format!(
            "CREATE TABLE out (n BIGINT, at TIMESTAMP, PRIMARY KEY (at)) WITH (connector = 'shelf', path = 'out', write = 'upsert'); INSERT INTO out {select};"
        );
        let report = Shop::new(&sql).run(6, 8).map_err(|e| shown(&e)).expect("runs");
        assert_eq!(report.targets[0].read_from, Some(Timestamp(from * 1_000_000)), "{select}");
    }
}

#[test]
fn a_query_over_all_time_is_its_result_so_far() {
    let sql = "CREATE TABLE out (region VARCHAR, total BIGINT, PRIMARY KEY (region)) WITH (connector = 'shelf', path = 'out', write = 'upsert');
        INSERT INTO out SELECT region, sum(amount) FROM raw GROUP BY region;";
    let shop = Shop::new(sql);
    let report = shop.run(4, 6).map_err(|e| shown(&e)).expect("runs");
    assert!(report.targets[0].whole_because.is_some() && report.targets[0].read_from.is_none());
    assert_eq!(shop.shelf.rows("out"), ["eu,90", "us,20", "xx,90"]);
    shop.run(6, 10).expect("runs");
    assert_eq!(shop.shelf.rows("out"), ["eu,170", "us,90", "xx,90"]);
}

#[test]
fn what_an_interval_cannot_replace_is_refused_in_words() {
    let windows = "SELECT region, window_start, sum(amount) FROM TUMBLE(raw, at, INTERVAL '4 seconds') GROUP BY region, window_start, window_end";
    let cases = [
        (
            "region VARCHAR, total BIGINT",
            "append",
            "SELECT region, sum(amount) FROM raw GROUP BY region",
            "P183",
            "GROUP BY has no window",
        ),
        ("id BIGINT, at TIMESTAMP", "append", "SELECT id, at FROM raw ORDER BY id LIMIT 3", "P183", "LIMIT"),
        ("id BIGINT", "append", "SELECT id FROM raw WHERE amount > (SELECT avg(amount) FROM raw)", "P183", "subquery"),
        (
            "a BIGINT, b BIGINT",
            "append",
            "SELECT a.id AS a, b.id AS b FROM raw a JOIN raw b ON a.region = b.region",
            "P183",
            "joins two datasets",
        ),
        ("n VARCHAR", "append", "SELECT name FROM regions", "P183", "no dataset with event time"),
        (
            "region VARCHAR, window_start TIMESTAMP, total BIGINT",
            "replace",
            windows,
            "P184",
            "begins and ends where windows do",
        ),
        (
            "id BIGINT, at TIMESTAMP",
            "replace', time_column = 'at",
            "SELECT id, at + INTERVAL '1 day' FROM raw",
            "P185",
            "unchanged",
        ),
    ];
    for (columns, write, select, code, words) in cases {
        let sql = format!(
            "CREATE TABLE out ({columns}) WITH (connector = 'shelf', path = 'out', write = '{write}'); INSERT INTO out {select};"
        );
        let shop = Shop::new(&sql);
        let error = shop.run(4, 6).expect_err(select);
        assert_eq!(error.code(), code, "{}", shown(&error));
        assert!(shown(&error).contains(words) && error.place().is_some(), "{}", shown(&error));
        assert_eq!(shop.store.writes(), 0, "nothing is on record");
    }
}

const COPY: &str = "CREATE TABLE out (id BIGINT, at TIMESTAMP) WITH (connector = 'shelf', path = 'out', write = 'replace', time_column = 'at');
    INSERT INTO out SELECT id, at FROM raw;";

#[test]
fn dead_letters_belong_to_their_interval_and_are_replaced_with_it() {
    for native in [false, true] {
        dead_letters_of(&Shop::with(COPY, native));
    }
}

fn dead_letters_of(shop: &Shop) {
    let letters = || {
        shop.query("SELECT reason, event_time, epoch FROM raw.dead_letters ORDER BY epoch, reason").expect("answers")
    };
    assert_eq!(letters(), Vec::<String>::new());
    let report = shop.run(0, 5).expect("runs");
    assert_eq!((report.counters.rows_read, report.counters.rows_accepted), (9, 7));
    assert_eq!(letters(), ["no event time,NULL,1"], "the negative one lies in the next interval");
    shop.run(5, 10).expect("runs");
    // The one without a time is found by each run and told once.
    let both = ["no event time,NULL,1", "positive,1970-01-01T00:00:05,2"];
    assert_eq!(letters(), both);
    // History is mended, the interval restated.
    shop.shelf.put("raw", &["1,eu,10,1970-01-01T00:00:00\n4,us,1,1970-01-01T00:00:05\n", ""]);
    assert_eq!(shop.run(5, 10).expect("runs").generation.0, 2);
    assert_eq!(letters(), ["no event time,NULL,1"]);
    assert_eq!(shop.run(0, 5).expect("runs").generation.0, 2);
    assert_eq!(letters(), Vec::<String>::new());
    assert_eq!(shop.shelf.rows("out"), ["1,1970-01-01T00:00:00", "4,1970-01-01T00:00:05"]);
}

#[test]
fn the_ledger_knows_what_is_done() {
    let shop = Shop::new(COPY);
    for (start, end) in [(0, 4), (4, 8), (8, 10), (4, 8)] {
        shop.run(start, end).expect("runs");
    }
    let manifest = shop.context().checkpoints.latest().expect("reads").expect("is there");
    assert_eq!(manifest.epoch.0, 4);
    let entries: Vec<_> = manifest.ledger.entries().iter().map(|e| (e.interval, e.generation.0)).collect();
    assert_eq!(entries, [(seconds(0, 4), 1), (seconds(4, 8), 2), (seconds(8, 10), 1)]);
}

#[test]
fn a_crash_between_record_and_publication_is_finished_by_whoever_comes_next() {
    let expected = ["1,1970-01-01T00:00:00", "2,1970-01-01T00:00:01.500"];
    let crashed = || {
        let shop = Shop::new(COPY);
        shop.shelf.die_at_next_commit();
        let error = shop.run(0, 4).expect_err("dies");
        assert!(shown(&error).contains("finishes its publication"), "{}", shown(&error));
        assert_eq!(shop.shelf.rows("out"), Vec::<String>::new());
        shop
    };
    let shop = crashed();
    finish_interval(&shop.catalog, "p", &shop.context().checkpoints).expect("finishes");
    assert_eq!(shop.shelf.rows("out"), expected);
    finish_interval(&shop.catalog, "p", &shop.context().checkpoints).expect("finishes again");
    assert_eq!(shop.shelf.rows("out"), expected);
    // A run of another interval finishes it too.
    let shop = crashed();
    shop.run(100, 101).expect("runs");
    assert_eq!(shop.shelf.rows("out"), expected);
}

#[test]
fn a_crash_at_any_step_and_a_rerun_leave_what_one_run_leaves() {
    let whole = Shop::new(COPY);
    whole.run(0, 10).expect("runs");
    let expected = whole.shelf.rows("out");
    let mut crashes = 0;
    for at in 0..10 {
        for fault in [tidemill_checkpoint::Fault::Before, tidemill_checkpoint::Fault::After] {
            let shop = Shop::new(COPY);
            shop.store.fail_after(at, fault);
            crashes += usize::from(shop.run(0, 10).is_err());
            shop.store.heal();
            shop.run(0, 10).map_err(|e| shown(&e)).expect("runs again");
            assert_eq!(shop.shelf.rows("out"), expected, "{at} {fault:?}");
            let letters = shop.query("SELECT count(*) FROM raw.dead_letters").expect("answers");
            assert_eq!(letters, ["2"], "{at} {fault:?}");
        }
    }
    assert!(crashes >= 4, "only {crashes} crashes were tried");
}

#[test]
fn appending_an_interval_twice_is_refused() {
    let sql =
        "CREATE TABLE out (id BIGINT) WITH (connector = 'shelf', path = 'out'); INSERT INTO out SELECT id FROM raw;";
    let shop = Shop::new(sql);
    shop.run(0, 4).expect("runs");
    shop.run(4, 8).expect("runs");
    let error = shop.run(3, 5).expect_err("refused");
    assert_eq!(error.code(), "P182", "{}", shown(&error));
    assert_eq!(shop.shelf.rows("out"), ["1", "2", "3", "5", "8", "9"]);
}

#[test]
fn history_is_read_where_there_is_one() {
    let sql = "CREATE TABLE live (id BIGINT, at TIMESTAMP, WATERMARK FOR at AS at) WITH (connector = 'shelf', path = 'live')
            HISTORY WITH (connector = 'shelf', path = 'past');
        CREATE TABLE out (id BIGINT, at TIMESTAMP) WITH (connector = 'shelf', path = 'out', write = 'replace', time_column = 'at');
        INSERT INTO out SELECT id, at FROM live;";
    let shop = Shop::new(sql);
    shop.shelf.put("live", &["1,1970-01-01T00:00:01\n"]);
    shop.shelf.put("past", &["2,1970-01-01T00:00:01\n"]);
    shop.run(0, 4).expect("runs");
    assert_eq!(shop.shelf.rows("out"), ["2,1970-01-01T00:00:01"]);
    assert_eq!(
        shop.shelf.opened(),
        ["past", "past"],
        "only what the query reads is listed: for late rows, and to be read"
    );
    assert_eq!(shop.query("SELECT id FROM live").expect("answers"), ["1"]);
}

#[test]
fn a_pipeline_of_views_has_nothing_to_run() {
    let sql = "CREATE MATERIALIZED VIEW v AS SELECT region, count(*) AS n FROM raw GROUP BY region;";
    let shop = Shop::new(sql);
    assert_eq!(shop.run(0, 4).expect_err("refused").code(), "P180");
    let both = Shop::new(&format!("{COPY}{sql}"));
    assert_eq!(both.run(0, 4).expect("runs").views_left_out, ["v"]);
}

#[test]
fn a_stopped_run_commits_nothing() {
    let shop = Shop::new(COPY);
    let stop = StopFlag::default();
    stop.stop();
    let asked = Asked { progress: Arc::new(BatchProgress::new(stop)), ..Asked::of(seconds(0, 4)) };
    let error = block_on(run_interval(&shop.catalog, "p", asked, &shop.context())).expect_err("stopped");
    assert_eq!(error.code(), "U030", "{}", shown(&error));
    assert_eq!(shop.context().checkpoints.latest().expect("reads"), None);
    assert_eq!(shop.shelf.rows("out"), Vec::<String>::new());
}

/// An INSERT into a table of numbers, by a pipeline that begins like [`RAW`]'s or with other options.
fn numbers(select: &str) -> String {
    format!(
        "CREATE TABLE out (n BIGINT, at TIMESTAMP, PRIMARY KEY (n)) WITH (connector = 'shelf', path = 'out', write = 'upsert'); INSERT INTO out {select};"
    )
}

#[test]
fn a_number_that_does_not_fit_fails_a_query_and_its_row_of_a_run() {
    let cases = [
        "SELECT id + 9223372036854775804 AS n, at FROM raw",
        "SELECT sum(id + 9223372036854775804 - 9223372036854775804) AS n, max(at) AS at FROM raw",
        "SELECT id AS n, at FROM raw WHERE id + 9223372036854775804 > 0",
        "SELECT id AS n, at FROM raw WHERE id + 9223372036854775804 > 0 AND id > 0",
    ];
    for select in cases {
        let shop = Shop::new(&numbers(select));
        assert_eq!(shop.query(select).expect_err(select).kind(), Kind::Data, "{select}");
        let report = shop.run(0, 10).unwrap_or_else(|e| panic!("{select}: {}", shown(&e)));
        let dead = &report.counters.dead_letters["out"];
        assert_eq!(dead.keys().collect::<Vec<_>>(), ["overflow in id + 9223372036854775804"], "{select}");
        let failed =
            shop.query("SELECT id FROM raw WHERE id > 3 AND at < TIMESTAMP '1970-01-01T00:00:10'").expect("rows");
        assert_eq!(dead.values().sum::<u64>(), failed.len() as u64, "{select}");
        assert!(!shop.shelf.rows("out").is_empty(), "{select}");
        let kept = shop.query("SELECT DISTINCT dataset, split FROM out.dead_letters").expect("letters");
        assert_eq!(kept.len(), 1, "{kept:?}");
        // A rerun replaces the letters with the rows.
        shop.run(0, 10).expect(select);
        let letters = shop.query("SELECT reason FROM out.dead_letters").expect("letters");
        assert_eq!(letters.len(), failed.len(), "{select}");
    }
}

#[test]
fn the_pipeline_says_what_becomes_of_rows_that_fail() {
    let sql = numbers("SELECT coalesce(nullif(id, 0), 1) AS n, at FROM raw WHERE 10 / (id - 5) < 9");
    let n = |shop: &Shop| sorted(shop.shelf.rows("out")).len();
    let shop = Shop::with_options("on_error = 'fail'", &sql);
    assert_eq!(shop.run(0, 10).expect_err("fails").kind(), Kind::Data);
    assert_eq!(n(&shop), 0);
    let shop = Shop::with_options("max_errors = '0'", &sql);
    let error = shop.run(0, 10).expect_err("fails");
    assert_eq!((error.code(), n(&shop)), ("D130", 0));
    let shop = Shop::with_options("on_error = 'null', max_errors = '0'", &sql);
    assert_eq!(shop.run(0, 10).expect("runs").counters.dead_letters.get("out"), None);
    assert_eq!(n(&shop), 6);
    let shop = Shop::with_options("max_errors = '1'", &sql);
    assert_eq!(shop.run(0, 10).expect("runs").counters.dead_letters["out"].values().sum::<u64>(), 1);
    assert_eq!(n(&shop), 6);
}

#[test]
fn a_query_that_answers_differently_each_time_is_refused_in_a_run() {
    let sql = "CREATE TABLE out (r DOUBLE, at TIMESTAMP) WITH (connector = 'shelf', path = 'out', write = 'replace', time_column = 'at');
        INSERT INTO out SELECT random(), at FROM raw;";
    assert_eq!(Shop::new(sql).run(0, 10).expect_err("refused").code(), "P132");
}
