//! Tables that a run replaces as a whole, or a part of.

use super::super::{Asked, Runner};
use super::{RAW, Shop, block_on, catalog, seconds, shown, sorted};
use futures::future::join_all;

const TOTALS: &str = "SELECT region, sum(amount) AS total, count(*) AS n FROM raw GROUP BY region";

fn totals(write: &str, words: &str) -> String {
    format!(
        "CREATE TABLE out (region VARCHAR, total BIGINT, n BIGINT) WITH (connector = 'shelf', path = 'out', {write});
        INSERT INTO out {words} {TOTALS};"
    )
}

#[test]
fn whichever_interval_runs_last_the_table_has_the_result_over_all_rows() {
    for cuts in [&[(0, 10)][..], &[(0, 5), (5, 10)], &[(5, 10), (0, 5)], &[(0, 3), (7, 10), (3, 7), (0, 3), (3, 7)]] {
        let shop = Shop::new(&totals("write = 'overwrite'", ""));
        for (start, end) in cuts {
            shop.run(*start, *end).map_err(|e| shown(&e)).expect("runs");
        }
        let expected = sorted(shop.query(TOTALS).map_err(|e| shown(&e)).expect("answers"));
        assert_eq!(shop.shelf.rows("out"), expected, "{cuts:?}");
    }
    // Before the last rows are due it is the result so far.
    let shop = Shop::new(&totals("write = 'overwrite'", ""));
    shop.run(0, 2).expect("runs");
    assert_eq!(shop.shelf.rows("out"), ["eu,10,1", "us,20,1"]);
}

#[test]
fn intervals_side_by_side_do_not_set_the_table_back() {
    for _ in 0..20 {
        let shop = Shop::new(&totals("write = 'overwrite'", ""));
        block_on(async {
            let runner = Runner::open(&shop.catalog, "p", shop.context()).expect("opens");
            let asked: Vec<Asked> = (0..10).rev().map(|n| Asked::of(seconds(n, n + 1))).collect();
            for outcome in join_all(asked.iter().map(|asked| runner.run(asked, &|_, _, _| None))).await {
                outcome.map_err(|e| shown(&e)).expect("runs");
            }
        });
        assert_eq!(shop.shelf.rows("out"), sorted(shop.query(TOTALS).expect("answers")));
    }
}

#[test]
fn what_cannot_be_overwritten_or_is_no_part_is_refused_at_its_place() {
    let local =
        "CREATE TABLE out (id BIGINT, region VARCHAR) WITH (connector = 'shelf', path = 'out', write = 'overwrite');
        INSERT INTO out SELECT id, region FROM raw;";
    let upsert = |words: &str| totals("write = 'append'", words);
    let over = |words: &str| totals("write = 'overwrite'", words);
    for (sql, code, words) in [
        (local.to_owned(), "P186", "would leave only the rows of"),
        (upsert("REPLACE WHERE region = 'eu'"), "P122", "the table has write = 'append'"),
        (over("REPLACE WHERE regin = 'eu'"), "P152", "does not give the column `regin`"),
        (over("REPLACE WHERE n = 'many'"), "P121", "it is a BIGINT"),
        (over("REPLACE WHERE region = 'eu'"), "D114", "REPLACE WHERE region = 'eu'"),
        (over("REPLACE WHERE region IS NULL"), "D114", "the row: "),
    ] {
        let shop = Shop::new(&sql);
        let error = shop.run(0, 10).expect_err("refused");
        let shown = shown(&error);
        assert_eq!(error.code(), code, "{shown}");
        assert!(shown.contains(words) && error.place().is_some(), "{words}:\n{shown}");
        assert_eq!(shop.shelf.rows("out"), [""; 0]);
    }
}

#[test]
fn a_part_is_columns_with_constants() {
    let whole = "region IN ('eu', 'us', 'xx') AND (n = 1) AND n IN (1, 2)";
    for (condition, good) in [
        (whole, true),
        ("region = 'eu' OR region = 'us'", false),
        ("n > 1", false),
        ("region = n", false),
        ("upper(region) = 'EU'", false),
        ("region NOT IN ('eu')", false),
    ] {
        let sql = totals("write = 'overwrite'", &format!("REPLACE WHERE {condition}"));
        let script = crate::language::Script::new("pipelines/t.sql", format!("{RAW}{sql}"));
        let config = crate::language::Config::parse(&super::spill(), "", &|_| None).expect("a config");
        let parsed = crate::language::Project::parse(super::spill(), config, &[script]);
        match parsed {
            Ok(project) => {
                let insert = &project.pipeline("p").expect("p").inserts[0];
                let (part, _) = insert.part.as_ref().expect("a part");
                assert!(good, "{condition}");
                assert_eq!(part.to_string(), "n = '1' AND region IN ('eu', 'us', 'xx')");
            }
            Err(error) => {
                assert!(!good && error.code() == "P121" && error.place().is_some(), "{condition}: {}", shown(&error));
            }
        }
    }
}

#[test]
fn rows_that_were_prepared_for_one_part_are_not_published_for_another() {
    let sql = |region: &str| {
        format!(
            "CREATE TABLE out (region VARCHAR, total BIGINT) WITH (connector = 'shelf', path = 'out', write = 'overwrite');
            INSERT INTO out REPLACE WHERE region = '{region}' SELECT region, sum(amount) FROM raw WHERE region = '{region}' GROUP BY region;"
        )
    };
    let mut shop = Shop::new(&sql("eu"));
    shop.shelf.die_at_next_commit();
    shop.run(0, 10).expect_err("dies");
    let other = catalog(&shop.shelf, &format!("{RAW}{}", sql("us")), false);
    let before = std::mem::replace(&mut shop.catalog, other);
    let error = shop.run(0, 10).expect_err("the part was changed");
    assert_eq!(error.code(), "C109", "{}", shown(&error));
    assert!(shown(&error).contains("put it back"), "{}", shown(&error));
    assert_eq!(shop.shelf.rows("out"), [""; 0]);
    shop.catalog = before;
    shop.run(0, 10).map_err(|e| shown(&e)).expect("runs");
    assert_eq!(shop.shelf.rows("out"), ["eu,170"]);
}
