//! [`looked_up`]: which side of a join is a table that is looked up in.
//!
//! **Invariant:** both executors say the same, so that both guard the same rows.

use datafusion::common::JoinType;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Join, LogicalPlan};

use crate::language::Project;

/// Which side of a join is looked up in: `Some(true)` the left one, `Some(false)` the right one; `None` when the join
/// has no such side.
#[must_use]
pub fn looked_up(join: &Join, project: &Project) -> Option<bool> {
    let (left, right) = (has_event_time(&join.left, project), has_event_time(&join.right, project));
    match join.join_type {
        JoinType::Inner => match (left, right) {
            (_, false) => Some(false),
            (false, true) => Some(true),
            (true, true) => None,
        },
        JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti => (!right).then_some(false),
        JoinType::Right | JoinType::RightSemi | JoinType::RightAnti => (!left).then_some(true),
        _ => None,
    }
}

/// Whether a plan reads a dataset with a WATERMARK.
#[must_use]
pub fn has_event_time(plan: &LogicalPlan, project: &Project) -> bool {
    let mut found = false;
    let visited = plan.apply(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            let dataset = project.datasets.get(scan.table_name.table());
            found |= dataset.is_some_and(|dataset| dataset.watermark.is_some());
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found || visited.is_err()
}
