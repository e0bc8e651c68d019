//! Two hundred seeds; `cargo xtask simulate --seeds 100000` tries more. And what takes long, in virtual time.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use fastrand::Rng;
use tidemill_model::{Clock, Span, Trigger};

use super::oracle;
use super::scenario::{Kind, Scenario};
use super::weather::Process;
use super::world::{Running, Turn, World};
use super::{Story, simulate, soak};

#[test]
fn every_row_has_its_effect_once_whatever_fails() {
    let mut all = Story::default();
    for seed in 0..200 {
        let story = simulate(seed).unwrap_or_else(|defect| panic!("{defect}"));
        all.deaths += story.deaths;
        all.fenced += story.fenced;
        all.epochs += story.epochs;
        all.late += story.late;
        all.versions += story.versions;
    }
    assert!(all.deaths > 200 && all.fenced > 10 && all.epochs > 2_000 && all.late > 0, "too calm: {all:?}");
    assert!(all.versions > 1_000, "the table hardly changed: {all:?}");
}

#[test]
fn a_seed_is_one_story() {
    for seed in [3, 14, 159] {
        let (once, again) = (simulate(seed), simulate(seed));
        assert_eq!(once.expect("no defect"), again.expect("no defect"));
    }
}

#[test]
fn a_week_of_short_lived_keys_leaves_no_state_behind() {
    let seen = soak(7, 360).expect("ends");
    let rows = 7 * (20 * 60 * 360 + 4 * 60 * 60);
    assert_eq!((seen.rows, seen.counted, seen.late), (rows, rows, 0), "{seen:?}");
    assert!(seen.groups > 1_000_000, "{seen:?}");
    assert_eq!(seen.state_at_night.len(), 7, "{seen:?}");
    let (first, last) = (seen.state_at_night[0], seen.state_at_night[6]);
    assert!(seen.most_state > 10 * first, "days differ from nights: {seen:?}");
    assert!(last <= first + first / 2, "state grows from night to night: {seen:?}");
    let (first, last) = (seen.disk_at_night[0], seen.disk_at_night[6]);
    assert!(last <= first * 2, "what lies on disk grows from night to night: {seen:?}");
    assert!(seen.most_disk < 40 * seen.most_state && seen.most_disk > 2 * last, "{seen:?}");
}

/// Two lanes that follow two splits, with nothing going wrong.
fn calm(limits: impl FnOnce(&mut Scenario)) -> (World, Rng) {
    let mut scenario = Scenario {
        trigger: Trigger::Continuous,
        checkpoint: Duration::from_millis(100),
        sources: vec![Kind::Endless],
        splits: 4,
        rows: 60_000,
        disorder: Duration::from_millis(50),
        idle: Duration::from_secs(36_000),
        grows: false,
        window: Duration::from_secs(10),
        keys: 20,
        batch: 20,
        epoch_rows: 1_000_000,
        queue_batches: 4,
        fails_one_in: 0,
        slow_one_in: 0,
        faults: 0,
        crashes: 0,
        rivals: 0,
        list_lag: Duration::ZERO,
        piecemeal: false,
        max_skew: None,
        hold: None,
        seed: 1,
    };
    limits(&mut scenario);
    let mut random = Rng::with_seed(7);
    (World::new(scenario, &mut random), random)
}

/// Steps everything for so long; rows arrive all the while.
fn go_on(world: &mut World, running: &mut Running, random: &mut Rng, how_long: Duration) {
    let until = world.clock.now().plus(how_long);
    while world.clock.now() < until {
        world.clock.advance(Duration::from_millis(random.u64(0..20)));
        world.arrive(random);
        running.step(world.clock.now(), random).expect("nothing fails");
    }
}

/// Steps everything to its end, and asks whether all is there.
fn end(mut world: World, mut running: Running, random: &mut Rng) {
    for _ in 0..2_000_000 {
        world.clock.advance(Duration::from_millis(random.u64(0..20)));
        if !world.arrive(random) && oracle::is_all_read(&world) {
            running.stop.stop();
        }
        if running.step(world.clock.now(), random).expect("nothing fails") == Turn::Ended {
            return oracle::check_end(&world, false).expect("all is there");
        }
    }
    panic!("no end");
}

#[test]
fn what_is_held_back_goes_out_when_it_is_due_though_nothing_is_read_and_at_the_end() {
    for trigger in [Trigger::Continuous, Trigger::Every(Span(Duration::from_millis(300)))] {
        let (mut world, mut random) = calm(|scenario| {
            scenario.trigger = trigger.clone();
            scenario.rows = 400;
            scenario.hold = Some(Duration::from_secs(60));
        });
        let mut running = start(&world, &mut random);
        go_on(&mut world, &mut running, &mut random, Duration::from_secs(20));
        assert!(!world.arrive(&mut random) && oracle::is_all_read(&world), "{trigger}: all is read");
        let first = world.rows.rows().len();
        go_on(&mut world, &mut running, &mut random, Duration::from_secs(70));
        assert!(world.rows.rows().len() > first, "{trigger}: {first} rows went out at once, and then none");
        end(world, running, &mut random);
    }
    // A run that ends before that lets all go.
    let (world, mut random) = calm(|scenario| {
        scenario.rows = 400;
        scenario.hold = Some(Duration::from_secs(3_600));
    });
    let running = start(&world, &mut random);
    world.clock.advance(Duration::from_millis(1));
    end(world, running, &mut random);
}

fn start(world: &World, random: &mut Rng) -> Running {
    let process = Process::new(&world.scenario, (0, 1), &world.clock, &Arc::new(AtomicU32::new(0)), None);
    world.start(&process, 2, random).expect("starts")
}

#[test]
fn a_sink_that_does_not_take_rows_stops_the_reading_and_nothing_is_lost() {
    let (mut world, mut random) = calm(|_| {});
    let mut running = start(&world, &mut random);
    go_on(&mut world, &mut running, &mut random, Duration::from_secs(5));
    let minutes = world.clock.now().plus(Duration::from_secs(300));
    running.hold(1, minutes);
    go_on(&mut world, &mut running, &mut random, Duration::from_secs(60));
    let (read, waiting) = (running.process.reads(), running.lanes[1].waiting());
    go_on(&mut world, &mut running, &mut random, Duration::from_secs(200));
    assert_eq!(running.process.reads(), read, "reading has stopped");
    // Four exchanges, each bounded, and at most one more batch of the pull that filled them.
    assert!(waiting <= 4 * (world.scenario.queue_batches + 1), "{waiting} batches wait");
    assert_eq!(running.lanes[1].waiting(), waiting);
    end(world, running, &mut random);
}

#[test]
fn a_commit_that_takes_minutes_stops_the_reading_at_the_bound_of_an_epoch() {
    let (mut world, mut random) = calm(|scenario| scenario.epoch_rows = 200);
    let mut running = start(&world, &mut random);
    go_on(&mut world, &mut running, &mut random, Duration::from_secs(5));
    let before = running.process.reads();
    let minutes = world.clock.now().plus(Duration::from_secs(300));
    running.hold(2, minutes);
    go_on(&mut world, &mut running, &mut random, Duration::from_secs(100));
    let read = running.process.reads();
    assert!(read > before, "the epoch in hand goes on");
    go_on(&mut world, &mut running, &mut random, Duration::from_secs(150));
    assert_eq!(running.process.reads(), read, "reading has stopped");
    end(world, running, &mut random);
}

/// How far apart two splits of an hour of backlog are at the ends of epochs, when one lane is much slower than the other.
fn spread(max_skew: Option<Duration>) -> Duration {
    let (world, mut random) = calm(|scenario| {
        scenario.max_skew = max_skew;
        scenario.sources = vec![Kind::Endless, Kind::Endless];
        scenario.splits = 2;
        scenario.rows = 0;
    });
    let begin = world.clock.now().0;
    for (source, topic) in world.topics.iter().enumerate() {
        for number in 0..3_600_i64 {
            for split in 0..2 {
                let id = 1_000 + (number * 2 + source as i64) * 2 + split as i64;
                topic.push(split, super::topic::Row { id, key: id % 7, at: Some(begin + number * 1_000_000) });
            }
        }
    }
    let mut running = start(&world, &mut random);
    let mut most = 0;
    for turn in 0..20_000_u32 {
        world.clock.advance(Duration::from_millis(random.u64(0..10)));
        // The second lane has one turn in ten.
        let actor = if turn % 30 == 0 { 1 } else { [0, 2][random.usize(0..2)] };
        running.step_actor(actor, world.clock.now()).expect("nothing fails");
        let Some(manifest) = world.disk.newest() else { continue };
        let newest: Vec<i64> =
            manifest.sources.values().flat_map(|s| s.splits.values()).map(|s| s.newest.unwrap_or(begin)).collect();
        let (least, greatest) = (newest.iter().min(), newest.iter().max());
        most = most.max(greatest.zip(least).map_or(0, |(greatest, least)| greatest - least));
    }
    end(world, running, &mut random);
    Duration::from_micros(most as u64)
}

#[test]
fn splits_stay_beside_each_other_when_asked_to() {
    assert!(spread(None) > Duration::from_secs(600), "a fast lane runs ahead");
    // One pull goes beyond: twenty rows of a second.
    let skew = Duration::from_secs(60);
    assert!(spread(Some(skew)) <= skew + Duration::from_secs(20));
}
