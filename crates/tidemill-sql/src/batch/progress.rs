//! [`BatchProgress`]: how far a bounded run is, for whoever watches it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tidemill_runtime::exec::StopFlag;

use super::reading::Gathered;

/// How far a bounded run is. Cheap to ask at any time, from any thread.
#[derive(Debug)]
pub struct BatchProgress {
    gathered: Arc<Gathered>,
    rows_written: AtomicU64,
}

impl BatchProgress {
    /// Of a run that ends when `stop` is set.
    #[must_use]
    pub fn new(stop: StopFlag) -> BatchProgress {
        BatchProgress { gathered: Arc::new(Gathered::new(stop)), rows_written: AtomicU64::new(0) }
    }

    /// Records read through sources; tables that DataFusion reads itself do not count here.
    #[must_use]
    pub fn rows_read(&self) -> u64 {
        self.gathered.rows_read()
    }

    /// Rows given to sinks.
    #[must_use]
    pub fn rows_written(&self) -> u64 {
        self.rows_written.load(Ordering::Relaxed)
    }

    pub(super) fn wrote(&self, rows: u64) {
        self.rows_written.fetch_add(rows, Ordering::Relaxed);
    }

    pub(super) fn gathered(&self) -> &Arc<Gathered> {
        &self.gathered
    }
}
