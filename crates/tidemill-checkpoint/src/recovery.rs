//! [`recover`]: what to do at start, decided from observed facts alone.

use tidemill_model::Epoch;

use crate::Manifest;

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
        /// The stateful nodes whose fingerprint differs or that are gone.
        nodes: Vec<String>,
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
    let has_read = manifest.sources.values().any(|source| !source.splits.is_empty());
    let mut nodes: Vec<String> = plan
        .iter()
        .filter(|(_, fingerprint)| !fingerprint.is_empty())
        .filter(|(name, fingerprint)| match manifest.state.get(name) {
            Some(state) => state.fingerprint != *fingerprint,
            None => has_read,
        })
        .map(|(name, _)| name.clone())
        .collect();
    nodes.extend(manifest.state.keys().filter(|name| !plan.iter().any(|(node, _)| node == *name)).cloned());
    if nodes.is_empty() {
        Recovery::Resume(Box::new(manifest))
    } else {
        Recovery::Changed { epoch: manifest.epoch, nodes }
    }
}
