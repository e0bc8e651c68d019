//! [`Views`]: the committed rows of materialized views, for readers in this process.
//!
//! **Invariant:** a reader sees whole epochs: the rows of one view at one epoch, with that epoch's boundary.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use arrow::array::RecordBatch;
use tidemill_checkpoint::ViewState;
use tidemill_model::Epoch;

#[derive(Debug)]
struct Published {
    chunks: BTreeMap<String, RecordBatch>,
    epoch: Epoch,
    state: ViewState,
}

/// Published views by name.
#[derive(Debug, Default)]
pub struct Views(RwLock<BTreeMap<String, Published>>);

/// One view at one epoch.
#[derive(Debug, Clone)]
pub struct ViewRows {
    /// The epoch.
    pub epoch: Epoch,
    /// Boundary and freshness.
    pub state: ViewState,
    /// The rows, in pieces.
    pub batches: Vec<RecordBatch>,
}

impl Views {
    /// The rows of a view; `None` until its first epoch is committed in this process or restored into it.
    pub fn rows(&self, view: &str) -> Option<ViewRows> {
        let views = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let published = views.get(view)?;
        Some(ViewRows {
            epoch: published.epoch,
            state: published.state.clone(),
            batches: published.chunks.values().cloned().collect(),
        })
    }

    /// The names of all published views.
    pub fn names(&self) -> Vec<String> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    pub(crate) fn restore(&self, view: &str, chunks: &[(String, RecordBatch)], epoch: Epoch, state: &ViewState) {
        let published = Published { chunks: chunks.iter().cloned().collect(), epoch, state: state.clone() };
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(view.to_owned(), published);
    }

    /// Applies an epoch's changed chunks; `whole` when they are all there is.
    pub(crate) fn publish(
        &self,
        view: &str,
        changed: Vec<(String, Option<RecordBatch>)>,
        whole: bool,
        epoch: Epoch,
        state: &ViewState,
    ) {
        let mut views = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let published = views.entry(view.to_owned()).or_insert_with(|| Published {
            chunks: BTreeMap::new(),
            epoch,
            state: state.clone(),
        });
        if whole {
            published.chunks.clear();
        }
        for (key, rows) in changed {
            match rows {
                Some(rows) => published.chunks.insert(key, rows),
                None => published.chunks.remove(&key),
            };
        }
        published.epoch = epoch;
        published.state = state.clone();
    }
}
