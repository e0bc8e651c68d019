//! Results that change, written as changelogs and into tables by key: whoever applies the changes has the result.
//!
//! **Invariant:** each test runs the real binary in a project of its own, several times, with rows coming in between.

use std::collections::BTreeMap;

use serde_json::Value;
use tidemill_testkit::ProjectFolder;

use crate::binary;

const PIPELINE: &str = "CREATE PIPELINE p WITH (trigger = 'once', emit = 'changes');
CREATE TABLE orders (id BIGINT, region VARCHAR, amount BIGINT, at TIMESTAMP,
    WATERMARK FOR at AS at - INTERVAL '1 second') WITH (connector = 'files', path = 'in/', format = 'json');
CREATE TABLE changes (PRIMARY KEY (region)) WITH (connector = 'files', path = 'changes', format = 'debezium_json');
CREATE TABLE minutes (PRIMARY KEY (region, window_start)) WITH (connector = 'files', path = 'minutes', format = 'debezium_json');
CREATE TABLE totals (PRIMARY KEY (region)) WITH (connector = 'delta', path = 'totals', write = 'upsert');
INSERT INTO changes SELECT region, count(*) AS n, sum(amount) AS total FROM orders GROUP BY region HAVING count(*) % 3 <> 0;
INSERT INTO minutes SELECT region, window_start, count(*) AS n FROM TUMBLE(orders, at, INTERVAL '1 minute')
  GROUP BY region, window_start, window_end;
INSERT INTO totals SELECT region, count(*) AS n, sum(amount) AS total FROM orders GROUP BY region HAVING count(*) % 3 <> 0;
";

/// The rows that stand when all changes under a folder are applied in the order of their files.
fn applied(project: &ProjectFolder, folder: &str, key: &[&str]) -> BTreeMap<String, Value> {
    let mut files: Vec<_> = std::fs::read_dir(project.path().join(folder))
        .expect("the folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    let mut rows = BTreeMap::new();
    for file in files {
        for line in std::fs::read_to_string(file).expect("changes").lines() {
            let change: Value = serde_json::from_str(line).expect("a change");
            let name = |row: &Value| key.iter().map(|key| row[key].to_string()).collect::<Vec<_>>().join(" ");
            let (before, after) = (&change["before"], &change["after"]);
            if !before.is_null() {
                assert_eq!(rows.remove(&name(before)).as_ref(), Some(before), "{line} changes what stands");
            }
            match change["op"].as_str() {
                Some("c") => assert!(before.is_null() && !after.is_null(), "{line}"),
                Some("u") => assert!(!before.is_null() && !after.is_null(), "{line}"),
                Some("d") => assert!(!before.is_null() && after.is_null(), "{line}"),
                _ => panic!("{line}"),
            }
            if !after.is_null() {
                assert!(rows.insert(name(after), after.clone()).is_none(), "{line} comes once");
            }
        }
    }
    rows
}

#[test]
fn applying_the_changes_gives_the_result() {
    let project = ProjectFolder::new("[engine]\nlanes = 2\n").expect("a folder");
    project.write("pipelines/p.sql", PIPELINE).expect("a pipeline");
    let (mut counts, mut minutes) = (BTreeMap::<String, (i64, i64)>::new(), BTreeMap::<String, i64>::new());
    for round in 0..5_i64 {
        let mut lines = String::new();
        for row in 0..40 {
            let id = round * 40 + row;
            let (region, amount, second) = (["eu", "us", "asia", "africa"][(id * 7 % 4) as usize], id % 13, id % 60);
            let minute = id / 60;
            lines += &format!(
                "{{\"id\":{id},\"region\":\"{region}\",\"amount\":{amount},\"at\":\"2026-01-01T00:0{minute}:{second:02}Z\"}}\n"
            );
            let count = counts.entry(format!("\"{region}\"")).or_default();
            *count = (count.0 + 1, count.1 + amount);
            *minutes.entry(format!("\"{region}\" \"2026-01-01T00:0{minute}:00")).or_default() += 1;
        }
        project.write(&format!("in/{round}.jsonl"), &lines).expect("rows");
        let ran = binary::run(project.path(), &["run", "p"]);
        assert_eq!(ran.code, Some(0), "{}", ran.err);

        let expected: BTreeMap<String, (i64, i64)> =
            counts.iter().filter(|(_, (n, _))| n % 3 != 0).map(|(k, v)| (k.clone(), *v)).collect();
        let of = |row: &Value| (row["n"].as_i64().expect("a count"), row["total"].as_i64().expect("a total"));
        let found = applied(&project, "changes", &["region"]);
        assert_eq!(found.iter().map(|(k, row)| (k.clone(), of(row))).collect::<BTreeMap<_, _>>(), expected);
        let ran = binary::run(project.path(), &["query", "SELECT region, n, total FROM totals", "--format", "json"]);
        let rows = ran.json();
        let rows = rows.as_array().unwrap_or_else(|| panic!("{ran:?}"));
        let stored: BTreeMap<String, (i64, i64)> =
            rows.iter().map(|row| (row["region"].to_string(), of(row))).collect();
        assert_eq!(stored, expected, "round {round}");
        let open = applied(&project, "minutes", &["region", "window_start"]);
        for (key, n) in &minutes {
            let row = open.iter().find(|(found, _)| found.starts_with(key.as_str()));
            assert_eq!(row.and_then(|(_, row)| row["n"].as_i64()), Some(*n), "{key} in round {round}: {open:?}");
        }
    }
}

const CHAIN: &str = "CREATE PIPELINE first WITH (trigger = 'once');
CREATE TABLE orders (id BIGINT, customer BIGINT, amount BIGINT, at TIMESTAMP) WITH (connector = 'files', path = 'in/', format = 'json');
CREATE TABLE balances (customer BIGINT, n BIGINT, total BIGINT, PRIMARY KEY (customer))
  WITH (connector = 'log', topic = 'balances', partitions = '3', format = 'debezium_json');
INSERT INTO balances SELECT customer, count(*) AS n, sum(amount) AS total FROM orders GROUP BY customer HAVING count(*) % 4 <> 0;
";

const CHAINED: &str = "CREATE PIPELINE second WITH (trigger = 'once');
CREATE MATERIALIZED VIEW sizes AS SELECT n, count(*) AS customers, sum(total) AS total, max(total) AS most FROM balances GROUP BY n;
CREATE TABLE copy (customer BIGINT, n BIGINT, PRIMARY KEY (customer)) WITH (connector = 'delta', path = 'copy', write = 'upsert');
INSERT INTO copy SELECT customer, n FROM balances WHERE n > 2;
";

#[test]
fn a_pipeline_follows_the_changes_of_another_through_a_topic() {
    let project = ProjectFolder::new("[engine]\nlanes = 2\n").expect("a folder");
    project.write("pipelines/first.sql", CHAIN).expect("a pipeline");
    project.write("pipelines/second.sql", CHAINED).expect("a pipeline");
    let mut balances = BTreeMap::<i64, (i64, i64)>::new();
    for round in 0..5_i64 {
        let mut lines = String::new();
        for id in round * 60..(round + 1) * 60 {
            let (customer, amount) = (id * 7 % 31 % (10 + round), id % 13);
            lines += &format!(
                "{{\"id\":{id},\"customer\":{customer},\"amount\":{amount},\"at\":\"2026-01-01T00:00:00Z\"}}\n"
            );
            let balance = balances.entry(customer).or_default();
            *balance = (balance.0 + 1, balance.1 + amount);
        }
        project.write(&format!("in/{round}.jsonl"), &lines).expect("rows");
        for pipeline in ["first", "second"] {
            let ran = binary::run(project.path(), &["run", pipeline]);
            assert_eq!(ran.code, Some(0), "{}", ran.err);
        }
        let standing: BTreeMap<i64, (i64, i64)> =
            balances.iter().filter(|(_, (n, _))| n % 4 != 0).map(|(k, v)| (*k, *v)).collect();
        let mut sizes = BTreeMap::<i64, (i64, i64, i64)>::new();
        for (n, total) in standing.values() {
            let size = sizes.entry(*n).or_insert((0, 0, i64::MIN));
            *size = (size.0 + 1, size.1 + total, size.2.max(*total));
        }
        let asked = |sql: &str| {
            let ran = binary::run(project.path(), &["query", sql, "--format", "json"]);
            ran.json().as_array().unwrap_or_else(|| panic!("{ran:?}")).clone()
        };
        let number = |row: &Value, name: &str| row[name].as_i64().unwrap_or_else(|| panic!("{name} in {row}"));
        let found: BTreeMap<i64, (i64, i64)> = asked("SELECT customer, n, total FROM balances")
            .iter()
            .map(|row| (number(row, "customer"), (number(row, "n"), number(row, "total"))))
            .collect();
        assert_eq!(found, standing, "the topic as a table, round {round}");
        let found: BTreeMap<i64, (i64, i64, i64)> = asked("SELECT n, customers, total, most FROM sizes")
            .iter()
            .map(|row| (number(row, "n"), (number(row, "customers"), number(row, "total"), number(row, "most"))))
            .collect();
        assert_eq!(found, sizes, "the view, round {round}");
        let found: BTreeMap<i64, i64> = asked("SELECT customer, n FROM copy")
            .iter()
            .map(|row| (number(row, "customer"), number(row, "n")))
            .collect();
        let expected: BTreeMap<i64, i64> =
            standing.iter().filter(|(_, (n, _))| *n > 2).map(|(customer, (n, _))| (*customer, *n)).collect();
        assert_eq!(found, expected, "the table, round {round}");
        for pipeline in ["first", "second"] {
            let verified = binary::run(project.path(), &["verify", pipeline]);
            assert_eq!(verified.code, Some(0), "{} {}", verified.out, verified.err);
        }
    }
}

const CORRECTED: &str = "CREATE PIPELINE p WITH (trigger = 'once', allowed_lateness = '2 minutes');
CREATE TABLE orders (id BIGINT, region VARCHAR, at TIMESTAMP,
    WATERMARK FOR at AS at - INTERVAL '1 second') WITH (connector = 'files', path = 'in/', format = 'json');
CREATE TABLE minutes (PRIMARY KEY (region, window_start)) WITH (connector = 'files', path = 'minutes', format = 'debezium_json');
CREATE TABLE kept (PRIMARY KEY (region, window_start)) WITH (connector = 'delta', path = 'kept', write = 'upsert');
CREATE TABLE best (window_start TIMESTAMP, id BIGINT) WITH (connector = 'files', path = 'best', format = 'json');
CREATE VIEW counted AS SELECT region, window_start, count(*) AS n FROM TUMBLE(orders, at, INTERVAL '1 minute')
  GROUP BY region, window_start, window_end;
INSERT INTO minutes SELECT * FROM counted;
INSERT INTO kept SELECT * FROM counted;
INSERT INTO best SELECT window_start, id FROM (
  SELECT *, row_number() OVER (PARTITION BY window_start ORDER BY id DESC) AS place FROM TUMBLE(orders, at, INTERVAL '1 minute')
) WHERE place = 1;
CREATE MATERIALIZED VIEW shown AS SELECT * FROM counted;
";

/// Each round is a process of its own, so that windows are corrected after a restart.
#[test]
fn late_rows_correct_what_was_given_out() {
    let project = ProjectFolder::new("[engine]\nlanes = 2\n").expect("a folder");
    project.write("pipelines/p.sql", CORRECTED).expect("a pipeline");
    // Times of new rows, what is closed after them by minute, what is final of the best, and how many were late so far.
    let rounds: [(&[&str], &[i64], usize, usize); 5] = [
        (&["00:10", "01:05", "02:30"], &[1, 1], 0, 0),
        (&["00:50"], &[2, 1], 0, 0),
        (&["03:30"], &[2, 1, 1], 1, 0),
        (&["00:55", "01:30"], &[2, 2, 1], 1, 1),
        (&["09:00"], &[2, 2, 1, 1], 4, 1),
    ];
    let mut id = 0;
    for (round, (times, closed, best, late)) in rounds.into_iter().enumerate() {
        let mut lines = String::new();
        for time in times {
            id += 1;
            lines += &format!("{{\"id\":{id},\"region\":\"eu\",\"at\":\"2026-01-01T00:{time}Z\"}}\n");
        }
        project.write(&format!("in/{round}.jsonl"), &lines).expect("rows");
        let ran = binary::run(project.path(), &["run", "p"]);
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        let counts = |rows: Vec<&Value>| -> Vec<i64> { rows.iter().filter_map(|row| row["n"].as_i64()).collect() };
        let applied = applied(&project, "minutes", &["region", "window_start"]);
        assert_eq!(counts(applied.values().collect()), closed, "round {round}");
        let query = |sql: &str| binary::run(project.path(), &["query", sql, "--format", "json"]).json();
        let rows = |sql: &str| query(sql).as_array().cloned().unwrap_or_default();
        let kept = rows("SELECT n FROM kept ORDER BY window_start");
        assert_eq!(counts(kept.iter().collect()), closed, "round {round}");
        // A view shows the open window too.
        let shown = rows("SELECT n FROM shown ORDER BY window_start");
        assert_eq!(counts(shown.iter().take(closed.len()).collect()), closed, "round {round}");
        assert_eq!(shown.len(), closed.len() + 1, "round {round}");
        if round >= 2 {
            // What waits longer is given out once: the greatest id of each window that is final.
            assert_eq!(rows("SELECT id FROM best").len(), best, "round {round}");
        }
        for table in ["minutes", "kept", "shown", "best"] {
            let found = rows(&format!("SELECT step, row, window_start, watermark FROM {table}.late"));
            assert_eq!(found.len(), late, "{table}.late in round {round}: {found:?}");
        }
        if late == 0 {
            let verified = binary::run(project.path(), &["verify", "p"]);
            assert_eq!(verified.code, Some(0), "round {round}: {verified:?}");
        }
    }
    let found =
        binary::run(project.path(), &["query", "SELECT id FROM best ORDER BY window_start", "--format", "json"]);
    let ids: Vec<i64> = found.json().as_array().expect("rows").iter().filter_map(|row| row["id"].as_i64()).collect();
    assert_eq!(ids, [4, 7, 3, 5]);
    let watermarks = binary::run(project.path(), &["watermarks", "p"]);
    assert!(watermarks.out.contains("best.late") && !watermarks.out.contains("counted only"), "{watermarks:?}");
}

const WRITTEN: &str = "CREATE PIPELINE first WITH (trigger = 'once');
CREATE TABLE rows (id BIGINT, amount BIGINT, at TIMESTAMP) WITH (connector = 'files', path = 'in/', format = 'json');
CREATE TABLE orders (id BIGINT, amount BIGINT, at TIMESTAMP, PRIMARY KEY (id), WATERMARK FOR at AS at - INTERVAL '1 second')
  WITH (connector = 'log', topic = 'orders', partitions = '1', format = 'debezium_json');
INSERT INTO orders SELECT id, amount, at FROM rows;
";

const HELD: &str = "CREATE PIPELINE second WITH (trigger = 'once', allowed_lateness = '2 minutes');
CREATE TABLE most (window_start TIMESTAMP, most BIGINT) WITH (connector = 'files', path = 'most', format = 'json');
INSERT INTO most SELECT window_start, max(amount) AS most FROM TUMBLE(orders, at, INTERVAL '1 minute') GROUP BY window_start;
";

/// Windows over changes whose rows are held are given out when they are final, and `verify` asks for no others.
#[test]
fn windows_of_held_changes_are_verified_when_they_are_final() {
    let project = ProjectFolder::new("[engine]\nlanes = 2\n").expect("a folder");
    project.write("pipelines/first.sql", WRITTEN).expect("a pipeline");
    project.write("pipelines/second.sql", HELD).expect("a pipeline");
    let mut id = 0;
    // After the first round a window is closed but not final.
    for (round, (times, written)) in
        [(["00:10", "01:05", "02:30"], 0), (["03:30", "03:40", "05:00"], 2)].iter().enumerate()
    {
        let mut lines = String::new();
        for time in times {
            id += 1;
            lines += &format!("{{\"id\":{id},\"amount\":{},\"at\":\"2026-01-01T00:{time}Z\"}}\n", 10 * id);
        }
        project.write(&format!("in/{round}.jsonl"), &lines).expect("rows");
        for pipeline in ["first", "second"] {
            let ran = binary::run(project.path(), &["run", pipeline]);
            assert_eq!(ran.code, Some(0), "{}", ran.err);
        }
        let told = binary::run(project.path(), &["query", "SELECT count(*) AS n FROM most", "--format", "json"]);
        assert_eq!(told.json()[0]["n"].as_i64(), Some(*written), "round {round}: {told:?}");
        let verified = binary::run(project.path(), &["verify", "second"]);
        assert_eq!(verified.code, Some(0), "round {round}: {} {}", verified.out, verified.err);
        assert!(verified.out.contains("windows closed by"), "it was compared: {}", verified.out);
    }
}
