//! [`DatasetTable`]: a dataset as a table of DataFusion, read through its source or by a provider of its own.
//!
//! **Invariant:** a query sees accepted rows only, the same ones that a stream would accept.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::TimestampMicrosecondArray;
use arrow::datatypes::{Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::{Column, Result as DfResult, ScalarValue};
use datafusion::datasource::{TableProvider, TableType};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, lit};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use tidemill_model::{Error, Interval, Kind, Offset, SplitId, Timestamp};
use tidemill_runtime::Source;

use super::dataset_exec::{Columns, DatasetExec};
use super::fold::FoldExec;
use super::gate_exec::GateExec;
use super::needed::{Needing, is_safe};
use super::reading::{Reading, external};
use super::seen::SplitTimes;
use super::tables::Only;

/// Where a dataset's rows come from.
#[derive(Debug, Clone)]
pub(super) enum Rows {
    /// The connector's source.
    Source(Arc<dyn Source>),
    /// A table that DataFusion reads itself, with its own pruning.
    Native(Arc<dyn TableProvider>),
}

/// A dataset as a table.
#[derive(Debug, Clone)]
pub(super) struct DatasetTable {
    reading: Reading,
    rows: Rows,
    /// The columns of accepted rows.
    schema: SchemaRef,
    /// Where each column lies in the native table, when DataFusion may read that as it likes: every stored row is
    /// wanted and accepted, in the types that are declared.
    open: Option<Vec<usize>>,
    /// Only these splits are read, if they are finite.
    only: Option<Arc<Only>>,
    /// Whether all of them must be there.
    keeps: bool,
}

/// The code of a split that has vanished since it was looked at.
pub(super) const SPLIT_VANISHED: &str = "U065";

impl DatasetTable {
    /// The dataset of `reading`; `schema` are its columns as accepted rows have them.
    #[must_use]
    pub(super) fn new(reading: Reading, rows: Rows, schema: SchemaRef) -> DatasetTable {
        let open = match &rows {
            Rows::Native(table) if reading.judged.is_empty() && reading.event_time.is_none() => {
                places(&schema, &table.schema())
            }
            _ => None,
        };
        DatasetTable { reading, rows, schema, open, only: None, keeps: false }
    }

    /// The same table with only these finite splits, all of which must be there if its source `keeps` them: nobody else
    /// replaces them by others.
    pub(super) fn but_only(self, only: Option<Arc<Only>>, keeps: bool) -> DatasetTable {
        DatasetTable { only, keeps, ..self }
    }

    /// How it is read.
    pub(super) fn reading(&self) -> &Reading {
        &self.reading
    }

    /// Whether its splits are the only place of their rows, so that one that has vanished is missed: those of a table that a
    /// pipeline of the project writes, or whose changes are transactions, are replaced by others.
    pub(super) fn keeps(&self) -> bool {
        self.keeps && matches!(self.rows, Rows::Source(_))
    }

    /// The same table with only the rows of an interval.
    pub(super) fn within(&self, interval: Interval) -> DatasetTable {
        let reading = Reading { interval: Some(interval), ..self.reading.clone() };
        DatasetTable { reading, ..self.clone() }
    }

    async fn scan_source(
        &self,
        source: &Arc<dyn Source>,
        columns: Columns,
        (filters, state): (&[Expr], &dyn Session),
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let lister = Arc::clone(source);
        let listed = tokio::task::spawn_blocking(move || lister.list_splits()).await;
        let mut splits = listed
            .map_err(|e| external(Error::internal("listing splits was cut off").because(e)))?
            .map_err(|e| external(e.context(format!("reading `{}`", self.reading.dataset))))?;
        if let Some(seen) = self.only.as_ref().and_then(|only| only.get(&self.reading.dataset)) {
            let wanted = |times: &SplitTimes| self.reading.interval.is_none_or(|interval| times.may_have(interval));
            let listed: BTreeSet<&SplitId> = splits.iter().map(|split| &split.id).collect();
            let is_missed = |(id, offset): &(&SplitId, &Offset)| {
                !listed.contains(id) && SplitTimes::of_finite(offset).is_some_and(|times| wanted(&times))
            };
            if let Some((id, _)) = seen.iter().find(is_missed).filter(|_| self.keeps()) {
                return Err(external(vanished(&self.reading.dataset, id)));
            }
            splits.retain(|split| {
                !split.finite || seen.get(&split.id).is_some_and(|offset| wanted(&SplitTimes::of(offset)))
            });
        }
        if let Some(interval) = self.reading.interval.filter(|_| self.reading.changes.is_none()) {
            splits.retain(|split| {
                let after = split.min_event_time.is_some_and(|least| Timestamp(least) >= interval.end);
                let before = split.max_event_time.is_some_and(|greatest| Timestamp(greatest) < interval.start);
                !after && !before
            });
        }
        if splits.is_empty() {
            return Ok(Arc::new(EmptyExec::new(columns.output)));
        }
        if let Some(changes) = self.reading.changes.clone() {
            let of = (self.reading.clone(), changes);
            return Ok(FoldExec::over(of, Arc::clone(source), splits, columns));
        }
        // The largest first, so that no partition is left alone with one at the end.
        splits.sort_by_key(|split| std::cmp::Reverse(split.bytes.unwrap_or(0)));
        let needed = Needing::of(filters, (&self.reading.schema, self.reading.refusals.as_deref()), state)?;
        let partitions = state.config().target_partitions().max(1);
        Ok(DatasetExec::over(self.reading.clone(), Arc::clone(source), splits, (columns, needed), partitions))
    }

    async fn scan_native(
        &self,
        table: &Arc<dyn TableProvider>,
        state: &dyn Session,
        columns: Columns,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let stored = table.schema();
        let wanted = columns.decoded.fields().iter().map(|field| stored.index_of(field.name()));
        let wanted = wanted.collect::<Result<Vec<_>, _>>()?;
        // Only for pruning: the gate's scan divides by time itself. Other filters stay above: how many rows they leave out
        // would not be known, and errors are a share of those.
        let filters: Vec<Expr> = self.pruning(&stored)?.into_iter().collect();
        let input = table.scan(state, Some(&wanted), &filters, None).await?;
        Ok(GateExec::over(self.reading.clone(), input, columns))
    }

    /// The interval as a filter that keeps rows without a time, which become dead letters.
    fn pruning(&self, stored: &Schema) -> DfResult<Option<Expr>> {
        let (Some(interval), Some(name)) = (self.reading.interval, &self.reading.event_time) else { return Ok(None) };
        let stored = stored.field_with_name(name)?.data_type();
        let bound = |at: i64| -> DfResult<Expr> {
            let value = ScalarValue::try_from_array(&TimestampMicrosecondArray::from(vec![at]), 0)?;
            Ok(lit(value.cast_to(stored)?))
        };
        let column = || Expr::Column(Column::from_name(name));
        let inside = column().gt_eq(bound(interval.start.0)?).and(column().lt(bound(interval.end.0)?));
        Ok(Some(inside.or(column().is_null())))
    }
}

/// The rows of a file that was there when the run began must not be left out by it.
fn vanished(dataset: &str, split: &SplitId) -> Error {
    let message = format!("the file `{split}` of `{dataset}` has vanished while the run went on");
    Error::new(Kind::Unavailable, SPLIT_VANISHED, message)
        .fact("nothing of the step in hand was committed; the next run looks again at what is there")
}

/// Where each column lies among the stored ones, if all are there as declared.
fn places(declared: &Schema, stored: &Schema) -> Option<Vec<usize>> {
    let place = |field: &Arc<Field>| {
        let at = stored.index_of(field.name()).ok()?;
        let stored = stored.field(at);
        let fits = stored.data_type() == field.data_type() && (field.is_nullable() || !stored.is_nullable());
        fits.then_some(at)
    };
    declared.fields().iter().map(place).collect()
}

#[async_trait]
impl TableProvider for DatasetTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let every: Vec<usize> = (0..self.schema.fields().len()).collect();
        let wanted = projection.unwrap_or(&every);
        if let (Rows::Native(table), Some(open)) = (&self.rows, &self.open) {
            let wanted = wanted.iter().filter_map(|column| open.get(*column).copied()).collect();
            return table.scan(state, Some(&wanted), filters, limit).await;
        }
        let columns = Columns::new(&self.reading, Arc::new(self.schema.project(wanted)?))?;
        match &self.rows {
            Rows::Native(table) => self.scan_native(table, state, columns).await,
            Rows::Source(source) => self.scan_source(source, columns, (filters, state)).await,
        }
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DfResult<Vec<TableProviderFilterPushDown>> {
        let answer = |filter: &&Expr| {
            if !is_safe(filter, &self.schema) {
                return Ok(TableProviderFilterPushDown::Unsupported);
            }
            match &self.rows {
                Rows::Native(table) if self.open.is_some() => {
                    let answer = table.supports_filters_pushdown(&[filter])?;
                    Ok(answer.into_iter().next().unwrap_or(TableProviderFilterPushDown::Unsupported))
                }
                Rows::Source(_) if self.reading.refusals.is_some() => Ok(TableProviderFilterPushDown::Inexact),
                Rows::Source(_) | Rows::Native(_) => Ok(TableProviderFilterPushDown::Unsupported),
            }
        };
        filters.iter().map(answer).collect()
    }
}
