//! Tests of bounded work.
