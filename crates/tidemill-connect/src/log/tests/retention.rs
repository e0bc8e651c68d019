//! Retention: whole segments go, by age and by size, and a reader who was too slow is told.

use tidemill_model::{Kind, Timestamp};

use super::{World, drain, rows};

const SECOND: i64 = 1_000_000;

#[test]
fn old_segments_go_and_the_rest_stays_whole() {
    let world = World::new(&[("partitions", "1"), ("segment_bytes", "1"), ("retention", "10 seconds")]);
    for epoch in 1..=20_u64 {
        world.clock.set(epoch.cast_signed() * SECOND);
        world.publish("p", epoch, &[vec![rows("a", 0..10)]]);
    }
    // The segment of second s goes when the next one, of s + 1, is ten seconds old.
    let stats = crate::log::topic_stats(&world.state(), "t").expect("reads").expect("exists");
    assert_eq!((stats.partitions[0].earliest, stats.partitions[0].end), (90, 200));
    assert_eq!(world.segments(0).len(), 11);
    assert_eq!(world.read(0, None).first().map(|(offset, _)| *offset), Some(90));
    assert_eq!(world.read(0, None).len(), 110);
    let found = crate::log::first_offset_at(&world.state(), "t", 0, Timestamp(3 * SECOND)).expect("found");
    assert_eq!(found, 90, "what is older begins with the oldest kept");

    let error = world.open(0, Some(50)).err().expect("lost");
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.message().contains("40 records"), "{error}");
    assert!(world.open(0, Some(90)).is_ok());
    let error = world.open(0, Some(201)).err().expect("beyond the end");
    assert_eq!(error.kind(), Kind::Corrupt);
}

#[test]
fn a_partition_keeps_at_least_the_bytes_asked_for() {
    let world =
        World::new(&[("partitions", "1"), ("segment_bytes", "1"), ("retention", "none"), ("retention_bytes", "1000")]);
    for epoch in 1..=30 {
        world.publish("p", epoch, &[vec![rows("abcdefgh", 0..10)]]);
    }
    let stats = crate::log::topic_stats(&world.state(), "t").expect("reads").expect("exists");
    let frame = 40 + 10 * 4 + 10 * 9;
    let held = 1000_u64.div_ceil(frame);
    assert_eq!(stats.bytes(), held * frame);
    assert_eq!(stats.partitions[0].earliest, (30 - held) * 10);
    assert_eq!(world.segments(0).len() as u64, held);
}

#[test]
fn a_reader_overtaken_by_retention_is_told_how_much_it_lost() {
    let world = World::new(&[("partitions", "1"), ("segment_bytes", "1"), ("retention", "2 seconds")]);
    world.clock.set(SECOND);
    world.publish("p", 1, &[vec![rows("a", 0..10)]]);
    let mut reader = world.open(0, None).expect("opens");
    assert_eq!(drain(&mut *reader).len(), 1);
    for epoch in 2..=9_u64 {
        world.clock.set(epoch.cast_signed() * SECOND);
        world.publish("p", epoch, &[vec![rows("a", 0..10)]]);
    }
    let error = reader.next().expect_err("overtaken");
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.message().contains("50 records"), "{error}");
}
