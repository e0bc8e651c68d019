//! [`Tables`]: the tables that operators look rows up in, read beside the dataflow and switched between two epochs.
//!
//! A new version is put on the [`Shelf`] of its node before any row of the first epoch that shall meet it can be read:
//! before the barrier that ends the epoch before, or before the tick. A lane takes it from there when its node passes that
//! barrier, or at the latest with the first row behind it.
//!
//! **Invariant:** the rows of an epoch meet one version on every lane; reading never fails a job that has a version.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidemill_checkpoint::{Manifest, TableMet};
use tidemill_model::{Epoch, Error, Result, Timestamp};

use super::exchange::lock;
use super::job::{Job, Shared};
use crate::{Background, Graph, LookedUp, NodeKind, Rows, Versions};

/// The newest version of the table of one node, for all lanes.
#[derive(Debug)]
pub(crate) struct Shelf {
    /// The first epoch that meets it.
    from: AtomicU64,
    rows: Mutex<Rows>,
}

impl Shelf {
    /// The version that an epoch meets, if it is a later one than that which epoch `met` was the first to meet.
    pub(crate) fn newer(&self, met: Epoch, epoch: Epoch) -> Option<(Epoch, Rows)> {
        let from = Epoch(self.from.load(Ordering::Acquire));
        (met < from && from <= epoch).then(|| (from, Arc::clone(&*lock(&self.rows))))
    }

    fn put(&self, from: Epoch, rows: Rows) {
        *lock(&self.rows) = rows;
        self.from.store(from.0, Ordering::Release);
    }
}

/// Node number to shelf.
pub(crate) type Shelves = BTreeMap<usize, Arc<Shelf>>;

/// What reading a table again came to; `None` while it goes on.
type Answer = Arc<Mutex<Option<Result<Option<(Versions, Rows)>>>>>;

struct Entry {
    name: String,
    table: Arc<dyn LookedUp>,
    shelf: Arc<Shelf>,
    met: TableMet,
    next_look: Option<Timestamp>,
    looking: Option<Answer>,
    /// Read, and met by no row yet.
    ready: Option<(TableMet, Rows)>,
}

/// See the module.
pub(crate) struct Tables {
    entries: Vec<Entry>,
    /// Of nodes that have their first version in their state.
    kept: BTreeMap<String, TableMet>,
    background: Arc<dyn Background>,
    /// Whether there is something that those who watch have not seen.
    news: bool,
}

/// What those who watch see of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableStatus {
    /// The node that looks rows up in it.
    pub node: String,
    /// The datasets that it is read from.
    pub datasets: Vec<String>,
    /// What rows meet now.
    pub met: TableMet,
}

impl Tables {
    /// Reads every table of the job for the first time, but those that its state on record has; rows from this epoch on
    /// meet them.
    ///
    /// # Errors
    /// Whatever the tables answer: without a version there is nothing to look up in.
    pub(crate) fn read(job: &Job, from: Epoch, state: Option<&Manifest>) -> Result<(Tables, Shelves)> {
        let background = Arc::clone(&job.background);
        let mut tables = Tables { entries: Vec::new(), kept: BTreeMap::new(), background, news: true };
        let mut shelves = Shelves::new();
        for (number, name, table) in of_graph(&job.graph) {
            let stored = state.filter(|_| table.is_kept()).and_then(|state| state.tables.get(&name));
            if let Some(stored) = stored {
                tables.kept.insert(name, stored.clone());
                continue;
            }
            let read_at = job.clock.now();
            let Some((versions, rows)) = table.read(None)? else {
                return Err(Error::internal(format!("{name} was not read, as if it were known")));
            };
            let shelf = Arc::new(Shelf { from: AtomicU64::new(from.0), rows: Mutex::new(rows) });
            shelves.insert(number, Arc::clone(&shelf));
            let met = TableMet { versions, read_at, failed: None };
            let next_look = table.refresh().map(|refresh| read_at.plus(refresh));
            tables.entries.push(Entry { name, table, shelf, met, next_look, looking: None, ready: None });
        }
        Ok((tables, shelves))
    }

    /// Begins to read again what is due; answers whether anything is being read.
    pub(crate) fn look(&mut self, now: Timestamp, shared: &Arc<Shared>) -> bool {
        for entry in &mut self.entries {
            self.news |= entry.collect(now);
            if entry.looking.is_none() && entry.next_look.is_some_and(|due| now >= due) {
                entry.begin(&self.background, shared, now);
                // It may be done already.
                self.news |= entry.collect(now);
            }
        }
        self.entries.iter().any(|entry| entry.looking.is_some())
    }

    /// How long reading may hold up a tick.
    pub(crate) fn patience(&self) -> Duration {
        self.entries.iter().filter_map(|entry| entry.table.refresh()).min().unwrap_or_default()
    }

    /// Whether a version waits for its first epoch.
    pub(crate) fn has_ready(&self) -> bool {
        self.entries.iter().any(|entry| entry.ready.is_some())
    }

    /// Lets rows from this epoch on meet what was read. No row of the epoch may have been read yet.
    pub(crate) fn switch(&mut self, from: Epoch) {
        for entry in &mut self.entries {
            if let Some((met, rows)) = entry.ready.take() {
                entry.shelf.put(from, rows);
                entry.met = met;
                self.news = true;
            }
        }
    }

    /// Node to what its rows meet now.
    pub(crate) fn met(&self) -> BTreeMap<String, TableMet> {
        let read = self.entries.iter().map(|entry| (entry.name.clone(), entry.met.clone()));
        read.chain(self.kept.clone()).collect()
    }

    /// What those who watch have not seen yet, if there is anything.
    pub(crate) fn news(&mut self) -> Option<Vec<TableStatus>> {
        std::mem::take(&mut self.news).then(|| self.statuses())
    }

    fn statuses(&self) -> Vec<TableStatus> {
        let of = |entry: &Entry| TableStatus {
            node: entry.name.clone(),
            datasets: entry.table.datasets(),
            met: entry.met.clone(),
        };
        self.entries.iter().map(of).collect()
    }
}

impl Entry {
    fn begin(&mut self, background: &Arc<dyn Background>, shared: &Arc<Shared>, now: Timestamp) {
        let answer = Answer::default();
        let (table, slot, shared) = (Arc::clone(&self.table), Arc::clone(&answer), Arc::clone(shared));
        // What waits for its first epoch is the newest that is known.
        let known = self.ready.as_ref().map_or(&self.met, |(met, _)| met).versions.clone();
        let work = move || {
            let read = table.read(Some(&known));
            *lock(&slot) = Some(read);
            shared.bell.ring();
        };
        match background.begin("lookup", Box::new(work)) {
            Ok(()) => self.looking = Some(answer),
            Err(error) => self.failed(&error, now),
        }
    }

    /// Takes what reading came to; answers whether it has ended.
    fn collect(&mut self, now: Timestamp) -> bool {
        let Some(answer) = &self.looking else { return false };
        // A read that ended without an answer has dropped its end of it.
        let lost = Arc::strong_count(answer) == 1;
        let found = match lock(answer).take() {
            Some(found) => found,
            None if lost => Err(Error::internal("reading a table to look up in ended by a panic")),
            None => return false,
        };
        self.looking = None;
        match found {
            Ok(read) => {
                if let Some((versions, rows)) = read {
                    self.ready = Some((TableMet { versions, read_at: now, failed: None }, rows));
                }
                self.met.failed = None;
                self.wait(now);
            }
            Err(error) => self.failed(&error, now),
        }
        true
    }

    fn failed(&mut self, error: &Error, now: Timestamp) {
        self.met.failed = Some(error.to_string());
        self.wait(now);
    }

    fn wait(&mut self, now: Timestamp) {
        self.next_look = self.table.refresh().map(|refresh| now.plus(refresh));
    }
}

/// Number, name and table of each node that has one.
fn of_graph(graph: &Graph) -> impl Iterator<Item = (usize, String, Arc<dyn LookedUp>)> {
    graph.nodes.iter().enumerate().filter_map(|(number, node)| match &node.kind {
        NodeKind::Operator(factory) => Some((number, node.name.clone(), factory.table()?)),
        NodeKind::Source(_) | NodeKind::Sink(_) => None,
    })
}
