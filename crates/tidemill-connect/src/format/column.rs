//! [`Column`]: one column under construction, and [`Cells`], its values by type.
//!
//! **Invariant:** after each record every column holds one entry more, or, when the record is bad, exactly what it
//! held before: [`Column::truncate`] undoes a record.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int8Array, Int16Array,
    Int32Array, Int64Array, LargeStringArray, PrimitiveArray, RecordBatch, RecordBatchOptions, StringArray,
    StringViewArray, TimestampMicrosecondArray, UInt8Array, UInt16Array, UInt32Array, UInt64Array,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{ArrowPrimitiveType, DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use tidemill_model::{Error, Kind, Result};

use super::TimeFormat;
use super::number::{Scale, float, integer, load};
use super::time::{FIRST, LAST, Today, date, instant};

/// The values of a column; a null has an entry too.
#[derive(Debug)]
pub(crate) enum Cells {
    Boolean(Vec<bool>),
    Int8(Vec<i8>),
    Int16(Vec<i16>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    UInt8(Vec<u8>),
    UInt16(Vec<u16>),
    UInt32(Vec<u32>),
    UInt64(Vec<u64>),
    Float32(Vec<f32>),
    Float64(Vec<f64>),
    Text(Text),
    Decimal(Vec<i128>, Scale),
    Date(Vec<i32>),
    Instant(Vec<i64>, Today),
    /// Instants that are written as numbers since 1970; the scale brings them to microseconds.
    Epoch(Vec<i64>, Scale),
}

impl Cells {
    /// Appends the value that stands at `at` without quotes: a number, `true` or `false`, a day, a time; answers where
    /// it ends. `None` when it is not of this type; a part of it may then have been appended. What follows it is for
    /// the caller to check. Text has no end of its own: `None`.
    #[inline]
    pub(crate) fn push_bare(&mut self, bytes: &[u8], at: usize) -> Option<usize> {
        macro_rules! push {
            ($values:ident, $read:expr) => {{
                let (value, end) = $read?;
                $values.push(value);
                Some(end)
            }};
        }
        match self {
            Cells::Int64(v) => push!(v, integer(bytes, at)),
            Cells::Float64(v) => push!(v, float(bytes, at)),
            Cells::Instant(v, today) => push!(v, instant(bytes, at, today)),
            Cells::Decimal(v, scale) => push!(v, scale.read(bytes, at)),
            Cells::Date(v) => push!(v, date(bytes, at).map(|day| (day, at + 10))),
            Cells::Epoch(v, scale) => push!(v, scale.read(bytes, at).and_then(|(n, end)| Some((in_range(n)?, end)))),
            Cells::Boolean(v) => {
                let word = load(bytes, at);
                let truth = word & 0xFFFF_FFFF == u64::from(u32::from_le_bytes(*b"true"));
                if !truth && word & 0xFF_FFFF_FFFF != u64::from_le_bytes(*b"false\0\0\0") {
                    return None;
                }
                v.push(truth);
                Some(if truth { at + 4 } else { at + 5 })
            }
            Cells::Int8(v) => push!(v, integer(bytes, at)),
            Cells::Int16(v) => push!(v, integer(bytes, at)),
            Cells::Int32(v) => push!(v, integer(bytes, at)),
            Cells::UInt8(v) => push!(v, integer(bytes, at)),
            Cells::UInt16(v) => push!(v, integer(bytes, at)),
            Cells::UInt32(v) => push!(v, integer(bytes, at)),
            Cells::UInt64(v) => push!(v, integer(bytes, at)),
            Cells::Float32(v) => push!(v, float(bytes, at)),
            Cells::Text(_) => None,
        }
    }

    /// What a value of this type looks like, for people; `number` says that the value found is a number, `whole` that
    /// it is one without fraction or exponent.
    pub(crate) fn expected(&self, number: bool, whole: bool) -> &'static str {
        match self {
            Cells::Boolean(_) => "true or false",
            Cells::Float32(_) | Cells::Float64(_) if number => "a number within the range",
            Cells::Float32(_) | Cells::Float64(_) => "a number",
            Cells::Decimal(..) if number => "a number of no more digits",
            Cells::Decimal(..) => "a number",
            Cells::Text(_) => "a string",
            Cells::Date(_) => "a day such as 2026-01-31",
            Cells::Instant(..) => "a time such as 2026-01-31T14:30:00Z",
            Cells::Epoch(..) if number => "a time in the years 1 to 9999",
            Cells::Epoch(..) => "a number",
            _ if whole => "a whole number within the range",
            _ => "a whole number",
        }
    }
}

/// The strings of a column, one behind the other.
#[derive(Debug)]
pub(crate) struct Text {
    /// The bytes of all strings.
    pub(crate) values: Vec<u8>,
    /// Where each string begins, and where the last one ends.
    offsets: Vec<i32>,
}

impl Text {
    /// Ends the string whose bytes were appended to `values`.
    #[inline]
    pub(crate) fn end(&mut self) {
        // A block is refused before it is decoded when its bytes do not fit this type.
        self.offsets.push(self.values.len() as i32);
    }

    fn truncate(&mut self, rows: usize) {
        self.offsets.truncate(rows + 1);
        self.values.truncate(self.offsets.last().map_or(0, |end| *end as usize));
    }
}

/// A column under construction.
#[derive(Debug)]
pub(crate) struct Column {
    /// Its name.
    pub(crate) name: String,
    /// Its values.
    pub(crate) cells: Cells,
    /// The rows that are null, ascending. Most columns have few, so that values cost nothing here.
    nulls: Vec<u32>,
    data_type: DataType,
}

/// Runs the same code on the vector of any variant but text.
macro_rules! each_vector {
    ($cells:expr, $values:ident => $code:expr, $text:ident => $other:expr) => {
        match $cells {
            Cells::Boolean($values) => $code,
            Cells::Int8($values) => $code,
            Cells::Int16($values) => $code,
            Cells::Int32($values) | Cells::Date($values) => $code,
            Cells::Int64($values) | Cells::Instant($values, _) | Cells::Epoch($values, _) => $code,
            Cells::UInt8($values) => $code,
            Cells::UInt16($values) => $code,
            Cells::UInt32($values) => $code,
            Cells::UInt64($values) => $code,
            Cells::Float32($values) => $code,
            Cells::Float64($values) => $code,
            Cells::Decimal($values, _) => $code,
            Cells::Text($text) => $other,
        }
    };
}

impl Column {
    /// An empty column for a field, or Plan when text formats do not carry its type.
    fn of(field: &Field, time: TimeFormat) -> Result<Column> {
        let epoch = |places| Cells::Epoch(Vec::new(), Scale { floor: true, ..Scale::exact(18, places) });
        let cells = match field.data_type() {
            DataType::Boolean => Cells::Boolean(Vec::new()),
            DataType::Int8 => Cells::Int8(Vec::new()),
            DataType::Int16 => Cells::Int16(Vec::new()),
            DataType::Int32 => Cells::Int32(Vec::new()),
            DataType::Int64 => Cells::Int64(Vec::new()),
            DataType::UInt8 => Cells::UInt8(Vec::new()),
            DataType::UInt16 => Cells::UInt16(Vec::new()),
            DataType::UInt32 => Cells::UInt32(Vec::new()),
            DataType::UInt64 => Cells::UInt64(Vec::new()),
            DataType::Float32 => Cells::Float32(Vec::new()),
            DataType::Float64 => Cells::Float64(Vec::new()),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                Cells::Text(Text { values: Vec::new(), offsets: vec![0] })
            }
            DataType::Decimal128(precision, places) => match u32::try_from(*places) {
                Ok(places) => Cells::Decimal(Vec::new(), Scale::exact(*precision, places)),
                Err(_) => return Err(refused(field)),
            },
            DataType::Date32 => Cells::Date(Vec::new()),
            DataType::Timestamp(TimeUnit::Microsecond, _) => match time {
                TimeFormat::Iso => Cells::Instant(Vec::new(), Today::default()),
                TimeFormat::EpochSeconds => epoch(6),
                TimeFormat::EpochMillis => epoch(3),
                TimeFormat::EpochMicros => epoch(0),
            },
            _ => return Err(refused(field)),
        };
        Ok(Column { name: field.name().clone(), cells, nulls: Vec::new(), data_type: field.data_type().clone() })
    }

    /// The type as SQL writes it, with its article: "a DOUBLE".
    pub(crate) fn type_name(&self) -> String {
        let (article, name) = sql_type(&self.data_type);
        format!("{article} {name}")
    }

    /// Appends a null as row `row`.
    #[inline]
    pub(crate) fn push_null(&mut self, row: usize) {
        self.nulls.push(row as u32);
        each_vector!(&mut self.cells, values => values.push(Default::default()), text => text.end());
    }

    /// Leaves the first `rows` rows.
    pub(crate) fn truncate(&mut self, rows: usize) {
        each_vector!(&mut self.cells, values => values.truncate(rows), text => text.truncate(rows));
        while self.nulls.last().is_some_and(|row| *row as usize >= rows) {
            self.nulls.pop();
        }
    }

    /// Makes room for `rows` rows that come from `bytes` bytes.
    pub(crate) fn reserve(&mut self, rows: usize, bytes: usize) {
        each_vector!(&mut self.cells, values => values.reserve(rows), text => {
            text.offsets.reserve(rows);
            text.values.reserve(bytes);
        });
    }

    /// How many bytes of text it holds.
    pub(crate) fn text_len(&self) -> usize {
        if let Cells::Text(text) = &self.cells { text.values.len() } else { 0 }
    }

    /// The column of `rows` rows as an array; an empty column stays.
    fn finish(&mut self, rows: usize) -> Result<ArrayRef, ArrowError> {
        let nulls = self.take_nulls(rows);
        Ok(match &mut self.cells {
            Cells::Boolean(v) => {
                let values = BooleanBuffer::from(v.as_slice());
                v.clear();
                Arc::new(BooleanArray::new(values, nulls))
            }
            Cells::Int8(v) => Arc::new(primitive::<_, Int8Array>(v, nulls)?),
            Cells::Int16(v) => Arc::new(primitive::<_, Int16Array>(v, nulls)?),
            Cells::Int32(v) => Arc::new(primitive::<_, Int32Array>(v, nulls)?),
            Cells::Int64(v) => Arc::new(primitive::<_, Int64Array>(v, nulls)?),
            Cells::UInt8(v) => Arc::new(primitive::<_, UInt8Array>(v, nulls)?),
            Cells::UInt16(v) => Arc::new(primitive::<_, UInt16Array>(v, nulls)?),
            Cells::UInt32(v) => Arc::new(primitive::<_, UInt32Array>(v, nulls)?),
            Cells::UInt64(v) => Arc::new(primitive::<_, UInt64Array>(v, nulls)?),
            Cells::Float32(v) => Arc::new(primitive::<_, Float32Array>(v, nulls)?),
            Cells::Float64(v) => Arc::new(primitive::<_, Float64Array>(v, nulls)?),
            Cells::Date(v) => Arc::new(primitive::<_, Date32Array>(v, nulls)?),
            Cells::Decimal(v, _) => {
                let values: Decimal128Array = primitive(v, nulls)?;
                Arc::new(values.with_data_type(self.data_type.clone()))
            }
            Cells::Instant(v, _) | Cells::Epoch(v, _) => {
                let values: TimestampMicrosecondArray = primitive(v, nulls)?;
                Arc::new(values.with_data_type(self.data_type.clone()))
            }
            Cells::Text(text) => {
                let offsets = std::mem::replace(&mut text.offsets, vec![0]);
                let values = Buffer::from_vec(std::mem::take(&mut text.values));
                match &self.data_type {
                    DataType::LargeUtf8 => {
                        let wide: Vec<i64> = offsets.into_iter().map(i64::from).collect();
                        let offsets = OffsetBuffer::new(ScalarBuffer::from(wide));
                        Arc::new(LargeStringArray::try_new(offsets, values, nulls)?)
                    }
                    kind => {
                        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
                        let strings = StringArray::try_new(offsets, values, nulls)?;
                        if matches!(kind, DataType::Utf8View) {
                            Arc::new(StringViewArray::from(&strings))
                        } else {
                            Arc::new(strings)
                        }
                    }
                }
            }
        })
    }

    fn take_nulls(&mut self, rows: usize) -> Option<NullBuffer> {
        if self.nulls.is_empty() {
            return None;
        }
        let mut valid = arrow::array::BooleanBufferBuilder::new(rows);
        valid.append_n(rows, true);
        for row in self.nulls.drain(..) {
            valid.set_bit(row as usize, false);
        }
        Some(NullBuffer::new(valid.finish()))
    }
}

/// An array of the values, which leaves the vector empty. Generic over the array rather than the element, since the
/// element alone does not say the type.
fn primitive<N, A: FromValues<N>>(values: &mut Vec<N>, nulls: Option<NullBuffer>) -> Result<A, ArrowError> {
    A::from_values(std::mem::take(values), nulls)
}

trait FromValues<N>: Sized {
    fn from_values(values: Vec<N>, nulls: Option<NullBuffer>) -> Result<Self, ArrowError>;
}

impl<T: ArrowPrimitiveType> FromValues<T::Native> for PrimitiveArray<T> {
    fn from_values(values: Vec<T::Native>, nulls: Option<NullBuffer>) -> Result<Self, ArrowError> {
        PrimitiveArray::try_new(ScalarBuffer::from(values), nulls)
    }
}

/// Microseconds since 1970 within the years that a time may have.
#[inline]
pub(crate) fn in_range(micros: i128) -> Option<i64> {
    i64::try_from(micros).ok().filter(|micros| (FIRST..=LAST).contains(micros))
}

/// A type as SQL writes it, and its article before.
pub(crate) fn sql_type(data_type: &DataType) -> (&'static str, String) {
    let name = match data_type {
        DataType::Boolean => "BOOLEAN",
        DataType::Int8 => "TINYINT",
        DataType::Int16 => "SMALLINT",
        DataType::Int32 => return ("an", "INT".to_owned()),
        DataType::Int64 => "BIGINT",
        DataType::UInt8 => "TINYINT UNSIGNED",
        DataType::UInt16 => "SMALLINT UNSIGNED",
        DataType::UInt32 => return ("an", "INT UNSIGNED".to_owned()),
        DataType::UInt64 => "BIGINT UNSIGNED",
        DataType::Float32 => "REAL",
        DataType::Float64 => "DOUBLE",
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "VARCHAR",
        DataType::Date32 => "DATE",
        DataType::Timestamp(TimeUnit::Microsecond, _) => "TIMESTAMP",
        DataType::Timestamp(TimeUnit::Nanosecond, _) => "TIMESTAMP(9)",
        DataType::Timestamp(TimeUnit::Millisecond, _) => "TIMESTAMP(3)",
        DataType::Timestamp(TimeUnit::Second, _) => "TIMESTAMP(0)",
        DataType::Decimal128(precision, places) => return ("a", format!("DECIMAL({precision}, {places})")),
        other => return ("a", other.to_string()),
    };
    ("a", name.to_owned())
}

/// The error for a column of a type that no text format carries.
pub(crate) fn refused(field: &Field) -> Error {
    let (_, name) = sql_type(field.data_type());
    Error::new(Kind::Plan, "P060", format!("column `{}` of type {name} cannot be read or written as text", field.name()))
        .fact("json and csv carry BOOLEAN, whole numbers, REAL, DOUBLE, DECIMAL, VARCHAR, DATE and TIMESTAMP; CAST it to one of these")
}

/// Why a record is bad, in the words of [`tidemill_runtime::BadRecord`].
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) reason: String,
    pub(crate) detail: String,
}

impl Fault {
    /// What stands at `start` is not of the column's type. `record` ends where the value does.
    pub(crate) fn mistyped(column: &Column, record: &[u8], start: usize) -> Fault {
        let token = record.get(start..).unwrap_or_default();
        let number = matches!(token.first(), Some(b'-' | b'0'..=b'9'));
        let whole = number && token.iter().skip(1).all(u8::is_ascii_digit);
        let expected = column.cells.expected(number, whole);
        Fault {
            reason: format!("{} is not {}", column.name, column.type_name()),
            detail: format!("expected {expected} at byte {start}{}", found(record, start)),
        }
    }
}

/// What stands at `at`, for people, cut off where it gets long.
pub(crate) fn found(record: &[u8], at: usize) -> String {
    const SHOWN: usize = 40;
    let rest = String::from_utf8_lossy(record.get(at..).unwrap_or_default());
    if rest.is_empty() {
        return ", where the record ends".to_owned();
    }
    let more = if rest.chars().nth(SHOWN).is_some() { "…" } else { "" };
    format!(", found `{}{more}`", rest.chars().take(SHOWN).collect::<String>())
}

/// The columns of a block under construction.
#[derive(Debug)]
pub(crate) struct Columns {
    /// One for each field of the schema, in its order.
    pub(crate) columns: Vec<Column>,
    /// The finished rows.
    pub(crate) rows: usize,
    schema: SchemaRef,
    /// Rows and bytes of text per column of the last block, so that the next one grows its vectors once.
    last: (usize, Vec<usize>),
}

impl Columns {
    /// Empty columns for a schema. Whether NULL is allowed is for the gate: here every column may be null.
    ///
    /// # Errors
    /// Plan, for a type that text formats do not carry.
    pub(crate) fn of(schema: &Schema, time: TimeFormat) -> Result<Columns> {
        let columns: Vec<Column> =
            schema.fields().iter().map(|field| Column::of(field, time)).collect::<Result<_>>()?;
        let fields: Vec<Field> =
            schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
        let schema = Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()));
        let last = (0, vec![0; columns.len()]);
        Ok(Columns { columns, rows: 0, schema, last })
    }

    /// Makes room for a block like the last one, with a little to spare.
    pub(crate) fn start(&mut self) {
        let rows = self.last.0 + self.last.0 / 16;
        for (column, text) in self.columns.iter_mut().zip(&self.last.1) {
            column.reserve(rows, text + text / 16);
        }
    }

    /// Undoes an unfinished row.
    pub(crate) fn undo(&mut self) {
        for column in &mut self.columns {
            column.truncate(self.rows);
        }
    }

    /// The finished rows as a batch; the columns are empty again.
    ///
    /// # Errors
    /// Internal, when the columns do not make a batch.
    pub(crate) fn finish(&mut self) -> Result<RecordBatch> {
        let rows = std::mem::take(&mut self.rows);
        self.last = (rows, self.columns.iter().map(Column::text_len).collect());
        let arrays: Result<Vec<ArrayRef>, ArrowError> = self.columns.iter_mut().map(|c| c.finish(rows)).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        arrays
            .and_then(|arrays| RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options))
            .map_err(|e| Error::internal("decoded columns do not make a batch").because(e))
    }
}
