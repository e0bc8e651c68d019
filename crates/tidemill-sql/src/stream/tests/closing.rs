//! What waits until time has passed: rankings, ordered aggregates, joins of windows, frames of time.

use super::*;

const MINUTES: &str = "TUMBLE(cleaned, at, INTERVAL '1 minute')";

#[test]
fn rows_are_ranked_within_their_window() {
    for sql in [
        "SELECT id, region, window_start, row_number() OVER (PARTITION BY window_start, region ORDER BY customer DESC) AS n FROM {}",
        "SELECT window_start, id, amount FROM (
           SELECT *, row_number() OVER (PARTITION BY window_start ORDER BY customer) AS n FROM {}) WHERE n <= 3",
        "SELECT window_end, region, price FROM (
           SELECT *, rank() OVER (PARTITION BY region, window_end ORDER BY customer DESC) AS r FROM {}) WHERE r < 4",
        "SELECT window_end, region, customer, d FROM (
           SELECT *, dense_rank() OVER (PARTITION BY region, window_end ORDER BY customer) AS d FROM {}) WHERE d = 2",
        "SELECT id, window_start, lag(id) OVER w AS before, lead(amount, 2) OVER w AS after, rank() OVER w AS r,
           sum(amount) OVER (PARTITION BY window_start) AS all_of_it FROM {} WINDOW w AS (PARTITION BY window_start ORDER BY customer)",
        "SELECT id, window_start, sum(customer) OVER (PARTITION BY window_start, region ORDER BY currency ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) AS s FROM {}",
        "SELECT id, currency FROM {} QUALIFY row_number() OVER (PARTITION BY window_start, currency ORDER BY at) = 1",
    ] {
        check(&sql.replace("{}", MINUTES), true);
    }
}

#[test]
fn groups_of_windows_are_ranked() {
    let groups = "SELECT region, currency, window_start, window_end, sum(amount) AS s, count(*) AS n
        FROM TUMBLE(cleaned, at, INTERVAL '1 minute') GROUP BY region, currency, window_start, window_end";
    check(
        &format!(
            "SELECT region, currency, window_start, s FROM (SELECT *, row_number() OVER (PARTITION BY window_start, region
               ORDER BY n DESC) AS place FROM ({groups})) WHERE place <= 2"
        ),
        true,
    );
    check(
        &format!(
            "SELECT region, window_start, minute, n FROM (SELECT *, row_number() OVER (PARTITION BY window_start ORDER BY n DESC, s) AS place
               FROM TUMBLE((SELECT region, n, s, window_start AS minute FROM ({groups})), minute, INTERVAL '3 minutes')) WHERE place <= 5"
        ),
        true,
    );
    check(
        &format!(
            "SELECT window_start, count(*) AS n, sum(place) AS s FROM (SELECT window_start, row_number() OVER
               (PARTITION BY window_start ORDER BY n) AS place FROM ({groups})) GROUP BY window_start"
        ),
        true,
    );
}

#[test]
fn duplicates_are_left_out_within_their_window() {
    for sql in [
        "SELECT DISTINCT ON (customer, window_start) customer, window_start, id, price FROM {} ORDER BY customer, window_start, currency DESC",
        "SELECT DISTINCT ON (window_start, region) id, at, region FROM {}",
        "SELECT window_start, count(*) AS n, sum(amount) AS s FROM (
           SELECT DISTINCT ON (customer, window_start) window_start, amount FROM {} ORDER BY customer, window_start, at DESC) GROUP BY window_start",
    ] {
        check(&sql.replace("{}", MINUTES), true);
    }
}

#[test]
fn aggregates_of_windows_may_be_ordered() {
    for aggregates in [
        "first_value(id) AS f, last_value(id) AS l, count(*) AS n",
        "first_value(id ORDER BY currency) AS f, last_value(price ORDER BY customer DESC) AS l, nth_value(id, 2 ORDER BY region) AS second",
        "array_agg(customer ORDER BY currency, paid) AS a, sum(amount) AS s, count(DISTINCT customer) AS n",
        "array_agg(DISTINCT currency) AS d, first_value(at ORDER BY price) AS f",
        "string_agg(currency, ',') AS c, string_agg(region, '+') FILTER (WHERE paid) AS t, array_agg(id) AS ids",
    ] {
        check(
            &format!(
                "SELECT region, window_start, {aggregates} FROM {MINUTES} GROUP BY region, window_start, window_end"
            ),
            true,
        );
    }
    check(
        &format!(
            "SELECT window_end, string_agg(currency, ',' ORDER BY at) AS c FROM {MINUTES} GROUP BY window_end HAVING count(*) > 10"
        ),
        true,
    );
}

#[test]
fn windows_are_joined() {
    let left = "(SELECT id, customer, amount, window_start, window_end FROM {} WHERE region = 'eu') AS l"
        .replace("{}", MINUTES);
    let right = "(SELECT id, customer, price, window_start, window_end FROM {} WHERE region = 'us') AS r"
        .replace("{}", MINUTES);
    let on = "l.window_start = r.window_start AND l.window_end = r.window_end AND l.customer = r.customer";
    for (columns, kind) in [
        ("l.window_start, l.id, r.id AS other", "JOIN"),
        ("l.window_start, l.id, r.id AS other", "LEFT JOIN"),
        ("r.window_start, l.id, r.id AS other", "RIGHT JOIN"),
        ("coalesce(l.window_start, r.window_start) AS w, l.id, r.id AS other", "FULL JOIN"),
    ] {
        check(&format!("SELECT {columns} FROM {left} {kind} {right} ON {on}"), true);
        check(&format!("SELECT {columns} FROM {left} {kind} {right} ON {on} AND l.id < r.id"), true);
    }
    for not in ["", "NOT "] {
        check(
            &format!("SELECT id, window_start FROM {left} WHERE {not}EXISTS (SELECT 1 FROM {right} WHERE {on})"),
            true,
        );
    }
    check(
        &format!(
            "SELECT l.window_end, l.id, r.price FROM {left} JOIN {right} ON l.window_end = r.window_end AND l.id + 5 > r.id AND l.id < r.id"
        ),
        true,
    );
}

#[test]
fn groups_of_windows_are_joined() {
    let of = |region: &str, size: &str| {
        format!(
            "(SELECT currency, window_start, window_end, sum(amount) AS s FROM TUMBLE(cleaned, at, INTERVAL '{size}')
               WHERE region = '{region}' GROUP BY currency, window_start, window_end)"
        )
    };
    let (eu, us) = (of("eu", "1 minute"), of("us", "1 minute"));
    check(
        &format!(
            "SELECT a.window_start, a.currency, a.s, b.s AS other FROM {eu} AS a LEFT JOIN {us} AS b
               ON a.window_start = b.window_start AND a.currency = b.currency"
        ),
        true,
    );
    check(
        &format!(
            "SELECT window_start, count(*) AS n, sum(s - other) AS d FROM (SELECT a.window_start, a.s, b.s AS other FROM {eu} AS a
               JOIN {us} AS b ON a.window_start = b.window_start) GROUP BY window_start"
        ),
        true,
    );
}

#[test]
fn frames_of_time_go_out_once() {
    for sql in [
        "SELECT id, customer, sum(amount) OVER (PARTITION BY customer ORDER BY at RANGE BETWEEN INTERVAL '1 minute' PRECEDING AND CURRENT ROW) AS s FROM cleaned",
        "SELECT id, count(*) OVER w AS n, min(price) OVER w AS low, max(amount) OVER w AS high, avg(customer) OVER w AS a, count(*) OVER l AS m
           FROM orders WINDOW w AS (PARTITION BY region ORDER BY at RANGE BETWEEN INTERVAL '30 seconds' PRECEDING AND CURRENT ROW),
           l AS (PARTITION BY region, currency ORDER BY at RANGE BETWEEN INTERVAL '90 seconds' PRECEDING AND INTERVAL '10 seconds' PRECEDING)",
        "SELECT id, count(*) OVER (ORDER BY at RANGE BETWEEN CURRENT ROW AND INTERVAL '20 seconds' FOLLOWING) AS n FROM orders",
        "SELECT id, count(paid) OVER (PARTITION BY paid ORDER BY at RANGE BETWEEN INTERVAL '5 seconds' PRECEDING AND INTERVAL '7 seconds' FOLLOWING) AS n
           FROM orders WHERE customer < 20",
        "SELECT window_start, region, max(n) AS busiest FROM TUMBLE((SELECT region, at, count(*) OVER (PARTITION BY region ORDER BY at
           RANGE BETWEEN INTERVAL '10 seconds' PRECEDING AND CURRENT ROW) AS n FROM orders), at, INTERVAL '1 minute') GROUP BY window_start, region",
    ] {
        check(sql, true);
    }
}

#[test]
fn ties_are_decided_by_the_rest_of_the_row_however_rows_come() {
    let rows = orders(7, 1_500);
    let times = |rows: &RecordBatch| {
        arrow::array::AsArray::as_primitive::<arrow::datatypes::TimestampMicrosecondType>(rows.column(7)).clone()
    };
    let minute = |at: i64| FIRST + (at - FIRST) / 60_000_000 * 60_000_000;
    let ties: TimestampMicrosecondArray = times(&rows).iter().map(|at| at.map(minute)).collect();
    let mut columns = rows.columns().to_vec();
    columns[7] = Arc::new(ties);
    let rows = RecordBatch::try_new(rows.schema(), columns).expect("rows");
    let turned = arrow::array::UInt32Array::from_iter_values((0..rows.num_rows() as u32).rev());
    let turned = arrow::compute::take_record_batch(&rows, &turned).expect("rows");
    for sql in [
        "SELECT region, window_start, first_value(customer) AS f, last_value(amount) AS l, array_agg(currency ORDER BY region) AS a FROM {} GROUP BY region, window_start",
        "SELECT DISTINCT ON (window_start) window_start, currency, customer, paid FROM {}",
        "SELECT customer, paid, region FROM {} QUALIFY row_number() OVER (PARTITION BY window_start ORDER BY region) <= 5",
    ] {
        let sql = sql.replace("{}", MINUTES);
        let expected = oracle(&sql, &rows);
        assert_eq!(oracle(&sql, &turned), expected, "{sql}");
        for rows in [&rows, &turned] {
            let plan = plan(&format!("{TABLES} INSERT INTO out {sql};"), &open()).expect("a plan");
            let mut flow = Flow::start(&plan.graph, 2, None);
            for from in (0..1_500).step_by(100) {
                flow.rows("orders", from / 100 % 2, &rows.slice(from, 100)).expect("takes rows");
            }
            flow.watermark("orders", i64::MAX).expect("takes the end");
            assert_eq!(lines(&flow.written["out"]), expected, "{sql}");
        }
    }
}

#[test]
fn a_hot_window_keeps_only_the_best() {
    let sql = format!(
        "{TABLES} INSERT INTO out SELECT id, amount FROM (SELECT *, row_number() OVER (PARTITION BY window_start ORDER BY amount DESC) AS n
           FROM TUMBLE(orders, at, INTERVAL '1 hour')) WHERE n <= 10;"
    );
    let plan = plan(&sql, &open()).expect("a plan");
    let mut flow = Flow::start(&plan.graph, 1, None);
    let orders = orders(3, 100_000);
    for from in (0..100_000).step_by(5_000) {
        flow.rows("orders", 0, &orders.slice(from, 5_000)).expect("takes rows");
    }
    let held: usize = flow.barrier().expect("a barrier")["out.over"].values().map(RecordBatch::num_rows).sum();
    assert!(held < 50_000, "{held} of 100000 rows are held");
    flow.watermark("orders", i64::MAX).expect("takes the end");
    let query = sql.split_once("INTO out ").expect("a query").1.trim_end_matches(';');
    assert_eq!(lines(&flow.written["out"]), oracle(query, &orders));
    assert!(flow.barrier().expect("a barrier")["out.over"].is_empty(), "what closed is gone");
}

#[test]
fn what_is_kept_for_frames_is_bounded_and_late_rows_are_counted() {
    let sql = format!(
        "{TABLES} INSERT INTO out SELECT id, count(*) OVER (PARTITION BY region ORDER BY at
           RANGE BETWEEN INTERVAL '20 seconds' PRECEDING AND CURRENT ROW) AS n FROM orders;"
    );
    let plan = plan(&sql, &open()).expect("a plan");
    let mut flow = Flow::start(&plan.graph, 2, None);
    let orders = orders(3, 6_000);
    let mut most = 0;
    for from in (0..6_000).step_by(100) {
        flow.rows("orders", from / 100 % 2, &orders.slice(from, 100)).expect("takes rows");
        flow.watermark("orders", FIRST + from as i64 * (SPAN / 6_000)).expect("takes a watermark");
        let state = flow.barrier().expect("a barrier");
        most = most.max(state["out.over"].values().map(RecordBatch::num_rows).sum());
    }
    assert!(most < 1_500, "{most} of 6000 rows are kept, of which 20 + 18 seconds of 600 are needed");
    let before = flow.late("out.over");
    flow.rows("orders", 0, &orders.slice(0, 50)).expect("takes rows");
    assert_eq!(flow.late("out.over"), before + 50);
}
