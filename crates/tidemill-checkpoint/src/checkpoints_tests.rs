//! Tests of [`Checkpoints`]: what stands after a crash between any two steps.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tidemill_model::{Epoch, Kind, Timestamp};

use super::{Checkpoints, KEPT, name_part};
use crate::{BlobStore, ChunkRef, Fault, Manifest, Memory, OperatorState};

fn manifest(epoch: u64, chunks: BTreeMap<String, ChunkRef>) -> Manifest {
    let state = OperatorState { fingerprint: "f".to_owned(), lanes: 1, chunks };
    Manifest {
        fingerprint: "f".to_owned(),
        state: BTreeMap::from([("sum".to_owned(), state)]),
        ..Manifest::first("orders", Epoch(epoch), Timestamp(0))
    }
}

fn chunk(key: &str, text: &str) -> (String, Bytes) {
    (key.to_owned(), Bytes::copy_from_slice(text.as_bytes()))
}

fn opened(store: &Arc<Memory>) -> Checkpoints {
    Checkpoints::new(Arc::clone(store) as Arc<dyn BlobStore>, "orders")
}

/// One epoch as an executor commits it: dead letters and changed state, then the manifest, then pruning.
fn commit(checkpoints: &Checkpoints, last: Option<&Manifest>, epoch: u64) -> tidemill_model::Result<Manifest> {
    checkpoints.write_dead_letters("raw", Epoch(epoch), b"dead")?;
    let hot = chunk("0/hot", &format!("hot {epoch}"));
    let mut chunks = last.map(|m| m.state["sum"].chunks.clone()).unwrap_or_default();
    if epoch == 1 {
        chunks.extend(checkpoints.write_state(Epoch(epoch), vec![hot, chunk("0/cold", "cold")])?);
    } else {
        chunks.extend(checkpoints.write_state(Epoch(epoch), vec![hot])?);
    }
    let manifest = manifest(epoch, chunks);
    checkpoints.create(&manifest)?;
    checkpoints.prune(&manifest)?;
    Ok(manifest)
}

fn read(checkpoints: &Checkpoints, manifest: &Manifest, key: &str) -> String {
    let bytes = checkpoints.read_chunk(&manifest.state["sum"].chunks[key]).expect("reads");
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn a_new_pipeline_has_no_manifest() {
    assert_eq!(opened(&Arc::default()).latest().expect("reads"), None);
}

#[test]
fn the_newest_manifest_is_found_and_equal() {
    let store = Arc::new(Memory::new());
    let checkpoints = opened(&store);
    let first = commit(&checkpoints, None, 1).expect("commits");
    let second = commit(&checkpoints, Some(&first), 2).expect("commits");
    assert_eq!(opened(&store).latest().expect("reads"), Some(second.clone()));
    assert_eq!(read(&checkpoints, &second, "0/hot"), "hot 2");
    assert_eq!(read(&checkpoints, &second, "0/cold"), "cold");
    let other = Checkpoints::new(store, "orders2");
    assert_eq!(other.latest().expect("reads"), None);
}

/// Whichever write of an epoch is the last one that happens, the next process finds either the old epoch or the new
/// one, with all its state and dead letters, and goes on.
#[test]
fn a_crash_between_any_two_steps_leaves_one_epoch_or_the_other() {
    let mut crashes = 0;
    for at in 0.. {
        let mut finished = true;
        for fault in [Fault::Before, Fault::After] {
            let store = Arc::new(Memory::new());
            let mut last = None;
            let before = opened(&store);
            for epoch in 1..=KEPT as u64 + 2 {
                last = Some(commit(&before, last.as_ref(), epoch).expect("commits"));
            }
            let old = last.expect("committed");
            store.fail_after(at, fault);
            let outcome = commit(&before, Some(&old), old.epoch.0 + 1);
            store.heal();
            finished &= outcome.is_ok();
            crashes += usize::from(outcome.is_err());

            let after = opened(&store);
            let found = after.latest().expect("reads").expect("is there");
            assert!(found.epoch == old.epoch || found.epoch == old.epoch.next(), "{at} {fault:?}");
            after.clean(&found).expect("cleans");
            let letters = after.dead_letter_files("raw", &manifest(1000, BTreeMap::new())).expect("lists");
            assert_eq!(letters.len() as u64, found.epoch.0, "{at} {fault:?}");
            assert_eq!(read(&after, &found, "0/hot"), format!("hot {}", found.epoch), "{at} {fault:?}");
            assert_eq!(read(&after, &found, "0/cold"), "cold", "{at} {fault:?}");

            let next = commit(&after, Some(&found), found.epoch.0 + 1).expect("goes on");
            assert_eq!(read(&after, &next, "0/hot"), format!("hot {}", next.epoch));
            let files = store.list("pipelines/orders/state/").expect("lists").len();
            assert_eq!(files, KEPT + 1, "nothing is left over: {at} {fault:?}");
        }
        if finished {
            break;
        }
    }
    assert!(crashes >= 8, "only {crashes} crashes were tried");
}

#[test]
fn old_manifests_and_their_state_go_but_state_still_in_use_stays() {
    let store = Arc::new(Memory::new());
    let checkpoints = opened(&store);
    let mut last = None;
    for epoch in 1..=50 {
        last = Some(commit(&checkpoints, last.as_ref(), epoch).expect("commits"));
    }
    assert_eq!(store.list("pipelines/orders/epochs/").expect("lists").len(), KEPT);
    // The first epoch's file holds the cold chunk, which the newest manifest still refers to.
    let files = store.list("pipelines/orders/state/").expect("lists");
    assert_eq!(files.len(), KEPT + 1, "{files:?}");
    assert!(files[0].starts_with("pipelines/orders/state/00000000000000000001-"), "{files:?}");
    assert_eq!(read(&checkpoints, &last.expect("committed"), "0/cold"), "cold");
}

#[test]
fn of_two_processes_one_commits_and_the_other_is_fenced() {
    let store = Arc::new(Memory::new());
    let (ours, theirs) = (opened(&store), opened(&store));
    let mine = manifest(1, ours.write_state(Epoch(1), vec![chunk("0/hot", "mine")]).expect("writes"));
    let yours = manifest(1, theirs.write_state(Epoch(1), vec![chunk("0/hot", "yours")]).expect("writes"));
    ours.create(&mine).expect("first");
    let error = theirs.create(&yours).expect_err("second");
    assert_eq!((error.kind(), error.code()), (Kind::Fenced, "F002"));
    assert_eq!(read(&theirs, &mine, "0/hot"), "mine", "the loser did not touch the winner's file");
    ours.prune(&mine).expect("prunes");
    assert_eq!(store.list("pipelines/orders/state/").expect("lists").len(), 1, "the loser's file is gone");
}

#[test]
fn threads_that_race_for_an_epoch_have_one_winner() {
    let store = Arc::new(Memory::new());
    let threads: Vec<_> = (0..8)
        .map(|i| {
            let checkpoints = opened(&store);
            std::thread::spawn(move || {
                let mut mine = manifest(1, BTreeMap::new());
                mine.committed_at = Timestamp(i);
                checkpoints.create(&mine).is_ok()
            })
        })
        .collect();
    assert_eq!(threads.into_iter().map(|t| t.join().expect("joins")).filter(|won| *won).count(), 1);
}

#[test]
fn asking_again_after_a_lost_answer_is_no_fence() {
    let store = Arc::new(Memory::new());
    let checkpoints = opened(&store);
    store.fail_after(0, Fault::After);
    checkpoints.create(&manifest(1, BTreeMap::new())).expect_err("the answer is lost");
    store.heal();
    checkpoints.create(&manifest(1, BTreeMap::new())).expect("it was ours");
}

#[test]
fn a_damaged_newest_manifest_is_never_skipped() {
    let store = Arc::new(Memory::new());
    let checkpoints = opened(&store);
    let first = commit(&checkpoints, None, 1).expect("commits");
    commit(&checkpoints, Some(&first), 2).expect("commits");
    let name = "pipelines/orders/epochs/00000000000000000002.json";
    let whole = store.get(name).expect("reads").expect("is there");
    let half = whole.slice(..whole.len() / 2);
    let renamed = store.get("pipelines/orders/epochs/00000000000000000001.json").expect("reads").expect("is there");
    for damaged in [Bytes::new(), half, renamed] {
        store.put(name, &damaged).expect("writes");
        let error = checkpoints.latest().expect_err("damaged");
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(error.message().contains(name) && !error.facts().is_empty(), "{error}");
    }
}

#[test]
fn damaged_state_is_told_from_whole() {
    let store = Arc::new(Memory::new());
    let checkpoints = opened(&store);
    let chunks =
        checkpoints.write_state(Epoch(1), vec![chunk("0/a", "first"), chunk("0/b", "second")]).expect("writes");
    let file = chunks["0/a"].file.clone();
    store.put(&file, b"firstsecand").expect("writes");
    assert_eq!(checkpoints.read_chunk(&chunks["0/a"]).expect("whole").as_ref(), b"first");
    assert_eq!(checkpoints.read_chunk(&chunks["0/b"]).expect_err("changed").code(), "X002");
    store.put(&file, b"firstsec").expect("writes");
    assert_eq!(checkpoints.read_chunk(&chunks["0/b"]).expect_err("cut").code(), "X003");
    store.delete(&file).expect("deletes");
    assert_eq!(checkpoints.read_chunk(&chunks["0/b"]).expect_err("gone").code(), "X003");
}

#[test]
fn a_full_disk_is_one_clear_error_and_commits_nothing() {
    let store = Arc::new(Memory::new());
    let checkpoints = opened(&store);
    store.fail_after(0, Fault::Before);
    let error = commit(&checkpoints, None, 1).expect_err("no room");
    assert_eq!((error.kind(), error.code()), (Kind::Unavailable, "U010"));
    store.heal();
    assert_eq!(checkpoints.latest().expect("reads"), None);
}

#[test]
fn any_name_is_one_part_of_a_path() {
    let cases =
        [("orders", "orders"), ("a.b", "a.b"), ("..", "%2E."), ("a/b", "a%2Fb"), ("é", "%C3%A9"), ("a b", "a%20b")];
    for (name, part) in cases {
        assert_eq!(name_part(name), part);
    }
}

#[test]
fn what_is_known_to_be_published_is_one_manifest() {
    let store: Arc<Memory> = Arc::default();
    let checkpoints = opened(&store);
    let seventh = manifest(7, BTreeMap::new());
    assert!(!checkpoints.is_published(&seventh).expect("reads"));
    checkpoints.mark_published(&seventh).expect("writes");
    let again = Manifest { committed_at: Timestamp(1), ..seventh.clone() };
    let others = [manifest(6, BTreeMap::new()), manifest(8, BTreeMap::new()), again];
    assert!(opened(&store).is_published(&seventh).expect("reads"));
    assert!(
        others.iter().all(|other| !checkpoints.is_published(other).expect("reads")),
        "of a state that was set back"
    );
    store.put("pipelines/orders/published", b"seven").expect("writes");
    assert!(!checkpoints.is_published(&seventh).expect("reads"), "a damaged note knows nothing");
}

#[test]
fn an_epoch_that_was_removed_by_age_is_not_free_again() {
    let store = Arc::new(Memory::new());
    let (live, held) = (opened(&store), opened(&store));
    let mut last = None;
    for epoch in 1..=2 * KEPT as u64 {
        last = Some(commit(&live, last.as_ref(), epoch).expect("commits"));
    }
    let error = held.create(&manifest(2, BTreeMap::new())).expect_err("another process was here");
    assert_eq!(error.kind(), Kind::Fenced, "{error}");
    assert_eq!(live.latest().expect("reads"), last);
    let names = store.list("pipelines/orders/epochs/").expect("lists");
    assert_eq!(names.len(), KEPT, "and nothing of it stays: {names:?}");
}

/// Shows nothing that was created after it was made.
#[derive(Debug)]
struct Lagging(Arc<Memory>, Vec<String>);

impl BlobStore for Lagging {
    fn put(&self, name: &str, bytes: &[u8]) -> tidemill_model::Result<()> {
        self.0.put(name, bytes)
    }

    fn create(&self, name: &str, bytes: &[u8]) -> tidemill_model::Result<bool> {
        self.0.create(name, bytes)
    }

    fn get(&self, name: &str) -> tidemill_model::Result<Option<Bytes>> {
        self.0.get(name)
    }

    fn get_range(&self, name: &str, start: u64, length: u64) -> tidemill_model::Result<Bytes> {
        self.0.get_range(name, start, length)
    }

    fn list(&self, prefix: &str) -> tidemill_model::Result<Vec<String>> {
        Ok(self.1.iter().filter(|name| name.starts_with(prefix)).cloned().collect())
    }

    fn delete(&self, name: &str) -> tidemill_model::Result<()> {
        self.0.delete(name)
    }
}

#[test]
fn a_listing_that_lags_hides_no_epoch() {
    let store = Arc::new(Memory::new());
    let checkpoints = opened(&store);
    for listed in [0, 1, 3] {
        let shown = store.list("").expect("lists");
        let lagging = Checkpoints::new(Arc::new(Lagging(Arc::clone(&store), shown)), "orders");
        let mut last = checkpoints.latest().expect("reads");
        for epoch in listed + 1..=listed + 2 {
            last = Some(commit(&checkpoints, last.as_ref(), epoch).expect("commits"));
        }
        assert_eq!(lagging.latest().expect("reads"), last);
        // As if the second had not been: the next round begins one further.
        if listed == 0 {
            store.delete(&format!("pipelines/orders/epochs/{:020}.json", 2)).expect("removes");
        }
    }
}
