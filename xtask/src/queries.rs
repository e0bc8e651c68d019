//! `cargo xtask queries`: made-up queries through every mode, compared with DataFusion; or one of them alone.
//!
//! **Invariant:** it knows no test but by its name; what is made of a seed is the test's to say.

use crate::steps;

/// Runs the test with these words: `--count N`, `--seed N`, `--query N`.
pub(crate) fn run(words: &[&str]) -> Result<(), String> {
    let mut variables = Vec::new();
    for pair in words.chunks(2) {
        let number = pair.get(1).filter(|word| word.parse::<u64>().is_ok());
        match (pair[0], number) {
            ("--count", Some(count)) => variables.push(("TIDEMILL_E2E_QUERIES", (*count).to_owned())),
            ("--seed", Some(seed)) => variables.push(("TIDEMILL_E2E_SEED", (*seed).to_owned())),
            ("--query", Some(query)) => variables.push(("TIDEMILL_E2E_CASE", format!("random_{query}"))),
            _ => return Err("cargo xtask queries [--count N] [--seed N] [--query N]".to_owned()),
        }
    }
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let packages = ["--package", "tidemill-deps", "--package", "tidemill-e2e", "--test", "e2e"];
    let test = ["agreement::random::", "--", "--nocapture"];
    steps::cargo(&[&["test", "--release"], packages.as_slice(), test.as_slice()].concat(), &variables)
}
