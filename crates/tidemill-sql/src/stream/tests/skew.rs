//! One key has half of the rows: what it becomes is given out in bounded parts, and the answer is the same.

use super::*;

/// Orders of which every second one is of one region.
fn skewed(rows: usize) -> RecordBatch {
    let orders = orders(9, rows);
    let regions = (0..rows).map(|row| if row % 2 == 0 { "hot".to_owned() } else { format!("r{}", row % 50) });
    let mut columns = orders.columns().to_vec();
    columns[4] = Arc::new(StringArray::from_iter_values(regions));
    columns[5] = Arc::new(StringArray::from_iter_values((0..rows).map(|row| if row % 2 == 0 { "eur" } else { "usd" })));
    RecordBatch::try_new(orders.schema(), columns).expect("orders")
}

/// Queries in which a row of the hot key meets many others.
const MULTIPLYING: &[&str] = &[
    "SELECT a.id, b.id AS other FROM orders AS a JOIN orders AS b ON a.region = b.region AND b.at BETWEEN a.at AND a.at + INTERVAL '1 minute'",
    "SELECT a.id, b.id AS other FROM orders AS a LEFT JOIN orders AS b
       ON a.region = b.region AND b.at BETWEEN a.at AND a.at + INTERVAL '1 minute' AND b.price < a.price",
    "SELECT o.id, r.note FROM cleaned AS o JOIN (
       SELECT a.currency, e.note FROM rates AS a CROSS JOIN rates AS b CROSS JOIN rates AS c CROSS JOIN rates AS d CROSS JOIN rates AS e
     ) AS r ON o.currency = r.currency",
    "SELECT o.id, r.note FROM cleaned AS o LEFT JOIN (
       SELECT a.currency, e.usd, e.note FROM rates AS a CROSS JOIN rates AS b CROSS JOIN rates AS c CROSS JOIN rates AS e
     ) AS r ON o.currency = r.currency AND r.usd > o.price",
    "SELECT id FROM cleaned AS o WHERE EXISTS (
       SELECT 1 FROM (SELECT a.currency, e.usd FROM rates AS a CROSS JOIN rates AS b CROSS JOIN rates AS c CROSS JOIN rates AS e) AS r
       WHERE r.currency = o.currency AND r.usd > o.price)",
];

#[test]
fn a_hot_key_is_given_out_in_parts() {
    for (sql, rows, at_least) in [
        (MULTIPLYING[0], 2_000, 90_000),
        (MULTIPLYING[1], 2_000, 40_000),
        (MULTIPLYING[2], 250, 100_000),
        (MULTIPLYING[3], 2_000, 2_000),
        (MULTIPLYING[4], 2_000, 10),
    ] {
        let orders = skewed(rows);
        let expected = oracle(sql, &orders);
        assert!(expected.len() >= at_least, "{sql} multiplies: {}", expected.len());
        let plan = plan(&format!("{TABLES} INSERT INTO out {sql};"), &open()).unwrap_or_else(|e| panic!("{sql}: {e}"));
        for (cut, lanes) in [(rows, 2), (64, 3)] {
            let mut flow = Flow::start(&plan.graph, lanes, None);
            for (number, from) in (0..rows).step_by(cut).enumerate() {
                flow.rows("orders", number % lanes, &orders.slice(from, cut.min(rows - from))).expect("takes rows");
            }
            flow.watermark("orders", i64::MAX).expect("takes the end");
            flow.barrier().expect("a barrier");
            let found = lines(&flow.written.remove("out").unwrap_or_default());
            assert!(found == expected, "{sql}: {} rows, not {}", found.len(), expected.len());
            assert!(flow.longest_batch <= Output::ROWS, "{sql}: a batch of {} rows", flow.longest_batch);
        }
    }
}

#[test]
fn a_call_gives_out_little_even_if_one_row_meets_all() {
    let sql = MULTIPLYING[2];
    let plan = plan(&format!("{TABLES} INSERT INTO out {sql};"), &open()).expect("a plan");
    let mut flow = Flow::start(&plan.graph, 1, None);
    let orders = skewed(200);
    flow.rows("orders", 0, &orders).expect("takes rows");
    let written: usize = flow.written["out"].iter().map(RecordBatch::num_rows).sum();
    assert!(written > 10 * Output::ROWS && flow.most_given <= Output::ROWS, "{written}, {} at once", flow.most_given);
}
