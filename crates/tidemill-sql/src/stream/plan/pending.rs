//! [`Stream`]: rows on their way through a plan, with the filters and projections that are not yet a node.
//!
//! **Invariant:** only columns that somebody needs are computed.

use std::collections::BTreeSet;

use datafusion::common::{Column, DFSchemaRef, Result};
use datafusion::logical_expr::Expr;
use tidemill_runtime::NodeId;

use crate::session::guarded::Chain;

/// Rows that come out of a node, and what shall still be done to them.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    /// The node.
    pub(super) node: NodeId,
    /// What is still to be done.
    pub(super) chain: Chain,
    /// Whether rows may be taken back.
    pub(super) changes: bool,
    /// The node's column with the event time of its rows, if it has one.
    pub(super) time: Option<usize>,
    /// Whether late rows have been waited for, or cannot come: then no row is late below.
    pub(super) settled: bool,
}

impl Stream {
    /// The rows of a node as they are.
    pub(super) fn of(node: NodeId, input: DFSchemaRef, changes: bool) -> Stream {
        Stream { node, chain: Chain::over(input), changes, time: None, settled: false }
    }

    /// The same, where this column of the node tells the event time.
    pub(super) fn timed(self, time: Option<usize>) -> Stream {
        Stream { time, ..self }
    }

    /// The same, where late rows have been waited for if this is true.
    pub(super) fn settled(self, settled: bool) -> Stream {
        Stream { settled, ..self }
    }

    /// Adds a condition.
    pub(super) fn filter(&mut self, condition: Expr) {
        self.chain.filter(condition);
    }

    /// Adds a projection to the columns of `schema`.
    pub(super) fn project(&mut self, exprs: Vec<Expr>, schema: DFSchemaRef) {
        self.chain.project(exprs, schema);
    }

    /// See [`Chain::rename`].
    pub(super) fn rename(&mut self, schema: DFSchemaRef) {
        self.chain.rename(schema);
    }

    /// The columns after all steps.
    pub(super) fn schema(&self) -> &DFSchemaRef {
        self.chain.schema()
    }

    /// See [`Chain::prune`].
    pub(super) fn prune(&mut self, needed: &BTreeSet<Column>) -> Result<()> {
        self.chain.prune(needed)
    }

    /// Whether there is nothing left to do.
    pub(super) fn is_plain(&self) -> bool {
        self.chain.is_empty()
    }
}
