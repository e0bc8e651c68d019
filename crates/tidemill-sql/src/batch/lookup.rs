//! [`lookup_tables`]: datasets as tables for the looked-up side of a stream's joins.
//!
//! **Invariant:** a lookup accepts the rows that any other reader of the dataset accepts.

use std::sync::Arc;

use datafusion::datasource::provider_as_source;
use tidemill_runtime::exec::StopFlag;

use super::reading::Gathered;
use super::tables::{Datasets, Manner};
use crate::catalog::{Catalog, Side};
use crate::session::session_state;
use crate::stream::OpenTable;

/// Opens datasets as they are when a run of the stream executor starts.
#[must_use]
pub fn lookup_tables(catalog: &Arc<Catalog>, side: Side) -> OpenTable {
    let catalog = Arc::clone(catalog);
    Arc::new(move |dataset| {
        let gathered = Arc::new(Gathered::only_counts(StopFlag::default()));
        let manner = Manner { side, start: None, owned: None, gathered };
        let state = session_state();
        let opening = Datasets::open_one(&catalog, &state, &manner, &dataset.name);
        // Opening waits for other threads at most, so any thread may do it.
        Ok(provider_as_source(futures::executor::block_on(opening)?))
    })
}
