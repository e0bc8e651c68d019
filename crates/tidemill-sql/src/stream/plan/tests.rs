//! Plans: what graph a pipeline becomes, and what is refused with which words.

use std::sync::Arc;

use tidemill_model::{Error, Place};
use tidemill_runtime::{NodeKind, WriteMode};

use super::{Dataset, OpenTable};
use crate::language::render;
use crate::stream::testing::plan;

const TABLES: &str = "CREATE PIPELINE p WITH (trigger = 'continuous');
CREATE TABLE orders (id BIGINT NOT NULL, amount DECIMAL(12, 2), region VARCHAR, note VARCHAR, at TIMESTAMP,
  WATERMARK FOR at AS at - INTERVAL '10 seconds',
  CHECK (length(note) < 100)) WITH (connector = 'shelf', idle = '5 seconds', max_future = 'none');
CREATE TABLE refunds (id BIGINT NOT NULL, sent TIMESTAMP, back TIMESTAMP, WATERMARK FOR back AS back - INTERVAL '10 seconds')
  WITH (connector = 'shelf');
CREATE TABLE rates (region VARCHAR, usd DOUBLE) WITH (connector = 'shelf');
CREATE TABLE out WITH (connector = 'shelf');
CREATE TABLE kept (id BIGINT, amount DECIMAL(14, 2), at TIMESTAMP, PRIMARY KEY (id)) WITH (connector = 'shelf', write = 'upsert');
CREATE VIEW cleaned AS SELECT id, amount, upper(region) AS region, at FROM orders WHERE amount > 1;
";

fn unopened() -> OpenTable {
    Arc::new(|_: &Dataset| Err(Error::internal("planning reads nothing")))
}

fn planned(statements: &str) -> super::StreamPlan {
    plan(&format!("{TABLES}{statements}"), &unopened()).unwrap_or_else(|e| panic!("{}", render(&e, false)))
}

#[test]
fn a_pipeline_is_one_graph_that_reads_each_dataset_once() {
    let plan = planned(
        "INSERT INTO out SELECT o.id, o.amount, r.usd FROM cleaned AS o LEFT JOIN rates AS r ON o.region = r.region;
         CREATE MATERIALIZED VIEW minutes WITH (retention = '1 hour') AS
         SELECT region, window_start, sum(amount) AS revenue FROM TUMBLE(cleaned, at, INTERVAL '1 minute')
         GROUP BY region, window_start, window_end HAVING count(*) > 1;",
    );
    let expected = "\
orders: source (id, amount, region, at)
  -> out.select
  -> minutes.select
out.select: select id, amount, region | where orders.amount > 1.00 | select id, amount, region
  -> out.lookup
out.lookup: look up rates on o.region = r.region
  -> out.select2
out.select2: select id, amount, usd
  -> out
out: sink, none
minutes.select: select amount, region, at | where orders.amount > 1.00 | select amount, region, at | select amount, region, window_start
  -> minutes.partial
minutes.partial: pre-aggregate sum(cleaned.amount), count(1) by 1 minute windows, cleaned.region
  => minutes.final
minutes.final: aggregate sum(cleaned.amount), count(1) by 1 minute windows, cleaned.region, changes at each epoch, until a window closes
  -> minutes.select2
minutes.select2: select region, window_start, sum(cleaned.amount), count(Int64(1)) | where count(Int64(1)) > 1 | select region, window_start, revenue
  => minutes
minutes: view, closed windows kept for 1 hour
";
    assert_eq!(plan.to_string(), expected);
    let view = &plan.views[0];
    assert_eq!((view.node.as_str(), view.window_start.as_deref()), ("minutes", Some("window_start")));
    assert!(plan.notes[0].contains("rates is read once"), "{:?}", plan.notes);
    let stateful: Vec<String> =
        plan.fingerprints().into_iter().filter(|(_, f)| !f.is_empty()).map(|(name, _)| name).collect();
    assert_eq!(stateful, ["minutes.final", "minutes"]);
    let NodeKind::Source(source) = &plan.graph.nodes[0].kind else { panic!("no source") };
    let decoded = source.hints.schema.as_ref().expect("columns");
    let names: Vec<&str> = decoded.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["id", "amount", "region", "note", "at"], "what the gate judges by is read too");
    let time = source.time.as_ref().expect("time");
    assert_eq!((time.delay.as_secs(), time.idle.as_secs(), time.max_future), (10, 5, None));
}

#[test]
fn state_depends_on_the_query_and_not_on_the_rest() {
    let of = |sql: &str| planned(sql).fingerprint;
    let view = |amount: &str, size: &str| {
        format!(
            "CREATE MATERIALIZED VIEW v AS SELECT window_start, {amount} AS s FROM TUMBLE(orders, at, INTERVAL '{size}') GROUP BY window_start;"
        )
    };
    let base = of(&view("sum(amount)", "1 minute"));
    assert_eq!(base, of(&format!("{} INSERT INTO out SELECT id FROM orders;", view("sum(amount)", "1 minute"))));
    for (amount, size) in [("sum(amount + 1)", "1 minute"), ("max(amount)", "1 minute"), ("sum(amount)", "2 minutes")] {
        assert_ne!(base, of(&view(amount, size)), "{amount} {size}");
    }
    assert_ne!(base, of(&view("sum(amount) FILTER (WHERE region = 'eu')", "1 minute")));
    let over = |from: &str| {
        of(&format!(
            "CREATE VIEW some AS {from}; CREATE MATERIALIZED VIEW v AS SELECT window_start, sum(amount) AS s \
             FROM TUMBLE(some, at, INTERVAL '1 minute') GROUP BY window_start HAVING count(*) > 1;"
        ))
    };
    let filtered = over("SELECT * FROM orders WHERE amount > 1");
    assert_ne!(filtered, over("SELECT * FROM orders WHERE amount > 2"), "what comes before the state");
    assert_ne!(filtered, over("SELECT at, amount * 2 AS amount FROM orders WHERE amount > 1"));
    assert_eq!(filtered, over("SELECT at, amount FROM orders WHERE amount > 1"), "the same in other words");
}

#[test]
fn an_upsert_is_ordered_by_event_time_where_it_comes_through() {
    let mode = |sql: &str| planned(sql).sinks[0].mode.clone();
    let key = vec!["id".to_owned()];
    let by_time = WriteMode::Upsert { key: key.clone(), sequence: Some("at".to_owned()) };
    assert_eq!(mode("INSERT INTO kept SELECT id, amount, at FROM cleaned;"), by_time);
    let unordered = WriteMode::Upsert { key, sequence: None };
    assert_eq!(mode("INSERT INTO kept (id) SELECT id FROM cleaned;"), unordered);
}

#[test]
fn refusals_name_the_place_and_the_way_out() {
    let cases: &[(&str, &str, &str, &str)] = &[
        (
            "INSERT INTO out SELECT region, count(*) AS n FROM orders GROUP BY region",
            "P137",
            "GROUP",
            "MATERIALIZED VIEW",
        ),
        (
            "INSERT INTO kept (id, at) SELECT id, max(at) AS at FROM orders GROUP BY id, region",
            "P146",
            "kept",
            "id, region",
        ),
        (
            "INSERT INTO out SELECT window_start, count(*) AS n
             FROM SESSION(orders, at, INTERVAL '1 minute', PARTITION BY region, id) GROUP BY region, window_start",
            "P157",
            "SESSION",
            "add `id` to the GROUP BY",
        ),
        (
            "INSERT INTO out SELECT id, window_start FROM SESSION(orders, at, INTERVAL '1 minute')",
            "P158",
            "SESSION",
            "window_start, window_end and every column",
        ),
        ("INSERT INTO out SELECT id, now() AS t FROM orders", "P131", "now", "event time"),
        ("INSERT INTO out SELECT id FROM orders WHERE random() < 0.5", "P132", "random", "md5"),
        ("INSERT INTO out SELECT uuid() AS u FROM orders", "P132", "uuid", "columns"),
        (
            "INSERT INTO out SELECT o.id FROM orders AS o JOIN refunds AS r ON o.id = r.id",
            "P130",
            "JOIN",
            "BETWEEN a.time",
        ),
        (
            "INSERT INTO out SELECT o.id FROM orders AS o LEFT JOIN refunds AS r ON o.id = r.id AND r.back >= o.at",
            "P154",
            "JOIN",
            "write both bounds",
        ),
        (
            "INSERT INTO out SELECT o.id FROM orders AS o JOIN refunds AS r
               ON o.id = r.id AND r.back > o.at AND r.back < o.at + INTERVAL '1 month'",
            "P154",
            "JOIN",
            "write both bounds",
        ),
        (
            "INSERT INTO out SELECT o.id FROM orders AS o JOIN (SELECT id, max(back) AS back FROM refunds GROUP BY id) AS r
               ON o.id = r.id AND r.back BETWEEN o.at AND o.at + INTERVAL '1 day'",
            "P130",
            "JOIN",
            "BETWEEN a.time",
        ),
        (
            "INSERT INTO out SELECT o.id FROM orders AS o ASOF JOIN refunds AS r MATCH_CONDITION (o.at <= r.back) ON o.id = r.id",
            "P130",
            "ASOF",
            "interval run",
        ),
        (
            "INSERT INTO out SELECT o.id FROM orders AS o ASOF JOIN refunds AS r MATCH_CONDITION (o.at >= r.sent) ON o.id = r.id",
            "P156",
            "ASOF",
            "WATERMARK FOR",
        ),
        (
            "INSERT INTO out SELECT id, row_number() OVER (PARTITION BY region ORDER BY at) AS n FROM orders",
            "P143",
            "OVER",
            "PARTITION BY window_start",
        ),
        (
            "INSERT INTO out SELECT id, sum(amount) OVER (PARTITION BY region ORDER BY at) AS s FROM orders",
            "P143",
            "OVER",
            "RANGE BETWEEN",
        ),
        (
            "INSERT INTO out SELECT id, sum(amount) OVER (ORDER BY at ROWS BETWEEN 5 PRECEDING AND CURRENT ROW) AS s FROM orders",
            "P143",
            "OVER",
            "RANGE BETWEEN",
        ),
        ("INSERT INTO out SELECT id, lag(id) OVER (ORDER BY at) AS l FROM orders", "P143", "OVER", "window_start"),
        (
            "CREATE MATERIALIZED VIEW v AS SELECT region, array_agg(id) AS a FROM orders GROUP BY region",
            "P133",
            "array_agg",
            "TUMBLE",
        ),
        (
            "INSERT INTO out SELECT DISTINCT ON (region) region, id FROM orders ORDER BY region, at",
            "P231",
            "DISTINCT",
            "DEDUP(table, time, INTERVAL '1 hour', PARTITION BY region)",
        ),
        (
            "INSERT INTO out SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY region ORDER BY at DESC) AS n FROM orders)
               WHERE n <= 3",
            "P231",
            "row_number",
            "PRIMARY KEY (region)",
        ),
        (
            "CREATE MATERIALIZED VIEW v AS SELECT id FROM (SELECT id, rank() OVER (ORDER BY amount) AS n FROM orders) WHERE n <= 3",
            "P143",
            "OVER",
            "ROW_NUMBER() … <= N",
        ),
        (
            "INSERT INTO out SELECT id FROM DEDUP(refunds, sent, INTERVAL '1 hour', PARTITION BY id)",
            "P230",
            "DEDUP",
            "WATERMARK FOR",
        ),
        (
            "INSERT INTO out SELECT id FROM (SELECT id FROM orders ORDER BY amount LIMIT 3)",
            "P130",
            "LIMIT",
            "ROW_NUMBER",
        ),
        (
            "INSERT INTO out SELECT a.id FROM TUMBLE(orders, at, INTERVAL '1 minute') AS a
               JOIN TUMBLE(orders, at, INTERVAL '2 minutes') AS b ON a.window_start = b.window_start",
            "P130",
            "JOIN",
            "same size",
        ),
    ];
    for (sql, code, word, advice) in cases {
        let text = format!("{TABLES}{sql};");
        let error = plan(&text, &unopened()).err().unwrap_or_else(|| panic!("{sql} is planned"));
        let shown = render(&error, false);
        assert!(error.code().starts_with(code), "{sql}\n{shown}");
        let place: &Place = error.place().unwrap_or_else(|| panic!("{sql}: {shown} has no place"));
        let at = place.text.get(place.span.start..).unwrap_or_default();
        assert!(at.to_lowercase().starts_with(&word.to_lowercase()), "{sql}\n{shown}");
        assert!(shown.contains(advice), "{sql}\n{shown}");
        assert_ne!(error.kind(), tidemill_model::Kind::Internal, "{sql}\n{shown}");
    }
}

#[test]
fn a_join_in_time_takes_both_sides_by_their_keys() {
    let plan = planned(
        "INSERT INTO out SELECT o.id, r.back FROM orders AS o LEFT JOIN refunds AS r
           ON o.id = r.id AND r.back BETWEEN o.at - INTERVAL '1 minute' AND o.at + INTERVAL '1 hour';",
    );
    let text = plan.to_string();
    assert!(text.contains("left join on o.id = r.id, where back is -1 minute to 1 hour after at"), "{text}");
    assert_eq!(text.matches("=> out.join").count(), 2, "{text}");
    let text = planned(
        "INSERT INTO out SELECT o.id, r.back FROM orders AS o ASOF JOIN refunds AS r MATCH_CONDITION (o.at >= r.back)
           ON o.id = r.id AND r.back > o.at - INTERVAL '1 hour';",
    )
    .to_string();
    assert!(text.contains("asof join on id = id where at >= back, at most"), "{text}");
}

#[test]
fn what_waits_says_when_it_goes_out() {
    let plan = planned(
        "CREATE MATERIALIZED VIEW best AS SELECT id, region, window_start FROM (
           SELECT *, row_number() OVER (PARTITION BY region, window_start ORDER BY amount DESC) AS n
           FROM TUMBLE(orders, at, INTERVAL '1 minute')) WHERE n <= 3;",
    );
    let shown = plan.to_string();
    let line = "best.over: row_number over 1 minute windows, at most 3 kept, given out once when a window closes";
    assert!(shown.contains(line), "{shown}");
    assert!(plan.notes.iter().any(|note| note == "best: rows appear when their window closes, not before"));
    let routes: Vec<_> = plan.graph.nodes.iter().flat_map(|node| &node.outputs).map(|edge| &edge.route).collect();
    assert!(
        routes.iter().any(|route| matches!(route, tidemill_runtime::Route::Hash(keys) if keys.len() == 2)),
        "{routes:?}"
    );
}

#[test]
fn top_level_order_is_noted_not_refused() {
    let plan = planned("INSERT INTO out SELECT id FROM orders ORDER BY id;");
    assert!(plan.notes[0].contains("ORDER BY has no effect"), "{:?}", plan.notes);
}
