//! GROUP BY over windows: TUMBLE, HOP, SESSION, and windows of windows.

use super::*;

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
            // Few rows a group, so that some have seen no price while others have.
            "SELECT id % 400 AS k, window_start, avg(price) AS a, max(price) AS m, count(*) AS n
               FROM HOP(orders, at, {}) GROUP BY id % 400, window_start",
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
        // What it touches is open for a row that came ahead of time, and was not looked for yet.
        (&[(0, &[600]), (628, &[629]), (634, &[590])], &[(590, 659, 3)], 0),
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
