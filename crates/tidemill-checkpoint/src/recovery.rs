//! [`recover`]: what to do at start, decided from observed facts alone.

use tidemill_model::Epoch;

use crate::{Fate, Manifest, fates};

/// What a starting process must do before it reads the first row.
#[derive(Debug, Clone, PartialEq)]
pub enum Recovery {
    /// Nothing was committed: begin at epoch 1.
    Fresh,
    /// Commit `manifest`'s sinks again (they ignore what is there already), remove what was staged after it, restore
    /// its state and go on from its offsets.
    Resume(Box<Manifest>),
    /// The plan's stateful part changed: nothing can be resumed without losing or doubling rows.
    Changed {
        /// The last epoch of the old plan.
        epoch: Epoch,
        /// The stateful nodes that cannot be kept as they are on record.
        nodes: Vec<(String, Fate)>,
    },
}

/// Decides from the newest manifest and the plan's stateful nodes (name, fingerprint), sources included with an empty
/// fingerprint.
///
/// A node that is new to the plan starts empty only when nothing was read yet; otherwise it would miss the rows that
/// others have seen, so it counts as changed.
#[must_use]
pub fn recover(latest: Option<Manifest>, plan: &[(String, String)]) -> Recovery {
    let Some(manifest) = latest else { return Recovery::Fresh };
    let changed: Vec<(String, Fate)> =
        fates(&manifest, plan).into_iter().filter(|(_, fate)| *fate != Fate::Keep).collect();
    if changed.is_empty() {
        Recovery::Resume(Box::new(manifest))
    } else {
        Recovery::Changed { epoch: manifest.epoch, nodes: changed }
    }
}
