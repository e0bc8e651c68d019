//! How Arrow types become Delta types: [`stored_schema`], [`store`] and the check that a table [`fits`].
//!
//! **Invariant:** a conversion here never loses a value silently: it widens, it floors a time to microseconds (the
//! unit of the engine), or it is refused.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{
    DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType, TimestampNanosecondType,
};
use tidemill_model::{Error, Kind, Result};

/// Times as Delta keeps them: instants in UTC.
pub(crate) fn instant() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// The columns as a new table stores them.
///
/// # Errors
/// Config: a column's type has no counterpart in Delta.
pub(crate) fn stored_schema(schema: &Schema) -> Result<SchemaRef> {
    let mut fields = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let stored = stored_type(field.data_type()).ok_or_else(|| {
            Error::new(
                Kind::Config,
                "C220",
                format!(
                    "column `{}` has the type {}, which a Delta table cannot hold",
                    field.name(),
                    field.data_type()
                ),
            )
            .fact("cast it to another type in the query")
        })?;
        fields.push(Field::new(field.name(), stored, field.is_nullable()));
    }
    Ok(Arc::new(Schema::new(fields)))
}

fn stored_type(of: &DataType) -> Option<DataType> {
    Some(match of {
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Utf8
        | DataType::Binary
        | DataType::Date32 => of.clone(),
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 => DataType::Int64,
        DataType::UInt64 => DataType::Decimal128(20, 0),
        DataType::Float16 => DataType::Float32,
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Timestamp(_, _) => instant(),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
            if *scale >= 0 =>
        {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::Dictionary(_, values) => stored_type(values)?,
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => {
            DataType::List(Arc::new(Field::new("element", stored_type(item.data_type())?, item.is_nullable())))
        }
        DataType::Struct(fields) => DataType::Struct(stored_fields(fields)?),
        DataType::Map(entries, sorted) => {
            let DataType::Struct(pair) = entries.data_type() else { return None };
            let [key, value] = pair.iter().collect::<Vec<_>>()[..] else { return None };
            let pair = Fields::from(vec![
                Field::new("key", stored_type(key.data_type())?, false),
                Field::new("value", stored_type(value.data_type())?, value.is_nullable()),
            ]);
            DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(pair), false)), *sorted)
        }
        _ => return None,
    })
}

fn stored_fields(fields: &Fields) -> Option<Fields> {
    fields
        .iter()
        .map(|field| Some(Field::new(field.name(), stored_type(field.data_type())?, field.is_nullable())))
        .collect()
}

/// Checks that rows of `target` can be written into a table of `table`, and answers the types to write, in the order
/// of the target.
///
/// # Errors
/// Config, one for each column that is missing on either side or has a type that would lose values.
pub(crate) fn fits(shown: &str, target: &Schema, table: &Schema) -> Result<SchemaRef> {
    let stored = stored_schema(target)?;
    let mut errors = Vec::new();
    let mut fields: Vec<FieldRef> = Vec::with_capacity(stored.fields().len());
    for (wanted, field) in target.fields().iter().zip(stored.fields()) {
        match table.field_with_name(field.name()) {
            Ok(existing) if widens(field.data_type(), existing.data_type()) => {
                fields.push(Arc::new(Field::new(field.name(), existing.data_type().clone(), field.is_nullable())));
            }
            Ok(existing) => errors.push(
                clash(format!(
                    "column `{}` is {} in the query and {} in the Delta table {shown}",
                    field.name(),
                    wanted.data_type(),
                    existing.data_type(),
                ))
                .fact("cast it in the query, or write to another table"),
            ),
            Err(_) => errors.push(absent(shown, field.name(), table)),
        }
    }
    for column in table.fields() {
        if !column.is_nullable() && target.field_with_name(column.name()).is_err() {
            errors.push(
                clash(format!("the Delta table {shown} needs a value for column `{}`", column.name()))
                    .fact("add the column to the query: it is NOT NULL in the table"),
            );
        }
    }
    match Error::all(errors) {
        Some(error) => Err(error),
        None => Ok(Arc::new(Schema::new(fields))),
    }
}

fn absent(shown: &str, name: &str, table: &Schema) -> Error {
    let error = clash(format!("the Delta table {shown} has no column `{name}`"));
    match table.fields().iter().find(|field| field.name().eq_ignore_ascii_case(name)) {
        Some(other) => error.label(format!("did you mean `{}`?", other.name())),
        None => error,
    }
    .fact("leave the column out, or write to another table: columns are not added to an existing one")
}

fn clash(message: String) -> Error {
    Error::new(Kind::Config, "C221", message)
}

/// Whether every value of `from` is one of `to`.
fn widens(from: &DataType, to: &DataType) -> bool {
    use DataType::{Decimal128, Float32, Float64, Int8, Int16, Int32, Int64, List, Map, Struct, Timestamp};
    match (from, to) {
        (Int8, Int16 | Int32 | Int64 | Float32 | Float64)
        | (Int16, Int32 | Int64 | Float32 | Float64)
        | (Int32, Int64 | Float64)
        | (Float32, Float64) => true,
        // Both kinds of timestamp are the same instant to the engine.
        (Timestamp(_, _), Timestamp(TimeUnit::Microsecond, _)) => true,
        (Decimal128(p, s), Decimal128(to_p, to_s)) => {
            to_s >= s && i16::from(*to_p) - i16::from(*to_s) >= i16::from(*p) - i16::from(*s)
        }
        (List(from), List(to)) => widens(from.data_type(), to.data_type()) && (to.is_nullable() || !from.is_nullable()),
        (Struct(from), Struct(to)) => {
            from.len() == to.len()
                && from.iter().zip(to).all(|(from, to)| {
                    from.name() == to.name()
                        && widens(from.data_type(), to.data_type())
                        && (to.is_nullable() || !from.is_nullable())
                })
        }
        (Map(from, _), Map(to, _)) => match (from.data_type(), to.data_type()) {
            (Struct(from), Struct(to)) if from.len() == to.len() => {
                from.iter().zip(to).all(|(from, to)| widens(from.data_type(), to.data_type()))
            }
            _ => false,
        },
        (from, to) => from == to,
    }
}

/// The rows with the types of `stored`, column by position.
///
/// # Errors
/// Data: a value does not fit, or a NULL stands in a NOT NULL column.
pub(crate) fn store(rows: &RecordBatch, stored: &SchemaRef) -> Result<RecordBatch> {
    let mut columns = Vec::with_capacity(rows.num_columns());
    for (column, field) in rows.columns().iter().zip(stored.fields()) {
        if !field.is_nullable() && column.logical_null_count() > 0 {
            return Err(Error::new(
                Kind::Data,
                "D220",
                format!("column `{}` is NOT NULL, and a row has NULL there", field.name()),
            )
            .fact("filter such rows out in the query, or declare the column without NOT NULL"));
        }
        columns.push(convert(column, field.data_type()).map_err(|error| {
            Error::new(
                Kind::Data,
                "D221",
                format!("a value of column `{}` does not fit into {}: {error}", field.name(), field.data_type()),
            )
            .because(error)
        })?);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(stored), columns, &options)
        .map_err(|error| Error::internal(format!("rows do not have the columns of their target: {error}")))
}

/// The values as another type; times are floored to microseconds and reinterpreted as UTC without looking at each.
pub(crate) fn convert(column: &ArrayRef, to: &DataType) -> std::result::Result<ArrayRef, arrow::error::ArrowError> {
    if column.data_type() == to {
        return Ok(Arc::clone(column));
    }
    if let DataType::Timestamp(TimeUnit::Microsecond, zone) = to {
        let micros = match column.data_type() {
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                Some(column.as_primitive::<TimestampMicrosecondType>().clone())
            }
            DataType::Timestamp(TimeUnit::Nanosecond, _) => Some(
                column
                    .as_primitive::<TimestampNanosecondType>()
                    .unary::<_, TimestampMicrosecondType>(|nanos| nanos.div_euclid(1000)),
            ),
            DataType::Timestamp(_, _) => {
                let widened = DataType::Timestamp(TimeUnit::Microsecond, None);
                let bare = column.data_type().clone();
                // Dropping the zone first keeps the instant: the values are UTC already.
                let unzoned = match bare {
                    DataType::Timestamp(unit, Some(_)) => strict(column, &DataType::Timestamp(unit, None))?,
                    _ => Arc::clone(column),
                };
                Some(strict(&unzoned, &widened)?.as_primitive::<TimestampMicrosecondType>().clone())
            }
            _ => None,
        };
        if let Some(micros) = micros {
            return Ok(Arc::new(micros.with_timezone_opt(zone.clone())));
        }
    }
    strict(column, to)
}

fn strict(column: &ArrayRef, to: &DataType) -> std::result::Result<ArrayRef, arrow::error::ArrowError> {
    cast_with_options(column, to, &CastOptions { safe: false, ..CastOptions::default() })
}

/// The columns of a table as the engine declares them when the user declared none.
pub(crate) fn presented_schema(table: &Schema) -> SchemaRef {
    let fields: Vec<Field> = table
        .fields()
        .iter()
        .map(|field| Field::new(field.name(), field.data_type().clone(), field.is_nullable()))
        .collect();
    Arc::new(Schema::new(fields))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int32Array, TimestampMicrosecondArray, TimestampNanosecondArray, UInt64Array};

    use super::*;

    fn schema(name: &str, data_type: DataType, nullable: bool) -> Schema {
        Schema::new(vec![Field::new(name, data_type, nullable)])
    }

    #[test]
    fn times_become_instants_floored_to_microseconds() {
        let column: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![Some(-1), Some(1999), None]));
        let stored = convert(&column, &instant()).expect("converts");
        let expected = TimestampMicrosecondArray::from(vec![Some(-1), Some(1), None]).with_timezone("UTC");
        assert_eq!(stored.as_primitive::<TimestampMicrosecondType>(), &expected);
    }

    #[test]
    fn a_clash_names_the_column_and_both_types() {
        let error =
            fits("out", &schema("n", DataType::Utf8, true), &schema("n", DataType::Int64, true)).expect_err("refused");
        assert_eq!(error.kind(), Kind::Config);
        assert_eq!(error.message(), "column `n` is Utf8 in the query and Int64 in the Delta table out");
        let error =
            fits("out", &schema("N", DataType::Int64, true), &schema("n", DataType::Int64, true)).expect_err("refused");
        assert_eq!(error.caret_label(), "did you mean `n`?");
    }

    #[test]
    fn widening_is_accepted_and_narrowing_is_not() {
        assert!(widens(&DataType::Int32, &DataType::Int64));
        assert!(!widens(&DataType::Int64, &DataType::Int32));
        assert!(!widens(&DataType::Int64, &DataType::Float64));
        assert!(widens(&DataType::Decimal128(10, 2), &DataType::Decimal128(12, 3)));
        assert!(!widens(&DataType::Decimal128(10, 2), &DataType::Decimal128(10, 3)));
    }

    #[test]
    fn nulls_in_required_columns_and_types_without_counterpart_are_refused() {
        let stored = stored_schema(&schema("n", DataType::Int32, false)).expect("stored");
        let rows = RecordBatch::try_new(
            Arc::new(schema("n", DataType::Int32, true)),
            vec![Arc::new(Int32Array::from(vec![Some(1), None]))],
        )
        .expect("rows");
        assert_eq!(store(&rows, &stored).expect_err("refused").kind(), Kind::Data);
        let error = stored_schema(&schema("d", DataType::Duration(TimeUnit::Second), true)).expect_err("refused");
        assert!(error.message().contains("column `d`"), "{error}");
    }

    #[test]
    fn unsigned_values_keep_their_range() {
        let column: ArrayRef = Arc::new(UInt64Array::from(vec![u64::MAX]));
        let stored = stored_type(column.data_type()).expect("has one");
        let converted = convert(&column, &stored).expect("converts");
        assert_eq!(converted.as_primitive::<arrow::datatypes::Decimal128Type>().value(0), i128::from(u64::MAX));
    }
}
