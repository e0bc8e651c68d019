//! The oracle is the same query as DataFusion plans it by itself.

use std::sync::Arc;

use arrow::array::{Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::datasource::MemTable;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::physical_planner::{DefaultPhysicalPlanner, PhysicalPlanner};
use datafusion::prelude::SessionContext;

use super::{FirstPlanner, firsts};
use crate::session::session_state;

const QUERIES: &[&str] = &[
    "SELECT k, first_value(a ORDER BY t, a, b, s) AS a, first_value(b ORDER BY t, a, b, s) AS b FROM rows GROUP BY k",
    "SELECT upper(s), last_value(b + 1 ORDER BY t DESC NULLS LAST, k, a, b, s) FROM rows GROUP BY upper(s)",
    "SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY k, s ORDER BY t DESC NULLS FIRST, a NULLS LAST, b) AS n
       FROM rows) WHERE n = 1",
    "SELECT k, t, a, b FROM (SELECT *, row_number() OVER (PARTITION BY t ORDER BY a DESC, k NULLS FIRST, b, s) AS n
       FROM rows) WHERE n <= 1 AND b > 3",
    "SELECT n, k, s, b FROM (SELECT *, row_number() OVER (PARTITION BY k % 3, t ORDER BY s, k, a, b) AS n FROM rows)
       WHERE 2 > n",
    "SELECT b, c, first_value(t ORDER BY t, s, k, a) FROM (SELECT *, b IS NULL AS c FROM rows) GROUP BY b, c",
];
/// Shapes that only look like it.
const OTHERS: &[&str] = &[
    "SELECT k, first_value(b ORDER BY t, a, b, s), first_value(a ORDER BY a, t, b, s) FROM rows GROUP BY k",
    "SELECT k, first_value(b ORDER BY t, a, b, s), count(*) FROM rows GROUP BY k",
    "SELECT a, first_value(b ORDER BY t, b, s, k) FROM rows GROUP BY a",
    "SELECT k, t, a, b, s FROM (SELECT *, row_number() OVER (PARTITION BY k ORDER BY t, a, b, s) AS n FROM rows)
       WHERE n = 2",
];

/// Rows with few keys and times, so that many share them, and some are whole copies.
fn rows(seed: u64, number: usize, keys: i64) -> Vec<Vec<RecordBatch>> {
    let mut random = fastrand::Rng::with_seed(seed);
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    let schema: SchemaRef = Arc::new(Schema::new(vec![
        Field::new("k", DataType::Int64, true),
        Field::new("s", DataType::Utf8, true),
        Field::new("t", time, true),
        Field::new("a", DataType::Float64, true),
        Field::new("b", DataType::Int64, true),
    ]));
    let mut partitions: Vec<Vec<RecordBatch>> = vec![Vec::new(); 3];
    let mut left = number;
    while left > 0 {
        let size = random.usize(1..=left.min(3_000));
        left -= size;
        let mut some = |range: i64, nulls: u8| -> Vec<Option<i64>> {
            (0..size).map(|_| (random.u8(..) >= nulls).then(|| random.i64(0..range))).collect()
        };
        let (k, s, t, a, b) = (some(keys, 9), some(40, 20), some(keys / 2 + 1, 30), some(5, 30), some(8, 30));
        let text = |s: &Option<i64>| s.map(|s| format!("{}{s}", if s % 2 == 0 { "Text that is long " } else { "x" }));
        let batch = RecordBatch::try_new(
            Arc::clone(&schema),
            vec![
                Arc::new(Int64Array::from(k)),
                Arc::new(s.iter().map(text).collect::<StringArray>()),
                Arc::new(TimestampMicrosecondArray::from(t)),
                Arc::new(a.iter().map(|a| a.map(|a| a as f64 / 2.0 - 1.0)).collect::<Float64Array>()),
                Arc::new(Int64Array::from(b)),
            ],
        );
        partitions[random.usize(0..3)].push(batch.expect("rows"));
    }
    partitions
}

fn state(memory: usize) -> SessionState {
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(FairSpillPool::new(memory))).build_arc();
    let state = session_state();
    let config = state.config().clone().with_target_partitions(3);
    SessionStateBuilder::new_from_existing(state).with_config(config).with_runtime_env(runtime.expect("runs")).build()
}

/// The rows of an answer as text, in order, and how often the first rows spilled; `None` when the operator was not used.
fn answer(sql: &str, partitions: &[Vec<RecordBatch>], memory: usize, ours: bool) -> (Vec<String>, Option<usize>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build();
    runtime.expect("a runtime").block_on(async {
        let state = state(memory);
        let context = SessionContext::new_with_state(state.clone());
        let schema = partitions.iter().flatten().next().expect("a batch").schema();
        let table = MemTable::try_new(schema, partitions.to_vec()).expect("a table");
        context.register_table("rows", Arc::new(table)).expect("registers");
        let plan = context.state().create_logical_plan(sql).await.expect("plans");
        let plan = state.optimize(&plan).expect("optimises");
        let plan = if ours { firsts(plan).expect("rewrites") } else { plan };
        let planner = DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(FirstPlanner)]);
        let plan = planner.create_physical_plan(&plan, &state).await.expect("plans");
        let batches = collect(Arc::clone(&plan), Arc::new(TaskContext::from(&state))).await.expect("runs");
        let options = FormatOptions::default().with_null("NULL");
        let mut lines = Vec::new();
        for batch in &batches {
            let columns = batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options));
            let columns: Vec<_> = columns.collect::<Result<_, _>>().expect("shows");
            let line = |row| columns.iter().map(|c| c.value(row).to_string()).collect::<Vec<_>>().join("|");
            lines.extend((0..batch.num_rows()).map(line));
        }
        lines.sort();
        (lines, spills(plan.as_ref()))
    })
}

fn spills(plan: &dyn ExecutionPlan) -> Option<usize> {
    if plan.name() == "FirstExec" {
        return plan.metrics().and_then(|metrics| metrics.spill_count());
    }
    plan.children().into_iter().find_map(|child| spills(child.as_ref()))
}

#[test]
fn the_first_rows_are_those_of_the_plan_that_sorts() {
    for (seed, number, keys) in [(1, 1, 3), (2, 500, 20), (3, 20_000, 4), (4, 60_000, 40_000)] {
        let rows = rows(seed, number, keys);
        for sql in QUERIES {
            let (expected, none) = answer(sql, &rows, usize::MAX / 2, false);
            assert!(none.is_none(), "DataFusion has no such operator");
            let (got, spilled) = answer(sql, &rows, usize::MAX / 2, true);
            assert_eq!(spilled, Some(0), "it was recognised and had room: {sql}");
            assert!(got == expected, "seed {seed}: {sql}");
        }
    }
}

#[test]
fn what_does_not_fit_goes_to_files_and_changes_no_answer() {
    let rows = rows(5, 60_000, 40_000);
    let mut files = 0;
    for sql in QUERIES {
        let (expected, _) = answer(sql, &rows, usize::MAX / 2, false);
        for memory in [6 << 20, 2 << 20, 60 << 10] {
            let (got, spilled) = answer(sql, &rows, memory, true);
            assert!(got == expected, "in {memory} bytes: {sql}");
            files += spilled.unwrap_or(0);
        }
    }
    assert!(files > 1_000, "{files} files");
}

#[test]
fn rows_that_lost_make_room_before_any_file_is_written() {
    // Four keys and few times: what stays of each batch is little.
    let rows = rows(6, 60_000, 4);
    let sql = QUERIES[0];
    let (got, spilled) = answer(sql, &rows, 6 << 20, true);
    assert_eq!(got, answer(sql, &rows, usize::MAX / 2, false).0);
    assert_eq!(spilled, Some(0));
}

#[test]
fn other_choices_are_left_to_datafusion() {
    let rows = rows(7, 300, 10);
    for sql in OTHERS {
        let (got, ours) = answer(sql, &rows, usize::MAX / 2, true);
        assert_eq!(ours, None, "{sql}");
        assert_eq!(got, answer(sql, &rows, usize::MAX / 2, false).0);
    }
}
