//! `cargo xtask deny`: licences, advisories and duplicate dependencies, judged by cargo-deny and `deny.toml`.
//!
//! **Invariant:** a check that could not be made is a failure with its reason, never a pass.

use crate::{say, steps};

/// The version that `deny.toml` is written for.
const VERSION: &str = "0.20.2";

/// What to do when cargo-deny is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Say so and fail.
    Refuse,
    /// Build it, which takes minutes.
    Install,
}

/// Whether cargo-deny is there.
pub(crate) fn installed() -> bool {
    steps::answers(&["deny", "--version"])
}

/// Checks everything that `deny.toml` asks.
pub(crate) fn run(missing: Missing) -> Result<(), String> {
    if !installed() {
        match missing {
            Missing::Refuse => {
                return Err("cargo-deny is not installed, so nothing was checked; add --install to build it".to_owned());
            }
            Missing::Install => {
                say::problem("building cargo-deny, once for this machine; this takes minutes");
                steps::cargo(&["install", "cargo-deny", "--locked", "--version", VERSION], &[])?;
            }
        }
    }
    locked()?;
    // Last and apart: it is the one check that needs the network, and its failure should name itself.
    steps::cargo(&["deny", "--workspace", "check", "advisories"], &[])
        .map_err(|problem| format!("{problem}; advisories are fetched, so the network is needed"))
}

/// Checks what the lock file decides alone. What it answers changes with our commits only, and needs no network; an
/// advisory of today is no fault of the change that is tested today.
pub(crate) fn locked() -> Result<(), String> {
    steps::cargo(&["deny", "--workspace", "check", "bans", "licenses", "sources"], &[])
}
