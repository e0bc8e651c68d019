//! Pipelines by the hour: simulated days (`TIDEMILL_E2E_DAYS` of them) under a scheduler, with failures, late rows, a
//! restatement and schedulers that die; and the real process, killed again and again in the middle of a backfill.
//!
//! **Invariant:** the tables equal the answer over all rows that landed, and the ledger and the history tell what happened.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tidemill::history::{Cause, History, RunState};
use tidemill::runs::Quiet;
use tidemill::scheduler::Scheduler;
use tidemill::{Workspace, variable};
use tidemill_checkpoint::Manifest;
use tidemill_model::{Clock, Interval, Timestamp};
use tidemill_runtime::exec::Views;
use tidemill_testkit::{ProjectFolder, Rng, VirtualClock};

use crate::{binary, knobs};

mod gone;
mod imported;

const HOUR: i64 = 3_600_000_000;
const PIPELINE: &str = include_str!("../../../../examples/hourly/pipelines/orders.sql");

/// What should be in the report: the same, asked of all that landed at once.
const EXPECTED: &str = "
    WITH accepted AS (
      SELECT order_id, customer_id, amount, upper(currency) AS currency, region, created_at FROM landing
      WHERE currency IS NOT NULL AND created_at < TIMESTAMP '@end'
    ), known AS (SELECT * FROM accepted WHERE currency IN ('EUR', 'USD', 'GBP')),
    one AS (
      SELECT *, row_number() OVER (PARTITION BY order_id, date_trunc('hour', created_at)
        ORDER BY order_id, customer_id, amount, currency, region, created_at) AS n FROM known
    )
    SELECT region, currency, date_trunc('hour', created_at) AS window_start, count(*) AS orders,
      count(DISTINCT customer_id) AS customers, sum(amount) AS revenue, max(amount) AS largest
    FROM one WHERE n = 1 GROUP BY 1, 2, 3 ORDER BY 1, 2, 3";
const REPORT: &str =
    "SELECT region, currency, window_start, orders, customers, revenue, largest FROM report ORDER BY 1, 2, 3";
/// Of each order the newest version; orders are never changed across hours but by an own, later row.
const WAREHOUSE: &str = "SELECT count(*) AS n, sum(amount) AS amount FROM warehouse";
const EXPECTED_WAREHOUSE: &str = "
    SELECT count(*) AS n, sum(amount) AS amount FROM (
      SELECT *, row_number() OVER (PARTITION BY order_id ORDER BY created_at DESC, amount DESC, currency DESC, customer_id DESC, region DESC) AS v FROM silver)
    WHERE v = 1";

/// The example's pipeline without the end that it has because its orders end.
fn pipeline() -> String {
    PIPELINE.lines().filter(|line| !line.trim_start().starts_with("end = ")).map(|line| format!("{line}\n")).collect()
}

fn start() -> Timestamp {
    Timestamp::parse("2026-01-01").expect("a time")
}

fn hour(n: i64) -> Interval {
    Interval { start: Timestamp(start().0 + n * HOUR), end: Timestamp(start().0 + (n + 1) * HOUR) }
}

/// Orders of an hour as lines of JSON.
fn orders(hour_of: i64, rows: u64, first: &mut u64, random: &mut Rng) -> String {
    let mut lines = String::new();
    for _ in 0..rows {
        // One in fifty says again what another has said.
        let id = if *first > 0 && random.u64(0..50) == 0 { *first - 1 } else { *first };
        *first += 1;
        let at = Timestamp(hour(hour_of).start.0 + random.i64(0..HOUR));
        let currencies = if random.u64(0..20) == 0 { 5 } else { 4 };
        let currency = ["eur", "USD", "Gbp", "EUR", "ZZZ"][random.usize(0..currencies)];
        let region = ["eu", "us"][random.usize(0..2)];
        let cents = random.i64(-100..10_000);
        let amount = format!("{}{}.{:02}", if cents < 0 { "-" } else { "" }, cents.abs() / 100, cents.abs() % 100);
        let _ = writeln!(
            lines,
            "{{\"order_id\":{id},\"customer_id\":{},\"amount\":{amount},\"currency\":\"{currency}\",\"region\":\"{region}\",\"created_at\":\"{at}\"}}",
            random.u64(0..40),
        );
    }
    lines
}

fn ask(project: &ProjectFolder, sql: &str) -> serde_json::Value {
    let ran = binary::run(project.path(), &["query", sql, "--format", "json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    ran.json()
}

/// All files of a project with what is in them, its state's too.
fn all_files(project: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![project.to_owned()]);
    while let Some(folder) = folders.pop() {
        for item in std::fs::read_dir(folder).expect("a folder") {
            let path = item.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(project).expect("is below").to_owned();
                found.insert(name, std::fs::read(&path).expect("reads"));
            }
        }
    }
    found
}

/// What differs between the tables and all that landed before an hour.
fn compare(project: &ProjectFolder, end: Timestamp) {
    let shown = end.to_string().replace('T', " ").replace('Z', "");
    let expected = ask(project, &EXPECTED.replace("@end", &shown));
    let report = ask(project, REPORT);
    assert_eq!(report.as_array().map(Vec::len), expected.as_array().map(Vec::len));
    assert_eq!(report, expected, "the report");
    assert_eq!(ask(project, WAREHOUSE), ask(project, EXPECTED_WAREHOUSE), "the warehouse");
}

/// A world in which time is what the test says.
struct World {
    project: ProjectFolder,
    clock: Arc<VirtualClock>,
    schedulers: u32,
}

impl World {
    fn new(sql: &str) -> World {
        World::with(sql, "")
    }

    /// With this in tidemill.toml, too.
    fn with(sql: &str, config: &str) -> World {
        let config = format!("[engine]\nlanes = 2\nmemory = \"256 MiB\"\n{config}");
        let project = ProjectFolder::new(&config).expect("a folder");
        project.write("pipelines/orders.sql", sql).expect("a pipeline");
        std::fs::create_dir_all(project.join("landing")).expect("a folder");
        World { project, clock: Arc::new(VirtualClock::at(start())), schedulers: 0 }
    }

    fn workspace(&self) -> Workspace {
        let clock: Arc<dyn Clock> = Arc::clone(&self.clock) as _;
        Workspace::open(self.project.path(), clock, &variable).expect("a project")
    }

    fn scheduler(&mut self) -> Scheduler {
        self.schedulers += 1;
        let workspace = Arc::new(self.workspace());
        let history = History::open(&workspace.state).expect("a history");
        let holder = format!("test/{}", self.schedulers);
        Scheduler::new(workspace, &holder, Some(history), Arc::new(Quiet), Arc::new(Views::default()))
            .expect("a scheduler")
    }

    fn manifest(&self) -> Manifest {
        self.workspace().checkpoints("orders").latest().expect("reads").expect("is there")
    }
}

/// Ticks until nothing is left to do at this instant.
async fn settle(scheduler: &mut Scheduler, world: &World) {
    loop {
        let ticked = scheduler.tick().await.expect("ticks");
        assert!(ticked.leads, "{ticked:?}");
        if ticked.working > 0 {
            scheduler.one_ended().await;
        } else if ticked.next > world.clock.now() {
            return;
        }
    }
}

#[test]
fn days_of_hours_come_out_right_whatever_fails_comes_late_or_dies() {
    let seed = knobs::seed_of(&["scheduled"]);
    let mut random = Rng::with_seed(seed);
    // The announcement fails while there is a file that says so, and that is tried again a minute later.
    let sql = pipeline().replace("command = 'echo", "command = 'test ! -e broken && echo");
    assert_ne!(sql, pipeline());
    let mut world = World::new(&sql);
    let hours = i64::try_from(knobs::days()).expect("some days") * 24;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut scheduler = world.scheduler();
        let (mut first, mut late, mut failures) = (0, BTreeMap::new(), 0_u64);
        for n in 0..hours {
            let rows = 10 + random.u64(0..10);
            let lines = orders(n, rows, &mut first, &mut random);
            world.project.write(&format!("landing/{n:05}.jsonl"), lines).expect("rows");
            if n > 30 && random.u64(0..12) == 0 {
                // Rows of an hour that is long done.
                let of = n - random.i64(2..30);
                let lines = orders(of, 3, &mut first, &mut random);
                world.project.write(&format!("landing/{n:05}-late.jsonl"), lines).expect("rows");
                *late.entry(of).or_insert(0) += 3;
            }
            let broken = random.u64(0..20) == 0;
            if broken {
                world.project.write("broken", "").expect("a file");
            }
            // What takes time below must not add up over the days: no hour is due before its rows have landed.
            world.clock.advance_to(Timestamp(hour(n).end.0 + 300_000_000));
            if random.u64(0..30) == 0 {
                // It is gone without a word, and another one comes once its lease is over.
                drop(scheduler);
                world.clock.advance(Duration::from_secs(21));
                scheduler = world.scheduler();
            }
            settle(&mut scheduler, &world).await;
            if broken {
                // It waits for its next attempt, and so may an hour that had late rows.
                let waiting = world.manifest().runs.iter().count() as u64;
                assert!((1..=2).contains(&waiting), "hour {n}: {waiting}");
                failures += waiting;
                std::fs::remove_file(world.project.join("broken")).expect("mended");
                world.clock.advance(Duration::from_secs(120));
                settle(&mut scheduler, &world).await;
            }
            let manifest = world.manifest();
            assert!(manifest.runs.is_empty(), "hour {n}: {:?}", manifest.runs);
        }
        // Late rows of the last hours are found at the next look.
        world.clock.advance(Duration::from_secs(3600));
        settle(&mut scheduler, &world).await;
        scheduler.stop().await;
        assert!(late.len() > 3 && failures > 3, "seed {seed}: {} late, {failures} failures", late.len());

        let manifest = world.manifest();
        let all = Interval { start: start(), end: Timestamp(start().0 + hours * HOUR) };
        assert!(manifest.ledger.contains(all) && manifest.stale.is_empty());
        for n in 0..hours {
            let generation = manifest.ledger.generation_of(hour(n)).expect("is done").0;
            assert_eq!(generation > 1, late.contains_key(&n), "seed {seed}, hour {n}: generation {generation}");
        }
        let history = History::open(&world.workspace().state).expect("a history");
        let runs = history.newest(Some("orders"), 100_000).expect("reads");
        let count =
            |what: &dyn Fn(&tidemill::history::RunRecord) -> bool| runs.iter().filter(|run| what(run)).count() as u64;
        assert_eq!(count(&|run| run.state == RunState::Failed), failures, "seed {seed}");
        assert_eq!(count(&|run| run.state == RunState::Running), 0);
        assert!(count(&|run| run.cause == Cause::Late) >= late.len() as u64, "seed {seed}");
    });
    compare(&world.project, Timestamp(start().0 + hours * HOUR));

    // One day is restated by hand, after the query has changed.
    let changed = sql.replace("upper(currency) AS currency", "upper(trim(currency)) AS currency");
    world.project.write("pipelines/orders.sql", changed).expect("a pipeline");
    let planned = binary::run(world.project.path(), &["plan", "orders", "--format", "json"]);
    assert_eq!(planned.json()[0]["changed"]["intervals"], hours + 1, "{planned:?}");
    let day = ["--from", "2026-01-03", "--to", "2026-01-04"];
    let words = [&["backfill", "orders", "--only", "changed", "--yes", "--format", "json"][..], &day].concat();
    let ran = binary::run(world.project.path(), &words);
    assert_eq!((ran.code, &ran.json()["done"]), (Some(0), &serde_json::json!(24)), "{ran:?}");
    compare(&world.project, Timestamp(start().0 + hours * HOUR));
    let again = binary::run(world.project.path(), &words);
    assert_eq!(again.json()["intervals"], 0, "{again:?}");
}

#[test]
fn a_backfill_that_is_killed_again_and_again_is_gone_on_with() {
    let seed = knobs::seed_of(&["scheduled", "kill"]);
    let mut random = Rng::with_seed(seed);
    let sql = pipeline().replace("trigger = '@hourly'", "trigger = '@hourly', end = '2026-01-03', concurrency = '2'");
    let world = World::new(&sql);
    let mut first = 0;
    for n in 0..48 {
        let lines = orders(n, 40, &mut first, &mut random);
        world.project.write(&format!("landing/{n:05}.jsonl"), lines).expect("rows");
    }
    let said = world.project.join("said");
    let mut deaths = 0_u64;
    loop {
        let mut child = binary::start(world.project.path(), &["backfill", "orders", "--yes"], &said);
        // On a machine that does much else, each lives a little longer than the one before.
        let life = Duration::from_millis(random.u64(30..400 + 25 * deaths));
        let ended = wait(&mut child, life);
        if ended.is_some() {
            break;
        }
        child.kill().expect("is killed");
        child.wait().expect("ends");
        deaths += 1;
        assert!(deaths < 200, "seed {seed}: it never ends: {}", std::fs::read_to_string(&said).unwrap_or_default());
    }
    println!("killed {deaths} times");
    assert!(deaths > 0, "seed {seed}");
    let manifest = world.manifest();
    assert!(manifest.runs.is_empty(), "{:?}", manifest.runs);
    assert_eq!(manifest.ledger.entries().len(), 1, "{:?}", manifest.ledger);
    compare(&world.project, Timestamp::parse("2026-01-03").expect("a time"));
    let looked = binary::run(world.project.path(), &["runs", "orders", "--format", "json", "--last", "1000"]);
    let died = looked.json().as_array().expect("an array").iter().filter(|run| run["state"] == "died").count();
    assert!(died > 0, "seed {seed}: {}", looked.out);
}

/// Waits for a process at most so long; its exit code when it has ended.
fn wait(child: &mut std::process::Child, at_most: Duration) -> Option<i32> {
    const LOOK: Duration = Duration::from_millis(2);
    let mut waited = Duration::ZERO;
    while waited < at_most {
        if let Some(status) = child.try_wait().expect("is asked") {
            return Some(status.code().unwrap_or(-1));
        }
        std::thread::sleep(LOOK);
        waited += LOOK;
    }
    None
}

#[test]
fn of_two_schedulers_one_leads_and_the_other_takes_over() {
    let mut world = World::new(&pipeline());
    let mut random = Rng::with_seed(7);
    let mut first = 0;
    for n in 0..3 {
        world.project.write(&format!("landing/{n}.jsonl"), orders(n, 5, &mut first, &mut random)).expect("rows");
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (mut one, mut other) = (world.scheduler(), world.scheduler());
        world.clock.advance(Duration::from_secs(2 * 3600 + 300));
        settle(&mut one, &world).await;
        let ticked = other.tick().await.expect("ticks");
        assert!(!ticked.leads && ticked.leader.as_deref() == Some("test/1"), "{ticked:?}");
        assert_eq!(world.manifest().ledger.entries()[0].interval.end, hour(1).end);
        // It gives the lease back when it ends; the other goes on at once.
        one.stop().await;
        world.clock.advance(Duration::from_secs(3600));
        settle(&mut other, &world).await;
        assert_eq!(world.manifest().ledger.entries()[0].interval.end, hour(2).end);
        // The first one comes back, and stands by.
        assert!(!one.tick().await.expect("ticks").leads);
        other.stop().await;
    });
}

/// How many bytes landed of these hours.
fn landed(world: &World, hours: std::ops::Range<i64>) -> u64 {
    let size = |n| std::fs::metadata(world.project.join(&format!("landing/{n}.jsonl"))).expect("is there").len();
    hours.map(size).sum()
}

/// Five files that nobody has looked at: the first look reads each to learn its times, and any may have rows of any hour.
fn tells_what_five_new_hours_take(world: &World) {
    let before = all_files(world.project.path());
    let ran = |words: &[&str]| binary::run(world.project.path(), words);
    let all = landed(world, 0..5);
    let nothing =
        |target| json!({"target": target, "files": 0, "rewrites": 0, "bytes": 0, "at_most": false, "unknown": null});
    let rewrites = ["staging", "silver", "warehouse", "report"].map(nothing);
    let work = json!({
        "intervals": 5,
        "reads": [{
            "dataset": "landing", "splits": 5, "splits_of_unknown_size": 0, "new_splits": 5, "unknown": null,
            "reads_at_least": 5, "reads_at_most": 5 + 5 * 5, "bytes_at_least": all, "bytes_at_most": all + 5 * all,
        }],
        "rewrites": rewrites,
        "operator_memory_at_most": 256 << 20,
    });
    let dry = ran(&["backfill", "orders", "--dry-run", "--format", "json"]).json();
    assert_eq!(dry["work"], work, "{dry:#}");
    let planned = ran(&["plan", "orders", "--format", "json"]).json();
    assert_eq!(planned[0]["work"], work, "{planned:#}");
    let said = ran(&["backfill", "orders", "--dry-run"]).out;
    for words in [" in 5 splits of landing, all new: ", "  rewrites  nothing", "  memory    at most 256 MiB "] {
        assert!(said.contains(words), "{words} in {said}");
    }
    assert_eq!(all_files(world.project.path()), before, "a dry run changes nothing");
}

/// What is done again reads the files of its own hours alone, and writes their files anew; a merge may write any.
fn tells_what_three_hours_take_of_which_two_are_done(world: &World) {
    let before = all_files(world.project.path());
    let words = ["backfill", "orders", "--only", "all", "--to", "2026-01-01T03", "--dry-run", "--format", "json"];
    let work = &binary::run(world.project.path(), &words).json()["work"];
    let three = landed(world, 0..3);
    let read = json!({
        "dataset": "landing", "splits": 3, "splits_of_unknown_size": 0, "new_splits": 0, "unknown": null,
        "reads_at_least": 3, "reads_at_most": 3, "bytes_at_least": three, "bytes_at_most": three,
    });
    assert_eq!((&work["intervals"], &work["reads"][0]), (&3.into(), &read), "{work:#}");
    for (at, (target, runs)) in [("staging", 1), ("silver", 1), ("warehouse", 3), ("report", 1)].into_iter().enumerate()
    {
        let folder = format!("lake/{target}");
        let is_data = |path: &Path| path.starts_with(&folder) && path.extension().is_some_and(|kind| kind == "parquet");
        let sizes: Vec<usize> = before.iter().filter(|(path, _)| is_data(path)).map(|(_, data)| data.len()).collect();
        assert_eq!(sizes.len(), 2, "{target}: one of each hour that is done");
        let (rewrites, bytes) = (runs * sizes.len(), runs * sizes.iter().sum::<usize>());
        let told = json!({"target": target, "files": 2, "rewrites": rewrites, "bytes": bytes, "at_most": runs > 1, "unknown": null});
        assert_eq!(work["rewrites"][at], told, "{work:#}");
    }
    assert_eq!(all_files(world.project.path()), before, "a dry run changes nothing");
}

/// A day of hours that is done, but for two that are not, and one that fails.
#[test]
fn the_command_line_shows_holes_and_fills_them() {
    let sql = pipeline()
        .replace("trigger = '@hourly'", "trigger = '@hourly', end = '2026-01-01T05', retry_on = 'data'")
        .replace("command = 'echo", "command = 'test ! -e broken && echo");
    let world = World::new(&sql);
    let (mut random, mut first) = (Rng::with_seed(3), 0);
    for n in 0..5 {
        world.project.write(&format!("landing/{n}.jsonl"), orders(n, 8, &mut first, &mut random)).expect("rows");
    }
    let ran = |words: &[&str]| binary::run(world.project.path(), words);
    let dry = ran(&["backfill", "orders", "--dry-run", "--format", "json"]).json();
    assert_eq!((&dry["intervals"], &dry["ranges"][0]["start"]), (&5.into(), &"2026-01-01T00:00:00Z".into()), "{dry}");
    tells_what_five_new_hours_take(&world);
    assert!(world.workspace().checkpoints("orders").latest().expect("reads").is_none(), "a dry run changes nothing");
    let unasked = ran(&["--short", "backfill", "orders"]);
    assert!(unasked.code == Some(2) && unasked.err.contains("C119"), "{unasked:?}");
    let usage: &[(&[&str], &str)] = &[
        (&["--from", "2025-12-31"], "C117: `orders` starts at 2026-01-01T00:00:00Z"),
        (&["--to", "2026-01-02"], "C117"),
        (&["--from", "2026-01-01T01", "--to", "2026-01-01T01:30"], "C117: no whole interval"),
        (&["--from", "soon"], "C030"),
        (&["--resume", "9"], "C116: there is no backfill 9"),
    ];
    for (words, said) in usage {
        let ran = ran(&[&["--short", "backfill", "orders", "--yes"][..], words].concat());
        assert!(ran.code == Some(2) && ran.err.contains(said), "{words:?}: {ran:?}");
    }
    let range = ["--from", "2026-01-01T01", "--to", "2026-01-01T03", "--yes", "--order", "desc"];
    let ended = ran(&[&["backfill", "orders"][..], &range].concat());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let at = |hour: &str| ended.out.find(hour).unwrap_or_else(|| panic!("{hour} in {ended:?}"));
    assert!(at("02:00:00 - 03") < at("01:00:00 - 02"), "the latest first: {ended:?}");
    tells_what_three_hours_take_of_which_two_are_done(&world);
    world.project.write("broken", "").expect("a file");
    let failed = ran(&["backfill", "orders", "--from", "2026-01-01T04", "--yes"]);
    assert!(failed.code == Some(1) && failed.err.contains("step announce"), "{failed:?}");
    let runs = ran(&["runs", "orders", "--format", "json"]).json();
    let states: Vec<&str> = runs.as_array().expect("an array").iter().filter_map(|run| run["state"].as_str()).collect();
    assert_eq!(states, ["failed", "done", "done", "given up", "missing", "missing"], "{runs}");
    let plan = ran(&["plan", "orders", "--format", "json"]).json();
    assert_eq!((&plan[0]["due"], &plan[0]["missing"]["intervals"]), (&5.into(), &3.into()), "{plan}");
    let status = ran(&["status", "orders", "--format", "json"]).json();
    assert_eq!((&status[0]["state"], &status[0]["intervals"]["given_up"]), (&"failing".into(), &1.into()), "{status}");
    let one = ran(&["runs", "orders", "3", "--format", "json"]).json();
    assert_eq!(one["steps"].as_array().map(Vec::len), Some(5), "{one}");
    // Nobody but a word makes it go on: what is due now leaves it alone.
    std::fs::remove_file(world.project.join("broken")).expect("mended");
    let due = ran(&["run", "orders", "--format", "json"]).json();
    assert_eq!((due["runs"].as_array().map(Vec::len), &due["missing"]), (Some(2), &1.into()), "{due}");
    let again = ran(&["rerun", "orders", "3", "--from-step", "announce", "--format", "json"]);
    assert_eq!((again.code, &again.json()[0]["state"]), (Some(0), &"done".into()), "{again:?}");
    assert!(ran(&["rerun", "orders", "3", "--from-step", "anounce"]).err.contains("did you mean `announce`?"));
    compare(&world.project, Timestamp::parse("2026-01-01T05").expect("a time"));
    let paused = ran(&["pause", "orders", "--why", "a test"]);
    assert!(paused.out.contains("orders is paused"), "{paused:?}");
    assert_eq!(ran(&["status", "--format", "json"]).json()[0]["state"], "paused");
    assert!(ran(&["resume", "orders"]).out.contains("resumed"));
}

#[test]
fn pipelines_come_after_those_that_write_what_they_read() {
    let mut world = World::new(
        "CREATE PIPELINE orders WITH (trigger = '@hourly', start = '2026-01-01', catchup = 'all');
        CREATE TABLE landing (id BIGINT, at TIMESTAMP, WATERMARK FOR at AS at) WITH (connector = 'files', path = 'landing', format = 'json');
        CREATE TABLE kept (id BIGINT, at TIMESTAMP, WATERMARK FOR at AS at)
          WITH (connector = 'files', path = 'kept', format = 'parquet', write = 'replace', time_column = 'at');
        CREATE WAIT delivered WITH (file = 'landing/{start:%H}.done', timeout = '1 hour', then = 'fail');
        INSERT INTO kept SELECT id, at FROM landing;",
    );
    let follower = "CREATE PIPELINE counts WITH (trigger = 'on kept');
        CREATE TABLE counted (window_start TIMESTAMP, n BIGINT)
          WITH (connector = 'files', path = 'counted', format = 'parquet', write = 'replace', time_column = 'window_start');
        INSERT INTO counted SELECT window_start, count(*) AS n FROM TUMBLE(kept, at, INTERVAL '1 hour') GROUP BY window_start, window_end;";
    world.project.write("pipelines/counts.sql", follower).expect("a pipeline");
    let row = |hour: i64, minute: i64| format!("{{\"id\":{minute},\"at\":\"2026-01-01T{hour:02}:{minute:02}:00Z\"}}\n");
    for hour in 0..3 {
        world
            .project
            .write(&format!("landing/{hour}.jsonl"), (0..=hour).map(|m| row(hour, m)).collect::<String>())
            .expect("rows");
    }
    world.project.write("landing/00.done", "").expect("a file");
    let counted = |world: &World| ask(&world.project, "SELECT n FROM counted ORDER BY window_start").to_string();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut scheduler = world.scheduler();
        world.clock.advance(Duration::from_secs(3 * 3600));
        settle(&mut scheduler, &world).await;
        assert_eq!(counted(&world), "[{\"n\":1}]", "the second hour waits for its file, and its counts for it");
        world.project.write("landing/01.done", "").expect("a file");
        world.clock.advance(Duration::from_secs(60));
        settle(&mut scheduler, &world).await;
        assert_eq!(counted(&world), "[{\"n\":1},{\"n\":2}]");
        // The third comes too late: nobody waits any more.
        world.clock.advance(Duration::from_secs(3600));
        settle(&mut scheduler, &world).await;
        assert_eq!(counted(&world), "[{\"n\":1},{\"n\":2}]");
        // A row of the first hour comes late: both are run again, one after the other.
        world.project.write("landing/late.jsonl", row(0, 59)).expect("rows");
        world.clock.advance(Duration::from_secs(3600));
        settle(&mut scheduler, &world).await;
        assert_eq!(counted(&world), "[{\"n\":2},{\"n\":2}]");
        scheduler.stop().await;
    });
}
