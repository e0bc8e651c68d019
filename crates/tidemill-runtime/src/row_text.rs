//! [`RowText`]: reads back the rows that dead letters hold as JSON (see [`crate::row_as_json`]).
//!
//! **Invariant:** a value is either exactly what was written, or its row is answered as one that cannot be read.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryArray, RecordBatch, RecordBatchOptions, StringArray, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use serde_json::{Map, Value};
use tidemill_model::{Error, Result};

use crate::{BadRecord, Decoded, Decoder, Positions, Records};

/// A record that cannot be read back as a row.
const REASON: &str = "unreadable row";

/// Decodes rows of a schema; records must be framed by [`Records::ends`].
#[derive(Debug)]
pub struct RowText {
    schema: SchemaRef,
    /// Which columns a row must tell; the others are NULL where it does not.
    told: Vec<bool>,
}

impl RowText {
    /// For rows of `schema`, of which the columns `read` must be there.
    #[must_use]
    pub fn new(schema: &SchemaRef, read: &[usize]) -> RowText {
        let told: Vec<bool> = (0..schema.fields().len()).map(|column| read.contains(&column)).collect();
        let fields = schema.fields().iter().zip(&told).map(|(field, told)| match told {
            true => field.as_ref().clone(),
            false => field.as_ref().clone().with_nullable(true),
        });
        RowText { schema: Arc::new(Schema::new(fields.collect::<Vec<Field>>())), told }
    }
}

impl Decoder for RowText {
    fn decode(&mut self, records: &Records) -> Result<Decoded> {
        let Some(ends) = &records.ends else { return Err(Error::internal("rows as text are not framed")) };
        let mut faults: Vec<Option<String>> = Vec::with_capacity(ends.len());
        let mut rows: Vec<Map<String, Value>> = Vec::with_capacity(ends.len());
        let starts = std::iter::once(0).chain(ends.iter().copied());
        for (start, end) in starts.zip(ends) {
            let record = records.data.slice(start as usize..*end as usize);
            match serde_json::from_slice::<Map<String, Value>>(&record) {
                Ok(row) => {
                    faults.push(None);
                    rows.push(row);
                }
                Err(error) => {
                    faults.push(Some(format!("it is no JSON object: {error}")));
                    rows.push(Map::new());
                }
            }
        }
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        for (field, told) in self.schema.fields().iter().zip(&self.told) {
            columns.push(column(field, *told, &rows, &mut faults)?);
        }
        let good: Vec<u32> = (0..).zip(&faults).filter(|(_, fault)| fault.is_none()).map(|(row, _)| row).collect();
        let bad = (0_u32..).zip(faults).filter_map(|(ordinal, fault)| {
            let position = match records.positions {
                Positions::Numbered(first) => first + u64::from(ordinal),
                Positions::Bytes(first) => first + start_of(ends, ordinal) as u64,
            };
            let raw = records.data.slice(start_of(ends, ordinal)..*ends.get(ordinal as usize)? as usize);
            let raw = Bytes::copy_from_slice(&raw);
            fault.map(|detail| BadRecord { ordinal, position, raw, reason: REASON.to_owned(), detail })
        });
        let bad = bad.collect();
        let kept = arrow::array::UInt32Array::from(good.clone());
        let broken = |e: arrow::error::ArrowError| Error::internal("rows as text do not make a batch").because(e);
        let columns = columns.iter().map(|column| arrow::compute::take(column, &kept, None)).collect::<Result<_, _>>();
        let options = RecordBatchOptions::new().with_row_count(Some(good.len()));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns.map_err(broken)?, &options);
        Ok(Decoded { batch: batch.map_err(broken)?, weights: None, ordinals: Some(good), bad })
    }
}

fn start_of(ends: &[u32], ordinal: u32) -> usize {
    match ordinal {
        0 => 0,
        after => ends.get(after as usize - 1).map_or(0, |end| *end as usize),
    }
}

/// A column of all rows; what cannot be read of a row becomes its fault.
fn column(field: &Field, told: bool, rows: &[Map<String, Value>], faults: &mut [Option<String>]) -> Result<ArrayRef> {
    let name = field.name();
    let mut texts: Vec<Option<String>> = Vec::with_capacity(rows.len());
    for (row, fault) in rows.iter().zip(faults.iter_mut()) {
        let text = match row.get(name) {
            Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text.clone()),
            // Who corrects a row by hand writes numbers as numbers.
            Some(Value::Number(number)) => Some(number.to_string()),
            Some(Value::Bool(bit)) => Some(bit.to_string()),
            Some(_) => {
                fault.get_or_insert_with(|| format!("{name} is no single value"));
                None
            }
            None if told => {
                fault.get_or_insert_with(|| format!("it does not tell {name}, which is read now"));
                None
            }
            None => None,
        };
        if text.is_none() && !field.is_nullable() {
            fault.get_or_insert_with(|| format!("{name} is NULL"));
        }
        texts.push(text);
    }
    let read = read_back(&texts, field.data_type())?;
    for ((text, fault), row) in texts.iter().zip(faults.iter_mut()).zip(0..) {
        if let (Some(text), false) = (text, read.is_valid(row)) {
            fault.get_or_insert_with(|| format!("{name} cannot be read as {} from `{text}`", field.data_type()));
        }
    }
    Ok(read)
}

/// Texts as values of a type, NULL where one cannot be read.
fn read_back(texts: &[Option<String>], data_type: &DataType) -> Result<ArrayRef> {
    match data_type {
        DataType::Utf8 => Ok(Arc::new(StringArray::from_iter(texts.iter().map(Option::as_deref)))),
        // Bytes are shown in hexadecimal.
        DataType::Binary => {
            let bytes = texts.iter().map(|text| text.as_deref().and_then(bytes_of_hex));
            Ok(Arc::new(BinaryArray::from_iter(bytes)))
        }
        simple if is_shown_as_read(simple) => {
            let texts = StringArray::from_iter(texts.iter().map(Option::as_deref));
            let options = CastOptions { safe: true, ..CastOptions::default() };
            cast_with_options(&texts, simple, &options)
                .map_err(|e| Error::internal(format!("text cannot be read as {simple}")).because(e))
        }
        // Lists and structs are shown for people only.
        other => Ok(new_null_array(other, texts.len())),
    }
}

fn is_shown_as_read(data_type: &DataType) -> bool {
    let is_time = matches!(data_type, DataType::Timestamp(..) | DataType::Date32);
    data_type.is_integer()
        || data_type.is_floating()
        || data_type.is_decimal()
        || is_time
        || *data_type == DataType::Boolean
}

fn bytes_of_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, TimestampMicrosecondArray,
    };
    use arrow::datatypes::Int64Type;

    use super::*;
    use crate::row_as_json;

    fn framed(rows: &[String]) -> Records {
        let mut ends = Vec::new();
        let mut data = String::new();
        for row in rows {
            data.push_str(row);
            ends.push(data.len() as u32);
        }
        Records { data: Bytes::from(data), ends: Some(ends), positions: Positions::Numbered(10) }
    }

    #[test]
    fn a_row_comes_back_as_it_was() {
        let money = Decimal128Array::from(vec![Some(-1250), None]).with_precision_and_scale(38, 2).expect("fits");
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("n", Arc::new(Int64Array::from(vec![Some(i64::MIN), None]))),
            ("x", Arc::new(Float64Array::from(vec![Some(0.1 + 0.2), Some(f64::NEG_INFINITY)]))),
            ("money", Arc::new(money)),
            ("at", Arc::new(TimestampMicrosecondArray::from(vec![Some(1_767_225_600_000_001), Some(-1)]))),
            ("zoned", Arc::new(TimestampMicrosecondArray::from(vec![Some(7), None]).with_timezone("UTC"))),
            ("day", Arc::new(Date32Array::from(vec![Some(20_454), None]))),
            ("is", Arc::new(BooleanArray::from(vec![Some(false), None]))),
            ("text", Arc::new(StringArray::from(vec![Some("a\"\\\n é"), Some("")]))),
            ("bytes", Arc::new(BinaryArray::from_opt_vec(vec![Some(&[0, 255, 16]), None]))),
        ];
        let rows = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true)));
        let rows = rows.expect("a batch");
        let all: Vec<usize> = (0..rows.num_columns()).collect();
        let texts: Vec<String> = (0..rows.num_rows()).map(|row| row_as_json(&rows, row)).collect();
        let decoded = RowText::new(&rows.schema(), &all).decode(&framed(&texts)).expect("decodes");
        assert!(decoded.bad.is_empty(), "{:?}", decoded.bad);
        assert_eq!(decoded.batch, rows);
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let list = DataType::List(Arc::new(Field::new("item", DataType::Int64, true)));
        let fields = vec![
            Field::new("n", DataType::Int64, false),
            Field::new("unread", DataType::Utf8, false),
            Field::new("list", list, true),
        ];
        let schema = Arc::new(Schema::new(fields));
        let rows = [
            (r#"{"n":"7","list":null}"#, None),
            (r#"{"n":8,"list":null,"more":[1]}"#, None),
            (r#"{"n":"x","list":null}"#, Some("n cannot be read as Int64 from `x`")),
            (r#"{"n":null,"list":null}"#, Some("n is NULL")),
            (r#"{"list":null}"#, Some("it does not tell n, which is read now")),
            (r#"{"n":[7],"list":null}"#, Some("n is no single value")),
            (r#"{"n":"7","list":"[1]"}"#, Some("list cannot be read as List")),
            ("7", Some("it is no JSON object")),
        ];
        let texts: Vec<String> = rows.iter().map(|(text, _)| (*text).to_owned()).collect();
        let decoded = RowText::new(&schema, &[0, 2]).decode(&framed(&texts)).expect("decodes");
        let kept: Vec<i64> =
            arrow::array::AsArray::as_primitive::<Int64Type>(decoded.batch.column(0)).values().to_vec();
        assert_eq!((kept, decoded.ordinals), (vec![7, 8], Some(vec![0, 1])));
        let wrong: Vec<_> =
            rows.iter().enumerate().filter_map(|(row, (text, fault))| Some((row, text, (*fault)?))).collect();
        assert_eq!(decoded.bad.len(), wrong.len());
        for (bad, (row, text, fault)) in decoded.bad.iter().zip(wrong) {
            assert!(bad.detail.starts_with(fault), "{bad:?}");
            assert_eq!((bad.position, bad.raw.as_ref()), (10 + row as u64, text.as_bytes()));
        }
    }
}
