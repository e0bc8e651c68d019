//! Dead letters that enter again: corrected by hand or by a changed query, killed anywhere on the way, and what is said.
//!
//! **Invariant:** the oracle is the query asked of the corrected rows, less those whose window had closed when they
//! entered; whatever a reader sees in between is as if no letter had entered, or all had.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, Decimal128Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use serde_json::Value;
use tidemill::letters::{Choice, Corrected, Letter, choose, prepare};
use tidemill::{Live, RunOptions, Workspace};
use tidemill_model::{Result, Timestamp, Trigger};
use tidemill_runtime::exec::{Progress, StopFlag, Views};
use tidemill_sql::batch::query;
use tidemill_testkit::{Crash, Ending, Multiset, ProjectFolder, Rng, VirtualClock};
use tokio::runtime::Runtime;

use crate::agreement::project::PRESENT;
use crate::agreement::world::World;
use crate::binary::{self, Ran};
use crate::knobs;

const PIPELINE: &str = "
CREATE PIPELINE p WITH (trigger = 'once', max_errors = 'none');
CREATE TABLE orders (
  id BIGINT NOT NULL, amount DECIMAL(12, 2), region VARCHAR, at TIMESTAMP,
  WATERMARK FOR at AS at - INTERVAL '10 seconds',
  CONSTRAINT positive CHECK (amount > 0) ON VIOLATION DEAD LETTER
) WITH (@input);
CREATE TABLE fixed (id BIGINT NOT NULL, amount DECIMAL(12, 2), region VARCHAR, at TIMESTAMP)
  WITH (connector = 'files', path = 'fixed', format = 'json');
CREATE TABLE shares (id BIGINT, share BIGINT) WITH (connector = 'log', topic = 'shares', format = 'json');
CREATE TABLE totals (region VARCHAR NOT NULL, total DECIMAL(38, 2), PRIMARY KEY (region))
  WITH (connector = 'delta', path = 'out/totals', write = 'upsert');
INSERT INTO shares SELECT id, @share AS share FROM orders;
INSERT INTO totals SELECT region, CAST(sum(amount) AS DECIMAL(38, 2)) AS total FROM orders GROUP BY region;
CREATE MATERIALIZED VIEW minutes AS SELECT region, window_start, sum(amount) AS total, count(*) AS n
  FROM TUMBLE(orders, at, INTERVAL '1 minute') GROUP BY region, window_start, window_end;
CREATE MATERIALIZED VIEW counts AS SELECT region, count(*) AS n FROM orders GROUP BY region;
CREATE MATERIALIZED VIEW ratios AS SELECT region, sum(1000 / (id % 13)) AS s FROM orders GROUP BY region;
";

const FAILS: &str = "100 / (id % 11)";
const WORKS: &str = "CASE WHEN id % 11 = 0 THEN 0 ELSE 100 / (id % 11) END";

const INPUTS: [&str; 3] = [
    "connector = 'log', topic = 'orders', partitions = '3', key = 'id', format = 'json', idle = '1 day'",
    "connector = 'files', path = 'in', format = 'json', idle = '1 day'",
    "connector = 'files', path = 'in', format = 'parquet', idle = '1 day'",
];

/// 2026-01-01.
const FROM: i64 = 1_767_225_600_000_000;
const MINUTE: i64 = 60_000_000;
const ROWS: i64 = 700;

/// Orders a second apart, each seventh with an amount that is refused unless it is corrected.
fn orders(jitter: &[i64], wrong: i128) -> RecordBatch {
    let ids: Vec<i64> = (0..ROWS).collect();
    let at = ids.iter().zip(jitter).map(|(id, jitter)| FROM + id * 1_000_000 + jitter);
    let amounts: Decimal128Array =
        ids.iter().map(|id| Some(if id % 7 == 3 { wrong } else { i128::from(id % 90 + 1) * 100 })).collect();
    let columns: [(&str, ArrayRef); 4] = [
        ("id", Arc::new(Int64Array::from(ids.clone()))),
        ("amount", Arc::new(amounts.with_precision_and_scale(12, 2).expect("fits"))),
        ("region", Arc::new(StringArray::from_iter_values(ids.iter().map(|id| ["eu", "us", "ap"][*id as usize % 3])))),
        ("at", Arc::new(TimestampMicrosecondArray::from(at.collect::<Vec<_>>()))),
    ];
    RecordBatch::try_from_iter(columns).expect("rows")
}

struct Shop {
    folder: ProjectFolder,
    input: &'static str,
    clock: Arc<VirtualClock>,
    runtime: Runtime,
    world: World,
    /// The orders that came late when they entered again.
    late: BTreeSet<i64>,
}

impl Shop {
    fn new(input: &'static str, random: &mut Rng) -> Result<Shop> {
        let folder = ProjectFolder::new("[project]\nname = \"shop\"\n")?;
        let clock = Arc::new(VirtualClock::at(PRESENT));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        declare(&folder, input, FAILS)?;
        let workspace = Workspace::open(folder.path(), clock.clone(), &|_| None)?;
        let jitter: Vec<i64> = (0..ROWS).map(|_| random.i64(0..8_000_000)).collect();
        let tables = [("orders".to_owned(), orders(&jitter, -1)), ("fixed".to_owned(), orders(&jitter, 725))];
        let world = World::new(&workspace, &tables, &[], random)?;
        Ok(Shop { folder, input, clock, runtime, world, late: BTreeSet::new() })
    }

    fn open(&self) -> Result<Workspace> {
        Workspace::open(self.folder.path(), self.clock.clone(), &|_| None)
    }

    fn run(&self, random: &mut Rng) -> Result<()> {
        let (lanes, trigger) = (Some(random.usize(1..=3)), Some(Trigger::Once));
        let options = RunOptions { lanes, trigger, ..RunOptions::default() };
        Live::open(&self.open()?, "p", &options, &Arc::new(Views::default()), &StopFlag::default())?.run()
    }

    fn choose(&self, choice: &Choice) -> Result<Vec<Letter>> {
        self.runtime.block_on(choose(&self.open()?, "p", choice))
    }

    fn epoch(&self) -> u64 {
        let checkpoints = self.open().expect("opens").checkpoints("p");
        checkpoints.latest().expect("reads").map_or(0, |manifest| manifest.epoch.0)
    }

    /// The letters of orders, each with the amount that it should have had, as a file.
    fn corrected(&self) -> Result<Choice> {
        let choice = Choice { dataset: Some("orders".to_owned()), ..Choice::default() };
        let mut lines = String::new();
        for letter in self.choose(&choice)? {
            let raw = String::from_utf8_lossy(&letter.raw).replace("-0.01", "7.25");
            let id = letter.id.expect("of a stream").to_string();
            lines.push_str(&serde_json::json!({"letter": id, "dataset": "orders", "raw": raw}).to_string());
            lines.push('\n');
        }
        self.folder.write("corrected.jsonl", lines)?;
        let corrected = Corrected::read(&self.folder.join("corrected.jsonl"), "p")?;
        Ok(Choice { corrected: Some(corrected), ..Choice::default() })
    }

    /// The orders among letters whose window has closed.
    fn closed(&self, letters: &[Letter]) -> BTreeSet<i64> {
        let manifest = self.open().expect("opens").checkpoints("p").latest().expect("reads").expect("has run");
        let watermark = manifest.sources["orders"].watermark.map_or(i64::MIN, |watermark| watermark.0);
        let mut closed = BTreeSet::new();
        for letter in letters {
            let row: Value = serde_json::from_slice(&letter.raw).expect("JSON");
            let id = match &row["id"] {
                Value::String(text) => text.parse().expect("a number"),
                number => number.as_i64().expect("a number"),
            };
            let at = Timestamp::parse(row["at"].as_str().expect("text").trim_end_matches('Z')).expect("a time").0;
            if (at.div_euclid(MINUTE) + 1) * MINUTE <= watermark {
                closed.insert(id);
            }
        }
        closed
    }

    /// One process that lets letters enter; `None` when there was nothing to do.
    fn replay(&mut self, letters: Vec<Letter>, crash: Option<Crash>, random: &mut Rng) -> Result<Option<Ending>> {
        let workspace = self.open()?;
        let options = RunOptions { lanes: Some(random.usize(1..=3)), ..RunOptions::default() };
        let progress = Arc::new(Progress::default());
        let Some(prepared) = prepare(&workspace, "p", letters, &options, &progress)? else { return Ok(None) };
        // Rows go on arriving; they are none of the letters' business.
        self.world.beside(prepared.dataflow, (&self.clock, &progress), crash, 100, random).map(Some)
    }

    /// Lets corrected letters enter, once, whatever happens on the way.
    fn replay_corrected(&mut self, mut crash: Option<Crash>, random: &mut Rng) -> Result<u64> {
        let mut died = 0;
        loop {
            let letters = self.choose(&self.corrected()?)?;
            let (before, shown, closed) = (self.epoch(), self.shown(), self.closed(&letters));
            if letters.is_empty() {
                return Ok(died);
            }
            let ending = self.replay(letters, crash.take(), random)?.expect("letters enter");
            let entered = self.epoch() > before;
            if entered {
                self.late.extend(closed);
            } else {
                let same = self.shown().iter().zip(&shown).all(|(now, then)| now.difference(then).is_none());
                assert!(same, "something changed without an epoch: {ending:?}");
            }
            match ending {
                Ending::Crashed(_) => died += 1,
                Ending::Ended => assert!(entered, "it ended without an epoch"),
            }
        }
    }

    fn ask(&self, sql: &str) -> Multiset {
        let workspace = self.open().expect("the project");
        let (views, resources) = (workspace.stored(), workspace.resources());
        let asked = query(&workspace.catalog, &views, sql, &resources, StopFlag::default());
        let answer = self.runtime.block_on(asked).unwrap_or_else(|e| panic!("{sql}: {e}"));
        Multiset::of(&answer.batches, &Default::default()).expect("rows can be shown")
    }

    fn shown(&self) -> Vec<Multiset> {
        let asked = [
            "region, n FROM counts",
            "region, window_start, total, n FROM minutes",
            "letter FROM orders.dead_letters WHERE replayed_epoch IS NULL",
        ];
        asked.map(|what| self.ask(&format!("SELECT {what}"))).into()
    }

    /// Everything that is not as the oracle says once all is read and all letters of orders have entered.
    fn compare(&self, shares: &str) -> Vec<String> {
        let late = self.late.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let in_time = if late.is_empty() { String::new() } else { format!("WHERE id NOT IN ({late})") };
        let counted = |sql: &str, n: usize| (sql.to_owned(), format!("SELECT CAST({n} AS BIGINT) AS n"));
        let letters = (0..ROWS).filter(|id| id % 7 == 3).count();
        let pairs = [
            (
                "SELECT region, n FROM counts".to_owned(),
                "SELECT region, count(*) AS n FROM fixed GROUP BY region".to_owned(),
            ),
            (
                "SELECT region, total FROM totals".to_owned(),
                "SELECT region, CAST(sum(amount) AS DECIMAL(38, 2)) AS total FROM fixed GROUP BY region".to_owned(),
            ),
            (
                "SELECT region, window_start, total, n FROM minutes".to_owned(),
                format!(
                    "SELECT region, date_trunc('minute', at) AS window_start, sum(amount) AS total, count(*) AS n FROM fixed {in_time} GROUP BY region, date_trunc('minute', at)"
                ),
            ),
            (
                "SELECT region, s FROM ratios".to_owned(),
                "SELECT region, sum(1000 / (id % 13)) AS s FROM fixed WHERE id % 13 <> 0 GROUP BY region".to_owned(),
            ),
            ("SELECT id, share FROM shares".to_owned(), shares.to_owned()),
            counted("SELECT count(*) AS n FROM orders.dead_letters", letters),
            counted("SELECT count(*) AS n FROM orders.dead_letters WHERE replayed_epoch IS NULL", 0),
            counted("SELECT count(*) AS n FROM minutes.late", self.late.len()),
        ];
        let differs = |(found, expected): &(String, String)| {
            self.ask(found).difference(&self.ask(expected)).map(|difference| format!("{found}: {difference}"))
        };
        pairs.iter().filter_map(differs).collect()
    }
}

fn declare(folder: &ProjectFolder, input: &str, share: &str) -> Result<()> {
    folder.write("pipelines/p.sql", PIPELINE.replace("@input", input).replace("@share", share))
}

#[test]
fn corrected_letters_enter_once_however_often_it_dies() -> Result<()> {
    let mut crashes = vec![None, None, None];
    crashes.extend((1..=6).map(|step| Some(Crash::AfterCommitSteps(step))));
    crashes.extend([5, 15, 30, 50].map(|point| Some(Crash::AtPoint(point))));
    let (mut died, mut late) = (0, 0);
    for (round, crash) in crashes.into_iter().enumerate() {
        let input = INPUTS[round % INPUTS.len()];
        let random = &mut Rng::with_seed(knobs::seed_of(&["letters", &round.to_string()]));
        let mut shop = Shop::new(input, random)?;
        for _ in 0..2 {
            shop.world.begin()?;
            shop.run(random)?;
        }
        died += shop.replay_corrected(crash, random)?;
        shop.world.deliver_all(random)?;
        shop.run(random)?;
        died += shop.replay_corrected(None, random)?;
        shop.run(random)?;
        let problems = shop.compare("SELECT id, 100 / (id % 11) AS share FROM fixed WHERE id % 11 <> 0");
        assert!(problems.is_empty(), "round {round}, seed {}, {input}:\n{}", knobs::seed(), problems.join("\n"));
        late += shop.late.len();

        // Rows that the statement failed on: in vain first, then after the statement was corrected.
        let of_step = Choice { dataset: Some("shares".to_owned()), ..Choice::default() };
        let failed = shop.choose(&of_step)?;
        assert_eq!(failed.len(), (0..ROWS).filter(|id| id % 11 == 0).count());
        assert_eq!(shop.replay(failed.clone(), None, random)?, Some(Ending::Ended));
        assert_eq!(shop.replay(failed, None, random)?, None, "they have entered, though in vain");
        let behind_state = Choice { dataset: Some("ratios".to_owned()), ..Choice::default() };
        let failed = shop.choose(&behind_state)?;
        let ratios = (0..ROWS).filter(|id| id % 13 == 0).count();
        assert_eq!((failed.len(), shop.replay(failed, None, random)?), (ratios, Some(Ending::Ended)));
        shop.run(random)?;
        let again = shop.choose(&of_step)?;
        assert!(again.iter().all(|letter| letter.attempts == 1), "{again:?}");
        declare(&shop.folder, shop.input, WORKS)?;
        assert_eq!(shop.replay(again, None, random)?, Some(Ending::Ended));
        let problems = shop.compare(&format!("SELECT id, {WORKS} AS share FROM fixed"));
        assert!(problems.is_empty(), "round {round}, seed {}, {input}:\n{}", knobs::seed(), problems.join("\n"));
        let counters = shop.open()?.checkpoints("p").latest()?.expect("has run").counters;
        assert_eq!((counters.rows_dead(), counters.rows_read), (ratios as u64, ROWS as u64), "{counters:?}");
        assert_eq!(counters.rows_late as usize, shop.late.len());
    }
    assert!(died >= 8 && late > 0, "{died} died, {late} rows came late");
    Ok(())
}

const SMALL: &str = "CREATE PIPELINE p WITH (trigger = 'once');
CREATE TABLE orders (id BIGINT NOT NULL, amount BIGINT, @check) WITH (connector = 'files', path = 'in/', format = 'json');
CREATE TABLE copies (id BIGINT, amount BIGINT) WITH (connector = 'files', path = 'copies/', format = 'json');
INSERT INTO copies SELECT id, amount FROM orders;
";
const CHECK: &str = "CONSTRAINT positive CHECK (amount > 0) ON VIOLATION DEAD LETTER";

#[test]
fn the_command_line_replays_what_was_corrected() {
    let project = ProjectFolder::new("[engine]\nlanes = 1\n").expect("a folder");
    let declare = |check: &str, more: &str| {
        project.write("pipelines/p.sql", SMALL.replace("@check", check) + more).expect("a pipeline");
    };
    let ran = |words: &[&str]| binary::run(project.path(), words);
    let good = |words: &[&str]| -> Ran {
        let ran = ran(words);
        assert_eq!(ran.code, Some(0), "{words:?}: {ran:?}");
        ran
    };
    let count = |from: &str| {
        good(&["query", &format!("SELECT count(*) AS n FROM {from}"), "--format", "json"]).json()[0]["n"].clone()
    };
    declare(CHECK, "");
    let nothing = good(&["dead-letters", "replay", "p"]);
    assert!(nothing.out.contains("nothing replayed"), "{nothing:?}");
    project
        .write("in/a.jsonl", "{\"id\":1,\"amount\":5}\n{\"id\":2,\"amount\":0}\n{\"id\":3,\n{\"id\":4,\"amount\":-4}\n")
        .expect("rows");
    good(&["run", "p"]);
    assert_eq!(count("copies"), 1);

    let listed = good(&["dead-letters", "p"]).out;
    assert!(listed.contains("tidemill dead-letters replay p --dry-run"), "{listed}");
    let dry = good(&["dead-letters", "replay", "p", "--dry-run"]).out;
    assert!(dry.contains("3 dead letters would enter again") && dry.contains("orders  3 letters as records"), "{dry}");
    let dry = good(&["dead-letters", "replay", "p", "--dry-run", "--where", "raw = '{\"id\":3,'", "--format", "json"]);
    assert_eq!(dry.json()["enters"][0]["letters"], 1, "{dry:?}");
    let wrong = ran(&["dead-letters", "replay", "p", "--where", "amont > 1"]);
    assert!(wrong.code == Some(1) && wrong.err.contains("amont"), "{wrong:?}");
    let wrong = ran(&["dead-letters", "replay", "p", "--dataset", "nobody"]);
    assert!(wrong.code == Some(1) && wrong.err.contains("C181"), "{wrong:?}");
    assert_eq!(ran(&["dead-letters", "replay", "q"]).code, Some(2));

    // One is corrected by hand.
    let exported = good(&["dead-letters", "p", "--format", "ndjson"]).out;
    let line = exported.lines().find(|line| line.contains("{\\\"id\\\":3,")).expect("the unreadable one");
    project.write("fixed.jsonl", line.replace("{\\\"id\\\":3,", "{\\\"id\\\":3,\\\"amount\\\":33}")).expect("a file");
    let file = project.join("fixed.jsonl").display().to_string();
    let replayed = good(&["dead-letters", "replay", "p", "--from", &file]);
    assert!(replayed.out.contains("replayed 1 dead letter in"), "{replayed:?}");
    assert_eq!((count("copies"), count("copies WHERE amount = 33")), (2.into(), 1.into()));
    let twice = ran(&["dead-letters", "replay", "p", "--from", &file]);
    assert!(twice.code == Some(1) && twice.err.contains("C184"), "{twice:?}");
    assert_eq!(count("copies"), 2);

    // The rule stands, so they are letters again, and say how often they were tried.
    let again = good(&["dead-letters", "replay", "p", "--reason", "positive", "--format", "json"]);
    let reasons = good(&["query", "SELECT reason FROM orders.dead_letters", "--format", "json"]).json();
    assert!(again.json()["replayed"] == 2 && again.json()["dead_again"] == 2, "{again:?} {reasons}");
    assert_eq!(count("orders.dead_letters WHERE attempts = 1 AND replayed_epoch IS NULL"), 2);
    assert_eq!(count("orders.dead_letters WHERE replayed_epoch IS NOT NULL"), 3);
    assert_eq!(good(&["dead-letters", "p", "--format", "json"]).json()["datasets"][0]["rows"], 2);

    // A corrected rule lets one in.
    declare(&CHECK.replace("> 0", ">= 0"), "");
    let replayed = good(&["dead-letters", "replay", "p"]);
    assert!(
        replayed.out.contains("replayed 2 dead letters") && replayed.out.contains("1 again a letter"),
        "{replayed:?}"
    );
    assert_eq!(count("copies"), 3);

    // State is of the rules that its rows came through.
    declare(&CHECK.replace("> 0", ">= 0"), "CREATE MATERIALIZED VIEW n AS SELECT count(*) AS n FROM orders;\n");
    let refused = ran(&["dead-letters", "replay", "p"]);
    assert!(
        refused.code == Some(1) && refused.err.contains("P150") && refused.err.contains("--rebuild"),
        "{refused:?}"
    );
    good(&["run", "p", "--rebuild"]);
    assert_eq!(count("copies"), 3);
}
