//! Queries whose expressions fail for some rows: those are dead letters, and all others are there.
//!
//! **Invariant:** the oracle computes with NULL in the place of each error, and leaves out the rows that have one in what they
//! output. Conditions are made of AND, OR and comparisons only: there an error and NULL keep the same rows.

use super::expression::{condition, one};
use super::relation::{Maker, Relation};
use super::schema::{Column, Type};
use super::shape::{APPENDED, Query};

/// An expression that fails for some rows, the same with NULL there, and when that is.
struct Fallible {
    ours: String,
    theirs: String,
    fails: String,
}

impl Maker {
    fn fallible(&mut self, input: &Relation) -> Fallible {
        let fit = |column: &&Column| column.calm && matches!(column.of, Type::Number | Type::Text);
        let fit: Vec<&Column> = input.columns.iter().filter(fit).collect();
        let column = *one(&fit, &mut self.random);
        let name = &column.name;
        let fallible = |ours: String, theirs: String, fails: String| Fallible { ours, theirs, fails };
        match (column.of, self.random.u32(0..3)) {
            (Type::Number, 0) => fallible(
                format!("60 / ({name} % 4)"),
                format!("60 / nullif({name} % 4, 0)"),
                format!("({name} % 4 IS NOT DISTINCT FROM 0)"),
            ),
            (Type::Number, 1) => fallible(
                format!("(id % ({name} - 7))"),
                format!("(id % nullif({name} - 7, 0))"),
                format!("({name} IS NOT DISTINCT FROM 7)"),
            ),
            (Type::Number, _) => fallible(
                format!("(CAST({name} AS BIGINT) % 3 + 1) * 4611686018427387904"),
                format!(
                    "CASE WHEN CAST({name} AS BIGINT) % 3 + 1 IN (-1, 0, 1) THEN (CAST({name} AS BIGINT) % 3 + 1) * 4611686018427387904 END"
                ),
                format!("({name} IS NOT NULL AND CAST({name} AS BIGINT) % 3 + 1 NOT IN (-1, 0, 1))"),
            ),
            _ => fallible(
                format!("CAST({name} AS BIGINT)"),
                format!("TRY_CAST({name} AS BIGINT)"),
                format!("({name} IS NOT NULL AND TRY_CAST({name} AS BIGINT) IS NULL)"),
            ),
        }
    }

    /// A condition that may fail.
    fn fallible_condition(&mut self, input: &Relation) -> (String, String) {
        let Fallible { ours, theirs, .. } = self.fallible(input);
        let limit = self.random.i64(-3..40);
        let (compare, other) =
            (*one(&[">", "<=", "<>"], &mut self.random), condition(&input.columns, &mut self.random, 1));
        let write = |of: &str| match limit % 3 {
            0 => format!("{of} {compare} {limit}"),
            1 => format!("({of} {compare} {limit} OR {other})"),
            _ => format!("{other} AND {of} {compare} {limit}"),
        };
        (write(&ours), write(&theirs))
    }

    /// Rows of a table with columns that fail for some.
    fn failing(&mut self) -> Relation {
        self.options.push_str(", max_errors = 'none'");
        let input = self.simple(0);
        let (mut ours, mut theirs) = (vec!["id", "k", "at"], vec!["id", "k", "at"]);
        let (mut columns, mut dead) = (vec![Column::new("id", Type::Number), input.columns[1].clone()], Vec::new());
        let made: Vec<Fallible> = (0..self.random.usize(1..3)).map(|_| self.fallible(&input)).collect();
        let texts: Vec<(String, String)> = made
            .iter()
            .enumerate()
            .map(|(number, one)| (format!("{} AS f{number}", one.ours), format!("{} AS f{number}", one.theirs)))
            .collect();
        for (number, (one, (of_us, of_them))) in made.iter().zip(&texts).enumerate() {
            ours.push(of_us);
            theirs.push(of_them);
            dead.push(format!("NOT {}", one.fails));
            columns.push(Column::new(&format!("f{number}"), Type::Number));
        }
        columns.push(Column { values: Vec::new(), ..Column::new("at", Type::Time) });
        let (ours, theirs, dead) = (ours.join(", "), theirs.join(", "), dead.join(" AND "));
        let (filter, their_filter) = match self.chance(2) {
            true => {
                let (a, b) = self.fallible_condition(&input);
                (format!(" WHERE {a}"), format!(" AND {b}"))
            }
            false => (String::new(), String::new()),
        };
        Relation {
            sql: format!("(SELECT {ours} FROM {}{filter})", input.sql),
            oracle: format!("(SELECT {theirs} FROM {} WHERE {dead}{their_filter})", input.oracle),
            columns,
        }
    }
}

/// Rows as they are.
pub(super) fn failing_rows(maker: &mut Maker) -> Query {
    let rows = maker.failing();
    let list = rows.names().join(", ");
    let of = rows.within(Vec::new(), |from| format!("SELECT {list} FROM {from}"));
    Query { of, targets: APPENDED.to_vec(), live: false }
}

/// Groups of them, of a window or not: a dead row is in none.
pub(super) fn failing_groups(maker: &mut Maker) -> Query {
    let rows = maker.failing();
    let used: Vec<String> = rows
        .names()
        .iter()
        .filter(|name| name.starts_with('f'))
        .map(|name| format!("max({name}) AS m{name}"))
        .collect();
    let used = used.join(", ");
    if maker.chance(2) {
        let size = maker.seconds(&[5, 20, 60]);
        let of = rows.within(Vec::new(), |from| {
            format!(
                "SELECT k, window_start, count(*) AS n, {used} FROM TUMBLE({from}, at, {size}) \
                 GROUP BY k, window_start, window_end"
            )
        });
        return Query { of, targets: APPENDED.to_vec(), live: false };
    }
    let of = rows.within(Vec::new(), |from| format!("SELECT k, count(*) AS n, {used} FROM {from} GROUP BY k"));
    Query { of, targets: vec![super::super::case::Target::View], live: true }
}
