//! Tests of [`Pools`]: never more slots are held than there are, and those of the dead come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tidemill_model::{Clock, Kind, Result, Timestamp};

use super::{Pools, Slot, SlotRequest};
use crate::lease::tests::{EndsAll, Hands, Lagging, TTL};
use crate::{BlobStore, Fault, GRACE, LocalStore, Memory};

fn request(slots: usize, weight: usize) -> SlotRequest<'static> {
    SlotRequest { pool: "db/main", slots, weight, holder: "a", ttl: TTL }
}

fn take(pools: &Pools, slots: usize, weight: usize, now: Timestamp) -> Option<Slot> {
    pools.take(&request(slots, weight), now).expect("answers")
}

fn stores() -> [Arc<dyn BlobStore>; 2] {
    [Arc::new(Memory::new()), Arc::new(Lagging(Arc::new(Memory::new())))]
}

#[test]
fn slots_are_taken_up_to_the_size_and_given_back() {
    for (store, lags) in stores().into_iter().zip([false, true]) {
        let (pools, now) = (Pools::new(store), Timestamp(0));
        assert_eq!(pools.look("db/main").expect("reads"), []);
        let first = take(&pools, 2, 1, now).expect("free");
        let second = take(&pools, 2, 1, now).expect("the same holder may have two");
        assert_eq!((first.numbers(), second.numbers()), (vec![1], vec![2]));
        assert!(take(&pools, 2, 1, now).is_none());
        assert!(
            pools.take(&SlotRequest { pool: "db", ..request(1, 1) }, now).expect("answers").is_some(),
            "another pool"
        );
        first.release(now).expect("gives back");
        let third = take(&pools, 2, 1, now).expect("free again");
        assert_eq!(third.numbers(), [1]);
        if lags {
            continue;
        }
        let views = pools.look("db/main").expect("reads");
        assert!(views.iter().map(|view| (view.slot, view.term)).eq([(1, 2), (2, 1)]), "{views:?}");
        assert!(views.iter().all(|view| view.holder == "a" && !view.released && !view.is_free(now)), "{views:?}");
    }
}

#[test]
fn heavy_work_takes_several_slots_or_none() {
    for store in stores() {
        let (pools, now) = (Pools::new(store), Timestamp(0));
        let heavy = take(&pools, 3, 2, now).expect("free");
        assert_eq!(heavy.numbers(), [1, 2]);
        assert!(take(&pools, 3, 2, now).is_none(), "one is too few");
        let light = take(&pools, 3, 0, now).expect("nothing weighs nothing");
        assert_eq!(light.numbers(), [3]);
        heavy.release(now).expect("gives back");
        assert_eq!(take(&pools, 3, 2, now).expect("free").numbers(), [1, 2]);
        let error = pools.take(&request(3, 4), now).expect_err("never fits");
        assert_eq!((error.kind(), error.code()), (Kind::Config, "C046"));
    }
}

#[test]
fn the_slot_of_the_dead_frees_itself_and_the_late_are_fenced() {
    for store in stores() {
        let (pools, clock) = (Pools::new(store), Hands::default());
        let mut late = take(&pools, 2, 2, clock.now()).expect("free");
        clock.advance(TTL / 2);
        late.renew(&clock).expect("renews");
        assert!(late.is_valid(clock.now()));
        clock.advance(TTL);
        assert!(!late.is_valid(clock.now()));
        assert!(take(&pools, 2, 1, clock.now()).is_none(), "the grace");
        clock.advance(GRACE);
        let other = take(&pools, 2, 1, clock.now()).expect("free");
        assert_eq!(late.renew(&clock).expect_err("lost").kind(), Kind::Fenced);
        late.release(clock.now()).expect("gives back what was not taken");
        assert_eq!(take(&pools, 2, 1, clock.now()).expect("was given back").numbers(), [2]);
        assert!(other.is_valid(clock.now()));
    }
}

#[test]
fn a_pool_that_was_made_smaller_counts_those_above() {
    for store in stores() {
        let (pools, now) = (Pools::new(store), Timestamp(0));
        let mut held: Vec<Slot> = (0..4).map(|_| take(&pools, 4, 1, now).expect("free")).collect();
        held.remove(0).release(now).expect("gives back");
        assert!(take(&pools, 2, 1, now).is_none(), "three are held above");
        held.remove(2).release(now).expect("gives back");
        held.remove(1).release(now).expect("gives back");
        assert_eq!(take(&pools, 2, 1, now).expect("only slot 2 is held").numbers(), [1]);
        assert!(take(&pools, 2, 1, now).is_none());
    }
}

#[test]
fn killed_at_every_write_the_whole_pool_is_free_after_the_time_to_live() {
    for fault in [Fault::Before, Fault::After] {
        for writes in 0.. {
            let (memory, clock) = (Arc::new(Memory::new()), Hands::default());
            let pools = Pools::new(Arc::clone(&memory) as Arc<dyn BlobStore>);
            memory.fail_after(writes, fault);
            let life = || -> Result<()> {
                for _ in 0..5 {
                    if let Some(mut slot) = pools.take(&request(3, 3), clock.now())? {
                        slot.renew(&clock)?;
                        slot.release(clock.now())?;
                    }
                }
                Ok(())
            };
            let lived = life();
            memory.heal();
            if lived.is_ok() && writes > 9 {
                break;
            }
            clock.advance(TTL + GRACE);
            assert!(take(&pools, 3, 3, clock.now()).is_some(), "{fault:?} {writes}");
        }
    }
}

/// Work of weight one and two that comes and goes; how often some got slots.
fn crowd(stores: &[Arc<dyn BlobStore>], turns: u64) {
    const SLOTS: usize = 3;
    let (held, worked) = (AtomicUsize::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for (i, store) in stores.iter().enumerate() {
            let (held, worked) = (&held, &worked);
            scope.spawn(move || {
                let (pools, clock) = (Pools::new(Arc::clone(store)), Hands::default());
                // Some share their holder, as the runs of one process do.
                let (weight, holder) = (1 + i % 2, format!("process {}", i / 4));
                let _end = EndsAll(worked);
                while worked.load(Ordering::SeqCst) < turns {
                    let asked = pools.take(&SlotRequest { holder: &holder, ..request(SLOTS, weight) }, clock.now());
                    let mut slot = match asked {
                        Ok(Some(slot)) => slot,
                        Ok(None) => continue,
                        Err(e) => panic!("{e}"),
                    };
                    assert_eq!(slot.numbers().len(), weight);
                    assert!(held.fetch_add(weight, Ordering::SeqCst) + weight <= SLOTS, "too many at once");
                    slot.renew(&clock).expect("holds it");
                    worked.fetch_add(1, Ordering::SeqCst);
                    held.fetch_sub(weight, Ordering::SeqCst);
                    slot.release(clock.now()).expect("gives back");
                }
            });
        }
    });
}

#[test]
fn a_crowd_never_holds_more_than_there_is() {
    for store in stores() {
        crowd(&vec![store; 8], 3000);
    }
    let dir = tempfile::tempdir().expect("a folder");
    let open = || Arc::new(LocalStore::open(dir.path()).expect("opens")) as Arc<dyn BlobStore>;
    crowd(&[open(), open(), open()], 60);
}

#[test]
fn dropping_writes_nothing() {
    let memory = Arc::new(Memory::new());
    let pools = Pools::new(Arc::clone(&memory) as Arc<dyn BlobStore>);
    let slot = take(&pools, 1, 1, Timestamp(0));
    let writes = memory.writes();
    drop(slot);
    assert_eq!(memory.writes(), writes);
    assert!(take(&pools, 1, 1, Timestamp(0).plus(TTL + GRACE - Duration::from_micros(1))).is_none());
}
