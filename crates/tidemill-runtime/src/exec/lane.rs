//! [`Lane`]: one thread's share of a dataflow: every node once, stepped without ever waiting.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tidemill_model::{Epoch, Error, Result, Timestamp, Watermark};

use super::align::{Due, Inputs};
use super::command::{Ack, Command};
use super::divide::split_by_lane;
use super::exchange::{EdgeQueues, Event, lock};
use super::job::{Job, Shared};
use super::pull::{Pulled, SourceDriver};
use super::staging::Staging;
use super::tables::Shelves;
use super::wiring::{InQueue, NodeRun, OutEdge, TableInUse, Work, wire};
use crate::{Batch, DeadLetter, EpochEnd, LateRow, NodeKind, Operator, Output};

/// One lane.
pub struct Lane {
    pub(super) lane: usize,
    lanes: usize,
    pub(super) nodes: Vec<NodeRun>,
    incoming: Vec<InQueue>,
    pub(super) shared: Arc<Shared>,
    reading: Option<Reading>,
    pub(super) epoch_rows: u64,
    epoch_rows_limit: u64,
    dead_bytes_limit: usize,
    queue_limit: usize,
    pub(super) ack: Option<Ack>,
    pub(super) arrivals: Vec<(Timestamp, u64)>,
    pub(super) barriers_due: usize,
    /// The end of the epoch whose barrier is under way: no barrier comes from elsewhere before this lane has its own.
    pub(super) end: EpochEnd,
    failed: bool,
    /// Whether results are computed anew, to be put in the place of others.
    pub(super) anew: bool,
    /// State on its way to the checkpoint store.
    pub(super) staging: Staging,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    Tick(u64),
    Follow,
}

impl Lane {
    pub(crate) fn new(
        job: &Job,
        (lane, lanes): (usize, usize),
        (to_present, anew): (bool, bool),
        queues: &BTreeMap<(usize, usize), EdgeQueues>,
        (shelves, first): (&Shelves, Epoch),
        shared: Arc<Shared>,
    ) -> Result<Lane> {
        let mut nodes = Vec::with_capacity(job.graph.nodes.len());
        for (number, node) in job.graph.nodes.iter().enumerate() {
            let work = match &node.kind {
                NodeKind::Source(source) => {
                    let board = shared
                        .boards
                        .get(&number)
                        .ok_or_else(|| Error::internal(format!("source {} has no board", node.name)))?;
                    let clock = Arc::clone(&job.clock);
                    let (board, boards) = (Arc::clone(board), shared.boards.values().cloned().collect());
                    let driver = SourceDriver::new(source.clone(), board, boards, clock, (lane, lanes), to_present);
                    Work::Source(Box::new(driver))
                }
                NodeKind::Operator(factory) => {
                    let mut operator = factory.create(lane, lanes)?;
                    operator.bound(&job.memory);
                    Work::Operator(operator)
                }
                NodeKind::Sink(sink) => Work::Sink(sink.writer(lane)?),
            };
            let table = shelves.get(&number);
            let mut run = NodeRun {
                name: node.name.clone(),
                work: Some(work),
                inputs: Inputs::default(),
                outputs: Vec::new(),
                late_before: 0,
                rows_written: 0,
                dead: Vec::new(),
                dead_bytes: 0,
                late: Vec::new(),
                shown: job.views.iter().any(|view| view.node == node.name),
                table: table.map(|shelf| TableInUse { shelf: Arc::clone(shelf), met: Epoch::NONE, epoch: first }),
                unfinished: false,
                waiting: VecDeque::new(),
            };
            run.use_table()?;
            nodes.push(run);
        }
        let incoming = wire(job, lane, lanes, queues, &mut nodes);
        Ok(Lane {
            lane,
            lanes,
            nodes,
            incoming,
            shared,
            reading: None,
            epoch_rows: 0,
            epoch_rows_limit: job.limits.epoch_rows,
            dead_bytes_limit: job.limits.dead_bytes,
            queue_limit: job.limits.queue_batches,
            ack: None,
            arrivals: Vec::new(),
            barriers_due: 0,
            end: EpochEnd { at: Timestamp(i64::MIN), last: false },
            failed: false,
            anew,
            staging: Staging::new(job.memory.clone(), lanes),
        })
    }

    /// The number of this lane.
    pub(crate) fn number(&self) -> usize {
        self.lane
    }

    /// The operator of a node, to be restored.
    pub(crate) fn operator(&mut self, node: &str) -> Result<&mut Box<dyn Operator>> {
        let runs = self.nodes.iter_mut().filter(|run| run.name == node);
        let mut operators = runs.filter_map(|run| match &mut run.work {
            Some(Work::Operator(operator)) => Some(operator),
            _ => None,
        });
        operators.next().ok_or_else(|| Error::internal(format!("no operator `{node}` to restore")))
    }

    /// How many batches other lanes have sent that this one has not taken yet, for those who watch.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.incoming.iter().map(|incoming| incoming.queues.between(incoming.from, self.lane).len()).sum()
    }

    /// Does a bounded piece of work; answers whether there was any. After an error the lane must not be stepped again.
    ///
    /// # Errors
    /// Whatever a source, operator or sink answers; the epoch in hand is then never committed.
    pub fn step(&mut self) -> Result<bool> {
        if self.failed {
            return Err(Error::internal("a failed lane was stepped again"));
        }
        let result = self.try_step();
        self.failed = result.is_err();
        result
    }

    fn try_step(&mut self) -> Result<bool> {
        let mut worked = self.obey()?;
        worked |= self.finish()?;
        worked |= self.drain()?;
        if self.may_pull() {
            worked |= self.pull()?;
        }
        Ok(worked)
    }

    fn obey(&mut self) -> Result<bool> {
        let mut worked = false;
        loop {
            let command = lock(&self.shared.commands[self.lane]).pop_front();
            let Some(command) = command else { return Ok(worked) };
            worked = true;
            match command {
                Command::Rest => self.reading = None,
                Command::Follow => {
                    self.raise_all()?;
                    self.reading = Some(Reading::Follow);
                }
                Command::Tick(tick) => {
                    for node in &mut self.nodes {
                        if let Some(Work::Source(source)) = &mut node.work {
                            source.bound_to_present()?;
                        }
                    }
                    self.raise_all()?;
                    self.reading = Some(Reading::Tick(tick));
                }
                Command::Barrier(epoch, end) => self.inject(epoch, end)?,
            }
        }
    }

    /// Takes what other lanes sent.
    pub(crate) fn drain(&mut self) -> Result<bool> {
        let mut worked = false;
        for i in 0..self.incoming.len() {
            // A bounded number, so that commands and pulls have their turn.
            for _ in 0..self.queue_limit.max(1) {
                let incoming = &self.incoming[i];
                let held = self.nodes[incoming.node].inputs.is_held(incoming.channel);
                if held || self.is_backed_up(incoming.node) {
                    break;
                }
                let (node, channel) = (incoming.node, incoming.channel);
                let Some(event) = incoming.queues.between(incoming.from, self.lane).pop() else { break };
                self.deliver(node, channel, event)?;
                worked = true;
            }
        }
        Ok(worked)
    }

    fn may_pull(&self) -> bool {
        if self.reading.is_none() || self.barriers_due > 0 || self.is_unfinished() {
            return false;
        }
        if self.epoch_rows >= self.epoch_rows_limit || self.dead_bytes() >= self.dead_bytes_limit {
            self.shared.wants_barrier.store(true, Ordering::Relaxed);
            self.shared.bell.ring();
            return false;
        }
        self.nodes.iter().all(|node| node.outputs.iter().all(|edge| self.has_room_beside(edge)))
    }

    /// Whether the queues to other lanes have room.
    pub(super) fn has_room_beside(&self, edge: &OutEdge) -> bool {
        edge.queues.as_ref().is_none_or(|queues| {
            (0..self.lanes).all(|to| to == self.lane || queues.between(self.lane, to).len() < self.queue_limit)
        })
    }

    fn dead_bytes(&self) -> usize {
        let held = self.nodes.iter().map(|node| match &node.work {
            Some(Work::Source(source)) => source.dead_bytes(),
            _ => node.dead_bytes,
        });
        held.sum()
    }

    /// One batch of each source.
    fn pull(&mut self) -> Result<bool> {
        let mut worked = false;
        let mut quiet = true;
        for number in 0..self.nodes.len() {
            let Some(Work::Source(source)) = &mut self.nodes[number].work else { continue };
            match source.pull()? {
                Pulled::Rows { batch, arrived, read } => {
                    self.epoch_rows += read;
                    self.shared.rows_since_barrier.fetch_add(read, Ordering::AcqRel);
                    if let Some(arrived) = arrived {
                        self.note_arrival(arrived, read);
                    }
                    if !batch.is_empty() {
                        self.emit(number, Event::Rows(batch))?;
                    }
                    worked = true;
                    quiet = false;
                }
                Pulled::Nothing => quiet &= source.is_quiet(),
            }
            self.raise_time(number)?;
        }
        if let (Some(Reading::Tick(tick)), true) = (self.reading, quiet)
            && self.shared.quiet[self.lane].swap(tick, Ordering::AcqRel) != tick
        {
            self.shared.bell.ring();
        }
        Ok(worked)
    }

    fn note_arrival(&mut self, arrived: Timestamp, rows: u64) {
        match self.arrivals.last_mut() {
            Some((last, count)) if *last == arrived => *count += rows,
            _ => self.arrivals.push((arrived, rows)),
        }
    }

    /// Before the first row: what was closed before a restart is closed for every row that follows.
    pub(crate) fn raise_all(&mut self) -> Result<()> {
        (0..self.nodes.len()).try_for_each(|number| self.raise_time(number))
    }

    /// Sends a source's watermark on if it rose, and whether it is idle if that changed.
    pub(super) fn raise_time(&mut self, number: usize) -> Result<()> {
        let Some(Work::Source(source)) = &mut self.nodes[number].work else { return Ok(()) };
        let (watermark, idle) = source.settle();
        if let Some(watermark) = watermark {
            self.emit(number, Event::Watermark(watermark))?;
        }
        idle.map_or(Ok(()), |idle| self.emit(number, Event::Idle(idle)))
    }

    /// Sends an event of a node along its edges.
    pub(super) fn emit(&mut self, number: usize, event: Event) -> Result<()> {
        for place in 0..self.nodes[number].outputs.len() {
            let out = &self.nodes[number].outputs[place];
            let (to, channel) = (out.edge.to.0, out.channel);
            match (&out.queues, &event) {
                (None, _) => self.deliver(to, channel, event.clone())?,
                (Some(queues), Event::Rows(batch)) => {
                    let parts = split_by_lane(batch, &out.edge.route, self.lanes)?;
                    let mut own = None;
                    for (lane, part) in parts {
                        if lane == self.lane {
                            own = Some(part);
                        } else {
                            queues.between(self.lane, lane).push(Event::Rows(part));
                            self.shared.lane_bells[lane].ring();
                        }
                    }
                    if let Some(part) = own {
                        self.deliver(to, channel, Event::Rows(part))?;
                    }
                }
                (Some(queues), _) => {
                    for lane in (0..self.lanes).filter(|&lane| lane != self.lane) {
                        queues.between(self.lane, lane).push(event.clone());
                        self.shared.lane_bells[lane].ring();
                    }
                    self.deliver(to, channel, event.clone())?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn deliver(&mut self, number: usize, channel: usize, event: Event) -> Result<()> {
        let node = &mut self.nodes[number];
        if node.unfinished || !node.waiting.is_empty() {
            node.waiting.push_back((channel, event));
            return Ok(());
        }
        self.deliver_now(number, channel, event)
    }

    pub(super) fn deliver_now(&mut self, number: usize, channel: usize, event: Event) -> Result<()> {
        match self.nodes[number].inputs.take(channel, event) {
            Due::Nothing => Ok(()),
            Due::Rows(port, batch) => self.with_rows(number, port, batch),
            Due::Watermark { port, at, merged } => {
                self.with_input_watermark(number, port, at)?;
                merged.map_or(Ok(()), |merged| self.with_watermark(number, merged))
            }
            Due::Idle { port, idle, all } => {
                self.with_idle(number, port, idle)?;
                all.map_or(Ok(()), |idle| self.emit(number, Event::Idle(idle)))
            }
            Due::Barrier(epoch) => self.with_barrier(number, epoch),
        }
    }

    fn with_rows(&mut self, number: usize, port: usize, batch: Batch) -> Result<()> {
        let mut out = Output::default();
        let node = &mut self.nodes[number];
        node.use_table()?;
        match &mut node.work {
            Some(Work::Operator(operator)) => operator.on_batch(port, batch, &mut out)?,
            Some(Work::Sink(sink)) => {
                node.rows_written += batch.len() as u64;
                sink.write(&batch).map_err(|e| e.context(format!("writing to {}", node.name)))?;
            }
            _ => return Err(Error::internal("rows were sent to a source")),
        }
        self.pass_on(number, out)?;
        if matches!(&self.nodes[number].work, Some(Work::Operator(operator)) if operator.has_more()) {
            self.nodes[number].unfinished = true;
            self.go_on(number)?;
        }
        Ok(())
    }

    fn with_input_watermark(&mut self, number: usize, port: usize, watermark: Watermark) -> Result<()> {
        let Some(Work::Operator(operator)) = &mut self.nodes[number].work else { return Ok(()) };
        let mut out = Output::default();
        operator.on_input_watermark(port, watermark, &mut out)?;
        let downstream = out.watermark;
        self.pass_on(number, out)?;
        downstream.map_or(Ok(()), |watermark| self.emit(number, Event::Watermark(watermark)))
    }

    fn with_idle(&mut self, number: usize, port: usize, idle: bool) -> Result<()> {
        let Some(Work::Operator(operator)) = &mut self.nodes[number].work else { return Ok(()) };
        let mut out = Output::default();
        operator.on_input_idle(port, idle, &mut out)?;
        let downstream = out.watermark;
        self.pass_on(number, out)?;
        downstream.map_or(Ok(()), |watermark| self.emit(number, Event::Watermark(watermark)))
    }

    fn with_watermark(&mut self, number: usize, watermark: Watermark) -> Result<()> {
        let mut out = Output::default();
        if let Some(Work::Operator(operator)) = &mut self.nodes[number].work {
            operator.on_watermark(watermark, &mut out)?;
        }
        let downstream = out.watermark.unwrap_or(watermark);
        self.pass_on(number, out)?;
        self.emit(number, Event::Watermark(downstream))
    }

    pub(super) fn pass_on(&mut self, number: usize, out: Output) -> Result<()> {
        if !out.dead.is_empty() {
            // Kept with the node: rows behind its barrier may come before other nodes have passed theirs.
            let node = &mut self.nodes[number];
            node.dead_bytes += out.dead.iter().map(DeadLetter::bytes).sum::<usize>();
            node.dead.extend(out.dead);
        }
        if !out.late.is_empty() {
            let node = &mut self.nodes[number];
            node.dead_bytes += out.late.iter().map(LateRow::bytes).sum::<usize>();
            node.late.extend(out.late);
        }
        for batch in out.batches {
            self.emit(number, Event::Rows(batch))?;
        }
        Ok(())
    }
}
