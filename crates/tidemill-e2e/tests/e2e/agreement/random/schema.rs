//! [`Column`]: columns of made-up tables and of the relations over them, with the values that they are made of.
//!
//! **Invariant:** what is computed from calm columns is exact in any order: doubles are small multiples of a quarter and
//! numbers are small, so that a sum that differs in the last digit differs because of us.

use std::time::Duration;

use tidemill_model::Timestamp;
use tidemill_testkit::Rng;

use super::expression::condition;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Number,
    Double,
    Money,
    Text,
    Flag,
    Time,
    Day,
}

/// A column of a relation.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) of: Type,
    /// Whether it can be computed with: its values are far from the ends of its type.
    pub(super) calm: bool,
    /// Some of its values, for conditions.
    pub(super) values: Vec<String>,
}

impl Column {
    pub(super) fn new(name: &str, of: Type) -> Column {
        Column { name: name.to_owned(), of, calm: true, values: Vec::new() }
    }

    pub(super) fn wild(mut self) -> Column {
        self.calm = false;
        self
    }

    pub(super) fn named(&self, name: &str) -> Column {
        Column { name: name.to_owned(), ..self.clone() }
    }
}

/// A made-up table.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) columns: Vec<Column>,
    types: Vec<String>,
    required: Vec<String>,
    /// Its CHECKs: the condition, and what becomes of a row that breaks it.
    checks: Vec<(String, &'static str)>,
    /// Whether it is a changelog, and whether by a declared key.
    follows: Option<bool>,
}

impl Table {
    /// `id`, the key `k`, the event time `at` and up to six others.
    pub(super) fn make(name: &'static str, key: &Column, from: Timestamp, random: &mut Rng) -> Table {
        let mut table = Table {
            name,
            columns: Vec::new(),
            types: Vec::new(),
            required: Vec::new(),
            checks: Vec::new(),
            follows: None,
        };
        table.columns.push(Column::new("id", Type::Number));
        table.types.push("BIGINT".to_owned());
        table.columns.push(key.clone());
        table.types.push(sql_type(key.of, true, random));
        for number in 0..random.usize(3..=6) {
            // A number first, so that there is always something to add up.
            let of = if number == 0 { Type::Number } else { any_type(random) };
            let (values, calm) = values(of, number > 0 && random.u32(0..4) == 0, random);
            let column = Column { name: format!("c{number}"), of, calm, values };
            if random.u32(0..8) == 0 {
                table.required.push(column.name.clone());
            }
            table.columns.push(column);
            table.types.push(sql_type(of, calm, random));
        }
        let near = |seconds: u64| from.plus(Duration::from_secs(seconds)).to_string().replace('Z', "");
        let values = (0..8).map(|_| near(random.u64(0..300))).collect();
        table.columns.push(Column { values, ..Column::new("at", Type::Time) });
        table.types.push("TIMESTAMP".to_owned());
        if random.u32(0..4) == 0 {
            for _ in 0..random.usize(1..=2) {
                // Rows that close windows pass.
                let condition = format!("{} OR id >= 1000000", condition(&table.columns, random, 1));
                let policy = ["DEAD LETTER", "DROP", "WARN"][random.usize(0..3)];
                table.checks.push((condition, policy));
            }
        }
        table
    }

    /// Its rows are changed, and all are taken.
    pub(super) fn follow(&mut self, keyed: bool) {
        self.required.clear();
        self.checks.clear();
        self.follows = Some(keyed);
    }

    pub(super) fn declaration(&self) -> String {
        let mut lines = Vec::new();
        for (column, of) in self.columns.iter().zip(&self.types) {
            let required = if self.required.contains(&column.name) { " NOT NULL" } else { "" };
            lines.push(format!("  {} {of}{required}", column.name));
        }
        lines.push("  WATERMARK FOR at AS at - INTERVAL '10 seconds'".to_owned());
        for (number, (condition, policy)) in self.checks.iter().enumerate() {
            lines.push(format!("  CONSTRAINT check_{number} CHECK ({condition}) ON VIOLATION {policy}"));
        }
        if self.follows == Some(true) {
            lines.push("  PRIMARY KEY (id)".to_owned());
        }
        let from = if self.follows.is_some() { "@debezium" } else { "@input" };
        format!("CREATE TABLE {} (\n{}\n) WITH ({from});\n", self.name, lines.join(",\n"))
    }

    /// The rows that its NOT NULLs and CHECKs let through, and that have an event time.
    pub(super) fn accepted(&self) -> String {
        let required = self.required.iter().map(String::as_str).chain(["at"]);
        let required = required.map(|name| format!("{name} IS NOT NULL"));
        let kept = self.checks.iter().filter(|(_, policy)| *policy != "WARN");
        let kept = kept.map(|(condition, _)| format!("coalesce({condition}, true)"));
        required.chain(kept).collect::<Vec<_>>().join(" AND ")
    }

    pub(super) fn has_checks(&self) -> bool {
        !self.checks.is_empty()
    }
}

/// The key that tables have in common: few values, one of them hot.
pub(super) fn key(random: &mut Rng) -> Column {
    let of = [Type::Number, Type::Text][random.usize(0..2)];
    Column { values: values(of, false, random).0, ..Column::new("k", of) }
}

fn any_type(random: &mut Rng) -> Type {
    let types = [Type::Number, Type::Double, Type::Money, Type::Text, Type::Flag, Type::Time, Type::Day];
    types[random.usize(0..types.len())]
}

/// A type for a column of values that are near zero, if it is calm.
fn sql_type(of: Type, calm: bool, random: &mut Rng) -> String {
    match of {
        Type::Number if calm => ["BIGINT", "BIGINT", "BIGINT", "INT", "SMALLINT"][random.usize(0..5)],
        Type::Number => "BIGINT",
        Type::Double if calm => ["DOUBLE", "DOUBLE", "REAL"][random.usize(0..3)],
        Type::Double => "DOUBLE",
        Type::Money => ["DECIMAL(12, 2)", "DECIMAL(10, 4)", "DECIMAL(18, 2)"][random.usize(0..3)],
        Type::Text => "VARCHAR",
        Type::Flag => "BOOLEAN",
        Type::Time => "TIMESTAMP",
        Type::Day => "DATE",
    }
    .to_owned()
}

/// Words of which the hot one stands several times, and whether they are calm.
fn values(of: Type, extreme: bool, random: &mut Rng) -> (Vec<String>, bool) {
    let count = [2, 5, 12, 40][random.usize(0..4)];
    let one = |random: &mut Rng| match of {
        Type::Number => random.i64(-9..60).to_string(),
        Type::Double => (random.i64(-200..4000) as f64 / 4.0).to_string(),
        Type::Money => format!("{}.{:02}", random.i64(-20..900), random.u32(0..100)),
        Type::Text => {
            let words = ["north", "South", "SOUTH", "süd-ost", "a \"quoted\" word", "it's", "x", "NULLS", "日本", "1"];
            format!("{}{}", words[random.usize(0..words.len())], ["", "", "1", "2"][random.usize(0..4)])
        }
        Type::Flag => ["true", "false"][random.usize(0..2)].to_owned(),
        Type::Time => format!("2026-01-01T00:{:02}:{:02}", random.u32(0..60), random.u32(0..60)),
        Type::Day => format!("2026-{:02}-{:02}", random.u32(1..=12), random.u32(1..=28)),
    };
    let mut values: Vec<String> = (0..count).map(|_| one(random)).collect();
    let hot = values[0].clone();
    values.extend(vec![hot; [0, count / 2, 2 * count][random.usize(0..3)]]);
    let ends: &[&str] = match of {
        Type::Number => &["9223372036854775807", "-9223372036854775808", "0"],
        Type::Double => &["1e300", "-1e300", "5e-324", "-0", "0"],
        Type::Time => &["9999-12-31T23:59:59.999999", "0001-01-01T00:00:00", "1969-12-31T23:59:59.999999"],
        Type::Day => &["9999-12-31", "0001-01-01", "1969-12-31"],
        Type::Money | Type::Text | Type::Flag => &[],
    };
    let extreme = extreme && !ends.is_empty();
    if extreme {
        values.extend(ends.iter().map(|&end| end.to_owned()));
    }
    (values, !extreme)
}
