//! `cargo xtask test`: everything that CI asks of a change, with one verdict at the end.
//!
//! **Invariant:** every heavy step uses the release profile, so that the demo, the tests and the benchmarks share one
//! set of dependency artefacts.

use crate::steps::Steps;
use crate::{deny, docs, say, tidy};

/// How much is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All that CI asks.
    Everything,
    /// What answers in seconds: the crates that know no DataFusion.
    Quick,
}

/// The crates that know no DataFusion, and the one that gives their dependencies the features of the whole workspace.
const LIGHT: &[&str] = &[
    "tidemill-model",
    "tidemill-checkpoint",
    "tidemill-runtime",
    "tidemill-connect",
    "tidemill-testkit",
    "tidemill-deps",
    "xtask",
];

/// Runs the steps.
pub(crate) fn run(extent: Extent) -> Result<(), String> {
    let mut steps = Steps::begin();
    steps.cargo("format", &["fmt", "--all", "--check"], &[]);
    steps.run("tidy", tidy::run);
    if extent == Extent::Quick {
        let mut words = vec!["test", "--release"];
        words.extend(LIGHT.iter().flat_map(|name| ["--package", name]));
        steps.cargo("tests", &words, &[]);
        return steps.end();
    }
    // The binary first: the end-to-end tests start it as a process of its own.
    steps.cargo("build", &["build", "--release", "--workspace"], &[]);
    steps.cargo("tests", &["test", "--release", "--workspace"], &[]);
    steps.run("reference", docs::check);
    let clippy = ["clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"];
    steps.cargo("clippy", &clippy, &[]);
    let doc = ["doc", "--release", "--workspace", "--no-deps"];
    steps.cargo("docs", &doc, &[("RUSTDOCFLAGS", "-D warnings")]);
    if deny::installed() {
        steps.run("deny", deny::locked);
    } else {
        say::problem("\n! deny: not run, cargo-deny is not installed; install and run it: cargo xtask deny --install");
    }
    steps.end()
}
