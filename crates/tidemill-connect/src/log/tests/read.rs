//! Readers: resuming anywhere, following, bounds, and beginning at a time.

use tidemill_model::{Kind, Offset, SplitId, Timestamp};
use tidemill_runtime::{Boundedness, Pull, ReadHints, Split};

use super::{World, drain, rows};

/// Small frames, large frames, several segments.
fn mixed() -> World {
    let world = World::new(&[("partitions", "1"), ("segment_bytes", "400000")]);
    let long = "x".repeat(3000);
    for epoch in 1..=12_u64 {
        world.clock.set(epoch.cast_signed() * 1_000_000);
        let first = (epoch.cast_signed() - 1) * 100;
        let prefix = if epoch % 4 == 0 { long.as_str() } else { "s" };
        world.publish("p", epoch, &[vec![rows(prefix, first..first + 100)]]);
    }
    world
}

#[test]
fn resuming_after_any_batch_and_at_any_record_gives_exactly_the_rest() {
    let world = mixed();
    assert!(world.segments(0).len() > 1, "several segments");
    let batches = drain(&mut *world.open(0, None).expect("opens"));
    assert!(batches.len() > 3, "several batches");
    let all: Vec<_> = batches.iter().flat_map(|(records, _)| records.clone()).collect();
    assert_eq!(all.len(), 1200);
    for (number, (_, resume)) in batches.iter().enumerate() {
        let rest = drain(&mut *world.open(0, Some(*resume)).expect("opens"));
        let rest: Vec<_> = rest.into_iter().flat_map(|(records, _)| records).collect();
        assert_eq!(rest, all[usize::try_from(*resume).expect("small")..], "after batch {number}");
    }
    // Each epoch is a frame, and offsets on record are at the end of one.
    for stop in (100..=1200).step_by(100) {
        let mut reader = world.open(0, None).expect("opens");
        reader.stop_at(&Offset::number(stop)).expect("an offset");
        let read: Vec<_> = drain(&mut *reader).into_iter().flat_map(|(records, _)| records).collect();
        assert_eq!(read, all[..usize::try_from(stop).expect("small")], "before {stop}");
    }
    for offset in [0, 1, 99, 100, 101, 350, 399, 777, 1199, 1200] {
        assert_eq!(world.read(0, Some(offset)), all[usize::try_from(offset).expect("small")..], "offset {offset}");
    }
}

#[test]
fn small_frames_are_gathered_and_large_ones_are_not() {
    let world = mixed();
    let sizes: Vec<usize> =
        drain(&mut *world.open(0, None).expect("opens")).iter().map(|(records, _)| records.len()).collect();
    assert_eq!(sizes, [300, 100, 300, 100, 300, 100]);
}

#[test]
fn a_reader_follows_and_tells_when_records_arrived() {
    let world = World::new(&[("partitions", "1"), ("segment_bytes", "100")]);
    let mut reader = world.open(0, None).expect("opens");
    assert!(matches!(reader.next(), Ok(Pull::AtEnd)));
    for epoch in 1..=5_u64 {
        world.clock.set(epoch.cast_signed() * 7);
        world.publish("p", epoch, &[vec![rows("a", 0..20)]]);
        let Ok(Pull::Rows(batch)) = reader.next() else { unreachable!("news") };
        assert_eq!(batch.arrived, Some(Timestamp(epoch.cast_signed() * 7)));
        assert_eq!(batch.resume, Offset::number(epoch * 20));
        assert!(matches!(reader.next(), Ok(Pull::AtEnd)));
    }
    world.clock.set(1);
    world.publish("p", 6, &[vec![rows("a", 0..1)]]);
    let Ok(Pull::Rows(batch)) = reader.next() else { unreachable!("news") };
    assert_eq!(batch.arrived, Some(Timestamp(35)), "time in a topic never goes back");
}

#[test]
fn a_bound_reader_stops_at_what_was_there() {
    let world = World::new(&[("partitions", "1")]);
    world.publish("p", 1, &[vec![rows("a", 0..10)]]);
    let mut reader = world.open(0, None).expect("opens");
    world.publish("p", 2, &[vec![rows("b", 0..10)]]);
    reader.bound_to_present().expect("bound");
    world.publish("p", 3, &[vec![rows("c", 0..10)]]);
    let count = |reader: &mut dyn tidemill_runtime::SplitReader| -> usize {
        drain(reader).iter().map(|(records, _)| records.len()).sum()
    };
    assert_eq!(count(&mut *reader), 20);
    assert_eq!(count(&mut *reader), 0);
    reader.bound_to_present().expect("bound again");
    assert_eq!(count(&mut *reader), 10);
}

#[test]
fn a_time_is_found_in_every_segment() {
    let world = mixed();
    for time in 0..=13_i64 {
        for (micros, epoch) in [(time * 1_000_000, time), (time * 1_000_000 + 1, time + 1)] {
            let expected = (epoch.clamp(1, 13) - 1).unsigned_abs() * 100;
            let found = crate::log::first_offset_at(&world.state(), "t", 0, Timestamp(micros)).expect("found");
            assert_eq!(found, expected, "at {micros}");
        }
    }
    let error = crate::log::first_offset_at(&world.state(), "t", 1, Timestamp(0)).expect_err("one partition");
    assert_eq!(error.kind(), Kind::Config);
}

#[test]
fn a_start_is_earliest_latest_or_a_time() {
    let mut world = mixed();
    for (start, first) in [("earliest", Some(0)), ("latest", None), ("1970-01-01T00:00:05Z", Some(400))] {
        world.options.retain(|(name, _)| *name != "start_from");
        world.options.push(("start_from", start));
        assert_eq!(world.read(0, None).first().map(|(offset, _)| *offset), first, "{start}");
        assert_eq!(world.read(0, Some(7)).first().map(|(offset, _)| *offset), Some(7), "progress wins over {start}");
    }
}

#[test]
fn a_reader_may_come_before_the_writer() {
    let world = World::new(&[("partitions", "2")]);
    let source = world.source();
    assert_eq!(source.boundedness(), Boundedness::Unbounded);
    let splits = source.list_splits().expect("splits");
    assert_eq!(splits.iter().map(|split| split.id.as_str()).collect::<Vec<_>>(), ["t/0", "t/1"]);
    let mut reader = source.open(&splits[1], None, &ReadHints::default()).expect("opens");
    assert!(matches!(reader.next(), Ok(Pull::AtEnd)));
    world.publish("p", 1, &[vec![rows("a", 0..1), rows("a", 1..2)]]);
    assert_eq!(drain(&mut *reader).len(), 1);
    let stranger = Split { id: SplitId::new("t/2"), ..splits[0].clone() };
    assert_eq!(source.open(&stranger, None, &ReadHints::default()).err().map(|e| e.kind()), Some(Kind::Corrupt));
}
