//! [`Table`]: a target of rows that keeps to the laws of sinks, while everything around it fails.
//!
//! Staged rows have names of their own process, so that processes never write into each other's. What a dead process
//! of a machine staged is removed by the next one on it; another machine's is left alone, for its process may still
//! be about to commit it.
//!
//! **Invariant:** a row is visible only after the commit of its epoch, or of its part of it when publishing is piecemeal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use serde_json::Value;
use tidemill_model::{Epoch, Error, Result};
use tidemill_runtime::{Batch, Committable, Sink, SinkCommitter, SinkWriter};

use super::weather::Process;

/// Three numbers: what the rows of every table here are made of.
pub(super) type Cells = [i64; 3];

/// A table.
#[derive(Debug)]
pub(super) struct Table {
    piecemeal: bool,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    staged: BTreeMap<String, Staged>,
    /// Names of the parts that are visible.
    published: BTreeSet<String>,
    epochs: BTreeMap<Epoch, Vec<Cells>>,
    done: Epoch,
    names: u64,
}

#[derive(Debug)]
struct Staged {
    machine: usize,
    epoch: Epoch,
    rows: Vec<Cells>,
}

impl Table {
    /// An empty table.
    #[must_use]
    pub(super) fn new(piecemeal: bool) -> Arc<Table> {
        Arc::new(Table { piecemeal, inner: Mutex::default() })
    }

    /// Every visible row with its epoch.
    #[must_use]
    pub(super) fn rows(&self) -> Vec<(Epoch, Cells)> {
        let inner = self.inner();
        inner.epochs.iter().flat_map(|(epoch, rows)| rows.iter().map(|row| (*epoch, *row))).collect()
    }

    /// The newest epoch that is wholly visible; `None` while that cannot be known.
    #[must_use]
    pub(super) fn done(&self) -> Option<Epoch> {
        (!self.piecemeal).then(|| self.inner().done)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stage(&self, machine: usize, epoch: Epoch, rows: Vec<Cells>) -> String {
        let mut inner = self.inner();
        inner.names += 1;
        let name = format!("{}-{machine}-{}", epoch.0, inner.names);
        inner.staged.insert(name.clone(), Staged { machine, epoch, rows });
        name
    }

    fn publish(&self, epoch: Epoch, names: &[String]) -> Result<()> {
        let mut inner = self.inner();
        for name in names {
            if inner.published.contains(name) {
                continue;
            }
            let Some(staged) = inner.staged.remove(name) else {
                return Err(Error::internal(format!("staged part {name} of epoch {epoch} is gone")));
            };
            inner.published.insert(name.clone());
            inner.epochs.entry(epoch).or_default().extend(staged.rows);
        }
        inner.done = inner.done.max(epoch);
        Ok(())
    }
}

/// A table as one process reaches it.
#[derive(Debug)]
pub(super) struct TableSink {
    /// The table.
    pub(super) table: Arc<Table>,
    /// The process.
    pub(super) process: Arc<Process>,
}

impl Sink for TableSink {
    fn writer(&self, _lane: usize) -> Result<Box<dyn SinkWriter>> {
        let (table, process) = (Arc::clone(&self.table), Arc::clone(&self.process));
        Ok(Box::new(Writer { table, process, rows: Vec::new() }))
    }

    fn committer(&self) -> Result<Box<dyn SinkCommitter>> {
        let (table, process) = (Arc::clone(&self.table), Arc::clone(&self.process));
        self.process.call("the opening of a table", || Box::new(Committer { table, process }) as Box<dyn SinkCommitter>)
    }

    fn guarantee(&self) -> String {
        "exactly-once".to_owned()
    }
}

struct Writer {
    table: Arc<Table>,
    process: Arc<Process>,
    rows: Vec<Cells>,
}

impl SinkWriter for Writer {
    fn write(&mut self, batch: &Batch) -> Result<()> {
        let rows = cells(&batch.rows)?;
        let held = &mut self.rows;
        self.process.call("a write", || held.extend(rows))
    }

    fn prepare(&mut self, epoch: Epoch) -> Result<Option<Committable>> {
        let rows = std::mem::take(&mut self.rows);
        if rows.is_empty() {
            return Ok(None);
        }
        let (table, machine) = (&self.table, self.process.machine);
        if self.process.may_fail() {
            // A write that is broken off leaves a part, which no manifest ever names.
            let part = rows.get(..rows.len() / 2).unwrap_or_default().to_vec();
            self.process.call("the staging of a first part", || table.stage(machine, epoch, part))?;
        }
        let name = self.process.call("the staging of rows", || table.stage(machine, epoch, rows))?;
        Ok(Some(Committable(Value::String(name))))
    }
}

struct Committer {
    table: Arc<Table>,
    process: Arc<Process>,
}

impl SinkCommitter for Committer {
    fn commit(&mut self, epoch: Epoch, committables: &[Committable]) -> Result<()> {
        let names: Vec<String> = committables.iter().filter_map(|c| c.0.as_str().map(str::to_owned)).collect();
        if !self.table.piecemeal {
            return self.process.call("a commit", || {
                if self.table.inner().done >= epoch { Ok(()) } else { self.table.publish(epoch, &names) }
            })?;
        }
        for name in names {
            self.process.call("the commit of a part", || self.table.publish(epoch, &[name]))??;
        }
        Ok(())
    }

    fn abort_after(&mut self, epoch: Epoch) -> Result<()> {
        let machine = self.process.machine;
        self.process.call("the removal of what was staged", || {
            let mut inner = self.table.inner();
            if inner.done > epoch {
                let message = format!("the table has epoch {}, the pipeline only {epoch}", inner.done);
                return Err(Error::internal(message));
            }
            inner.staged.retain(|_, staged| staged.machine != machine || staged.epoch <= epoch);
            Ok(())
        })?
    }
}

fn cells(rows: &RecordBatch) -> Result<Vec<Cells>> {
    let column = |number: usize| {
        let column = arrow::compute::cast(rows.column(number), &arrow::datatypes::DataType::Int64)
            .map_err(|e| Error::internal("a column is no number").because(e))?;
        Ok::<Vec<i64>, Error>(column.as_primitive::<Int64Type>().values().to_vec())
    };
    let (a, b, c) = (column(0)?, column(1)?, column(2)?);
    Ok(a.into_iter().zip(b).zip(c).map(|((a, b), c)| [a, b, c]).collect())
}
