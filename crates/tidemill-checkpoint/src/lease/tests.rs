//! Tests of [`Lease`]: who leads after any race, stall, crash or lagging listing.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tidemill_model::{Clock, Kind, Result, Timestamp};

use super::{Acquired, Lease, terms};
use crate::terms::{Begun, GRACE};
use crate::{BlobStore, Fault, LocalStore, Memory};

pub(crate) const TTL: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_secs(300);

/// A clock that stands until it is moved, and may jump by a step each time it is read.
#[derive(Debug, Default)]
pub(crate) struct Hands {
    now: AtomicI64,
    step: AtomicI64,
}

impl Hands {
    pub(crate) fn advance(&self, span: Duration) -> Timestamp {
        self.now.fetch_add(i64::try_from(span.as_micros()).expect("fits"), Ordering::SeqCst);
        self.now()
    }
}

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        Timestamp(self.now.fetch_add(self.step.load(Ordering::SeqCst), Ordering::SeqCst))
    }
}

/// A store whose listings do not show the greatest name yet.
#[derive(Debug)]
pub(crate) struct Lagging(pub(crate) Arc<dyn BlobStore>);

impl BlobStore for Lagging {
    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.0.put(name, bytes)
    }

    fn create(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        self.0.create(name, bytes)
    }

    fn get(&self, name: &str) -> Result<Option<Bytes>> {
        self.0.get(name)
    }

    fn get_range(&self, name: &str, start: u64, length: u64) -> Result<Bytes> {
        self.0.get_range(name, start, length)
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>> {
        let mut names = self.0.list(prefix)?;
        names.pop();
        Ok(names)
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.0.delete(name)
    }
}

fn memory() -> Arc<dyn BlobStore> {
    Arc::new(Memory::new())
}

fn ask(store: &Arc<dyn BlobStore>, holder: &str, now: Timestamp) -> Result<Acquired> {
    Lease::try_acquire(Arc::clone(store), "scheduler", holder, TTL, PAUSE, now)
}

fn held(store: &Arc<dyn BlobStore>, holder: &str, now: Timestamp) -> Lease {
    match ask(store, holder, now).expect("answers") {
        Acquired::Held(lease) => lease,
        Acquired::HeldBy(other) => panic!("{holder} finds {other:?}"),
    }
}

fn held_by(store: &Arc<dyn BlobStore>, holder: &str, now: Timestamp) -> super::LeaseView {
    match ask(store, holder, now).expect("answers") {
        Acquired::Held(lease) => panic!("{holder} got {lease:?}"),
        Acquired::HeldBy(other) => other,
    }
}

fn after(span: Duration) -> Timestamp {
    Timestamp(0).plus(span)
}

#[test]
fn one_leads_until_it_lets_go() {
    for store in [memory(), Arc::new(Lagging(memory()))] {
        assert_eq!(Lease::look(Arc::clone(&store), "scheduler").expect("reads"), None);
        let first = held(&store, "a", Timestamp(0));
        let other = held_by(&store, "b", Timestamp(1));
        assert_eq!((other.holder.as_str(), other.term, other.until), ("a", 1, after(TTL)));
        first.release(Timestamp(2)).expect("gives back");
        let view = Lease::look(Arc::clone(&store), "scheduler").expect("reads").expect("was held");
        assert!(view.released && view.is_over(Timestamp(2)) && view.alive_at == Timestamp(2), "{view:?}");
        assert_eq!(held(&store, "b", Timestamp(2)).term(), 2);
        assert_eq!(held_by(&store, "a", Timestamp(3)).holder, "b");
    }
}

#[test]
fn a_rival_waits_for_the_grace_and_renewals_move_it() {
    let (store, clock) = (memory(), Hands::default());
    let mut first = held(&store, "a", clock.now());
    clock.advance(TTL / 2);
    first.renew(&clock).expect("renews");
    assert_eq!(first.until(), clock.now().plus(TTL));
    let until = first.until();
    assert!(first.is_valid(clock.now()) && !first.is_valid(until), "valid only before its end");
    assert_eq!(held_by(&store, "b", until).alive_at, clock.now());
    held_by(&store, "b", Timestamp(until.plus(GRACE).0 - 1));
    assert_eq!(held(&store, "b", until.plus(GRACE)).term(), 2);
}

#[test]
fn who_slept_through_its_lease_is_never_valid_again() {
    for rival in [false, true] {
        let (store, clock) = (memory(), Hands::default());
        let mut sleeper = held(&store, "a", clock.now());
        clock.advance(TTL);
        if rival {
            held(&store, "b", clock.now().plus(GRACE));
        }
        let error = sleeper.renew(&clock).expect_err("ran out");
        assert_eq!((error.kind(), error.code()), (Kind::Fenced, "F004"), "{error}");
        assert!(!sleeper.is_valid(Timestamp(0)), "whatever the clock says");
        clock.now.store(1, Ordering::SeqCst);
        assert_eq!(sleeper.renew(&clock).expect_err("for ever").kind(), Kind::Fenced);
    }
}

#[test]
fn who_was_overtaken_is_fenced_even_when_its_clock_stood_still() {
    for store in [memory(), Arc::new(Lagging(memory()))] {
        // One term later, and so many that the file of the first is gone.
        for later in [1, 2, 3, 4, 9] {
            let clock = Hands::default();
            let name = format!("after-{later}");
            let get = |now| match Lease::try_acquire(Arc::clone(&store), &name, "x", TTL, PAUSE, now).expect("answers")
            {
                Acquired::Held(lease) => lease,
                Acquired::HeldBy(other) => panic!("{other:?}"),
            };
            let mut zombie = get(clock.now());
            for i in 1..=later {
                let now = after((TTL + GRACE) * i);
                get(now).release(now).expect("gives back");
            }
            let error = zombie.renew(&clock).expect_err("overtaken");
            assert_eq!((error.kind(), error.code()), (Kind::Fenced, "F003"), "{error}");
            assert!(!zombie.is_valid(clock.now()));
            zombie.release(clock.now()).expect("there is nothing to give back");
            assert_eq!(get(after((TTL + GRACE) * later)).term(), u64::from(later) + 2, "numbers only grow");
        }
    }
}

#[test]
fn a_person_who_removes_the_files_ends_the_lease() {
    let (store, clock) = (memory(), Hands::default());
    let mut first = held(&store, "a", clock.now());
    for name in store.list("leases/").expect("lists") {
        store.delete(&name).expect("removes");
    }
    let _second = held(&store, "b", clock.now());
    assert_eq!(first.renew(&clock).expect_err("gone").code(), "F003");
}

#[test]
fn a_renewal_that_was_written_too_late_does_not_count() {
    let (store, clock) = (memory(), Hands::default());
    let mut lease = held(&store, "a", clock.now());
    clock.step.store(i64::try_from(TTL.as_micros()).expect("fits") - 1, Ordering::SeqCst);
    lease.renew(&clock).expect("at the last instant");
    clock.step.store(i64::try_from(TTL.as_micros()).expect("fits"), Ordering::SeqCst);
    let error = lease.renew(&clock).expect_err("the old one ran out before the write");
    assert_eq!(error.code(), "F004", "{error}");
    assert!(!lease.is_valid(Timestamp(0)));
}

#[test]
fn a_clock_that_goes_back_does_not_shorten_what_was_promised() {
    let (store, clock) = (memory(), Hands::default());
    clock.advance(TTL);
    let mut lease = held(&store, "a", clock.now());
    clock.now.store(0, Ordering::SeqCst);
    lease.renew(&clock).expect("renews");
    assert_eq!(lease.until(), after(TTL * 2));
    assert_eq!(held_by(&store, "b", after(TTL)).until, after(TTL * 2));
}

#[test]
fn the_watch_goes_on_over_short_pauses_and_begins_anew_after_long_ones() {
    let (store, clock) = (memory(), Hands::default());
    clock.advance(PAUSE);
    let begun = clock.now();
    let mut first = held(&store, "a", begun);
    assert_eq!(first.since(), begun);
    clock.advance(TTL / 2);
    first.renew(&clock).expect("renews");
    assert_eq!(first.since(), begun);
    // Taken over after it died, at the last instant of the pause.
    let second = held(&store, "b", clock.advance(PAUSE));
    assert_eq!(second.since(), begun);
    assert_eq!(Lease::look(Arc::clone(&store), "scheduler").expect("reads").expect("held").since, begun);
    // Given back counts as alive.
    clock.advance(TTL / 2);
    second.release(clock.now()).expect("gives back");
    let third = held(&store, "c", clock.advance(PAUSE));
    assert_eq!(third.since(), begun);
    drop(third);
    let late = clock.advance(PAUSE + Duration::from_micros(1));
    assert_eq!(held(&store, "d", late).since(), late);
}

#[test]
fn a_leader_that_stood_still_for_longer_than_the_pause_begins_its_watch_anew() {
    let (store, clock) = (memory(), Hands::default());
    let pause = TTL / 3;
    let asked = Lease::try_acquire(Arc::clone(&store), "scheduler", "a", TTL, pause, clock.now()).expect("answers");
    let Acquired::Held(mut lease) = asked else { panic!("free") };
    clock.advance(pause);
    lease.renew(&clock).expect("renews");
    assert_eq!(lease.since(), Timestamp(0));
    let woke = clock.advance(pause * 2);
    lease.renew(&clock).expect("still its own");
    assert_eq!(lease.since(), woke);
}

#[test]
fn few_files_stay_and_no_number_comes_twice() {
    for store in [memory(), Arc::new(Lagging(memory())) as Arc<dyn BlobStore>] {
        for term in 1..20 {
            let lease = held(&store, "a", Timestamp(0));
            assert_eq!(lease.term(), term);
            lease.release(Timestamp(0)).expect("gives back");
        }
        assert!(store.list("leases/scheduler/terms/").expect("lists").len() <= 4);
    }
}

#[test]
fn who_comes_late_to_a_number_that_was_used_and_removed_gives_way() {
    for store in [memory(), Arc::new(Lagging(memory())) as Arc<dyn BlobStore>] {
        let terms = terms(Arc::clone(&store), "scheduler");
        for later in 1..20 {
            let stale = terms.newest().expect("reads");
            for _ in 0..later {
                held(&store, "a", Timestamp(0)).release(Timestamp(0)).expect("gives back");
            }
            let leader = held(&store, "a", Timestamp(0));
            let begun = terms.begin(&stale, "late", TTL, None, Timestamp(0)).expect("answers");
            assert!(matches!(begun, Begun::Lost(_)), "{later} terms later: {begun:?}");
            assert_eq!(held_by(&store, "b", Timestamp(0)).term, leader.term());
            leader.release(Timestamp(0)).expect("gives back");
        }
    }
}

#[test]
fn a_holder_that_asks_twice_at_one_instant_wins_once() {
    let terms = terms(memory(), "scheduler");
    let newest = terms.newest().expect("reads");
    let begin = || terms.begin(&newest, "a", TTL, None, Timestamp(0)).expect("answers");
    assert!(matches!((begin(), begin()), (Begun::Won(_), Begun::Lost(_))));
}

#[test]
fn a_lost_answer_of_a_create_is_found_out() {
    let memory = Arc::new(Memory::new());
    let store: Arc<dyn BlobStore> = Arc::clone(&memory) as _;
    memory.fail_after(0, Fault::After);
    let mut lease = held(&store, "a", Timestamp(0));
    memory.heal();
    lease.renew(&Hands::default()).expect("renews");
    assert_eq!(held_by(&store, "b", Timestamp(0)).holder, "a");
    // The same holder is told from itself.
    assert_eq!(held_by(&store, "a", Timestamp(0)).holder, "a");
}

/// A life from beginning to end, until a write fails; the lease, if there still is one.
fn life(store: &Arc<dyn BlobStore>, clock: &Hands) -> (Option<Lease>, bool) {
    for i in 0..5 {
        let Ok(Acquired::Held(mut lease)) = ask(store, &format!("life {i}"), clock.now()) else {
            return (None, false);
        };
        for _ in 0..2 {
            clock.advance(TTL / 2);
            if lease.renew(clock).is_err() {
                return (Some(lease), false);
            }
        }
        if lease.release(clock.now()).is_err() {
            return (None, false);
        }
    }
    (None, true)
}

#[test]
fn killed_at_every_write_another_leads_after_the_time_to_live() {
    let mut killed = 0;
    for fault in [Fault::Before, Fault::After] {
        for writes in 0.. {
            let (memory, clock) = (Arc::new(Memory::new()), Hands::default());
            let store: Arc<dyn BlobStore> = Arc::clone(&memory) as _;
            memory.fail_after(writes, fault);
            let (left, done) = life(&store, &clock);
            memory.heal();
            if done {
                break;
            }
            killed += 1;
            let before = Lease::look(Arc::clone(&store), "scheduler").expect("reads");
            if before.as_ref().is_some_and(|view| !view.released) {
                held_by(&store, "rival", clock.now());
            }
            if let Some(lease) = &left {
                let stands = before.as_ref().expect("was written").until;
                assert!(lease.until() <= stands, "{fault:?} {writes}: never relies on more than what is written");
            }
            clock.advance(TTL + GRACE);
            let mut rival = held(&store, "rival", clock.now());
            assert!(before.is_none_or(|before| before.term < rival.term()), "{fault:?} {writes}");
            if let Some(mut lease) = left {
                assert!(!lease.is_valid(clock.now()));
                assert_eq!(lease.renew(&clock).expect_err("over").kind(), Kind::Fenced);
            }
            rival.renew(&clock).expect("leads");
        }
    }
    assert!(killed > 30, "{killed}");
}

#[test]
fn what_cannot_be_read_is_nobodys() {
    let store = memory();
    let name = "leases/scheduler/terms/00000000000000000001.json";
    for bytes in [b"{".as_slice(), b"", br#"{"term":2,"holder":"a","attempt":0,"begun_at":0,"alive_at":0,"until":0}"#] {
        store.put(name, bytes).expect("writes");
        let error = ask(&store, "a", after(PAUSE)).expect_err("damaged");
        assert_eq!((error.kind(), error.code()), (Kind::Corrupt, "X006"), "{error}");
    }
}

/// All schedulers ask at once in each round, which ends when each has its answer.
fn race(stores: &[Arc<dyn BlobStore>], rounds: u64) {
    let (clock, barrier, stop) = (Hands::default(), Barrier::new(stores.len() + 1), AtomicBool::new(false));
    let answers = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for (i, store) in stores.iter().enumerate() {
            let (clock, barrier, stop, answers) = (&clock, &barrier, &stop, &answers);
            scope.spawn(move || {
                loop {
                    barrier.wait();
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let answer = ask(store, &format!("scheduler {i}"), clock.now());
                    answers.lock().expect("whole").push(answer);
                    barrier.wait();
                }
            });
        }
        let judged = (1..=rounds).try_for_each(|round| {
            barrier.wait();
            barrier.wait();
            judge(round, answers.lock().expect("whole").drain(..).collect(), &clock).map_err(|e| (round, e))
        });
        stop.store(true, Ordering::SeqCst);
        barrier.wait();
        assert_eq!(judged, Ok(()));
    });
}

/// Exactly one of the answers is the lease and the others name it; then it is given back or sleeps through its end.
fn judge(round: u64, answers: Vec<Result<Acquired>>, clock: &Hands) -> Result<(), String> {
    let mut won = None;
    for answer in answers {
        match answer.map_err(|e| e.to_string())? {
            Acquired::Held(lease) if won.is_none() => won = Some(lease),
            Acquired::Held(lease) => return Err(format!("{lease:?} and {won:?}")),
            Acquired::HeldBy(other) if other.term == round => {}
            Acquired::HeldBy(other) => return Err(format!("{other:?} is another round's")),
        }
    }
    let mut lease = won.ok_or("nobody leads")?;
    if lease.term() != round || !lease.is_valid(clock.now()) {
        return Err(format!("{lease:?}"));
    }
    if round.is_multiple_of(2) {
        return lease.release(clock.now()).map_err(|e| e.to_string());
    }
    clock.advance(TTL / 2);
    lease.renew(clock).map_err(|e| e.to_string())?;
    clock.advance(TTL + GRACE);
    let fenced = lease.renew(clock).is_err_and(|e| e.kind() == Kind::Fenced);
    if fenced && !lease.is_valid(clock.now()) { Ok(()) } else { Err(format!("{lease:?} slept")) }
}

#[test]
fn of_two_and_eight_schedulers_exactly_one_leads_in_each_of_a_thousand_rounds() {
    for schedulers in [2, 8] {
        race(&vec![memory(); schedulers], 1000);
        race(&vec![Arc::new(Lagging(memory())) as Arc<dyn BlobStore>; schedulers], 1000);
    }
}

#[test]
fn two_processes_share_a_folder() {
    let dir = tempfile::tempdir().expect("a folder");
    let open = || Arc::new(LocalStore::open(dir.path()).expect("opens")) as Arc<dyn BlobStore>;
    race(&[open(), open()], 50);
    let files = open().list("leases/").expect("lists");
    assert_eq!(files.len(), 3, "{files:?}");
}

/// Lets the others end when one does, which may have panicked.
pub(crate) struct EndsAll<'a>(pub(crate) &'a AtomicU64);

impl Drop for EndsAll<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(u64::MAX / 1024, Ordering::SeqCst);
    }
}

/// Leaders that come and go as fast as they can, so that numbers are used and removed while others read them.
fn crowd(stores: &[Arc<dyn BlobStore>], turns: u64) {
    let (clock, inside, last, led) = (Hands::default(), AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for (i, store) in stores.iter().enumerate() {
            let (clock, inside, last, led) = (&clock, &inside, &last, &led);
            scope.spawn(move || {
                let _end = EndsAll(led);
                while led.load(Ordering::SeqCst) < turns {
                    let mut lease = match ask(store, &format!("scheduler {i}"), clock.now()) {
                        Ok(Acquired::Held(lease)) => lease,
                        Ok(Acquired::HeldBy(_)) => continue,
                        Err(e) if e.kind() == Kind::Unavailable => continue,
                        Err(e) => panic!("{e}"),
                    };
                    assert!(!inside.swap(true, Ordering::SeqCst), "two lead at once");
                    assert!(last.swap(lease.term(), Ordering::SeqCst) < lease.term(), "terms grow");
                    lease.renew(clock).expect("leads");
                    led.fetch_add(1, Ordering::SeqCst);
                    assert!(inside.swap(false, Ordering::SeqCst));
                    lease.release(clock.now()).expect("gives back");
                }
            });
        }
    });
}

#[test]
fn leaders_that_come_and_go_never_meet() {
    crowd(&vec![memory(); 8], 5000);
    crowd(&vec![Arc::new(Lagging(memory())) as Arc<dyn BlobStore>; 8], 5000);
    let dir = tempfile::tempdir().expect("a folder");
    let open = || Arc::new(LocalStore::open(dir.path()).expect("opens")) as Arc<dyn BlobStore>;
    crowd(&[open(), open(), open()], 100);
}
