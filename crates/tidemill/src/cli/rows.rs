//! Rows of a query as a table, or as JSON.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use tidemill_model::{Error, Result};
use tidemill_serve::JsonRows;

use super::args::Format;
use super::grid::Grid;
use super::numbers::counted;
use super::output::Output;

/// Prints rows in the format asked for.
pub(crate) fn print(schema: &SchemaRef, batches: &[RecordBatch], output: &Output) -> Result<()> {
    match output.format {
        Format::Human => {
            output.grid(&grid(schema, batches)?);
            let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
            output.note(format!("{}.", counted(rows as u64, "row")));
        }
        Format::Json => {
            let rows: Vec<String> = objects(batches)?.into_iter().map(|row| format!("  {row}")).collect();
            output.line(if rows.is_empty() { "[]".to_owned() } else { format!("[\n{}\n]", rows.join(",\n")) });
        }
        Format::Ndjson => objects(batches)?.iter().for_each(|row| output.line(row)),
    }
    Ok(())
}

/// Rows as a table.
pub(crate) fn grid(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Grid> {
    let of = |wanted: fn(&DataType) -> bool| {
        schema.fields().iter().enumerate().filter(move |(_, field)| wanted(field.data_type())).map(|(at, _)| at)
    };
    let mut grid = Grid::new(schema.fields().iter().map(|field| field.name().to_uppercase()))
        .numbers(of(DataType::is_numeric))
        .whole(of(DataType::is_temporal));
    let options = FormatOptions::default().with_timestamp_format(Some("%Y-%m-%d %H:%M:%S%.f"));
    for batch in batches {
        let formatters = batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options));
        let formatters: Vec<_> = formatters
            .collect::<std::result::Result<_, _>>()
            .map_err(|e| Error::internal("a result cannot be shown").because(e))?;
        for row in 0..batch.num_rows() {
            grid.row(formatters.iter().zip(batch.columns()).map(|(formatter, column)| shown(column, row, formatter)));
        }
    }
    Ok(grid)
}

/// A value as text; bytes that are text, such as the records of dead letters, as that text.
fn shown(column: &ArrayRef, row: usize, formatter: &ArrayFormatter<'_>) -> String {
    if column.is_null(row) {
        return "-".to_owned();
    }
    let bytes = column.as_binary_opt::<i32>().map(|bytes| bytes.value(row));
    match bytes.and_then(|bytes| std::str::from_utf8(bytes).ok()) {
        Some(text) => text.to_owned(),
        None => formatter.value(row).to_string(),
    }
}

/// Each row as a JSON object in one line.
fn objects(batches: &[RecordBatch]) -> Result<Vec<String>> {
    let mut objects = Vec::new();
    for batch in batches {
        let rows = JsonRows::of(batch)?;
        for row in 0..rows.len() {
            let mut object = String::new();
            rows.put(row, &[], &mut object)?;
            objects.push(object);
        }
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray,
    };
    use arrow::datatypes::Schema;
    use tidemill_model::Settings;

    use super::*;

    /// What a query answers, what the server answers and what is written to files and topics is one form.
    #[test]
    fn a_row_is_written_as_the_json_format_writes_it() {
        let decimals = Decimal128Array::from(vec![Some(1_250), Some(-5), None]).with_precision_and_scale(38, 2);
        let times = [1_767_225_600_000_000, 1_767_225_600_500_000, 1_767_225_600_000_001];
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("n", Arc::new(Int64Array::from(vec![i64::MAX, i64::MIN, 0]))),
            ("money", Arc::new(decimals.expect("fits"))),
            ("at", Arc::new(TimestampMicrosecondArray::from(times.to_vec()))),
            ("zoned", Arc::new(TimestampMicrosecondArray::from(times.to_vec()).with_timezone("UTC"))),
            ("day", Arc::new(Date32Array::from(vec![Some(20_454), Some(0), None]))),
            ("x", Arc::new(Float64Array::from(vec![12.5, -0.1, 1e21]))),
            ("is", Arc::new(BooleanArray::from(vec![Some(true), Some(false), None]))),
            ("text", Arc::new(StringArray::from(vec!["a\"b\\\n", "é", ""]))),
        ];
        let fields =
            columns.iter().map(|(name, column)| arrow::datatypes::Field::new(*name, column.data_type().clone(), true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns.into_iter().map(|(_, column)| column).collect());
        let batch = batch.expect("a batch");
        let format = tidemill_connect::format("json", &Settings::default(), &schema).expect("a format");
        let mut written = Vec::new();
        format.encoder(schema).expect("an encoder").encode(&batch, &mut written, None).expect("encodes");
        let written = String::from_utf8(written).expect("text");
        assert_eq!(objects(&[batch]).expect("rows"), written.lines().collect::<Vec<_>>());
    }
}
