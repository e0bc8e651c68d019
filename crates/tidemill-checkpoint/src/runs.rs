//! [`OpenRun`]: a run of an interval that has begun and is not done: which of its steps are, and why it stands still.
//!
//! **Invariant:** a step is on record here in the same manifest that made its rows stand, so that whoever goes on with
//! the run begins behind its last finished step, and an interval that is done has no open run.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tidemill_model::{Epoch, Generation, Interval, Timestamp};

/// A run of an interval that is not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenRun {
    /// What it owns.
    pub interval: Interval,
    /// Which version of the interval's rows it writes.
    pub generation: Generation,
    /// When its first attempt began; what `now()` means in it.
    pub begun_at: Timestamp,
    /// Steps that are done, by name.
    #[serde(default)]
    pub steps: BTreeMap<String, StepDone>,
    /// Steps whose rows have stood since the interval was last done, in whatever version: what only ever adds rows must not
    /// stand again.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub wrote: BTreeSet<String>,
    /// What computed the steps that were taken over from a version that is done, if it is not what computes the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Since which epoch it computes from what is left where files of its sources are gone, because somebody has said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_what_is_left: Option<Epoch>,
    /// How many attempts have failed.
    #[serde(default)]
    pub failed: u32,
    /// Why the newest attempt failed; `None` after a step has ended well since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<RunFailure>,
}

/// A step that is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepDone {
    /// The epoch that made it stand.
    pub epoch: Epoch,
    /// What it was computed by: a step of another fingerprint is computed again.
    pub fingerprint: String,
    /// Datasets whose refused records are counted and kept by it, for all steps of the run.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub heard: BTreeSet<String>,
    /// How many rows it wrote; of a program none.
    #[serde(default)]
    pub rows: u64,
    /// When it was done.
    pub at: Timestamp,
    /// What a program gave to those after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunFailure {
    /// The step; the first, when several failed.
    pub step: String,
    /// The error's code.
    pub code: String,
    /// The error's message.
    pub message: String,
    /// When.
    pub at: Timestamp,
    /// When it is tried again; `None` when it was given up.
    pub retry_at: Option<Timestamp>,
}

impl OpenRun {
    /// A run that nothing was done of.
    #[must_use]
    pub fn new(interval: Interval, generation: Generation, begun_at: Timestamp) -> OpenRun {
        OpenRun {
            interval,
            generation,
            begun_at,
            steps: BTreeMap::new(),
            wrote: BTreeSet::new(),
            by: None,
            from_what_is_left: None,
            failed: 0,
            failure: None,
        }
    }

    /// Whether it was given up, so that only somebody's word makes it go on.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.failure.as_ref().is_some_and(|failure| failure.retry_at.is_none())
    }
}

/// The open runs of a pipeline, by interval.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OpenRuns(Vec<OpenRun>);

impl OpenRuns {
    /// All of them, in the order of their intervals.
    pub fn iter(&self) -> impl Iterator<Item = &OpenRun> {
        self.0.iter()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The run of exactly this interval.
    #[must_use]
    pub fn of(&self, interval: Interval) -> Option<&OpenRun> {
        self.0.iter().find(|run| run.interval == interval)
    }

    /// Puts a run in the place of the one of its interval.
    pub fn put(&mut self, run: OpenRun) {
        self.remove(run.interval);
        self.0.push(run);
        self.0.sort_unstable_by_key(|run| run.interval);
    }

    /// Lets runs that were given up with an error of one of these codes be tried again at an instant.
    pub fn retry(&mut self, codes: &[&str], at: Timestamp) {
        let given_up = self.0.iter_mut().filter(|run| run.is_given_up()).filter_map(|run| run.failure.as_mut());
        given_up
            .filter(|failure| codes.contains(&failure.code.as_str()))
            .for_each(|failure| failure.retry_at = Some(at));
    }

    /// Takes a run off the record: it is done, or was given up for good.
    pub fn remove(&mut self, interval: Interval) {
        self.0.retain(|run| run.interval != interval);
    }
}

#[cfg(test)]
mod tests {
    use super::{OpenRun, OpenRuns};
    use tidemill_model::{Generation, Interval, Timestamp};

    #[test]
    fn there_is_one_of_each_interval_in_their_order() {
        let run = |start: i64, generation: u64| {
            let interval = Interval { start: Timestamp(start), end: Timestamp(start + 10) };
            OpenRun::new(interval, Generation(generation), Timestamp(99))
        };
        let mut runs = OpenRuns::default();
        for open in [run(20, 1), run(0, 1), run(20, 2)] {
            runs.put(open);
        }
        assert_eq!(runs.iter().map(|r| (r.interval.start.0, r.generation.0)).collect::<Vec<_>>(), [(0, 1), (20, 2)]);
        runs.remove(run(0, 1).interval);
        assert!(runs.of(run(0, 1).interval).is_none() && !runs.is_empty());
        let text = serde_json::to_string(&runs).expect("writes");
        assert_eq!(serde_json::from_str::<OpenRuns>(&text).expect("reads"), runs);
    }
}
