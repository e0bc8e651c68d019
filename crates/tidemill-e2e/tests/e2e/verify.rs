//! `tidemill verify` as its user meets it: what is refused, what is equal, and a tampered target told by its key.
//!
//! **Invariant:** the real binary in a project of its own; that equal runs are called equal is checked by every case of the
//! agreement tests too.

use std::path::{Path, PathBuf};

use tidemill_testkit::ProjectFolder;

use crate::binary::{self, Ran};

const SALES: &str = "CREATE PIPELINE sales WITH (trigger = 'once');
CREATE TABLE orders (id BIGINT NOT NULL, amount DECIMAL(12, 2), region VARCHAR, at TIMESTAMP,
    WATERMARK FOR at AS at - INTERVAL '1 second')
  WITH (connector = 'files', path = 'in/', format = 'json');
CREATE TABLE kept (id BIGINT, amount DECIMAL(12, 2)) WITH (connector = 'files', path = 'kept', format = 'json');
CREATE TABLE minutes (window_start TIMESTAMP, region VARCHAR, n BIGINT, revenue DECIMAL(38, 2))
  WITH (connector = 'files', path = 'minutes', format = 'json');
CREATE TABLE newest (id BIGINT, amount DECIMAL(12, 2), at TIMESTAMP, PRIMARY KEY (id))
  WITH (connector = 'delta', path = 'lake/newest', write = 'upsert');
CREATE TABLE nowhere (id BIGINT) WITH (connector = 'blackhole');
INSERT INTO kept SELECT id, amount FROM orders;
INSERT INTO minutes SELECT window_start, region, count(*), sum(amount)
  FROM TUMBLE(orders, at, INTERVAL '1 minute') GROUP BY window_start, window_end, region;
INSERT INTO newest SELECT id, amount, at FROM orders;
INSERT INTO nowhere SELECT id FROM orders;
CREATE MATERIALIZED VIEW by_minute AS SELECT window_start, region, count(*) AS n, sum(amount) AS revenue
  FROM TUMBLE(orders, at, INTERVAL '1 minute') GROUP BY window_start, window_end, region;
CREATE MATERIALIZED VIEW total AS SELECT count(*) AS n, sum(amount) AS revenue FROM orders;
";

fn row(id: u32, amount: &str, region: &str, at: &str) -> String {
    format!("{{\"id\":{id},\"amount\":{amount},\"region\":\"{region}\",\"at\":\"2026-01-01T{at}Z\"}}\n")
}

fn sales() -> ProjectFolder {
    let project = ProjectFolder::new("[engine]\nlanes = 2\n").expect("a folder");
    project.write("pipelines/sales.sql", SALES).expect("a pipeline");
    let rows = [
        row(1, "12.50", "eu", "00:00:10"),
        row(2, "7.25", "us", "00:00:20"),
        row(1, "13.00", "eu", "00:01:10"),
        row(3, "1.00", "eu", "00:02:30"),
    ];
    project.write("in/a.jsonl", rows.concat()).expect("rows");
    project
}

fn ran(project: &ProjectFolder, words: &[&str]) -> Ran {
    binary::run(project.path(), words)
}

/// The JSON that a command answers, which must succeed.
fn ran_json(project: &ProjectFolder, words: &[&str]) -> serde_json::Value {
    let ran = ran(project, &[words, &["--format", "json"]].concat());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    ran.json()
}

/// The only file in a folder that holds this text.
fn file_with(folder: &Path, text: &str) -> PathBuf {
    let mut found = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else if String::from_utf8_lossy(&std::fs::read(&path).expect("a file")).contains(text) {
                found.push(path);
            }
        }
    }
    assert_eq!(found.len(), 1, "{text} is in {found:?}");
    found.remove(0)
}

#[test]
fn what_cannot_be_verified_is_told_with_what_to_do() {
    let project = sales();
    let told = |code: i32, parts: &[&str]| {
        let ran = ran(&project, &["verify", "sales"]);
        assert_eq!(ran.code, Some(code), "{ran:?}");
        assert!(parts.iter().all(|part| ran.err.contains(part)), "{parts:?}: {ran:?}");
    };
    assert_eq!(ran(&project, &["verify", "sale"]).code, Some(2));
    assert_eq!(ran(&project, &["verify"]).code, Some(2));
    told(1, &["C056", "`sales` has never run", "tidemill run sales --trigger once"]);
    assert_eq!(ran(&project, &["run", "sales"]).code, Some(0));
    assert_eq!(ran(&project, &["verify", "sales"]).code, Some(0));
    project.write("in/b.jsonl", row(4, "2.00", "us", "00:03:00")).expect("rows");
    told(1, &["C058", "has not read all of `orders`", "tidemill run sales --trigger once"]);
    assert_eq!(ran(&project, &["run", "sales"]).code, Some(0));
    assert_eq!(ran(&project, &["verify", "sales"]).code, Some(0));
    project
        .write(
            "pipelines/sales.sql",
            SALES.replace("sum(amount) AS revenue FROM orders", "max(amount) AS revenue FROM orders"),
        )
        .expect("a pipeline");
    told(1, &["P191", "computed by another query"]);
}

#[test]
fn what_is_equal_is_said_to_be_and_a_tampered_row_is_told_by_its_key() {
    let project = sales();
    assert_eq!(ran(&project, &["run", "sales"]).code, Some(0));
    let equal = ran(&project, &["verify", "sales"]);
    assert_eq!(equal.code, Some(0), "{equal:?}");
    assert!(equal.out.contains("rows are equal.") && equal.out.contains("nowhere was not compared"), "{equal:?}");
    let json = ran(&project, &["verify", "sales", "--format", "json"]).json();
    assert_eq!((&json["equal"], json["differences"].as_u64()), (&serde_json::json!(true), Some(0)), "{json:#}");
    let verdicts: Vec<&str> =
        json["targets"].as_array().expect("targets").iter().filter_map(|t| t["verdict"].as_str()).collect();
    assert_eq!(verdicts, ["equal", "equal", "equal", "equal", "equal", "not compared"]);
    // The last minute is open, so that the table has it not yet, and the view has.
    assert_eq!((&json["targets"][0]["rows"]["stream"], &json["targets"][3]["rows"]["stream"]), (&4.into(), &3.into()));

    let written = file_with(&project.join("minutes"), "7.25");
    let text = std::fs::read_to_string(&written).expect("lines");
    std::fs::write(&written, text.replace("7.25", "8.25")).expect("writes");
    let stored = file_with(&project.join("kept"), "13.00");
    let text = std::fs::read_to_string(&stored).expect("lines");
    let fewer: String = text.lines().filter(|line| !line.contains("13.00")).map(|line| format!("{line}\n")).collect();
    std::fs::write(&stored, fewer + "{\"id\":9,\"amount\":0.01}\n").expect("writes");

    let differs = ran(&project, &["verify", "sales"]);
    assert_eq!(differs.code, Some(1), "{differs:?}");
    assert!(differs.out.contains("x 3 of") && differs.out.contains("only in the stream"), "{differs:?}");
    let json = ran(&project, &["verify", "sales", "--format", "json"]).json();
    let minutes = &json["targets"][3];
    assert_eq!((&minutes["target"], &minutes["verdict"]), (&"minutes".into(), &"differs".into()), "{json:#}");
    let shown = &minutes["shown"][0];
    assert_eq!(shown["what"], "differs");
    assert_eq!(shown["key"], serde_json::json!({"window_start": "2026-01-01 00:00:00", "region": "us"}));
    assert_eq!(shown["values"], serde_json::json!({"revenue": {"stream": "8.25", "recomputed": "7.25"}}));
    let kept = &json["targets"][2]["rows"];
    assert_eq!((&kept["only_stream"], &kept["only_recomputed"]), (&1.into(), &1.into()), "{json:#}");
}

#[test]
fn late_rows_make_drift_of_what_differs() {
    let project = sales();
    assert_eq!(ran(&project, &["run", "sales"]).code, Some(0));
    let late = row(5, "100.00", "us", "00:00:30") + &row(6, "1.00", "us", "00:05:00");
    project.write("in/b.jsonl", late).expect("rows");
    assert_eq!(ran(&project, &["run", "sales"]).code, Some(0));
    let verified = ran(&project, &["verify", "sales", "--format", "json"]);
    assert_eq!(verified.code, Some(1), "{verified:?}");
    let json = verified.json();
    assert_eq!(json["targets"][0]["verdict"], "drift", "{json:#}");
    let shown = &json["targets"][0]["shown"][0];
    assert_eq!(shown["values"]["n"], serde_json::json!({"stream": "1", "recomputed": "2"}), "{json:#}");
    assert!(json["rows_late"].as_u64() >= Some(1), "{json:#}");
    let watermarks = ran_json(&project, &["watermarks", "sales"]);
    let source = &watermarks[0]["sources"][0];
    assert_eq!((&source["source"], &source["watermark"]), (&"orders".into(), &"2026-01-01T00:04:59Z".into()));
    assert_eq!(source["splits"][1]["state"], "finished", "{watermarks:#}");
    let by_step = serde_json::json!({"by_minute.partial": 1, "minutes.partial": 1});
    assert_eq!(watermarks[0]["late_by_step"], by_step, "{watermarks:#}");
    let late = ran_json(&project, &["query", "SELECT step, window_start, windows, row, epoch FROM minutes.late"]);
    assert_eq!(late[0]["step"], "minutes.partial", "{late:#}");
    assert_eq!(
        (&late[0]["window_start"], &late[0]["windows"]),
        (&"2026-01-01T00:00:00Z".into(), &1.into()),
        "{late:#}"
    );
    assert!(
        late[0]["row"].as_str().is_some_and(|row| row.contains("100.00"))
            && late.as_array().is_some_and(|all| all.len() == 1)
    );
    assert_eq!(ran_json(&project, &["query", "SELECT * FROM kept.late"]), serde_json::json!([]));
    assert_eq!(json["targets"][2]["verdict"], "equal", "nothing is late on its way to a table row by row: {json:#}");
}

#[test]
fn late_rows_can_be_dropped_and_are_counted() {
    let project = sales();
    project
        .write("pipelines/sales.sql", SALES.replace("trigger = 'once'", "trigger = 'once', late = 'drop'"))
        .expect("a pipeline");
    assert_eq!(ran(&project, &["run", "sales"]).code, Some(0));
    project.write("in/b.jsonl", row(5, "100.00", "us", "00:00:30")).expect("rows");
    assert_eq!(ran(&project, &["run", "sales"]).code, Some(0));
    assert_eq!(ran_json(&project, &["query", "SELECT * FROM minutes.late"]), serde_json::json!([]));
    assert_eq!(ran_json(&project, &["watermarks", "sales"])[0]["rows_late"], 2);
    let told = ran(&project, &["watermarks"]);
    assert!(told.out.contains("nowhere: late = 'drop'"), "{told:?}");
    assert_eq!(ran(&project, &["watermarks", "sale"]).code, Some(2));
}
