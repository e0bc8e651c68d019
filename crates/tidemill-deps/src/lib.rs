//! No code: see the description in this crate's manifest.
//!
//! **Invariant:** it names what the other crates name and nothing else.
