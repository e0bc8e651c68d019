//! Simulates many seeds of the stream executor: `simulate [--seed N] [--seeds COUNT] [--from N]`.
//!
//! `cargo xtask simulate` builds and runs it. A seed that finds a defect is printed, with how to run it alone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use tidemill_testkit::executor::{Story, simulate};

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a program for a terminal")]
fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (mut from, mut seeds, mut alone) = (0_u64, 1_000_u64, false);
    for pair in words.chunks(2) {
        let number = pair.get(1).and_then(|word| word.parse().ok());
        match (pair[0].as_str(), number) {
            ("--seed", Some(seed)) => (from, seeds, alone) = (seed, 1, true),
            ("--seeds", Some(count)) => seeds = count,
            ("--from", Some(seed)) => from = seed,
            _ => {
                eprintln!("simulate [--seed N] [--seeds COUNT] [--from N]");
                return ExitCode::from(2);
            }
        }
    }
    let (mut all, mut defects) = (Story::default(), 0);
    for seed in from..from + seeds {
        match catch_unwind(AssertUnwindSafe(|| simulate(seed))) {
            Ok(Ok(story)) => {
                if alone {
                    story.events.iter().for_each(|event| println!("{event}"));
                }
                all.processes += story.processes;
                all.deaths += story.deaths;
                all.fenced += story.fenced;
                all.epochs += story.epochs;
                all.rows += story.rows;
                all.late += story.late;
                all.turns += story.turns;
            }
            Ok(Err(defect)) => {
                eprintln!("{defect}");
                defects += 1;
            }
            Err(_) => {
                eprintln!("seed {seed} panicked; again: cargo xtask simulate --seed {seed}");
                defects += 1;
            }
        }
        if defects >= 10 {
            eprintln!("that is enough");
            break;
        }
    }
    println!(
        "{seeds} seeds from {from}: {defects} defects; {} processes, {} deaths, {} fenced, {} epochs, {} rows, {} late, {} turns",
        all.processes, all.deaths, all.fenced, all.epochs, all.rows, all.late, all.turns
    );
    if defects == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
