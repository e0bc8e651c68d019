//! Rows that come after their window has closed: taken while they are waited for, kept as late rows after that.

use arrow::array::UInt32Array;
use arrow::compute::take_record_batch;
use tidemill_runtime::{Batch, LateRow};

use super::*;

const MINUTES: &str = "SELECT region, window_start, window_end, count(*) AS n, sum(amount) AS s
    FROM TUMBLE(orders, at, INTERVAL '1 minute') GROUP BY region, window_start, window_end";
const HOPS: &str = "SELECT region, window_start, window_end, count(*) AS n, count(DISTINCT customer) AS d
    FROM HOP(cleaned, at, INTERVAL '20 seconds', INTERVAL '1 minute') GROUP BY region, window_start, window_end";
const UNEVEN: &str = "SELECT region, window_start, window_end, max(amount) AS m
    FROM HOP(orders, at, INTERVAL '50 seconds', INTERVAL '70 seconds') GROUP BY region, window_start, window_end HAVING count(*) > 3";
const SESSIONS: &str = "SELECT customer, window_start, window_end, count(*) AS n, sum(amount) AS s
    FROM SESSION(orders, at, INTERVAL '9 seconds', PARTITION BY customer) GROUP BY customer, window_start, window_end";
const DIVIDED: &str = "SELECT customer, paid, window_start, window_end, count(*) AS n
    FROM SESSION(orders, at, INTERVAL '15 seconds', PARTITION BY customer) GROUP BY customer, paid, window_start, window_end";

/// What is corrected, with the key of a table that can follow.
const CORRECTED: &[(&str, &str)] = &[
    (MINUTES, "region, window_start"),
    (HOPS, "region, window_start"),
    (UNEVEN, "region, window_start"),
    (SESSIONS, "customer, window_start, window_end"),
    (DIVIDED, "customer, paid, window_start, window_end"),
];

/// What waits and is given out once.
const WAITING: &[&str] = &[
    "SELECT id, region, window_start, row_number() OVER (PARTITION BY window_start, region ORDER BY customer DESC) AS n
       FROM TUMBLE(cleaned, at, INTERVAL '1 minute')",
    "SELECT DISTINCT ON (customer, window_start) customer, window_start, id
       FROM TUMBLE(cleaned, at, INTERVAL '1 minute') ORDER BY customer, window_start, currency DESC",
    "SELECT region, window_start, first_value(id ORDER BY at) AS f, count(*) AS n
       FROM TUMBLE(cleaned, at, INTERVAL '1 minute') GROUP BY region, window_start, window_end",
    "SELECT id, count(*) OVER (PARTITION BY region ORDER BY at RANGE BETWEEN INTERVAL '10 seconds' PRECEDING AND CURRENT ROW) AS n
       FROM orders",
    "SELECT window_start, max(n) AS most, count(*) AS k FROM TUMBLE((
       SELECT region, window_start, count(*) AS n FROM TUMBLE(orders, at, INTERVAL '20 seconds')
       GROUP BY region, window_start, window_end), window_start, INTERVAL '1 minute') GROUP BY window_start",
    "SELECT l.window_start, l.region, l.n, r.most FROM (
       SELECT region, window_start, count(*) AS n FROM TUMBLE(orders, at, INTERVAL '1 minute')
       GROUP BY region, window_start, window_end) AS l JOIN (
       SELECT region, window_start, max(amount) AS most FROM TUMBLE(cleaned, at, INTERVAL '1 minute')
       GROUP BY region, window_start, window_end) AS r ON l.window_start = r.window_start AND l.region = r.region",
];

/// Orders of which each tenth comes up to two and a half minutes late.
fn delayed(rows: usize) -> RecordBatch {
    let orders = orders(23, rows);
    let dice = &mut Dice(5);
    let apart = SPAN / rows as i64;
    let mut order: Vec<(i64, u32)> = (0..rows)
        .map(|row| {
            let delay = if dice.roll(10) == 0 { dice.roll(150_000_000) as i64 } else { 0 };
            (row as i64 * apart + delay, row as u32)
        })
        .collect();
    order.sort_unstable();
    take_record_batch(&orders, &order.into_iter().map(|(_, row)| row).collect::<UInt32Array>()).expect("rows")
}

fn times(rows: &RecordBatch) -> Vec<i64> {
    let times = rows.column_by_name("at").expect("times");
    arrow::array::AsArray::as_primitive::<arrow::datatypes::TimestampMicrosecondType>(times).values().to_vec()
}

/// The tables of a pipeline with these options.
fn tables(options: &str) -> String {
    TABLES.replace("trigger = 'continuous'", &format!("trigger = 'continuous', {options}"))
}

/// What stands in a table after changes.
#[derive(Default)]
struct Standing(BTreeMap<String, i64>);

impl Standing {
    fn apply(&mut self, batches: Vec<Batch>) {
        for batch in batches {
            for row in 0..batch.len() {
                let line = lines(&[batch.rows.slice(row, 1)]).remove(0);
                *self.0.entry(line).or_default() += batch.weights.as_ref().map_or(1, |weights| weights.value(row));
            }
        }
        self.0.retain(|_, weight| *weight != 0);
    }

    fn lines(&self) -> Vec<String> {
        assert!(self.0.values().all(|weight| *weight == 1), "what is taken back was there: {:?}", self.0);
        self.0.keys().cloned().collect()
    }
}

/// Runs a statement that writes the table `kept` by key; at each barrier `look` sees what stands, the rows so far and time.
fn corrected(
    text: &str,
    rows: &RecordBatch,
    way: Way,
    mut look: impl FnMut(&Standing, usize, i64),
) -> (Standing, Vec<LateRow>) {
    let plan = plan(text, &open()).unwrap_or_else(|e| panic!("{text}: {e}"));
    let mut flow = Flow::start(&plan.graph, way.lanes, None);
    let (mut standing, mut late, mut newest) = (Standing::default(), Vec::new(), i64::MIN);
    let times = times(rows);
    for (number, from) in (0..rows.num_rows()).step_by(way.cut).enumerate() {
        let length = way.cut.min(rows.num_rows() - from);
        flow.rows("orders", number % flow.lanes, &rows.slice(from, length)).expect("takes rows");
        newest = times[from..from + length].iter().copied().max().unwrap_or(newest).max(newest);
        flow.watermark("orders", newest - DELAY).expect("takes a watermark");
        if (number + 1) % way.barrier == 0 {
            let state = flow.barrier().expect("a barrier");
            standing.apply(flow.changed.remove("kept").unwrap_or_default());
            look(&standing, from + length, newest - DELAY);
            if let Some(lanes) = way.restart {
                late.append(&mut flow.kept_late);
                flow = Flow::start(&plan.graph, if number % 2 == 0 { lanes } else { way.lanes }, Some(state));
                flow.watermark("orders", newest - DELAY).expect("takes a watermark");
            }
        }
    }
    flow.watermark("orders", i64::MAX).expect("takes the end");
    flow.barrier().expect("a barrier");
    standing.apply(flow.changed.remove("kept").unwrap_or_default());
    late.append(&mut flow.kept_late);
    (standing, late)
}

fn into_kept(options: &str, sql: &str, key: &str) -> String {
    format!(
        "{} CREATE TABLE kept (PRIMARY KEY ({key})) WITH (connector = 'shelf', write = 'upsert'); INSERT INTO kept {sql};",
        tables(options)
    )
}

#[test]
fn windows_are_corrected_while_late_rows_are_waited_for() {
    let rows = delayed(1_500);
    for (sql, key) in CORRECTED {
        let expected = oracle(sql, &rows);
        for way in WAYS {
            for options in ["allowed_lateness = '3 minutes'", "allowed_lateness = '3 minutes', emit = 'changes'"] {
                let (standing, late) = corrected(&into_kept(options, sql, key), &rows, *way, |_, _, _| ());
                assert_eq!(standing.lines(), expected, "{sql} {options} {way:?}");
                assert_eq!(late, [], "{sql} {way:?}");
            }
            let view = format!("CREATE MATERIALIZED VIEW v WITH (allowed_lateness = '3 minutes') AS {sql}");
            assert_eq!(run(&view, &rows, *way).1, expected, "view of {sql} {way:?}");
        }
    }
}

#[test]
fn what_is_closed_stands_at_each_barrier_as_the_rows_so_far_say() {
    let rows = delayed(700);
    for (sql, key) in CORRECTED {
        for way in [
            Way { cut: 50, lanes: 2, barrier: 1, restart: None },
            Way { cut: 70, lanes: 2, barrier: 1, restart: Some(3) },
        ] {
            let text = into_kept("allowed_lateness = '3 minutes'", sql, key);
            let mut seen = 0;
            corrected(&text, &rows, way, |standing, read, watermark| {
                let closed = format!(
                    "SELECT * FROM ({sql}) AS w WHERE window_end <= arrow_cast({watermark}, 'Timestamp(Microsecond, None)')"
                );
                let expected = oracle(&closed, &rows.slice(0, read));
                seen += expected.len();
                assert_eq!(standing.lines(), expected, "{sql} after {read} rows, {way:?}");
            });
            assert!(seen > 0, "{sql} had closed windows before the end");
        }
    }
}

#[test]
fn what_waits_for_time_waits_longer_and_is_given_out_once() {
    let rows = delayed(1_500);
    for sql in WAITING {
        let expected = oracle(sql, &rows);
        for way in WAYS {
            let text = format!("{} INSERT INTO out {sql};", tables("allowed_lateness = '3 minutes'"));
            let plan = plan(&text, &open()).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert!(plan.graph.nodes.iter().any(|node| node.name.contains(".wait")), "{sql}: {plan}");
            let mut flow = Flow::start(&plan.graph, way.lanes, None);
            let (mut written, mut newest, times) = (Vec::new(), i64::MIN, times(&rows));
            for (number, from) in (0..rows.num_rows()).step_by(way.cut).enumerate() {
                let length = way.cut.min(rows.num_rows() - from);
                flow.rows("orders", number % flow.lanes, &rows.slice(from, length)).expect("takes rows");
                newest = times[from..from + length].iter().copied().max().unwrap_or(newest).max(newest);
                flow.watermark("orders", newest - DELAY).expect("takes a watermark");
                if (number + 1) % way.barrier == 0 {
                    let state = flow.barrier().expect("a barrier");
                    if let Some(lanes) = way.restart {
                        written.extend(flow.written.remove("out").unwrap_or_default());
                        assert_eq!(flow.kept_late, [], "{sql} {way:?}");
                        flow = Flow::start(&plan.graph, lanes, Some(state));
                        flow.watermark("orders", newest - DELAY).expect("takes a watermark");
                    }
                }
            }
            flow.watermark("orders", i64::MAX).expect("takes the end");
            flow.barrier().expect("a barrier");
            written.extend(flow.written.remove("out").unwrap_or_default());
            assert_eq!(lines(&written), expected, "{sql} {way:?}");
            assert_eq!(flow.kept_late, [], "{sql} {way:?}");
        }
    }
}

/// Steps at which rows are late without any being waited for, each with the step that keeps them.
const LATE: &[(&str, &str)] = &[
    (
        "SELECT window_start, count(*) AS n FROM TUMBLE(orders, at, INTERVAL '1 minute') GROUP BY window_start",
        "partial",
    ),
    (
        "SELECT window_start, count(*) AS n FROM HOP(orders, at, INTERVAL '30 seconds', INTERVAL '1 minute') GROUP BY window_start",
        "partial",
    ),
    (
        "SELECT customer, window_start, count(*) AS n FROM SESSION(orders, at, INTERVAL '9 seconds', PARTITION BY customer) GROUP BY customer, window_start",
        "final",
    ),
    (
        "SELECT id, row_number() OVER (PARTITION BY window_start ORDER BY customer) AS n FROM TUMBLE(orders, at, INTERVAL '20 seconds')",
        "over",
    ),
    (
        "SELECT DISTINCT ON (customer, window_start) id, customer FROM TUMBLE(orders, at, INTERVAL '20 seconds') ORDER BY customer, window_start, id",
        "ordered",
    ),
    (
        "SELECT window_start, first_value(id ORDER BY at) AS f FROM TUMBLE(orders, at, INTERVAL '20 seconds') GROUP BY window_start",
        "ordered",
    ),
    (
        "SELECT id, sum(customer) OVER (PARTITION BY region ORDER BY at RANGE BETWEEN INTERVAL '5 seconds' PRECEDING AND CURRENT ROW) AS s FROM orders",
        "over",
    ),
    (
        "SELECT a.id AS a, b.id AS b FROM orders AS a JOIN orders AS b ON a.id = b.id AND b.at BETWEEN a.at - INTERVAL '5 seconds' AND a.at + INTERVAL '5 seconds'",
        "join",
    ),
    (
        "SELECT a.id AS a, b.id AS b FROM orders AS a ASOF JOIN orders AS b MATCH_CONDITION (a.at >= b.at) ON a.customer = b.customer",
        "asof",
    ),
    (
        "SELECT l.id AS l, r.id AS r FROM (SELECT id, window_start FROM TUMBLE(orders, at, INTERVAL '20 seconds')) AS l
       JOIN (SELECT id, window_start FROM TUMBLE(cleaned, at, INTERVAL '20 seconds')) AS r
       ON l.window_start = r.window_start AND l.id = r.id",
        "join",
    ),
];

#[test]
fn every_step_keeps_each_late_row_once() {
    let rows = delayed(900);
    for (sql, step) in LATE {
        for drop in [false, true] {
            let option = if drop { "late = 'drop'" } else { "late = 'table'" };
            let plan = plan(&format!("{} INSERT INTO out {sql};", tables(option)), &open())
                .unwrap_or_else(|e| panic!("{sql}: {e}"));
            for (cut, lanes, restarts) in [(60, 1, false), (45, 3, false), (90, 2, true)] {
                let mut flow = Flow::start(&plan.graph, lanes, None);
                let (mut kept, mut counted, mut newest) = (Vec::new(), 0, i64::MIN);
                let of_step = |flow: &Flow| flow.late(&format!("out.{step}"));
                let times = times(&rows);
                for (number, from) in (0..rows.num_rows()).step_by(cut).enumerate() {
                    let length = cut.min(rows.num_rows() - from);
                    flow.rows("orders", number % flow.lanes, &rows.slice(from, length)).expect("takes rows");
                    newest = times[from..from + length].iter().copied().max().unwrap_or(newest).max(newest);
                    flow.watermark("orders", newest - DELAY).expect("takes a watermark");
                    let state = flow.barrier().expect("a barrier");
                    if restarts {
                        kept.append(&mut flow.kept_late);
                        counted += of_step(&flow);
                        flow = Flow::start(&plan.graph, lanes + number % 2, Some(state));
                        flow.watermark("orders", newest - DELAY).expect("takes a watermark");
                    }
                }
                flow.watermark("orders", i64::MAX).expect("takes the end");
                flow.barrier().expect("a barrier");
                kept.append(&mut flow.kept_late);
                counted += of_step(&flow);
                assert!(counted > 0, "{sql}: some rows are late");
                if drop {
                    assert_eq!(kept, [], "{sql}");
                    continue;
                }
                assert_eq!(kept.iter().map(|row| row.pairs).sum::<u64>(), counted, "{sql} {cut}");
                for row in &kept {
                    assert!(row.dataset == "out" && row.row.starts_with('{'), "{row:?}");
                    assert!(row.event_time.is_some() || row.window.is_some(), "{row:?}");
                    let behind = row.event_time.or(row.window.map(|(_, end)| end)).unwrap_or(i64::MAX);
                    assert!(behind <= row.watermark.0, "it was behind the time that is told: {row:?}");
                }
            }
        }
    }
}

#[test]
fn rows_that_come_when_a_window_is_final_are_late() {
    // Only the first half of the delays is waited for.
    let rows = delayed(1_500);
    for (sql, key) in CORRECTED {
        for way in WAYS {
            let text = into_kept("allowed_lateness = '1 minute'", sql, key);
            let (standing, late) = corrected(&text, &rows, *way, |_, _, _| ());
            standing.lines();
            if way.cut < 1_000 {
                assert!(!late.is_empty(), "{sql}: rows beyond a minute are late, {way:?}");
            }
            for row in &late {
                let end = row.window.map(|window| window.1).or(row.event_time).unwrap_or(i64::MAX);
                assert!(end + 60_000_000 <= row.watermark.0, "{row:?} was waited for a minute");
            }
        }
    }
}

/// The result of a session is taken back when a late row makes it another; times are minutes, the gap is ten.
#[test]
fn a_session_that_was_given_out_is_merged_by_a_late_row() {
    let text = into_kept(
        "allowed_lateness = '1 hour'",
        "SELECT customer, window_start, window_end, count(*) AS n FROM SESSION(orders, at, INTERVAL '10 minutes', PARTITION BY customer)
         GROUP BY customer, window_start, window_end",
        "customer, window_start, window_end",
    );
    let plan = plan(&text, &open()).expect("a plan");
    let at = |minutes: &[i64]| {
        let rows = orders(1, minutes.len());
        let mut columns = rows.columns().to_vec();
        columns[1] = Arc::new(Int64Array::from(vec![1; minutes.len()]));
        columns[7] =
            Arc::new(TimestampMicrosecondArray::from_iter_values(minutes.iter().map(|minute| minute * 60_000_000)));
        RecordBatch::try_new(rows.schema(), columns).expect("rows")
    };
    let mut flow = Flow::start(&plan.graph, 1, None);
    let mut standing = Standing::default();
    let mut step = |flow: &mut Flow, minutes: &[i64], watermark: i64, expected: &[&str]| {
        flow.rows("orders", 0, &at(minutes)).expect("takes rows");
        flow.watermark("orders", watermark * 60_000_000).expect("takes a watermark");
        let state = flow.barrier().expect("a barrier");
        standing.apply(flow.changed.remove("kept").unwrap_or_default());
        assert_eq!(standing.lines(), expected, "at {watermark}");
        *flow = Flow::start(&plan.graph, 2, Some(state));
        flow.watermark("orders", watermark * 60_000_000).expect("takes a watermark");
    };
    let zero = "1 1970-01-01T00:00:00 1970-01-01T00:10:00 1";
    step(&mut flow, &[0, 15], 12, &[zero]);
    // Both are closed.
    step(&mut flow, &[], 30, &[zero, "1 1970-01-01T00:15:00 1970-01-01T00:25:00 1"]);
    // A late row between them makes them one.
    step(&mut flow, &[8], 30, &["1 1970-01-01T00:00:00 1970-01-01T00:25:00 3"]);
    // It goes on beyond what has passed: taken back until it closes again.
    step(&mut flow, &[24], 30, &[]);
    step(&mut flow, &[], 40, &["1 1970-01-01T00:00:00 1970-01-01T00:34:00 4"]);
    // An hour after its end it is final.
    step(&mut flow, &[], 95, &["1 1970-01-01T00:00:00 1970-01-01T00:34:00 4"]);
    step(&mut flow, &[30], 95, &["1 1970-01-01T00:00:00 1970-01-01T00:34:00 4"]);
}

#[test]
fn a_table_that_takes_no_corrections_is_refused() {
    let text = format!("{} INSERT INTO out {MINUTES};", tables("allowed_lateness = '1 hour'"));
    let error = plan(&text, &open()).expect_err("refused");
    assert_eq!(error.code(), "P160");
    let told = format!("{error} {:?}", error.facts());
    assert!(told.contains("write = 'upsert'") && told.contains("out.late"), "{told}");
    // What is given out once needs no corrections.
    for sql in WAITING {
        let text = format!("{} INSERT INTO out {sql};", tables("allowed_lateness = '1 hour'"));
        plan(&text, &open()).unwrap_or_else(|e| panic!("{sql}: {e}"));
    }
}

#[test]
fn a_view_says_when_its_windows_are_final() {
    let text = format!(
        "{TABLES} CREATE MATERIALIZED VIEW v WITH (allowed_lateness = '3 minutes', retention = '1 minute') AS {MINUTES};"
    );
    let plan = plan(&text, &open()).expect("a plan");
    let mut flow = Flow::start(&plan.graph, 2, None);
    let rows = orders(3, 600);
    flow.rows("orders", 0, &rows).expect("takes rows");
    let watermark = FIRST + SPAN - DELAY;
    flow.watermark("orders", watermark).expect("takes a watermark");
    let view = view(&flow.barrier().expect("a barrier"));
    let ends: Vec<i64> = view
        .iter()
        .flat_map(|batch| {
            let ends = batch.column_by_name("window_end").expect("ends");
            arrow::array::AsArray::as_primitive::<arrow::datatypes::TimestampMicrosecondType>(ends).values().to_vec()
        })
        .collect();
    // What is not final is kept, and for a minute more what is.
    let oldest = ends.into_iter().min().expect("windows");
    assert!(oldest <= watermark - 3 * 60_000_000, "{oldest} {watermark}");
    assert!(oldest > watermark - 5 * 60_000_000, "{oldest} {watermark}");
}
