//! The aggregates as SQL sees them, over values and over partial states.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Decimal128Array, Int64Array, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type};
use arrow::util::pretty::pretty_format_batches;
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;

use crate::session::session_state;

/// The answer over a table of these integers `n` and the same as decimals `d`, in two partitions.
fn ask(sql: &str, values: &[Option<i64>]) -> Result<RecordBatch, String> {
    let part = |values: &[Option<i64>]| {
        let n: ArrayRef = Arc::new(values.iter().copied().collect::<Int64Array>());
        let d = values.iter().map(|v| v.map(|v| i128::from(v) * 10_i128.pow(18))).collect::<Decimal128Array>();
        let d: ArrayRef = Arc::new(d.with_precision_and_scale(38, 2).expect("a decimal"));
        RecordBatch::try_from_iter_with_nullable([("n", n, true), ("d", d, true)]).expect("a batch")
    };
    let (left, right) = values.split_at(values.len() / 2);
    let parts = vec![vec![part(left)], vec![part(right)]];
    let context = SessionContext::new_with_state(session_state());
    let table = MemTable::try_new(parts[0][0].schema(), parts).expect("a table");
    context.register_table("t", Arc::new(table)).expect("registers");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
    let rows = runtime.block_on(async { context.sql(sql).await?.collect().await });
    let rows = rows.map_err(|e| e.strip_backtrace())?;
    arrow::compute::concat_batches(&rows[0].schema(), &rows).map_err(|e| e.to_string())
}

fn integer(sql: &str, values: &[Option<i64>]) -> Option<i64> {
    let rows = ask(sql, values).expect("an answer");
    rows.column(0).as_primitive::<Int64Type>().iter().next().expect("a row")
}

#[test]
fn sums_may_pass_their_range_but_not_end_beyond_it() {
    let (big, some) = (i64::MAX, Some);
    assert_eq!(integer("SELECT sum(n) FROM t", &[some(big), some(5), some(-5), some(-1)]), Some(big - 1));
    assert_eq!(integer("SELECT sum(n) FROM t", &[None, None]), None);
    let error = ask("SELECT sum(n) FROM t", &[some(big), some(1)]).expect_err("out of range");
    assert!(error.contains("out of range of BIGINT") && error.contains("DECIMAL(38, 0)"), "{error}");
    let error = ask("SELECT sum(d) FROM t", &[some(big), some(big), some(big), some(big)].repeat(20));
    assert!(error.expect_err("out of range").contains("out of range of DECIMAL"), "too many digits");
}

#[test]
fn distinct_sums_are_as_exact() {
    let values = [Some(i64::MAX), Some(i64::MAX - 1), Some(i64::MAX), Some(i64::MAX - 1), None];
    let sum = "SELECT sum(DISTINCT n) AS s, count(DISTINCT d) AS c FROM t";
    assert!(ask(sum, &values).expect_err("out of range").contains("out of range of BIGINT"));
    assert_eq!(integer(sum, &[Some(i64::MAX), Some(-5), Some(i64::MAX), Some(-5)]), Some(i64::MAX - 5));
    let decimals = "SELECT sum(DISTINCT d), count(DISTINCT n) FROM t";
    let many: Vec<Option<i64>> = (0..40).map(|i| Some(i64::MAX - i)).collect();
    assert!(ask(decimals, &many).expect_err("out of range").contains("out of range of DECIMAL"));
    let shown = pretty_format_batches(&[ask(decimals, &[Some(2), Some(3), Some(2), None]).expect("an answer")]);
    assert!(shown.expect("shows").to_string().contains("50000000000000000.00"));
}

#[test]
fn means_of_integers_are_exact_sums_by_count() {
    let mean = |values: &[Option<i64>]| {
        let rows = ask("SELECT avg(n) FROM t", values).expect("an answer");
        rows.column(0).as_primitive::<Float64Type>().iter().next().expect("a row")
    };
    let wide = 1_i64 << 60;
    assert_eq!(mean(&[Some(wide + 1), Some(3), None, Some(-wide), Some(-2)]), Some(0.5));
    assert_eq!(mean(&[None, None]), None);
}

#[test]
fn the_forms_of_sql_are_there() {
    let values: Vec<Option<i64>> = (0..200).map(|i| (i % 7 != 0).then_some(i % 50)).collect();
    let sql = "SELECT sum(n) FILTER (WHERE n > 10) AS f, sum(DISTINCT n) AS d, avg(DISTINCT n) AS a, mean(n) AS m,
        sum(CAST(n AS SMALLINT)) AS s, sum(CAST(n * 1 AS DOUBLE)) AS x, sum(d) AS dec,
        approx_percentile_cont(n, 0.5) AS p, approx_percentile_cont(0.5) WITHIN GROUP (ORDER BY n DESC) AS q,
        approx_median(n) AS med FROM t";
    let shown = pretty_format_batches(&[ask(sql, &values).expect("an answer")]).expect("shows").to_string();
    let row = shown.lines().nth(3).expect("a row").to_owned();
    let cells: Vec<&str> = row.split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect();
    let expected = |keep: &dyn Fn(i64) -> bool| values.iter().flatten().filter(|v| keep(**v)).sum::<i64>();
    assert_eq!(cells[0], expected(&|v| v > 10).to_string());
    assert_eq!((cells[1], cells[2]), ("1225", "24.5"));
    assert_eq!(cells[4], expected(&|_| true).to_string());
    assert_eq!(cells[5], format!("{:.1}", expected(&|_| true) as f64));
    let mut sorted: Vec<i64> = values.iter().flatten().copied().collect();
    sorted.sort_unstable();
    let middle = sorted[(sorted.len() - 1) / 2] as f64;
    for cell in &cells[7..10] {
        let median: f64 = cell.parse().expect("a number");
        assert!((median - middle).abs() <= 0.0101 * middle, "{middle} in {row}");
    }
    let sliding =
        "SELECT sum(n) OVER (ORDER BY n ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS s FROM t ORDER BY n DESC LIMIT 1";
    assert_eq!(integer(sliding, &[Some(4), Some(9), Some(7)]), Some(16));
}
