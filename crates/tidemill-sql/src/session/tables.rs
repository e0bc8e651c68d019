//! [`SchemaOnly`]: a table that can be planned over but not read.
//!
//! **Invariant:** planning touches no connector: names and types are all that it needs.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::logical_expr::TableSource;

use crate::language::Dataset;

/// A table known by its columns alone.
#[derive(Debug)]
pub struct SchemaOnly(pub SchemaRef);

impl TableSource for SchemaOnly {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.0)
    }
}

/// The columns of a dataset's accepted rows: those of `schema`, where the event time is never NULL because rows
/// without one do not pass the gate.
#[must_use]
pub fn accepted_schema(dataset: &Dataset, schema: &SchemaRef) -> SchemaRef {
    let Some(watermark) = &dataset.watermark else { return Arc::clone(schema) };
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .map(|field| {
            let field = field.as_ref().clone();
            if field.name() == &watermark.column { field.with_nullable(false) } else { field }
        })
        .collect();
    Arc::new(Schema::new(fields))
}
