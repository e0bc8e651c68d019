//! What the session's SQL means: types, functions, windows.

use arrow::util::pretty::pretty_format_batches;
use datafusion::prelude::SessionContext;

use super::session_state;

/// The cells of the only row of the answer.
fn row(sql: &str) -> Result<Vec<String>, String> {
    let context = SessionContext::new_with_state(session_state());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
    let rows = runtime.block_on(async { context.sql(sql).await?.collect().await });
    let shown = pretty_format_batches(&rows.map_err(|e| e.strip_backtrace())?).map_err(|e| e.to_string())?.to_string();
    let line = shown.lines().nth(3).ok_or("no row")?;
    Ok(line.split('|').map(|cell| cell.trim().to_owned()).filter(|cell| !cell.is_empty()).collect())
}

#[test]
fn time_is_in_microseconds() {
    let cases = [
        ("TIMESTAMP '9999-12-31 23:59:59'", "Timestamp(µs)"),
        ("CAST('2026-01-01T10:00:00+02:00' AS TIMESTAMPTZ)", "Timestamp(µs, \"UTC\")"),
        ("now()", "Timestamp(µs)"),
        ("current_timestamp", "Timestamp(µs)"),
        ("to_timestamp('2026-01-01')", "Timestamp(µs)"),
        ("to_timestamp(5)", "Timestamp(µs)"),
        ("date_trunc('hour', now())", "Timestamp(µs)"),
        ("date_bin(INTERVAL '5 minutes', now(), now())", "Timestamp(µs)"),
        ("now() - INTERVAL '1 hour'", "Timestamp(µs)"),
        ("upper('a') || 'b'", "Utf8"),
        ("CAST(1 AS VARCHAR)", "Utf8"),
    ];
    for (expr, expected) in cases {
        assert_eq!(row(&format!("SELECT arrow_typeof({expr})")), Ok(vec![expected.to_owned()]), "{expr}");
    }
    assert!(row("SELECT CAST('2026-01-01' AS TIMESTAMP(9))").expect_err("refused").contains("TIMESTAMP(6)"));
    assert_eq!(row("SELECT to_timestamp('2026-01-01T00:00:01.5')"), Ok(vec!["2026-01-01T00:00:01.500".to_owned()]));
}

#[test]
fn windows_are_columns_of_a_relation() {
    let sql = "SELECT count(*), min(window_start), max(window_end), min(t.k)
        FROM TUMBLE((SELECT column1 AS at, column2 AS k FROM (VALUES
            (TIMESTAMP '2026-01-01 00:00:59.999999', 3), (TIMESTAMP '2026-01-01 00:01:00', 4), (NULL, 1))),
            at, INTERVAL '1 minute') AS t";
    assert_eq!(
        row(sql),
        Ok(["2", "2026-01-01T00:00:00", "2026-01-01T00:02:00", "3"].map(str::to_owned).to_vec()),
        "a row without a time is in no window"
    );
    let hops = "SELECT count(*), min(window_start), max(window_end) FROM HOP((SELECT DATE '2026-11-22' AS d), d, INTERVAL '1 day', INTERVAL '3 days')";
    assert_eq!(row(hops), Ok(["3", "2026-11-20T00:00:00", "2026-11-25T00:00:00"].map(str::to_owned).to_vec()));
    let sessions = "SELECT count(DISTINCT window_start), max(window_end) FROM SESSION((SELECT column1 AS at, column2 AS k FROM (VALUES
            (TIMESTAMP '2026-01-01 00:00:00', 3), (TIMESTAMP '2026-01-01 00:01:00', 3), (TIMESTAMP '2026-01-01 00:00:30', 4), (NULL, 1))),
            at, INTERVAL '1 minute', PARTITION => k) AS t";
    assert_eq!(row(sessions), Ok(["3", "2026-01-01T00:02:00"].map(str::to_owned).to_vec()));
    let weekly = "SELECT window_start FROM TUMBLE((SELECT DATE '2026-11-22' AS d), d, INTERVAL '1 week')";
    assert_eq!(row(weekly), Ok(vec!["2026-11-16T00:00:00".to_owned()]), "weeks begin on Mondays");
    let months = "SELECT window_start, window_end FROM TUMBLE((SELECT DATE '2026-11-22' AS d), d, INTERVAL '3 months')";
    assert_eq!(row(months), Ok(vec!["2026-10-01T00:00:00".to_owned(), "2027-01-01T00:00:00".to_owned()]));
    for (args, word) in [
        ("(SELECT 1 AS a), a, INTERVAL '1 minute'", "TIMESTAMP or DATE"),
        ("(SELECT now() AS a), a, 5", "constant length"),
        ("(SELECT now() AS a), a, INTERVAL '1 month 2 days'", "either of months or"),
        ("(SELECT now() AS a), a, INTERVAL '1 minute', SIZE => INTERVAL '1 minute'", "SIZE"),
    ] {
        let error = row(&format!("SELECT * FROM TUMBLE({args})")).expect_err("refused");
        assert!(error.contains(word), "{args}: {error}");
    }
}
