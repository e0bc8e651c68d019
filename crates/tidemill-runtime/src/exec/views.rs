//! [`Views`]: the committed rows of materialized views, for readers in this process.
//!
//! **Invariant:** a reader sees whole epochs: the rows of one view at one epoch, with that epoch's boundary.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use arrow::array::RecordBatch;
use tidemill_checkpoint::ViewState;
use tidemill_model::{Epoch, Result};

use crate::standing_rows;

#[derive(Debug)]
struct Published {
    chunks: BTreeMap<String, RecordBatch>,
    epoch: Epoch,
    state: ViewState,
    /// The rows that stand, once somebody has asked for them.
    standing: Option<Vec<RecordBatch>>,
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
    ///
    /// # Errors
    /// Corrupt, when the stored rows are not readable.
    pub fn rows(&self, view: &str) -> Result<Option<ViewRows>> {
        let (chunks, epoch, state) = {
            let views = self.0.read().unwrap_or_else(PoisonError::into_inner);
            let Some(published) = views.get(view) else { return Ok(None) };
            let rows = |batches| ViewRows { epoch: published.epoch, state: published.state.clone(), batches };
            if let Some(standing) = &published.standing {
                return Ok(Some(rows(standing.clone())));
            }
            (published.chunks.clone(), published.epoch, published.state.clone())
        };
        // Without the lock, so that readers of a large view hold nobody up.
        let batches = standing_rows(chunks.iter().map(|(name, rows)| (name.as_str(), rows)))?;
        let mut views = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(published) = views.get_mut(view).filter(|published| published.epoch == epoch) {
            published.standing = Some(batches.clone());
        }
        Ok(Some(ViewRows { epoch, state, batches }))
    }

    /// The names of all published views.
    pub fn names(&self) -> Vec<String> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    pub(crate) fn restore(&self, view: &str, chunks: &[(String, RecordBatch)], epoch: Epoch, state: &ViewState) {
        let published =
            Published { chunks: chunks.iter().cloned().collect(), epoch, state: state.clone(), standing: None };
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
            standing: None,
        });
        published.standing = None;
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
