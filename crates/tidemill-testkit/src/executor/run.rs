//! [`simulate`]: one seed from the first row to the last epoch, through every crash in between.
//!
//! **Invariant:** one thread, a virtual clock, and one generator made from the seed: the same seed is the same story.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;
use tidemill_model::{Clock, Error, Kind, Result};

use super::oracle;
use super::scenario::Scenario;
use super::weather::Process;
use super::world::{Running, Turn, World};

/// More turns than this is a pipeline that does not come to its end.
const MOST_TURNS: u64 = 400_000;

/// What a seed came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Story {
    /// Processes that were started.
    pub processes: usize,
    /// Processes that died: killed, or ended by a fault.
    pub deaths: usize,
    /// Processes that were fenced.
    pub fenced: usize,
    /// Epochs.
    pub epochs: u64,
    /// Rows.
    pub rows: u64,
    /// Late rows.
    pub late: u64,
    /// How often rows met another version of the table that they are looked up in than those of the epoch before.
    pub versions: usize,
    /// Turns.
    pub turns: u64,
    /// What happened, in words, in order.
    pub events: Vec<String>,
}

/// A seed that found a defect.
#[derive(Debug)]
pub struct Defect {
    /// The seed.
    pub seed: u64,
    /// What is wrong.
    pub error: Error,
    /// What happened before.
    pub events: Vec<String>,
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.error)?;
        let skipped = self.events.len().saturating_sub(20);
        self.events.iter().skip(skipped).try_for_each(|event| writeln!(f, "  {event}"))?;
        writeln!(f, "  again: cargo xtask simulate --seed {}", self.seed)?;
        write!(f, "  {:?}", Scenario::of(self.seed))
    }
}

/// Simulates a seed.
///
/// # Errors
/// The defect that it found.
pub fn simulate(seed: u64) -> Result<Story, Box<Defect>> {
    let mut random = Rng::with_seed(seed);
    let mut simulation = Simulation::new(Scenario::of(seed), &mut random);
    match simulation.run(&mut random) {
        Ok(()) => Ok(simulation.story),
        Err(error) => Err(Box::new(Defect { seed, error, events: simulation.story.events })),
    }
}

struct Simulation {
    world: World,
    running: Vec<Running>,
    story: Story,
    crashes: u32,
    rivals: u32,
    rivalled: bool,
    /// Machines with a process on them.
    machines: usize,
    arriving: bool,
    idle: u32,
}

impl Simulation {
    fn new(scenario: Scenario, random: &mut Rng) -> Simulation {
        let (crashes, rivals) = (scenario.crashes, scenario.rivals);
        Simulation {
            world: World::new(scenario, random),
            running: Vec::new(),
            story: Story::default(),
            crashes,
            rivals,
            rivalled: false,
            machines: 1,
            arriving: true,
            idle: 0,
        }
    }

    fn run(&mut self, random: &mut Rng) -> Result<()> {
        let mut ended = false;
        for turn in 0..MOST_TURNS {
            self.story.turns = turn;
            self.pass_time(random);
            if random.u32(0..60) == 0 {
                self.arriving &= self.world.arrive(random);
            }
            if self.running.is_empty() {
                if ended && !self.arriving && oracle::is_all_read(&self.world) {
                    return self.finish();
                }
                ended = false;
                self.start(random)?;
                continue;
            }
            if self.rivals > 0 && self.running.len() == 1 && random.u32(0..400) == 0 {
                self.rivals -= 1;
                self.rivalled = true;
                self.start(random)?;
            }
            let which = random.usize(0..self.running.len());
            if self.crashes > 0 && random.u32(0..600) == 0 {
                self.crashes -= 1;
                self.end(which, "killed between two steps", true)?;
                continue;
            }
            ended |= self.step(which, random)?;
            if turn % 256 == 0 {
                self.look()?;
            }
        }
        Err(Error::internal(format!("no end after {MOST_TURNS} turns")))
    }

    /// A turn takes a while; when nobody has work, time passes until somebody has.
    fn pass_time(&mut self, random: &mut Rng) {
        let most = if self.idle > 60 { 40_000 } else { 1_500 };
        self.world.clock.advance(Duration::from_micros(random.u64(0..most)));
    }

    /// Starts a process, on the machine of the last one or, beside a running one, on another.
    fn start(&mut self, random: &mut Rng) -> Result<()> {
        if !self.running.is_empty() || random.u32(0..6) == 0 {
            self.machines += 1;
        }
        let number = self.story.processes;
        self.story.processes += 1;
        let dies_in = (self.crashes > 0 && random.u32(0..2) == 0).then(|| random.u32(0..400));
        if dies_in.is_some() {
            self.crashes -= 1;
        }
        let (scenario, machine) = (&self.world.scenario, self.machines);
        let process = Process::new(scenario, (number, machine), &self.world.clock, &self.world.faults, dies_in);
        let lanes = random.usize(1..5);
        self.note(format!("process {number} starts with {lanes} lanes on machine {machine}"));
        match self.world.start(&process, lanes, random) {
            Ok(running) => self.running.push(running),
            Err(error) => {
                self.judge(&process, &error)?;
                self.world.clock.advance(Duration::from_millis(random.u64(1..1_000)));
            }
        }
        Ok(())
    }

    /// A turn of a process; `true` when it ended by itself.
    fn step(&mut self, which: usize, random: &mut Rng) -> Result<bool> {
        let now = self.world.clock.now();
        if !self.arriving && !self.running[which].stop.is_set() && self.idle > 0 && self.idle.is_multiple_of(64) {
            // What follows for ever is asked to end once it has all.
            if oracle::is_all_read(&self.world) {
                self.running.iter().for_each(|running| running.stop.stop());
            }
        }
        match self.running[which].step(now, random) {
            Ok(Turn::Worked) => self.idle = 0,
            Ok(Turn::Idle) => self.idle += 1,
            Ok(Turn::Ended) => {
                self.end(which, "ended", false)?;
                return Ok(true);
            }
            Err(error) => {
                let process = std::sync::Arc::clone(&self.running[which].process);
                self.judge(&process, &error)?;
                let fault = process.last_fault();
                self.end(which, &format!("failed: {error}; {fault}"), true)?;
            }
        }
        Ok(false)
    }

    /// Takes a process out of the world.
    fn end(&mut self, which: usize, how: &str, died: bool) -> Result<()> {
        self.look()?;
        let gone = self.running.swap_remove(which);
        gone.process.kill();
        self.story.deaths += usize::from(died);
        let epoch = self.world.disk.newest().map_or(0, |manifest| manifest.epoch.0);
        self.note(format!("process {} {how}, at epoch {epoch}", gone.process.number));
        self.idle = 0;
        Ok(())
    }

    /// Only what was made to go wrong may go wrong.
    fn judge(&mut self, process: &Process, error: &Error) -> Result<()> {
        let number = process.number;
        let fine = match error.kind() {
            Kind::Unavailable => process.is_dead() || process.may_fail(),
            Kind::Fenced => self.rivalled,
            _ => false,
        };
        if error.kind() == Kind::Fenced {
            self.story.fenced += 1;
        }
        if fine {
            return Ok(());
        }
        Err(Error::internal(format!("process {number} failed by itself, {:?}: {error}", error.kind())))
    }

    /// Compares what anybody can see with what it should be.
    fn look(&self) -> Result<()> {
        oracle::check(&self.world)?;
        self.running.iter().try_for_each(|running| oracle::check_published(&self.world, running))
    }

    fn finish(&mut self) -> Result<()> {
        oracle::check_end(&self.world, self.rivalled)?;
        self.story.versions = oracle::met(&self.world)?;
        if let Some(manifest) = self.world.disk.newest() {
            self.story.epochs = manifest.epoch.0;
            self.story.rows = manifest.counters.rows_read;
            self.story.late = manifest.counters.rows_late;
        }
        Ok(())
    }

    fn note(&mut self, event: String) {
        let now = self.world.clock.now();
        self.story.events.push(format!("{now} {event}"));
    }
}
