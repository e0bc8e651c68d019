//! Batches whose result is given out in parts: a node that is not done with one lets everything else wait.
//!
//! A row that meets a million others must not become one batch, nor fill queues without a bound. Its operator gives out some
//! rows at a time ([`crate::Operator::go_on`]) and goes on when those behind it have room.
//!
//! **Invariant:** what comes to a node that is not done is delivered after it is, in the order in which it came.

use tidemill_model::Result;

use super::lane::Lane;
use super::wiring::Work;
use crate::Output;

/// How many parts a node gives out before others have their turn.
const PARTS: usize = 16;

impl Lane {
    /// Lets nodes that are not done with a batch go on, those behind others first; answers whether anything was done.
    pub(super) fn finish(&mut self) -> Result<bool> {
        let mut worked = false;
        for number in (0..self.nodes.len()).rev() {
            if self.nodes[number].unfinished {
                worked |= self.go_on(number)?;
            }
            while !self.nodes[number].unfinished
                && let Some((channel, event)) = self.nodes[number].waiting.pop_front()
            {
                worked = true;
                self.deliver_now(number, channel, event)?;
            }
        }
        Ok(worked)
    }

    /// Lets a node give out more of a batch while there is room; answers whether anything was done.
    pub(super) fn go_on(&mut self, number: usize) -> Result<bool> {
        for part in 0..PARTS {
            if !self.has_room(number) {
                return Ok(part > 0);
            }
            let Some(Work::Operator(operator)) = &mut self.nodes[number].work else { return Ok(false) };
            let mut out = Output::default();
            operator.go_on(&mut out)?;
            let more = operator.has_more();
            self.nodes[number].unfinished = more;
            // Rows that become many count as many: an epoch ends before they are too many for it.
            self.epoch_rows += out.batches.iter().map(|batch| batch.len() as u64).sum::<u64>();
            self.pass_on(number, out)?;
            if !more {
                return Ok(true);
            }
        }
        Ok(true)
    }

    /// Whether what a node gives out can go where it goes.
    fn has_room(&self, number: usize) -> bool {
        self.nodes[number].outputs.iter().all(|edge| {
            let to = edge.edge.to.0;
            self.has_room_beside(edge) && !self.nodes[to].unfinished && self.has_room(to)
        })
    }

    /// Whether a node, or one that its rows come to on this lane, is not done with a batch: what it were given would pile up.
    pub(super) fn is_backed_up(&self, number: usize) -> bool {
        let node = &self.nodes[number];
        node.unfinished || !node.waiting.is_empty() || node.outputs.iter().any(|edge| self.is_backed_up(edge.edge.to.0))
    }

    /// Whether any node is not done with a batch.
    pub(super) fn is_unfinished(&self) -> bool {
        self.nodes.iter().any(|node| node.unfinished || !node.waiting.is_empty())
    }
}
