//! What a person may set for one run of these tests, from the environment.
//!
//! **Invariant:** unset, every run of the tests does the same.

use tidemill::variable;

/// The seed that all others are made from.
pub(crate) fn seed() -> u64 {
    number("TIDEMILL_E2E_SEED").unwrap_or(20_260_101)
}

/// Part of the name of the only cases to run.
pub(crate) fn only_case() -> String {
    variable("TIDEMILL_E2E_CASE").unwrap_or_default()
}

/// How many seeds each way of running a case is tried with.
pub(crate) fn rounds() -> u64 {
    number("TIDEMILL_E2E_ROUNDS").unwrap_or(1)
}

/// How many queries are made up.
pub(crate) fn queries() -> u64 {
    number("TIDEMILL_E2E_QUERIES").unwrap_or(84)
}

/// The query to run in the place of a made-up one.
pub(crate) fn query() -> Option<String> {
    variable("TIDEMILL_E2E_QUERY")
}

/// How many processes are killed.
pub(crate) fn kills() -> u64 {
    number("TIDEMILL_E2E_KILLS").unwrap_or(100)
}

/// How many days a soak has.
pub(crate) fn days() -> u64 {
    number("TIDEMILL_E2E_DAYS").unwrap_or(7)
}

/// How many rows come in a busy minute of a soak.
pub(crate) fn per_minute() -> u64 {
    number("TIDEMILL_E2E_PER_MINUTE").unwrap_or(240)
}

fn number(name: &str) -> Option<u64> {
    let text = variable(name)?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is `{text}`, not a number")))
}

/// A seed of its own for each of these words.
pub(crate) fn seed_of(words: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ seed();
    for byte in words.iter().flat_map(|word| word.bytes().chain([0])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash
}
