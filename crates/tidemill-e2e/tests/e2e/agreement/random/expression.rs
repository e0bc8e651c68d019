//! Expressions, conditions and aggregates over the columns of a relation.
//!
//! **Invariant:** none of them fails for any row, so that DataFusion, which has no dead letters, can be the oracle.

use tidemill_testkit::Rng;

use super::schema::{Column, Type};

/// One of these.
pub(super) fn one<'a, T>(of: &'a [T], random: &mut Rng) -> &'a T {
    &of[random.usize(0..of.len())]
}

fn calm<'a>(columns: &'a [Column], of: Type, random: &mut Rng) -> Option<&'a Column> {
    let fit: Vec<&Column> = columns.iter().filter(|column| column.of == of && column.calm).collect();
    if fit.is_empty() { None } else { Some(*one(&fit, random)) }
}

/// A value that the column may have.
fn literal(column: &Column, random: &mut Rng) -> String {
    let value = match column.values.is_empty() {
        false => one(&column.values, random).clone(),
        true => match column.of {
            Type::Text => "South".to_owned(),
            Type::Flag => "true".to_owned(),
            Type::Time => format!("2026-01-01T00:{:02}:00", random.u32(0..8)),
            Type::Day => "2026-01-01".to_owned(),
            Type::Number | Type::Double | Type::Money => random.i64(0..60).to_string(),
        },
    };
    match column.of {
        Type::Number | Type::Flag => value,
        Type::Double => format!("CAST({value} AS DOUBLE)"),
        Type::Money => format!("CAST('{value}' AS DECIMAL(12, 2))"),
        Type::Text => format!("'{}'", value.replace('\'', "''")),
        Type::Time => format!("TIMESTAMP '{value}'"),
        Type::Day => format!("DATE '{value}'"),
    }
}

/// A condition, which may be NULL.
pub(super) fn condition(columns: &[Column], random: &mut Rng, depth: u32) -> String {
    if depth > 0 && random.u32(0..3) == 0 {
        let (a, b) = (condition(columns, random, depth - 1), condition(columns, random, depth - 1));
        return match random.u32(0..4) {
            0 => format!("NOT ({a})"),
            1 => format!("({a} AND {b})"),
            _ => format!("({a} OR {b})"),
        };
    }
    let column = one(columns, random);
    let name = &column.name;
    if !column.calm {
        return format!("{name} IS {}NULL", one(&["", "NOT "], random));
    }
    let (a, b) = (literal(column, random), literal(column, random));
    // In parentheses: `x IS DISTINCT FROM 3 AND y` is read as the whole of `3 AND y`.
    let text = match (column.of, random.u32(0..7)) {
        (Type::Flag, 0..=3) => name.clone(),
        (Type::Flag, _) => format!("{name} IS NOT TRUE"),
        (_, 0) => format!("{name} IS NOT NULL"),
        (_, 1) => format!("{name} IN ({a}, {b})"),
        (_, 2) => format!("{name} IS DISTINCT FROM {a}"),
        (Type::Text, 3) => format!("{name} LIKE '%o%'"),
        (Type::Number, 3) => format!("{name} % 3 <> 1"),
        (_, 3) => format!("{name} NOT BETWEEN {a} AND {b}"),
        (_, 4) => format!("{name} <> {a}"),
        (_, 5) => format!("{name} <= {a}"),
        _ => format!("{name} > {a}"),
    };
    format!("({text})")
}

/// An expression and what it gives.
pub(super) fn expression(columns: &[Column], random: &mut Rng) -> (String, Type) {
    let of = *one(&[Type::Number, Type::Number, Type::Double, Type::Money, Type::Text, Type::Text, Type::Flag], random);
    (expression_of(columns, of, random), of)
}

pub(super) fn expression_of(columns: &[Column], of: Type, random: &mut Rng) -> String {
    let Some(a) = calm(columns, of, random) else {
        let condition = condition(columns, random, 0);
        return match of {
            Type::Number => format!("CASE WHEN {condition} THEN 1 ELSE 2 END"),
            Type::Double => format!("CASE WHEN {condition} THEN CAST(0.5 AS DOUBLE) END"),
            Type::Money => format!("CASE WHEN {condition} THEN CAST('1.25' AS DECIMAL(12, 2)) END"),
            Type::Text => format!("CASE WHEN {condition} THEN 'yes' ELSE 'no' END"),
            Type::Flag | Type::Time | Type::Day => condition,
        };
    };
    let b = calm(columns, of, random).unwrap_or(a);
    let l = literal(a, random);
    let (a, b) = (&a.name, &b.name);
    match (of, random.u32(0..6)) {
        (Type::Number, 0) => format!("{a} % 4"),
        (Type::Number, 1) => format!("{a} * 3 - {b}"),
        (Type::Number, 2) => format!("{a} / nullif({b} % 5, 0)"),
        (Type::Number, 3) => format!("abs({a}) + {l}"),
        (Type::Double, 0) => format!("-{a}"),
        (Type::Double, 1) => format!("{a} * 2 + {b}"),
        (Type::Double, 2) => format!("round({a})"),
        (Type::Money, 0) => format!("{a} * 2"),
        (Type::Money, 1) => format!("{a} + {b}"),
        (Type::Money, 2) => format!("-{a}"),
        (Type::Text, 0) => format!("upper({a})"),
        (Type::Text, 1) => format!("{a} || '/' || {b}"),
        (Type::Text, 2) => format!("substr({a}, 2, 3)"),
        (Type::Text, 3) => format!("concat({a}, {b})"),
        (Type::Flag, _) => condition(columns, random, 2),
        (_, 4) => format!("coalesce({a}, {l})"),
        (_, 5) => format!("CASE WHEN {} THEN {a} ELSE {b} END", condition(columns, random, 1)),
        _ => format!("nullif({a}, {l})"),
    }
}

/// A call of an aggregate and what it gives: a column whose name is the caller's to give.
pub(super) fn aggregate(columns: &[Column], random: &mut Rng) -> (String, Column) {
    let column = one(columns, random);
    let name = &column.name;
    let number = |call: String| (call, Column::new("", Type::Number));
    let same = |call: String| (call, Column { values: Vec::new(), ..column.clone() });
    let double = |call: String| (call, Column::new("", Type::Double).wild());
    let (call, given) = match (column.of, column.calm, random.u32(0..12)) {
        (_, _, 0) => number("count(*)".to_owned()),
        (_, _, 1) => number(format!("count({name})")),
        (_, _, 2) => number(format!("count(DISTINCT {name})")),
        (Type::Flag, ..) => (format!("{}({name})", one(&["bool_and", "bool_or"], random)), Column::new("", Type::Flag)),
        (_, _, 3) => same(format!("min({name})")),
        (_, _, 4) => same(format!("max({name})")),
        (Type::Number, true, 5) => number(format!("sum(DISTINCT {name})")),
        (Type::Number, true, 6) => double(format!("avg({name})")),
        (Type::Number, true, 7) => {
            number(format!("{}({name})", one(&["bit_xor", "bit_and", "bit_or", "bit_xor"], random)))
        }
        (Type::Number, true, 8) => double(format!("{}({name})", one(&["stddev", "var_pop", "stddev_pop"], random))),
        (Type::Number, true, 9) => double(format!("percentile_cont(CAST({name} AS DOUBLE), 0.75)")),
        (Type::Number, true, _) => number(format!("sum({name})")),
        (Type::Double, true, 5 | 6) => double(format!("avg({name})")),
        (Type::Double, true, 7) => double(format!("median({name})")),
        (Type::Double, true, 8) => double(format!("{}({name})", one(&["var_samp", "stddev"], random))),
        (Type::Double, true, 9) => double(format!("percentile_cont({name}, 0.25)")),
        (Type::Double, true, _) => (format!("sum({name})"), Column::new("", Type::Double)),
        (Type::Money, true, 5 | 6) => (format!("avg({name})"), Column::new("", Type::Money).wild()),
        (Type::Money, true, 7) => same(format!("median({name})")),
        (Type::Money, true, _) => (format!("sum({name})"), Column::new("", Type::Money).wild()),
        (_, _, 5..8) => same(format!("min({name})")),
        _ => same(format!("max({name})")),
    };
    if random.u32(0..5) == 0 {
        return (format!("{call} FILTER (WHERE {})", condition(columns, random, 1)), given);
    }
    (call, given)
}
