//! [`Arrivals`]: made-up rows of any schema in the order of their arrival.
//!
//! **Invariant:** the first column numbers the rows; an event time lies less than `disorder` before the greatest one that
//! arrived earlier, but for those rows that are asked to be late.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array, RecordBatch,
    StringArray, TimestampMicrosecondArray,
};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use fastrand::Rng;
use tidemill_model::{Error, Result, Timestamp};

/// Column to the words that it is made of, as text of its type; `NULL` is none. A word that stands there often comes often.
pub type Words = BTreeMap<String, Vec<String>>;

/// What rows to make.
#[derive(Debug, Clone)]
pub struct Arrivals {
    /// How many.
    pub rows: usize,
    /// The event time of the first.
    pub from: Timestamp,
    /// How much event time lies between two.
    pub apart: Duration,
    /// How far they are out of order.
    pub disorder: Duration,
    /// Event times are multiples of this, so that some are equal; zero for times as they come. What is within the bound of
    /// a watermark has `disorder` and this together below it.
    pub grain: Duration,
    /// The share that comes later than that.
    pub late: f64,
    /// The share without an event time.
    pub timeless: f64,
    /// The words of columns; those of text that name none have some of their own.
    pub words: Words,
}

/// The words of a text column that names none: case, letters beyond ASCII and quotes are part of a word.
const WORDS: [&str; 5] = ["north", "South", "SOUTH", "süd-ost", "a \"quoted\", word"];

/// The share of NULLs in a column, of a hundred.
const NULLS: u32 = 6;

impl Arrivals {
    /// The rows of this schema. `first` is the number of the first one.
    ///
    /// # Errors
    /// Internal, for a column of a type that is not made up.
    pub fn make(&self, schema: &Schema, event_time: Option<&str>, first: i64, random: &mut Rng) -> Result<RecordBatch> {
        let mut columns: Vec<ArrayRef> = Vec::new();
        let mut fields = Vec::new();
        for (number, field) in schema.fields().iter().enumerate() {
            let column: ArrayRef = if number == 0 {
                Arc::new(Int64Array::from_iter_values((0..self.rows).map(|row| first + row as i64)))
            } else if event_time == Some(field.name().as_str()) {
                Arc::new(self.times(random))
            } else {
                self.column(field, random)?
            };
            // Whatever may be NULL in a record may be NULL here: NOT NULL is for the pipeline to judge.
            fields.push(Field::new(field.name(), column.data_type().clone(), true));
            columns.push(column);
        }
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
            .map_err(|e| Error::internal("made-up rows do not fit together").because(e))
    }

    fn times(&self, random: &mut Rng) -> TimestampMicrosecondArray {
        let apart = i64::try_from(self.apart.as_micros()).unwrap_or(i64::MAX);
        let disorder = i64::try_from(self.disorder.as_micros()).unwrap_or(i64::MAX).max(1);
        let grain = i64::try_from(self.grain.as_micros()).unwrap_or(i64::MAX).max(1);
        let time = |row: usize| {
            let late = if random.f64() < self.late { random.i64(0..20 * disorder) } else { 0 };
            let at = self.from.0 + row as i64 * apart - random.i64(0..disorder) - late;
            let at = at - at.rem_euclid(grain);
            (random.f64() >= self.timeless).then_some(at)
        };
        (0..self.rows).map(time).collect()
    }

    fn column(&self, field: &Field, random: &mut Rng) -> Result<ArrayRef> {
        let rows = 0..self.rows;
        if let Some(words) = self.words.get(field.name()).filter(|words| !words.is_empty()) {
            let picked = rows.map(|_| {
                let is_null = random.u32(0..100) < NULLS;
                Some(words[random.usize(0..words.len())].as_str()).filter(|word| !is_null && *word != "NULL")
            });
            let texts: ArrayRef = Arc::new(picked.collect::<StringArray>());
            let options = CastOptions { safe: false, ..CastOptions::default() };
            return cast_with_options(&texts, field.data_type(), &options).map_err(|e| {
                Error::internal(format!("words of {} are no {}", field.name(), field.data_type())).because(e)
            });
        }
        let mut some = |below: i64| -> Vec<Option<i64>> {
            rows.clone().map(|_| (random.u32(0..100) >= NULLS).then(|| random.i64(0..below))).collect()
        };
        Ok(match field.data_type() {
            DataType::Int64 => Arc::new(some(40).into_iter().map(|n| n.map(|n| n - 5)).collect::<Int64Array>()),
            DataType::Int32 => Arc::new(some(40).into_iter().map(|n| n.map(|n| n as i32 - 5)).collect::<Int32Array>()),
            DataType::Boolean => Arc::new(some(2).into_iter().map(|n| n.map(|n| n == 1)).collect::<BooleanArray>()),
            DataType::Float64 => Arc::new(
                some(100_000).into_iter().map(|n| n.map(|n| n as f64 / 7.0 - 3000.0)).collect::<Float64Array>(),
            ),
            DataType::Date32 => {
                Arc::new(some(400).into_iter().map(|n| n.map(|n| 20_000 + n as i32)).collect::<Date32Array>())
            }
            DataType::Decimal128(precision, scale) => {
                let below = 10_i64.pow(u32::from(*precision).min(7));
                let numbers = some(below).into_iter().map(|n| n.map(|n| i128::from(n - below / 10)));
                let decimals = numbers.collect::<Decimal128Array>().with_precision_and_scale(*precision, *scale);
                Arc::new(decimals.map_err(|e| Error::internal("a decimal").because(e))?)
            }
            DataType::Timestamp(TimeUnit::Microsecond, None) => {
                let times = some(86_400_000_000).into_iter().map(|n| n.map(|n| self.from.0 + n));
                Arc::new(times.collect::<TimestampMicrosecondArray>())
            }
            DataType::Utf8 | DataType::Utf8View => {
                let pick = |n: Option<i64>| n.map(|n| WORDS[n as usize]);
                Arc::new(some(WORDS.len() as i64).into_iter().map(pick).collect::<StringArray>())
            }
            other => return Err(Error::internal(format!("no values are made up for a {other}"))),
        })
    }
}
