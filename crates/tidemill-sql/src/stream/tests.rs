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
use tidemill_runtime::standing_rows;

use super::OpenTable;
use super::lookup::read_all;
use super::testing::{Flow, State, catalog, plan, some};
use crate::language::Dataset;
use crate::session::{Planner, Tables, session_state};

mod closing;

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
    Arc::new(|dataset| Whole { orders: orders(1, 1) }.dataset(dataset))
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
    let catalog = catalog(&format!("{TABLES} INSERT INTO out {sql};")).expect("a catalog");
    let insert = &catalog.project().pipelines["p"].inserts[0];
    let (state, tables) = (session_state(), Whole { orders: orders.clone() });
    let plan = Planner::new(catalog.project(), &state, &tables).query(&insert.query, &insert.place).expect("a plan");
    lines(&read_all(state, plan, &insert.place).expect("an answer"))
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
fn windows_are_grouped_by_every_aggregate() {
    let group = "FROM TUMBLE(cleaned, at, INTERVAL '1 minute')";
    for aggregates in [
        "sum(amount) AS s, count(*) AS n, avg(amount) AS a, min(price) AS low, max(region) AS high",
        "sum(price) AS s, avg(price) AS a, stddev(price) AS d, var_pop(price) AS v, count(price) AS n",
        "sum(customer) AS s, avg(customer) AS a, count(DISTINCT customer) AS n, sum(DISTINCT customer) AS sd",
        "count(DISTINCT region) AS n, count(DISTINCT amount) AS m, approx_distinct(customer) AS d",
        "median(price) AS m, percentile_cont(price, 0.95) AS p95, percentile_cont(0.5) WITHIN GROUP (ORDER BY price) AS p",
        "count(*) FILTER (WHERE paid) AS paid, sum(amount) FILTER (WHERE NOT paid) AS due, bool_and(paid) AS b",
        "bit_xor(customer) AS x, corr(price, customer) AS c, bool_or(price > 10) AS any_big, max(at) AS last",
    ] {
        check(
            &format!("SELECT region, window_start, {aggregates} {group} GROUP BY region, window_start, window_end"),
            true,
        );
    }
}

#[test]
fn windows_are_told_by_either_bound_and_by_any_key() {
    for sql in [
        "SELECT window_start, window_end, count(*) AS n FROM TUMBLE(orders, at, INTERVAL '1 minute') GROUP BY window_start, window_end",
        "SELECT window_end, sum(amount) AS s FROM TUMBLE(orders, at, INTERVAL '90 seconds') GROUP BY window_end",
        "SELECT upper(region) AS r, customer % 3 AS k, window_start, count(*) AS n
           FROM TUMBLE((SELECT * FROM orders WHERE amount > 100), at, INTERVAL '2 minutes', OFFSET => INTERVAL '30 seconds')
           GROUP BY 1, 2, 3",
        "SELECT DISTINCT region, currency, window_start FROM TUMBLE(cleaned, at, INTERVAL '5 minutes')",
        "SELECT region, window_start, sum(amount) AS s FROM TUMBLE(cleaned, at, INTERVAL '1 minute')
           GROUP BY region, window_start HAVING count(*) > 20 AND sum(amount) > 3000",
        "SELECT paid, price > 5 AS big, window_start AS w, count(*) + 1 AS n FROM TUMBLE(orders, at, INTERVAL '1 hour')
           GROUP BY paid, price > 5, window_start",
    ] {
        check(sql, true);
    }
}

#[test]
fn windows_over_windows_close_in_turn() {
    let minutes = "SELECT region, window_start, sum(amount) AS s, count(*) AS n
        FROM TUMBLE(cleaned, at, INTERVAL '1 minute') GROUP BY region, window_start, window_end";
    check(
        &format!(
            "SELECT window_start, max(s) AS best, sum(n) AS n FROM TUMBLE(({minutes}), window_start, INTERVAL '3 minutes') GROUP BY window_start"
        ),
        true,
    );
    check(
        &format!("SELECT window_start, sum(s) AS s, count(*) AS regions FROM ({minutes}) GROUP BY window_start"),
        true,
    );
}

#[test]
fn hopping_windows_are_made_of_panes() {
    for windows in [
        "INTERVAL '1 minute', INTERVAL '5 minutes'",
        "INTERVAL '50 seconds', INTERVAL '70 seconds'",
        "INTERVAL '1 minute', INTERVAL '20 seconds'",
        "INTERVAL '2 minutes', INTERVAL '2 minutes'",
        "INTERVAL '1 second', INTERVAL '1 minute', OFFSET => INTERVAL '100 milliseconds'",
        "INTERVAL '7 seconds', INTERVAL '5 minutes', OFFSET => INTERVAL '3 seconds'",
    ] {
        for sql in [
            "SELECT region, window_start, window_end, count(*) AS n, sum(amount) AS s, avg(price) AS a, count(DISTINCT customer) AS d
               FROM HOP(cleaned, at, {}) GROUP BY region, window_start, window_end HAVING count(*) > 1",
            "SELECT window_end, max(price) AS m FROM HOP((SELECT * FROM orders WHERE paid), at, {}) AS h GROUP BY window_end",
        ] {
            check(&sql.replace("{}", windows), true);
        }
    }
}

#[test]
fn sessions_are_joined_from_runs() {
    for sql in [
        "SELECT customer, window_start, window_end, count(*) AS n, sum(amount) AS s, avg(price) AS a, max(region) AS r
           FROM SESSION(cleaned, at, INTERVAL '10 seconds', PARTITION BY customer)
           GROUP BY customer, window_start, window_end",
        "SELECT window_start, window_end, count(*) AS n, count(DISTINCT customer) AS d
           FROM SESSION((SELECT * FROM orders WHERE price > 10000), at, INTERVAL '3 seconds')
           GROUP BY window_start, window_end",
        "SELECT region AS r, currency, window_end, count(*) AS n, sum(amount) FILTER (WHERE paid) AS s
           FROM SESSION((SELECT * FROM orders WHERE customer < 5), at, INTERVAL '15 seconds', PARTITION BY region, currency) AS s
           GROUP BY region, currency, window_end HAVING count(*) > 1",
        "SELECT customer, paid, window_start, count(*) AS n, median(price) AS m
           FROM SESSION(orders, at, INTERVAL '20 seconds', PARTITION BY customer) GROUP BY customer, paid, window_start",
        "SELECT customer, window_start, count(*) AS n
           FROM SESSION(orders, at, INTERVAL '1 hour', PARTITION BY customer) GROUP BY customer, window_start",
        "SELECT DISTINCT customer, window_start, window_end
           FROM SESSION(orders, at, INTERVAL '400 milliseconds', PARTITION BY customer)",
        "SELECT window_start, count(*) AS sessions, max(n) AS most FROM TUMBLE((
           SELECT customer, window_start AS began, count(*) AS n
           FROM SESSION(orders, at, INTERVAL '10 seconds', PARTITION BY customer) GROUP BY customer, window_start
         ), began, INTERVAL '1 minute') GROUP BY window_start",
        "SELECT window_start, sum(n) AS n FROM SESSION((
           SELECT window_end AS at, count(*) AS n FROM TUMBLE((SELECT * FROM orders WHERE customer = 7), at, INTERVAL '1 second')
           GROUP BY window_end), at, INTERVAL '5 seconds') GROUP BY window_start",
    ] {
        check(sql, true);
    }
}

/// What becomes of rows at the edges of sessions; the gap is 30 minutes and times are minutes.
#[test]
fn sessions_end_at_silence_are_bridged_and_then_final() {
    let sql = format!(
        "{TABLES} INSERT INTO out SELECT customer, window_start, window_end, count(*) AS n
         FROM SESSION(orders, at, INTERVAL '30 minutes', PARTITION BY customer)
         GROUP BY customer, window_start, window_end;"
    );
    let plan = plan(&sql, &open()).expect("a plan");
    let at = |minutes: &[i64]| {
        let rows = orders(1, minutes.len());
        let mut columns = rows.columns().to_vec();
        columns[1] = Arc::new(Int64Array::from(vec![1; minutes.len()]));
        columns[7] = Arc::new(TimestampMicrosecondArray::from_iter_values(minutes.iter().map(|m| m * 60_000_000)));
        RecordBatch::try_new(rows.schema(), columns).expect("orders")
    };
    // Watermarks and rows in turn, then the sessions as minutes and counts, and the late rows.
    type Steps<'a> = &'a [(i64, &'a [i64])];
    type Sessions<'a> = &'a [(i64, i64, i64)];
    let cases: &[(Steps<'_>, Sessions<'_>, u64)] = &[
        (&[(0, &[600, 630])], &[(600, 630, 1), (630, 660, 1)], 0),
        (&[(0, &[600, 629])], &[(600, 659, 2)], 0),
        (&[(0, &[600]), (0, &[650]), (0, &[625])], &[(600, 680, 3)], 0),
        // 620 was final at 650: a row that touches it is late, and so is one too old to begin anything.
        (&[(0, &[620]), (650, &[640, 700]), (690, &[641])], &[(620, 650, 1), (700, 730, 1)], 2),
        (&[(0, &[620]), (650, &[650])], &[(620, 650, 1), (650, 680, 1)], 0),
        (&[(0, &[620]), (660, &[635])], &[(620, 650, 1)], 1),
        // Behind the watermark, touching an open session or none that is final: on time.
        (&[(0, &[600, 625]), (640, &[630])], &[(600, 660, 3)], 0),
        (&[(640, &[620])], &[(620, 650, 1)], 0),
        (&[(640, &[610])], &[], 1),
    ];
    for (steps, expected, late) in cases {
        for restart in [false, true] {
            let mut flow = Flow::start(&plan.graph, 2, None);
            let (mut written, mut late_before, mut watermark) = (Vec::new(), 0, i64::MIN);
            for (number, (minutes, rows)) in steps.iter().enumerate() {
                watermark = minutes * 60_000_000;
                flow.watermark("orders", watermark).expect("takes a watermark");
                flow.rows("orders", number % flow.lanes, &at(rows)).expect("takes rows");
                if restart {
                    let state = flow.barrier().expect("a barrier");
                    late_before += flow.late("out.final");
                    written.extend(flow.written.remove("out").unwrap_or_default());
                    flow = Flow::start(&plan.graph, 1 + number % 3, Some(state));
                    flow.watermark("orders", watermark).expect("takes a watermark");
                }
            }
            flow.watermark("orders", i64::MAX).expect("takes the end");
            let state = flow.barrier().expect("a barrier");
            assert!(
                state.get("out.final").is_none_or(BTreeMap::is_empty),
                "expired sessions leave no state: {state:?}"
            );
            written.extend(flow.written.remove("out").unwrap_or_default());
            let mut found = Vec::new();
            for batch in &written {
                let time = |column: usize| {
                    arrow::array::AsArray::as_primitive::<arrow::datatypes::TimestampMicrosecondType>(
                        batch.column(column),
                    )
                };
                let counts = arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(batch.column(3));
                for row in 0..batch.num_rows() {
                    let minute = |column: usize| time(column).value(row) / 60_000_000;
                    found.push((minute(1), minute(2), counts.value(row)));
                }
            }
            found.sort_unstable();
            assert_eq!(found, *expected, "{steps:?} {restart} {watermark}");
            assert_eq!(late_before + flow.late("out.final"), *late, "{steps:?} {restart}");
        }
    }
}

#[test]
fn hopping_windows_are_also_rows() {
    for sql in [
        "SELECT id, window_start, window_end FROM HOP(orders, at, INTERVAL '20 seconds', INTERVAL '1 minute') WHERE paid",
        "SELECT id, window_end FROM HOP(orders, at, INTERVAL '1 minute', INTERVAL '20 seconds')",
        "SELECT region, window_start, count(*) AS n FROM HOP(orders, at, INTERVAL '30 seconds', INTERVAL '1 minute')
           WHERE at < window_start + INTERVAL '50 seconds' GROUP BY region, window_start",
        "SELECT window_start, max(window_end) AS e, count(*) AS n
           FROM HOP(orders, at, INTERVAL '30 seconds', INTERVAL '100 seconds') GROUP BY window_start",
        "SELECT h.window_start, r.note, sum(h.amount) AS s FROM HOP(cleaned, at, INTERVAL '1 minute', INTERVAL '3 minutes') AS h
           JOIN rates AS r ON h.currency = r.currency GROUP BY h.window_start, r.note",
        "SELECT window_start, max(n) AS n, count(*) AS k FROM TUMBLE((
           SELECT window_start AS w, region, count(*) AS n FROM HOP(orders, at, INTERVAL '20 seconds', INTERVAL '1 minute')
           GROUP BY window_start, region), w, INTERVAL '2 minutes') GROUP BY window_start",
        "SELECT window_start, sum(n) AS n FROM HOP((
           SELECT window_end, count(*) AS n FROM TUMBLE(orders, at, INTERVAL '20 seconds')
           GROUP BY window_end), window_end, INTERVAL '1 minute', INTERVAL '3 minutes') GROUP BY window_start",
    ] {
        check(sql, true);
    }
    check(
        "SELECT region, count(*) AS n FROM HOP(orders, at, INTERVAL '20 seconds', INTERVAL '1 minute') GROUP BY region",
        false,
    );
}

#[test]
fn groups_without_a_window_change_until_the_end() {
    for sql in [
        "SELECT region, currency, sum(amount) AS s, count(DISTINCT customer) AS n FROM cleaned GROUP BY region, currency",
        "SELECT count(*) AS n, sum(amount) AS s, min(at) AS first FROM orders",
        "SELECT DISTINCT currency FROM orders",
        "SELECT customer, median(price) AS m FROM orders GROUP BY customer HAVING count(*) > 35",
        "SELECT date_trunc('minute', at) AS minute, count(*) AS n FROM orders GROUP BY 1",
    ] {
        check(sql, false);
    }
}

/// Queries over groups that change: what is below gives rows out and takes them back.
const CHANGING: &[&str] = &[
    // Counts and exact totals are subtracted.
    "SELECT n, count(*) AS customers, sum(s) AS s, count(s) AS k FROM (SELECT customer, count(*) AS n, sum(amount) AS s FROM orders GROUP BY customer) GROUP BY n",
    "SELECT sum(n) AS n, avg(n) AS mean, count(*) AS groups FROM (SELECT region, currency, count(*) AS n FROM orders GROUP BY region, currency HAVING count(*) % 2 = 0)",
    // Others are computed anew from the rows of their group.
    "SELECT region, max(s) AS most, min(n) AS least, avg(p) AS p FROM (SELECT region, currency, sum(amount) AS s, count(*) AS n, max(price) AS p FROM orders GROUP BY region, currency) GROUP BY region",
    "SELECT max(n) AS most, median(n) AS middle, count(DISTINCT n) AS sizes FROM (SELECT customer, count(*) AS n FROM orders GROUP BY customer)",
    // Groups that come and go.
    "SELECT customer, count(*) AS n FROM orders GROUP BY customer HAVING count(*) % 3 = 1",
    "SELECT DISTINCT n FROM (SELECT customer, count(*) AS n FROM orders GROUP BY customer)",
    "SELECT DISTINCT n % 4 AS k, most > 100 AS big FROM (SELECT customer, count(*) AS n, max(amount) AS most FROM orders GROUP BY customer) WHERE n > 3",
    // Both sides of a union change.
    "SELECT region AS k, count(*) AS n FROM orders GROUP BY region UNION ALL SELECT currency, sum(customer) FROM orders GROUP BY currency",
    "SELECT region AS k FROM orders WHERE paid UNION SELECT upper(currency) FROM orders",
    "SELECT k, count(*) AS n FROM (SELECT region AS k, count(*) AS n FROM orders GROUP BY region UNION ALL SELECT currency, sum(customer) FROM orders GROUP BY currency) GROUP BY k",
    // Windows below, which change until they close.
    "SELECT region, max(s) AS best, count(*) AS minutes FROM (SELECT region, window_start, sum(amount) AS s FROM TUMBLE(cleaned, at, INTERVAL '1 minute') GROUP BY region, window_start, window_end) GROUP BY region",
    // Three levels.
    "SELECT max(k) AS k FROM (SELECT n, count(*) AS k FROM (SELECT customer, count(*) AS n FROM orders GROUP BY customer) GROUP BY n)",
];

#[test]
fn what_is_above_changing_groups_stays_right() {
    for sql in CHANGING {
        check(sql, false);
    }
}

#[test]
fn a_view_shows_the_answer_for_what_was_read_at_each_barrier() {
    let orders = orders(11, 600);
    for sql in CHANGING {
        let text = format!("{TABLES} CREATE MATERIALIZED VIEW v AS {sql};");
        let plan = plan(&text, &open()).unwrap_or_else(|e| panic!("{sql}: {e}"));
        let mut flow = Flow::start(&plan.graph, 2, None);
        for (number, from) in (0..600).step_by(75).enumerate() {
            flow.rows("orders", number % 2, &orders.slice(from, 75)).expect("takes rows");
            let state = flow.barrier().expect("a barrier");
            assert_eq!(lines(&view(&state)), oracle(sql, &orders.slice(0, from + 75)), "{sql} after {}", from + 75);
        }
    }
}

#[test]
fn a_checkpoint_costs_what_changed() {
    let text = format!("{TABLES} CREATE MATERIALIZED VIEW v AS SELECT id, count(*) AS n FROM orders GROUP BY id;");
    let plan = plan(&text, &open()).expect("a plan");
    let mut flow = Flow::start(&plan.graph, 1, None);
    flow.rows("orders", 0, &orders(3, 20_000)).expect("takes rows");
    let rows = |state: &State, node: &str| state[node].values().map(RecordBatch::num_rows).sum::<usize>();
    let state = flow.barrier().expect("a barrier");
    let (groups, shown) = (rows(&state, "v.groups"), rows(&state, "v"));
    let before = flow.stored_rows;
    for seed in 0..100 {
        flow.rows("orders", 0, &orders(seed, 50)).expect("takes rows");
        let state = flow.barrier().expect("a barrier");
        assert!(rows(&state, "v.groups") <= 2 * groups && rows(&state, "v") <= 3 * shown, "stored state is bounded");
    }
    // A changed group is a row of the groups and two of the view; small chunks are merged now and then.
    let each = (flow.stored_rows - before) / 100;
    assert!(each <= 3 * 150, "an epoch of 50 rows stored {each} on average");
}

#[test]
fn an_aggregate_over_no_rows_is_null_and_a_count_is_zero() {
    for of in [
        "max(customer) AS a, min(price) AS i, max(at) AS t, bool_and(paid) AS b, bit_and(customer) AS x, count(*) AS n",
        "sum(amount) AS s, avg(price) AS m, max(amount) AS d, min(region) AS r, count(DISTINCT customer) AS n",
    ] {
        check(&format!("SELECT {of} FROM orders WHERE customer > 1000000"), false);
        let inner = "SELECT customer, paid, region, at, max(price) AS price, sum(amount) AS amount FROM orders GROUP BY 1, 2, 3, 4";
        check(&format!("SELECT {of} FROM ({inner}) WHERE customer > 1000000"), false);
    }
}

#[test]
fn rows_are_counted_beside_statements_that_read_columns() {
    let text = format!(
        "{TABLES} CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n FROM orders; INSERT INTO out SELECT id FROM orders;"
    );
    let plan = plan(&text, &open()).expect("a plan");
    let mut flow = Flow::start(&plan.graph, 2, None);
    flow.rows("orders", 0, &orders(3, 40)).expect("takes rows");
    assert_eq!(lines(&view(&flow.barrier().expect("a barrier"))), ["40"]);
}

#[test]
fn distinct_rows_of_rows_that_only_come_can_be_appended() {
    check("SELECT DISTINCT region, currency FROM orders", true);
    check("SELECT region AS k FROM orders UNION SELECT currency FROM orders WHERE paid", true);
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
