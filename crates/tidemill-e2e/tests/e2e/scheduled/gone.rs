//! Landing files that are archived: the tables keep their rows, late rows wait for somebody's word, and hours run on.

use std::fs::rename;
use std::time::Duration;

use tidemill::history::{History, RunState};
use tidemill::scheduler::Scheduler;
use tidemill_model::{Interval, Timestamp};
use tidemill_testkit::Rng;

use super::{HOUR, REPORT, World, ask, compare, hour, orders, pipeline, settle, start};
use crate::{binary, knobs};

/// A world in which orders land, hour by hour.
struct Landing {
    world: World,
    scheduler: Option<Scheduler>,
    random: Rng,
    first: u64,
}

impl Landing {
    fn new(seed: u64) -> Landing {
        let alerts = "[alerts]\ncommand = 'echo \"$TIDEMILL_ALERT_KIND: $TIDEMILL_ALERT_FIX: $TIDEMILL_ALERT_MESSAGE\" >> alerts'\n";
        // Alerts are run where the process was started.
        let mut world = World::with(&pipeline(), "");
        let alerts = alerts.replace(">> alerts", &format!(">> {}", world.project.join("alerts").display()));
        let config = std::fs::read_to_string(world.project.join("tidemill.toml")).expect("reads");
        world.project.write("tidemill.toml", format!("{config}{alerts}")).expect("writes");
        std::fs::create_dir_all(world.project.join("archive")).expect("a folder");
        let scheduler = Some(world.scheduler());
        Landing { world, scheduler, random: Rng::with_seed(seed), first: 0 }
    }

    fn land(&mut self, of: i64, name: &str) {
        let lines = orders(of, 8, &mut self.first, &mut self.random);
        self.world.project.write(&format!("landing/{name}.jsonl"), lines).expect("rows");
    }

    fn archive(&self, names: &[&str]) {
        self.shift(names, ("landing", "archive"));
    }

    fn put_back(&self, names: &[&str]) {
        self.shift(names, ("archive", "landing"));
    }

    fn shift(&self, names: &[&str], (from, to): (&str, &str)) {
        for name in names {
            let at = |folder: &str| self.world.project.join(&format!("{folder}/{name}.jsonl"));
            rename(at(from), at(to)).expect("moves");
        }
    }

    /// An hour's orders land, and the hour passes.
    async fn pass(&mut self, n: i64) {
        self.land(n, &format!("{n:05}"));
        self.world.clock.advance_to(Timestamp(hour(n).end.0 + 300_000_000));
        let mut scheduler = self.scheduler.take().expect("is there");
        settle(&mut scheduler, &self.world).await;
        self.scheduler = Some(scheduler);
    }

    /// It is gone without a word, and another one comes.
    fn die(&mut self) {
        self.scheduler = None;
        self.world.clock.advance(Duration::from_secs(21));
        self.scheduler = Some(self.world.scheduler());
    }

    fn ran(&self, words: &[&str]) -> binary::Ran {
        binary::run(self.world.project.path(), words)
    }

    /// The rows of the report before an hour.
    fn report(&self, end: i64) -> serde_json::Value {
        let end = hour(end).start.to_string().replace('T', " ").replace('Z', "");
        ask(
            &self.world.project,
            &REPORT.replace("ORDER BY", &format!("WHERE window_start < TIMESTAMP '{end}' ORDER BY")),
        )
    }

    fn generation(&self, n: i64) -> u64 {
        self.world.manifest().ledger.generation_of(hour(n)).expect("is done").0
    }

    fn gone(&self) -> Vec<(Interval, u64)> {
        let ranges = self.world.manifest().gone.ranges_of("landing");
        ranges.iter().map(|range| (range.interval, range.splits)).collect()
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

#[test]
fn late_rows_of_archived_hours_wait_for_somebody() {
    let mut landing = Landing::new(knobs::seed_of(&["scheduled", "gone"]));
    runtime().block_on(async {
        for n in 0..6 {
            landing.pass(n).await;
        }
        let before = landing.report(6);
        landing.archive(&["00001", "00002"]);
        landing.land(1, "late");
        for n in 6..8 {
            landing.pass(n).await;
            // The hours run on, one is refused once, and whoever comes next knows it.
            let manifest = landing.world.manifest();
            assert!(manifest.ledger.contains(Interval { start: start(), end: hour(n).end }));
            let open = manifest.runs.of(hour(1)).expect("is on record");
            assert!(open.is_given_up() && open.failed == 1, "{open:?}");
            assert_eq!(manifest.runs.iter().count(), 1);
            let both = Interval { start: hour(1).start, end: hour(2).end };
            assert_eq!((landing.gone(), landing.report(6)), (vec![(both, 2)], before.clone()));
            landing.die();
        }
        let line = "landing: 2 files gone (00001.jsonl), of 2026-01-01 01:00:00 - 03:00:00; restating what needs them is refused";
        for words in [&["plan", "orders"][..], &["runs", "orders"], &["status"]] {
            let ran = landing.ran(words);
            assert!(ran.out.contains(line), "{words:?}: {ran:?}");
        }
        let runs = landing.ran(&["runs", "orders", "--format", "json"]).json();
        let failed: Vec<_> = runs.as_array().expect("an array").iter().filter(|run| run["state"] == "failed").collect();
        assert_eq!((failed.len(), &failed[0]["code"], &failed[0]["cause"]), (1, &"D113".into(), &"late rows".into()), "{runs}");
        // An hour that has all of its files runs again; one that has not is refused, and told why.
        assert_eq!(landing.ran(&["rerun", "orders", "2026-01-01T03/1h"]).code, Some(0));
        let dry = landing.ran(&["backfill", "orders", "--only", "all", "--from", "2026-01-01", "--to", "2026-01-01T04", "--dry-run", "--format", "json"]);
        assert_eq!(dry.json()["refused_as_files_are_gone"], 2, "{dry:?}");
        let refused = landing.ran(&["rerun", "orders", "2026-01-01T02/1h"]);
        assert!(refused.code == Some(1) && refused.err.contains("the file `00002.jsonl` of `landing` is gone"), "{refused:?}");
        assert!(refused.err.contains("tidemill rerun orders 2026-01-01T02:00:00Z/2026-01-01T03:00:00Z --from-what-is-left"), "{refused:?}");
        assert!(landing.world.manifest().runs.of(hour(2)).is_none(), "whoever asked was told");
        assert_eq!(landing.report(6), before);
        // Back: all of it.
        landing.put_back(&["00001", "00002"]);
        landing.pass(8).await;
        let manifest = landing.world.manifest();
        assert!(manifest.runs.is_empty() && manifest.stale.is_empty() && manifest.gone.is_empty(), "{manifest:?}");
        assert_eq!((landing.generation(1), landing.generation(2), landing.generation(0)), (2, 2, 1));
        compare(&landing.world.project, hour(8).end);

        // Away for good, and somebody says so.
        landing.archive(&["00004"]);
        landing.land(4, "later");
        landing.pass(9).await;
        assert!(landing.world.manifest().runs.of(hour(4)).expect("is on record").is_given_up());
        let range = ["--from", "2026-01-01T04", "--to", "2026-01-01T05", "--only", "failed", "--yes"];
        let refused = landing.ran(&[&["backfill", "orders"][..], &range].concat());
        assert!(refused.code == Some(1) && refused.err.contains("00004.jsonl"), "{refused:?}");
        let ran = landing.ran(&[&["backfill", "orders", "--from-what-is-left"][..], &range].concat());
        assert_eq!(ran.code, Some(0), "{ran:?}");
        landing.land(4, "latest");
        landing.pass(10).await;
        let manifest = landing.world.manifest();
        assert!(manifest.runs.is_empty() && manifest.stale.is_empty() && manifest.gone.is_empty(), "{manifest:?}");
        assert_eq!(landing.generation(4), 3);
        let history = History::open(&landing.world.workspace().state).expect("a history");
        let runs = history.newest(Some("orders"), 100).expect("reads");
        assert_eq!(runs.iter().filter(|run| run.state == RunState::Failed).count(), 4, "{runs:?}");
        landing.scheduler.take().expect("is there").stop().await;
    });
    // The report is that of the files that are there.
    let end = hour(10).end.to_string().replace('T', " ").replace('Z', "");
    assert_eq!(
        ask(&landing.world.project, REPORT),
        ask(&landing.world.project, &super::EXPECTED.replace("@end", &end))
    );
    let alerts = std::fs::read_to_string(landing.world.project.join("alerts")).expect("alerts");
    let failed: Vec<&str> = alerts.lines().filter(|line| line.starts_with("failed: ")).collect();
    assert!(
        !failed.is_empty() && failed.iter().all(|line| line.starts_with("failed: tidemill plan orders: ")),
        "{alerts}"
    );
    assert!(failed.iter().any(|line| line.contains("the file `00001.jsonl` of `landing` is gone")), "{alerts}");
}

#[test]
fn files_that_are_archived_as_soon_as_they_were_read_are_not_missed() {
    let mut landing = Landing::new(knobs::seed_of(&["scheduled", "archived"]));
    let hours = i64::try_from(knobs::days()).expect("some days").min(3) * 24;
    runtime().block_on(async {
        for n in 0..hours {
            landing.pass(n).await;
            landing.archive(&[&format!("{n:05}")]);
            if n % 7 == 3 {
                landing.die();
            }
        }
        landing.scheduler.take().expect("is there").stop().await;
    });
    let manifest = landing.world.manifest();
    assert!(manifest.runs.is_empty() && manifest.stale.is_empty());
    assert_eq!(manifest.ledger.entries().len(), 1, "{:?}", manifest.ledger);
    // The last one was not looked for since.
    let all = Interval { start: start(), end: Timestamp(start().0 + (hours - 1) * HOUR) };
    assert_eq!(landing.gone(), [(all, u64::try_from(hours - 1).expect("some"))]);
    for n in 0..hours {
        landing.put_back(&[&format!("{n:05}")]);
    }
    compare(&landing.world.project, hour(hours - 1).end);
}
