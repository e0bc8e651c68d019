//! [`Rebuild`]: results that are computed anew over the input on record, all in one epoch.
//!
//! The job runs only what leads to those results, from the beginning of each split to the offset on record, without any
//! state. Its one epoch is staged like any other and switches everything in its manifest, so that death at any instant
//! leaves either the old results or the new ones. One that dies has left nothing and begins again.
//!
//! **Invariant:** there is no second epoch: before the switch nothing of the job is on record or visible.

use std::collections::{BTreeMap, BTreeSet};

use tidemill_model::{Error, Kind, Offset, SplitId, Trigger};

use super::command::Ack;

use super::job::Job;
use crate::NodeKind;

/// Bytes of dead letters that a lane keeps in memory until the switch.
pub(crate) const DEAD_BYTES: usize = 1 << 30;

/// Results to compute anew.
#[derive(Debug, Clone, Default)]
pub struct Anew {
    /// The tables and views whose results they are.
    pub targets: BTreeSet<String>,
    /// Where splits are read from, source by source; the others are read from their beginning.
    pub from: Starts,
}

/// Source node to split to the offset after which it is read.
pub type Starts = BTreeMap<String, BTreeMap<SplitId, Offset>>;

/// What the switch must know beside the epoch itself.
pub(crate) struct Rebuild {
    /// The stateful operators that are not computed anew.
    pub(crate) kept: BTreeSet<String>,
    /// What is read and written, whose dead letters are found anew.
    pub(crate) datasets: BTreeSet<String>,
    /// Where splits are read from.
    pub(crate) from: Starts,
}

impl Rebuild {
    /// Cuts the job down to what leads to the targets.
    pub(crate) fn of(job: &mut Job, anew: Anew) -> Rebuild {
        let Anew { targets, from } = anew;
        let whole = job.graph.fingerprints();
        job.graph = job.graph.leading_to(&targets);
        let computed: BTreeSet<&String> = job.graph.nodes.iter().map(|node| &node.name).collect();
        let stateful = whole.into_iter().filter(|(_, fingerprint)| !fingerprint.is_empty());
        let kept = stateful.map(|(name, _)| name).filter(|name| !computed.contains(name)).collect();
        let sources = job.graph.nodes.iter().filter_map(|node| match &node.kind {
            // The letters of a part of the records say nothing of those of all.
            NodeKind::Source(_) if from.contains_key(&node.name) => None,
            NodeKind::Source(source) => Some(source.dataset.clone()),
            NodeKind::Operator(_) | NodeKind::Sink(_) => None,
        });
        let datasets = sources.chain(targets.iter().cloned()).collect();
        job.views.retain(|view| targets.contains(&view.view));
        job.trigger = Trigger::Once;
        job.limits.epoch_rows = u64::MAX;
        job.limits.dead_bytes = DEAD_BYTES;
        Rebuild { kept, datasets, from }
    }
}

impl Rebuild {
    /// Leaves out the letters of sources that are read in part: they are on record.
    pub(crate) fn without_known(&self, acks: &mut [Ack]) {
        for ack in acks {
            for (_, cut) in ack.sources.iter_mut().filter(|(source, _)| self.from.contains_key(*source)) {
                cut.dead.clear();
                cut.counters.dead_letters.clear();
            }
        }
    }
}

/// The error of a split that was read and is not there any more.
pub(crate) fn gone(dataset: &str, split: &SplitId) -> Error {
    Error::new(Kind::Config, "C152", format!("split {split} of `{dataset}` was read before and is gone"))
        .fact("results over it cannot be computed anew; bring it back, or put the query back")
        .fact("or begin under a new name of the pipeline, which reads what is there now; nothing was changed")
}

/// The error of a reading whose refused records do not fit into memory.
pub(crate) fn too_many_dead() -> Error {
    Error::new(Kind::Data, "D150", "more than 1 GiB of records were refused while results were computed anew")
        .fact("correct the table's declaration first: see why they are refused with tidemill dead-letters")
        .fact("nothing was changed")
}
