//! [`Bench`]: a case with its rows and the oracle's answer, and [`Way`]s to run it that must give the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use tidemill::{Live, RunOptions, Workspace, interval};
use tidemill_checkpoint::Counters;
use tidemill_model::{Epoch, Interval, Kind, Result, Timestamp, Trigger};
use tidemill_runtime::AtOnce;
use tidemill_runtime::exec::{Limits, StopFlag, Views};
use tidemill_sql::batch::query;
use tidemill_testkit::{Arrivals, Crash, Ending, Multiset, Outside, Rng, Simulation};
use tokio::runtime::Runtime;

use super::case::{Case, FROM, Input, Target};
use super::changes::{change, inserted};
use super::oracle::{self, Tables};
use super::prefix::Watcher;
use super::project::{Reading, Setup, schema_of};
use super::world::World;

/// Bytes of memory for state, far fewer than any case's state has.
const LITTLE: usize = 4_000;
/// What the query of a case is written to.
const RESULT: &str = "result";

/// A way to run a case.
#[derive(Debug, Clone)]
pub(crate) enum Way {
    /// One run of an interval that holds all rows.
    Interval,
    /// One run after another of so many intervals that hold all rows together, one of them twice where that is allowed.
    Intervals { count: usize },
    /// `once`, on threads, when all rows are there.
    Threads { lanes: usize },
    /// Step by step, rows arriving meanwhile, with so many deaths, lanes changing from process to process.
    Simulated { trigger: &'static str, deaths: u64 },
    /// `continuous`, step by step, dying once, at this step of its commits.
    KilledAt { step: u64 },
}

impl Way {
    pub(crate) fn simulated(trigger: &'static str, deaths: u64) -> Way {
        Way::Simulated { trigger, deaths }
    }

    /// For counting.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Way::Interval => "interval",
            Way::Intervals { .. } => "intervals",
            Way::Threads { .. } => "once on threads",
            Way::Simulated { trigger, .. } => trigger,
            Way::KilledAt { .. } => "killed",
        }
    }
}

/// What a run left.
pub(crate) struct Outcome {
    answer: Vec<RecordBatch>,
    pub(crate) counters: Counters,
    pub(crate) deaths: u64,
    /// How many bytes of state were moved out of memory.
    pub(crate) spilled: u64,
    /// How many dead letters there are, by table and reason.
    dead: BTreeMap<(String, String), u64>,
}

impl Outcome {
    fn dead_of(&self, table: &str, reason: &str) -> u64 {
        self.dead.get(&(table.to_owned(), reason.to_owned())).copied().unwrap_or(0)
    }
}

/// Why a run gives no answer or another one.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The code of the error, when the project or its SQL is refused.
    pub(crate) refused: Option<&'static str>,
    text: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// An interval that holds every row that is compared.
const ALL_TIME: &str = "1960-01-01/2030-01-01";
/// How far made-up rows are out of order; the cases' tables declare a watermark of ten seconds.
const DISORDER: Duration = Duration::from_secs(9);
/// Rows that only move time on: so many that each partition gets some that are accepted.
const CLOSING: usize = 60;

/// A case, ready to be run.
pub(crate) struct Bench<'a> {
    case: &'a Case,
    runtime: Runtime,
    /// The rows of each table that stand, in their order.
    rows: Vec<(String, RecordBatch)>,
    /// What is written of each table: the rows, or changes to them.
    records: Vec<(String, RecordBatch)>,
    last_records: Vec<(String, RecordBatch)>,
    /// Rows far in the future, which close every window of the others.
    closing: Vec<(String, RecordBatch)>,
    /// The rows of the tables that are looked up in.
    lookups: Tables,
    answer: Vec<RecordBatch>,
}

impl Bench<'_> {
    pub(crate) fn new(case: &Case, seed: u64) -> Bench<'_> {
        let bench = Bench::made(case, seed).unwrap_or_else(|failure| panic!("{}: {failure}", case.name));
        assert!(bench.has_answer(), "the query of {} has an answer worth comparing", case.name);
        bench
    }

    /// A bench whose oracle may have nothing to say, or not understand the query: then the error is what it says.
    pub(crate) fn made(case: &Case, seed: u64) -> Result<Bench<'_>, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let setup = Setup::declare(case, Reading::AllFiles("json")).expect("a folder");
        let workspace = setup.open().unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let mut random = Rng::with_seed(seed);
        let (mut rows, mut closing) = (Vec::new(), Vec::new());
        let (mut records, mut last_records) = (Vec::new(), Vec::new());
        for input in &case.inputs {
            let made = make(&workspace, input, None, &mut random);
            let last = make(&workspace, input, Some(CLOSING), &mut random);
            let (made, last) = match input.changes {
                None => ((made.clone(), made), (last.clone(), last)),
                Some(changing) => (change(&made, changing, &mut random), inserted(&last, changing.kind)),
            };
            for (all, one) in
                [(&mut records, made.0), (&mut rows, made.1), (&mut last_records, last.0), (&mut closing, last.1)]
            {
                all.push((input.table.clone(), one));
            }
        }
        let mut lookups = Tables::new();
        for table in case.lookups.keys() {
            let batches = ask(&runtime, &workspace, &format!("SELECT * FROM {table}")).expect("a lookup table");
            let together = arrow::compute::concat_batches(&schema_of(&batches), &batches);
            lookups.insert(table.clone(), together.expect("one schema"));
        }
        let mut bench = Bench { case, runtime, rows, records, last_records, closing, lookups, answer: Vec::new() };
        bench.answer = oracle::answer(&bench.runtime, case, &bench.tables(false))?;
        Ok(bench)
    }

    /// Whether there are rows to compare.
    pub(crate) fn has_answer(&self) -> bool {
        self.answer.iter().any(|batch| batch.num_rows() > 0)
    }

    /// Whether the oracle told at least the columns of its answer.
    pub(crate) fn is_said(&self) -> bool {
        !self.answer.is_empty()
    }

    /// Runs the case and compares; the error says what differs.
    pub(crate) fn check(&self, target: &Target, way: &Way, seed: u64) -> Result<Outcome, Failure> {
        let mut random = Rng::with_seed(seed);
        let formats = ["json", "parquet", "csv"];
        let format = formats[random.usize(0..3)];
        let reading = match way {
            Way::Interval | Way::Intervals { .. } | Way::Threads { .. } => {
                [Reading::Log, Reading::Files(format), Reading::AllFiles(format)][random.usize(0..3)]
            }
            Way::Simulated { .. } | Way::KilledAt { .. } => {
                [Reading::Log, Reading::Log, Reading::Files(format)][random.usize(0..3)]
            }
        };
        let reading = if self.case.reads_changes() { Reading::Log } else { reading };
        let written = formats[random.usize(0..2)];
        let batch = matches!(way, Way::Interval | Way::Intervals { .. });
        let shows_open = *target == Target::View || self.case.shows_open();
        let windows = self.case.is_windowed() && (!shows_open || self.case.waits_in_views());
        let closes = (windows || self.case.waits) && !batch && !matches!(reading, Reading::AllFiles(_));
        let told = |e: tidemill_model::Error| Failure {
            refused: matches!(e.kind(), Kind::Plan | Kind::Config).then(|| e.code()),
            text: format!("{reading:?}: {e}"),
        };
        let setup = Setup::declare(self.case, reading).map_err(told)?;
        setup.add_pipeline(self.case, target, &schema_of(&self.answer), written).map_err(told)?;
        let outcome = self.run(&setup, (target, way), closes, &mut random).map_err(told)?;
        let unbounded = !batch && !matches!(reading, Reading::AllFiles(_));
        let difference = self.compare(&outcome, matches!(way, Way::Intervals { .. }), closes, unbounded);
        match difference.or_else(|| self.verify(&setup, &outcome)) {
            None => Ok(outcome),
            Some(difference) => {
                let (deaths, folder) = (outcome.deaths, setup.folder.keep());
                let text = format!("{reading:?}, {deaths} deaths, in {}: {difference}", folder.display());
                Err(Failure { refused: None, text })
            }
        }
    }

    fn run(&self, setup: &Setup, (target, way): (&Target, &Way), closes: bool, random: &mut Rng) -> Result<Outcome> {
        let outside = setup.open()?;
        let last = if closes { self.last_records.as_slice() } else { &[] };
        let mut world = World::new(&outside, &self.records, last, random)?;
        let mut spilled = 0;
        let deaths = match way {
            Way::Interval => {
                world.deliver_all(random)?;
                self.intervals(&outside, &[Interval::parse(ALL_TIME)?])?;
                0
            }
            Way::Intervals { count } => {
                world.deliver_all(random)?;
                let mut intervals = self.cut_time(*count, random)?;
                if *target == Target::Files || matches!(target, Target::Upsert(_)) {
                    intervals.push(intervals[random.usize(0..intervals.len())]);
                }
                self.intervals(&outside, &intervals)?;
                0
            }
            Way::Threads { lanes } => {
                world.deliver_all(random)?;
                let options = RunOptions { trigger: Some(Trigger::Once), lanes: Some(*lanes), ..RunOptions::default() };
                Live::open(&outside, "p", &options, &Arc::new(Views::default()), &StopFlag::default())?.run()?;
                0
            }
            Way::Simulated { trigger, deaths } => {
                let trigger = Trigger::parse(trigger, None)?;
                let mut processes = Processes::new(setup, trigger, *deaths, random);
                let deaths = processes.run(&mut world, &mut |_| Ok(()))?;
                spilled = processes.spilled;
                deaths
            }
            Way::KilledAt { step } => {
                let processes = Processes::new(setup, Trigger::Continuous, 1, random);
                Processes { killed_at: Some(*step), ..processes }.run(&mut world, &mut |_| Ok(()))?
            }
        };
        Ok(Outcome { spilled, ..self.look(&setup.open()?, deaths)? })
    }

    /// Runs the case into a view and compares what it shows at some epochs; answers at how many.
    pub(crate) fn prefixes(&self, seed: u64) -> Result<u64, Failure> {
        let mut random = Rng::with_seed(seed);
        let told = |e: tidemill_model::Error| Failure { refused: None, text: format!("{e} {:?}", e.facts()) };
        let setup = Setup::declare(self.case, Reading::Log).map_err(told)?;
        setup.add_pipeline(self.case, &Target::View, &schema_of(&self.answer), "json").map_err(told)?;
        let outside = setup.open().map_err(told)?;
        let mut world = World::new(&outside, &self.records, &[], &mut random).map_err(told)?;
        let mut watcher = Watcher {
            case: self.case,
            runtime: &self.runtime,
            workspace: &outside,
            lookups: &self.lookups,
            columns: schema_of(&self.answer).fields().iter().map(|field| field.name().clone()).collect(),
            seen: Epoch::NONE,
            compared: 0,
            wrong: None,
        };
        let mut processes = Processes::new(&setup, Trigger::Continuous, 2, &mut random);
        processes.run(&mut world, &mut |random| watcher.look(random)).map_err(told)?;
        let (compared, wrong) = (watcher.compared, watcher.wrong.take());
        let Some(text) = wrong else { return Ok(compared) };
        Err(Failure { refused: None, text: format!("in {}: {text}", setup.folder.keep().display()) })
    }

    /// Runs these intervals.
    fn intervals(&self, workspace: &Workspace, intervals: &[Interval]) -> Result<()> {
        for one in intervals {
            self.runtime.block_on(interval(workspace, "p", *one, &StopFlag::default(), |_| {}))?;
        }
        Ok(())
    }

    /// All time as intervals that end anywhere within the time of the rows, in the middle of windows too.
    fn cut_time(&self, count: usize, random: &mut Rng) -> Result<Vec<Interval>> {
        let Interval { start, end } = Interval::parse(ALL_TIME)?;
        let span = self.case.inputs.iter().map(|input| input.apart.as_micros() as i64 * input.rows as i64).max();
        let from = self.case.inputs.first().map_or(FROM, |input| input.from);
        let mut ends: Vec<i64> = (1..count).map(|_| from.0 + random.i64(0..span.unwrap_or(1))).collect();
        ends.sort_unstable();
        ends.dedup();
        ends.push(end.0);
        let mut from = start;
        let cut = |end| Interval { start: std::mem::replace(&mut from, Timestamp(end)), end: Timestamp(end) };
        Ok(ends.into_iter().map(cut).collect())
    }

    fn look(&self, workspace: &Workspace, deaths: u64) -> Result<Outcome> {
        let schema = schema_of(&self.answer);
        let columns: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let answer = ask(&self.runtime, workspace, &format!("SELECT {} FROM result", columns.join(", ")))?;
        let counters = workspace.checkpoints("p").latest()?.map(|manifest| manifest.counters).unwrap_or_default();
        let mut dead: BTreeMap<(String, String), u64> = BTreeMap::new();
        for table in self.rows.iter().map(|(table, _)| table.as_str()).chain([RESULT]) {
            let sql = format!("SELECT reason FROM {table}.dead_letters");
            for batch in ask(&self.runtime, workspace, &sql)? {
                for reason in batch.column(0).as_string::<i32>().iter().flatten() {
                    *dead.entry((table.to_owned(), reason.to_owned())).or_default() += 1;
                }
            }
        }
        Ok(Outcome { answer, counters, deaths, spilled: 0, dead })
    }

    fn compare(&self, outcome: &Outcome, several: bool, closes: bool, unbounded: bool) -> Option<String> {
        let case = self.case;
        let counters = &outcome.counters;
        for (kind, condition) in &case.counts {
            let expected = oracle::count(&self.runtime, case, &self.tables(closes), &self.rows[0].0, condition);
            let found = match kind.split_once(' ') {
                // Several runs of intervals may each meet a row that is none of theirs.
                None if several => continue,
                None if kind == "dropped" => counters.rows_dropped,
                None if kind == "warned" => counters.rows_warned,
                Some(("dead", reason)) => outcome.dead_of(&self.rows[0].0, reason),
                Some(("failed", reason)) => outcome.dead_of(RESULT, reason),
                _ => panic!("{}: unknown count `{kind}`", case.name),
            };
            if found != expected {
                return Some(format!(
                    "{found} rows are counted as {kind}, not {expected}; dead are {:?}",
                    outcome.dead
                ));
            }
        }
        let kept: u64 = outcome.dead.values().sum();
        if !several && counters.rows_dead() != kept {
            return Some(format!("{kept} dead letters are kept of {} counted", counters.rows_dead()));
        }
        if let (Some(column), true) = (&case.late, unbounded) {
            return self.conserved(outcome, column);
        }
        if counters.rows_late > 0 {
            return Some(format!("{} rows were late, and all are within the bound", counters.rows_late));
        }
        let rows = |batches: &[RecordBatch]| Multiset::of(batches, &case.tolerances).expect("rows can be shown");
        rows(&outcome.answer).difference(&rows(&self.answer))
    }

    /// The product's own comparison must say the same as the oracle.
    fn verify(&self, setup: &Setup, outcome: &Outcome) -> Option<String> {
        let verified = setup.open().and_then(|workspace| {
            self.runtime.block_on(Box::pin(tidemill::verify(&workspace, "p", &StopFlag::default())))
        });
        match verified {
            Err(error) => Some(format!("verify: {error} {:?}", error.facts())),
            Ok(verified) if outcome.counters.rows_late > 0 => {
                (verified.late == 0).then(|| "verify: late rows are not told".to_owned())
            }
            Ok(verified) => {
                let targets = 1 + usize::from(self.case.beside.is_some());
                let equal = verified.targets.len() == targets && verified.differences() == 0;
                (!equal).then(|| format!("verify: {:#?}", verified.targets))
            }
        }
    }

    /// With late rows the answer depends on the order of arrival, but no row is lost silently or counted twice.
    fn conserved(&self, outcome: &Outcome, column: &str) -> Option<String> {
        let sum = |batches: &[RecordBatch]| -> i64 {
            let columns = batches.iter().map(|batch| batch.column_by_name(column).expect("the counting column"));
            columns.flat_map(|column| column.as_primitive::<Int64Type>().iter().flatten()).sum()
        };
        let (found, expected) = (sum(&outcome.answer), sum(&self.answer));
        let late = i64::try_from(outcome.counters.rows_late).unwrap_or(i64::MAX);
        (found + late != expected).then(|| format!("{found} rows and {late} late ones are not {expected}"))
    }

    fn tables(&self, closing: bool) -> Tables {
        let mut tables = self.lookups.clone();
        for ((table, rows), (_, last)) in self.rows.iter().zip(&self.closing) {
            let rows = match closing {
                true => arrow::compute::concat_batches(&rows.schema(), [rows, last]).expect("one schema"),
                false => rows.clone(),
            };
            tables.insert(table.clone(), rows);
        }
        tables
    }
}

/// The rows of an input, or those that close its windows.
fn make(workspace: &Workspace, input: &Input, closing: Option<usize>, random: &mut Rng) -> RecordBatch {
    let spec = workspace.catalog.spec(&input.table, tidemill_sql::Side::Live).expect("a declared table");
    let years = Duration::from_secs(700 * 86_400);
    let arrivals = Arrivals {
        rows: closing.unwrap_or(input.rows),
        from: if closing.is_some() { FROM.plus(years) } else { input.from },
        apart: if closing.is_some() { Duration::from_millis(1) } else { input.apart },
        disorder: if closing.is_some() { Duration::from_millis(1) } else { DISORDER },
        grain: if closing.is_some() { Duration::ZERO } else { input.grain },
        late: if closing.is_some() { 0.0 } else { input.late },
        timeless: if closing.is_some() { 0.0 } else { input.timeless },
        words: input.words.clone(),
    };
    let first = if closing.is_some() { 1_000_000 } else { 1 };
    arrivals.make(&spec.schema, spec.event_time.as_deref(), first, random).expect("made-up rows")
}

/// One process after another, until one ends by itself with everything read.
struct Processes<'a> {
    setup: &'a Setup,
    trigger: Trigger,
    deaths: u64,
    killed_at: Option<u64>,
    died: u64,
    spilled: u64,
    random: &'a mut Rng,
}

/// Somebody who looks on from outside, between any two steps.
type Looker<'a> = &'a mut dyn FnMut(&mut Rng) -> Result<()>;

impl Processes<'_> {
    fn new<'a>(setup: &'a Setup, trigger: Trigger, deaths: u64, random: &'a mut Rng) -> Processes<'a> {
        Processes { setup, trigger, deaths, killed_at: None, died: 0, spilled: 0, random }
    }

    /// Answers how many died.
    fn run(&mut self, world: &mut World, look: Looker<'_>) -> Result<u64> {
        world.begin()?;
        loop {
            let all_there = world.is_empty();
            if self.process(world, look)? && all_there {
                return Ok(self.died);
            }
            // The next run of `once` finds what came in between.
            if self.trigger == Trigger::Once {
                world.deliver(self.random)?;
            }
        }
    }

    /// One process; whether it ended by itself.
    fn process(&mut self, world: &mut World, look: Looker<'_>) -> Result<bool> {
        let workspace = self.setup.open()?;
        let stop = StopFlag::default();
        let options = RunOptions {
            trigger: Some(self.trigger.clone()),
            lanes: Some(self.random.usize(1..=3)),
            limits: Limits {
                epoch_rows: [60, 4_000_000][self.random.usize(0..2)],
                queue_batches: self.random.usize(1..=3),
                discovery: Duration::from_millis(3),
                state_bytes: [Some(LITTLE), None][self.random.usize(0..2)],
                ..Limits::default()
            },
            background: Arc::new(AtOnce),
        };
        let live = Live::open(&workspace, "p", &options, &Arc::new(Views::default()), &stop)?;
        let progress = Arc::clone(&live.progress);
        let (dataflow, _lock) = live.into_dataflow();
        let memory = dataflow.memory();
        let crash = match self.killed_at {
            _ if self.died >= self.deaths => None,
            Some(step) => Some(Crash::AfterCommitSteps(step)),
            None if self.random.bool() => Some(Crash::AfterCommitSteps(self.random.u64(1..=12))),
            None => Some(Crash::AtPoint(self.random.u64(1..=600))),
        };
        let mut arrive = |random: &mut Rng| -> Result<Outside> {
            look(random)?;
            let arrives = random.u32(0..8) == 0;
            Ok(if arrives && !world.deliver(random)? { Outside::Done } else { Outside::Goes })
        };
        let mut simulation = Simulation {
            clock: &self.setup.clock,
            random: self.random,
            progress: &progress,
            stop: &stop,
            settles_in: Duration::from_millis(300),
            crash,
        };
        let ending = simulation.run(dataflow, &mut arrive)?;
        self.spilled += memory.spilled();
        match ending {
            Ending::Ended => Ok(true),
            Ending::Crashed(_) => {
                self.died += 1;
                Ok(false)
            }
        }
    }
}

/// Asks the project, as anyone would.
pub(crate) fn ask(runtime: &Runtime, workspace: &Workspace, sql: &str) -> Result<Vec<RecordBatch>> {
    let (views, resources) = (workspace.stored(), workspace.resources());
    let asked = query(&workspace.catalog, &views, sql, &resources, StopFlag::default());
    Ok(runtime.block_on(asked)?.batches)
}
