//! A query that changes between two runs: its results are computed anew, killed anywhere on the way, and everything else
//! of the pipeline goes on; replays; and what both refuse.
//!
//! **Invariant:** the oracle is the changed query asked of the whole input; whatever a reader sees in between is a whole
//! old result or a whole new one.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Decimal128Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use tidemill::rebuild::{Beginning, Request, prepare};
use tidemill::{Live, RunOptions, Workspace};
use tidemill_model::{Offset, Result, SplitId, Timestamp, Trigger};
use tidemill_runtime::exec::{Limits, Progress, Starts, StopFlag, Views};
use tidemill_sql::batch::query;
use tidemill_testkit::{Crash, Ending, Multiset, ProjectFolder, Rng, VirtualClock};
use tokio::runtime::Runtime;

use crate::agreement::project::PRESENT;
use crate::agreement::world::World;
use crate::binary::{self, Ran};
use crate::knobs;

const TABLES: &str = "
CREATE PIPELINE p WITH (trigger = 'once');
CREATE TABLE orders (
  id BIGINT NOT NULL, amount DECIMAL(12, 2), region VARCHAR, at TIMESTAMP,
  WATERMARK FOR at AS at - INTERVAL '10 seconds',
  CONSTRAINT positive CHECK (amount > 0) ON VIOLATION DEAD LETTER
) WITH (@input);
CREATE TABLE copies (id BIGINT, amount DECIMAL(12, 2)) WITH (connector = 'log', topic = 'copies', format = 'json');
CREATE TABLE totals (region VARCHAR NOT NULL, total DECIMAL(38, 2), PRIMARY KEY (region))
  WITH (connector = 'delta', path = 'out/totals', write = 'upsert');
CREATE TABLE closed (region VARCHAR NOT NULL, window_start TIMESTAMP NOT NULL, total DECIMAL(38, 2),
    PRIMARY KEY (region, window_start))
  WITH (connector = 'delta', path = 'out/closed', write = 'upsert', sequence = 'window_start');
INSERT INTO copies SELECT id, amount FROM orders;
";

/// What is written, and its query over orders whose amount is above a bound.
const RESULTS: [(&str, &str); 4] = [
    (
        "totals",
        "SELECT region, CAST(sum(amount) AS DECIMAL(38, 2)) AS total FROM orders WHERE amount > @bound GROUP BY region",
    ),
    (
        "closed",
        "SELECT region, window_start, CAST(sum(amount) AS DECIMAL(38, 2)) AS total \
         FROM TUMBLE(orders, at, INTERVAL '1 minute') WHERE amount > @bound GROUP BY region, window_start, window_end",
    ),
    (
        "minutes",
        "SELECT region, window_start, sum(amount) AS total, count(*) AS n \
         FROM TUMBLE(orders, at, INTERVAL '1 minute') WHERE amount > @bound GROUP BY region, window_start, window_end",
    ),
    ("counts", "SELECT region, count(*) AS n FROM orders GROUP BY region"),
];

const INPUTS: [&str; 3] = [
    "connector = 'log', topic = 'orders', partitions = '3', key = 'id', format = 'json', idle = '1 day'",
    "connector = 'files', path = 'in', format = 'json', idle = '1 day'",
    "connector = 'files', path = 'in', format = 'parquet', idle = '1 day'",
];

/// 2026-01-01.
const FROM: i64 = 1_767_225_600_000_000;
const ROWS: i64 = 900;

/// Orders a second apart, each seventh with an amount that is refused; the last ones close every window of the others.
fn orders(random: &mut Rng) -> RecordBatch {
    let ids: Vec<i64> = (0..ROWS + 40).collect();
    let at = ids.iter().map(|id| match *id < ROWS {
        true => FROM + id * 1_000_000 + random.i64(0..8_000_000),
        false => FROM + 7_200_000_000 + id * 1_000,
    });
    let at: Vec<i64> = at.collect();
    let amounts = ids.iter().map(|id| match id % 7 {
        3 => -1,
        // Every region and window has some above any bound that is asked for.
        0 | 1 => 9_900,
        _ => i128::from(random.i32(1..9_900)),
    });
    let amounts: Decimal128Array = amounts.map(Some).collect();
    let columns: [(&str, ArrayRef); 4] = [
        ("id", Arc::new(Int64Array::from(ids.clone()))),
        ("amount", Arc::new(amounts.with_precision_and_scale(12, 2).expect("fits"))),
        ("region", Arc::new(StringArray::from_iter_values(ids.iter().map(|id| ["eu", "us", "ap"][*id as usize % 3])))),
        ("at", Arc::new(TimestampMicrosecondArray::from(at))),
    ];
    RecordBatch::try_from_iter(columns).expect("rows")
}

/// A project on disk, and what has still to arrive in it.
struct Shop {
    folder: ProjectFolder,
    clock: Arc<VirtualClock>,
    runtime: Runtime,
    world: World,
}

impl Shop {
    fn new(input: &str, random: &mut Rng) -> Result<Shop> {
        let folder = ProjectFolder::new("[project]\nname = \"shop\"\n")?;
        let clock = Arc::new(VirtualClock::at(PRESENT));
        write(&folder, input, "5")?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let workspace = Workspace::open(folder.path(), clock.clone(), &|_| None)?;
        let world = World::new(&workspace, &[("orders".to_owned(), orders(random))], &[], random)?;
        Ok(Shop { folder, clock, runtime, world })
    }

    fn open(&self) -> Result<Workspace> {
        Workspace::open(self.folder.path(), self.clock.clone(), &|_| None)
    }

    fn run(&self, random: &mut Rng) -> Result<()> {
        let options = RunOptions {
            lanes: Some(random.usize(1..=3)),
            trigger: Some(Trigger::Once),
            limits: Limits { epoch_rows: [70, 4_000_000][random.usize(0..2)], ..Limits::default() },
            ..RunOptions::default()
        };
        Live::open(&self.open()?, "p", &options, &Arc::new(Views::default()), &StopFlag::default())?.run()
    }

    /// One process that computes anew; `None` when there was nothing to do.
    fn rebuild(&mut self, request: &Request, crash: Option<Crash>, random: &mut Rng) -> Result<Option<Ending>> {
        let workspace = self.open()?;
        let options = RunOptions { lanes: Some(random.usize(1..=3)), ..RunOptions::default() };
        let progress = Arc::new(Progress::default());
        let Some(prepared) = prepare(&workspace, "p", request, &options, &progress)? else { return Ok(None) };
        // Rows go on arriving; they are none of the rebuild's business.
        self.world.beside(prepared.dataflow, (&self.clock, &progress), crash, 200, random).map(Some)
    }

    fn ask(&self, sql: &str) -> Multiset {
        let workspace = self.open().expect("the project");
        let (views, resources) = (workspace.stored(), workspace.resources());
        let asked = query(&workspace.catalog, &views, sql, &resources, StopFlag::default());
        let answer = self.runtime.block_on(asked).unwrap_or_else(|e| panic!("{sql}: {e}"));
        Multiset::of(&answer.batches, &Default::default()).expect("rows can be shown")
    }

    /// What is shown now.
    fn shown(&self) -> Vec<Multiset> {
        let columns = ["region, total", "region, window_start, total", "region, window_start, total, n", "region, n"];
        let tables = RESULTS.iter().zip(columns).map(|((name, _), columns)| format!("SELECT {columns} FROM {name}"));
        let dead = ["SELECT split, position FROM orders.dead_letters".to_owned()];
        tables.chain(dead).map(|sql| self.ask(&sql)).collect()
    }

    /// Everything that is not as the oracle says once all is read.
    fn compare(&self, bound: &str) -> Vec<String> {
        let mut problems = Vec::new();
        let last = FROM + 7_200_000_000;
        for ((name, sql), shown) in RESULTS.iter().zip(self.shown()) {
            let mut sql = sql.replace("@bound", bound);
            if *name == "closed" {
                // The windows of the last rows are still open.
                sql = format!("SELECT * FROM ({sql}) AS r WHERE window_start < TIMESTAMP '{}'", Timestamp(last));
            }
            problems.extend(shown.difference(&self.ask(&sql)).map(|difference| format!("{name}: {difference}")));
        }
        let of = |sql: &str| self.ask(sql);
        let pairs = [
            ("SELECT id, amount FROM copies", "SELECT id, amount FROM orders"),
            (
                "SELECT count(DISTINCT split || position) AS n FROM orders.dead_letters",
                "SELECT count(*) AS n FROM orders.dead_letters",
            ),
        ];
        for (found, expected) in pairs {
            problems.extend(of(found).difference(&of(expected)).map(|difference| format!("{found}: {difference}")));
        }
        let dead = self.ask("SELECT split FROM orders.dead_letters").len() as i64;
        if dead != (0..ROWS + 40).filter(|id| id % 7 == 3).count() as i64 {
            problems.push(format!("{dead} dead letters"));
        }
        let counters = self.open().expect("opens").checkpoints("p").latest().expect("reads").expect("has run").counters;
        if counters.rows_dead() as i64 != dead || counters.rows_read as i64 != ROWS + 40 || counters.rows_late > 0 {
            problems.push(format!("counted {counters:?}"));
        }
        problems
    }

    fn read_all(&mut self, random: &mut Rng) -> Result<()> {
        self.world.deliver_all(random)?;
        self.run(random)
    }
}

fn write(folder: &ProjectFolder, input: &str, bound: &str) -> Result<()> {
    let mut text = TABLES.replace("@input", input);
    for (name, sql) in RESULTS {
        let head = if ["totals", "closed"].contains(&name) { "INSERT INTO" } else { "CREATE MATERIALIZED VIEW" };
        let between = if head.starts_with("INSERT") { "" } else { " AS" };
        text.push_str(&format!("{head} {name}{between}\n{};\n", sql.replace("@bound", bound)));
    }
    folder.write("pipelines/p.sql", text)
}

#[test]
fn a_changed_query_is_computed_anew_and_the_rest_goes_on() -> Result<()> {
    let mut crashes = vec![None, None];
    crashes.extend((1..=6).map(|step| Some(Crash::AfterCommitSteps(step))));
    crashes.extend([5, 15, 30, 45, 60].map(|point| Some(Crash::AtPoint(point))));
    let (mut died, mut switched) = (0, 0);
    for (round, crash) in crashes.into_iter().enumerate() {
        let input = INPUTS[round % INPUTS.len()];
        let random = &mut Rng::with_seed(knobs::seed_of(&["rebuild", &round.to_string()]));
        let mut shop = Shop::new(input, random)?;
        for _ in 0..2 {
            shop.world.begin()?;
            shop.run(random)?;
        }
        let before = shop.shown();
        write(&shop.folder, input, "40")?;
        let refused = shop.run(random).expect_err("another query's state");
        assert_eq!(refused.code(), "P150", "{refused}");
        let mut ending = shop.rebuild(&Request::Changed, crash, random)?;
        while let Some(Ending::Crashed(at)) = ending {
            died += 1;
            let fits = prepare_is_none(&shop)?;
            switched += u64::from(fits);
            if !fits {
                let now = shop.shown();
                let same = now.iter().zip(&before).all(|(now, before)| now.difference(before).is_none());
                assert!(same, "round {round}: something changed before the switch, at {at}");
            }
            ending = shop.rebuild(&Request::Changed, None, random)?;
        }
        shop.read_all(random)?;
        let problems = shop.compare("40");
        assert!(problems.is_empty(), "round {round}, seed {}, {input}:\n{}", knobs::seed(), problems.join("\n"));
    }
    assert!(died >= 9 && switched >= 3, "{died} died, {switched} of them behind the switch");
    Ok(())
}

/// Whether the state on record fits the query.
fn prepare_is_none(shop: &Shop) -> Result<bool> {
    let progress = Arc::new(Progress::default());
    Ok(prepare(&shop.open()?, "p", &Request::Changed, &RunOptions::default(), &progress)?.is_none())
}

#[test]
fn a_replay_gives_the_same_again_and_one_from_a_time_only_what_is_asked() -> Result<()> {
    for (round, input) in INPUTS.iter().enumerate() {
        let random = &mut Rng::with_seed(knobs::seed_of(&["replay", &round.to_string()]));
        let mut shop = Shop::new(input, random)?;
        shop.world.begin()?;
        shop.run(random)?;
        let midway = shop.open()?.checkpoints("p").latest()?.expect("has run");
        shop.read_all(random)?;
        let only = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let whole = Request::Replay { only: only(&[]), from: Beginning::Earliest, whole: false };
        let refused = shop.rebuild(&whole, None, random).expect_err("copies would be there twice");
        assert_eq!(refused.code(), "P191", "{refused}");
        let replay = Request::Replay {
            only: only(&["minutes", "counts", "totals", "closed"]),
            from: Beginning::Earliest,
            whole: false,
        };
        assert_eq!(shop.rebuild(&replay, None, random)?, Some(Ending::Ended));
        let problems = shop.compare("5");
        assert!(problems.is_empty(), "{input}:\n{}", problems.join("\n"));

        let half = Beginning::Time(Timestamp(FROM + 450 * 1_000_000));
        let part = |whole| Request::Replay { only: only(&["minutes"]), from: half.clone(), whole };
        assert_eq!(shop.rebuild(&part(false), None, random).expect_err("parts of windows").code(), "P191");
        assert_eq!(shop.rebuild(&part(true), None, random)?, Some(Ending::Ended));
        let oracle = "SELECT region, date_trunc('minute', at) AS window_start, sum(amount) AS total, count(*) AS n FROM orders \
                      WHERE amount > 5 AND at >= TIMESTAMP '2026-01-01T00:07:30' GROUP BY region, date_trunc('minute', at)";
        let shown = shop.ask("SELECT region, window_start, total, n FROM minutes");
        assert_eq!(shown.difference(&shop.ask(oracle)), None);

        // From offsets: all splits from where they stand is nothing, and none of them from there is everything.
        let from =
            |starts: Starts| Request::Replay { only: only(&["counts"]), from: Beginning::Offsets(starts), whole: true };
        let record = shop.open()?.checkpoints("p").latest()?.expect("has run");
        let splits = record.sources["orders"].splits.iter();
        let ends: BTreeMap<_, _> = splits.filter_map(|(id, split)| Some((id.clone(), split.offset.clone()?))).collect();
        let counted = |shop: &Shop| shop.ask("SELECT CAST(coalesce(sum(n), 0) AS BIGINT) AS n FROM counts");
        let (refused, all): (u64, u64) =
            (0..ROWS as u64 + 40).fold((0, 0), |(refused, all), id| (refused + u64::from(id % 7 == 3), all + 1));
        let number = |shop: &Shop, n: u64| shop.ask(&format!("SELECT CAST({n} AS BIGINT) AS n"));
        let (none, every) = (number(&shop, 0), number(&shop, all - refused));
        assert_eq!(
            shop.rebuild(&from(Starts::from([("orders".to_owned(), ends.clone())])), None, random)?,
            Some(Ending::Ended)
        );
        assert_eq!(counted(&shop).difference(&none), None, "{input}");
        let letters = shop.ask("SELECT split FROM orders.dead_letters WHERE replayed_epoch IS NULL").len() as u64;
        assert_eq!(letters, refused, "letters of what was not read again stay");
        let splits = midway.sources["orders"].splits.iter();
        let part: BTreeMap<_, _> = splits.filter_map(|(id, split)| Some((id.clone(), split.offset.clone()?))).collect();
        let part = Starts::from([("orders".to_owned(), part)]);
        assert_eq!(shop.rebuild(&from(part), None, random)?, Some(Ending::Ended));
        let rest = number(&shop, all - refused - midway.counters.rows_accepted);
        assert_eq!(counted(&shop).difference(&rest), None, "{input}");
        let (last, end) = ends.last_key_value().expect("a split");
        let behind =
            Starts::from([("orders".to_owned(), BTreeMap::from([(last.clone(), Offset("999999999".to_owned()))]))]);
        if !end.0.contains(':') {
            assert_eq!(shop.rebuild(&from(behind), None, random).expect_err("behind").code(), "C189");
        }
        let unknown = Starts::from([("orders".to_owned(), BTreeMap::from([(SplitId::new("nobody"), end.clone())]))]);
        assert_eq!(shop.rebuild(&from(unknown), None, random).expect_err("unknown").code(), "C188");
        assert_eq!(shop.rebuild(&from(Starts::new()), None, random)?, Some(Ending::Ended));
        assert_eq!(counted(&shop).difference(&every), None, "{input}");
        shop.run(random)?;
    }
    Ok(())
}

const SMALL: &str = "CREATE PIPELINE p WITH (trigger = 'once');
CREATE TABLE orders (id BIGINT NOT NULL, amount DECIMAL(12, 2), at TIMESTAMP, WATERMARK FOR at AS at - INTERVAL '1 second')
  WITH (connector = 'files', path = 'in/', format = 'json');
CREATE TABLE @target (at TIMESTAMP, n BIGINT) WITH (connector = 'files', path = '@target', format = 'json');
INSERT INTO @target SELECT window_start, count(*) FROM TUMBLE(orders, at, INTERVAL '@size') GROUP BY window_start, window_end;
CREATE MATERIALIZED VIEW total AS SELECT sum(@sum) AS total FROM orders;
";

#[test]
fn the_command_line_says_what_is_kept_rebuilt_and_refused() {
    let project = ProjectFolder::new("[engine]\nlanes = 1\n").expect("a folder");
    let declare = |target: &str, size: &str, sum: &str| {
        let text = SMALL.replace("@target", target).replace("@size", size).replace("@sum", sum);
        project.write("pipelines/p.sql", text).expect("a pipeline");
    };
    let ran = |words: &[&str]| binary::run(project.path(), words);
    let good = |words: &[&str]| -> Ran {
        let ran = ran(words);
        assert_eq!(ran.code, Some(0), "{words:?}: {ran:?}");
        ran
    };
    let row = |id: u32| format!("{{\"id\":{id},\"amount\":{id}.5,\"at\":\"2026-01-01T00:0{id}:00Z\"}}\n");
    project.write("in/a.jsonl", row(1) + &row(2) + &row(3)).expect("rows");
    declare("counts", "1 minute", "amount");
    assert_eq!(ran(&["replay", "p", "--from", "earliest"]).code, Some(1), "it has read nothing");
    good(&["run", "p"]);
    let kept = good(&["plan", "p", "--format", "json"]).json();
    assert_eq!(kept[0]["operators"][0]["state"], "keep", "{kept}");

    declare("counts", "1 minute", "amount * 2");
    let plan = good(&["plan", "p"]).out;
    assert!(plan.contains("keep     counts.final") && plan.contains("rebuild  total"), "{plan}");
    assert!(plan.contains("tidemill run p --rebuild") && plan.contains("> counts  kept"), "{plan}");
    let refused = ran(&["run", "p"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains("P150") && refused.err.contains("tidemill run p --rebuild"), "{refused:?}");
    assert!(refused.err.contains("total (rebuild)") && !refused.err.contains("counts.final"), "{refused:?}");
    project.write("in/b.jsonl", row(4)).expect("rows");
    let rebuilt = good(&["run", "p", "--rebuild"]);
    assert!(rebuilt.err.contains("rebuilt total") && rebuilt.err.contains("3 rows read again"), "{rebuilt:?}");
    let total = |expected: &str| {
        let found = good(&["query", "SELECT total FROM total", "--format", "json"]).out;
        assert!(found.contains(expected), "{found}, not {expected}");
    };
    total("24.0");
    assert!(good(&["run", "p", "--rebuild"]).err.contains("nothing to rebuild"), "a second time does nothing");
    let counts = |table: &str, expected: u64| {
        let sql = format!("SELECT count(*) AS n FROM {table}");
        let found = good(&["query", &sql, "--format", "json"]).out;
        assert!(
            found.contains(&format!("\"n\":{expected}")) || found.contains(&format!("\"n\": {expected}")),
            "{found}"
        );
    };
    counts("counts", 2);

    // What was added to files stays there, so a changed window is refused; a new table may be given anything.
    declare("counts", "2 minutes", "amount * 2");
    let plan = good(&["plan", "p"]).out;
    assert!(plan.contains("> counts  x refused: rows that it was given stay"), "{plan}");
    let refused = ran(&["run", "p", "--rebuild"]);
    assert!(
        refused.code == Some(1) && refused.err.contains("P191") && refused.err.contains("new table"),
        "{refused:?}"
    );
    declare("wider", "2 minutes", "amount * 2");
    good(&["run", "p", "--rebuild"]);
    counts("wider", 1);
    total("24.0");

    let dry = good(&["replay", "p", "--from", "earliest", "--dry-run"]).out;
    assert!(dry.contains("orders: 4 rows of 2 splits") && dry.contains("> wider  x refused"), "{dry}");
    assert!(dry.contains("> total  computed anew"), "{dry}");
    let refused = ran(&["replay", "p", "--from", "earliest"]);
    assert!(refused.code == Some(1) && refused.err.contains("--only"), "{refused:?}");
    good(&["replay", "p", "--from", "earliest", "--only", "total"]);
    total("24.0");
    // Offsets, and a growing table beside another one that is filled from them.
    let file = "in/a.jsonl";
    let offset = good(&["watermarks", "p", "--format", "json"]);
    project.write("offsets.json", &offset.out).expect("a file");
    let at_ends = format!("@{}", project.join("offsets.json").display());
    let dry = good(&["replay", "p", "--from", &at_ends, "--whole", "--dry-run"]).out;
    assert!(dry.contains("rows after the offsets given") && dry.contains("a part of 2 splits"), "{dry}");
    let behind = format!("orders/{file}=999999");
    assert_eq!(ran(&["replay", "p", "--from", "orders=3"]).code, Some(2));
    let unread = ran(&["replay", "p", "--from", &behind, "--only", "total", "--whole"]);
    assert!(unread.code == Some(1) && unread.err.contains("C18"), "{unread:?}");

    let from = ["replay", "p", "--from", "2026-01-01T00:03", "--only", "total"];
    assert!(ran(&from).err.contains("--whole"));
    good(&[&from[..], &["--whole"]].concat());
    total("16.0");
    good(&["run", "p"]);
    assert_eq!(ran(&["replay", "p", "--from", "sometime"]).code, Some(2));
    assert_eq!(ran(&["replay", "p", "--from", "earliest", "--only", "nobody"]).code, Some(1));
    std::fs::remove_file(project.path().join("in/a.jsonl")).expect("the file goes");
    let gone = ran(&["replay", "p", "--from", "earliest", "--only", "total"]);
    assert!(gone.code == Some(1) && gone.err.contains("C152"), "{gone:?}");
    total("16.0");

    // A view that leaves takes its state along; nothing need be read for that.
    let text = std::fs::read_to_string(project.path().join("pipelines/p.sql")).expect("the pipeline");
    let without = text.lines().filter(|line| !line.contains("MATERIALIZED")).collect::<Vec<_>>().join("\n");
    project.write("pipelines/p.sql", without).expect("a pipeline");
    assert!(ran(&["run", "p"]).err.contains("total (gone)"));
    assert!(good(&["run", "p", "--rebuild"]).err.contains("rebuilt nothing"));
    counts("wider", 1);
}
