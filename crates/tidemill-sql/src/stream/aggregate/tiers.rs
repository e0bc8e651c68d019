//! [`Tiers`]: sums of runs of panes, so that a window of many panes is made of few parts.
//!
//! A node of tier `k` is the merged states of the `2^k` panes whose numbers are equal but for the last `k` bits. A window
//! of `n` panes is the sum of at most `2·log2(n)` nodes, and each node is made once, of two of the tier below: so a
//! window costs the groups of about `2·log2(n)` nodes instead of those of `n` panes, and a pane's groups are merged
//! `log2(n)` times as long as they are kept. A day by the minute: 1440 panes, 20 parts.
//!
//! **Invariant:** which nodes a window is made of, and each node of which, follows from the panes' numbers alone; so the
//! same panes give the same bits, in whatever order windows were asked for.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use datafusion::common::Result;

use super::groups::Groups;
use super::panes::Panes;
use super::spec::GroupSpec;
use super::windows::{merge, start_column};

/// Up to so many panes of a window are merged one by one: nodes would save little and cost memory.
const FEW: i64 = 16;

/// The nodes that were needed and still hold.
#[derive(Default)]
pub(super) struct Tiers {
    /// By tier, then number; tier 0 are the panes themselves and not here.
    nodes: BTreeMap<(u32, i64), RecordBatch>,
}

impl Tiers {
    /// The states whose sum is the window of `length` panes from the one numbered `first` on.
    pub(super) fn parts(
        &mut self,
        panes: &mut Panes,
        spec: &GroupSpec,
        first: i64,
        length: i64,
    ) -> Result<Vec<RecordBatch>> {
        let mut parts = Vec::new();
        let (mut at, end) = (first, first.saturating_add(length));
        while at < end {
            let widest = 63 - (end - at).leading_zeros();
            let tier = if length <= FEW { 0 } else { at.trailing_zeros().min(widest) };
            parts.extend(self.node(panes, spec, tier, at >> tier)?);
            at += 1_i64 << tier;
        }
        Ok(parts)
    }

    /// The node, or `None` when its panes are empty.
    fn node(&mut self, panes: &mut Panes, spec: &GroupSpec, tier: u32, number: i64) -> Result<Option<RecordBatch>> {
        if tier == 0 {
            return panes.states(spec, number);
        }
        if let Some(states) = self.nodes.get(&(tier, number)) {
            return Ok(Some(states.clone()));
        }
        if !panes.any(number << tier, 1_i64 << tier) {
            return Ok(None);
        }
        let left = self.node(panes, spec, tier - 1, number * 2)?;
        let right = self.node(panes, spec, tier - 1, number * 2 + 1)?;
        let (Some(left), Some(right)) = (&left, &right) else { return Ok(left.or(right)) };
        let mut groups = Groups::new(&spec.key_schema(1), &spec.aggregates)?;
        merge(&mut groups, spec, left)?;
        merge(&mut groups, spec, right)?;
        let rows = groups.len();
        let mut columns = vec![start_column(spec, 0, rows)];
        columns.extend(groups.take_states()?);
        let states = RecordBatch::try_new(std::sync::Arc::clone(&spec.partial), columns)?;
        self.nodes.insert((tier, number), states.clone());
        Ok(Some(states))
    }

    /// A pane changed: the nodes above it hold no longer.
    pub(super) fn changed(&mut self, pane: i64) {
        if !self.nodes.is_empty() {
            self.nodes.retain(|(tier, number), _| pane >> tier != *number);
        }
    }

    /// No window has panes before this one any more.
    pub(super) fn drop_before(&mut self, first: i64) {
        self.nodes.retain(|(tier, number), _| number << tier >= first);
    }
}
