//! The nodes of one lane and how they are connected: [`NodeRun`], [`OutEdge`], [`InQueue`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tidemill_model::{Epoch, Result};

use super::align::Inputs;
use super::exchange::{EdgeQueues, Event};
use super::job::Job;
use super::pull::SourceDriver;
use super::tables::Shelf;
use crate::{DeadLetter, Edge, LateRow, Operator, SinkWriter};

/// What a node does on a lane.
pub(super) enum Work {
    Source(Box<SourceDriver>),
    Operator(Box<dyn Operator>),
    Sink(Box<dyn SinkWriter>),
}

pub(super) struct NodeRun {
    pub(super) name: String,
    pub(super) work: Option<Work>,
    pub(super) inputs: Inputs,
    pub(super) outputs: Vec<OutEdge>,
    pub(super) late_before: u64,
    /// Rows given to a sink since its last `prepare`.
    pub(super) rows_written: u64,
    /// Rows that the node's expressions failed on since its last barrier, and their bytes.
    pub(super) dead: Vec<DeadLetter>,
    pub(super) dead_bytes: usize,
    /// Rows that the node left out as late since its last barrier; their bytes are among `dead_bytes`.
    pub(super) late: Vec<LateRow>,
    /// Whether readers in this process are shown the node's state.
    pub(super) shown: bool,
    /// The table that it looks rows up in.
    pub(super) table: Option<TableInUse>,
    /// Whether its operator has given out only a part of what a batch becomes.
    pub(super) unfinished: bool,
    /// What came to it since, by channel.
    pub(super) waiting: VecDeque<(usize, Event)>,
}

/// The table of a node as this lane meets it.
pub(super) struct TableInUse {
    pub(super) shelf: Arc<Shelf>,
    /// The first epoch that met the version in use.
    pub(super) met: Epoch,
    /// The epoch of the next row.
    pub(super) epoch: Epoch,
}

impl NodeRun {
    /// Takes the version that the next row meets, if it is another one.
    pub(super) fn use_table(&mut self) -> Result<()> {
        let Some(table) = &mut self.table else { return Ok(()) };
        let Some((from, rows)) = table.shelf.newer(table.met, table.epoch) else { return Ok(()) };
        table.met = from;
        match &mut self.work {
            Some(Work::Operator(operator)) => operator.look_up_in(&rows),
            _ => Ok(()),
        }
    }
}

/// An edge as this lane sees it.
pub(super) struct OutEdge {
    pub(super) edge: Edge,
    /// The receiving node's channel for a forward edge, or for this lane's own share of a hash edge.
    pub(super) channel: usize,
    pub(super) queues: Option<EdgeQueues>,
}

/// A hash edge's queue from another lane into this one.
pub(super) struct InQueue {
    pub(super) queues: EdgeQueues,
    pub(super) from: usize,
    pub(super) node: usize,
    pub(super) channel: usize,
}

/// Connects a lane's nodes; answers the queues into it.
pub(super) fn wire(
    job: &Job,
    lane: usize,
    lanes: usize,
    queues: &BTreeMap<(usize, usize), EdgeQueues>,
    nodes: &mut [NodeRun],
) -> Vec<InQueue> {
    let mut incoming = Vec::new();
    for (from, node) in job.graph.nodes.iter().enumerate() {
        for (place, edge) in node.outputs.iter().enumerate() {
            let to = edge.to.0;
            let channel = nodes[to].inputs.add(edge.input);
            let queues = queues.get(&(from, place)).cloned();
            if let Some(queues) = &queues {
                for other in (0..lanes).filter(|&other| other != lane) {
                    let channel = nodes[to].inputs.add(edge.input);
                    incoming.push(InQueue { queues: queues.clone(), from: other, node: to, channel });
                }
            }
            nodes[from].outputs.push(OutEdge { edge: edge.clone(), channel, queues });
        }
    }
    incoming
}
