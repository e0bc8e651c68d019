//! Queries over datasets and views.

use super::*;

#[test]
fn queries_see_accepted_rows_views_and_each_lane_count_alike() {
    let sql = "CREATE VIEW europe AS SELECT * FROM raw WHERE region = 'eu';
        CREATE MATERIALIZED VIEW v AS SELECT region, count(*) AS n FROM raw GROUP BY region;";
    for lanes in [1, 4] {
        let shop = Shop { lanes, ..Shop::new(sql) };
        let cases: &[(&str, &[&str])] = &[
            ("SELECT count(*), sum(amount) FROM raw", &["7,350"]),
            ("SELECT id FROM europe ORDER BY id DESC", &["8", "5", "3", "1"]),
            ("SELECT e.id, d.name FROM europe e JOIN regions d USING (region) WHERE e.amount > 50", &["8,Europe"]),
            ("SELECT count(*) FROM raw, regions", &["14"]),
            ("SELECT a.id FROM raw a JOIN raw b ON a.id + 1 = b.id ORDER BY 1", &["1", "2", "7", "8"]),
            ("SELECT * FROM v", &[]),
            ("SELECT now()", &["1970-01-01T00:16:40"]),
            (
                "SELECT window_end, count(*) FROM TUMBLE(raw, at, INTERVAL '5 seconds') GROUP BY 1 ORDER BY 1",
                &["1970-01-01T00:00:05,4", "1970-01-01T00:00:10,3"],
            ),
        ];
        for (sql, rows) in cases {
            assert_eq!(shop.query(sql).map_err(|e| shown(&e)).expect(sql), *rows, "{sql}");
        }
    }
}

#[test]
fn a_materialized_view_is_what_its_newest_epoch_stored() {
    let shop = Shop::new("CREATE MATERIALIZED VIEW v AS SELECT region, count(*) AS n FROM raw GROUP BY region;");
    let checkpoints = Checkpoints::new(Arc::clone(&shop.store) as _, "p");
    for epoch in 1..=2_u64 {
        let chunk = |region: &str, n: i64| {
            let region: ArrayRef = Arc::new(StringArray::from(vec![region]));
            // As an older program wrote it: the columns lie in another order.
            let n: ArrayRef = Arc::new(Int64Array::from(vec![n]));
            let weight: ArrayRef = Arc::new(Int64Array::from(vec![1]));
            let gone: ArrayRef = Arc::new(BooleanArray::from(vec![false]));
            let columns = [("n", n), ("region", region), (WEIGHT, weight), (GONE, gone)];
            ipc::encode_batch(&RecordBatch::try_from_iter(columns).expect("a batch")).expect("writes")
        };
        let chunks = vec![
            ("0/all.001.000.1".to_owned(), chunk("eu", epoch as i64)),
            ("1/all.001.000.1".to_owned(), chunk("us", 7)),
        ];
        let chunks = checkpoints.write_state(Epoch(epoch), chunks).expect("writes");
        let state = OperatorState { fingerprint: "f".to_owned(), lanes: 1, chunks };
        let view = ViewState { node: "v".to_owned(), complete_to: None, newest_arrival: None };
        let manifest = Manifest {
            state: BTreeMap::from([("v".to_owned(), state)]),
            views: BTreeMap::from([("v".to_owned(), view)]),
            ..Manifest::first("p", Epoch(epoch), Timestamp(0))
        };
        checkpoints.create(&manifest).expect("commits");
    }
    assert_eq!(shop.query("SELECT * FROM v ORDER BY n").map_err(|e| shown(&e)).expect("answers"), ["eu,2", "us,7"]);
    let joined = shop.query("SELECT r.name, v.n FROM v JOIN regions r USING (region) ORDER BY 1").expect("answers");
    assert_eq!(joined, ["America,7", "Europe,2"]);
    let other =
        Shop { store: Arc::clone(&shop.store), ..Shop::new("CREATE MATERIALIZED VIEW v AS SELECT id FROM raw;") };
    assert_eq!(other.query("SELECT * FROM v").expect_err("another query").code(), "P172");
}

#[test]
fn queries_change_nothing_and_err_at_their_place() {
    let shop = Shop::new(COPY);
    let cases = [
        ("INSERT INTO out SELECT id, at FROM raw", "P171"),
        ("DROP TABLE out", "P171"),
        ("CREATE TABLE t (id BIGINT)", "P171"),
        ("WITH x AS (DELETE FROM raw RETURNING id) SELECT * FROM x", "P171"),
        ("SELECT 1; SELECT 2", "P170"),
        ("", "P170"),
        ("SELECT id FROM rawr", "P105"),
        ("SELECT idd FROM raw", "P104"),
        ("SELECT * FROM rawr.dead_letters", "P105"),
    ];
    for (sql, code) in cases {
        let error = shop.query(sql).expect_err(sql);
        assert_eq!(error.code(), code, "{sql}: {}", shown(&error));
    }
    assert_eq!(shop.store.writes(), 0);
}
