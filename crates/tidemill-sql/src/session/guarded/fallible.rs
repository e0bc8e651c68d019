//! [`can_fail`]: whether an expression can fail on some row.
//!
//! **Invariant:** what is said not to fail does not; when in doubt it can, which costs a little room for the optimiser
//! and never an answer.

use arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::TreeNode;
use datafusion::logical_expr::{Expr, ExprSchemable, Operator};

use crate::session::{HOP_PANE, TUMBLE_END, TUMBLE_START};

/// Functions that have an answer for every value of their arguments' types.
const TOTAL: &[&str] = &[
    "coalesce",
    "nullif",
    "nvl",
    "ifnull",
    "greatest",
    "least",
    "upper",
    "lower",
    "trim",
    "btrim",
    "ltrim",
    "rtrim",
    "length",
    "char_length",
    "character_length",
    "octet_length",
    "bit_length",
    "reverse",
    "starts_with",
    "ends_with",
    "contains",
    "strpos",
    "position",
    "concat",
    "concat_ws",
    "left",
    "right",
    "replace",
    "md5",
    "sha256",
    "sha512",
    "date_part",
    "isnan",
    "iszero",
    "signum",
    TUMBLE_START,
    TUMBLE_END,
    HOP_PANE,
];

/// Whether an expression over these columns can fail on some row.
#[must_use]
pub fn can_fail(expr: &Expr, schema: &DFSchema) -> bool {
    expr.exists(|part| Ok(part_can_fail(part, schema))).unwrap_or(true)
}

/// Whether an expression holds a subquery that optimisation could not turn into a join.
#[must_use]
pub fn has_subquery(expr: &Expr) -> bool {
    let is_query = |part: &Expr| matches!(part, Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_));
    expr.exists(|part| Ok(is_query(part))).unwrap_or(true)
}

/// Whether this node can fail though what is below it does not.
fn part_can_fail(part: &Expr, schema: &DFSchema) -> bool {
    let type_of = |expr: &Expr| expr.get_type(schema).unwrap_or(DataType::Null);
    match part {
        Expr::Alias(_)
        | Expr::Column(_)
        | Expr::Literal(..)
        | Expr::Not(_)
        | Expr::IsNotNull(_)
        | Expr::IsNull(_)
        | Expr::IsTrue(_)
        | Expr::IsFalse(_)
        | Expr::IsUnknown(_)
        | Expr::IsNotTrue(_)
        | Expr::IsNotFalse(_)
        | Expr::IsNotUnknown(_)
        | Expr::Between(_)
        | Expr::Like(_)
        | Expr::Case(_)
        | Expr::InList(_)
        | Expr::TryCast(_)
        | Expr::AggregateFunction(_)
        | Expr::WindowFunction(_) => false,
        Expr::Negative(inner) => !type_of(inner).is_floating(),
        Expr::Cast(cast) => cast_can_fail(&type_of(&cast.expr), cast.field.data_type()),
        Expr::BinaryExpr(binary) => match binary.op {
            Operator::Plus | Operator::Minus | Operator::Multiply | Operator::Divide | Operator::Modulo => {
                !type_of(part).is_floating()
            }
            Operator::Eq
            | Operator::NotEq
            | Operator::Lt
            | Operator::LtEq
            | Operator::Gt
            | Operator::GtEq
            | Operator::And
            | Operator::Or
            | Operator::IsDistinctFrom
            | Operator::IsNotDistinctFrom
            | Operator::StringConcat
            | Operator::LikeMatch
            | Operator::NotLikeMatch
            | Operator::ILikeMatch
            | Operator::NotILikeMatch => false,
            _ => true,
        },
        Expr::ScalarFunction(call) => !TOTAL.contains(&call.name()),
        _ => true,
    }
}

/// Whether a value of one type may have none in the other.
pub(super) fn cast_can_fail(from: &DataType, to: &DataType) -> bool {
    use DataType::{Boolean, Date32, Dictionary, Float32, Float64, LargeUtf8, Null, Timestamp, Utf8, Utf8View};
    match (from, to) {
        (from, to) if from == to => false,
        (Null, _) => false,
        // Bytes need not be text.
        (from, Utf8 | LargeUtf8 | Utf8View) => from.is_binary() || matches!(from, DataType::FixedSizeBinary(_)),
        (Dictionary(_, values), to) => cast_can_fail(values, to),
        (from, Dictionary(_, values)) => cast_can_fail(from, values),
        (Boolean, to) => !to.is_numeric(),
        (from, Float32 | Float64) if from.is_numeric() => false,
        (Timestamp(from, _), Timestamp(to, _)) => from != to,
        (Timestamp(..), Date32) => false,
        (from, to) => !fits(from, to),
    }
}

/// Whether every value of one type of numbers has one in the other.
fn fits(from: &DataType, to: &DataType) -> bool {
    match (Numbers::of(from), Numbers::of(to)) {
        (Some(Numbers::Signed(from)), Some(Numbers::Signed(to))) => from <= to,
        (Some(Numbers::Unsigned(from)), Some(Numbers::Unsigned(to))) => from <= to,
        (Some(Numbers::Unsigned(from)), Some(Numbers::Signed(to))) => from < to,
        (Some(Numbers::Signed(bits) | Numbers::Unsigned(bits)), Some(Numbers::Decimal { whole, .. })) => {
            // 2^8, 2^16, 2^32 and 2^64 have so many digits.
            let digits = match bits {
                8 => 3,
                16 => 5,
                32 => 10,
                _ => 20,
            };
            digits <= whole
        }
        (Some(Numbers::Decimal { whole: from, scale }), Some(Numbers::Decimal { whole: to, scale: kept })) => {
            // Rounding to fewer places may carry into one more digit before the point.
            from + i16::from(kept < scale) <= to
        }
        _ => false,
    }
}

/// The range of a type of numbers: its bits, or its digits.
enum Numbers {
    Signed(u32),
    Unsigned(u32),
    Decimal { whole: i16, scale: i16 },
}

impl Numbers {
    fn of(data_type: &DataType) -> Option<Numbers> {
        Some(match data_type {
            DataType::Int8 => Numbers::Signed(8),
            DataType::Int16 => Numbers::Signed(16),
            DataType::Int32 => Numbers::Signed(32),
            DataType::Int64 => Numbers::Signed(64),
            DataType::UInt8 => Numbers::Unsigned(8),
            DataType::UInt16 => Numbers::Unsigned(16),
            DataType::UInt32 => Numbers::Unsigned(32),
            DataType::UInt64 => Numbers::Unsigned(64),
            DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
                let scale = i16::from(*scale);
                Numbers::Decimal { whole: i16::from(*precision) - scale, scale }
            }
            _ => return None,
        })
    }
}
