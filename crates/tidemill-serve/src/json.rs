//! [`JsonRows`]: rows as JSON objects, in the one form that queries, the server and written records share.
//!
//! Numbers are JSON numbers, decimals with all their digits; times are RFC 3339 in UTC with `Z`, and a fraction only
//! when there is one; bytes that are text are that text; lists and structs are arrays and objects. What JSON has no
//! number for (NaN, infinities) is text.
//!
//! **Invariant:** no digit is lost: a reader that reads numbers as decimals has exactly what the table has.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StructArray};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Float32Type, Float64Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use tidemill_model::{Error, Result};

const OPTIONS: FormatOptions<'static> = FormatOptions::new().with_timestamp_format(Some("%Y-%m-%dT%H:%M:%S%.fZ"));

/// The rows of a batch, to be written one by one.
pub struct JsonRows {
    names: Vec<String>,
    columns: Vec<ArrayRef>,
    rows: usize,
}

impl JsonRows {
    /// The rows of this batch.
    ///
    /// # Errors
    /// Internal, for a column of a type that cannot be shown.
    pub fn of(batch: &RecordBatch) -> Result<JsonRows> {
        let schema = batch.schema();
        let names = schema.fields().iter().map(|field| quoted(field.name())).collect();
        let columns = batch.columns().iter().map(plain).collect::<std::result::Result<_, _>>().map_err(unshown)?;
        Ok(JsonRows { names, columns, rows: batch.num_rows() })
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Appends row `row` as an object. `more` are members behind those of the columns: a name and its JSON.
    ///
    /// # Errors
    /// Internal, for a value that cannot be shown.
    pub fn put(&self, row: usize, more: &[(&str, &str)], out: &mut String) -> Result<()> {
        out.push('{');
        for (at, (name, column)) in self.names.iter().zip(&self.columns).enumerate() {
            if at > 0 {
                out.push(',');
            }
            out.push_str(name);
            out.push(':');
            value(column.as_ref(), row, out).map_err(unshown)?;
        }
        for (name, json) in more {
            if self.names.iter().any(|column| *column == quoted(name)) {
                continue;
            }
            if !out.ends_with('{') {
                out.push(',');
            }
            out.push_str(&quoted(name));
            out.push(':');
            out.push_str(json);
        }
        out.push('}');
        Ok(())
    }
}

fn unshown(error: ArrowError) -> Error {
    Error::internal("a value cannot be shown as JSON").because(error)
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The column with dictionaries unfolded and times in UTC, at every depth.
fn plain(column: &ArrayRef) -> std::result::Result<ArrayRef, ArrowError> {
    Ok(match column.data_type() {
        DataType::Dictionary(_, values) => plain(&cast(column, values)?)?,
        DataType::Timestamp(unit, Some(_)) => match unit {
            TimeUnit::Second => {
                Arc::new(column.as_primitive::<TimestampSecondType>().clone().with_timezone_opt(None::<Arc<str>>))
            }
            TimeUnit::Millisecond => {
                Arc::new(column.as_primitive::<TimestampMillisecondType>().clone().with_timezone_opt(None::<Arc<str>>))
            }
            TimeUnit::Microsecond => {
                Arc::new(column.as_primitive::<TimestampMicrosecondType>().clone().with_timezone_opt(None::<Arc<str>>))
            }
            TimeUnit::Nanosecond => {
                Arc::new(column.as_primitive::<TimestampNanosecondType>().clone().with_timezone_opt(None::<Arc<str>>))
            }
        },
        _ => Arc::clone(column),
    })
}

/// Appends one value.
fn value(column: &dyn Array, row: usize, out: &mut String) -> std::result::Result<(), ArrowError> {
    if column.is_null(row) {
        out.push_str("null");
        return Ok(());
    }
    match column.data_type() {
        DataType::List(_) => list(&column.as_list::<i32>().value(row), out),
        DataType::LargeList(_) => list(&column.as_list::<i64>().value(row), out),
        DataType::FixedSizeList(..) => list(&column.as_fixed_size_list().value(row), out),
        DataType::Struct(_) => structure(column.as_struct(), row, out),
        data_type => {
            let text = shown(column, row)?;
            if is_json(data_type, &text) {
                out.push_str(&text)
            } else {
                out.push_str(&quoted(&text))
            }
            Ok(())
        }
    }
}

/// The value as text; bytes that are text, such as the records of dead letters, as that text.
fn shown(column: &dyn Array, row: usize) -> std::result::Result<String, ArrowError> {
    let finite = match column.data_type() {
        DataType::Float32 => Some(column.as_primitive::<Float32Type>().value(row)).filter(|x| x.is_finite()).map(json),
        DataType::Float64 => Some(column.as_primitive::<Float64Type>().value(row)).filter(|x| x.is_finite()).map(json),
        _ => None,
    };
    if let Some(Ok(number)) = finite {
        return Ok(number);
    }
    let bytes = match column.data_type() {
        DataType::Utf8 => return Ok(column.as_string::<i32>().value(row).to_owned()),
        DataType::Utf8View => return Ok(column.as_string_view().value(row).to_owned()),
        DataType::LargeUtf8 => return Ok(column.as_string::<i64>().value(row).to_owned()),
        DataType::Binary => Some(column.as_binary::<i32>().value(row)),
        DataType::LargeBinary => Some(column.as_binary::<i64>().value(row)),
        DataType::BinaryView => Some(column.as_binary_view().value(row)),
        _ => None,
    };
    match bytes.and_then(|bytes| std::str::from_utf8(bytes).ok()) {
        Some(text) => Ok(text.to_owned()),
        None => ArrayFormatter::try_new(column, &OPTIONS)?.value(row).try_to_string(),
    }
}

fn json<T: serde::Serialize>(value: T) -> serde_json::Result<String> {
    serde_json::to_string(&value)
}

/// Whether the text of a value is JSON as it stands.
fn is_json(data_type: &DataType, text: &str) -> bool {
    match data_type {
        DataType::Boolean => true,
        _ if data_type.is_floating() => !text.ends_with(['N', 'f']),
        _ => data_type.is_numeric(),
    }
}

fn list(values: &ArrayRef, out: &mut String) -> std::result::Result<(), ArrowError> {
    let values = plain(values)?;
    out.push('[');
    for at in 0..values.len() {
        if at > 0 {
            out.push(',');
        }
        value(values.as_ref(), at, out)?;
    }
    out.push(']');
    Ok(())
}

fn structure(parts: &StructArray, row: usize, out: &mut String) -> std::result::Result<(), ArrowError> {
    out.push('{');
    for (at, (field, part)) in parts.fields().iter().zip(parts.columns()).enumerate() {
        if at > 0 {
            out.push(',');
        }
        out.push_str(&quoted(field.name()));
        out.push(':');
        value(plain(part)?.as_ref(), row, out)?;
    }
    out.push('}');
    Ok(())
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, ListArray, StringArray,
        TimestampMicrosecondArray,
    };
    use arrow::datatypes::Int64Type;

    use super::*;

    fn rows(columns: Vec<(&str, ArrayRef)>) -> Vec<String> {
        let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true)));
        let rows = JsonRows::of(&batch.expect("a batch")).expect("rows");
        let line = |row| {
            let mut out = String::new();
            rows.put(row, &[("provisional", "true"), ("n", "0")], &mut out).expect("written");
            let _: serde_json::Value = serde_json::from_str(&out).expect("JSON");
            out
        };
        (0..rows.len()).map(line).collect()
    }

    #[test]
    fn every_type_has_one_form() {
        let decimals = Decimal128Array::from(vec![Some(1_250), None]).with_precision_and_scale(38, 2).expect("fits");
        let times = TimestampMicrosecondArray::from(vec![1_767_225_600_000_000, 1_767_225_600_500_000]);
        let list = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None]), None]);
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("n", Arc::new(Int64Array::from(vec![i64::MAX, -1]))),
            ("money", Arc::new(decimals)),
            ("at", Arc::new(times.clone())),
            ("zoned", Arc::new(times.with_timezone("+02:00"))),
            ("day", Arc::new(Date32Array::from(vec![20_454, 0]))),
            ("x", Arc::new(Float64Array::from(vec![12.5, f64::NAN]))),
            ("y", Arc::new(Float64Array::from(vec![1e300, f64::NEG_INFINITY]))),
            ("is", Arc::new(BooleanArray::from(vec![true, false]))),
            ("text", Arc::new(StringArray::from(vec!["a\"b\n", ""]))),
            ("raw", Arc::new(BinaryArray::from(vec![&b"{}"[..], &[0xff, 0]]))),
            ("list", Arc::new(list)),
        ];
        assert_eq!(
            rows(columns),
            [
                "{\"n\":9223372036854775807,\"money\":12.50,\"at\":\"2026-01-01T00:00:00Z\",\"zoned\":\"2026-01-01T00:00:00Z\",\
                 \"day\":\"2026-01-01\",\"x\":12.5,\"y\":1e+300,\"is\":true,\"text\":\"a\\\"b\\n\",\"raw\":\"{}\",\"list\":[1,null],\
                 \"provisional\":true}",
                "{\"n\":-1,\"money\":null,\"at\":\"2026-01-01T00:00:00.500Z\",\"zoned\":\"2026-01-01T00:00:00.500Z\",\
                 \"day\":\"1970-01-01\",\"x\":\"NaN\",\"y\":\"-inf\",\"is\":false,\"text\":\"\",\"raw\":\"ff00\",\"list\":null,\
                 \"provisional\":true}",
            ]
        );
    }
}
