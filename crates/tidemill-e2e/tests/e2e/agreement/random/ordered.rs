//! What depends on the order of rows, within windows: window functions, QUALIFY, ordered aggregates.
//!
//! **Invariant:** an order that is written ends with `id`, which is one row's alone; one that is not is completed for the
//! oracle as the language says, by time and then by every column that is needed, in the order of their names.

use super::expression::one;
use super::relation::{Maker, Relation};
use super::schema::{Column, Type};
use super::shape::{Query, appended};

impl Maker {
    /// Rows of one table, each there once, in windows.
    fn rows_in_windows(&mut self) -> (Relation, Relation) {
        let input = self.simple(0);
        let kind = *one(&["TUMBLE", "TUMBLE", "HOP"], &mut self.random);
        let (windows, _) = self.window(kind, &input, "at");
        (input, windows)
    }

    /// A column and a direction, and `id`, by which no two rows are equal.
    fn order(&mut self, input: &Relation) -> String {
        let free: Vec<&Column> = input.columns.iter().filter(|column| column.name != "id").collect();
        let by = one(&free, &mut self.random).name.clone();
        let direction = *one(&["", " DESC", " DESC NULLS LAST", " ASC NULLS FIRST"], &mut self.random);
        let last = *one(&["", " DESC"], &mut self.random);
        format!("ORDER BY {by}{direction}, id{last}")
    }

    fn calm_column(&mut self, input: &Relation) -> Column {
        let calm: Vec<&Column> = input.columns.iter().filter(|column| column.calm).collect();
        (*one(&calm, &mut self.random)).clone()
    }
}

/// Any function over the rows of a window.
pub(super) fn over_windows(maker: &mut Maker) -> Query {
    maker.waits = true;
    let (input, windows) = maker.rows_in_windows();
    let mut list: Vec<String> = vec!["id".to_owned(), "k".to_owned(), "window_start".to_owned()];
    for number in 0..maker.random.usize(1..4) {
        let x = maker.calm_column(&input);
        let (name, order) = (&x.name, maker.order(&input));
        let more = *one(&["", ", k"], &mut maker.random);
        let rows = *one(
            &[
                "",
                " ROWS BETWEEN 2 PRECEDING AND CURRENT ROW",
                " ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING",
                " ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING",
            ],
            &mut maker.random,
        );
        let adds = matches!(x.of, Type::Number | Type::Money);
        let (call, rows) = match maker.random.u32(0..12) {
            0 => (format!("lag({name})"), ""),
            1 => (format!("lag({name}, 2)"), ""),
            2 => (format!("lead({name})"), ""),
            3 => (format!("first_value({name})"), rows),
            4 => (format!("last_value({name})"), rows),
            5 => (format!("nth_value({name}, 2)"), rows),
            6 => ("percent_rank()".to_owned(), ""),
            7 => ("cume_dist()".to_owned(), ""),
            8 | 9 if adds => (format!("sum({name})"), rows),
            8 | 9 => (format!("count({name})"), rows),
            10 => (format!("min({name})"), rows),
            _ => (format!("max({name})"), rows),
        };
        list.push(format!("{call} OVER (PARTITION BY window_start{more} {order}{rows}) AS f{number}"));
    }
    let list = list.join(", ");
    appended(windows.within(Vec::new(), |from| format!("SELECT {list} FROM {from}")))
}

/// The first rows of each window, by QUALIFY.
pub(super) fn qualify(maker: &mut Maker) -> Query {
    maker.waits = true;
    let (input, windows) = maker.rows_in_windows();
    let order = maker.order(&input);
    let more = *one(&["", ", k"], &mut maker.random);
    let most = maker.random.u32(1..4);
    let list = windows.names().join(", ");
    appended(windows.within(Vec::new(), |from| {
        format!(
            "SELECT {list} FROM {from} \
             QUALIFY row_number() OVER (PARTITION BY window_start{more} {order}) <= {most}"
        )
    }))
}

/// Aggregates that take the order of rows into account.
pub(super) fn ordered_aggregates(maker: &mut Maker) -> Query {
    maker.waits = true;
    let (input, windows) = maker.rows_in_windows();
    let (x, y) = (maker.calm_column(&input), maker.calm_column(&input));
    // By time without a word, or by what is written: those that keep all rows have one order.
    let written = maker.random.bool().then(|| maker.order(&input));
    let mut needed = ["id", x.name.as_str(), y.name.as_str()].to_vec();
    needed.sort_unstable();
    needed.dedup();
    needed.retain(|name| !["at", "k"].contains(name));
    let completed = format!("ORDER BY at, {}", needed.join(", "));
    let calls = |order: &str| {
        let (x, y) = (&x.name, &y.name);
        let order = if order.is_empty() { String::new() } else { format!(" {order}") };
        format!(
            "max(id) AS high, first_value({x}{order}) AS a, last_value({y}{order}) AS z, \
             nth_value({x}, 2{order}) AS second, string_agg(CAST({y} AS VARCHAR), '|'{order}) AS texts, \
             array_to_string(array_agg(id{order}), '-') AS ids"
        )
    };
    let write = |from: &str, calls: &str| {
        format!("SELECT k, window_start, count(*) AS n, {calls} FROM {from} GROUP BY k, window_start, window_end")
    };
    let (ours, theirs) = match &written {
        Some(order) => (calls(order), calls(order)),
        None => (calls(""), calls(&completed)),
    };
    appended(Relation { sql: write(&windows.sql, &ours), oracle: write(&windows.oracle, &theirs), columns: Vec::new() })
}
