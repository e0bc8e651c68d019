//! One query, many executions, one answer: graphs run by hand against DataFusion over all rows at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::logical_expr::TableSource;
use tidemill_model::Result;
use tidemill_runtime::{Output, standing_rows};

use super::OpenTable;
use super::lookup::read_all;
use super::testing::{Flow, State, catalog, plan, some};
use crate::language::Dataset;
use crate::session::{Planner, Tables, session_state};

mod aggregates;
mod choice;
mod closing;
mod lateness;
mod running;
mod skew;
mod thin;
mod windows;

const TABLES: &str = "
CREATE PIPELINE p WITH (trigger = 'continuous');
CREATE TABLE orders (id BIGINT, customer BIGINT, amount DECIMAL(12, 2), price DOUBLE, region VARCHAR, currency VARCHAR,
  paid BOOLEAN, at TIMESTAMP, WATERMARK FOR at AS at - INTERVAL '10 seconds') WITH (connector = 'shelf');
CREATE TABLE rates (currency VARCHAR, usd DOUBLE, note VARCHAR) WITH (connector = 'shelf');
CREATE TABLE out WITH (connector = 'shelf');
CREATE VIEW cleaned AS SELECT id, customer, amount, price, region, upper(currency) AS currency, paid, at FROM orders
  WHERE amount > 1;
";

/// A generator that is the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

const FIRST: i64 = 1_700_000_000_000_000;
const SPAN: i64 = 600_000_000;
const DELAY: i64 = 10_000_000;

/// Orders over ten minutes, out of order by up to eight seconds, with NULLs.
fn orders(seed: u64, rows: usize) -> RecordBatch {
    let dice = &mut Dice(seed);
    let number = |dice: &mut Dice, nulls: u64, below: u64| (dice.roll(100) >= nulls).then(|| dice.roll(below) as i64);
    let mut numbers = |nulls: u64, below: u64| (0..rows).map(|_| number(dice, nulls, below)).collect::<Vec<_>>();
    let word = |values: Vec<Option<i64>>, words: &[&str]| -> ArrayRef {
        Arc::new(values.into_iter().map(|v| v.map(|v| words[v as usize])).collect::<StringArray>())
    };
    let customers: ArrayRef = Arc::new(Int64Array::from(numbers(5, 40)));
    let amounts = Decimal128Array::from_iter(numbers(0, 50_000).into_iter().map(|v| v.map(i128::from)));
    let amounts: ArrayRef = Arc::new(amounts.with_precision_and_scale(12, 2).expect("a decimal"));
    let prices = numbers(10, 100_000).into_iter().map(|v| v.map(|v| v as f64 / 7.0 - 3_000.0));
    let prices: ArrayRef = Arc::new(prices.collect::<Float64Array>());
    let regions = word(numbers(7, 4), &["eu", "us", "apac", "mea"]);
    let currencies = word(numbers(0, 6), &["eur", "EUR", "usd", "Usd", "gbp", "chf"]);
    let paid: ArrayRef = Arc::new(numbers(3, 2).into_iter().map(|v| v.map(|v| v == 1)).collect::<BooleanArray>());
    let late = numbers(0, 8_000_000);
    let at =
        late.into_iter().enumerate().map(|(row, late)| FIRST + row as i64 * (SPAN / rows as i64) - late.unwrap_or(0));
    let at: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter_values(at));
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows as i64));
    let columns = [
        ("id", ids),
        ("customer", customers),
        ("amount", amounts),
        ("price", prices),
        ("region", regions),
        ("currency", currencies),
        ("paid", paid),
        ("at", at),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, of)| (name, of, name != "at")))
        .expect("orders")
}

/// Two rows for EUR, none for CHF, one without a key.
fn rates() -> RecordBatch {
    let currency: ArrayRef =
        Arc::new(StringArray::from(vec![Some("EUR"), Some("USD"), Some("EUR"), None, Some("GBP")]));
    let usd: ArrayRef = Arc::new(Float64Array::from(vec![Some(1.1), Some(1.0), Some(1.2), Some(9.0), None]));
    let note: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c", "d", "e"]));
    let columns = [("currency", currency), ("usd", usd), ("note", note)];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, of)| (name, of, true))).expect("rates")
}

/// All rows, as tables of DataFusion.
struct Whole {
    orders: RecordBatch,
}

impl Tables for Whole {
    fn dataset(&self, dataset: &Dataset) -> Result<Arc<dyn TableSource>> {
        let rows = if dataset.name == "rates" { rates() } else { self.orders.clone() };
        let table = MemTable::try_new(rows.schema(), vec![vec![rows]]).expect("a table");
        Ok(provider_as_source(Arc::new(table)))
    }
}

fn open() -> OpenTable {
    Arc::new(|dataset: &Dataset| Whole { orders: orders(1, 1) }.dataset(dataset))
}

/// Rows as sorted lines; floats to nine digits.
fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let mut lines = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let cells = batch.columns().iter().map(|column| {
                let cell = ArrayFormatter::try_new(column, &options).expect("shows").value(row).to_string();
                match (column.data_type(), cell.parse::<f64>()) {
                    (DataType::Float64 | DataType::Float32, Ok(value)) => format!("{value:.8e}"),
                    _ => cell,
                }
            });
            lines.push(cells.collect::<Vec<_>>().join(" "));
        }
    }
    lines.sort();
    lines
}

/// What DataFusion says of the query over all rows.
fn oracle(sql: &str, orders: &RecordBatch) -> Vec<String> {
    answer(sql, orders).expect("an answer")
}

/// The same, if it knows one.
fn answer(sql: &str, orders: &RecordBatch) -> Result<Vec<String>> {
    let catalog = catalog(&format!("{TABLES} INSERT INTO out {sql};")).expect("a catalog");
    let insert = &catalog.project().pipelines["p"].inserts[0];
    let (state, tables) = (session_state(), Whole { orders: orders.clone() });
    let plan = Planner::new(catalog.project(), &state, &tables).query(&insert.query, &insert.place).expect("a plan");
    Ok(lines(&read_all(state, plan, &insert.place)?))
}

/// One way to run a flow.
#[derive(Debug, Clone, Copy)]
struct Way {
    /// Rows a batch.
    cut: usize,
    lanes: usize,
    /// A barrier every so many batches.
    barrier: usize,
    /// At barriers, go on in a new process with this many lanes.
    restart: Option<usize>,
}

const WAYS: &[Way] = &[
    Way { cut: 100_000, lanes: 1, barrier: 1, restart: None },
    Way { cut: 64, lanes: 1, barrier: 1_000_000, restart: None },
    Way { cut: 37, lanes: 3, barrier: 4, restart: None },
    Way { cut: 113, lanes: 2, barrier: 2, restart: Some(3) },
    Way { cut: 200, lanes: 3, barrier: 1, restart: Some(1) },
];

/// The rows that were written, and those of the view `v`, after all rows and the end of time.
fn run(statement: &str, orders: &RecordBatch, way: Way) -> (Vec<String>, Vec<String>) {
    let plan = plan(&format!("{TABLES} {statement};"), &open()).unwrap_or_else(|e| panic!("{statement}: {e}"));
    let mut flow = Flow::start(&plan.graph, way.lanes, None);
    let mut written: Vec<RecordBatch> = Vec::new();
    let mut newest = i64::MIN;
    let times = orders.column_by_name("at").expect("times");
    let times = arrow::array::AsArray::as_primitive::<arrow::datatypes::TimestampMicrosecondType>(times).values();
    for (number, from) in (0..orders.num_rows()).step_by(way.cut).enumerate() {
        let length = way.cut.min(orders.num_rows() - from);
        flow.rows("orders", number % flow.lanes, &orders.slice(from, length)).expect("takes rows");
        newest = times[from..from + length].iter().copied().max().unwrap_or(newest).max(newest);
        flow.watermark("orders", newest - DELAY).expect("takes a watermark");
        if (number + 1) % way.barrier == 0 {
            let state = flow.barrier().expect("a barrier");
            if let Some(lanes) = way.restart {
                // What was emitted before the barrier was committed with it.
                written.extend(flow.written.remove("out").unwrap_or_default());
                let lanes = if number % 2 == 0 { lanes } else { way.lanes };
                flow = Flow::start(&plan.graph, lanes, Some(state));
                flow.watermark("orders", newest - DELAY).expect("takes a watermark");
            }
        }
    }
    flow.watermark("orders", i64::MAX).expect("takes the end");
    let state = flow.barrier().expect("a barrier");
    written.extend(flow.written.remove("out").unwrap_or_default());
    assert_eq!(
        plan.graph
            .nodes
            .iter()
            .map(|node| node.name.clone())
            .filter(|name| name.ends_with("partial"))
            .map(|name| flow.late(&name))
            .sum::<u64>(),
        0
    );
    if plan.views.is_empty() {
        return (lines(&written), Vec::new());
    }
    let last = lines(&view(&state));
    (Vec::new(), last)
}

/// The rows of the view `v`.
fn view(state: &State) -> Vec<RecordBatch> {
    let chunks = state.get("v").into_iter().flatten();
    standing_rows(chunks.map(|(name, rows)| (name.as_str(), rows))).expect("the rows of a view")
}

/// Runs the query into a sink (if it can) and into a view, in every way, against the oracle.
fn check(sql: &str, into_sink: bool) {
    let orders = orders(7, 1_500);
    let expected = oracle(sql, &orders);
    assert!(!expected.is_empty(), "{sql} has an answer");
    for way in WAYS {
        if into_sink {
            let (written, _) = run(&format!("INSERT INTO out {sql}"), &orders, *way);
            assert_eq!(written, expected, "{sql} {way:?}");
        }
        let (_, viewed) = run(&format!("CREATE MATERIALIZED VIEW v AS {sql}"), &orders, *way);
        assert_eq!(viewed, expected, "view of {sql} {way:?}");
    }
}

#[test]
fn rows_are_filtered_and_computed() {
    check("SELECT id, round(price, 2) AS p, upper(currency) AS c, at FROM orders WHERE price > 0 AND paid", true);
    check("SELECT region || '/' || currency AS k, amount * 2 AS double FROM cleaned", true);
    check("SELECT id, region FROM orders WHERE paid UNION ALL SELECT customer, 'c' FROM orders", true);
}

#[test]
fn tables_are_looked_up_in() {
    for sql in [
        "SELECT o.id, o.currency, r.usd, r.note FROM cleaned AS o LEFT JOIN rates AS r ON o.currency = r.currency",
        "SELECT o.id, r.usd FROM cleaned AS o JOIN rates AS r ON o.currency = r.currency AND r.note <> 'a' AND o.price < r.usd * 1000",
        "SELECT o.id, r.note FROM rates AS r JOIN cleaned AS o ON o.currency = r.currency",
        "SELECT id, currency FROM cleaned WHERE currency IN (SELECT currency FROM rates WHERE usd > 1)",
        "SELECT id FROM cleaned AS o WHERE NOT EXISTS (SELECT 1 FROM rates AS r WHERE r.currency = o.currency)",
        "SELECT id, k.f FROM orders CROSS JOIN (VALUES (1), (2)) AS k(f)",
        "SELECT r.note, window_start, count(*) AS n, sum(o.amount) AS s
           FROM TUMBLE((SELECT * FROM cleaned), at, INTERVAL '1 minute') AS o
           LEFT JOIN rates AS r ON o.currency = r.currency GROUP BY r.note, window_start",
    ] {
        check(sql, true);
    }
}

/// Each query fails on some rows; the second one says what it means without them.
const FAILING: &[(&str, &str)] = &[
    (
        "SELECT id, 10 / customer AS q FROM orders WHERE paid",
        "SELECT id, 10 / nullif(customer, 0) AS q FROM orders WHERE paid AND (customer IS DISTINCT FROM 0)",
    ),
    (
        "SELECT window_start, sum(100 / customer) FILTER (WHERE paid) AS s, count(*) AS n
           FROM TUMBLE(orders, at, INTERVAL '1 minute') GROUP BY window_start",
        "SELECT window_start, sum(100 / nullif(customer, 0)) FILTER (WHERE paid) AS s, count(*) AS n
           FROM TUMBLE((SELECT * FROM orders WHERE NOT coalesce(paid AND customer = 0, false)), at, INTERVAL '1 minute')
           GROUP BY window_start",
    ),
    (
        "SELECT 100 / customer AS k, window_end, count(DISTINCT currency) AS n
           FROM TUMBLE(orders, at, INTERVAL '1 minute') GROUP BY 100 / customer, window_end",
        "SELECT 100 / nullif(customer, 0) AS k, window_end, count(DISTINCT currency) AS n
           FROM TUMBLE((SELECT * FROM orders WHERE customer IS DISTINCT FROM 0), at, INTERVAL '1 minute')
           GROUP BY 1, window_end",
    ),
    (
        "SELECT o.id, r.usd FROM cleaned AS o JOIN rates AS r ON o.currency = r.currency AND 10 / o.customer < r.usd * 2",
        "SELECT o.id, r.usd FROM cleaned AS o JOIN rates AS r
           ON o.currency = r.currency AND 10 / nullif(o.customer, 0) < r.usd * 2",
    ),
];

#[test]
fn rows_that_fail_are_dead_and_the_others_are_not_harmed() {
    let orders = orders(7, 900);
    for (query, mended) in FAILING {
        let plan =
            plan(&format!("{TABLES} INSERT INTO out {query};"), &open()).unwrap_or_else(|e| panic!("{query}: {e}"));
        let mut found = Vec::new();
        for (cut, lanes) in [(900, 1), (50, 3), (7, 2)] {
            let mut flow = Flow::start(&plan.graph, lanes, None);
            for (number, from) in (0..900).step_by(cut).enumerate() {
                flow.rows("orders", number % lanes, &orders.slice(from, cut.min(900 - from))).expect("takes rows");
            }
            flow.watermark("orders", i64::MAX).expect("takes the end");
            assert_eq!(lines(&flow.written.remove("out").unwrap_or_default()), oracle(mended, &orders), "{query}");
            assert!(
                flow.dead.iter().all(|letter| letter.dataset == "out" && letter.reason.starts_with("division by zero"))
            );
            assert!(flow.dead.iter().all(|letter| letter.event_time.is_some() || !query.contains("TUMBLE")), "{query}");
            found.push(flow.dead.len());
        }
        assert!(found[0] > 0 && found.iter().all(|n| *n == found[0]), "{query}: {found:?}");
    }
}

#[test]
fn a_view_forgets_old_windows_only() {
    let sql = format!(
        "{TABLES} CREATE MATERIALIZED VIEW v WITH (retention = '3 minutes') AS
         SELECT window_end, count(*) AS n FROM TUMBLE(orders, at, INTERVAL '1 minute') GROUP BY window_end;"
    );
    let plan = plan(&sql, &open()).expect("a plan");
    let mut flow = Flow::start(&plan.graph, 2, None);
    let orders = orders(3, 600);
    flow.rows("orders", 0, &orders).expect("takes rows");
    let before = flow.barrier().expect("a barrier")["v"].len();
    let watermark = FIRST + SPAN - DELAY;
    flow.watermark("orders", watermark).expect("takes a watermark");
    let state = flow.barrier().expect("a barrier");
    let after: usize = view(&state).iter().map(RecordBatch::num_rows).sum();
    assert!(before >= 10, "all windows were there: {before}");
    assert!((4..=5).contains(&after), "the open one and those of the last three minutes: {after}");
    assert!(state["v.final"].len() <= 4, "closed windows are no longer stored: {:?}", state["v.final"].keys());
}

/// Rows that each come after windows that they are in have closed: what is counted and what is late are all pairs.
#[test]
fn a_row_is_late_for_the_windows_that_closed_alone() {
    let sql = format!(
        "{TABLES} INSERT INTO out SELECT window_start, count(*) AS n
         FROM HOP(orders, at, INTERVAL '1 minute', INTERVAL '3 minutes') GROUP BY window_start;"
    );
    let plan = plan(&sql, &open()).expect("a plan");
    let rows = orders(5, 600);
    let times = arrow::array::AsArray::as_primitive::<arrow::datatypes::TimestampMicrosecondType>(rows.column(7));
    let minute = |at: i64| at.div_euclid(60_000_000);
    let middle = minute(FIRST + SPAN / 2) * 60_000_000;
    let early = some(&rows, |row| times.value(row) >= middle);
    let late = some(&rows, |row| times.value(row) < middle);
    let mut flow = Flow::start(&plan.graph, 2, None);
    flow.rows("orders", 0, &early).expect("takes rows");
    flow.watermark("orders", middle).expect("takes a watermark");
    flow.rows("orders", 1, &late).expect("takes rows");
    flow.watermark("orders", i64::MAX).expect("takes the end");
    let mut expected: BTreeMap<i64, i64> = BTreeMap::new();
    let mut pairs = 0;
    for at in times.values() {
        for start in (minute(*at) - 2)..=minute(*at) {
            match (start + 3) * 60_000_000 > middle {
                true => *expected.entry(start * 60_000_000).or_insert(0) += 1,
                false => pairs += 1,
            }
        }
    }
    let got: BTreeMap<i64, i64> = flow.written["out"]
        .iter()
        .flat_map(|batch| {
            let starts =
                arrow::array::AsArray::as_primitive::<arrow::datatypes::TimestampMicrosecondType>(batch.column(0));
            let counts = arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(batch.column(1));
            starts.values().iter().copied().zip(counts.values().iter().copied()).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(got, expected);
    assert_eq!(flow.late("out.partial"), pairs);
}

#[test]
fn late_rows_are_counted_and_left_out_whatever_the_cut() {
    let sql = format!(
        "{TABLES} INSERT INTO out SELECT window_start, count(*) AS n FROM TUMBLE(orders, at, INTERVAL '1 minute') GROUP BY window_start;"
    );
    let plan = plan(&sql, &open()).expect("a plan");
    let rows = orders(5, 600);
    let times = arrow::array::AsArray::as_primitive::<arrow::datatypes::TimestampMicrosecondType>(rows.column(7));
    let minute = |at: i64| at.div_euclid(60_000_000);
    let middle = FIRST + SPAN / 2;
    let early = some(&rows, |row| times.value(row) >= middle);
    let late = some(&rows, |row| minute(times.value(row)) < minute(middle));
    for parts in [1, 7] {
        let mut flow = Flow::start(&plan.graph, 2, None);
        flow.rows("orders", 0, &early).expect("takes rows");
        flow.watermark("orders", middle).expect("takes a watermark");
        for part in 0..parts {
            flow.rows("orders", 1, &some(&late, |row| row % parts == part)).expect("takes rows");
        }
        flow.watermark("orders", i64::MAX).expect("takes the end");
        assert_eq!(flow.late("out.partial"), late.num_rows() as u64);
        let mut counts = BTreeMap::new();
        for at in 0..early.num_rows() {
            let times =
                arrow::array::AsArray::as_primitive::<arrow::datatypes::TimestampMicrosecondType>(early.column(7));
            *counts.entry(minute(times.value(at))).or_insert(0_i64) += 1;
        }
        let got: i64 = flow.written["out"]
            .iter()
            .flat_map(|batch| {
                arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(batch.column(1)).values().to_vec()
            })
            .sum();
        assert_eq!(got, counts.values().sum::<i64>());
    }
}
