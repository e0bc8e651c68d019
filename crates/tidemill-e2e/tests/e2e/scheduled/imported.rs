//! A table of hand-written watermarks is taken over as a whole, or nothing of it is.

use tidemill_model::Interval;

use super::World;
use crate::binary;

const TWO: &str = "CREATE PIPELINE orders WITH (trigger = '@hourly', start = '2026-01-01');
    CREATE TABLE landing (id BIGINT, at TIMESTAMP, WATERMARK FOR at AS at) WITH (connector = 'files', path = 'landing/', format = 'json');
    CREATE TABLE kept (id BIGINT, at TIMESTAMP) WITH (connector = 'files', path = 'kept', format = 'parquet', write = 'replace', time_column = 'at');
    INSERT INTO kept SELECT id, at FROM landing;";
const COUNTS: &str = "CREATE PIPELINE counts WITH (trigger = '@daily', start = '2026-01-01');
    CREATE TABLE counted (n BIGINT, window_end TIMESTAMP) WITH (connector = 'files', path = 'counted', format = 'parquet', write = 'replace', time_column = 'window_end');
    INSERT INTO counted SELECT count(*) AS n, window_end FROM TUMBLE(landing, at, INTERVAL '1 hour') GROUP BY window_start, window_end;";
const LIVE: &str = "CREATE PIPELINE live WITH (trigger = 'continuous');
    CREATE TABLE copied (id BIGINT, at TIMESTAMP) WITH (connector = 'files', path = 'copied', format = 'json');
    INSERT INTO copied SELECT id, at FROM landing;";

#[test]
fn a_row_that_cannot_be_taken_over_leaves_all_pipelines_as_they_were() {
    let world = World::new(TWO);
    world.project.write("pipelines/counts.sql", COUNTS).expect("a pipeline");
    world.project.write("pipelines/live.sql", LIVE).expect("a pipeline");
    let import = |rows: &[&str]| {
        let table = format!("pipeline_name,last_value\n{}\n", rows.join("\n"));
        world.project.write("marks.csv", table).expect("a table");
        let file = world.project.join("marks.csv").display().to_string();
        binary::run(world.project.path(), &["--short", "watermarks", "import", &file])
    };
    let done = |pipeline: &str| {
        let record = world.workspace().checkpoints(pipeline).latest().expect("reads");
        record.map(|record| record.ledger.entries().iter().map(|entry| entry.interval).collect::<Vec<_>>())
    };
    let good = "orders,2026-01-03 05:06:07";
    let bad: &[(&str, &str)] = &[
        ("count,2026-01-03", "did you mean `counts`?"),
        ("live,2026-01-03", "`live` has no intervals"),
        ("counts,2026-01-01 05:00:00", "no whole interval"),
        ("counts,soon", "C122"),
        ("orders,2026-01-04", "`orders` is named twice"),
    ];
    for (row, said) in bad {
        for rows in [[good, row], [row, good]] {
            let ran = import(&rows);
            assert!(ran.code == Some(1) && ran.err.contains(said), "{rows:?}: {ran:?}");
            assert_eq!((done("orders"), done("counts")), (None, None), "{rows:?}");
        }
    }
    // One that runs now.
    let running = world.workspace().lock("counts").expect("locks");
    let ran = import(&[good, "counts,2026-01-03"]);
    assert!(ran.code == Some(1) && ran.err.contains("F001"), "{ran:?}");
    assert_eq!((done("orders"), done("counts")), (None, None));
    drop(running);
    let ran = import(&[good, "counts,2026-01-03 01:00:00"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let interval = |text| Some(vec![Interval::parse(text).expect("an interval")]);
    let both = (interval("2026-01-01/2026-01-03T05"), interval("2026-01-01/2026-01-03"));
    assert_eq!((done("orders"), done("counts")), both);
    // What is on record stays, and nothing is written beside it.
    std::fs::remove_dir_all(world.project.join(".tidemill/pipelines/counts")).ok();
    let ran = import(&["counts,2026-01-05", "orders,2026-01-05"]);
    assert!(ran.code == Some(1) && ran.err.contains("`orders` has run already"), "{ran:?}");
    assert_eq!(done("orders"), both.0);
}
