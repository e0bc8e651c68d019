//! [`rewrites`]: which files of a folder runs of intervals put others in the place of.
//!
//! **Invariant:** a run replaces the file that has the name of its interval, or of everything, and no other.

use std::collections::BTreeSet;

use tidemill_model::{Interval, Result};
use tidemill_runtime::Rewrites;

use super::commit::parse_interval;
use super::location::Location;
use super::sink::{Replaces, Target};

/// The files that runs of these intervals replace, or remove where they have no rows. The folder is listed once.
pub(super) fn rewrites(target: &Target, intervals: &[Interval]) -> Result<Rewrites> {
    let run: BTreeSet<Interval> = intervals.iter().copied().collect();
    let mut found = Rewrites::default();
    for file in Location::new(&target.shown, target.folder.clone(), None, true)?.list(true)? {
        let stem = file.name.rsplit_once('.').map_or(file.name.as_str(), |(stem, _)| stem);
        let of = stem.rfind("interval-").and_then(|at| parse_interval(stem.get(at..)?));
        if target.replaces == Replaces::Everything {
            if file.name == target.everything() {
                found.add(file.size, intervals.len() as u64);
            }
            continue;
        }
        if of.is_some_and(|of| run.contains(&of) && target.whole_of(of) == file.name) {
            found.add(file.size, 1);
        }
    }
    Ok(found)
}
