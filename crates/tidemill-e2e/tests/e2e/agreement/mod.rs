//! One query, many executions, one answer: every case of `cases/` through every mode, killed and resumed.
//!
//! **Invariant:** what is compared is read back from the target; the oracle is DataFusion on the whole input.

mod case;
mod changes;
mod execution;
mod oracle;
mod prefix;
pub(crate) mod project;
mod random;
pub(crate) mod world;

use crate::knobs;
use case::{Target, cases};
use execution::{Bench, Way};

/// Cases that must have had more state than memory: groups with and without windows, panes, sessions, joins, rankings.
const SPILLS: &[&str] =
    &["tumble_sums", "hop_many", "session_by_key", "running_view", "join_interval_inner", "top_n_groups", "top_n_rows"];

/// Every case through the ways that `ways` answers; all failures are told together.
fn agree(mode: &str, ways: impl Fn(&Target) -> Vec<Way>) {
    let mut failures = Vec::new();
    for case in cases(&knobs::only_case()).into_iter().filter(|case| !case.live || mode != "interval") {
        let (mut late, mut spilled) = (0, 0);
        for round in 0..knobs::rounds() {
            let bench = Bench::new(&case, knobs::seed_of(&[&case.name, &round.to_string()]));
            for target in &case.targets {
                for way in ways(target) {
                    let words = [&case.name, mode, &format!("{target:?} {way:?}"), &round.to_string()];
                    match bench.check(target, &way, knobs::seed_of(&words)) {
                        Ok(outcome) => {
                            late += outcome.counters.rows_late;
                            spilled += outcome.spilled;
                        }
                        Err(failure) => {
                            failures.push(format!("{}, {mode} {way:?} into {target:?}:\n  {failure}", case.name));
                        }
                    }
                }
            }
        }
        if SPILLS.contains(&case.name.as_str()) && spilled == 0 && mode == "continuous" {
            failures.push(format!("{}: no state was moved out of memory in any run, so nothing was tested", case.name));
        }
        if case.late.is_some() && late == 0 && mode == "continuous" {
            failures.push(format!("{}: no row was late in any run, so nothing was tested", case.name));
        }
    }
    assert!(
        failures.is_empty(),
        "{} executions disagree; again with TIDEMILL_E2E_SEED={} TIDEMILL_E2E_ROUNDS={} TIDEMILL_E2E_CASE=<name>\n{}",
        failures.len(),
        knobs::seed(),
        knobs::rounds(),
        failures.join("\n"),
    );
}

#[test]
fn interval() {
    agree("interval", |target| match target {
        // A view is kept by its live trigger.
        Target::View => Vec::new(),
        _ => vec![Way::Interval, Way::Intervals { count: 3 }],
    });
}

#[test]
fn once_on_threads() {
    agree("once", |target| match target {
        Target::Delta | Target::Upsert(_) => vec![Way::Threads { lanes: 2 }],
        _ => (1..=3).map(|lanes| Way::Threads { lanes }).collect(),
    });
}

#[test]
fn once_after_each_arrival() {
    agree("once", |_| vec![Way::simulated("once", 2)]);
}

#[test]
fn every() {
    agree("every", |_| vec![Way::simulated("every 40 ms", 3)]);
}

#[test]
fn continuous() {
    agree("continuous", |target| match target {
        Target::Delta | Target::Upsert(_) => vec![Way::simulated("continuous", 4)],
        _ => vec![Way::simulated("continuous", 0), Way::simulated("continuous", 6)],
    });
}

/// Readers of a view see whole epochs, each the answer over a prefix of the input, while rows come and processes die.
#[test]
fn views_show_prefixes() {
    let mut failures = Vec::new();
    let mut compared = 0;
    let shown = |case: &case::Case| {
        let in_order = case.late.is_none() && case.counts.is_empty() && !case.waits_in_views();
        case.targets.contains(&Target::View) && in_order
    };
    let cases: Vec<_> = cases(&knobs::only_case()).into_iter().filter(shown).collect();
    for case in &cases {
        for round in 0..knobs::rounds() {
            let words = [&case.name, "prefix", &round.to_string()];
            let bench = Bench::new(case, knobs::seed_of(&words));
            match bench.prefixes(knobs::seed_of(&words)) {
                Ok(epochs) => compared += epochs,
                Err(failure) => failures.push(format!("{}, round {round}:\n  {failure}", case.name)),
            }
        }
    }
    let seed = knobs::seed();
    assert!(
        failures.is_empty(),
        "{} views show a mixture, TIDEMILL_E2E_SEED={seed}\n{}",
        failures.len(),
        failures.join("\n")
    );
    assert!(compared >= cases.len() as u64 * 2, "only {compared} epochs of {} views were looked at", cases.len());
}

/// A death at each single step of the first epochs' commits, into each kind of target.
#[test]
fn killed_at_every_step_of_a_commit() {
    let case = cases("tumble_sums").swap_remove(0);
    let bench = Bench::new(&case, knobs::seed_of(&[&case.name]));
    let mut deaths = 0;
    for target in [Target::Files, Target::Log, Target::View, Target::Delta] {
        for step in 1..=if target == Target::Delta { 10 } else { 20 } {
            let way = Way::KilledAt { step };
            match bench.check(&target, &way, knobs::seed_of(&["killed", &format!("{target:?}"), &step.to_string()])) {
                Ok(outcome) => deaths += outcome.deaths,
                Err(failure) => panic!("step {step} into {target:?}, seed {}:\n  {failure}", knobs::seed()),
            }
        }
    }
    assert!(deaths >= 60, "only {deaths} of 70 processes died where they should");
}
