//! [`BatchProgress`]: how far a bounded run is, for whoever watches it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tidemill_model::Result;
use tidemill_runtime::exec::StopFlag;

use super::reading::{Gathered, Heard, stopped};

/// How far a bounded run is. Cheap to ask at any time, from any thread.
#[derive(Debug)]
pub struct BatchProgress {
    stop: StopFlag,
    rows_read: Arc<AtomicU64>,
    rows_written: AtomicU64,
}

impl BatchProgress {
    /// Of a run that ends when `stop` is set.
    #[must_use]
    pub fn new(stop: StopFlag) -> BatchProgress {
        BatchProgress { stop, rows_read: Arc::default(), rows_written: AtomicU64::new(0) }
    }

    /// Records read through sources; tables that DataFusion reads itself do not count here.
    #[must_use]
    pub fn rows_read(&self) -> u64 {
        self.rows_read.load(Ordering::Relaxed)
    }

    /// Rows given to sinks.
    #[must_use]
    pub fn rows_written(&self) -> u64 {
        self.rows_written.load(Ordering::Relaxed)
    }

    /// What ends the run.
    #[must_use]
    pub fn stop(&self) -> &StopFlag {
        &self.stop
    }

    pub(super) fn wrote(&self, rows: u64) {
        self.rows_written.fetch_add(rows, Ordering::Relaxed);
    }

    /// Where the scans of one step gather what they find.
    pub(super) fn gathered(&self, heard: &Arc<Heard>) -> Arc<Gathered> {
        Arc::new(Gathered::of_step(self.stop.clone(), Arc::clone(heard), Arc::clone(&self.rows_read)))
    }

    /// Ends what the run was doing when it was asked to stop.
    pub(super) fn go_on(&self) -> Result<()> {
        if self.stop.is_set() { Err(stopped()) } else { Ok(()) }
    }
}
