//! How a lane ends an epoch: its sources are cut, a barrier passes every node, and what belongs to the epoch is staged in one
//! acknowledgement.
//!
//! **Invariant:** what a node stages is what the rows before the barrier made of it, and nothing of those behind.

use std::collections::BTreeMap;

use tidemill_model::{Epoch, Error, Result};

use super::command::{Ack, StagedChunk};
use super::exchange::{Event, lock};
use super::lane::Lane;
use super::wiring::Work;
use crate::{EpochEnd, Filed, Output, StateChunk, ipc};

impl Lane {
    /// The epoch ends here: every source is cut and its barrier sent on.
    pub(super) fn inject(&mut self, epoch: Epoch, end: EpochEnd) -> Result<()> {
        self.end = end;
        let mut sources = BTreeMap::new();
        let mut numbers = Vec::new();
        for number in 0..self.nodes.len() {
            if matches!(self.nodes[number].work, Some(Work::Source(_))) {
                self.raise_time(number)?;
                let node = &mut self.nodes[number];
                if let Some(Work::Source(source)) = &mut node.work {
                    sources.insert(node.name.clone(), source.cut());
                }
                numbers.push(number);
            }
        }
        self.ack = Some(Ack {
            lane: self.lane,
            epoch,
            sources,
            state: BTreeMap::new(),
            staged: None,
            sinks: BTreeMap::new(),
            watermarks: BTreeMap::new(),
            rows_written: 0,
            rows_late: BTreeMap::new(),
            due: None,
            dead: Vec::new(),
            late: Vec::new(),
            arrivals: std::mem::take(&mut self.arrivals),
        });
        self.epoch_rows = 0;
        self.barriers_due = self.nodes.len() - numbers.len();
        for number in numbers {
            self.emit(number, Event::Barrier(epoch))?;
        }
        self.acknowledge()
    }

    pub(super) fn with_barrier(&mut self, number: usize, epoch: Epoch) -> Result<()> {
        let mut out = Output::default();
        if let Some(Work::Operator(operator)) = &mut self.nodes[number].work {
            operator.on_epoch_end(self.end);
            operator.before_barrier(&mut out)?;
        }
        let caught_up = out.watermark;
        self.pass_on(number, out)?;
        if let Some(watermark) = caught_up {
            self.emit(number, Event::Watermark(watermark))?;
        }
        self.stage(number, epoch)?;
        self.emit(number, Event::Barrier(epoch))?;
        self.barriers_due -= 1;
        if let Some(table) = &mut self.nodes[number].table {
            table.epoch = epoch.next();
            self.nodes[number].use_table()?;
        }
        let released = self.nodes[number].inputs.release();
        if self.nodes[number].waiting.is_empty() {
            for (channel, event) in released {
                self.deliver(number, channel, event)?;
            }
        } else {
            // They came before whatever waits.
            let waiting = &mut self.nodes[number].waiting;
            released.into_iter().rev().for_each(|event| waiting.push_front(event));
        }
        self.acknowledge()
    }

    /// Takes a node's state or staged rows into the acknowledgement.
    fn stage(&mut self, number: usize, epoch: Epoch) -> Result<()> {
        let node = &mut self.nodes[number];
        let Some(ack) = &mut self.ack else { return Err(Error::internal("a barrier passed without a cut")) };
        let dead = std::mem::take(&mut node.dead).into_iter();
        ack.dead.extend(dead.map(|letter| Filed { step: Some(node.name.clone()), ..Filed::from(letter) }));
        ack.late.extend(std::mem::take(&mut node.late).into_iter().map(|row| (node.name.clone(), row)));
        node.dead_bytes = 0;
        match &mut node.work {
            Some(Work::Operator(operator)) => {
                let mut chunks = Vec::new();
                let (staging, shown) = (&mut self.staging, node.shown);
                operator.snapshot_into(epoch, &mut |StateChunk { name, rows }| {
                    let bytes = match &rows {
                        None => None,
                        Some(rows) => Some(staging.add(ipc::encode_batch(rows)?)?),
                    };
                    chunks.push(StagedChunk { name, bytes, rows: rows.filter(|_| shown) });
                    Ok(())
                })?;
                ack.state.insert(node.name.clone(), chunks);
                ack.watermarks.insert(node.name.clone(), node.inputs.watermark());
                ack.due = ack.due.into_iter().chain(operator.due()).min();
                let late = operator.late_rows();
                if late > node.late_before {
                    ack.rows_late.insert(node.name.clone(), late - node.late_before);
                }
                node.late_before = late;
            }
            Some(Work::Sink(sink)) => {
                ack.rows_written += std::mem::take(&mut node.rows_written);
                let prepared = if self.anew { sink.prepare_anew(epoch) } else { sink.prepare(epoch) };
                let prepared = prepared.map_err(|e| e.context(format!("preparing {}", node.name)))?;
                if let Some(committable) = prepared {
                    ack.sinks.insert(node.name.clone(), committable);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Hands the acknowledgement over once every node has passed the barrier.
    fn acknowledge(&mut self) -> Result<()> {
        if self.barriers_due > 0 {
            return Ok(());
        }
        if let Some(mut ack) = self.ack.take() {
            ack.staged = self.staging.finish()?;
            lock(&self.shared.acks).push(ack);
            self.shared.bell.ring();
        }
        Ok(())
    }
}
