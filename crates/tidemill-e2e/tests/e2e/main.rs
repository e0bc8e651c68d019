//! The one binary of end-to-end tests: the modes agree, a killed run loses nothing, bad input is told clearly.
//!
//! **Invariant:** a failure prints its case and its seed; `TIDEMILL_E2E_CASE` and `TIDEMILL_E2E_SEED` run it alone.

#![expect(clippy::panic, reason = "a panic is how a test fails, in helpers as in the test itself")]
#![expect(clippy::string_slice, reason = "what is cut are digits that the helper has made itself")]

mod agreement;
mod bad_input;
mod binary;
mod changelog;
mod cli;
mod demo;
mod functions;
mod kill;
mod knobs;
mod letters;
mod lookups;
mod memory;
mod pipes;
mod pressure;
mod rebuild;
mod restart;
mod scheduled;
mod soak;
mod verify;
mod writes;
