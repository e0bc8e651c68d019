//! The whole of Tidemill, tested from outside: everything is in the one test binary, `tests/e2e`.
//!
//! **Invariant:** what is claimed of a run is read back from its targets, never from the run itself.
