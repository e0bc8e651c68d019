//! [`Lookups`]: datasets as tables for the looked-up side of a stream's joins.
//!
//! **Invariant:** a lookup accepts the rows that any other reader of the dataset accepts, and what it refused can be told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::TableSource;
use tidemill_model::Result;
use tidemill_runtime::Version;
use tidemill_runtime::exec::StopFlag;

use super::reading::Gathered;
use super::tables::{Datasets, Manner};
use crate::catalog::{Catalog, Side};
use crate::language::Dataset;
use crate::session::session_state_with;
use crate::stream::{OpenTable, SideTables};

/// The tables that one run looks up in.
#[derive(Debug, Clone)]
pub struct Lookups {
    catalog: Arc<Catalog>,
    side: Side,
    /// What was found beside rows, by dataset.
    found: Arc<Mutex<BTreeMap<String, Arc<Gathered>>>>,
}

impl Lookups {
    /// None is read yet.
    #[must_use]
    pub fn new(catalog: &Arc<Catalog>, side: Side) -> Lookups {
        Lookups { catalog: Arc::clone(catalog), side, found: Arc::default() }
    }

    /// Opens datasets as they are whenever a run of the stream executor reads them.
    #[must_use]
    pub fn opener(&self) -> OpenTable {
        Arc::new(self.clone())
    }

    /// How many records of each dataset were refused when it was read last, by reason; datasets of which none was are left out. They are no
    /// dead letters of the run: each run reads the tables anew and would have them again.
    #[must_use]
    pub fn refused(&self) -> BTreeMap<String, BTreeMap<String, u64>> {
        let mut refused = BTreeMap::new();
        for (dataset, gathered) in self.found().iter() {
            let reasons = gathered.refused(dataset);
            if !reasons.is_empty() {
                refused.insert(dataset.clone(), reasons);
            }
        }
        refused
    }

    fn found(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Gathered>>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SideTables for Lookups {
    fn open(&self, dataset: &Dataset) -> Result<Arc<dyn TableSource>> {
        let gathered = Arc::new(Gathered::only_counts(StopFlag::default()));
        self.found().insert(dataset.name.clone(), Arc::clone(&gathered));
        let manner = Manner { side: self.side, start: None, owned: None, gathered, only: None };
        let state = session_state_with(self.catalog.functions());
        let opening = Datasets::open_one(&self.catalog, &state, &manner, &dataset.name);
        // Opening waits for other threads at most, so any thread may do it.
        Ok(provider_as_source(futures::executor::block_on(opening)?))
    }

    fn version(&self, dataset: &Dataset) -> Result<Option<Version>> {
        futures::executor::block_on(self.catalog.version(&dataset.name, self.side))
    }

    fn refresh(&self, dataset: &Dataset) -> Option<Duration> {
        self.catalog.settings(&dataset.name, self.side).ok()?.span("refresh")
    }
}
