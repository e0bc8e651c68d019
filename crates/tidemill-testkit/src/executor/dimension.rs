//! [`Dimension`]: a table that rows are looked up in, which changes while pipelines read it; and [`MeetFactory`], whose rows
//! say which version they met. Each becomes several, a few at a time, as where a row has many partners.
//!
//! **Invariant:** a version is read whole or not at all.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidemill_model::{Epoch, Error, Result};
use tidemill_runtime::{Background, Batch, LookedUp, Operator, OperatorFactory, Output, Rows, StateChunk, Versions};

use super::operators::{numbers, three};
use super::weather::Process;

/// The dataset's name.
pub(super) const DIMENSION: &str = "dimension";
/// How often pipelines ask whether it has changed.
const REFRESH: Duration = Duration::from_millis(40);

/// A table of one number, its version.
#[derive(Debug, Default)]
pub(super) struct Dimension(AtomicI64);

impl Dimension {
    /// Another version is there.
    pub(super) fn change(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The table as one process reads it.
#[derive(Debug)]
struct DimensionTable {
    dimension: Arc<Dimension>,
    process: Arc<Process>,
}

impl LookedUp for DimensionTable {
    fn datasets(&self) -> Vec<String> {
        vec![DIMENSION.to_owned()]
    }

    fn refresh(&self) -> Option<Duration> {
        Some(REFRESH)
    }

    fn read(&self, known: Option<&Versions>) -> Result<Option<(Versions, Rows)>> {
        let version = self.process.call("the reading of a dimension", || self.dimension.0.load(Ordering::Relaxed))?;
        let versions = Versions::from([(DIMENSION.to_owned(), version.to_string())]);
        let rows = Arc::new(version) as Rows;
        Ok((known != Some(&versions)).then_some((versions, rows)))
    }
}

/// How many rows a row becomes.
pub(super) const COPIES: usize = 3;
/// How many rows are given out at once.
const AT_ONCE: usize = 4;

/// Puts the version that a row meets in the place of its time, several times.
#[derive(Debug)]
pub(super) struct MeetFactory {
    pub(super) dimension: Arc<Dimension>,
    pub(super) process: Arc<Process>,
}

#[derive(Debug, Default)]
struct Meet {
    version: Option<i64>,
    left: VecDeque<[i64; 3]>,
}

impl OperatorFactory for MeetFactory {
    fn create(&self, _: usize, _: usize) -> Result<Box<dyn Operator>> {
        Ok(Box::new(Meet::default()))
    }

    fn describe(&self) -> String {
        "looks up the version of a dimension".to_owned()
    }

    fn table(&self) -> Option<Arc<dyn LookedUp>> {
        let (dimension, process) = (Arc::clone(&self.dimension), Arc::clone(&self.process));
        Some(Arc::new(DimensionTable { dimension, process }))
    }
}

impl Operator for Meet {
    fn look_up_in(&mut self, rows: &Rows) -> Result<()> {
        self.version = rows.downcast_ref::<i64>().copied();
        if self.left.is_empty() { Ok(()) } else { Err(Error::internal("the version changed in the middle of a batch")) }
    }

    fn on_batch(&mut self, _: usize, batch: Batch, out: &mut Output) -> Result<()> {
        let Some(version) = self.version else { return Err(Error::internal("there is no version to meet")) };
        if !self.left.is_empty() {
            return Err(Error::internal("a batch came before the one before was given out"));
        }
        let (ids, keys) = (numbers(&batch.rows, 0), numbers(&batch.rows, 1));
        let rows = ids.into_iter().zip(keys).map(|(id, key)| [id, key, version]);
        self.left = rows.flat_map(|row| std::iter::repeat_n(row, COPIES)).collect();
        self.go_on(out)
    }

    fn has_more(&self) -> bool {
        !self.left.is_empty()
    }

    fn go_on(&mut self, out: &mut Output) -> Result<()> {
        let some: Vec<[i64; 3]> = self.left.drain(..AT_ONCE.min(self.left.len())).collect();
        out.push(Batch::inserts(three(["id", "key", "version"], &some)?));
        Ok(())
    }

    fn snapshot(&mut self, _: Epoch) -> Result<Vec<StateChunk>> {
        if self.left.is_empty() { Ok(Vec::new()) } else { Err(Error::internal("a barrier overtook rows")) }
    }
}

type Work = Box<dyn FnOnce() + Send>;

/// Work beside the lanes, done when the simulation says so.
#[derive(Default)]
pub(super) struct Errands(Mutex<VecDeque<Work>>);

impl std::fmt::Debug for Errands {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Errands")
    }
}

impl Errands {
    /// Does one; whether there was any.
    pub(super) fn run_one(&self) -> bool {
        let work = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        work.map(|work| work()).is_some()
    }
}

impl Background for Errands {
    fn begin(&self, _: &str, work: Work) -> Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(work);
        Ok(())
    }
}
