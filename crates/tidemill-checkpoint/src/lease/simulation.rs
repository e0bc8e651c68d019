//! Schedulers with skewed clocks over a store that is slow, fails and lags, in one virtual time.
//!
//! **Invariant:** one thread runs at a time, chosen by the seed, and each call on the store may be held up before and after
//! it happens; so a seed that fails fails again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tidemill_model::{Clock, Error, Kind, Result, Timestamp};

use super::tests::TTL;
use super::{Acquired, Lease};
use crate::terms::GRACE;
use crate::{BlobStore, Memory};

const HOLDERS: usize = 5;
const END: i64 = 20 * 60 * 1_000_000;
const SEEDS: std::ops::Range<u64> = 0..60;

#[derive(Debug, Default)]
struct State {
    now: i64,
    random: u64,
    waiting: BTreeMap<usize, i64>,
    running: Option<usize>,
    alive: usize,
    /// How far each holder's clock is ahead.
    skew: Vec<i64>,
    /// Until when each holder believes that it leads, by its own clock.
    beliefs: Vec<Option<i64>>,
    terms: BTreeSet<u64>,
    fenced: usize,
    wrong: Option<String>,
}

impl State {
    /// A number below `bound` (splitmix64).
    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn span(&mut self, bound: Duration) -> i64 {
        self.below(bound.as_micros() as u64) as i64
    }

    /// Mostly a moment, now and then longer than a lease lives.
    fn delay(&mut self) -> i64 {
        if self.below(50) == 0 { self.span(TTL * 2) } else { self.span(Duration::from_millis(50)) }
    }

    fn check(&mut self) {
        let believes = |(holder, until): (usize, &Option<i64>)| {
            until.is_some_and(|until| self.now + self.skew[holder] < until).then_some(holder)
        };
        let leaders: Vec<usize> = self.beliefs.iter().enumerate().filter_map(believes).collect();
        if leaders.len() > 1 && self.wrong.is_none() {
            self.wrong = Some(format!("at {} µs {leaders:?} lead", self.now));
        }
    }
}

#[derive(Debug)]
struct World {
    state: Mutex<State>,
    turns: Vec<Condvar>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut state = State { random: seed, alive: HOLDERS, beliefs: vec![None; HOLDERS], ..State::default() };
        for _ in 0..HOLDERS {
            // Any two differ by less than the grace.
            let skew = state.span(GRACE);
            state.skew.push(skew);
        }
        World { state: Mutex::new(state), turns: (0..HOLDERS).map(|_| Condvar::new()).collect() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("whole")
    }

    /// Lets so much time pass for one holder while the others go on.
    fn wait(&self, holder: usize, span: i64) {
        let mut state = self.state();
        let wake = state.now + span;
        state.waiting.insert(holder, wake);
        self.pass_on(&mut state);
        while state.running != Some(holder) {
            state = self.turns[holder].wait(state).expect("whole");
        }
    }

    fn delay(&self, holder: usize) {
        let span = self.state().delay();
        self.wait(holder, span);
    }

    fn pass_on(&self, state: &mut State) {
        state.running = None;
        if state.waiting.len() < state.alive {
            return;
        }
        let next = state.waiting.iter().map(|(holder, wake)| (*wake, *holder)).min();
        if let Some((wake, holder)) = next {
            state.waiting.remove(&holder);
            state.now = state.now.max(wake);
            state.running = Some(holder);
            state.check();
            self.turns[holder].notify_one();
        }
    }

    fn chance(&self, one_in: u64) -> bool {
        self.state().below(one_in) == 0
    }

    fn believe(&self, holder: usize, until: Option<Timestamp>) {
        let mut state = self.state();
        state.beliefs[holder] = until.map(|until| until.0);
        state.check();
    }
}

/// The store and the clock as one holder has them.
#[derive(Debug, Clone)]
struct Seen {
    world: Arc<World>,
    memory: Arc<Memory>,
    holder: usize,
}

impl Seen {
    fn call<T>(&self, call: impl FnOnce(&Memory) -> Result<T>) -> Result<T> {
        let failed = || Err(Error::new(Kind::Unavailable, "U012", "the store does not answer"));
        self.world.delay(self.holder);
        if self.world.chance(60) {
            return failed();
        }
        let answer = call(&self.memory);
        self.world.delay(self.holder);
        if self.world.chance(60) { failed() } else { answer }
    }
}

impl Clock for Seen {
    fn now(&self) -> Timestamp {
        let state = self.world.state();
        Timestamp(state.now + state.skew[self.holder])
    }
}

impl BlobStore for Seen {
    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.call(|memory| memory.put(name, bytes))
    }

    fn create(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        self.call(|memory| memory.create(name, bytes))
    }

    fn get(&self, name: &str) -> Result<Option<Bytes>> {
        self.call(|memory| memory.get(name))
    }

    fn get_range(&self, name: &str, start: u64, length: u64) -> Result<Bytes> {
        self.call(|memory| memory.get_range(name, start, length))
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>> {
        self.call(|memory| {
            let mut names = memory.list(prefix)?;
            if self.world.chance(3) {
                names.pop();
            }
            Ok(names)
        })
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.call(|memory| memory.delete(name))
    }
}

/// Ends a holder's part even when it panics, so that the others do not wait for it.
struct Part<'a>(&'a World);

impl Drop for Part<'_> {
    fn drop(&mut self) {
        if let Ok(mut state) = self.0.state.lock() {
            state.alive -= 1;
            self.0.pass_on(&mut state);
        }
    }
}

/// Asks, leads, sleeps, dies and comes back until the end of time.
fn live(seen: &Seen) {
    let (world, holder) = (&*seen.world, seen.holder);
    let _part = Part(world);
    world.wait(holder, holder as i64);
    for life in 0.. {
        let now = seen.now();
        if world.state().now > END {
            return;
        }
        world.delay(holder);
        let name = format!("holder {holder} life {life}");
        let asked = Lease::try_acquire(Arc::new(seen.clone()), "scheduler", &name, TTL, TTL * 3, now);
        if let Ok(Acquired::Held(lease)) = asked {
            lead(seen, lease);
        } else if let Err(e) = asked {
            assert_eq!(e.kind(), Kind::Unavailable, "{e}");
        }
        world.believe(holder, None);
        let span = world.state().span(TTL / 2);
        world.wait(holder, span);
    }
}

fn lead(seen: &Seen, mut lease: Lease) {
    let (world, holder) = (&*seen.world, seen.holder);
    if !world.state().terms.insert(lease.term()) {
        world.state().wrong = Some(format!("term {} was won twice", lease.term()));
    }
    loop {
        world.believe(holder, Some(lease.until()));
        let span = world.state().span(TTL / 2);
        world.wait(holder, span);
        world.delay(holder);
        if world.chance(30) {
            return;
        }
        if world.chance(20) {
            world.believe(holder, None);
            let _ = lease.release(seen.now());
            return;
        }
        match lease.renew(seen) {
            Err(e) if e.kind() == Kind::Fenced => {
                world.state().fenced += 1;
                assert!(!lease.is_valid(Timestamp(0)) && lease.renew(seen).is_err(), "never again");
                return;
            }
            Err(e) => assert_eq!(e.kind(), Kind::Unavailable, "{e}"),
            Ok(()) => {}
        }
    }
}

/// Runs one seed; how often somebody led, and how often a leader was fenced.
fn run(seed: u64) -> (usize, usize) {
    let (world, memory) = (Arc::new(World::new(seed)), Arc::new(Memory::new()));
    std::thread::scope(|scope| {
        for holder in 0..HOLDERS {
            let seen = Seen { world: Arc::clone(&world), memory: Arc::clone(&memory), holder };
            scope.spawn(move || live(&seen));
        }
    });
    let state = world.state();
    assert_eq!(state.wrong, None, "seed {seed}");
    (state.terms.len(), state.fenced)
}

#[test]
fn never_do_two_lead_at_once() {
    let (mut led, mut fenced) = (0, 0);
    for seed in SEEDS {
        let ran = std::panic::catch_unwind(|| run(seed));
        let (terms, lost) = ran.unwrap_or_else(|_| panic!("seed {seed}"));
        led += terms;
        fenced += lost;
    }
    println!("{} seeds: {led} terms, {fenced} leaders fenced", SEEDS.end - SEEDS.start);
    assert!(led > 500 && fenced > 100, "the seeds are too tame: {led} terms, {fenced} fenced");
    assert_eq!(run(7), run(7), "a seed says it all");
}
