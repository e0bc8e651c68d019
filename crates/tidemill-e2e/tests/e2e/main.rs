//! The one binary of end-to-end tests: the modes agree, a killed run loses nothing, bad input is told clearly.
//!
//! **Invariant:** a failure prints its case and its seed; `TIDEMILL_E2E_CASE` and `TIDEMILL_E2E_SEED` run it alone.

mod agreement;
mod bad_input;
mod binary;
mod demo;
mod kill;
mod knobs;
