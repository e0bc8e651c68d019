//! What is foretold of runs, beside what they then do.

use tidemill_model::Interval;

use super::super::{Amount, Anew, Forecast, Resources, forecast};
use super::{LOCAL, Shop, seconds, shown, spill};

/// Rows of ten seconds in five splits that follow each other.
const SPLITS: [&str; 5] = [
    "1,eu,10,1970-01-01T00:00:00\n2,us,20,1970-01-01T00:00:01.5\n",
    "3,eu,30,1970-01-01T00:00:02\n4,us,40,1970-01-01T00:00:03.999999\n",
    "5,eu,50,1970-01-01T00:00:04.5\n6,us,60,\n7,xx,70,1970-01-01T00:00:05\n",
    "8,eu,80,1970-01-01T00:00:06\n9,us,90,1970-01-01T00:00:07.5\n",
    "10,eu,10,1970-01-01T00:00:08\n11,us,20,1970-01-01T00:00:09.999999\n",
];
/// Queries whose scans reach back in time in other ways than windows, or over all of it.
const FAR: &[(&str, &str, &str)] = &[
    (
        "id BIGINT, at TIMESTAMP, total BIGINT",
        "write = 'replace', time_column = 'at'",
        "SELECT id, at, sum(amount) OVER (ORDER BY at RANGE BETWEEN INTERVAL '3 seconds' PRECEDING AND CURRENT ROW) FROM raw",
    ),
    (
        "id BIGINT, at TIMESTAMP",
        "write = 'replace', time_column = 'at'",
        "SELECT id, at FROM DEDUP(raw, at, INTERVAL '1 hour', PARTITION BY region)",
    ),
    (
        "region VARCHAR, window_end TIMESTAMP, n BIGINT, PRIMARY KEY (region, window_end)",
        "write = 'upsert'",
        "SELECT region, window_end, count(*) FROM SESSION(raw, at, INTERVAL '2 seconds', PARTITION BY region)
         GROUP BY region, window_start, window_end",
    ),
    (
        "region VARCHAR, total BIGINT, PRIMARY KEY (region)",
        "write = 'upsert'",
        "SELECT region, sum(amount) FROM raw GROUP BY region",
    ),
    (
        "l BIGINT, r BIGINT, PRIMARY KEY (l, r)",
        "write = 'upsert'",
        "SELECT l.id AS l, r.id AS r FROM raw l JOIN raw r ON l.region = r.region AND r.at BETWEEN l.at AND l.at + INTERVAL '2 seconds'",
    ),
    (
        "l BIGINT, r BIGINT, at TIMESTAMP, PRIMARY KEY (l)",
        "write = 'upsert'",
        "SELECT l.id AS l, r.id AS r, l.at FROM raw l ASOF JOIN raw r MATCH_CONDITION (l.at >= r.at) ON l.region = r.region",
    ),
];

impl Shop {
    fn foretold(&self, runs: &[(Interval, Anew)]) -> Forecast {
        let record = self.context().checkpoints.latest().expect("reads");
        let resources = Resources { partitions: self.lanes, memory: 100 << 20, spill: spill() };
        forecast(&self.catalog, "p", &resources, record.as_ref(), runs).map_err(|e| shown(&e)).expect("is foretold")
    }
}

impl Forecast {
    fn of(&self, dataset: &str) -> Amount {
        let read = self.reads.iter().find(|read| read.dataset == dataset).expect("is read");
        *read.found.as_ref().map_err(shown).expect("is known")
    }
}

fn shop(sql: &str, splits: &[&str]) -> Shop {
    let shop = Shop::new(sql);
    shop.shelf.put("raw", splits);
    shop
}

/// Intervals of two seconds.
fn pairs() -> Vec<(Interval, Anew)> {
    (0..5).map(|n| (seconds(2 * n, 2 * n + 2), Anew::Rest)).collect()
}

#[test]
fn runs_read_what_is_foretold_whatever_they_compute() {
    for (columns, write, select) in LOCAL.iter().chain(FAR) {
        let sql = format!(
            "CREATE TABLE out ({columns}) WITH (connector = 'shelf', path = 'out', {write}); INSERT INTO out {select};"
        );
        let shop = shop(&sql, &SPLITS);
        let first = shop.foretold(&pairs()).of("raw");
        assert_eq!((first.splits, first.new_splits, first.least_bytes), (5, 5, 0), "{select}");
        // A run of nothing: its look learns from when to when the rows of each split are.
        shop.run(-4, 0).map_err(|e| shown(&e)).expect("runs");
        let (looked, _) = shop.shelf.read("raw");
        shop.shelf.read("regions");
        assert!(looked >= 5 && first.most_reads >= 10, "{select}: {looked} {first:?}");

        let foretold = shop.foretold(&pairs());
        for n in 0..5 {
            shop.run(2 * n, 2 * n + 2).map_err(|e| shown(&e)).expect("runs");
        }
        for read in &foretold.reads {
            let of = foretold.of(&read.dataset);
            let (reads, bytes) = shop.shelf.read(&read.dataset);
            // A join of no rows with others need not look at these.
            let may_stop = select.contains("JOIN");
            let same = (reads, bytes) == (of.most_reads, of.most_bytes);
            assert!(same || may_stop && reads <= of.most_reads, "{select}, {}: {reads} {bytes} {of:?}", read.dataset);
            assert!(of.most_reads <= first.most_reads, "{select}: {of:?} {first:?}");
        }
    }
}

#[test]
fn only_what_overlaps_is_counted_and_that_once_for_each_interval() {
    let shop = shop(
        "CREATE TABLE out (id BIGINT, at TIMESTAMP) WITH (connector = 'shelf', path = 'out', write = 'replace', time_column = 'at');
        INSERT INTO out SELECT id, at FROM raw;",
        &[SPLITS[0], &SPLITS[1..4].concat(), SPLITS[4]],
    );
    shop.run(-4, 0).expect("runs");
    let of = |runs: &[(Interval, Anew)]| shop.foretold(runs).of("raw");
    let all = of(&pairs());
    assert_eq!((all.splits, all.most_reads), (3, 5), "the second split lies in three of the intervals");
    assert_eq!(all.most_bytes, (SPLITS[0].len() + 3 * SPLITS[1..4].concat().len() + SPLITS[4].len()) as u64);
    let last = of(&pairs()[4..]);
    assert_eq!((last.splits, last.most_reads, last.most_bytes), (1, 1, SPLITS[4].len() as u64));
    let after = of(&[(seconds(10, 12), Anew::Rest)]);
    assert_eq!(after, Amount::default());
    assert!(shop.foretold(&[]).reads.is_empty());
    // A file that nobody has looked at is read by the next look, and then by the runs of its times.
    shop.shelf.put("raw", &[SPLITS[0], &SPLITS[1..4].concat(), SPLITS[4], "12,eu,1,1970-01-01T00:00:01\n"]);
    let more = of(&pairs());
    assert_eq!((more.splits, more.new_splits, more.most_reads), (4, 1, 5 + 1 + 5));
    let many: Vec<_> = (0..100_000).map(|n| (seconds(n, n + 1), Anew::Rest)).collect();
    assert_eq!(of(&many).most_reads, 2 + 6 + 2 + 1 + 100_000, "the new file may have rows of any of them");
}

#[test]
fn what_an_attempt_has_done_is_not_read_again_and_own_tables_are_not_counted() {
    let shop = shop(
        "CREATE TABLE staging (id BIGINT, region VARCHAR, at TIMESTAMP, WATERMARK FOR at AS at)
            WITH (connector = 'shelf', path = 'staging', write = 'replace', time_column = 'at');
        CREATE TABLE named (id BIGINT, name VARCHAR, at TIMESTAMP)
            WITH (connector = 'shelf', path = 'named', write = 'replace', time_column = 'at');
        INSERT INTO staging SELECT id, region, at FROM raw;
        INSERT INTO named SELECT s.id, r.name, s.at FROM staging s JOIN regions r ON r.region = s.region;",
        &SPLITS,
    );
    let names = |runs: &[(Interval, Anew)]| -> Vec<String> {
        let foretold = shop.foretold(runs);
        let targets: Vec<&str> = foretold.rewrites.iter().map(|target| target.dataset.as_str()).collect();
        assert!(foretold.rewrites.iter().all(|target| matches!(target.found, Ok(None))), "a shelf cannot tell");
        foretold.reads.iter().map(|read| read.dataset.as_str()).chain(targets).map(str::to_owned).collect()
    };
    let run = |anew| [(seconds(0, 10), anew)];
    assert_eq!(names(&run(Anew::Rest)), ["raw", "regions", "staging", "named"]);
    shop.shelf.fail_writing(Some("named"));
    shop.run(0, 10).expect_err("fails");
    assert_eq!(names(&run(Anew::Rest)), ["regions", "named"]);
    assert_eq!(names(&run(Anew::All)), ["raw", "regions", "staging", "named"]);
}

#[test]
fn expectations_read_too() {
    let shop = shop(
        "CREATE TABLE out (id BIGINT, at TIMESTAMP) WITH (connector = 'shelf', path = 'out', write = 'replace', time_column = 'at');
        INSERT INTO out SELECT id, at FROM raw;
        CREATE EXPECTATION positive ON raw CHECK (id > 0) ON VIOLATION FAIL;
        CREATE EXPECTATION fresh ON raw FRESH WITHIN INTERVAL '1 day' ON VIOLATION WARN;
        CREATE EXPECTATION known ON raw QUERY (SELECT a.id FROM raw a LEFT JOIN regions r ON r.region = a.region WHERE r.name IS NULL) ON VIOLATION WARN;
        CREATE EXPECTATION few ON out QUERY (SELECT o.id FROM out o, regions r WHERE o.id < 0) ON VIOLATION WARN;",
        &SPLITS,
    );
    shop.run(-4, 0).map_err(|e| shown(&e)).expect("runs");
    shop.shelf.read("raw");
    shop.shelf.read("regions");
    let foretold = shop.foretold(&pairs()[..1]);
    shop.run(0, 2).map_err(|e| shown(&e)).expect("runs");
    let (raw, regions) = (foretold.of("raw").most_reads, foretold.of("regions").most_reads);
    // The statement, one for each expectation, how many rows there are; and some of those that are not positive.
    assert_eq!((raw, regions), (1 + 3 + 1 + 1, 2));
    assert_eq!(shop.shelf.read("raw").0, raw - 1, "all are positive");
    assert!(shop.shelf.read("regions").0 <= regions);
}
