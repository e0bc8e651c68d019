//! [`Rewrites`]: how much of what a target holds is written anew by runs of intervals.
//!
//! **Invariant:** it is about files that are there now; what the runs themselves add is not foreseen.

/// How much of what a target holds is written anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rewrites {
    /// How many of its files.
    pub files: u64,
    /// How often one of them is: once by each run that puts other rows in the place of some of its own.
    pub times: u64,
    /// How many bytes, those of a file as often as it is written anew.
    pub bytes: u64,
    /// Whether it may be less, as the rows decide which files have any that go.
    pub at_most: bool,
}

impl Rewrites {
    /// Counts a file that is written anew so many times.
    pub fn add(&mut self, bytes: u64, times: u64) {
        if times > 0 {
            self.files += 1;
            self.times = self.times.saturating_add(times);
            self.bytes = self.bytes.saturating_add(bytes.saturating_mul(times));
        }
    }
}
