//! `emit_every`: changes that are held back on their way to a sink.

use tidemill_model::Timestamp;
use tidemill_runtime::{Batch, EpochEnd};

use super::*;

const TOTALS: &str =
    "SELECT region, count(*) AS n, sum(amount) AS s FROM orders WHERE region IS NOT NULL GROUP BY region";

fn text() -> String {
    let tables = TABLES.replace("trigger = 'continuous'", "trigger = 'continuous', emit_every = '10 seconds'");
    format!(
        "{tables} CREATE TABLE kept (PRIMARY KEY (region)) WITH (connector = 'shelf', write = 'upsert');
         INSERT INTO kept {TOTALS};"
    )
}

fn apply(standing: &mut BTreeMap<String, i64>, batches: &[Batch]) {
    for batch in batches {
        for row in 0..batch.len() {
            let line = lines(&[batch.rows.slice(row, 1)]).remove(0);
            *standing.entry(line).or_default() += batch.weights.as_ref().map_or(1, |weights| weights.value(row));
        }
    }
    standing.retain(|_, weight| *weight != 0);
    assert!(standing.values().all(|weight| *weight == 1), "what is taken back was there: {standing:?}");
}

fn end(second: i64, last: bool) -> EpochEnd {
    EpochEnd { at: Timestamp(second * 1_000_000), last }
}

/// An epoch a second, each with new rows; a restart after some of them.
#[test]
fn a_key_changes_once_in_the_time_and_the_last_change_goes_out() {
    let orders = orders(9, 600);
    for restarts in [false, true] {
        let plan = plan(&text(), &open()).expect("a plan");
        let mut flow = Flow::start(&plan.graph, 2, None);
        let mut standing = BTreeMap::new();
        let mut went_out = Vec::new();
        for second in 0..30_i64 {
            flow.end = end(second, second == 29);
            let from = second as usize * 20;
            flow.rows("orders", (second % 2) as usize, &orders.slice(from, 20)).expect("takes rows");
            let state = flow.barrier().expect("a barrier");
            let batches = flow.changed.remove("kept").unwrap_or_default();
            apply(&mut standing, &batches);
            if !batches.is_empty() {
                went_out.push(second);
                let whole: Vec<String> = standing.keys().cloned().collect();
                assert_eq!(whole, oracle(TOTALS, &orders.slice(0, from + 20)), "after {second} seconds");
            }
            if restarts && second % 3 == 1 {
                flow = Flow::start(&plan.graph, 2 + second as usize / 3 % 2, Some(state));
            }
        }
        assert_eq!(went_out, [0, 10, 20, 29], "restarts: {restarts}");
    }
}

#[test]
fn changes_that_take_each_other_back_leave_nothing() {
    let sql = text().replace("GROUP BY region;", "GROUP BY region HAVING count(*) % 2 = 1;");
    let plan = plan(&sql, &open()).expect("a plan");
    let mut flow = Flow::start(&plan.graph, 1, None);
    let orders = orders(9, 40);
    let regions = arrow::array::AsArray::as_string::<i32>(orders.column(4)).clone();
    let eu = some(&orders, |row| regions.iter().nth(row).flatten() == Some("eu"));
    for (second, row) in [(0, 0), (1, 1), (2, 2)] {
        flow.end = end(second, false);
        flow.rows("orders", 0, &eu.slice(row, 1)).expect("takes rows");
        flow.barrier().expect("a barrier");
    }
    // The first row made an odd group, which went out at once; the second took it back, the third made another.
    let given: usize = flow.changed.remove("kept").expect("a change").iter().map(Batch::len).sum();
    assert_eq!(given, 1);
    flow.rows("orders", 0, &eu.slice(3, 1)).expect("takes rows");
    flow.end = end(12, false);
    let state = flow.barrier().expect("a barrier");
    // Even again: the first is taken back and nothing stands.
    let batches = flow.changed.remove("kept").expect("a change");
    let weights: Vec<i64> =
        batches.iter().flat_map(|b| b.weights.as_ref().expect("weights").values().to_vec()).collect();
    assert_eq!(weights, [-1]);
    // Nothing is held any more, and what is stored says so.
    assert!(state["kept.thin"].keys().all(|name| !name.contains("held")), "{:?}", state["kept.thin"].keys());
    let flow = Flow::start(&plan.graph, 1, Some(state));
    assert_eq!(flow.due("kept.thin"), None);
}

#[test]
fn what_changes_nothing_is_told_to_have_no_effect() {
    let tables = TABLES.replace(
        "trigger = 'continuous'",
        "trigger = 'continuous', emit_every = '10 seconds', allowed_lateness = '1 hour'",
    );
    let plan = plan(&format!("{tables} INSERT INTO out SELECT id FROM orders;"), &open()).expect("a plan");
    let told = plan.notes.join("\n");
    assert!(told.contains("emit_every has no effect") && told.contains("allowed_lateness has no effect"), "{told}");
}
