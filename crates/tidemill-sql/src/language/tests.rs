//! The language by example: what statements say, and how what is wrong with them is shown.

use std::path::{Path, PathBuf};
use std::time::Duration;

use arrow::datatypes::{DataType, TimeUnit};
use tidemill_model::{Result, Timestamp, Trigger};

use super::{Config, Project, Script, Violation, render};

/// The project of these files.
fn project(files: &[(&str, &str)]) -> Result<Project> {
    let root = PathBuf::from("/shop");
    let config = Config::parse(&root, "", &|_| None)?;
    let scripts: Vec<Script> = files.iter().map(|(name, text)| Script::new(*name, *text)).collect();
    Project::parse(root, config, &scripts)
}

fn one(sql: &str) -> Result<Project> {
    project(&[("p.sql", sql)])
}

/// What is shown for a file that is refused.
fn refused(sql: &str) -> String {
    render(&one(sql).expect_err(sql), false)
}

const STORY: &str = r"
-- The orders story.
CREATE PIPELINE Revenue WITH (trigger = 'every 5 seconds', checkpoint = '250 ms', latency = '5 seconds', start = '2026-01-01');

CREATE TABLE raw_orders (
  order_id BIGINT NOT NULL, amount DECIMAL(12, 2), note TEXT, tax DOUBLE PRECISION, paid BOOLEAN, day DATE,
  n INT, s SMALLINT, r REAL, at TIMESTAMP WITH TIME ZONE, created_at TIMESTAMP(6),
  WATERMARK FOR created_at AS created_at - INTERVAL '10 seconds',
  CONSTRAINT positive_amount CHECK (amount > 0) ON VIOLATION DROP,
  CHECK ( note <> ''
    OR paid )
) WITH (connector = 'log', topic = 'raw-orders', partitions = 8, format = json, fast = true, shift = -2)
  HISTORY WITH (connector = 'files', path = 's3://lake/raw/');

/* A table whose columns the connector knows. */
CREATE TABLE orders (PRIMARY KEY (order_id)) WITH (connector = 'delta', path = 'orders', write = 'upsert');
CREATE VIEW cleaned AS SELECT order_id, round(amount, 2) AS amount FROM raw_orders;
INSERT INTO orders SELECT * FROM cleaned;
CREATE MATERIALIZED VIEW per_minute WITH (retention = '1 hour') AS
  SELECT window_start, sum(amount) AS revenue FROM TUMBLE((SELECT * FROM cleaned), created_at, INTERVAL '1 minute', OFFSET => INTERVAL '5 seconds')
  GROUP BY window_start, window_end
";

#[test]
fn a_file_says_what_it_says() {
    let project = one(STORY).map_err(|e| render(&e, false)).expect("parses");
    let pipeline = project.pipeline("revenue").expect("lower case");
    assert_eq!(pipeline.trigger, Trigger::parse("every 5 seconds", None).expect("a trigger"));
    assert_eq!((pipeline.checkpoint, pipeline.latency), (Duration::from_millis(250), Some(Duration::from_secs(5))));
    assert_eq!(pipeline.start, Some(Timestamp::parse("2026-01-01").expect("a time")));
    assert_eq!((pipeline.inserts.len(), pipeline.materialized.as_slice()), (1, ["per_minute".to_owned()].as_slice()));
    assert_eq!((pipeline.inserts[0].target.as_str(), pipeline.inserts[0].by_name), ("orders", false));

    let raw = &project.datasets["raw_orders"];
    let micros = |zone: Option<&str>| DataType::Timestamp(TimeUnit::Microsecond, zone.map(Into::into));
    let types: Vec<DataType> = raw.schema.fields().iter().map(|field| field.data_type().clone()).collect();
    let expected = [
        DataType::Int64,
        DataType::Decimal128(12, 2),
        DataType::Utf8,
        DataType::Float64,
        DataType::Boolean,
        DataType::Date32,
        DataType::Int32,
        DataType::Int16,
        DataType::Float32,
        micros(Some("UTC")),
        micros(None),
    ];
    assert_eq!(types, expected);
    assert!(!raw.schema.field(0).is_nullable() && raw.schema.field(1).is_nullable());
    let watermark = raw.watermark.as_ref().expect("a watermark");
    assert_eq!((watermark.column.as_str(), watermark.delay), ("created_at", Duration::from_secs(10)));
    let checks: Vec<(&str, Violation)> = raw.checks.iter().map(|check| (check.name.as_str(), check.policy)).collect();
    assert_eq!(checks, [("positive_amount", Violation::Drop), ("note <> '' OR paid", Violation::DeadLetter)]);
    let option = |name: &str| raw.options.get(name).map(str::to_owned);
    assert_eq!(option("partitions").as_deref(), Some("8"));
    assert_eq!(option("format").as_deref(), Some("json"));
    assert_eq!(option("fast").as_deref(), Some("true"));
    assert_eq!(option("shift").as_deref(), Some("-2"));
    assert_eq!(raw.history.as_ref().and_then(|history| history.get("connector")), Some("files"));

    let orders = &project.datasets["orders"];
    assert!(orders.columns.is_empty() && orders.history.is_none());
    assert_eq!(
        (orders.primary_key.as_slice(), orders.pipeline.as_str()),
        (["order_id".to_owned()].as_slice(), "revenue")
    );
    let retention = project.materialized["per_minute"].settings.span("retention");
    assert_eq!(retention, Some(Duration::from_secs(3600)));
}

#[test]
fn the_places_of_a_query_are_those_of_the_file() {
    let project = one(STORY).expect("parses");
    let view = &project.views["cleaned"];
    assert_eq!(view.place.line_column(), (17, 13));
    let script = Script::of(&view.place);
    let select = view.query.body.as_select().expect("a SELECT");
    let place = script.place(datafusion::sql::sqlparser::ast::Spanned::span(&select.projection[0])).expect("a place");
    assert_eq!(script.slice(place.span), "order_id");
}

#[test]
fn keys_defaults_and_lists() {
    let sql = "CREATE PIPELINE p;
        CREATE TABLE a (id BIGINT PRIMARY KEY, v VARCHAR NULL) WITH (connector = 'x');
        CREATE TABLE b (\"Odd Name\" INT, PRIMARY KEY (\"Odd Name\")) WITH (connector = 'x');
        INSERT INTO a (v, id) SELECT 'x', 1;
        INSERT INTO b BY NAME (SELECT 1 AS \"Odd Name\")";
    let project = one(sql).map_err(|e| render(&e, false)).expect("parses");
    let pipeline = &project.pipelines["p"];
    assert_eq!((pipeline.trigger.clone(), pipeline.checkpoint), (Trigger::Once, Duration::from_secs(1)));
    assert_eq!(pipeline.inserts[0].columns, ["v", "id"]);
    assert!(pipeline.inserts[1].by_name);
    assert!(!project.datasets["a"].schema.field(0).is_nullable(), "a key is NOT NULL");
    assert_eq!(project.datasets["b"].primary_key, ["Odd Name"]);
}

#[test]
fn watermarks_have_constant_delays() {
    let delay = |text: &str| {
        let sql = format!("CREATE TABLE t (c TIMESTAMP, WATERMARK FOR c AS {text}) WITH (connector = 'x')");
        one(&sql).map(|project| project.datasets["t"].watermark.as_ref().map(|clause| clause.delay))
    };
    let cases = [("c", 0), ("c - INTERVAL '1' MINUTE", 60), ("C - INTERVAL '1 hour 30 seconds'", 3630)];
    for (text, seconds) in cases {
        assert_eq!(delay(text).ok().flatten(), Some(Duration::from_secs(seconds)), "{text}");
    }
    let refused = [
        ("c + INTERVAL '1 second'", "error[P111]: a watermark is its column less a constant"),
        ("d - INTERVAL '1 second'", "error[P111]"),
        ("c - INTERVAL '1 month'", "differ in length"),
        ("c - INTERVAL '-1 second'", "it is negative"),
        ("c - d", "error[P114]: `d` is not a length of time"),
    ];
    for (text, expected) in refused {
        let shown = render(&delay(text).expect_err(text), false);
        assert!(shown.contains(expected) && shown.contains("p.sql:1:49"), "{text}\n{shown}");
    }
}

/// Each refusal with the whole of what is shown.
#[test]
fn errors_point_at_their_words() {
    let cases = [
        (
            "CREATE PIPELINE p WITH (\n  checkpont = '1 second', delivery = 'exactly-once');",
            "\
error[C011]: unknown pipeline option `checkpont`
  --> p.sql:2:3
   |
 2 |   checkpont = '1 second', delivery = 'exactly-once');
   |   ^^^^^^^^^ did you mean `checkpoint`?
   = options: trigger, checkpoint, latency, delivery, start, on_error, max_errors, late, allowed_lateness, emit, emit_every, timezone, grid, jitter, end, catchup, concurrency, pool, retries, retry_delay, retry_factor, retry_max_delay, retry_jitter, retry_limit, retry_on, timeout, on_empty
",
        ),
        (
            "CREATE TABLE t (a BIGNIT) WITH (connector = 'x')",
            "\
error[P110]: unknown type `BIGNIT`
  --> p.sql:1:19
   |
 1 | CREATE TABLE t (a BIGNIT) WITH (connector = 'x')
   |                   ^^^^^^ did you mean BIGINT?
   = types: BIGINT, INT, SMALLINT, DOUBLE, REAL, FLOAT, BOOLEAN, VARCHAR, TEXT, STRING, DECIMAL, DATE, TIMESTAMP, TIMESTAMPTZ
",
        ),
        (
            "CREATE TABLE t (a INT, CHECK (a > 0) ON VIOLATION DAED LETTER) WITH (connector = 'x')",
            "\
error[P100]: `DAED` is not expected here
  --> p.sql:1:51
   |
 1 | CREATE TABLE t (a INT, CHECK (a > 0) ON VIOLATION DAED LETTER) WITH (connector = 'x')
   |                                                   ^^^^ did you mean DEAD?
",
        ),
        (
            "CREATE VIEW v AS SELECT a FORM t",
            "\
error[P100]: `t` is not expected here
  --> p.sql:1:32
   |
 1 | CREATE VIEW v AS SELECT a FORM t
   |                                ^ expected `;` or the end of the statement
   = did you mean FROM instead of FORM?
",
        ),
        (
            "CREATE TABLE t (a INT, PRIMARY KEY (b)) WITH (connector = 'x')",
            "\
error[P104]: no column `b` in `t`
  --> p.sql:1:37
   |
 1 | CREATE TABLE t (a INT, PRIMARY KEY (b)) WITH (connector = 'x')
   |                                     ^ did you mean `a`?
   = columns: a
",
        ),
        (
            "SELECT 1",
            "\
error[P101]: a query alone does nothing in a pipeline
  --> p.sql:1:1
   |
 1 | SELECT 1
   | ^^^^^^ say where its rows go
   = to a table: INSERT INTO name SELECT …; to a served view: CREATE MATERIALIZED VIEW name AS SELECT …
   = to look at rows once: tidemill query \"SELECT …\"
",
        ),
        (
            "CREATE TABLE t (a INT",
            "\
error[P100]: the statement ends too early
  --> p.sql:1:22
   |
 1 | CREATE TABLE t (a INT
   |                      ^ expected `,` or `)`
",
        ),
    ];
    for (sql, expected) in cases {
        assert_eq!(refused(sql), expected);
    }
}

#[test]
fn what_is_not_possible_says_what_is() {
    let table = "CREATE TABLE t (a INT, c TIMESTAMP) WITH (connector = 'x');\n";
    let cases = [
        ("DROP TABLE t", "DROP is not possible in a pipeline", "CREATE MATERIALIZED VIEW, INSERT INTO"),
        ("CREAT TABLE t", "`CREAT` is not expected here", "did you mean CREATE?"),
        ("CREATE TASK t AFTER u", "the statement ends too early", "AFTER, BEFORE or WITH (command = '…')"),
        ("CREATE TASK t AFTER u WITH (timeout = '1 s')", "option `command`", "command"),
        (
            "CREATE EXPECTATION e ON t ROWS AT LEAST 1 ON VIOLATION DROP",
            "expected of all rows together",
            "ON VIOLATION FAIL",
        ),
        ("CREATE EXPECTATION e ON t FRESH 1", "`1` is not expected here", "WITHIN"),
        ("CREATE EXPECTATION e ON t ROWS 1", "`1` is not expected here", "AT LEAST n"),
        ("CREATE OR REPLACE VIEW v AS SELECT 1", "CREATE OR REPLACE", "write CREATE"),
        ("CREATE TABLE IF NOT EXISTS v", "IF NOT EXISTS", "leave it out"),
        ("CREATE TABLE a.b (x INT) WITH (connector = 'x')", "error[P102]", "have one part"),
        ("CREATE VIEW \"Big\" AS SELECT 1", "error[P102]: `Big` cannot be a name here", "^^^^^"),
        ("CREATE TABLE x (a INT)", "the statement ends too early", "expected WITH (connector = '…')"),
        ("CREATE TABLE x (a TIMESTAMP(9)) WITH (connector = 'x')", "error[P110]", "times are microseconds here"),
        ("CREATE TABLE x (a VARCHAR(10)) WITH (connector = 'x')", "error[P110]", "CHECK (length(c) <= …)"),
        ("CREATE TABLE x (a DECIMAL) WITH (connector = 'x')", "error[P110]", "DECIMAL(18, 2)"),
        ("CREATE TABLE x (a DECIMAL(50, 2)) WITH (connector = 'x')", "error[P110]", "at most 38 digits"),
        ("CREATE TABLE x (a INT DEFAULT 1) WITH (connector = 'x')", "`DEFAULT` is not expected", "`,` or `)`"),
        ("CREATE TABLE x (a INT, a INT) WITH (connector = 'x')", "column `a` is declared twice", "first on line 2"),
        ("CREATE TABLE x (a INT, WATERMARK FOR a AS a) WITH (connector = 'x')", "error[P111]", "it is a INT"),
        ("CREATE TABLE x (a INT, a = 1) WITH (connector = 'x')", "`=` is not expected here", "the type of the column"),
        ("CREATE TABLE x (a INT) WITH (connector = 'x', connector = 'y')", "error[C018]", "given twice"),
        ("CREATE TABLE x (a INT) WITH (connector 'x')", "`'x'` is not expected here", "expected `=`"),
        ("CREATE VIEW v AS SELECT 'open", "Unterminated string literal", "p.sql:1:"),
        ("CREATE VIEW v AS SELECT (1", "ends too early", "expected )"),
        ("CREATE VIEW v AS SELEC 1", "did you mean SELECT instead of SELEC?", "p.sql:1:18"),
        (
            "CREATE MATERIALIZED VIEW v WITH (retain = '1 hour') AS SELECT 1",
            "this file has no pipeline",
            "CREATE PIPELINE",
        ),
        (
            "CREATE PIPELINE p; CREATE PIPELINE q; INSERT INTO t SELECT 1",
            "error[P113]: a file has one pipeline",
            "p.sql:1:36",
        ),
        ("CREATE PIPELINE p", "the pipeline `p` writes nothing", "INSERT INTO"),
        ("CREATE PIPELINE p WITH (trigger = 'sometimes')", "`sometimes` is not a trigger", "every 30 seconds"),
        ("CREATE PIPELINE p WITH (trigger = '0 0 30 2 *')", "0 0 30 2 *", "p.sql:1:35"),
        ("CREATE PIPELINE p WITH (trigger = '@daily', timezone = 'Europe/Pairs')", "Europe/Pairs", "Europe/Paris"),
        (
            "CREATE PIPELINE p WITH (reconcile = '@hourly'); INSERT INTO t SELECT 1",
            "`reconcile` is not available yet",
            "leave it out",
        ),
        ("CREATE PIPELINE p WITH (retry_factor = 0.5); INSERT INTO t SELECT 1", "factor", "p.sql:1:40"),
        ("CREATE PIPELINE p WITH (delivery = 'at-least-once')", "error[C013]", "exactly-once"),
        ("CREATE PIPELINE p WITH (checkpoint = '0 s')", "error[C019]", "^^^^^"),
        ("CREATE PIPELINE p; INSERT INTO tt SELECT 1", "error[P105]: no table `tt`", "did you mean `t`?"),
        ("CREATE PIPELINE p; CREATE VIEW v AS SELECT 1; INSERT INTO v SELECT 1", "`v` is a view", "writes tables"),
        ("CREATE PIPELINE p; INSERT INTO t (a) BY NAME SELECT 1", "exclude each other", "leave out one"),
        (
            "CREATE PIPELINE p; INSERT OVERWRITE t SELECT 1",
            "INSERT OVERWRITE is not possible",
            "append, upsert, replace or overwrite",
        ),
        ("CREATE PIPELINE p; INSERT INTO t SELECT 1; INSERT INTO t SELECT 2", "written twice", "UNION ALL"),
        (
            "CREATE VIEW t AS SELECT 1",
            "error[P103]: `t` is declared twice",
            "a table of this name stands at p.sql:1:14",
        ),
    ];
    for (sql, first, second) in cases {
        let whole =
            if sql.contains("'open") || sql.contains("p.sql") { sql.to_owned() } else { format!("{table}{sql}") };
        let alone = render(&one(&whole).expect_err(sql), false);
        let shown = alone.replace("p.sql:2:", "p.sql:1:");
        assert!(shown.contains(first) && shown.contains(second), "{sql}\n{shown}");
        assert_eq!(shown.matches("error[").count(), 1, "{sql}\n{shown}");
    }
}

#[test]
fn all_errors_of_a_file_are_shown_at_once() {
    let shown = refused(
        "CREATE TABL t;\nSELECT 1;\nCREATE TABLE t (a BLOB, b TIMESTAMP(3), c INT) WITH (connector = 'x');\nINSERT INTO u SELECT 1;",
    );
    assert_eq!(shown.matches("error[").count(), 4, "{shown}");
    assert!(!shown.contains("`u`"), "what follows from an error is held back: {shown}");
    let many = "DROP TABLE t;\n".repeat(30);
    assert_eq!(refused(&many).matches("error[").count(), 10);
}

#[test]
fn every_error_of_a_pipeline_is_shown_at_once() {
    let shown = refused(
        "CREATE PIPELINE p WITH (trigger = 'sometimes', latency = 'soon', reconcile = '@hourly');
         CREATE MATERIALIZED VIEW v WITH (retain = '1 day') AS SELECT 1;
         CREATE TABLE t (a INT) WITH (connector = 'x');
         INSERT INTO tt SELECT 1;
         INSERT INTO v SELECT 1;",
    );
    for part in [
        "`sometimes` is not a trigger",
        "`soon` is not a length of time",
        "`reconcile` is not available yet",
        "unknown materialized view option `retain`",
        "no table `tt`",
        "`v` is a materialized view",
    ] {
        assert!(shown.contains(part), "{part} is missing: {shown}");
    }
}

#[test]
fn names_are_unique_in_the_project() {
    let table = "CREATE TABLE t (a INT) WITH (connector = 'x');";
    let pipeline = "CREATE PIPELINE p; INSERT INTO t SELECT 1;";
    let error = project(&[("a.sql", table), ("b.sql", &format!("{pipeline}{table}"))]).expect_err("refused");
    let shown = render(&error, false);
    assert!(shown.contains("b.sql:1:56") && shown.contains("a table of this name stands at a.sql:1:14"), "{shown}");
    let error = project(&[("a.sql", table), ("b.sql", pipeline), ("c.sql", pipeline)]).expect_err("refused");
    assert!(render(&error, false).contains("a pipeline of this name stands at b.sql:1:17"), "{error}");
}

#[test]
fn a_shared_file_declares_for_all() {
    let shared = "CREATE TABLE t (a INT) WITH (connector = 'x'); CREATE VIEW v AS SELECT a FROM t;";
    let project = project(&[("a.sql", "CREATE PIPELINE p; INSERT INTO t SELECT a FROM v;"), ("z.sql", shared)]);
    let project = project.map_err(|e| render(&e, false)).expect("parses");
    assert_eq!(project.datasets["t"].pipeline, "");
    assert_eq!(project.views["v"].pipeline, "");
    let error = project.pipeline("q").expect_err("there is none");
    assert_eq!((error.message(), error.facts()[0].as_str()), ("no pipeline `q` in this project", "pipelines: p"));
}

/// A folder that is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("tidemill-language-{name}-{}", std::process::id()));
        std::fs::create_dir_all(path.join("pipelines/deep")).expect("a folder");
        Folder(path)
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.0.join(file), text).expect("a file");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_project_is_found_upwards() {
    let folder = Folder::new("upwards");
    let none = Project::load(Path::new("/nowhere/at/all"), &|_| None).expect_err("no project");
    assert_eq!((none.code(), none.message()), ("C001", "there is no folder /nowhere/at/all"));
    let none = Project::load(Path::new("/"), &|_| None).expect_err("no project");
    assert_eq!((none.code(), none.message()), ("C001", "no tidemill.toml in / or above, so this is no project"));
    assert!(none.facts().iter().any(|fact| fact.ends_with("tidemill init FOLDER")), "{none}");

    folder.write("tidemill.toml", "[project]\nname = '${NAME}'");
    folder.write("pipelines/b.sql", "\u{feff}CREATE PIPELINE b; INSERT INTO t SELECT 1;");
    folder.write("pipelines/a.sql", "CREATE TABLE t (a INT) WITH (connector = 'x');");
    folder.write("pipelines/.hidden.sql", "nonsense");
    folder.write("pipelines/readme.md", "nonsense");
    let env = |name: &str| (name == "NAME").then(|| "shop".to_owned());
    let project = Project::load(&folder.0.join("pipelines/deep"), &env).map_err(|e| render(&e, false)).expect("loads");
    assert_eq!((project.root.as_path(), project.config.name.as_str()), (folder.0.as_path(), "shop"));
    assert_eq!(&*project.pipelines["b"].file, "pipelines/b.sql");

    folder.write("pipelines/c.sql", "CREATE TABLE");
    let error = Project::load(&folder.0, &env).expect_err("refused");
    assert!(render(&error, false).contains("--> pipelines/c.sql:1:13"), "{error}");
    std::fs::write(folder.0.join("pipelines/c.sql"), b"\xff\xfe").expect("a file");
    assert_eq!(Project::load(&folder.0, &env).expect_err("refused").code(), "C008");

    folder.write("pipelines/a.sql", "CREATE TABL t");
    let shown = render(&Project::load(&folder.0, &|_| None).expect_err("refused"), false);
    for part in ["${NAME} is not set", "pipelines/c.sql is not UTF-8 text", "--> pipelines/a.sql:1:8"] {
        assert!(shown.contains(part), "what is wrong in any file is told at once: {shown}");
    }
}

#[test]
fn the_example_project_loads() {
    let root = Path::new("../../examples/orders");
    let project = Project::load(root, &|_| None).map_err(|e| render(&e, false)).expect("loads");
    assert!(project.pipelines.contains_key("revenue"), "{:?}", project.pipelines.keys());
}
