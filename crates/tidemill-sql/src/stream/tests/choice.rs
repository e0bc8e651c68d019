//! Choices among rows of all time: the first rows of each key, which change, and DEDUP, whose rows stay.

use arrow::array::AsArray;
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};

use super::*;

/// Queries that keep the first rows of each key; rows only come.
const FIRST: &[&str] = &[
    "SELECT DISTINCT ON (customer) customer, id, amount * 2 AS twice FROM orders ORDER BY customer, at DESC",
    "SELECT DISTINCT ON (region, paid) region, paid, id FROM cleaned ORDER BY region, paid, amount DESC NULLS LAST",
    "SELECT customer, last_value(price ORDER BY at) AS p, last_value(region ORDER BY at) AS r FROM orders GROUP BY customer",
    "SELECT region, first_value(id) AS first FROM orders GROUP BY region",
    "SELECT id, region FROM (SELECT id, region, row_number() OVER (PARTITION BY region, currency ORDER BY at) AS n FROM orders)
       WHERE n = 1 AND id > 3",
    "SELECT id, customer % 3 AS k FROM (SELECT id, customer, row_number() OVER (PARTITION BY customer % 3 ORDER BY -price) AS n FROM orders)
       WHERE n <= 4",
    "SELECT region, n, id FROM (SELECT region, id, row_number() OVER (PARTITION BY region ORDER BY amount DESC) AS n FROM orders)
       WHERE n <= 5",
    "SELECT region, n, id FROM (SELECT region, id, row_number() OVER (PARTITION BY region ORDER BY amount DESC) AS n FROM orders)
       WHERE n <= 5 AND n > 2",
    "SELECT id FROM (SELECT id, row_number() OVER (ORDER BY price DESC NULLS LAST) AS n FROM orders) WHERE n < 20",
    "SELECT paid, count(*) AS n, sum(id) AS ids FROM (SELECT DISTINCT ON (customer) customer, paid, id FROM orders ORDER BY customer, at DESC)
       GROUP BY paid",
];

/// The same, where rows are taken back.
const FIRST_OF_CHANGES: &[&str] = &[
    "SELECT DISTINCT ON (region) region, customer, n
       FROM (SELECT region, customer, count(*) AS n FROM orders GROUP BY region, customer) ORDER BY region, n DESC",
    "SELECT region, customer FROM (
       SELECT region, customer, row_number() OVER (PARTITION BY region ORDER BY s DESC) AS place
       FROM (SELECT region, customer, sum(amount) AS s FROM orders GROUP BY region, customer)) WHERE place <= 3",
    "SELECT place, n FROM (
       SELECT n, row_number() OVER (ORDER BY n) AS place FROM (SELECT customer, count(*) AS n FROM orders GROUP BY customer))
       WHERE place <= 10",
];

#[test]
fn the_first_rows_of_each_key_follow_what_comes() {
    for sql in FIRST.iter().chain(FIRST_OF_CHANGES) {
        check(sql, false);
    }
}

#[test]
fn a_view_shows_the_first_rows_as_of_each_barrier() {
    let orders = orders(13, 500);
    for sql in FIRST.iter().chain(FIRST_OF_CHANGES) {
        let text = format!("{TABLES} CREATE MATERIALIZED VIEW v AS {sql};");
        let plan = plan(&text, &open()).unwrap_or_else(|e| panic!("{sql}: {e}"));
        let mut flow = Flow::start(&plan.graph, 2, None);
        for (number, from) in (0..500).step_by(50).enumerate() {
            flow.rows("orders", number % 2, &orders.slice(from, 50)).expect("takes rows");
            let state = flow.barrier().expect("a barrier");
            assert_eq!(lines(&view(&state)), oracle(sql, &orders.slice(0, from + 50)), "{sql} after {}", from + 50);
        }
    }
}

#[test]
fn a_key_keeps_as_many_rows_as_are_asked_for() {
    let sql = "SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY region ORDER BY amount DESC) AS n FROM orders) WHERE n <= 3";
    let text = format!("{TABLES} CREATE MATERIALIZED VIEW v AS {sql};");
    let plan = plan(&text, &open()).expect("a plan");
    let mut flow = Flow::start(&plan.graph, 1, None);
    flow.rows("orders", 0, &orders(3, 20_000)).expect("takes rows");
    let state = flow.barrier().expect("a barrier");
    let kept: usize = state["v.first"].values().map(RecordBatch::num_rows).sum();
    assert_eq!(kept, 5 * 3, "four regions and none, three rows of each");
}

#[test]
fn places_that_nobody_sees_are_no_changes() {
    let sql = "SELECT id FROM (SELECT id, row_number() OVER (ORDER BY at DESC) AS n FROM orders) WHERE n <= 50";
    let text = format!("{TABLES} CREATE MATERIALIZED VIEW v AS {sql};");
    let plan = plan(&text, &open()).expect("a plan");
    let mut flow = Flow::start(&plan.graph, 1, None);
    let orders = orders(3, 1_000);
    flow.rows("orders", 0, &orders.slice(0, 900)).expect("takes rows");
    flow.barrier().expect("a barrier");
    let before = flow.stored_rows;
    flow.rows("orders", 0, &orders.slice(990, 1)).expect("takes rows");
    flow.barrier().expect("a barrier");
    // The first half's state moves each row by a place; of the view's rows one goes and one comes.
    assert!(flow.stored_rows - before <= 50 + 4, "{} rows were stored for one", flow.stored_rows - before);
}

const DEDUP: &str = "SELECT id, customer, at FROM DEDUP((SELECT id, customer, at FROM orders), at, INTERVAL '20 seconds', PARTITION BY customer)";

#[test]
fn duplicates_are_left_out_for_so_long() {
    for sql in [
        DEDUP,
        "SELECT region, count(*) AS n FROM (SELECT * FROM DEDUP(orders, at, INTERVAL '1 second', PARTITION BY region, paid)) GROUP BY region",
        "SELECT window_start, region, count(*) AS n FROM TUMBLE(
           (SELECT * FROM DEDUP((SELECT region, id, at FROM cleaned), at, INTERVAL '3 seconds', PARTITION BY region)),
           at, INTERVAL '1 minute') GROUP BY window_start, region",
    ] {
        check(sql, !sql.starts_with("SELECT region, count"));
    }
}

/// The rows that stay, from the definition.
fn stays(orders: &RecordBatch, ttl: i64) -> Vec<i64> {
    let ids = orders.column(0).as_primitive::<Int64Type>();
    let keys = orders.column(1).as_primitive::<Int64Type>();
    let times = orders.column(7).as_primitive::<TimestampMicrosecondType>();
    let mut rows: Vec<usize> = (0..orders.num_rows()).collect();
    rows.sort_by_key(|row| (times.value(*row), ids.value(*row)));
    let mut since: BTreeMap<Option<i64>, i64> = BTreeMap::new();
    let mut stays = Vec::new();
    for row in rows {
        let (key, at) = (keys.iter().nth(row).flatten(), times.value(row));
        if since.get(&key).is_none_or(|since| at >= since + ttl) {
            since.insert(key, at);
            stays.push(ids.value(row));
        }
    }
    stays.sort_unstable();
    stays
}

#[test]
fn the_definition_of_dedup_is_met_by_both_executors() {
    let orders = orders(21, 2_000);
    let expected: Vec<String> = stays(&orders, 20_000_000).iter().map(ToString::to_string).collect();
    let ids = |lines: Vec<String>| -> Vec<String> {
        let mut ids: Vec<i64> =
            lines.iter().map(|line| line.split(' ').next().expect("an id").parse().expect("a number")).collect();
        ids.sort_unstable();
        ids.iter().map(ToString::to_string).collect()
    };
    assert_eq!(ids(oracle(DEDUP, &orders)), expected);
    for way in WAYS {
        assert_eq!(ids(run(&format!("INSERT INTO out {DEDUP}"), &orders, *way).0), expected, "{way:?}");
    }
}

#[test]
fn a_row_behind_time_is_late_unless_it_is_a_duplicate_and_keys_are_forgotten() {
    let plan = plan(&format!("{TABLES} INSERT INTO out {DEDUP};"), &open()).expect("a plan");
    let mut flow = Flow::start(&plan.graph, 1, None);
    let rows = orders(3, 600);
    let second = 1_000_000;
    // Orders of one customer at these seconds.
    let of = |seconds: &[i64]| {
        let mut columns = rows.slice(0, seconds.len()).columns().to_vec();
        columns[1] = Arc::new(Int64Array::from(vec![7; seconds.len()]));
        columns[7] =
            Arc::new(TimestampMicrosecondArray::from_iter_values(seconds.iter().map(|at| FIRST_SECOND + at * second)));
        RecordBatch::try_new(rows.schema(), columns).expect("orders")
    };
    const FIRST_SECOND: i64 = super::FIRST;
    flow.rows("orders", 0, &of(&[100, 110])).expect("takes rows");
    assert!(flow.written.is_empty(), "a row waits for time");
    flow.watermark("orders", FIRST_SECOND + 115 * second).expect("takes a watermark");
    assert_eq!(flow.written["out"].iter().map(RecordBatch::num_rows).sum::<usize>(), 1);
    // A duplicate of what stays, and one before it.
    flow.rows("orders", 0, &of(&[112, 90])).expect("takes rows");
    assert_eq!(flow.late("out.dedup"), 1);
    let state = flow.barrier().expect("a barrier");
    let lives = |state: &State| {
        let chunks = state["out.dedup"].iter().filter(|(name, _)| name.contains("lives"));
        chunks.map(|(_, rows)| rows.num_rows()).sum::<usize>()
    };
    assert_eq!(lives(&state), 1);
    // A new process knows the life, until it is over.
    let mut flow = Flow::start(&plan.graph, 3, Some(state));
    flow.watermark("orders", FIRST_SECOND + 115 * second).expect("takes a watermark");
    flow.rows("orders", 0, &of(&[119, 120])).expect("takes rows");
    flow.watermark("orders", FIRST_SECOND + 130 * second).expect("takes a watermark");
    assert_eq!(flow.written["out"].iter().map(RecordBatch::num_rows).sum::<usize>(), 1);
    flow.watermark("orders", FIRST_SECOND + 300 * second).expect("takes a watermark");
    let state = flow.barrier().expect("a barrier");
    assert_eq!(state["out.dedup"].values().map(RecordBatch::num_rows).sum::<usize>(), 0, "nothing is left");
}

#[test]
fn a_day_of_short_lives_leaves_no_state_behind() {
    let sql =
        format!("{TABLES} INSERT INTO out SELECT id FROM DEDUP(orders, at, INTERVAL '5 seconds', PARTITION BY id);");
    let plan = plan(&sql, &open()).expect("a plan");
    let mut flow = Flow::start(&plan.graph, 2, None);
    let orders = orders(3, 12_000);
    let mut most = 0;
    for from in (0..12_000).step_by(100) {
        flow.rows("orders", from / 100 % 2, &orders.slice(from, 100)).expect("takes rows");
        flow.watermark("orders", super::FIRST + from as i64 * (SPAN / 12_000) - DELAY).expect("takes a watermark");
        let state = flow.barrier().expect("a barrier");
        most = most.max(state["out.dedup"].values().map(RecordBatch::num_rows).sum());
    }
    // Twenty rows a second: those of the ten seconds that wait, and five of lives, give or take what is not yet compacted.
    assert!(most < 2_500, "{most} of 12000 rows and keys are kept");
}
