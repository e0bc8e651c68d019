//! Words to people: results on standard output, problems on standard error.
//!
//! **Invariant:** the only file of this crate that prints.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is where the program talks")]

/// A line of result.
pub(crate) fn line(text: &str) {
    println!("{text}");
}

/// A line about what went wrong or is about to take long.
pub(crate) fn problem(text: &str) {
    eprintln!("{text}");
}
