//! SQL types to Arrow and back: [`arrow_type`] for declared columns, [`sql_type`] for messages.
//!
//! **Invariant:** times are microseconds; a declared type that would round or ignore something is refused.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::sql::sqlparser::ast::{self, ExactNumberInfo, TimezoneInfo};
use tidemill_model::{Error, Kind, Result, nearest};

/// The words for types of columns.
const TYPES: &[&str] = &[
    "BIGINT",
    "INT",
    "SMALLINT",
    "DOUBLE",
    "REAL",
    "FLOAT",
    "BOOLEAN",
    "VARCHAR",
    "TEXT",
    "STRING",
    "DECIMAL",
    "DATE",
    "TIMESTAMP",
    "TIMESTAMPTZ",
];

/// The Arrow type of a declared column.
///
/// # Errors
/// Plan, without a place: the type is not one of a column's.
pub fn arrow_type(sql: &ast::DataType) -> Result<DataType> {
    use ast::DataType as T;
    Ok(match sql {
        T::BigInt(None) | T::Int8(None) | T::Int64 => DataType::Int64,
        T::Int(None) | T::Integer(None) | T::Int4(None) | T::Int32 => DataType::Int32,
        T::SmallInt(None) | T::Int2(None) | T::Int16 => DataType::Int16,
        T::Double(ExactNumberInfo::None) | T::DoublePrecision | T::Float8 | T::Float64 => DataType::Float64,
        T::Real | T::Float(ExactNumberInfo::None) | T::Float4 | T::Float32 => DataType::Float32,
        T::Bool | T::Boolean => DataType::Boolean,
        T::Varchar(None) | T::CharacterVarying(None) | T::Text | T::String(None) => DataType::Utf8,
        T::Varchar(Some(_)) | T::CharacterVarying(Some(_)) | T::Char(_) | T::Character(_) | T::String(Some(_)) => {
            return Err(
                bad(sql).fact("texts have no length here: write VARCHAR, and CHECK (length(c) <= …) to limit it")
            );
        }
        T::Decimal(size) | T::Numeric(size) | T::Dec(size) => decimal(sql, *size)?,
        T::Date | T::Date32 => DataType::Date32,
        T::Timestamp(digits, zone) => {
            if !matches!(digits, None | Some(6)) {
                return Err(bad(sql).fact("times are microseconds here: write TIMESTAMP"));
            }
            match zone {
                TimezoneInfo::None | TimezoneInfo::WithoutTimeZone => timestamp(false),
                TimezoneInfo::Tz | TimezoneInfo::WithTimeZone => timestamp(true),
            }
        }
        T::Custom(name, _) => {
            let name = name.to_string();
            let error = Error::new(Kind::Plan, "P110", format!("unknown type `{name}`")).fact(known());
            return Err(match nearest(&name, TYPES.iter().copied()) {
                Some(meant) => error.label(format!("did you mean {meant}?")),
                None => error,
            });
        }
        _ => return Err(bad(sql).fact(known())),
    })
}

fn timestamp(zoned: bool) -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, zoned.then(|| "UTC".into()))
}

fn decimal(sql: &ast::DataType, size: ExactNumberInfo) -> Result<DataType> {
    let advice = "write DECIMAL(precision, scale) with at most 38 digits: DECIMAL(18, 2)";
    let (precision, scale) = match size {
        ExactNumberInfo::None => return Err(bad(sql).fact(advice)),
        ExactNumberInfo::Precision(precision) => (precision, 0),
        ExactNumberInfo::PrecisionAndScale(precision, scale) => (precision, scale),
    };
    match (u8::try_from(precision), i8::try_from(scale)) {
        (Ok(p @ 1..=38), Ok(s)) if s >= 0 && s.unsigned_abs() <= p => Ok(DataType::Decimal128(p, s)),
        _ => Err(bad(sql).fact(advice)),
    }
}

fn bad(sql: &ast::DataType) -> Error {
    Error::new(Kind::Plan, "P110", format!("a column cannot be a {sql}"))
}

fn known() -> String {
    format!("types: {}", TYPES.join(", "))
}

/// The SQL name of an Arrow type, as messages write it.
#[must_use]
pub fn sql_type(of: &DataType) -> String {
    match of {
        DataType::Int64 => "BIGINT".to_owned(),
        DataType::Int32 => "INT".to_owned(),
        DataType::Int16 => "SMALLINT".to_owned(),
        DataType::Int8 => "TINYINT".to_owned(),
        DataType::UInt64 => "BIGINT UNSIGNED".to_owned(),
        DataType::UInt32 => "INT UNSIGNED".to_owned(),
        DataType::UInt16 => "SMALLINT UNSIGNED".to_owned(),
        DataType::UInt8 => "TINYINT UNSIGNED".to_owned(),
        DataType::Float64 => "DOUBLE".to_owned(),
        DataType::Float32 | DataType::Float16 => "REAL".to_owned(),
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "VARCHAR".to_owned(),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => format!("DECIMAL({precision}, {scale})"),
        DataType::Date32 | DataType::Date64 => "DATE".to_owned(),
        DataType::Time32(_) | DataType::Time64(_) => "TIME".to_owned(),
        DataType::Timestamp(unit, zone) => {
            let name = if zone.is_some() { "TIMESTAMPTZ" } else { "TIMESTAMP" };
            match unit {
                TimeUnit::Second => format!("{name}(0)"),
                TimeUnit::Millisecond => format!("{name}(3)"),
                TimeUnit::Microsecond => name.to_owned(),
                TimeUnit::Nanosecond => format!("{name}(9)"),
            }
        }
        DataType::Interval(_) | DataType::Duration(_) => "INTERVAL".to_owned(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            "VARBINARY".to_owned()
        }
        DataType::List(of)
        | DataType::LargeList(of)
        | DataType::ListView(of)
        | DataType::LargeListView(of)
        | DataType::FixedSizeList(of, _) => format!("{}[]", sql_type(of.data_type())),
        DataType::Null => "NULL".to_owned(),
        DataType::Dictionary(_, values) => sql_type(values),
        DataType::RunEndEncoded(_, values) => sql_type(values.data_type()),
        DataType::Struct(_) => "STRUCT".to_owned(),
        DataType::Map(..) => "MAP".to_owned(),
        DataType::Union(..) => "UNION".to_owned(),
    }
}
