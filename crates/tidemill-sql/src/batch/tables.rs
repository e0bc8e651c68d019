//! [`Datasets`]: the datasets of a project as tables of bounded queries.
//!
//! **Invariant:** names are resolved twice, once to see what a query reads and once over what was opened for it, so
//! that a query opens only what it reads.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::datasource::empty::EmptyTable;
use datafusion::datasource::provider_as_source;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{LogicalPlan, TableSource};
use datafusion::sql::sqlparser::ast;
use tidemill_model::{Interval, Offset, Place, Result, SplitId, Timestamp};

use super::provider::{DatasetTable, Rows};
use super::reading::{DecoderMaker, Gathered, Reading};
use super::unwritten::{Unwritten, accepted, unwritten, writers};
use crate::catalog::{Catalog, Side, decoder_of};
use crate::language::Dataset;
use crate::session::{Planner, SchemaOnly, Tables, accepted_schema};
use crate::stream::GateRules;

/// How the datasets of a query are read.
#[derive(Debug, Clone)]
pub(super) struct Manner {
    /// Which binding.
    pub(super) side: Side,
    /// The pipeline's first instant.
    pub(super) start: Option<Timestamp>,
    /// The interval that a run owns.
    pub(super) owned: Option<Interval>,
    /// Where refused records and counts go.
    pub(super) gathered: Arc<Gathered>,
    /// Of datasets named here only these splits are read, if they are finite.
    pub(super) only: Option<Arc<Only>>,
}

/// Dataset to splits.
pub(super) type Only = BTreeMap<String, BTreeMap<SplitId, Offset>>;

/// What stands for names that are no external dataset.
pub(super) type Others<'a> = &'a dyn Fn(&TableReference) -> Result<Option<Arc<dyn TableSource>>>;

/// A query and the names of the datasets that it reads.
pub(super) struct Outline {
    pub(super) plan: LogicalPlan,
    pub(super) datasets: BTreeSet<String>,
}

/// Plans a query over names and types alone.
pub(super) fn outline(
    catalog: &Catalog,
    state: &SessionState,
    side: Side,
    others: Others<'_>,
    (query, place): (&ast::Query, &Place),
) -> Result<Outline> {
    let names = Names { catalog, state, side, others, seen: RefCell::default() };
    let plan = Planner::new(catalog.project(), state, &names).query(query, place)?;
    Ok(Outline { plan, datasets: names.seen.into_inner() })
}

struct Names<'a> {
    catalog: &'a Catalog,
    state: &'a SessionState,
    side: Side,
    others: Others<'a>,
    seen: RefCell<BTreeSet<String>>,
}

impl Tables for Names<'_> {
    fn dataset(&self, dataset: &Dataset) -> Result<Arc<dyn TableSource>> {
        self.seen.borrow_mut().insert(dataset.name.clone());
        Ok(Arc::new(SchemaOnly(accepted(self.catalog, self.state, self.side, dataset, &[])?)))
    }

    fn other(&self, name: &TableReference) -> Result<Option<Arc<dyn TableSource>>> {
        (self.others)(name)
    }
}

/// Opened datasets by name.
#[derive(Debug, Default)]
pub(super) struct Datasets {
    tables: BTreeMap<String, Arc<dyn TableProvider>>,
}

impl Datasets {
    /// Opens these datasets as they are now. What is not there is an error.
    pub(super) async fn open(
        catalog: &Catalog,
        state: &SessionState,
        manner: &Manner,
        names: &BTreeSet<String>,
    ) -> Result<Datasets> {
        let mut tables = BTreeMap::new();
        for name in names {
            let opened = Datasets::open_one(catalog, state, manner, name).await.map_err(|error| {
                match unwritten(catalog, manner.side, name) {
                    Ok(Some(nothing)) => nothing.explain(error),
                    _ => error,
                }
            });
            tables.insert(name.clone(), opened? as Arc<dyn TableProvider>);
        }
        Ok(Datasets { tables })
    }

    /// Opens these datasets as they are now; what pipelines of the project write and nobody has written yet has no
    /// rows. Answers which these are.
    pub(super) async fn open_or_empty(
        catalog: &Catalog,
        state: &SessionState,
        manner: &Manner,
        names: &BTreeSet<String>,
    ) -> Result<(Datasets, Vec<Unwritten>)> {
        let mut tables = BTreeMap::new();
        let mut nothing = Vec::new();
        for name in names {
            let table: Arc<dyn TableProvider> = match unwritten(catalog, manner.side, name)? {
                None => Datasets::open_one(catalog, state, manner, name).await?,
                Some(found) => {
                    let schema = accepted(catalog, state, manner.side, catalog.dataset(name)?, &[])?;
                    nothing.push(found);
                    Arc::new(EmptyTable::new(schema))
                }
            };
            tables.insert(name.clone(), table);
        }
        Ok((Datasets { tables }, nothing))
    }

    /// Opens one dataset as it is now.
    pub(super) async fn open_one(
        catalog: &Catalog,
        state: &SessionState,
        manner: &Manner,
        name: &str,
    ) -> Result<Arc<DatasetTable>> {
        let rows = match catalog.batch_table(name, manner.side).await? {
            Some(_) if catalog.changes(name, manner.side)?.is_some() => {
                return Err(catalog.without_order(name, manner.side)?);
            }
            Some(table) => Rows::Native(table),
            None => Rows::Source(catalog.source(name, manner.side)?),
        };
        Ok(Arc::new(table(catalog, state, manner, name, rows)?))
    }

    /// The same with another table under this name.
    pub(super) fn with(&self, name: &str, table: Arc<dyn TableProvider>) -> Datasets {
        let mut tables = self.tables.clone();
        tables.insert(name.to_owned(), table);
        Datasets { tables }
    }

    /// The plan of a query that reads only these datasets.
    pub(super) fn plan(
        &self,
        catalog: &Catalog,
        state: &SessionState,
        others: Others<'_>,
        (query, place): (&ast::Query, &Place),
    ) -> Result<LogicalPlan> {
        Planner::new(catalog.project(), state, &Over { datasets: self, others }).query(query, place)
    }
}

struct Over<'a> {
    datasets: &'a Datasets,
    others: Others<'a>,
}

impl Tables for Over<'_> {
    fn dataset(&self, dataset: &Dataset) -> Result<Arc<dyn TableSource>> {
        let table = self.datasets.tables.get(&dataset.name).map(Arc::clone);
        let table = table.ok_or_else(|| {
            tidemill_model::Error::internal(format!("`{}` was not opened before it was planned", dataset.name))
        })?;
        Ok(provider_as_source(table))
    }

    fn other(&self, name: &TableReference) -> Result<Option<Arc<dyn TableSource>>> {
        (self.others)(name)
    }
}

fn table(catalog: &Catalog, state: &SessionState, manner: &Manner, name: &str, rows: Rows) -> Result<DatasetTable> {
    let dataset = catalog.dataset(name)?;
    let spec = catalog.spec(name, manner.side)?;
    let changes = catalog.changes(name, manner.side)?;
    let rules = GateRules::new(catalog.project(), state, dataset, &spec.schema, manner.start)?;
    let rules = rules.of_changes(changes.clone());
    let (judged, refusals) = (rules.judged(), rules.refusals());
    let state = state.clone();
    let (format, of) = (spec.format.clone(), changes.clone());
    let reading = Reading {
        dataset: name.to_owned(),
        schema: Arc::clone(&spec.schema),
        event_time: spec.event_time.clone(),
        judged,
        refusals,
        gate: Arc::new(move |decoded, accepted| rules.gate(&state, decoded, accepted)),
        decoder: format
            .map(|format| Arc::new(move |schema| decoder_of(format.as_ref(), schema, of.as_ref())) as DecoderMaker),
        changes,
        interval: None,
        owned: manner.owned,
        gathered: Arc::clone(&manner.gathered),
    };
    let only = manner.only.as_ref().filter(|only| only.contains_key(name)).cloned();
    let keeps = writers(catalog, manner.side, name)?.is_empty();
    Ok(DatasetTable::new(reading, rows, accepted_schema(dataset, &spec.schema)).but_only(only, keeps))
}
