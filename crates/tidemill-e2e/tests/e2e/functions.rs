//! Functions that a program adds: the same in windows of every kind and without one, in both executors, over restarts;
//! and what state on record knows of them.
//!
//! **Invariant:** the oracle is the same query with functions that SQL has.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::Int64Type;
use tidemill::functions::{
    Accumulator, AggregateUDF, ColumnarValue, DataType, Functions, ScalarUDF, ScalarValue, Volatility, check_aggregate,
    create_udaf, create_udf,
};
use tidemill::rebuild::{Request, prepare};
use tidemill::{Live, RunOptions, Workspace, verify};
use tidemill_model::{Result, Trigger};
use tidemill_runtime::exec::{Limits, Progress, StopFlag, Views};
use tidemill_sql::batch::query;
use tidemill_testkit::{Multiset, ProjectFolder, Rng, VirtualClock};

use crate::agreement::project::PRESENT;
use crate::agreement::world::World;
use crate::knobs;

/// The distance between the greatest and the least value.
#[derive(Debug, Default)]
struct Span(Option<(i64, i64)>);

impl Span {
    fn widen(&mut self, least: i64, greatest: i64) {
        let (low, high) = self.0.unwrap_or((least, greatest));
        self.0 = Some((low.min(least), high.max(greatest)));
    }
}

impl Accumulator for Span {
    fn update_batch(&mut self, values: &[ArrayRef]) -> datafusion::common::Result<()> {
        values[0].as_primitive::<Int64Type>().iter().flatten().for_each(|value| self.widen(value, value));
        Ok(())
    }

    fn evaluate(&mut self) -> datafusion::common::Result<ScalarValue> {
        Ok(ScalarValue::Int64(self.0.map(|(least, greatest)| greatest - least)))
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }

    fn state(&mut self) -> datafusion::common::Result<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::Int64(self.0.map(|span| span.0)), ScalarValue::Int64(self.0.map(|span| span.1))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> datafusion::common::Result<()> {
        let (least, greatest) = (states[0].as_primitive::<Int64Type>(), states[1].as_primitive::<Int64Type>());
        for row in (0..least.len()).filter(|row| least.is_valid(*row)) {
            self.widen(least.value(row), greatest.value(row));
        }
        Ok(())
    }
}

fn span() -> AggregateUDF {
    create_udaf(
        "span",
        vec![DataType::Int64],
        Arc::new(DataType::Int64),
        Volatility::Immutable,
        Arc::new(|_| Ok(Box::<Span>::default())),
        Arc::new(vec![DataType::Int64, DataType::Int64]),
    )
}

fn twice() -> ScalarUDF {
    create_udf(
        "twice",
        vec![DataType::Int64],
        DataType::Int64,
        Volatility::Immutable,
        Arc::new(|arguments: &[ColumnarValue]| {
            let values = ColumnarValue::values_to_arrays(arguments)?;
            let doubled: Int64Array = values[0].as_primitive::<Int64Type>().iter().map(|v| v.map(|v| v * 2)).collect();
            Ok(ColumnarValue::Array(Arc::new(doubled)))
        }),
    )
}

fn functions(version: u32) -> Functions {
    let added = Functions::new().scalar(twice(), 1).and_then(|functions| functions.aggregate(span(), version));
    added.expect("they may be added")
}

const ROWS: &str = "orders";
const WINDOWS: [(&str, &str, &str); 4] = [
    ("tumbling", "TUMBLE(orders, at, INTERVAL '1 minute')", "region, window_start, window_end"),
    ("hopping", "HOP(orders, at, INTERVAL '1 minute', INTERVAL '3 minutes')", "region, window_start, window_end"),
    ("sessions", "SESSION(orders, at, INTERVAL '20 seconds', PARTITION BY region)", "region, window_start, window_end"),
    ("running", "orders", "region"),
];

fn select(from: &str, keys: &str, call: &str) -> String {
    format!("SELECT {keys}, {call} AS s, count(*) AS n FROM {from} GROUP BY {keys}")
}

fn declare(folder: &ProjectFolder, call: &str) -> Result<()> {
    let mut text = "CREATE PIPELINE p WITH (trigger = 'once');
CREATE TABLE orders (id BIGINT NOT NULL, amount BIGINT, region VARCHAR, at TIMESTAMP,
  WATERMARK FOR at AS at - INTERVAL '5 minutes', CONSTRAINT small CHECK (twice(amount) < 190))
  WITH (connector = 'log', topic = 'orders', partitions = '3', key = 'id', format = 'json', idle = '1 day');\n"
        .to_owned();
    for (name, from, keys) in WINDOWS {
        text.push_str(&format!("CREATE MATERIALIZED VIEW {name} AS {};\n", select(from, keys, call)));
    }
    folder.write("pipelines/p.sql", text)
}

fn rows(random: &mut Rng) -> RecordBatch {
    let ids: Vec<i64> = (0..600).collect();
    let at: Vec<i64> =
        ids.iter().map(|id| 1_767_225_600_000_000 + id * 9_000_000 + random.i64(0..60_000_000)).collect();
    let amounts: Int64Array = ids.iter().map(|id| (id % 9 != 0).then(|| random.i64(0..100))).collect();
    let columns: [(&str, ArrayRef); 4] = [
        ("id", Arc::new(Int64Array::from(ids.clone()))),
        ("amount", Arc::new(amounts)),
        ("region", Arc::new(StringArray::from_iter_values(ids.iter().map(|id| ["eu", "us", "ap"][*id as usize % 3])))),
        ("at", Arc::new(TimestampMicrosecondArray::from(at))),
    ];
    RecordBatch::try_from_iter(columns).expect("rows")
}

#[test]
fn an_added_aggregate_is_one_of_sql() -> Result<()> {
    let sample: ArrayRef = Arc::new((0..60).map(|n| (n % 5 != 0).then_some(n * 37 % 50)).collect::<Int64Array>());
    check_aggregate(&span(), &[sample], knobs::seed_of(&["span"]))?;

    let random = &mut Rng::with_seed(knobs::seed_of(&["functions"]));
    let folder = ProjectFolder::new("[project]\nname = \"shop\"\n")?;
    declare(&folder, "span(twice(amount))")?;
    let clock = Arc::new(VirtualClock::at(PRESENT));
    let open = |version| Workspace::open_with(folder.path(), clock.clone(), &|_| None, &functions(version));
    let mut world = World::new(&open(1)?, &[(ROWS.to_owned(), rows(random))], &[], random)?;
    let run = |version: u32, lanes: usize| -> Result<()> {
        let limits = Limits { epoch_rows: 70, ..Limits::default() };
        let options = RunOptions { lanes: Some(lanes), trigger: Some(Trigger::Once), limits, ..RunOptions::default() };
        Live::open(&open(version)?, "p", &options, &Arc::new(Views::default()), &StopFlag::default())?.run()
    };
    // Each run takes up the state of the one before, on another number of lanes.
    for lanes in [1, 3, 2] {
        world.begin()?;
        run(1, lanes)?;
    }
    world.deliver_all(random)?;
    run(1, 2)?;

    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let workspace = open(1)?;
    let ask = |sql: &str| {
        let (views, resources) = (workspace.stored(), workspace.resources());
        let asked = query(&workspace.catalog, &views, sql, &resources, StopFlag::default());
        let answer = runtime.block_on(asked).unwrap_or_else(|e| panic!("{sql}: {e}"));
        Multiset::of(&answer.batches, &Default::default()).expect("rows can be shown")
    };
    for (name, from, keys) in WINDOWS {
        let oracle = ask(&select(from, keys, "2 * (max(amount) - min(amount))"));
        let shown = ask(&format!("SELECT {keys}, s, n FROM {name}"));
        assert_eq!(shown.difference(&oracle), None, "{name}");
        let asked = ask(&select(from, keys, "span(twice(amount))"));
        assert_eq!(asked.difference(&oracle), None, "{name} asked for");
    }
    // The interval executor computes the same anew.
    let verified = runtime.block_on(verify(&workspace, "p", &StopFlag::default()))?;
    assert_eq!((verified.compared(), verified.differences()), (WINDOWS.len(), 0), "{verified:?}");

    // State knows the version of the functions that it came through.
    let refused = run(2, 1).expect_err("state of another version");
    assert!(refused.code() == "P150" && refused.facts()[0].contains("running"), "{refused} {:?}", refused.facts());
    let progress = Arc::new(Progress::default());
    let rebuilt =
        prepare(&open(2)?, "p", &Request::Changed, &RunOptions::default(), &progress)?.expect("to be rebuilt");
    let workspace = open(2)?;
    rebuilt.run(&workspace.checkpoints("p"), &StopFlag::default())?;
    run(2, 2)
}

#[test]
fn what_an_added_aggregate_cannot_do_is_refused() -> Result<()> {
    for (call, code) in [("span(DISTINCT amount)", "P241"), ("spam(amount)", "P101")] {
        let folder = ProjectFolder::new("[project]\nname = \"shop\"\n")?;
        declare(&folder, call)?;
        let clock = Arc::new(VirtualClock::at(PRESENT));
        let workspace = Workspace::open_with(folder.path(), clock, &|_| None, &functions(1))?;
        let options = RunOptions::default();
        let refused = Live::open(&workspace, "p", &options, &Arc::new(Views::default()), &StopFlag::default());
        let refused = refused.err().expect("refused");
        assert!(
            refused.code() == code || code == "P101" && format!("{refused:?}").contains("span"),
            "{call}: {refused:?}"
        );
    }
    Ok(())
}
