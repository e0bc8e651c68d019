//! GROUP BY without a window: groups that never close, whose results are changes.
//!
//! [`CountPartialFactory`] pre-aggregates on the lane where rows arrive, inserted and retracted rows apart;
//! [`RunningFactory`] keeps the states of all groups and gives out, at each barrier, the net change of each group. Where
//! rows are taken back and an aggregate has no inverse, [`RecomputeFactory`] keeps the rows of each group instead.
//!
//! **Invariant:** what was given out up to a barrier adds up to the results of all rows before it; the cost of an epoch
//! follows the groups that changed in it.

mod finish;
mod partial;
mod recompute;
mod results;
mod signed;

use std::sync::Arc;

use super::aggregate::GroupSpec;

pub(super) use finish::RunningFactory;
pub(super) use partial::CountPartialFactory;
pub(super) use recompute::{KeyByFactory, RecomputeFactory};
pub(super) use signed::{by_sign, is_linear, negative};

/// A GROUP BY without a window, compiled.
#[derive(Debug)]
pub(super) struct RunningSpec {
    /// Its groups; the aggregates that were asked for come first, those that only the engine needs after them.
    pub(super) groups: GroupSpec,
    /// The aggregate that counts the rows of a group, where rows are taken back: a group without rows is gone.
    pub(super) rows: Option<usize>,
    /// Sums with the aggregate that counts their values: a sum of no values is NULL, which the sum alone does not tell
    /// once values were taken back.
    pub(super) sums: Vec<(usize, usize)>,
}

impl RunningSpec {
    /// Whether there is one group whatever the rows are.
    fn is_global(&self) -> bool {
        self.groups.keys.is_empty()
    }

    fn fingerprint(&self) -> String {
        format!("{} rows {:?} sums {:?}", self.groups.fingerprint(), self.rows, self.sums)
    }
}

/// What both halves share.
type Spec = Arc<RunningSpec>;
