//! [`merge`]: an epoch of changes into a table, by key, in one commit.
//!
//! **Invariant:** whichever way is taken, the table after it is the same: [`rewrite`] for tables without features of
//! their own, the library's MERGE for all others.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int8Array, RecordBatch, new_null_array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::Column;
use datafusion::logical_expr::{Expr, lit};
use datafusion::prelude::SessionContext;
use deltalake_core::DeltaTable;
use deltalake_core::delta_datafusion::create_session;
use deltalake_core::kernel::transaction::CommitProperties;
use parquet::file::properties::WriterProperties;
use tidemill_model::{Error, Result};

use crate::commit::Failed;
use crate::latest::{Change, Changes, latest};
use crate::rewrite::{is_plain, rewrite};
use crate::sink::Target;
use crate::stage::Staged;
use crate::table::columns;
use crate::types::convert;
use crate::write::file_properties;

/// The column of a merge's source that says what a row does; see [`Change`].
const CHANGE: &str = "__tidemill_change";

/// Puts the changes into the table.
pub(crate) async fn merge(
    target: &Target,
    table: &DeltaTable,
    staged: &[Staged],
    key: &[String],
    sequence: Option<&str>,
    properties: CommitProperties,
) -> Result<DeltaTable, Failed> {
    let mut batches = Vec::new();
    for file in staged {
        for batch in file.open(&target.staging)? {
            batches.push(batch?);
        }
    }
    let at = |name: &str| target.stored.index_of(name).map_err(|error| Error::internal(error.to_string()));
    let key_at = key.iter().map(|name| at(name)).collect::<Result<Vec<_>>>()?;
    let sequence_at = sequence.map(at).transpose()?;
    let mut changes = latest(&target.staged, &batches, &key_at, sequence_at)?;
    drop(batches);
    if staged.iter().any(|file| file.anew) {
        // What is stored is of the result before, which these rows replace.
        changes.kinds.iter_mut().filter(|kind| **kind == Change::Greatest).for_each(|kind| *kind = Change::Always);
    }
    let schema = columns(table)?;
    let changes = Changes { rows: as_in_table(&changes.rows, &schema)?, kinds: changes.kinds };
    if !is_plain(table)? {
        return by_library(table, changes, key, sequence, file_properties(&target.stored, &target.mode), properties)
            .await;
    }
    let at = |name: &str| schema.index_of(name).map_err(|error| Error::internal(error.to_string()));
    let key_at = key.iter().map(|name| at(name)).collect::<Result<Vec<_>>>()?;
    rewrite(target, table, changes, &key_at, sequence.map(at).transpose()?, properties).await
}

/// The rows with all columns of the table, in its order and types; columns that the query does not give are NULL.
fn as_in_table(rows: &RecordBatch, table: &SchemaRef) -> Result<RecordBatch> {
    let internal = |error: arrow::error::ArrowError| Error::internal(error.to_string());
    let mut values: Vec<ArrayRef> = Vec::with_capacity(table.fields().len());
    for field in table.fields() {
        values.push(match rows.column_by_name(field.name()) {
            Some(column) => convert(column, field.data_type()).map_err(internal)?,
            None => new_null_array(field.data_type(), rows.num_rows()),
        });
    }
    RecordBatch::try_new(Arc::clone(table), values).map_err(internal)
}

/// The library's MERGE, which knows deletion vectors, column mapping, constraints and change data.
pub(crate) async fn by_library(
    table: &DeltaTable,
    changes: Changes,
    key: &[String],
    sequence: Option<&str>,
    files: WriterProperties,
    properties: CommitProperties,
) -> Result<DeltaTable, Failed> {
    let columns: Vec<String> = changes.rows.schema().fields().iter().map(|field| field.name().clone()).collect();
    let wins = wins(changes.rows.schema_ref(), key, sequence);
    let session: SessionContext = create_session().into_inner();
    let source = session.read_batch(with_kinds(&changes)?)?;
    let matched = key
        .iter()
        .map(|name| stored(name).eq(given(name)))
        .reduce(Expr::and)
        .ok_or_else(|| Error::internal("a merge without a key"))?;
    let merge = table
        .clone()
        .merge(source, matched)
        .with_source_alias("given")
        .with_target_alias("stored")
        .with_session_state(Arc::new(session.state()))
        .with_writer_properties(files)
        .with_commit_properties(properties)
        .when_matched_delete(|delete| delete.predicate(given(CHANGE).eq(lit(code(Change::Delete)))))?
        .when_matched_update(|update| {
            let always = given(CHANGE).eq(lit(code(Change::Always)));
            columns.iter().fold(update.predicate(always.or(wins)), |update, name| {
                update.update(Column::from_name(name), given(name))
            })
        })?
        .when_not_matched_insert(|insert| {
            let row = insert.predicate(given(CHANGE).not_eq(lit(code(Change::Delete))));
            columns.iter().fold(row, |insert, name| insert.set(Column::from_name(name), given(name)))
        })?;
    let (table, _) = merge.await?;
    Ok(table)
}

fn given(name: &str) -> Expr {
    Expr::Column(Column::new(Some("given"), name))
}

fn stored(name: &str) -> Expr {
    Expr::Column(Column::new(Some("stored"), name))
}

fn code(change: Change) -> i8 {
    match change {
        Change::Greatest => 0,
        Change::Always => 1,
        Change::Delete => 2,
    }
}

fn with_kinds(changes: &Changes) -> Result<RecordBatch> {
    let mut fields: Vec<_> = changes.rows.schema().fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(CHANGE, DataType::Int8, false)));
    let kinds = Int8Array::from_iter_values(changes.kinds.iter().map(|&kind| code(kind)));
    let mut columns = changes.rows.columns().to_vec();
    columns.push(Arc::new(kinds));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(|error| Error::internal(error.to_string()))
}

/// Whether the given row is greater than the stored one: by sequence, then by the rest in name order, NULL greatest.
fn wins(schema: &SchemaRef, key: &[String], sequence: Option<&str>) -> Expr {
    let mut rest: Vec<&str> = schema
        .fields()
        .iter()
        .filter(|field| !field.data_type().is_nested())
        .map(|field| field.name().as_str())
        .filter(|name| Some(*name) != sequence && !key.iter().any(|key| key == name))
        .collect();
    rest.sort_unstable();
    sequence.into_iter().chain(rest).rev().fold(lit(false), |after, name| {
        let greater = given(name).gt(stored(name)).or(given(name).is_null().and(stored(name).is_not_null()));
        let equal = given(name).eq(stored(name)).or(given(name).is_null().and(stored(name).is_null()));
        greater.or(equal.and(after))
    })
}
