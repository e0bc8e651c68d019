//! What is expected of rows: evaluated before they are published, and what becomes of those that are not so.

use tidemill_model::Result;

use super::super::IntervalReport;
use super::{Shop, shown};

/// A copy of the raw rows, with what is expected of it or of them.
fn shop(expectations: &str) -> Shop {
    Shop::new(&format!(
        "CREATE TABLE out (id BIGINT, region VARCHAR, amount BIGINT, at TIMESTAMP, WATERMARK FOR at AS at)
            WITH (connector = 'shelf', path = 'out', write = 'replace', time_column = 'at');
        INSERT INTO out SELECT id, region, amount, at FROM raw; {expectations}"
    ))
}

fn run(shop: &Shop) -> Result<IntervalReport> {
    shop.run(0, 10)
}

fn ids(shop: &Shop) -> Vec<String> {
    shop.shelf.rows("out").iter().map(|row| row.split(',').next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn rows_that_are_not_as_expected_are_kept_dropped_warned_of_or_fail_the_run() {
    let all = ["1", "2", "3", "5", "7", "8", "9"];
    let expectation = |policy: &str| {
        format!("CREATE EXPECTATION known_region ON out CHECK (region IN ('eu', 'us')) ON VIOLATION {policy};")
    };
    let dead = |shop: &Shop| {
        shop.query("SELECT reason, position, count(*) FROM out.dead_letters GROUP BY 1, 2").expect("answers")
    };
    let quarantined = shop(&expectation("QUARANTINE"));
    let report = run(&quarantined).map_err(|e| shown(&e)).expect("runs");
    assert_eq!(ids(&quarantined), all[..6]);
    assert_eq!(dead(&quarantined), ["known region,9,1"]);
    assert_eq!(report.targets[0].rows, 6);
    assert_eq!(report.warnings, ["1 row of `out` not as `known_region` expects and kept as dead letters"]);
    // Again, and it is there once.
    run(&quarantined).expect("runs");
    assert_eq!(
        (ids(&quarantined), dead(&quarantined)),
        (all[..6].iter().map(|id| (*id).to_owned()).collect(), vec!["known region,9,1".to_owned()])
    );

    let dropped = shop(&expectation("DROP"));
    assert_eq!(run(&dropped).expect("runs").counters.rows_dropped, 1);
    assert_eq!((ids(&dropped).len(), dead(&dropped).len()), (6, 0));

    let warned = shop(&expectation("WARN"));
    let report = run(&warned).expect("runs");
    assert_eq!((ids(&warned), report.counters.rows_warned), (all.map(str::to_owned).to_vec(), 1));
    assert_eq!(report.warnings, ["1 row of `out` not as `known_region` expects"]);

    let failed = shop(&expectation("FAIL"));
    let error = shown(&run(&failed).expect_err("fails"));
    assert!(
        error.contains("known_region") && error.contains("\"region\":\"xx\"") && error.contains("CHECK (region"),
        "{error}"
    );
    assert_eq!(ids(&failed), Vec::<String>::new());
}

#[test]
fn a_row_breaks_one_expectation_and_of_equal_keys_one_row_stays() {
    let shop = shop(
        "CREATE EXPECTATION one_a_region ON out UNIQUE (region) ON VIOLATION QUARANTINE;
        CREATE EXPECTATION small ON out CHECK (amount < 60) ON VIOLATION QUARANTINE;
        CREATE EXPECTATION named ON out NOT NULL (region, id) ON VIOLATION FAIL;",
    );
    run(&shop).map_err(|e| shown(&e)).expect("runs");
    assert_eq!(ids(&shop), ["1", "2"], "the least row of each region; that of xx is too large");
    let dead = shop.query("SELECT reason, count(*) FROM out.dead_letters GROUP BY 1 ORDER BY 1").expect("answers");
    assert_eq!(dead, ["one a region,2", "small,3"], "what is too large is no other of what is not");
}

#[test]
fn what_is_expected_of_all_rows_fails_the_run_or_is_said() {
    let cases = [
        ("ROWS BETWEEN 1 AND 6", "7 rows, `e` expects 1 to 6"),
        ("ROWS AT LEAST 8", "7 rows, `e` expects at least 8"),
        ("FRESH WITHIN INTERVAL '0 seconds'", "is not fresh: the newest row is of 1970-01-01T00:00:09.999999Z"),
        ("QUERY (SELECT region FROM out GROUP BY region HAVING count(*) < 2)", "finds 1 row and expects none"),
        (
            "QUERY (SELECT o.id FROM out o LEFT JOIN regions r ON r.region = o.region WHERE r.name IS NULL)",
            "finds 1 row",
        ),
    ];
    for (clause, message) in cases {
        let shop = shop(&format!("CREATE EXPECTATION e ON out {clause};"));
        let error = shown(&run(&shop).expect_err(clause));
        assert!(error.contains(message), "{clause}: {error}");
        assert_eq!(ids(&shop), Vec::<String>::new(), "{clause}");
        let shop = self::shop(&format!("CREATE EXPECTATION e ON out {clause} ON VIOLATION WARN;"));
        let report = run(&shop).expect("runs");
        assert!(report.warnings.len() == 1 && report.warnings[0].contains(message), "{clause}: {:?}", report.warnings);
        assert_eq!(ids(&shop).len(), 7, "{clause}");
    }
    for clause in ["ROWS BETWEEN 7 AND 7", "FRESH WITHIN INTERVAL '1 second'", "QUERY (SELECT 1 FROM out WHERE id > 9)"]
    {
        let shop = shop(&format!("CREATE EXPECTATION e ON out {clause};"));
        assert_eq!(run(&shop).map_err(|e| shown(&e)).expect(clause).warnings, Vec::<String>::new());
    }
}

#[test]
fn an_interval_is_compared_with_those_before_it() {
    let shop = shop("CREATE EXPECTATION usual ON out ROWS WITHIN 50 % OF LAST 3 ON VIOLATION WARN;");
    let rows = |hour: i64, count: usize| -> String {
        (0..count).map(|n| format!("{n},eu,1,1970-01-01T{hour:02}:{n:02}:00\n")).collect()
    };
    let splits = [rows(0, 10), rows(1, 12), rows(2, 4), rows(4, 11)];
    let splits: Vec<&str> = splits.iter().map(String::as_str).collect();
    shop.shelf.put("raw", &splits);
    let warnings = |hour: i64| shop.run(hour * 3600, (hour + 1) * 3600).map_err(|e| shown(&e)).expect("runs").warnings;
    assert_eq!(warnings(0), Vec::<String>::new(), "there is none before");
    assert_eq!(warnings(1), Vec::<String>::new());
    assert_eq!(warnings(2), ["`out` has 4 rows, `usual` expects 11 within 50 %, the mean of the last 2 intervals"]);
    let empty = warnings(3);
    assert!(
        empty.iter().any(|warning| warning == "`out` gets no rows, where the last 3 intervals have 8 on average"),
        "{empty:?}"
    );
    assert_eq!(warnings(4), ["`out` has 11 rows, `usual` expects 5 within 50 %, the mean of the last 3 intervals"]);
}

#[test]
fn what_is_read_is_looked_at_before_it_is() {
    let sql = "CREATE EXPECTATION e ON raw ROWS AT LEAST 8 ON VIOLATION FAIL;";
    let shop = shop(sql);
    let error = shown(&run(&shop).expect_err("fails"));
    assert!(error.contains("step expect raw") && error.contains("`raw` has 7 rows"), "{error}");
    let warned = self::shop("CREATE EXPECTATION e ON raw CHECK (region <> 'xx') ON VIOLATION WARN;");
    assert_eq!(run(&warned).expect("runs").warnings, ["1 row of `raw` not as `e` expects"]);
    let error = shown(&run(&self::shop("CREATE EXPECTATION e ON raw CHECK (id > 1);")).expect_err("refused"));
    assert!(error.contains("P116") && error.contains("CONSTRAINT e CHECK"), "{error}");
    let error = shown(&run(&self::shop("CREATE EXPECTATION e ON regions CHECK (name <> '');")).expect_err("refused"));
    assert!(error.contains("neither reads nor writes `regions`"), "{error}");
}
