//! What was given out as final stays so: rows that come late after a restart change nothing, on any number of lanes.
//!
//! **Invariant:** each run is a process of its own, so that every file meets lanes that have just begun.

use tidemill_testkit::ProjectFolder;

use crate::binary;

const TABLES: &str = "CREATE PIPELINE p WITH (trigger = 'once');
CREATE TABLE e (id BIGINT, k VARCHAR, v BIGINT, at TIMESTAMP, WATERMARK FOR at AS at - INTERVAL '10 seconds')
  WITH (connector = 'files', path = 'in', format = 'json');
CREATE MATERIALIZED VIEW q AS ";

/// A row on time, one that closes its window, and three that come late, each in a run of its own.
const FILES: [(i64, &str, i64, i64); 5] =
    [(1, "a", 1, 1), (2, "z", 1, 100), (10, "a", 5, 2), (11, "a", 6, 2), (12, "a", 7, 2)];

/// Queries whose lateness is judged behind an exchange, and the values of `a` that they give out.
const QUERIES: [&str; 5] = [
    "SELECT DISTINCT ON (k, window_start) k, window_start, v FROM TUMBLE(e, at, INTERVAL '10 seconds') ORDER BY k, window_start, v DESC",
    "SELECT k, window_start, first_value(v) AS v FROM TUMBLE(e, at, INTERVAL '10 seconds') GROUP BY k, window_start, window_end",
    "SELECT k, window_start, v FROM (SELECT *, row_number() OVER (PARTITION BY window_start, k ORDER BY v DESC) AS r FROM TUMBLE(e, at, INTERVAL '10 seconds')) WHERE r = 1",
    "SELECT k, at, count(*) OVER (PARTITION BY k ORDER BY at RANGE BETWEEN INTERVAL '6 seconds' PRECEDING AND CURRENT ROW) AS v FROM e",
    "SELECT k, window_start, count(*) AS v FROM SESSION(e, at, INTERVAL '10 seconds', PARTITION BY k) GROUP BY k, window_start, window_end",
];

#[test]
fn rows_that_come_late_after_a_restart_change_nothing_that_was_given_out() {
    for query in QUERIES {
        for lanes in ["2", "3"] {
            let project = ProjectFolder::new("").expect("a folder");
            project.write("pipelines/p.sql", format!("{TABLES}{query};\n")).expect("a pipeline");
            for (id, k, v, second) in FILES {
                let (minute, second) = (second / 60, second % 60);
                let row = format!(
                    "{{\"id\":{id},\"k\":\"{k}\",\"v\":{v},\"at\":\"2026-01-01T00:{minute:02}:{second:02}Z\"}}\n"
                );
                project.write(&format!("in/{id:02}.jsonl"), &row).expect("rows");
                let ran = binary::run(project.path(), &["run", "p", "--lanes", lanes]);
                assert_eq!(ran.code, Some(0), "{query}\n{}", ran.err);
            }
            let asked = ["query", "SELECT v FROM q WHERE k = 'a'", "--format", "json"];
            let given = binary::run(project.path(), &asked).json();
            assert_eq!(given, serde_json::json!([{ "v": 1 }]), "{query} on {lanes} lanes");
            let status = binary::run(project.path(), &["status", "p", "--format", "json"]).json();
            assert!(status.to_string().contains("\"rows_late\":3"), "{query} on {lanes} lanes: {status}");
        }
    }
}
