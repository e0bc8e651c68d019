//! Joins run by hand, with rows and watermarks of both sides interleaved, against DataFusion over all rows at once.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::TimestampMicrosecondType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::logical_expr::TableSource;
use tidemill_model::{Error, Result};

use crate::language::Dataset;
use crate::session::{Planner, Tables, session_state};
use crate::stream::OpenTable;
use crate::stream::lookup::read_all;
use crate::stream::testing::{Flow, State, catalog, plan};

const TABLES: &str = "
CREATE PIPELINE p WITH (trigger = 'continuous');
CREATE TABLE orders (id BIGINT, customer BIGINT, region VARCHAR, at TIMESTAMP,
  WATERMARK FOR at AS at - INTERVAL '10 seconds') WITH (connector = 'shelf');
CREATE TABLE payments (number BIGINT, customer BIGINT, amount BIGINT, paid_at TIMESTAMP,
  WATERMARK FOR paid_at AS paid_at - INTERVAL '5 seconds') WITH (connector = 'shelf');
CREATE TABLE out WITH (connector = 'shelf');
";

const SECOND: i64 = 1_000_000;
const FIRST: i64 = 1_700_000_000 * SECOND;
/// Rows are out of order by less than this.
const DISORDER: u64 = 5;

struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

/// Rows of one side over ten minutes, every tenth without a key, every other of few keys.
fn rows(seed: u64, count: usize, names: [&str; 4]) -> RecordBatch {
    let dice = &mut Dice(seed);
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..count as i64));
    let keys = (0..count).map(|_| (dice.roll(10) > 0).then(|| dice.roll(12) as i64)).collect::<Int64Array>();
    let third: ArrayRef = if names[2] == "region" {
        Arc::new((0..count).map(|_| Some(["eu", "us", "mea"][dice.roll(3) as usize])).collect::<StringArray>())
    } else {
        Arc::new((0..count).map(|_| (dice.roll(9) > 0).then(|| dice.roll(100) as i64)).collect::<Int64Array>())
    };
    let step = 600 * SECOND / count as i64;
    let times = (0..count as i64).map(|row| FIRST + row * step - dice.roll(DISORDER * SECOND as u64) as i64);
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter_values(times));
    let columns = names.into_iter().zip([ids, Arc::new(keys), third, times]);
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, of)| (name, of, !name.ends_with("at")))).expect("rows")
}

#[derive(Clone)]
struct Both {
    orders: RecordBatch,
    payments: RecordBatch,
}

impl Both {
    fn new(orders: usize, payments: usize) -> Both {
        Both {
            orders: rows(3, orders, ["id", "customer", "region", "at"]),
            payments: rows(11, payments, ["number", "customer", "amount", "paid_at"]),
        }
    }

    fn of(&self, name: &str) -> &RecordBatch {
        if name == "orders" { &self.orders } else { &self.payments }
    }
}

impl Tables for Both {
    fn dataset(&self, dataset: &Dataset) -> Result<Arc<dyn TableSource>> {
        let rows = self.of(&dataset.name).clone();
        Ok(provider_as_source(Arc::new(MemTable::try_new(rows.schema(), vec![vec![rows]]).expect("a table"))))
    }
}

fn unopened() -> OpenTable {
    Arc::new(|_: &Dataset| Err(Error::internal("planning reads nothing")))
}

fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let mut lines = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let cells = batch
                .columns()
                .iter()
                .map(|column| ArrayFormatter::try_new(column, &options).expect("shows").value(row).to_string());
            lines.push(cells.collect::<Vec<_>>().join(" "));
        }
    }
    lines.sort();
    lines
}

fn oracle(sql: &str, both: &Both) -> Vec<String> {
    let catalog = catalog(&format!("{TABLES} INSERT INTO out {sql};")).expect("a catalog");
    let insert = &catalog.project().pipelines["p"].inserts[0];
    let state = session_state();
    let plan = Planner::new(catalog.project(), &state, both).query(&insert.query, &insert.place).expect("a plan");
    lines(&read_all(state, plan, &insert.place).expect("an answer"))
}

/// One way to run a flow.
#[derive(Debug, Clone, Copy)]
struct Way {
    cut: usize,
    lanes: usize,
    barrier: usize,
    restart: Option<usize>,
    seed: u64,
}

const WAYS: &[Way] = &[
    Way { cut: 100_000, lanes: 1, barrier: 1, restart: None, seed: 1 },
    Way { cut: 64, lanes: 1, barrier: 1_000_000, restart: None, seed: 2 },
    Way { cut: 7, lanes: 3, barrier: 4, restart: None, seed: 3 },
    Way { cut: 33, lanes: 2, barrier: 2, restart: Some(3), seed: 4 },
    Way { cut: 50, lanes: 3, barrier: 1, restart: Some(1), seed: 5 },
];

/// The rows that were written after all rows and the end of time, and the largest state that was stored.
fn run(sql: &str, both: &Both, way: Way) -> (Vec<String>, usize) {
    let plan = plan(&format!("{TABLES} INSERT INTO out {sql};"), &unopened()).unwrap_or_else(|e| panic!("{sql}: {e}"));
    let mut flow = Flow::start(&plan.graph, way.lanes, None);
    let mut written: Vec<RecordBatch> = Vec::new();
    let mut dice = Dice(way.seed);
    let mut read = [0, 0];
    let mut newest = [i64::MIN; 2];
    let names = ["orders", "payments"];
    let delays = [10 * SECOND, 5 * SECOND];
    let mut largest = 0;
    for number in 0_usize.. {
        let is_read = |side: usize| plan.graph.nodes.iter().any(|node| node.name == names[side]);
        let left: Vec<usize> =
            (0..2).filter(|side| is_read(*side) && read[*side] < both.of(names[*side]).num_rows()).collect();
        let Some(side) = left.get(dice.roll(left.len().max(1) as u64) as usize).copied() else { break };
        let all = both.of(names[side]);
        let length = way.cut.min(all.num_rows() - read[side]);
        let some = all.slice(read[side], length);
        flow.rows(names[side], number % flow.lanes, &some).expect("takes rows");
        read[side] += length;
        let times = some.column(3).as_primitive::<TimestampMicrosecondType>();
        newest[side] = times.values().iter().copied().max().unwrap_or(i64::MIN).max(newest[side]);
        flow.watermark(names[side], newest[side] - delays[side]).expect("takes a watermark");
        if (number + 1) % way.barrier == 0 {
            let state: State = flow.barrier().expect("a barrier");
            largest = largest.max(state.values().flat_map(|chunks| chunks.values()).map(RecordBatch::num_rows).sum());
            if let Some(lanes) = way.restart {
                written.extend(flow.written.remove("out").unwrap_or_default());
                let lanes = if number % 2 == 0 { lanes } else { way.lanes };
                flow = Flow::start(&plan.graph, lanes, Some(state));
                for side in 0..2 {
                    if newest[side] > i64::MIN {
                        flow.watermark(names[side], newest[side] - delays[side]).expect("takes a watermark");
                    }
                }
            }
        }
    }
    for name in names.into_iter().filter(|name| plan.graph.nodes.iter().any(|node| node.name == *name)) {
        flow.watermark(name, i64::MAX).expect("takes the end");
    }
    let state = flow.barrier().expect("a barrier");
    for node in plan.graph.nodes.iter().filter(|node| node.name.contains("join") || node.name.contains("asof")) {
        assert_eq!(flow.late(&node.name), 0, "{sql}");
        let left = state.get(&node.name).into_iter().flat_map(|chunks| chunks.keys());
        let left: Vec<&String> = left.filter(|key| !key.contains("time")).collect();
        assert!(left.is_empty(), "{sql}: at the end of time nothing is kept: {left:?}");
    }
    written.extend(flow.written.remove("out").unwrap_or_default());
    (lines(&written), largest)
}

fn check(sql: &str) {
    check_as(sql, sql);
}

/// The query in every way against what DataFusion says of `meaning`.
fn check_as(sql: &str, meaning: &str) {
    let both = Both::new(400, 500);
    let expected = oracle(meaning, &both);
    assert_eq!(oracle(sql, &both), expected, "{sql} in an interval run");
    assert!(!expected.is_empty(), "{sql} has an answer");
    for way in WAYS {
        let (found, _) = run(sql, &both, *way);
        let missing: Vec<&String> = expected.iter().filter(|line| !found.contains(line)).take(5).collect();
        let wrong: Vec<&String> = found.iter().filter(|line| !expected.contains(line)).take(5).collect();
        assert!(
            found == expected,
            "{sql} {way:?}: {} rows for {}, missing {missing:?}, wrong {wrong:?}",
            found.len(),
            expected.len()
        );
    }
}

#[test]
fn times_are_bounded_in_every_way_of_writing_it() {
    for condition in [
        "p.paid_at BETWEEN o.at AND o.at + INTERVAL '1 minute'",
        "o.at BETWEEN p.paid_at - INTERVAL '30 seconds' AND p.paid_at + INTERVAL '30 seconds'",
        "p.paid_at >= o.at - INTERVAL '20 seconds' AND p.paid_at < o.at + INTERVAL '1 minute'",
        "p.paid_at - INTERVAL '1 minute' < o.at AND INTERVAL '5 seconds' + p.paid_at > o.at",
        "o.at + INTERVAL '10 seconds' <= p.paid_at AND o.at + INTERVAL '40 seconds' > p.paid_at",
        "p.paid_at BETWEEN o.at - INTERVAL '2 minutes' AND o.at - INTERVAL '1 minute'",
    ] {
        check(&format!(
            "SELECT o.id, o.at, p.number, p.paid_at FROM orders AS o JOIN payments AS p ON o.customer = p.customer AND {condition}"
        ));
    }
    check(
        "SELECT o.id, p.number FROM orders AS o, payments AS p WHERE o.customer = p.customer
           AND p.paid_at BETWEEN o.at AND o.at + INTERVAL '1 minute'",
    );
    check(
        "SELECT o.id, p.number FROM orders AS o JOIN payments AS p
           ON p.paid_at BETWEEN o.at - INTERVAL '1 second' AND o.at + INTERVAL '1 second'",
    );
}

#[test]
fn rows_without_a_partner_go_out_when_none_can_come() {
    for kind in ["LEFT", "RIGHT", "FULL"] {
        for condition in ["", " AND p.amount > 60", " AND o.region = 'eu'", " AND o.id % 7 < p.amount % 11"] {
            check(&format!(
                "SELECT o.id, o.customer, o.at, p.number, p.amount FROM orders AS o {kind} JOIN payments AS p
                   ON o.customer = p.customer AND p.paid_at BETWEEN o.at - INTERVAL '3 seconds' AND o.at + INTERVAL '20 seconds'{condition}"
            ));
        }
        check(&format!(
            "SELECT o.id, p.number FROM orders AS o {kind} JOIN payments AS p
               ON o.customer + 1 = p.customer * 2 AND p.paid_at BETWEEN o.at + INTERVAL '3 seconds' AND o.at + INTERVAL '20 seconds'"
        ));
    }
    for not in ["", "NOT "] {
        check(&format!(
            "SELECT o.id, o.at FROM orders AS o WHERE {not}EXISTS (SELECT 1 FROM payments AS p WHERE p.customer = o.customer
               AND p.paid_at BETWEEN o.at - INTERVAL '3 seconds' AND o.at + INTERVAL '20 seconds')"
        ));
    }
}

#[test]
fn windows_over_a_join_close_when_no_pair_can_come() {
    for time in ["at", "paid_at"] {
        for kind in ["", "LEFT ", "FULL "] {
            check(&format!(
                "SELECT window_start, count(*) AS n, sum(amount) AS s FROM TUMBLE((SELECT o.at, p.paid_at, p.amount
                   FROM orders AS o {kind}JOIN payments AS p ON o.customer = p.customer
                   AND p.paid_at BETWEEN o.at - INTERVAL '7 seconds' AND o.at + INTERVAL '20 seconds'), {time}, INTERVAL '15 seconds')
                 GROUP BY window_start, window_end"
            ));
        }
    }
}

#[test]
fn joins_can_be_joined() {
    check(
        "SELECT o.id, p.number, q.number AS other FROM orders AS o
           JOIN payments AS p ON o.customer = p.customer AND p.paid_at BETWEEN o.at AND o.at + INTERVAL '10 seconds'
           LEFT JOIN payments AS q ON q.customer = p.customer + 1 AND q.paid_at BETWEEN p.paid_at - INTERVAL '5 seconds' AND p.paid_at",
    );
    check(
        "SELECT a.id, b.id AS other FROM orders AS a JOIN orders AS b
           ON a.customer = b.customer AND a.id < b.id AND b.at BETWEEN a.at - INTERVAL '10 seconds' AND a.at + INTERVAL '10 seconds'",
    );
}

/// An ASOF JOIN as DataFusion knows it.
fn latest(on: &str) -> String {
    format!(
        "SELECT id, o.customer, at, number, amount, paid_at FROM orders AS o LEFT JOIN (SELECT * FROM (
           SELECT o.id AS of, p.*, row_number() OVER (PARTITION BY o.id ORDER BY paid_at DESC NULLS LAST, amount DESC NULLS FIRST,
             p.customer DESC NULLS FIRST, number DESC NULLS FIRST) AS nth
           FROM orders AS o JOIN payments AS p ON {on}) WHERE nth = 1) ON of = id"
    )
}

#[test]
fn the_latest_row_is_matched_whatever_the_order_of_arrival() {
    for (condition, on, oracle_on) in [
        ("o.at >= p.paid_at", " ON o.customer = p.customer", "o.customer = p.customer AND o.at >= p.paid_at"),
        ("p.paid_at < o.at", " ON o.customer = p.customer", "o.customer = p.customer AND o.at > p.paid_at"),
        ("o.at >= p.paid_at", "", "o.at >= p.paid_at"),
        (
            "o.at >= p.paid_at",
            " ON o.customer + 1 = p.customer AND p.paid_at >= o.at - INTERVAL '8 seconds'",
            "o.customer + 1 = p.customer AND o.at >= p.paid_at AND p.paid_at >= o.at - INTERVAL '8 seconds'",
        ),
    ] {
        let sql = format!(
            "SELECT id, o.customer, at, number, amount, paid_at FROM orders AS o ASOF JOIN payments AS p MATCH_CONDITION ({condition}){on}"
        );
        check_as(&sql, &latest(oracle_on));
    }
}

#[test]
fn rows_that_match_at_one_time_are_chosen_by_the_rest() {
    let mut both = Both::new(300, 900);
    let times = both.payments.column(3).as_primitive::<TimestampMicrosecondType>();
    let rounded: TimestampMicrosecondArray = times.unary(|at| at.div_euclid(4 * SECOND) * 4 * SECOND);
    let mut columns = both.payments.columns().to_vec();
    columns[3] = Arc::new(rounded);
    both.payments = RecordBatch::try_new(both.payments.schema(), columns).expect("rows");
    let sql = "SELECT id, o.customer, at, number, amount, paid_at FROM orders AS o ASOF JOIN payments AS p MATCH_CONDITION (at >= paid_at) ON o.customer = p.customer";
    let expected = oracle(&latest("o.customer = p.customer AND o.at >= p.paid_at"), &both);
    assert_eq!(oracle(sql, &both), expected, "in an interval run");
    for way in WAYS {
        assert_eq!(run(sql, &both, *way).0, expected, "{way:?}");
    }
}

#[test]
fn a_condition_above_an_asof_join_does_not_choose_below_it() {
    let sql = "FROM orders AS o ASOF JOIN payments AS p MATCH_CONDITION (o.at >= p.paid_at) ON o.customer = p.customer";
    check_as(
        &format!("SELECT id, number {sql} WHERE amount > 50"),
        &format!(
            "SELECT id, number FROM ({}) WHERE amount > 50",
            latest("o.customer = p.customer AND o.at >= p.paid_at")
        ),
    );
    check_as(
        &format!(
            "SELECT window_start, count(*) AS n, sum(amount) AS s FROM TUMBLE((SELECT at, amount {sql}), at, INTERVAL '20 seconds') GROUP BY window_start"
        ),
        &format!(
            "SELECT window_start, count(*) AS n, sum(amount) AS s FROM TUMBLE(({}), at, INTERVAL '20 seconds') GROUP BY window_start",
            latest("o.customer = p.customer AND o.at >= p.paid_at")
        ),
    );
}

#[test]
fn old_versions_are_forgotten() {
    let both = Both::new(2_000, 8_000);
    let sql = "SELECT id, number FROM orders AS o ASOF JOIN payments AS p MATCH_CONDITION (o.at >= p.paid_at) ON o.customer = p.customer";
    let way = Way { cut: 40, lanes: 2, barrier: 3, restart: None, seed: 9 };
    let (found, largest) = run(sql, &both, way);
    assert_eq!(found, oracle(sql, &both));
    assert!(largest < 3_000, "{largest} of 10000 rows were kept at once");
}

#[test]
fn a_quiet_side_does_not_hold_an_asof_join_back() {
    let sql = "SELECT id, number FROM orders AS o ASOF JOIN payments AS p MATCH_CONDITION (o.at >= p.paid_at) ON o.customer = p.customer";
    let plan = plan(&format!("{TABLES} INSERT INTO out {sql};"), &unopened()).expect("a plan");
    let mut both = Both::new(300, 300);
    both.payments = both.payments.slice(0, 150);
    let node = plan.graph.nodes.iter().find(|node| node.name.contains("asof")).expect("a join").name.clone();
    let out = |flow: &mut Flow| flow.written.remove("out").unwrap_or_default();
    let mut flow = Flow::start(&plan.graph, 2, None);
    flow.rows("payments", 0, &both.payments).expect("takes rows");
    flow.watermark("payments", FIRST + 250 * SECOND).expect("takes a watermark");
    flow.rows("orders", 1, &both.orders.slice(0, 250)).expect("takes rows");
    flow.watermark("orders", FIRST + 450 * SECOND).expect("takes a watermark");
    let mut written = out(&mut flow);
    let before = lines(&written).len();
    flow.idle("payments", true).expect("takes it");
    written.extend(out(&mut flow));
    assert!(lines(&written).len() > before + 50, "orders go out up to their own watermark");
    let state = flow.barrier().expect("a barrier");
    let mut flow = Flow::start(&plan.graph, 3, Some(state));
    flow.watermark("payments", FIRST + 250 * SECOND).expect("takes a watermark");
    flow.watermark("orders", FIRST + 450 * SECOND).expect("takes a watermark");
    assert!(out(&mut flow).is_empty(), "nothing goes out twice");
    let behind = Both::new(300, 300).payments.slice(160, 20);
    flow.rows("payments", 0, &behind).expect("takes rows");
    assert!(flow.late(&node) > 0, "a row that turns up behind them is late");
    flow.rows("orders", 0, &both.orders.slice(250, 50)).expect("takes rows");
    flow.watermark("orders", i64::MAX).expect("takes the end");
    flow.watermark("payments", i64::MAX).expect("takes the end");
    written.extend(out(&mut flow));
    assert_eq!(lines(&written), oracle(sql, &both));
}

#[test]
fn what_is_kept_is_bounded_by_time() {
    let both = Both::new(4_000, 4_000);
    let sql = "SELECT o.id, p.number FROM orders AS o LEFT JOIN payments AS p ON o.customer = p.customer
                 AND p.paid_at BETWEEN o.at AND o.at + INTERVAL '5 seconds'";
    let way = Way { cut: 40, lanes: 2, barrier: 3, restart: None, seed: 9 };
    let (found, largest) = run(sql, &both, way);
    assert_eq!(found, oracle(sql, &both));
    assert!(largest < 4_000, "{largest} of 8000 rows were kept at once");
}

#[test]
fn late_rows_are_counted_and_never_half_joined() {
    let sql = "SELECT o.id, p.number FROM orders AS o LEFT JOIN payments AS p ON o.customer = p.customer
                 AND p.paid_at BETWEEN o.at - INTERVAL '30 seconds' AND o.at + INTERVAL '30 seconds'";
    let plan = plan(&format!("{TABLES} INSERT INTO out {sql};"), &unopened()).expect("a plan");
    let both = Both::new(300, 300);
    for restart in [false, true] {
        let mut flow = Flow::start(&plan.graph, 2, None);
        flow.rows("orders", 0, &both.orders.slice(0, 200)).expect("takes rows");
        let middle = FIRST + 300 * SECOND;
        flow.watermark("payments", middle).expect("takes a watermark");
        flow.watermark("orders", middle).expect("takes a watermark");
        if restart {
            let state = flow.barrier().expect("a barrier");
            flow = Flow::start(&plan.graph, 3, Some(state));
        }
        let times = both.payments.column(3).as_primitive::<TimestampMicrosecondType>().clone();
        let late = times.values().iter().filter(|at| **at < middle).count() as u64;
        assert!(late > 0);
        flow.rows("payments", 1, &both.payments).expect("takes rows");
        let node = plan.graph.nodes.iter().find(|node| node.name.contains("join")).expect("a join");
        assert_eq!(flow.late(&node.name), late);
    }
}
