//! Exactly once: death after every step of a commit, several producers, strange epochs.

use tidemill_model::{Epoch, Kind};
use tidemill_runtime::SinkCommitter;

use super::{World, drain, expect, rows};

/// Steps that a commit surely has fewer of.
const ENOUGH: usize = 40;

#[test]
fn death_after_any_step_loses_and_repeats_nothing() {
    let mut survived = false;
    for steps in 0..ENOUGH {
        // Segments of one frame: new files are created in every commit, and old ones expire.
        let world = World::new(&[("partitions", "3"), ("segment_bytes", "1"), ("retention_bytes", "100000")]);
        world.publish("p", 1, &[vec![rows("a", 0..9)], vec![rows("b", 0..9)]]);
        let mut follower = world.open(0, None).expect("opens");
        let mut followed: Vec<_> = drain(&mut *follower).into_iter().flat_map(|(records, _)| records).collect();

        let lanes = [vec![rows("c", 0..30), rows("d", 0..30), rows("e", 0..30)], vec![rows("f", 0..30)]];
        let staged = world.stage("p", 2, &lanes);
        let mut dying = world.committer("p");
        dying.dies_after = Some(steps);
        let died = dying.commit(Epoch(2), &staged).is_err();
        drop(dying);

        let before = expect(&[("a", 0..9), ("b", 0..9)]);
        let after = expect(&[("a", 0..9), ("b", 0..9), ("c", 0..30), ("d", 0..30), ("e", 0..30), ("f", 0..30)]);
        let seen = world.texts();
        assert!(seen == after || (died && seen == before), "all or nothing after {steps} steps");

        let mut next = world.committer("p");
        next.commit(Epoch(2), &staged).expect("the second attempt");
        next.abort_after(Epoch(2)).expect("cleaned");
        assert_eq!(world.texts(), after, "after {steps} steps");
        assert_eq!(world.staged_files("p"), 0, "after {steps} steps");

        world.publish("p", 3, &[vec![rows("g", 0..5)]]);
        let mut all = after;
        all.extend(expect(&[("g", 0..5)]));
        all.sort();
        assert_eq!(world.texts(), all, "the next epoch after {steps} steps");
        followed.extend(drain(&mut *follower).into_iter().flat_map(|(records, _)| records));
        assert_eq!(followed, world.read(0, None), "one who followed all the time, after {steps} steps");
        if !died {
            survived = true;
            break;
        }
    }
    assert!(survived, "the commit has fewer than {ENOUGH} steps");
}

#[test]
fn a_torn_head_is_as_if_it_was_not_written() {
    use std::os::unix::fs::FileExt;
    // Steps: the lock, one staged file, synced, folders, slot written. Then the power fails in the middle of the slot.
    let world = World::new(&[("partitions", "1")]);
    world.publish("p", 1, &[vec![rows("a", 0..9)]]);
    let staged = world.stage("p", 2, &[vec![rows("b", 0..9)]]);
    let mut dying = world.committer("p");
    dying.dies_after = Some(4);
    dying.commit(Epoch(2), &staged).expect_err("dies");
    drop(dying);
    let head = std::fs::OpenOptions::new().write(true).open(world.state().join("topics/t/head")).expect("opens");
    // The topic began with sequence 1, epoch 1 is 2, so epoch 2 is in the odd slot.
    head.write_all_at(b"torn", 4096 + (1 << 20) + 30).expect("written");
    assert_eq!(world.texts(), expect(&[("a", 0..9)]));
    world.committer("p").commit(Epoch(2), &staged).expect("committed");
    assert_eq!(world.texts(), expect(&[("a", 0..9), ("b", 0..9)]));
}

#[test]
fn an_epoch_is_seen_only_when_it_is_on_the_disk() {
    let world = World::new(&[("partitions", "1")]);
    world.publish("p", 1, &[vec![rows("a", 0..9)]]);
    let mut follower = world.open(0, None).expect("opens");
    assert_eq!(drain(&mut *follower).len(), 1);
    let staged = world.stage("p", 2, &[vec![rows("b", 0..9)]]);
    let mut dying = world.committer("p");
    dying.dies_after = Some(4);
    dying.commit(Epoch(2), &staged).expect_err("dies with the slot written, before it is synced");
    assert_eq!(drain(&mut *follower), vec![]);
    assert_eq!(world.texts(), expect(&[("a", 0..9)]));
    // The next one who takes the lock finds a whole slot and makes it good.
    world.committer("p").commit(Epoch(2), &staged).expect("known already");
    assert_eq!(drain(&mut *follower).len(), 1);
    assert_eq!(world.texts(), expect(&[("a", 0..9), ("b", 0..9)]));
}

#[test]
fn two_producers_interleave_and_keep_their_own_progress() {
    let world = World::new(&[("partitions", "2")]);
    for epoch in 1..=3 {
        world.publish("p", epoch, &[vec![rows(&format!("p{epoch}-"), 0..10)]]);
        world.publish("q", epoch, &[vec![rows(&format!("q{epoch}-"), 0..10)]]);
    }
    let parts = ["p1-", "p2-", "p3-", "q1-", "q2-", "q3-"].map(|prefix| (prefix, 0..10));
    assert_eq!(world.texts(), expect(&parts));
    let stats = crate::log::topic_stats(&world.state(), "t").expect("reads").expect("exists");
    assert_eq!(stats.producers, [("p/out".to_owned(), Epoch(3)), ("q/out".to_owned(), Epoch(3))]);
    assert_eq!((stats.records(), stats.partitions.len()), (60, 2));
    assert_eq!(crate::log::list_topics(&world.state()).expect("lists"), ["t"]);
}

#[test]
fn producers_at_the_same_time_do_not_disturb_each_other() {
    let world = World::new(&[("partitions", "2"), ("segment_bytes", "500")]);
    let follow = |world: &World| {
        let mut reader = world.open(0, None).expect("opens");
        let mut offsets = Vec::new();
        while offsets.len() < 400 {
            offsets.extend(drain(&mut *reader).into_iter().flat_map(|(records, _)| records).map(|(offset, _)| offset));
            std::thread::yield_now();
        }
        assert_eq!(offsets, (0..400).collect::<Vec<_>>());
    };
    std::thread::scope(|scope| {
        for pipeline in ["p", "q", "r", "s"] {
            let world = &world;
            scope.spawn(move || {
                for epoch in 1..=10 {
                    world.publish(pipeline, epoch, &[vec![rows(pipeline, 0..10), rows(pipeline, 10..20)]]);
                }
            });
        }
        scope.spawn(|| follow(&world));
    });
    assert_eq!(world.texts().len(), 800);
}

#[test]
fn a_run_that_counts_anew_is_stopped() {
    let world = World::new(&[("partitions", "1")]);
    for epoch in 1..=3 {
        world.publish("p", epoch, &[vec![rows(&format!("e{epoch}-"), 0..2)]]);
    }
    for epoch in [1, 3] {
        let staged = world.stage("p", epoch, &[vec![rows("other", 0..3)]]);
        let error = world.committer("p").commit(Epoch(epoch), &staged).expect_err("not the same epoch");
        assert_eq!(error.kind(), Kind::Fenced, "epoch {epoch}");
    }
    assert_eq!(world.texts(), expect(&[("e1-", 0..2), ("e2-", 0..2), ("e3-", 0..2)]));
}

#[test]
fn abort_removes_later_epochs_and_unfinished_files_only() {
    let world = World::new(&[("partitions", "1")]);
    let first = world.stage("p", 1, &[vec![rows("a", 0..2)]]);
    let _second = world.stage("p", 2, &[vec![rows("b", 0..2)]]);
    let sink = world.sink("p");
    let mut writer = sink.writer(7).expect("a writer");
    let long = "x".repeat(2_000_000);
    writer.write(&rows(&long, 0..1)).expect("written");
    std::mem::forget(writer);
    assert_eq!(world.staged_files("p"), 3);
    let mut committer = world.committer("p");
    committer.abort_after(Epoch(1)).expect("cleaned");
    assert_eq!(world.staged_files("p"), 1);
    committer.commit(Epoch(1), &first).expect("still there");
    world.publish("p", 2, &[vec![rows("b", 0..2)]]);
    assert_eq!(world.texts(), expect(&[("a", 0..2), ("b", 0..2)]));
}

#[test]
fn a_damaged_staged_file_is_not_committed() {
    use std::os::unix::fs::FileExt;
    let world = World::new(&[("partitions", "1")]);
    let staged = world.stage("p", 1, &[vec![rows("a", 0..20)]]);
    let path = world.staging("p").join("0-0.staged");
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).expect("opens");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 60).expect("reads");
    file.write_all_at(&[byte[0] ^ 1], 60).expect("writes");
    let error = world.committer("p").commit(Epoch(1), &staged).expect_err("damaged");
    assert_eq!(error.kind(), Kind::Corrupt);
    assert_eq!(world.texts(), Vec::<String>::new());
    std::fs::remove_file(&path).expect("removed");
    let error = world.committer("p").commit(Epoch(1), &staged).expect_err("gone");
    assert_eq!(error.kind(), Kind::Corrupt);
    let again = world.stage("p", 1, &[vec![rows("a", 0..20)]]);
    world.committer("p").commit(Epoch(1), &again).expect("committed");
    assert_eq!(world.texts(), expect(&[("a", 0..20)]));
}
