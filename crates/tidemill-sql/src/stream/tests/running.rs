//! Groups without a window, which change until the end, and what stands above them.

use super::*;

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
