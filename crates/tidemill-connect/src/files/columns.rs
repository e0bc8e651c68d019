//! [`ColumnPlan`]: how the columns of one Parquet file become the columns that a dataset declares.
//!
//! **Invariant:** a value changes its type only where nothing is lost; instants become microseconds UTC, nanoseconds
//! being floored. A column without a lossless way is refused with its name and both types.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, TimestampMicrosecondArray, UInt32Array, new_null_array,
};
use arrow::compute::{CastOptions, cast, cast_with_options, take};
use arrow::datatypes::{
    DataType, Date32Type, Field, FieldRef, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use tidemill_model::{Error, Kind, Result, nearest};

use super::hive;

const DAY: i64 = 86_400_000_000;

/// How the columns of a file become those of the dataset.
#[derive(Debug)]
pub(super) struct ColumnPlan {
    schema: SchemaRef,
    file: String,
    from: Vec<From>,
    /// The places in the file's schema of the columns that are read, ascending.
    pub(super) read: Vec<usize>,
}

#[derive(Debug)]
enum From {
    /// The n-th of the columns that are read.
    File(usize),
    /// The same value in every row: from the path, or NULL.
    Constant(ArrayRef),
}

impl ColumnPlan {
    /// The way from a file of this schema and name to `wanted`.
    pub(super) fn new(wanted: &SchemaRef, in_file: &Schema, name: &str, shown: &str) -> Result<ColumnPlan> {
        let partitions = hive::pairs(name);
        let places: Vec<Option<usize>> =
            wanted.fields().iter().map(|field| in_file.index_of(field.name()).ok()).collect();
        let mut read: Vec<usize> = places.iter().flatten().copied().collect();
        read.sort_unstable();
        read.dedup();
        let mut from = Vec::with_capacity(places.len());
        for (field, place) in wanted.fields().iter().zip(places) {
            from.push(match place {
                Some(place) => {
                    let found = in_file.field(place).data_type();
                    if !widens(found, field.data_type()) {
                        return Err(clash(field, found, shown));
                    }
                    From::File(read.partition_point(|r| *r < place))
                }
                None => match partitions.iter().find(|(key, _)| key == field.name()) {
                    Some((key, text)) => From::Constant(hive::value(text.as_deref(), field.data_type(), key, shown)?),
                    None => From::Constant(absent(field, in_file, shown)?),
                },
            });
        }
        Ok(ColumnPlan { schema: Arc::clone(wanted), file: shown.to_owned(), from, read })
    }

    /// The columns of the dataset, from a batch of the columns that were read.
    pub(super) fn apply(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let rows = batch.num_rows();
        let mut columns = Vec::with_capacity(self.from.len());
        for (field, from) in self.schema.fields().iter().zip(&self.from) {
            columns.push(match from {
                From::File(at) => widen(batch.column(*at), field.data_type()).map_err(|e| {
                    Error::new(Kind::Data, "D310", format!("column `{}` of {}: {e}", field.name(), self.file))
                })?,
                From::Constant(value) if value.is_null(0) => new_null_array(field.data_type(), rows),
                From::Constant(value) => take(value, &UInt32Array::from(vec![0; rows]), None)
                    .map_err(|e| Error::internal("a constant cannot be repeated").because(e))?,
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options).map_err(|e| {
            Error::new(Kind::Config, "C318", format!("{} does not hold what is declared: {e}", self.file))
                .fact("leave out NOT NULL, or correct the file")
                .because(e)
        })
    }
}

fn clash(field: &Field, found: &DataType, shown: &str) -> Error {
    let name = |of: &DataType| crate::format::sql_type(of).1;
    let (found, declared) = (name(found), name(field.data_type()));
    let message = format!("column `{}` of {shown} is {found}, declared is {declared}", field.name());
    Error::new(Kind::Config, "C319", message)
        .fact("declare the type that the file has and CAST it in the query; only conversions that lose nothing are made unasked")
}

/// A column that the file lacks: NULLs, unless it must not be NULL or was meant to be another one.
fn absent(field: &Field, in_file: &Schema, shown: &str) -> Result<ArrayRef> {
    let name = field.name();
    let names = || in_file.fields().iter().map(|f| f.name().as_str());
    if let Some(other) = names().find(|other| other.eq_ignore_ascii_case(name)) {
        return Err(Error::new(Kind::Config, "C320", format!("{shown} has no column `{name}`, but `{other}`"))
            .fact(format!("declare it as \"{other}\", in double quotes")));
    }
    if !field.is_nullable() {
        let error = Error::new(Kind::Config, "C320", format!("{shown} has no column `{name}`, which is NOT NULL"));
        return Err(match nearest(name, names()) {
            Some(meant) => error.fact(format!("did you mean `{meant}`?")),
            None => error.fact(format!("its columns: {}", names().collect::<Vec<_>>().join(", "))),
        });
    }
    Ok(new_null_array(field.data_type(), 1))
}

/// Whether every value of `from` has an equal one in `to`.
pub(super) fn widens(from: &DataType, to: &DataType) -> bool {
    use DataType as D;
    if from == to {
        return true;
    }
    match (from, to) {
        (D::Null, _) => true,
        (D::Dictionary(_, value), _) => widens(value, to),
        (D::Utf8 | D::LargeUtf8 | D::Utf8View, D::Utf8 | D::LargeUtf8 | D::Utf8View) => true,
        (
            D::Binary | D::LargeBinary | D::BinaryView | D::FixedSizeBinary(_),
            D::Binary | D::LargeBinary | D::BinaryView,
        ) => true,
        (D::Timestamp(_, _) | D::Date32, D::Timestamp(TimeUnit::Microsecond, _)) => true,
        (D::Float16, D::Float32 | D::Float64) | (D::Float32, D::Float64) => true,
        (D::Time32(_), D::Time64(_)) => true,
        (D::List(a) | D::LargeList(a), D::List(b) | D::LargeList(b)) => widens_inside(a, b),
        _ => match (whole(from), whole(to), decimal(from), decimal(to)) {
            (Some((signed, bits)), Some((to_signed, to_bits)), ..) => {
                if signed == to_signed {
                    bits <= to_bits
                } else {
                    to_signed && bits < to_bits
                }
            }
            (Some((_, bits)), None, None, Some((precision, scale))) => {
                let digits = match bits {
                    8 => 3,
                    16 => 5,
                    32 => 10,
                    _ => 20,
                };
                i16::from(precision) - i16::from(scale) >= digits && scale >= 0
            }
            (Some((_, bits)), None, None, None) => match to {
                D::Float64 => bits <= 32,
                D::Float32 => bits <= 16,
                _ => false,
            },
            (None, None, Some((precision, scale)), Some((to_precision, to_scale))) => {
                to_scale >= scale
                    && i16::from(to_precision) - i16::from(to_scale) >= i16::from(precision) - i16::from(scale)
            }
            _ => false,
        },
    }
}

/// Inside lists the kernels convert, which do not know our rules for instants.
fn widens_inside(from: &FieldRef, to: &FieldRef) -> bool {
    let instant = |field: &FieldRef| matches!(field.data_type(), DataType::Timestamp(_, _));
    from.data_type() == to.data_type() || (!instant(to) && widens(from.data_type(), to.data_type()))
}

/// Signedness and bits of a whole number.
fn whole(data_type: &DataType) -> Option<(bool, u8)> {
    Some(match data_type {
        DataType::Int8 => (true, 8),
        DataType::Int16 => (true, 16),
        DataType::Int32 => (true, 32),
        DataType::Int64 => (true, 64),
        DataType::UInt8 => (false, 8),
        DataType::UInt16 => (false, 16),
        DataType::UInt32 => (false, 32),
        DataType::UInt64 => (false, 64),
        _ => return None,
    })
}

/// Precision and scale of a decimal.
fn decimal(data_type: &DataType) -> Option<(u8, i8)> {
    match data_type {
        DataType::Decimal32(p, s)
        | DataType::Decimal64(p, s)
        | DataType::Decimal128(p, s)
        | DataType::Decimal256(p, s) => Some((*p, *s)),
        _ => None,
    }
}

pub(super) fn widen(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, arrow::error::ArrowError> {
    if array.data_type() == to {
        return Ok(Arc::clone(array));
    }
    if let DataType::Timestamp(TimeUnit::Microsecond, zone) = to {
        return Ok(Arc::new(instants(array)?.with_timezone_opt(zone.clone())));
    }
    cast_with_options(array, to, &CastOptions { safe: false, ..CastOptions::default() })
}

/// A column of any instants as microseconds UTC.
pub(super) fn instants(array: &ArrayRef) -> Result<TimestampMicrosecondArray, arrow::error::ArrowError> {
    use arrow::error::ArrowError;
    let times = |factor: i64| {
        move |value: i64| {
            value.checked_mul(factor).ok_or_else(|| {
                ArrowError::ComputeError(format!("the instant {value} lies outside of what microseconds reach"))
            })
        }
    };
    Ok(match array.data_type() {
        DataType::Dictionary(_, value) => return instants(&cast(array, value)?),
        DataType::Timestamp(TimeUnit::Second, _) => {
            array.as_primitive::<TimestampSecondType>().try_unary(times(1_000_000))?
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            array.as_primitive::<TimestampMillisecondType>().try_unary(times(1_000))?
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            array.as_primitive::<TimestampMicrosecondType>().clone().with_timezone_opt(None::<Arc<str>>)
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            array.as_primitive::<TimestampNanosecondType>().unary(|value| value.div_euclid(1_000))
        }
        DataType::Date32 => array.as_primitive::<Date32Type>().unary(|day| i64::from(day) * DAY),
        DataType::Null => TimestampMicrosecondArray::new_null(array.len()),
        other => return Err(ArrowError::CastError(format!("{other} is no instant"))),
    })
}

/// The columns that a dataset of such files has when none are declared: ours are the plain types.
pub(super) fn declared(in_file: &Schema, name: &str) -> SchemaRef {
    let mut fields: Vec<Field> =
        in_file.fields().iter().map(|f| Field::new(f.name(), plain(f.data_type()), f.is_nullable())).collect();
    for (key, _) in hive::pairs(name) {
        if fields.iter().all(|field| *field.name() != key) {
            fields.push(Field::new(key, DataType::Utf8, true));
        }
    }
    Arc::new(Schema::new(fields))
}

fn plain(data_type: &DataType) -> DataType {
    use DataType as D;
    match data_type {
        D::Dictionary(_, value) => plain(value),
        D::Timestamp(_, zone) => D::Timestamp(TimeUnit::Microsecond, zone.as_ref().map(|_| "UTC".into())),
        D::LargeUtf8 | D::Utf8View => D::Utf8,
        D::LargeBinary | D::BinaryView => D::Binary,
        other => other.clone(),
    }
}
