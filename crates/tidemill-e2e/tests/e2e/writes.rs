//! What runs of intervals leave in their tables, whatever was there: totals that fall, parts of one table that two pipelines
//! own, and partitions that a filter leaves alone.

use serde_json::{Value, json};
use tidemill_testkit::ProjectFolder;

use crate::binary;

const LANDING: &str =
    "CREATE TABLE landing (id BIGINT, region VARCHAR, amount BIGINT, at TIMESTAMP, WATERMARK FOR at AS at)
    WITH (connector = 'files', path = 'landing', format = 'json');";

fn project(pipelines: &[(&str, String)]) -> ProjectFolder {
    let project = ProjectFolder::new("").expect("a folder");
    for (name, sql) in pipelines {
        project.write(&format!("pipelines/{name}.sql"), sql).expect("a pipeline");
    }
    project
}

/// Lands rows of an hour of the first of January 2026, each a region and an amount.
fn land(project: &ProjectFolder, file: &str, hour: u32, rows: &[(&str, i64)]) {
    let line = |(n, (region, amount)): (usize, &(&str, i64))| {
        let row =
            json!({"id": n, "region": region, "amount": amount, "at": format!("2026-01-01T{hour:02}:{n:02}:00Z")});
        format!("{row}\n")
    };
    project
        .write(&format!("landing/{file}.jsonl"), rows.iter().enumerate().map(line).collect::<String>())
        .expect("rows");
}

fn run(project: &ProjectFolder, pipeline: &str, hour: u32) -> binary::Ran {
    let interval = format!("2026-01-01T{hour:02}/PT1H");
    binary::run(project.path(), &["--short", "run", pipeline, "--interval", &interval])
}

fn ask(project: &ProjectFolder, sql: &str) -> Value {
    let ran = binary::run(project.path(), &["query", sql, "--format", "json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    ran.json()
}

#[test]
fn totals_over_all_rows_fall_when_they_do() {
    let into = |name: &str, write: &str| {
        format!(
            "CREATE PIPELINE {name}_sums WITH (trigger = '@hourly', start = '2026-01-01');
            CREATE TABLE {name} (region VARCHAR NOT NULL, total BIGINT, PRIMARY KEY (region)) WITH (connector = 'delta', path = '{name}', write = '{write}');
            INSERT INTO {name} SELECT region, sum(amount) AS total FROM landing GROUP BY region;"
        )
    };
    let pipelines = [("a", format!("{}{LANDING}", into("kept", "upsert"))), ("b", into("anew", "overwrite"))];
    let project = project(&pipelines);
    land(&project, "0", 0, &[("eu", 100), ("us", 7)]);
    land(&project, "1", 1, &[("eu", -60)]);
    for (hour, eu) in [(0, 100), (1, 40), (0, 40)] {
        for pipeline in ["kept_sums", "anew_sums"] {
            let ran = run(&project, pipeline, hour);
            assert_eq!(ran.code, Some(0), "{ran:?}");
        }
        let expected = json!([{"region": "eu", "total": eu}, {"region": "us", "total": 7}]);
        for table in ["kept", "anew"] {
            assert_eq!(
                ask(&project, &format!("SELECT region, total FROM {table} ORDER BY region")),
                expected,
                "{table}, hour {hour}"
            );
        }
    }
}

#[test]
fn two_pipelines_own_a_part_of_a_table_each() {
    let part = |region: &str, of: &str| {
        format!(
            "CREATE PIPELINE {region} WITH (trigger = '@hourly', start = '2026-01-01');
            INSERT INTO orders REPLACE WHERE region = '{region}' SELECT id, region, amount, at FROM landing WHERE {of};"
        )
    };
    let table = "CREATE TABLE orders (id BIGINT, region VARCHAR, amount BIGINT, at TIMESTAMP)
        WITH (connector = 'delta', path = 'orders', write = 'replace', time_column = 'at', partition_by = 'region');";
    let project = project(&[
        ("eu", format!("{}{LANDING}{table}", part("eu", "region = 'eu'"))),
        ("us", part("us", "region <> 'ap'")),
    ]);
    land(&project, "0", 0, &[("eu", 1), ("us", 2)]);
    land(&project, "1", 1, &[("eu", 3), ("us", 4)]);
    let refused = || {
        let ran = binary::run(project.path(), &["run", "us", "--interval", "2026-01-01T00/PT1H"]);
        assert!(ran.code == Some(1) && ran.err.contains("D114"), "{ran:?}");
        for words in ["REPLACE WHERE region = 'us'", "\"region\":\"eu\"", "add WHERE region = 'us'", "us.sql:2"] {
            assert!(ran.err.contains(words), "{words}: {}", ran.err);
        }
    };
    refused();
    project.write("pipelines/us.sql", part("us", "region = 'us'")).expect("mended");
    for hour in [0, 1, 0] {
        for pipeline in ["eu", "us"] {
            let ran = run(&project, pipeline, hour);
            assert_eq!(ran.code, Some(0), "{ran:?}");
        }
    }
    let amounts = || ask(&project, "SELECT region, amount FROM orders ORDER BY amount");
    let row = |region: &str, amount: i64| json!({"region": region, "amount": amount});
    assert_eq!(amounts(), json!([row("eu", 1), row("us", 2), row("eu", 3), row("us", 4)]));
    land(&project, "late", 0, &[("us", 5)]);
    let ran = run(&project, "us", 0);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(amounts(), json!([row("eu", 1), row("us", 2), row("eu", 3), row("us", 4), row("us", 5)]));
    let plan = binary::run(project.path(), &["plan", "us"]);
    assert!(plan.out.contains("where region = 'us'"), "{plan:?}");
}

/// A filter on folders and columns of Parquet reads only what it may want, and refused records are told all the same.
#[test]
fn what_a_filter_does_not_want_is_not_read() {
    let project = project(&[
        (
            "split",
            format!(
                "CREATE PIPELINE split WITH (trigger = 'once');{LANDING}
                CREATE TABLE parts (id BIGINT, region VARCHAR, amount BIGINT, at TIMESTAMP)
                  WITH (connector = 'files', path = 'parts', format = 'parquet', partition_by = 'region');
                INSERT INTO parts SELECT id, region, amount, at FROM landing;"
            ),
        ),
        (
            "some",
            "CREATE PIPELINE some WITH (trigger = '@hourly', start = '2026-01-01');
            CREATE TABLE stored (id BIGINT, region VARCHAR, amount BIGINT NOT NULL, at TIMESTAMP, WATERMARK FOR at AS at, CHECK (amount < 1000) ON VIOLATION DEAD LETTER)
              WITH (connector = 'files', path = 'parts', format = 'parquet');
            CREATE TABLE wanted (id BIGINT, amount BIGINT, at TIMESTAMP)
              WITH (connector = 'files', path = 'wanted', format = 'parquet', write = 'replace', time_column = 'at');
            INSERT INTO wanted SELECT id, amount, at FROM stored WHERE region = 'eu' AND amount > 10;"
                .to_owned(),
        ),
    ]);
    let eu: Vec<(&str, i64)> = (0..30).map(|n| ("eu", n)).collect();
    let us: Vec<(&str, i64)> = (0..20).map(|n| ("us", n)).collect();
    land(&project, "eu", 0, &eu);
    land(&project, "us", 0, &us);
    // A file of another region that has a record to refuse is read for it.
    land(&project, "ap", 0, &[("ap", 5), ("ap", 2000)]);
    let ran = binary::run(project.path(), &["run", "split"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let ran = binary::run(project.path(), &["run", "some", "--interval", "2026-01-01T00/PT1H", "--format", "json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let report = ran.json();
    let text = report.to_string();
    assert!(text.contains("\"rows_read\":32"), "those of eu and ap: {text}");
    assert_eq!(
        ask(&project, "SELECT count(*) AS n, min(amount) AS least FROM wanted"),
        json!([{"n": 19, "least": 11}])
    );
    assert_eq!(ask(&project, "SELECT count(*) AS n FROM stored.dead_letters"), json!([{"n": 1}]));
}

/// Rows that a filter fails on are dead letters wherever the rows lie, though statistics or another reader could leave them out.
#[test]
fn rows_that_a_filter_fails_on_are_told_from_every_format() {
    let columns = "(id BIGINT, region VARCHAR, amount BIGINT, at TIMESTAMP, WATERMARK FOR at AS at)";
    let stored = format!(
        "CREATE TABLE in_parquet {columns} WITH (connector = 'files', path = 'in_parquet', format = 'parquet');
        CREATE TABLE in_delta {columns} WITH (connector = 'delta', path = 'in_delta');"
    );
    let copy = |to: &str| format!("INSERT INTO {to} SELECT id, region, amount, at FROM landing;");
    let mut pipelines = vec![(
        "copy".to_owned(),
        format!(
            "CREATE PIPELINE copy WITH (trigger = 'once');{LANDING}{stored}{}{}",
            copy("in_parquet"),
            copy("in_delta")
        ),
    )];
    let filters = [
        "10 / (amount - 7) > 1",
        "amount <> 3 AND CAST(amount * 100 AS DECIMAL(5, 2)) < 900.5",
        "amount + 9223372036854775790 > 5",
    ];
    for (n, filter) in filters.iter().enumerate() {
        for from in ["landing", "in_parquet", "in_delta"] {
            let name = format!("f{n}_{from}");
            let sql = format!(
                "CREATE PIPELINE p_{name} WITH (trigger = '@hourly', start = '2026-01-01', max_errors = 'none');
                CREATE TABLE {name} (id BIGINT, at TIMESTAMP)
                  WITH (connector = 'files', path = '{name}', format = 'parquet', write = 'replace', time_column = 'at');
                INSERT INTO {name} SELECT id, at FROM {from} WHERE {filter};"
            );
            pipelines.push((format!("p_{name}"), sql));
        }
    }
    let pipelines: Vec<(&str, String)> = pipelines.iter().map(|(name, sql)| (name.as_str(), sql.clone())).collect();
    let project = project(&pipelines);
    let rows: Vec<(&str, i64)> = (0..40).map(|n| ("eu", n)).collect();
    land(&project, "0", 0, &rows);
    let ran = binary::run(project.path(), &["run", "copy"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for (n, filter) in filters.iter().enumerate() {
        let mut told = Vec::new();
        for from in ["landing", "in_parquet", "in_delta"] {
            let ran = run(&project, &format!("p_f{n}_{from}"), 0);
            assert_eq!(ran.code, Some(0), "{filter}: {ran:?}");
            let count = |of: &str| ask(&project, &format!("SELECT count(*) AS n FROM {of}"))[0]["n"].as_u64();
            told.push((count(&format!("f{n}_{from}")), count(&format!("f{n}_{from}.dead_letters"))));
        }
        assert!(told[0].1 > Some(0), "{filter} fails on no row");
        assert_eq!((&told[1], &told[2]), (&told[0], &told[0]), "{filter}");
    }
}
