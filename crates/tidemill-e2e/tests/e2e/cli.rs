//! The command line as its user meets it: exit codes, what commands leave alone, empty answers, one form of JSON.
//!
//! **Invariant:** each test runs the real binary in a project of its own.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use tidemill_testkit::ProjectFolder;

use crate::binary::{self, Ran};

const SHOP: &str = "CREATE PIPELINE lake WITH (trigger = 'once', latency = '5 seconds');
CREATE TABLE orders (id BIGINT NOT NULL, amount DECIMAL(12, 2), region VARCHAR, at TIMESTAMP,
    WATERMARK FOR at AS at - INTERVAL '1 second')
  WITH (connector = 'files', path = 'in/', format = 'json');
CREATE TABLE kept (id BIGINT, amount DECIMAL(12, 2), PRIMARY KEY (id))
  WITH (connector = 'delta', path = 'lake/kept', write = 'upsert');
CREATE TABLE own (PRIMARY KEY (id)) WITH (connector = 'delta', path = 'lake/own', write = 'upsert');
CREATE TABLE copies (id BIGINT) WITH (connector = 'files', path = 'copies', format = 'parquet');
CREATE TABLE passed_on (id BIGINT) WITH (connector = 'log', topic = 'passed-on');
CREATE TABLE gone (id BIGINT) WITH (connector = 'delta', path = 'lake/gone');
INSERT INTO kept SELECT id, amount FROM orders;
INSERT INTO own SELECT id, amount, region FROM orders;
INSERT INTO copies SELECT id FROM orders;
INSERT INTO passed_on SELECT id FROM orders;
CREATE MATERIALIZED VIEW by_second AS
  SELECT window_start, sum(amount) AS amount FROM TUMBLE(orders, at, INTERVAL '1 second') GROUP BY window_start, window_end;
";

const DAILY: &str = "CREATE PIPELINE daily WITH (trigger = 'once');
CREATE TABLE days (at TIMESTAMP, amount DECIMAL(38, 2))
  WITH (connector = 'files', path = 'days', format = 'parquet', write = 'replace', time_column = 'at');
INSERT INTO days SELECT window_start, sum(amount) FROM TUMBLE(orders, at, INTERVAL '1 day') GROUP BY window_start, window_end;
";

fn shop() -> ProjectFolder {
    let project = ProjectFolder::new("[engine]\nlanes = 1\n").expect("a folder");
    project.write("pipelines/lake.sql", SHOP).expect("a pipeline");
    project.write("pipelines/daily.sql", DAILY).expect("a pipeline");
    let rows = "{\"id\":1,\"amount\":12.5,\"region\":\"eu\",\"at\":\"2026-01-01T00:00:00Z\"}\n\
                {\"id\":9007199254740993,\"amount\":1234567890.25,\"region\":\"us\",\"at\":\"2026-01-01T00:00:01.5Z\"}\n";
    project.write("in/a.jsonl", rows).expect("rows");
    project
}

fn ran(project: &ProjectFolder, words: &[&str]) -> Ran {
    binary::run(project.path(), words)
}

/// Every file and folder of the project.
fn everything(project: &ProjectFolder) -> Vec<PathBuf> {
    fn walk(folder: &std::path::Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, found);
            }
            found.push(path);
        }
    }
    let mut found = Vec::new();
    walk(project.path(), &mut found);
    found.sort();
    found
}

#[test]
fn what_was_typed_wrongly_ends_with_exit_code_2() {
    let project = shop();
    let cases: &[(&[&str], &str)] = &[
        (&["run", "lake", "--trigger", "sometimes"], "C033: `sometimes` is not a trigger"),
        (&["run", "lake", "--trigger", "every five seconds"], "C033: `every five seconds` is not a trigger"),
        (&["run", "lake", "--trigger", "@hurly"], "C033: `@hurly` is not a trigger"),
        (&["run", "lake", "--interval", "yesterday"], "C032: `yesterday` is not an interval"),
        (&["run", "lake", "--interval", "2026-01-01/1 parsec"], "C032"),
        (&["run", "lake", "--interval", "2026-01-02/2026-01-01"], "C032"),
        (&["run", "lake", "--lanes", "0"], "1 or more"),
        (&["run", "lak"], "C022: no pipeline `lak` in this project (did you mean `lake`?)"),
        (&["run", "lak", "--interval", "2026-01-01/1d"], "C022"),
        (&["run", "kept"], "C022: `kept` is a table, not a pipeline (did you mean `lake`, which writes it?)"),
        (&["run", "daily"], "C055: `daily` runs one interval of event time at a time"),
        (&["plan", "lak"], "(did you mean `lake`?)"),
        (&["status", "lak"], "(did you mean `lake`?)"),
        (&["dead-letters", "lak"], "(did you mean `lake`?)"),
        (&["status", "--format", "xml"], "possible values"),
        (&["init", "x", "--example", "order"], "C051: no example `order` (did you mean `orders`?)"),
    ];
    for (words, said) in cases {
        let ran = ran(&project, &[&["--short"], *words].concat());
        assert_eq!(ran.code, Some(2), "{words:?}: {ran:?}");
        assert!(ran.err.contains(said) && ran.out.is_empty(), "{words:?}: {ran:?}");
    }
    // A query, a project and a file that are wrong are no usage errors.
    for words in [&["query", "SELECT nothing FROM orders"][..], &["query", "SELECT * FROM gone"]] {
        assert_eq!(ran(&project, words).code, Some(1), "{words:?}");
    }
}

#[test]
fn who_only_looks_writes_nothing_and_gets_empty_answers_of_what_is_not_written_yet() {
    let project = shop();
    let before = everything(&project);
    for words in [&["plan"][..], &["status"], &["dead-letters", "lake"], &["plan", "--format", "json"]] {
        let ran = ran(&project, words);
        assert_eq!(ran.code, Some(0), "{words:?}: {ran:?}");
    }
    for (name, next) in [
        ("kept", "tidemill run lake"),
        ("own", "tidemill run lake"),
        ("copies", "tidemill run lake"),
        ("passed_on", "tidemill run lake"),
        ("by_second", "tidemill run lake"),
        ("days", "tidemill run daily --interval START/PERIOD"),
    ] {
        let ran = ran(&project, &["query", &format!("SELECT * FROM {name}"), "--format", "json"]);
        assert_eq!((ran.code, ran.out.trim()), (Some(0), "[]"), "{name}: {ran:?}");
        assert!(ran.err.contains(&format!("nothing has written `{name}` yet; next: {next}")), "{name}: {ran:?}");
    }
    let columns = ran(&project, &["query", "SELECT * FROM own"]);
    assert!(columns.out.contains("ID  AMOUNT  REGION"), "the columns are those that will be written: {columns:?}");
    let gone = ran(&project, &["--short", "query", "SELECT * FROM gone"]);
    assert!(gone.code == Some(1) && gone.err.contains("C214"), "what no pipeline writes is an error: {gone:?}");
    assert_eq!(everything(&project), before, "looking changes nothing");
}

#[test]
fn rows_have_one_form_wherever_they_are_read() {
    let project = shop();
    assert_eq!(ran(&project, &["run", "lake"]).code, Some(0));
    assert_eq!(ran(&project, &["run", "daily", "--interval", "2026-01-01/1d"]).code, Some(0));
    let lines = |sql: &str| ran(&project, &["query", sql, "--format", "ndjson"]).out;
    assert_eq!(
        lines("SELECT * FROM kept ORDER BY id"),
        "{\"id\":1,\"amount\":12.50}\n{\"id\":9007199254740993,\"amount\":1234567890.25}\n"
    );
    assert_eq!(lines("SELECT * FROM days"), "{\"at\":\"2026-01-01T00:00:00Z\",\"amount\":1234567902.75}\n");
    assert_eq!(
        lines("SELECT at, id / 2 FROM orders WHERE id > 1"),
        "{\"at\":\"2026-01-01T00:00:01.500Z\",\"orders.id / 2\":4503599627370496}\n"
    );
    let json = ran(&project, &["query", "SELECT id FROM kept ORDER BY id", "--format", "json"]);
    assert_eq!(json.out, "[\n  {\"id\":1},\n  {\"id\":9007199254740993}\n]\n");
}

/// The answer of a server: its status and its body.
fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").expect("asks");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, body.to_owned())
}

#[test]
fn the_server_answers_in_the_same_form_and_in_words_of_sql() {
    let project = shop();
    project.write("tidemill.toml", "[engine]\nlanes = 1\n[server]\nlisten = '127.0.0.1:0'\n").expect("settings");
    let said = project.join("said");
    let words = ["run", "lake", "--trigger", "continuous", "--serve"];
    let mut running = binary::start(project.path(), &words, &said);
    let address = wait_for("the server", || {
        let said = std::fs::read_to_string(&said).ok()?;
        let (_, rest) = said.split_once("views at http://")?;
        Some(rest.split_once('/')?.0.to_owned())
    });
    let body = wait_for("two windows", || {
        let (status, body) = get(&address, "/v1/views/by_second");
        (status == 200 && body.matches("window_start").count() == 2).then_some(body)
    });
    let plain = body.replace(",\"provisional\":true}", "}").replace(",\"provisional\":false}", "}");
    let asked = ran(&project, &["query", "SELECT * FROM by_second", "--format", "ndjson"]);
    for row in asked.out.lines() {
        assert!(plain.contains(row), "{row} is not in {body}");
    }
    for (path, status, parts) in [
        ("/v1/views/by_second?amuont=1", 400, &["no column `amuont`", "did you mean `amount`?"][..]),
        ("/v1/views/by_second?amount=much", 400, &["the column is DECIMAL(22, 2)"]),
        ("/v1/views/by_second?window_start=now", 400, &["the column is TIMESTAMP", "2026-01-31T14:30:00Z"]),
        ("/v1/views/by_secnd", 404, &["did you mean `by_second`?"]),
        ("/v1/nothing", 404, &["there is nothing here"]),
    ] {
        let (answered, body) = get(&address, path);
        assert_eq!(answered, status, "{path}: {body}");
        assert!(parts.iter().all(|part| body.contains(part)), "{path}: {body}");
    }
    assert_eq!(binary::terminate(&mut running), Some(0));
}

/// Waits for something that another process does.
fn wait_for<T>(what: &str, found: impl Fn() -> Option<T>) -> T {
    for _ in 0..600 {
        if let Some(found) = found() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("waited half a minute for {what}");
}

#[test]
fn rows_on_the_standard_output_stand_there_alone() {
    let project = shop();
    project
        .write("pipelines/lake.sql", SHOP.replace("connector = 'log', topic = 'passed-on'", "connector = 'stdout'"))
        .expect("a pipeline");
    let ran = ran(&project, &["-q", "run", "lake", "--format", "json"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "{\"id\":1}\n{\"id\":9007199254740993}\n"), "{ran:?}");
    let report: serde_json::Value = serde_json::from_str(&ran.err).expect("the report is on stderr");
    assert_eq!((&report["pipeline"], &report["rows_read"]), (&"lake".into(), &2.into()), "{ran:?}");
}

#[test]
fn status_says_how_fresh_views_are_beside_what_was_asked() {
    let project = shop();
    let never = ran(&project, &["status"]);
    assert!(never.out.contains("by_second  lake     - / 5 seconds"), "{never:?}");
    assert_eq!(ran(&project, &["run", "lake"]).code, Some(0));
    let told = ran(&project, &["status", "lake", "--format", "json"]).json();
    assert_eq!((&told[0]["latency_asked_seconds"], &told[0]["views"][0]["view"]), (&5.0.into(), &"by_second".into()));
    assert!(told[0]["views"][0]["complete_to"].is_string(), "{told}");
}

#[test]
fn errors_of_one_stage_are_shown_together_and_once() {
    let project = shop();
    let broken = SHOP
        .replace("SELECT id, amount FROM orders", "SELECT id, amont FROM cleaned")
        .replace("SELECT id, amount, region FROM orders", "SELECT id + region AS id FROM cleaned");
    let view = "CREATE VIEW cleaned AS SELECT id, amount, region, at FROM orders;";
    project.write("pipelines/lake.sql", format!("{broken}{view}")).expect("a pipeline");
    project.write("pipelines/daily.sql", DAILY.replace("sum(amount)", "sum(region)")).expect("a pipeline");
    let ran = ran(&project, &["--short", "plan"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    for part in [
        "no column `amont` in `cleaned`",
        "`+` does not go with BIGINT and VARCHAR",
        "daily.sql:4:39: P107: sum() does not take VARCHAR",
    ] {
        assert_eq!(ran.err.matches(part).count(), 1, "{part}: {}", ran.err);
    }
    project.write("pipelines/lake.sql", format!("{SHOP}{}", view.replace("region,", "regoin,"))).expect("a pipeline");
    let both = DAILY.replace("FROM TUMBLE(orders", "FROM TUMBLE(cleaned");
    project.write("pipelines/daily.sql", format!("{both}CREATE TABLE more (at TIMESTAMP) WITH (connector = 'blackhole', write = 'replace', time_column = 'at'); INSERT INTO more SELECT at FROM cleaned;")).expect("a pipeline");
    let ran = binary::run(project.path(), &["--short", "plan", "daily"]);
    assert_eq!(ran.err.matches("no column `regoin`").count(), 1, "an error in a view that is read twice: {}", ran.err);
}

#[test]
fn a_damaged_delta_table_is_told_without_the_library_s_trace() {
    let project = shop();
    assert_eq!(ran(&project, &["run", "lake"]).code, Some(0));
    project.write("lake/kept/_delta_log/00000000000000000000.json", "no log").expect("damage");
    for words in [&["query", "SELECT * FROM kept"][..], &["run", "lake"]] {
        let ran = binary::run_command(binary::command(project.path(), words).env("RUST_BACKTRACE", "1"));
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.err.contains("X210") && ran.err.contains("lake/kept/_delta_log"), "{}", ran.err);
        assert!(!ran.err.contains(".rs:") && !ran.err.to_lowercase().contains("backtrace"), "{}", ran.err);
    }
}

#[test]
fn a_run_says_which_records_it_cannot_look_up_in() {
    let project = ProjectFolder::new("[engine]\nlanes = 2\n").expect("a folder");
    let sql = "CREATE PIPELINE p WITH (trigger = 'once');
CREATE TABLE orders (id BIGINT, region VARCHAR) WITH (connector = 'files', path = 'in/', format = 'json');
CREATE TABLE names (region VARCHAR NOT NULL, name VARCHAR)
  WITH (connector = 'files', path = 'names.jsonl', format = 'json', bounded = 'true');
CREATE TABLE out (id BIGINT, name VARCHAR) WITH (connector = 'files', path = 'out', format = 'json');
INSERT INTO out SELECT id, name FROM orders LEFT JOIN names ON orders.region = names.region;
";
    project.write("pipelines/p.sql", sql).expect("a pipeline");
    project.write("in/a.jsonl", "{\"id\":1,\"region\":\"eu\"}\n").expect("rows");
    project
        .write("names.jsonl", "{\"region\":\"eu\",\"name\":\"Europe\"}\n{\"name\":\"none\"}\n{\"reg\n")
        .expect("names");
    let ended = ran(&project, &["run", "p"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.err.contains("! names: ") && ended.err.contains("region null 1, unreadable JSON 1"), "{ended:?}");
    let told = ran(&project, &["run", "p", "--format", "json"]).json();
    assert_eq!(told["refused_in_lookups"]["names"]["unreadable JSON"], 1);
}
