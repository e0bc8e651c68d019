//! What is not committed is cut off without a word; what is committed and damaged is named with its file and byte.

use std::fs::{OpenOptions, read, write};

use tidemill_model::Kind;
use tidemill_runtime::Pull;

use super::{World, expect, rows};

fn world() -> World {
    let world = World::new(&[("partitions", "1")]);
    for epoch in 1..=3 {
        world.publish("p", epoch, &[vec![rows(&format!("e{epoch}-"), 0..10)]]);
    }
    world
}

#[test]
fn a_torn_tail_is_invisible_and_cut_off() {
    let world = world();
    let segment = world.segments(0).remove(0);
    let whole = read(&segment).expect("reads");
    // Half of a good frame, as an append that was under way leaves it.
    for tail in [whole[..100].to_vec(), vec![0xff; 10_000], vec![0; 3]] {
        let mut torn = whole.clone();
        torn.extend_from_slice(&tail);
        write(&segment, torn).expect("writes");
        assert_eq!(world.texts(), expect(&[("e1-", 0..10), ("e2-", 0..10), ("e3-", 0..10)]));
    }
    world.publish("p", 4, &[vec![rows("e4-", 0..10)]]);
    assert_eq!(world.texts(), expect(&[("e1-", 0..10), ("e2-", 0..10), ("e3-", 0..10), ("e4-", 0..10)]));
    assert!(read(&segment).expect("reads").starts_with(&whole), "nothing committed was touched");
}

#[test]
fn a_flipped_bit_in_committed_bytes_is_an_error_with_file_and_byte() {
    let world = world();
    let segment = world.segments(0).remove(0);
    let whole = read(&segment).expect("reads");
    let frame = whole.len() / 3;
    for byte in [1, 9, 20, 41, frame - 1, frame + 2, frame + 45, whole.len() - 1] {
        let mut bent = whole.clone();
        bent[byte] ^= 4;
        write(&segment, bent).expect("writes");
        let mut reader = world.open(0, None).expect("opens");
        let error = loop {
            match reader.next() {
                Ok(Pull::Rows(_)) => {}
                Ok(other) => unreachable!("{other:?} in spite of byte {byte}"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), Kind::Corrupt, "byte {byte}");
        let begin = byte / frame * frame;
        let named = format!("{} is damaged at byte {begin}", segment.display());
        assert!(error.message().contains(&named), "{error} for byte {byte}");
    }
}

#[test]
fn missing_committed_bytes_are_an_error_for_readers_and_writers() {
    let world = world();
    let segment = world.segments(0).remove(0);
    let length = std::fs::metadata(&segment).expect("meta").len();
    OpenOptions::new().write(true).open(&segment).and_then(|file| file.set_len(length - 5)).expect("cut");
    let mut reader = world.open(0, None).expect("opens");
    let error = loop {
        match reader.next() {
            Ok(Pull::Rows(_)) => {}
            Ok(other) => unreachable!("{other:?}"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), Kind::Corrupt);
    let staged = world.stage("p", 4, &[vec![rows("e4-", 0..10)]]);
    let error = tidemill_runtime::SinkCommitter::commit(&mut world.committer("p"), tidemill_model::Epoch(4), &staged);
    assert_eq!(error.expect_err("refused").kind(), Kind::Corrupt);
    std::fs::remove_file(&segment).expect("removed");
    let mut reader = world.open(0, None).expect("opens");
    assert_eq!(reader.next().expect_err("missing").kind(), Kind::Corrupt);
}

#[test]
fn a_damaged_head_is_one_clear_error() {
    let world = world();
    let head = world.state().join("topics/t/head");
    let whole = read(&head).expect("reads");
    let mut both = whole.clone();
    for slot in [4096, 4096 + (1 << 20)] {
        both[slot + 30] ^= 1;
    }
    for (bytes, how) in [(both, "both slots"), (whole[..100].to_vec(), "cut"), (vec![0; 9000], "zeros")] {
        write(&head, bytes).expect("writes");
        let error = world.source().list_splits().expect_err(how);
        assert_eq!(error.kind(), Kind::Corrupt, "{how}");
        assert!(error.message().contains("head"), "{error}");
    }
    write(&head, whole).expect("writes");
    assert_eq!(world.texts().len(), 30);
}
