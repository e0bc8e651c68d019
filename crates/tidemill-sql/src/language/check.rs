//! [`check_columns`]: whether the clauses of a dataset name columns that it has.
//!
//! **Invariant:** used for declared and for discovered columns alike, so that both are refused in the same words.

use arrow::datatypes::{DataType, Schema, TimeUnit};
use tidemill_model::{Error, Kind, Place, nearest};

use super::model::Dataset;
use super::types::sql_type;

/// One error for each clause of the dataset that does not fit these columns.
#[must_use]
pub(crate) fn check_columns(dataset: &Dataset, schema: &Schema) -> Vec<Error> {
    let mut errors = Vec::new();
    if let Some(clause) = &dataset.watermark {
        match schema.field_with_name(&clause.column) {
            Err(_) => errors.push(no_column(&clause.column, &dataset.name, schema, &clause.place)),
            Ok(field) if !is_time(field.data_type()) => {
                let found = sql_type(field.data_type());
                let error = Error::new(Kind::Plan, "P111", format!("`{}` cannot be an event time", clause.column))
                    .at(&clause.place)
                    .label(format!("it is a {found}"))
                    .fact("an event time is a TIMESTAMP or TIMESTAMPTZ");
                errors.push(error);
            }
            Ok(_) => {}
        }
    }
    for (n, column) in dataset.primary_key.iter().enumerate() {
        let place = dataset.key_places.get(n).unwrap_or(&dataset.place);
        if schema.field_with_name(column).is_err() {
            errors.push(no_column(column, &dataset.name, schema, place));
        } else if dataset.primary_key.iter().take(n).any(|earlier| earlier == column) {
            errors.push(Error::new(Kind::Plan, "P112", format!("`{column}` is in the PRIMARY KEY twice")).at(place));
        }
    }
    errors
}

/// Whether an event time may be of this type.
pub(crate) fn is_time(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Timestamp(TimeUnit::Microsecond, _))
}

/// A column that is not there.
pub(crate) fn no_column(name: &str, of: &str, schema: &Schema, place: &Place) -> Error {
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let mut error = Error::new(Kind::Plan, "P104", format!("no column `{name}` in `{of}`")).at(place);
    if let Some(meant) = nearest(name, names.iter().copied()) {
        error = error.label(format!("did you mean `{meant}`?"));
    }
    error.fact(format!("columns: {}", names.join(", ")))
}
