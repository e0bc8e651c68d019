//! Gates over batches: which rows pass, what the others are told.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{Int64Type, SchemaRef};
use tidemill_model::{Kind, Result, Timestamp};
use tidemill_runtime::{Accepted, Batch, Gate};

use super::GateRules;
use crate::catalog::Changes;
use crate::language::{Config, Project, Script};
use crate::session::{accepted_schema, session_state};

const COLUMNS: &str = "id BIGINT NOT NULL, amount BIGINT, note VARCHAR, at TIMESTAMP,
    WATERMARK FOR at AS at - INTERVAL '1 second'";

/// The gate of a table with these further clauses that lets `wanted` through, and what it decodes.
fn gate(clauses: &str, start: Option<i64>, wanted: &[&str]) -> Result<(Box<dyn Gate>, SchemaRef)> {
    let sql = format!("CREATE TABLE t ({COLUMNS}{clauses}) WITH (connector = 'c')");
    let root = PathBuf::from("/shop");
    let project = Project::parse(root.clone(), Config::parse(&root, "", &|_| None)?, &[Script::new("t.sql", sql)])?;
    let (dataset, state) = (&project.datasets["t"], session_state());
    let rules = GateRules::new(&project, &state, dataset, &dataset.schema, start.map(Timestamp))?;
    let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
    let decoded = rules.decoded(&wanted);
    let accepted = accepted_schema(dataset, &dataset.schema);
    let kept = accepted.fields().iter().filter(|field| wanted.contains(field.name())).cloned().collect::<Vec<_>>();
    let accepted = Arc::new(arrow::datatypes::Schema::new(kept));
    Ok((rules.gate(&state, &decoded, &accepted)?, decoded))
}

type Row = (Option<i64>, Option<i64>, Option<&'static str>, Option<i64>);

fn batch(decoded: &SchemaRef, rows: &[Row]) -> RecordBatch {
    let of = |name: &str| -> ArrayRef {
        match name {
            "id" => Arc::new(rows.iter().map(|row| row.0).collect::<Int64Array>()),
            "amount" => Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>()),
            "note" => Arc::new(rows.iter().map(|row| row.2).collect::<StringArray>()),
            _ => Arc::new(rows.iter().map(|row| row.3).collect::<TimestampMicrosecondArray>()),
        }
    };
    let columns = decoded.fields().iter().map(|field| of(field.name())).collect();
    RecordBatch::try_new(Arc::clone(decoded), columns).expect("a batch")
}

fn ids(accepted: &Accepted) -> Vec<i64> {
    accepted.batch.rows.column_by_name("id").expect("ids").as_primitive::<Int64Type>().values().to_vec()
}

fn dead(accepted: &Accepted) -> Vec<(u32, &str, &str)> {
    accepted.dead.iter().map(|(row, reason, detail)| (*row, reason.as_str(), detail.as_str())).collect()
}

const AMOUNT: &str = ", CONSTRAINT amount_not_positive CHECK (amount > 0)";

#[test]
fn a_row_has_one_fate() {
    let (mut gate, decoded) = gate(AMOUNT, Some(10), &["id"]).expect("a gate");
    let rows = [
        (Some(1), Some(5), None, Some(10)),
        (None, Some(-5), None, None),
        (Some(3), Some(-5), None, None),
        (Some(4), None, None, None),
        (Some(5), None, None, Some(9)),
        (Some(6), None, None, Some(30)),
        (Some(7), Some(0), None, Some(99)),
    ];
    let accepted = gate.accept(Batch::inserts(batch(&decoded, &rows))).expect("accepts");
    assert_eq!(ids(&accepted), [1, 6]);
    assert_eq!(
        dead(&accepted),
        [
            (1, "id null", "id is NULL, declared NOT NULL"),
            (2, "amount not positive", "amount = -5; CHECK (amount > 0)"),
            (3, "no event time", "at is NULL"),
            (6, "amount not positive", "amount = 0; CHECK (amount > 0)"),
        ]
    );
    assert_eq!((accepted.newest, accepted.before_start), (Some(30), 1));
    assert_eq!(accepted.batch.rows.num_columns(), 1, "what only the gate needed is left out");
}

#[test]
fn good_rows_pass_uncopied() {
    let (mut gate, decoded) = gate(AMOUNT, None, &["id", "note"]).expect("a gate");
    let rows = batch(&decoded, &[(Some(1), Some(1), Some("a"), Some(7)), (Some(2), None, None, Some(5))]);
    let before = rows.column_by_name("note").expect("notes").clone();
    let accepted = gate.accept(Batch::inserts(rows)).expect("accepts");
    assert!(Arc::ptr_eq(&before, accepted.batch.rows.column_by_name("note").expect("notes")));
    assert_eq!((accepted.newest, accepted.dead.len()), (Some(7), 0));
}

#[test]
fn policies_differ() {
    let rows = [(Some(1), Some(-1), None, Some(1)), (Some(2), Some(2), None, Some(2))];
    let run = |policy: &str| {
        let check = format!(", CONSTRAINT pos CHECK (amount > 0) ON VIOLATION {policy}");
        let (mut gate, decoded) = gate(&check, None, &["id"]).expect("a gate");
        gate.accept(Batch::inserts(batch(&decoded, &rows)))
    };
    let dropped = run("DROP").expect("accepts");
    assert_eq!((ids(&dropped), dropped.dropped, dropped.dead.len()), (vec![2], 1, 0));
    let warned = run("WARN").expect("accepts");
    assert_eq!((ids(&warned), warned.warned, warned.dead.len()), (vec![1, 2], 1, 0));
    let failed = run("FAIL").expect_err("fails");
    assert_eq!((failed.kind(), failed.message()), (Kind::Data, "`t`: pos"));
    assert_eq!(failed.facts()[0], "amount = -1; CHECK (amount > 0)");
}

#[test]
fn a_condition_that_fails_refuses_its_row_alone() {
    let checks = ", CHECK (100 / amount > 1), CONSTRAINT number CHECK (CAST(note AS BIGINT) > 0)";
    let (mut gate, decoded) = gate(checks, None, &["id"]).expect("a gate");
    let rows = [
        (Some(1), Some(10), Some("5"), Some(1)),
        (Some(2), Some(0), Some("5"), Some(1)),
        (Some(3), Some(10), Some("x"), Some(1)),
        (Some(4), Some(i64::MAX), None, Some(1)),
    ];
    let accepted = gate.accept(Batch::inserts(batch(&decoded, &rows))).expect("accepts");
    assert_eq!(ids(&accepted), [1]);
    let dead = dead(&accepted);
    assert_eq!(
        dead.iter().map(|(row, reason, _)| (*row, *reason)).collect::<Vec<_>>(),
        [(1, "CHECK (100 / amount > 1)"), (2, "number"), (3, "CHECK (100 / amount > 1)"),]
    );
    assert!(dead[0].2.contains("amount = 0") && dead[0].2.contains("ivide by zero"), "{}", dead[0].2);
    assert!(dead[1].2.contains("note = x") && dead[1].2.contains("cannot be evaluated"), "{}", dead[1].2);
}

#[test]
fn rows_ahead_of_the_clock_do_not_move_time() {
    let (mut gate, decoded) = gate("", None, &["id"]).expect("a gate");
    gate.set_horizon(Some((Timestamp(100), Timestamp(160))));
    let newest = |gate: &mut Box<dyn Gate>, times: &[i64]| {
        let rows: Vec<Row> = times.iter().map(|at| (Some(1), None, None, Some(*at))).collect();
        gate.accept(Batch::inserts(batch(&decoded, &rows))).expect("accepts").newest
    };
    assert_eq!(newest(&mut gate, &[50, 90]), Some(90));
    assert_eq!(newest(&mut gate, &[50, 130]), Some(100), "a little ahead counts as the present");
    assert_eq!(newest(&mut gate, &[50, 161]), Some(50), "far ahead counts as nothing");
    assert_eq!(newest(&mut gate, &[161]), None);
    gate.set_horizon(None);
    assert_eq!(newest(&mut gate, &[50, 161]), Some(161));
}

#[test]
fn conditions_are_planned_at_their_places() {
    let error = gate(", CHECK (amuont > 0)", None, &["id"]).err().expect("refused");
    assert_eq!(error.caret_label(), "did you mean `amount`?");
    assert!(error.to_string().starts_with("t.sql:2:"), "{error}");
}

/// The gate of a changelog by `id`, or by rows as they were.
fn gate_of_changes(keyed: bool) -> (Box<dyn Gate>, SchemaRef) {
    let sql = format!("CREATE TABLE t ({COLUMNS}{AMOUNT}) WITH (connector = 'c')");
    let root = PathBuf::from("/shop");
    let config = Config::parse(&root, "", &|_| None).expect("no config");
    let project = Project::parse(root.clone(), config, &[Script::new("t.sql", sql)]).expect("a project");
    let (dataset, state) = (&project.datasets["t"], session_state());
    let key = if keyed { vec!["id".to_owned()] } else { Vec::new() };
    let rules = GateRules::new(&project, &state, dataset, &dataset.schema, Some(Timestamp(10))).expect("rules");
    let rules = rules.of_changes(Some(Changes { key, deleted: None }));
    let decoded = rules.decoded(&["id".to_owned()]);
    let accepted = Arc::new(decoded.project(&[decoded.index_of("id").expect("id")]).expect("columns"));
    (rules.gate(&state, &decoded, &accepted).expect("a gate"), decoded)
}

#[test]
fn changes_are_judged_by_the_rows_that_come() {
    let rows = [
        (Some(1), Some(5), None, Some(20)),
        // Refused: CHECK, event time, start; then a key that nothing is known of.
        (Some(2), Some(-5), None, Some(90)),
        (Some(3), Some(5), None, None),
        (Some(4), Some(5), None, Some(9)),
        (None, Some(5), None, Some(90)),
        // The same taken back, and what says no more than its key.
        (Some(1), Some(5), None, Some(90)),
        (Some(2), Some(-5), None, Some(30)),
        (Some(3), None, None, None),
        (Some(4), Some(5), None, Some(9)),
        (None, None, None, None),
    ];
    let weights = Int64Array::from(vec![1, 1, 1, 1, 1, -1, -1, -1, -1, -1]);
    let judged = |keyed: bool| {
        let (mut gate, decoded) = gate_of_changes(keyed);
        let batch = Batch { rows: batch(&decoded, &rows), weights: Some(weights.clone()) };
        let accepted = gate.accept(batch).expect("accepts");
        let weights = accepted.batch.weights.as_ref().expect("weights").values().to_vec();
        let told: Vec<(u32, String)> = accepted.dead.iter().map(|(row, reason, _)| (*row, reason.clone())).collect();
        assert_eq!((accepted.newest, accepted.before_start), (Some(20), 1));
        (ids(&accepted).into_iter().zip(weights).collect::<Vec<_>>(), told)
    };
    let letter = |row: u32, reason: &str| (row, reason.to_owned());
    let refused = [letter(1, "amount not positive"), letter(2, "no event time"), letter(4, "id null")];
    // By key what is refused takes back what stood, and a key is all that a deletion needs.
    let (passed, told) = judged(true);
    assert_eq!(passed, [(1, 1), (2, -1), (3, -1), (4, -1), (1, -1), (2, -1), (3, -1), (4, -1)]);
    assert_eq!(told, [&refused[..], &[letter(9, "id null")]].concat());
    // As rows were: what was refused when it came is not there to be taken back.
    let (passed, told) = judged(false);
    assert_eq!(passed, [(1, 1), (1, -1)]);
    assert_eq!(told, refused);
}
