//! What becomes of rows that fail: which are kept, left out and dead, whatever the order of conditions and the cuts.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::DFSchema;
use datafusion::datasource::MemTable;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::prelude::SessionContext;
use tidemill_model::Place;
use tidemill_runtime::Batch;

use super::*;
use crate::language::OnError;
use crate::session::session_state;

/// Rows `(x, y, note)`.
type Row = (Option<i64>, Option<i64>, &'static str);

fn batch(rows: &[Row]) -> RecordBatch {
    let x: ArrayRef = Arc::new(rows.iter().map(|row| row.0).collect::<Int64Array>());
    let y: ArrayRef = Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>());
    let note: ArrayRef = Arc::new(rows.iter().map(|row| Some(row.2)).collect::<StringArray>());
    RecordBatch::try_from_iter_with_nullable([("x", x, true), ("y", y, true), ("note", note, true)]).expect("a batch")
}

/// The plan of a query over `t`, as both executors get it.
fn plan(sql: &str) -> LogicalPlan {
    let context = SessionContext::new_with_state(session_state());
    let table = MemTable::try_new(batch(&[]).schema(), vec![vec![]]).expect("a table");
    context.register_table("t", Arc::new(table)).expect("registers");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let planned = runtime.block_on(context.state().create_logical_plan(sql)).expect(sql);
    optimize(planned, &context.state()).expect(sql)
}

/// The chain over the scan of a plan that has nothing else.
fn chain_of(plan: &LogicalPlan) -> Chain {
    match plan {
        LogicalPlan::Projection(node) => {
            let mut chain = chain_of(&node.input);
            chain.project(node.expr.clone(), Arc::clone(&node.schema));
            chain
        }
        LogicalPlan::Filter(node) => {
            let mut chain = chain_of(&node.input);
            chain.filter(node.predicate.clone());
            chain
        }
        LogicalPlan::SubqueryAlias(node) => {
            let mut chain = chain_of(&node.input);
            chain.rename(Arc::clone(&node.schema));
            chain
        }
        LogicalPlan::TableScan(scan) => {
            let all =
                LogicalPlanBuilder::scan("t", Arc::clone(&scan.source), None).expect("a scan").build().expect("t");
            let mut chain = Chain::over(Arc::clone(all.schema()));
            chain.project(columns(&scan.projected_schema), Arc::clone(&scan.projected_schema));
            chain
        }
        other => panic!("{} is no chain", other.display()),
    }
}

fn guarded(chain: &Chain, on_error: OnError) -> Guarded {
    let place = Place { file: Arc::from("p.sql"), text: Arc::from("\n\nSELECT"), span: 2..8 };
    let (steps, _) = chain.compiled().expect("compiles");
    Guarded::new(steps, Failing::of(chain, on_error, OnItsWay::to("out", &place), None))
}

fn lines(rows: Option<&RecordBatch>) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let Some(rows) = rows else { return Vec::new() };
    let line = |row| {
        let cells = rows
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column, &options).expect("shows").value(row).to_string());
        cells.collect::<Vec<_>>().join(" ")
    };
    (0..rows.num_rows()).map(line).collect()
}

/// What a query keeps of the rows, and why the others are dead.
fn answer(sql: &str, rows: &[Row], on_error: OnError) -> (Vec<String>, Vec<String>) {
    let steps = guarded(&chain_of(&plan(sql)), on_error);
    let evaluated = steps.run(Batch::inserts(batch(rows))).unwrap_or_else(|e| panic!("{sql}: {e}"));
    let kept = lines(evaluated.rows.as_ref().map(|batch| &batch.rows));
    (kept, evaluated.dead.into_iter().map(|letter| letter.detail).collect())
}

#[test]
fn one_bad_row_is_dead_and_the_others_go_on() {
    let rows: Vec<Row> = (0..1000).map(|n| (Some(n), Some(1), if n == 637 { "seven" } else { "7" })).collect();
    let (kept, dead) = answer("SELECT x, CAST(note AS BIGINT) AS n FROM t WHERE x >= 10", &rows, OnError::DeadLetter);
    assert_eq!(kept.len(), 989);
    assert_eq!((kept[0].as_str(), kept[626].as_str(), kept[627].as_str()), ("10 7", "636 7", "638 7"));
    assert_eq!(dead, ["cannot cast 'seven' to BIGINT in CAST(note AS BIGINT)"]);
}

#[test]
fn a_letter_names_the_statement_and_holds_the_row() {
    let steps = guarded(&chain_of(&plan("SELECT x / y AS q FROM t")), OnError::DeadLetter);
    let evaluated = steps.run(Batch::inserts(batch(&[(Some(5), Some(0), "a")]))).expect("runs");
    let letter = &evaluated.dead[0];
    assert_eq!((letter.dataset.as_str(), letter.split.as_str(), letter.position), ("out", "statement in p.sql", 3));
    assert_eq!(letter.reason, "division by zero in x / y");
    assert_eq!(letter.detail, "division by zero in x / y, where x = 5, y = 0");
    assert_eq!(String::from_utf8_lossy(&letter.raw), r#"{"x":"5","y":"0"}"#);
}

#[test]
fn the_fate_of_a_row_does_not_depend_on_how_a_query_is_written() {
    let (some, none) = (Some, None);
    let rows: &[Row] = &[
        (some(1), some(0), "a"),
        (some(-1), some(0), "b"),
        (none, some(0), "c"),
        (some(6), some(2), "d"),
        (some(6), none, "e"),
        (some(-6), some(2), "f"),
    ];
    // Both kept and dead: `d` only passes, `a` is wanted by the other condition and fails, `b` and `c` are not wanted.
    let kept_d = (vec!["d".to_owned()], vec!["division by zero in 12 / y, where y = 0".to_owned()]);
    for sql in [
        "SELECT note FROM t WHERE x > 0 AND 12 / y > 1",
        "SELECT note FROM t WHERE 12 / y > 1 AND x > 0",
        "SELECT note FROM (SELECT note, x FROM t WHERE 12 / y > 1) WHERE x > 0",
        "SELECT note FROM (SELECT note, y FROM t WHERE x > 0) WHERE 12 / y > 1",
        "SELECT note FROM (SELECT note, x, 12 / y AS q FROM t) WHERE q > 1 AND q < 99 AND x > 0",
        "WITH u AS (SELECT *, 12 / y AS q, x / y AS unused FROM t) SELECT note FROM u WHERE x > 0 AND q > 1",
    ] {
        assert_eq!(answer(sql, rows, OnError::DeadLetter), kept_d, "{sql}");
    }
    for cut in 1..rows.len() {
        let steps = guarded(&chain_of(&plan("SELECT note FROM t WHERE x > 0 AND 12 / y > 1")), OnError::DeadLetter);
        let parts = [&rows[..cut], &rows[cut..]];
        let ran = parts.map(|part| steps.run(Batch::inserts(batch(part))).expect("runs"));
        assert_eq!(ran.iter().map(|part| part.dead.len()).sum::<usize>(), 1, "cut at {cut}");
        assert_eq!(ran.iter().filter_map(|part| part.rows.as_ref()).map(Batch::len).sum::<usize>(), 1, "cut at {cut}");
    }
}

#[test]
fn connectives_take_an_error_only_when_they_need_it() {
    // x > 0 is true, false and NULL; 1 / 0 fails.
    let rows: &[Row] =
        &[(Some(1), Some(0), "t"), (Some(-1), Some(0), "f"), (None, Some(0), "n"), (Some(1), Some(1), "-")];
    let cases: &[(&str, &[&str], usize)] = &[
        ("x > 0 AND 1 / y > 0", &["f false", "- true"], 2),
        ("1 / y > 0 AND x > 0", &["f false", "- true"], 2),
        ("x > 0 OR 1 / y > 0", &["t true", "- true"], 2),
        ("1 / y > 0 OR x > 0", &["t true", "- true"], 2),
        ("NOT (1 / y > 0 AND x > 0)", &["f true", "- false"], 2),
        ("CASE WHEN y = 0 THEN false ELSE 1 / y > 0 END", &["t false", "f false", "n false", "- true"], 0),
        ("CASE WHEN 1 / y > 0 OR x > 0 THEN true ELSE false END", &["t true", "- true"], 2),
        ("coalesce(x > 0, 1 / y > 0)", &["t true", "f false", "- true"], 1),
        ("(1 / y > 0 AND x > 0) OR x < 0", &["f true", "- true"], 2),
    ];
    for (expr, kept, dead) in cases {
        let found = answer(&format!("SELECT note, {expr} AS b FROM t"), rows, OnError::DeadLetter);
        assert_eq!(
            (found.0.iter().map(String::as_str).collect::<Vec<_>>(), found.1.len()),
            (kept.to_vec(), *dead),
            "{expr}"
        );
    }
}

#[test]
fn null_takes_the_place_of_what_failed() {
    let rows: &[Row] = &[(Some(1), Some(0), "7"), (Some(1), Some(2), "x"), (Some(8), Some(2), "9")];
    let from = "FROM (SELECT x, y, note, CAST(note AS BIGINT) AS n FROM t)";
    let sql = format!("SELECT x / y AS q, coalesce(n, x) AS n, note {from}");
    let kept = ["NULL 7 7", "0 NULL x", "4 9 9"].map(str::to_owned).to_vec();
    assert_eq!(answer(&sql, rows, OnError::Null), (kept, vec![]));
    // This column is never NULL by its type, so there is nothing to put there.
    let (kept, dead) = answer(&format!("SELECT coalesce(n, 0) AS n {from}"), rows, OnError::Null);
    assert_eq!((kept.len(), dead.len()), (2, 1));
    let filter = "SELECT note FROM t WHERE x / y > 1";
    assert_eq!(answer(filter, rows, OnError::Null), (vec!["9".to_owned()], vec![]));
}

#[test]
fn fail_is_the_error_itself() {
    let steps = guarded(&chain_of(&plan("SELECT x / y AS q FROM t")), OnError::Fail);
    let error = steps.run(Batch::inserts(batch(&[(Some(5), Some(0), "a")]))).expect_err("fails");
    assert!(error.to_string().contains("zero"), "{error}");
}

#[test]
fn weights_stay_with_their_rows_and_what_is_taken_back_leaves_no_letter() {
    let steps = guarded(&chain_of(&plan("SELECT x / y AS q FROM t")), OnError::DeadLetter);
    let rows = batch(&[(Some(4), Some(2), ""), (Some(1), Some(0), ""), (Some(1), Some(0), ""), (Some(6), Some(2), "")]);
    let weights = Some(Int64Array::from(vec![-1, -1, 1, 1]));
    let evaluated = steps.run(Batch { rows, weights }).expect("runs");
    let left = evaluated.rows.expect("rows");
    assert_eq!(lines(Some(&left.rows)), ["2", "3"]);
    assert_eq!(left.weights, Some(Int64Array::from(vec![-1, 1])));
    assert_eq!(evaluated.dead.len(), 1);
}

#[test]
fn words_are_those_of_sql() {
    let rows: &[Row] = &[(Some(i64::MAX), Some(0), "2026-13-45")];
    let cases: &[(&str, &str)] = &[
        ("x * 2 + y", "overflow in x * 2, where x = 9223372036854775807"),
        ("x + (1 - y)", "overflow in x + (1 - y), where x = 9223372036854775807, y = 0"),
        ("100 % y", "division by zero in 100 % y, where y = 0"),
        ("CAST(note AS DATE)", "cannot cast '2026-13-45' to DATE in CAST(note AS DATE)"),
        ("CAST(x AS SMALLINT)", "cannot cast 9223372036854775807 to SMALLINT in CAST(x AS SMALLINT)"),
        ("CASE WHEN x > 5 THEN upper(note) || CAST(1 / y AS VARCHAR) END", "division by zero in 1 / y, where y = 0"),
    ];
    for (expr, detail) in cases {
        let (_, dead) = answer(&format!("SELECT {expr} AS v FROM t"), rows, OnError::DeadLetter);
        assert_eq!(dead, [*detail], "{expr}");
    }
}

#[test]
fn what_can_fail_is_told_from_what_cannot() {
    let fails = |expr: &str| {
        let LogicalPlan::Projection(node) = plan(&format!("SELECT {expr} AS v FROM t")) else { return false };
        node.expr.iter().any(|expr| can_fail(expr, node.input.schema()))
    };
    for expr in [
        "x + 1",
        "x / y",
        "-x",
        "CAST(note AS BIGINT)",
        "CAST(x AS INT)",
        "to_timestamp(note)",
        "CAST(x * 2 AS DOUBLE)",
    ] {
        assert!(fails(expr), "{expr}");
    }
    for expr in [
        "x",
        "x > y AND note LIKE 'a%'",
        "CAST(x AS DOUBLE) / y",
        "TRY_CAST(note AS BIGINT)",
        "CAST(x AS VARCHAR)",
        "CAST(x AS DECIMAL(25, 2))",
        "upper(note) || 'x'",
        "coalesce(x, y)",
        "CASE WHEN x > 1 THEN y END",
    ] {
        assert!(!fails(expr), "{expr}");
    }
}

#[test]
fn what_an_aggregate_does_not_read_any_more_is_not_computed() {
    let sql = "SELECT y, sum(n + 1) FILTER (WHERE x > 0) AS s FROM (SELECT x, y, CAST(note AS BIGINT) AS n FROM t) GROUP BY y";
    let LogicalPlan::Projection(top) = plan(sql) else { panic!("no projection") };
    let LogicalPlan::Aggregate(node) = top.input.as_ref() else { panic!("no aggregate") };
    let names: Vec<&str> = node.input.schema().fields().iter().map(|field| field.name().as_str()).collect();
    assert!(!names.contains(&"n") && names.len() == 3, "{names:?}");
}

/// Whether any aggregate or join of a plan uses something that can fail.
fn unsettled(plan: &LogicalPlan) -> bool {
    let own = match plan {
        LogicalPlan::Aggregate(node) => {
            let exprs = node.group_expr.iter().chain(&node.aggr_expr);
            exprs.into_iter().any(|expr| can_fail(expr, node.input.schema()))
        }
        LogicalPlan::Join(node) => {
            let fails = |(left, right): &(Expr, Expr)| {
                can_fail(left, node.left.schema()) || can_fail(right, node.right.schema())
            };
            node.on.iter().any(fails) || node.filter.as_ref().is_some_and(|filter| can_fail(filter, &node.schema))
        }
        _ => false,
    };
    own || plan.inputs().into_iter().any(unsettled)
}

#[test]
fn aggregates_and_joins_have_nothing_left_that_can_fail() {
    for sql in [
        "SELECT CAST(note AS BIGINT) AS k, sum(x * 2) AS s, count(*) AS n FROM t GROUP BY CAST(note AS BIGINT)",
        "SELECT y, sum(x * 2) FILTER (WHERE 1 / y > 0) AS s, max(x + 1) + 1 AS m FROM t GROUP BY y HAVING sum(x * 2) > 1",
        "SELECT DISTINCT x + 1 AS n FROM t",
        "SELECT a.x, b.y FROM t AS a JOIN t AS b ON CAST(a.note AS BIGINT) = b.x AND a.x / b.y > 1",
        "SELECT a.x FROM t AS a LEFT JOIN t AS b ON CAST(a.note AS BIGINT) = b.x + 1",
    ] {
        let settled = plan(sql);
        assert!(!unsettled(&settled), "{sql}\n{}", settled.display_indent());
    }
}

#[test]
fn a_projection_to_no_column_keeps_one_to_count_rows_by() {
    let LogicalPlan::Projection(node) = plan("SELECT x + 1 AS x FROM t WHERE y > 3") else { panic!("a projection") };
    let mut chain = chain_of(&node.input);
    chain.project(Vec::new(), Arc::new(DFSchema::empty()));
    chain.prune(&BTreeSet::new()).expect("prunes");
    assert_eq!(chain.schema().fields().len(), 1);
    chain.compiled().expect("compiles");
}
