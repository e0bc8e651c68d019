//! [`Values`]: a finished column, to be written value by value as text.
//!
//! **Invariant:** numbers are written so that they are read back bit by bit: decimals digit by digit, floats by their
//! shortest text.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringViewArray};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    Schema, TimeUnit, TimestampMicrosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use tidemill_model::{Error, Result};

use super::time::Clockface;
use super::{TimeFormat, refused};

/// A column that is written as text.
#[derive(Debug)]
pub(crate) struct Values<'a> {
    nulls: Option<&'a NullBuffer>,
    kind: Kind<'a>,
}

#[derive(Debug)]
enum Kind<'a> {
    Boolean(&'a BooleanArray),
    Int8(&'a [i8]),
    Int16(&'a [i16]),
    Int32(&'a [i32]),
    Int64(&'a [i64]),
    UInt8(&'a [u8]),
    UInt16(&'a [u16]),
    UInt32(&'a [u32]),
    UInt64(&'a [u64]),
    Float32(&'a [f32]),
    Float64(&'a [f64]),
    Decimal(&'a [i128], u32),
    Text(&'a [u8], &'a [i32]),
    View(&'a StringViewArray),
    Date(&'a [i32], Clockface),
    Instant(&'a [i64], Clockface),
    /// Instants as numbers with so many places behind the point.
    Epoch(&'a [i64], u32),
}

/// The type that a column is cast to before it is written: dictionaries are unfolded, instants are microseconds.
fn plain(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Dictionary(_, values) => plain(values),
        DataType::LargeUtf8 => DataType::Utf8View,
        DataType::Timestamp(TimeUnit::Second | TimeUnit::Millisecond, zone) => {
            DataType::Timestamp(TimeUnit::Microsecond, zone.clone())
        }
        other => other.clone(),
    }
}

/// Refuses a schema with a type that cannot be written as text.
///
/// # Errors
/// Plan, for the first such column.
pub(crate) fn check_encodable(schema: &Schema) -> Result<()> {
    for field in schema.fields() {
        let known = match plain(field.data_type()) {
            DataType::Boolean | DataType::Utf8 | DataType::Utf8View | DataType::Date32 => true,
            DataType::Decimal128(_, places) => places >= 0,
            DataType::Timestamp(TimeUnit::Microsecond, _) => true,
            other => other.is_integer() || matches!(other, DataType::Float32 | DataType::Float64),
        };
        if !known {
            return Err(refused(field));
        }
    }
    Ok(())
}

/// The columns of a batch in the types that [`Values`] writes.
///
/// # Errors
/// Data, when a time does not fit into microseconds.
pub(crate) fn plain_columns(batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
    let columns = batch.columns().iter().map(|column| {
        let to = plain(column.data_type());
        if to == *column.data_type() { Ok(Arc::clone(column)) } else { cast(column, &to) }
    });
    columns
        .collect::<std::result::Result<_, _>>()
        .map_err(|e| Error::new(tidemill_model::Kind::Data, "D061", "a column cannot be written as text").because(e))
}

impl<'a> Values<'a> {
    /// A column of [`plain_columns`].
    ///
    /// # Errors
    /// Plan, for a type that cannot be written.
    pub(crate) fn of(array: &'a ArrayRef, time: TimeFormat) -> Result<Values<'a>> {
        let kind = match array.data_type() {
            DataType::Boolean => Kind::Boolean(array.as_boolean()),
            DataType::Int8 => Kind::Int8(array.as_primitive::<Int8Type>().values()),
            DataType::Int16 => Kind::Int16(array.as_primitive::<Int16Type>().values()),
            DataType::Int32 => Kind::Int32(array.as_primitive::<Int32Type>().values()),
            DataType::Int64 => Kind::Int64(array.as_primitive::<Int64Type>().values()),
            DataType::UInt8 => Kind::UInt8(array.as_primitive::<UInt8Type>().values()),
            DataType::UInt16 => Kind::UInt16(array.as_primitive::<UInt16Type>().values()),
            DataType::UInt32 => Kind::UInt32(array.as_primitive::<UInt32Type>().values()),
            DataType::UInt64 => Kind::UInt64(array.as_primitive::<UInt64Type>().values()),
            DataType::Float32 => Kind::Float32(array.as_primitive::<Float32Type>().values()),
            DataType::Float64 => Kind::Float64(array.as_primitive::<Float64Type>().values()),
            DataType::Decimal128(_, places) if *places >= 0 => {
                Kind::Decimal(array.as_primitive::<Decimal128Type>().values(), u32::from(places.unsigned_abs()))
            }
            DataType::Utf8 => {
                let text = array.as_string::<i32>();
                Kind::Text(text.value_data(), text.value_offsets())
            }
            DataType::Utf8View => Kind::View(array.as_string_view()),
            DataType::Date32 => Kind::Date(array.as_primitive::<Date32Type>().values(), Clockface::default()),
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                let values = array.as_primitive::<TimestampMicrosecondType>().values();
                match time {
                    TimeFormat::Iso => Kind::Instant(values, Clockface::default()),
                    TimeFormat::EpochSeconds => Kind::Epoch(values, 6),
                    TimeFormat::EpochMillis => Kind::Epoch(values, 3),
                    TimeFormat::EpochMicros => Kind::Epoch(values, 0),
                }
            }
            other => return Err(refused(&Field::new("", other.clone(), true))),
        };
        Ok(Values { nulls: array.nulls().filter(|nulls| nulls.null_count() > 0), kind })
    }

    /// Whether row `row` is NULL.
    #[inline]
    pub(crate) fn is_null(&self, row: usize) -> bool {
        self.nulls.is_some_and(|nulls| nulls.is_null(row))
    }

    /// The string in row `row`, if this is a column of strings: bytes, and where in them it begins and ends.
    #[inline]
    pub(crate) fn text(&self, row: usize) -> Option<(&'a [u8], usize, usize)> {
        match &self.kind {
            Kind::Text(bytes, offsets) => Some((bytes, *offsets.get(row)? as usize, *offsets.get(row + 1)? as usize)),
            Kind::View(views) => {
                let text = views.value(row).as_bytes();
                Some((text, 0, text.len()))
            }
            _ => None,
        }
    }

    /// Whether formats that tell numbers from text must quote it.
    #[inline]
    pub(crate) fn is_quoted(&self) -> bool {
        matches!(self.kind, Kind::Date(..) | Kind::Instant(..))
    }

    /// Whether it is no NaN and no infinity.
    #[inline]
    pub(crate) fn is_finite(&self, row: usize) -> bool {
        match &self.kind {
            Kind::Float32(v) => v.get(row).is_some_and(|x| x.is_finite()),
            Kind::Float64(v) => v.get(row).is_some_and(|x| x.is_finite()),
            _ => true,
        }
    }

    /// Appends the value in row `row`, which is neither NULL nor a string; `false` when it cannot be written.
    #[inline]
    pub(crate) fn put(&mut self, row: usize, out: &mut Vec<u8>) -> bool {
        match &mut self.kind {
            Kind::Boolean(v) => out.extend_from_slice(if v.value(row) { b"true" } else { b"false" }),
            Kind::Int8(v) => put_i64(v[row].into(), out),
            Kind::Int16(v) => put_i64(v[row].into(), out),
            Kind::Int32(v) => put_i64(v[row].into(), out),
            Kind::Int64(v) => put_i64(v[row], out),
            Kind::UInt8(v) => put_u64(v[row].into(), out),
            Kind::UInt16(v) => put_u64(v[row].into(), out),
            Kind::UInt32(v) => put_u64(v[row].into(), out),
            Kind::UInt64(v) => put_u64(v[row], out),
            Kind::Float32(v) => out.extend_from_slice(zmij::Buffer::new().format(v[row]).as_bytes()),
            Kind::Float64(v) => out.extend_from_slice(zmij::Buffer::new().format(v[row]).as_bytes()),
            Kind::Decimal(v, places) => put_decimal(v[row], *places, false, out),
            Kind::Date(v, face) => return face.day(v[row], out),
            Kind::Instant(v, face) => return face.instant(v[row], out),
            Kind::Epoch(v, places) => put_decimal(v[row].into(), *places, true, out),
            Kind::Text(..) | Kind::View(_) => return false,
        }
        true
    }
}

/// The eight decimal digits of a number below 10^8, the first one in the lowest byte, as numbers 0 to 9.
#[inline]
fn eight_digits(number: u32) -> u64 {
    let (high, low) = (u64::from(number / 10_000), u64::from(number % 10_000));
    let fours = high | (low << 32);
    let hundreds = (fours.wrapping_mul(10_486) >> 20) & 0x0000_007F_0000_007F;
    let twos = hundreds | (fours.wrapping_sub(hundreds.wrapping_mul(100)) << 16);
    let tens = (twos.wrapping_mul(103) >> 10) & 0x000F_000F_000F_000F;
    tens | (twos.wrapping_sub(tens.wrapping_mul(10)) << 8)
}

const ZEROS: u64 = 0x3030_3030_3030_3030;

#[inline]
fn put_u64(number: u64, out: &mut Vec<u8>) {
    if number >= 100_000_000 {
        put_u64_long(number, out);
        return;
    }
    let digits = eight_digits(number as u32);
    // The last digit counts even when it is zero.
    let leading = ((digits | 1 << 56).trailing_zeros() / 8) as usize;
    out.extend_from_slice(&((digits | ZEROS) >> (8 * leading)).to_le_bytes());
    out.truncate(out.len().wrapping_sub(leading));
}

fn put_u64_long(number: u64, out: &mut Vec<u8>) {
    put_u64(number / 100_000_000, out);
    out.extend_from_slice(&(eight_digits((number % 100_000_000) as u32) | ZEROS).to_le_bytes());
}

#[inline]
fn put_i64(number: i64, out: &mut Vec<u8>) {
    if number < 0 {
        out.push(b'-');
    }
    put_u64(number.unsigned_abs(), out);
}

/// Appends `value / 10^places` exactly, with all its places or, when `short`, without zeros at the end.
fn put_decimal(value: i128, places: u32, short: bool, out: &mut Vec<u8>) {
    if value < 0 {
        out.push(b'-');
    }
    let magnitude = value.unsigned_abs();
    let one = 10_u128.checked_pow(places).unwrap_or(u128::MAX);
    let (whole, fraction) = (magnitude / one, magnitude % one);
    match u64::try_from(whole) {
        Ok(whole) => put_u64(whole, out),
        Err(_) => out.extend_from_slice(whole.to_string().as_bytes()),
    }
    if places == 0 || (short && fraction == 0) {
        return;
    }
    out.push(b'.');
    let start = out.len();
    let mut unit = one / 10;
    let mut rest = fraction;
    while unit > 0 {
        out.push(b'0' + (rest / unit) as u8);
        rest %= unit;
        unit /= 10;
    }
    while short && out.len() > start && out.last() == Some(&b'0') {
        out.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_written_as_the_standard_library_writes_them() {
        let mut random = fastrand::Rng::with_seed(3);
        let edges = (0..20).flat_map(|e| [10_u64.pow(e) - 1, 10_u64.pow(e), 10_u64.pow(e) + 1]);
        let others: Vec<u64> = (0..20_000).map(|_| random.u64(..) >> random.u32(0..64)).collect();
        for number in edges.chain(others).chain([u64::MAX]) {
            let mut out = Vec::new();
            put_u64(number, &mut out);
            assert_eq!(out, number.to_string().as_bytes());
            out.clear();
            put_i64(number as i64, &mut out);
            assert_eq!(out, (number as i64).to_string().as_bytes());
        }
    }

    #[test]
    fn decimals_are_written_in_full() {
        let cases = [
            (0, 2, "0.00", "0"),
            (-5, 2, "-0.05", "-0.05"),
            (123_450, 2, "1234.50", "1234.5"),
            (7, 0, "7", "7"),
            (i128::MAX, 38, "1.70141183460469231731687303715884105727", "1.70141183460469231731687303715884105727"),
            (
                -(10_i128.pow(37)),
                0,
                "-10000000000000000000000000000000000000",
                "-10000000000000000000000000000000000000",
            ),
        ];
        for (value, places, full, short) in cases {
            for (shorten, expected) in [(false, full), (true, short)] {
                let mut out = Vec::new();
                put_decimal(value, places, shorten, &mut out);
                assert_eq!(String::from_utf8_lossy(&out), expected);
            }
        }
    }
}
