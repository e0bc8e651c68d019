//! Rows of a query as a table, or as JSON.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use comfy_table::{Cell, CellAlignment, Table, presets};
use serde_json::{Map, Value};
use tidemill_model::{Error, Result};

use super::args::Format;
use super::output::Output;

/// Prints rows in the format asked for.
pub(crate) fn print(schema: &SchemaRef, batches: &[RecordBatch], output: &Output) -> Result<()> {
    match output.format {
        Format::Human => {
            output.line(table(schema, batches)?);
            let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
            output.note(format!("{} row{}.", super::numbers::grouped(rows as u64), if rows == 1 { "" } else { "s" }));
        }
        Format::Json => output.value(&Value::Array(objects(batches)?)),
        Format::Ndjson => objects(batches)?.iter().for_each(|object| output.value(object)),
    }
    Ok(())
}

fn options() -> FormatOptions<'static> {
    FormatOptions::default().with_timestamp_format(Some("%Y-%m-%d %H:%M:%S%.f"))
}

pub(crate) fn table(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<String> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(schema.fields().iter().map(|field| field.name().to_uppercase()));
    let options = options();
    for batch in batches {
        let formatters = formatters(batch, &options)?;
        for row in 0..batch.num_rows() {
            table.add_row(formatters.iter().zip(batch.columns()).map(|(formatter, column)| {
                let text = if column.is_null(row) { "-".to_owned() } else { shown(column, row, formatter) };
                Cell::new(text).set_alignment(if is_number(column.data_type()) {
                    CellAlignment::Right
                } else {
                    CellAlignment::Left
                })
            }));
        }
    }
    Ok(table.trim_fmt())
}

/// Rows as JSON objects: numbers as numbers, decimals and times as text, so that no digit is lost.
pub(crate) fn objects(batches: &[RecordBatch]) -> Result<Vec<Value>> {
    let options = options();
    let mut objects = Vec::new();
    for batch in batches {
        let formatters = formatters(batch, &options)?;
        for row in 0..batch.num_rows() {
            let mut object = Map::new();
            for ((field, column), formatter) in batch.schema().fields().iter().zip(batch.columns()).zip(&formatters) {
                let value = if column.is_null(row) {
                    Value::Null
                } else {
                    json_value(column.data_type(), shown(column, row, formatter))
                };
                object.insert(field.name().clone(), value);
            }
            objects.push(Value::Object(object));
        }
    }
    Ok(objects)
}

/// A value as text; bytes that are text, such as the records of dead letters, as that text.
fn shown(column: &ArrayRef, row: usize, formatter: &ArrayFormatter<'_>) -> String {
    let bytes = column.as_binary_opt::<i32>().map(|bytes| bytes.value(row));
    match bytes.and_then(|bytes| std::str::from_utf8(bytes).ok()) {
        Some(text) => text.to_owned(),
        None => formatter.value(row).to_string(),
    }
}

fn json_value(data_type: &DataType, text: String) -> Value {
    match data_type {
        DataType::Boolean => Value::Bool(text == "true"),
        _ if data_type.is_integer() || data_type.is_floating() => {
            text.parse::<serde_json::Number>().map_or(Value::String(text), Value::Number)
        }
        _ => Value::String(text),
    }
}

fn is_number(data_type: &DataType) -> bool {
    data_type.is_numeric()
}

fn formatters<'a>(batch: &'a RecordBatch, options: &'a FormatOptions<'a>) -> Result<Vec<ArrayFormatter<'a>>> {
    let made = batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), options));
    made.collect::<std::result::Result<_, _>>().map_err(|e| Error::internal("a result cannot be shown").because(e))
}
