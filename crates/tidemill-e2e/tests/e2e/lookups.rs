//! A table that a stream looks rows up in changes while the stream runs: later rows meet the new version, those before stay
//! as they are; a table that cannot be read stops nothing.
//!
//! **Invariant:** which version a row met is on record with its epoch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::Int64Type;
use tidemill::{Live, RunOptions, Workspace};
use tidemill_model::{Clock, Timestamp, Trigger};
use tidemill_runtime::AtOnce;
use tidemill_runtime::exec::{Limits, StopFlag, Views};
use tidemill_sql::batch::query;
use tidemill_testkit::{Crash, Ending, Outside, ProjectFolder, Rng, Simulation, VirtualClock};
use tokio::runtime::Handle;

use crate::agreement::project::PRESENT;
use crate::agreement::world::World;
use crate::knobs;

const PROJECT: &str = "
CREATE PIPELINE p WITH (trigger = 'continuous', checkpoint = '20 ms');
CREATE TABLE orders (id BIGINT, region BIGINT, at TIMESTAMP, WATERMARK FOR at AS at - INTERVAL '10 seconds')
  WITH (connector = 'log', topic = 'orders', partitions = '3', key = 'id', format = 'json');
CREATE TABLE regions (region BIGINT, note VARCHAR NOT NULL)
  WITH (connector = 'files', path = 'regions.jsonl', format = 'json', bounded = 'true', refresh = '500 ms');
CREATE TABLE out (id BIGINT, note VARCHAR) WITH (connector = 'log', topic = 'out', partitions = '2', format = 'json');
INSERT INTO out SELECT o.id, r.note FROM orders AS o LEFT JOIN regions AS r ON o.region = r.region;
";

/// 2026-01-01.
const FROM: i64 = 1_767_225_600_000_000;

fn orders() -> RecordBatch {
    let ids: Vec<i64> = (0..2_000).collect();
    let columns: [(&str, ArrayRef); 3] = [
        ("id", Arc::new(Int64Array::from(ids.clone()))),
        ("region", Arc::new(Int64Array::from_iter_values(ids.iter().map(|id| id % 5)))),
        ("at", Arc::new(TimestampMicrosecondArray::from_iter_values(ids.iter().map(|id| FROM + id * 10_000)))),
    ];
    RecordBatch::try_from_iter(columns).expect("orders")
}

/// The table at a version. Its last line is a row that nobody accepts.
fn regions(version: &str) -> String {
    let lines = (0..5).map(|region| format!("{{\"region\": {region}, \"note\": \"{version}\"}}\n"));
    lines.collect::<String>() + "{\"region\": 9, \"note\": null}\n"
}

/// What the world does once all rows that have arrived are committed.
#[derive(Debug, Clone, Copy)]
enum Change {
    /// The table is replaced by another version, which is waited for.
    Version(&'static str),
    /// It is gone; a reading that fails is waited for.
    Gone,
}

const CHANGES: &[Change] = &[Change::Version("two"), Change::Gone, Change::Version("three"), Change::Version("four")];

struct Shop {
    folder: ProjectFolder,
    clock: Arc<VirtualClock>,
    runtime: tokio::runtime::Runtime,
    /// Which version each row that was seen has met.
    met: BTreeMap<i64, String>,
    version: &'static str,
    /// The versions that rows may have met since it was looked last.
    recent: BTreeSet<&'static str>,
}

impl Shop {
    fn open(&self) -> Workspace {
        Workspace::open(self.folder.path(), self.clock.clone(), &|_| None).expect("opens")
    }

    fn put(&mut self, version: &'static str) {
        let new = self.folder.path().join("_regions.new");
        std::fs::write(&new, regions(version)).expect("writes");
        std::fs::rename(new, self.folder.path().join("regions.jsonl")).expect("renames");
        self.version = version;
        self.recent.insert(version);
    }

    /// Rows that are new in the result have met a recent version; the others are as they were.
    fn look(&mut self) {
        let workspace = self.open();
        let (stored, resources) = (workspace.stored(), workspace.resources());
        let sql = "SELECT id, note FROM out";
        let asked = query(&workspace.catalog, &stored, sql, &resources, StopFlag::default());
        for batch in self.runtime.block_on(asked).expect("answers").batches {
            let ids = batch.column(0).as_primitive::<Int64Type>().values().to_vec();
            for (id, note) in ids.into_iter().zip(batch.column(1).as_string::<i32>()) {
                let note = note.expect("every region is there").to_owned();
                match self.met.get(&id) {
                    Some(known) => assert_eq!(*known, note, "order {id}"),
                    None => {
                        assert!(self.recent.contains(note.as_str()), "order {id} met {note}, not {:?}", self.recent)
                    }
                }
                self.met.insert(id, note);
            }
        }
    }
}

/// One process; answers whether it ended by itself.
fn process(shop: &mut Shop, world: &mut World, changes: &mut usize, crash: Option<Crash>, random: &mut Rng) -> bool {
    let (workspace, stop) = (shop.open(), StopFlag::default());
    let options = RunOptions {
        trigger: Some(Trigger::Continuous),
        lanes: Some(random.usize(1..=3)),
        limits: Limits { discovery: Duration::from_millis(3), queue_batches: 2, ..Limits::default() },
        background: Arc::new(AtOnce),
    };
    let live = Live::open(&workspace, "p", &options, &Arc::new(Views::default()), &stop).expect("opens");
    assert_eq!(live.lookups.refused()["regions"].values().sum::<u64>(), 1, "the row without a note is counted");
    let handle = shop.runtime.handle().clone();
    let progress = Arc::clone(&live.progress);
    let (dataflow, _lock) = live.into_dataflow();
    let clock = Arc::clone(&shop.clock);
    let mut calm: (u64, Timestamp) = (u64::MAX, clock.now());
    let (mut looked, mut waiting) = (u64::MAX, None::<Change>);
    let mut outside = |random: &mut Rng| {
        let seen = progress.snapshot();
        if let Some(change) = waiting {
            let there = seen.tables.first().is_some_and(|table| match change {
                Change::Version(_) => table.met.failed.is_none() && is_newest(&workspace, &handle, table),
                Change::Gone => table.met.failed.is_some(),
            });
            // What was read before is committed too, and is looked at before only the new version counts.
            if there && seen.rows_read == seen.counters.rows_read {
                waiting = None;
                shop.look();
                shop.recent = BTreeSet::from([shop.version]);
                world.deliver(random)?;
            }
            return Ok(Outside::Goes);
        }
        if *changes == CHANGES.len() && random.u32(0..10) == 0 && world.deliver(random)? {
            return Ok(Outside::Goes);
        }
        // All is committed, and has been for a while.
        let committed = seen.counters.rows_read;
        if committed != calm.0 || seen.rows_read != committed {
            calm = (committed, clock.now());
            return Ok(Outside::Goes);
        }
        if clock.now().since(calm.1) < Duration::from_millis(100) || committed == 0 {
            return Ok(Outside::Goes);
        }
        if looked != committed {
            shop.look();
            looked = committed;
        }
        let Some(change) = CHANGES.get(*changes) else {
            return Ok(if world.is_empty() { Outside::Done } else { Outside::Goes });
        };
        *changes += 1;
        waiting = Some(*change);
        match change {
            Change::Version(version) => shop.put(version),
            Change::Gone => std::fs::remove_file(shop.folder.path().join("regions.jsonl")).expect("removes"),
        }
        Ok(Outside::Goes)
    };
    let (clock, settles_in) = (Arc::clone(&clock), Duration::from_secs(3));
    let mut simulation = Simulation { clock: &clock, random, progress: &progress, stop: &stop, settles_in, crash };
    let ended = simulation.run(dataflow, &mut outside).expect("nothing fails");
    if !matches!(ended, Ending::Ended) {
        // A process that begins needs the table.
        let version = shop.version;
        shop.put(version);
        return false;
    }
    shop.look();
    true
}

/// Whether rows meet what the file holds now.
fn is_newest(workspace: &Workspace, handle: &Handle, table: &tidemill_runtime::exec::TableStatus) -> bool {
    let now = workspace.catalog.version("regions", tidemill_sql::Side::Live);
    let now = handle.block_on(now).expect("is there").expect("tells");
    table.met.versions.get("regions") == Some(&now.token)
}

#[test]
fn later_rows_meet_a_changed_table_and_nothing_stops() {
    for round in 0..knobs::rounds() {
        for deaths in [0, 2] {
            let seed = knobs::seed_of(&["lookups", &round.to_string(), &deaths.to_string()]);
            let random = &mut Rng::with_seed(seed);
            let folder = ProjectFolder::new("[project]\nname = \"shop\"\n").expect("a folder");
            folder.write("pipelines/p.sql", PROJECT).expect("writes");
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            let mut shop = Shop {
                folder,
                clock: Arc::new(VirtualClock::at(PRESENT)),
                runtime: runtime.expect("a runtime"),
                met: BTreeMap::new(),
                version: "",
                recent: BTreeSet::new(),
            };
            shop.put("one");
            let mut world = World::new(&shop.open(), &[("orders".to_owned(), orders())], &[], random).expect("a world");
            world.begin().expect("rows arrive");
            let (mut changes, mut died) = (0, 0);
            loop {
                let crash = (died < deaths).then(|| Crash::AfterCommitSteps(random.u64(5..40)));
                if process(&mut shop, &mut world, &mut changes, crash, random) {
                    break;
                }
                died += 1;
            }
            assert_eq!(shop.met.len(), 2_000, "every order is there, seed {seed}");
            let newest = shop.open().checkpoints("p").latest().expect("reads").expect("epochs");
            assert!(newest.tables["out.lookup"].versions.contains_key("regions"), "the version is on record");
            let notes: BTreeSet<&str> = shop.met.values().map(String::as_str).collect();
            assert!(deaths > 0 || notes.len() >= 3, "versions met: {notes:?}");
        }
    }
}
