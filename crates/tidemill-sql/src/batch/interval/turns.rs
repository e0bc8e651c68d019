//! Whose turn it is: results over all rows are computed one after the other.
//!
//! **Invariant:** nobody waits in a queue: a step of a run is not gone on with while another one of it comes to stand, and who is
//! first in a queue but does not go on keeps all others out.

use std::sync::Arc;
use std::time::Duration;

use datafusion::logical_expr::LogicalPlan;
use tidemill_model::{Result, Timestamp};
use tokio::sync::OwnedMutexGuard;

use super::super::owned::is_whole;
use super::late::Seen;
use super::making::Shared;
use super::runner::Runner;
use crate::language::{Insert, from_datafusion};

/// How often who waits looks again.
const LOOK: Duration = Duration::from_millis(2);

impl Runner<'_> {
    /// Results over all rows stand in the order in which they are computed: one that was begun before another stood would
    /// set the target back behind it.
    pub(super) async fn turn(
        &self,
        plan: &LogicalPlan,
        insert: &Insert,
        shared: &Shared,
    ) -> Result<Option<OwnedMutexGuard<()>>> {
        if !is_whole(plan, self.catalog.project()).map_err(|e| from_datafusion(&e, &insert.place))? {
            return Ok(None);
        }
        loop {
            shared.progress.go_on()?;
            match Arc::clone(&self.turns).try_lock_owned() {
                Ok(turn) => return Ok(Some(turn)),
                Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// The end of the latest interval in which a step stands, and all splits that were looked at.
    pub(super) async fn newest(&self, step: &str) -> (Option<Timestamp>, Arc<Seen>) {
        let head = loop {
            match self.head.try_lock() {
                Ok(head) => break head,
                Err(_) => tokio::time::sleep(LOOK).await,
            }
        };
        let open = head.latest.iter().flat_map(|m| m.runs.iter()).filter(|run| run.steps.contains_key(step));
        let end = open.map(|run| run.interval.end).chain(head.through()).max();
        (end, Arc::new(head.listed()))
    }
}
