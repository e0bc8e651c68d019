//! [`table_provider`]: a Delta table for DataFusion, with the columns and types that the dataset declares.
//!
//! **Invariant:** a filter is handed to the table only when it means the same on the stored types; every other one is
//! applied by DataFusion above the scan.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Column, Result as DataFusionResult, ScalarValue};
use datafusion::logical_expr::expr::{Between, BinaryExpr};
use datafusion::logical_expr::{Expr, Operator, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{CastExpr, Column as PhysicalColumn};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::ProjectionExec;
use tidemill_model::{Error, Kind, Result};
use tidemill_runtime::{DatasetSpec, Environment, Version};

use crate::blocking::{block_on, handle};
use crate::config::DeltaConfig;
use crate::problem::problem;
use crate::table::columns;
use crate::types::presented_schema;

/// The table of a dataset at its latest version, for reading by DataFusion.
///
/// The columns are those the dataset declares, or all of the table's when it declares none.
///
/// # Errors
/// Config: there is no such table, or it lacks a declared column; Corrupt: it cannot be read.
pub async fn table_provider(spec: &DatasetSpec, env: &Environment) -> Result<Arc<dyn TableProvider>> {
    let (config, declared) = (DeltaConfig::of(spec, env)?, Arc::clone(&spec.schema));
    // The log is read on this crate's threads, whatever runtime the caller is on.
    let opened = handle()?.spawn(async move {
        let table = config.location.existing().await?;
        let provider = table.table_provider().await;
        let provider = provider.map_err(|error| problem(&config.location, "read", error.into()))?;
        let stored = columns(&table)?;
        let schema = if declared.fields().is_empty() { presented_schema(&stored) } else { declared };
        present(provider, schema, &config.location.shown)
    });
    opened.await.map_err(|error| Error::internal(format!("reading a Delta table panicked: {error}")))?
}

/// Which version of the table is the latest.
///
/// # Errors
/// As [`table_provider`].
pub async fn table_version(spec: &DatasetSpec, env: &Environment) -> Result<Version> {
    let config = DeltaConfig::of(spec, env)?;
    let found = handle()?.spawn(async move {
        let version = config.location.existing().await?.version();
        let version = version.map_or_else(|| "none".to_owned(), |version| version.to_string());
        // Whatever is read is one version of the table.
        Ok(Version { token: format!("version {version}"), grows: true })
    });
    found.await.map_err(|error| Error::internal(format!("looking at a Delta table panicked: {error}")))?
}

/// Whether there is a table at the dataset's place, looked at without creating it.
///
/// # Errors
/// Config, when its options do not fit; Unavailable, when the store does not answer.
pub fn is_there(spec: &DatasetSpec, env: &Environment) -> Result<bool> {
    let location = DeltaConfig::of(spec, env)?.location;
    block_on(async move { location.is_there().await })
}

/// The provider with these columns, by name.
pub(crate) fn present(inner: Arc<dyn TableProvider>, schema: SchemaRef, shown: &str) -> Result<Arc<dyn TableProvider>> {
    let stored = inner.schema();
    let mut at = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        at.push(stored.index_of(field.name()).map_err(|_| missing(shown, field.name(), &stored))?);
    }
    Ok(Arc::new(Presented { inner, stored, schema, at }))
}

fn missing(shown: &str, name: &str, stored: &Schema) -> Error {
    let names: Vec<&str> = stored.fields().iter().map(|field| field.name().as_str()).collect();
    let error = Error::new(Kind::Config, "C227", format!("the Delta table {shown} has no column `{name}`"));
    match tidemill_model::nearest(name, names.iter().copied()) {
        Some(meant) => error.label(format!("did you mean `{meant}`?")),
        None => error,
    }
    .fact(format!("its columns: {}", names.join(", ")))
}

fn is_comparison(op: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq)
}

/// A provider whose columns are selected and cast.
#[derive(Debug)]
struct Presented {
    inner: Arc<dyn TableProvider>,
    stored: SchemaRef,
    schema: SchemaRef,
    /// The position in `stored` of each column of `schema`.
    at: Vec<usize>,
}

impl Presented {
    /// The filter on the stored types, when it means the same there.
    fn translate(&self, filter: &Expr) -> Option<Expr> {
        if filter.column_refs().iter().all(|column| self.stored_type(column).is_none()) {
            return Some(filter.clone());
        }
        match filter {
            Expr::IsNull(inner) | Expr::IsNotNull(inner) if matches!(**inner, Expr::Column(_)) => Some(filter.clone()),
            Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
                Some(Expr::BinaryExpr(BinaryExpr {
                    left: Box::new(self.translate(left)?),
                    op: *op,
                    right: Box::new(self.translate(right)?),
                }))
            }
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_comparison(*op) => {
                let (left, right) = match (&**left, &**right) {
                    (Expr::Column(column), Expr::Literal(value, _)) => ((**left).clone(), self.literal(column, value)?),
                    (Expr::Literal(value, _), Expr::Column(column)) => {
                        (self.literal(column, value)?, (**right).clone())
                    }
                    _ => return None,
                };
                Some(Expr::BinaryExpr(BinaryExpr { left: Box::new(left), op: *op, right: Box::new(right) }))
            }
            Expr::Between(Between { expr, negated, low, high }) => match (&**expr, &**low, &**high) {
                (Expr::Column(column), Expr::Literal(low, _), Expr::Literal(high, _)) => Some(Expr::Between(Between {
                    expr: expr.clone(),
                    negated: *negated,
                    low: Box::new(self.literal(column, low)?),
                    high: Box::new(self.literal(column, high)?),
                })),
                _ => None,
            },
            _ => None,
        }
    }

    /// A time of the engine as the stored column has it; other conversions could change what a comparison means.
    fn literal(&self, column: &Column, value: &ScalarValue) -> Option<Expr> {
        use arrow::datatypes::{DataType, TimeUnit};
        match (value, self.stored_type(column)) {
            (_, None) => Some(Expr::Literal(value.clone(), None)),
            (ScalarValue::TimestampMicrosecond(micros, _), Some(DataType::Timestamp(TimeUnit::Microsecond, zone))) => {
                Some(Expr::Literal(ScalarValue::TimestampMicrosecond(*micros, zone.clone()), None))
            }
            (
                ScalarValue::Utf8(_) | ScalarValue::Utf8View(_) | ScalarValue::LargeUtf8(_),
                Some(to @ (DataType::Utf8 | DataType::Utf8View)),
            ) => value.cast_to(to).ok().map(|value| Expr::Literal(value, None)),
            _ => None,
        }
    }

    /// The stored type of a column that is presented with another one.
    fn stored_type(&self, column: &Column) -> Option<&arrow::datatypes::DataType> {
        let presented = self.schema.field_with_name(&column.name).ok()?;
        let stored = self.stored.field_with_name(&column.name).ok()?;
        (presented.data_type() != stored.data_type()).then_some(stored.data_type())
    }
}

#[async_trait::async_trait]
impl TableProvider for Presented {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let wanted: Vec<usize> = match projection {
            Some(projection) => projection.clone(),
            None => (0..self.schema.fields().len()).collect(),
        };
        let stored: Vec<usize> = wanted.iter().filter_map(|&column| self.at.get(column).copied()).collect();
        let filters: Vec<Expr> = filters.iter().filter_map(|filter| self.translate(filter)).collect();
        let input = self.inner.scan(session, Some(&stored), &filters, limit).await?;
        let produced = input.schema();
        if produced
            .fields()
            .iter()
            .zip(&wanted)
            .all(|(field, &at)| field.data_type() == self.schema.field(at).data_type())
        {
            return Ok(input);
        }
        let columns = wanted.iter().enumerate().map(|(place, &at)| {
            let field = self.schema.field(at);
            let column: Arc<dyn PhysicalExpr> = Arc::new(PhysicalColumn::new(produced.field(place).name(), place));
            let column = if produced.field(place).data_type() == field.data_type() {
                column
            } else {
                Arc::new(CastExpr::new(column, field.data_type().clone(), None))
            };
            (column, field.name().clone())
        });
        Ok(Arc::new(ProjectionExec::try_new(columns.collect::<Vec<_>>(), input)?))
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        filters
            .iter()
            .map(|filter| match self.translate(filter) {
                None => Ok(TableProviderFilterPushDown::Unsupported),
                Some(translated) => {
                    let answer = self.inner.supports_filters_pushdown(&[&translated])?;
                    Ok(answer.into_iter().next().unwrap_or(TableProviderFilterPushDown::Unsupported))
                }
            })
            .collect()
    }
}
