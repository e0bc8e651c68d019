//! [`Panes`]: the groups of each pane that some open window has.
//!
//! **Invariant:** panes lie by number, so that a window is a range of them.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use datafusion::common::Result;

use super::spec::GroupSpec;
use super::windows::Window;

/// The groups of one pane.
pub(super) struct Pane {
    /// When it begins.
    pub(super) start: i64,
    /// Its groups.
    pub(super) groups: Window,
}

/// Panes by number.
#[derive(Default)]
pub(super) struct Panes {
    pub(super) by_number: BTreeMap<i64, Pane>,
}

impl Panes {
    /// Adds partial groups of a pane.
    pub(super) fn merge(&mut self, spec: &GroupSpec, number: i64, start: i64, partial: &RecordBatch) -> Result<()> {
        use std::collections::btree_map::Entry;
        let pane = match self.by_number.entry(number) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Pane { start, groups: Window::new(spec)? }),
        };
        pane.groups.merge(spec, partial)
    }

    /// The states of a pane's groups; `None` when it is empty.
    pub(super) fn states(&mut self, spec: &GroupSpec, number: i64) -> Result<Option<RecordBatch>> {
        match self.by_number.get_mut(&number) {
            None => Ok(None),
            Some(pane) => pane.groups.freeze(spec, pane.start).map(Some),
        }
    }

    /// Whether there is a pane among these.
    pub(super) fn any(&self, first: i64, length: i64) -> bool {
        self.by_number.range(first..first.saturating_add(length)).next().is_some()
    }

    /// The first pane from a number on, and when it begins.
    pub(super) fn next(&self, from: i64) -> Option<(i64, i64)> {
        self.by_number.range(from..).next().map(|(number, pane)| (*number, pane.start))
    }
}
