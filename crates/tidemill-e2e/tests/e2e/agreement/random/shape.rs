//! The shapes of queries: each makes a whole query and says where it can be written to.
//!
//! **Invariant:** what a shape says of targets is what DESIGN promises; a refusal is counted, not worked around.

use super::super::case::Target;
use super::changing::{changed_groups, changed_top, changed_windows, deduplicated, late_windows, of_each_key};
use super::expression::{aggregate, condition, one};
use super::failing::{failing_groups, failing_rows};
use super::joins::window_join;
use super::ordered::{ordered_aggregates, over_windows, qualify};
use super::relation::{Maker, Relation, ours};
use super::schema::{Column, Type};

/// A query.
pub(super) struct Query {
    pub(super) of: Relation,
    pub(super) targets: Vec<Target>,
    /// Whether only live triggers can run it.
    pub(super) live: bool,
}

/// A shape, by its name.
pub(super) type Shape = (&'static str, fn(&mut Maker) -> Query);

/// Every shape.
pub(super) const SHAPES: &[Shape] = &[
    ("rows", rows),
    ("tumble", |maker| windowed(maker, "TUMBLE")),
    ("hop", |maker| windowed(maker, "HOP")),
    ("session", |maker| windowed(maker, "SESSION")),
    ("groups", groups),
    ("groups by key", groups_by_key),
    ("nested groups", nested_groups),
    ("groups above windows", groups_above_windows),
    ("distinct in windows", distinct_in_windows),
    ("distinct", distinct),
    ("union", union),
    ("union of groups", union_of_groups),
    ("windows of windows", windows_of_windows),
    ("top n", top_n),
    ("top n of groups", top_n_of_groups),
    ("distinct on", distinct_on),
    ("interval join", |maker| join(maker, Maker::any_interval_join)),
    ("asof join", |maker| join(maker, Maker::asof)),
    ("lookup join", |maker| join(maker, Maker::lookup)),
    ("half join", |maker| join(maker, Maker::half_join)),
    ("window join", window_join),
    ("over range", |maker| join(maker, Maker::over_range)),
    ("by key from windows", windows_by_key),
    ("over windows", over_windows),
    ("qualify", qualify),
    ("ordered aggregates", ordered_aggregates),
    ("failing rows", failing_rows),
    ("failing groups", failing_groups),
    ("changed groups", changed_groups),
    ("changed windows", changed_windows),
    ("changed top n", changed_top),
    ("late windows", late_windows),
    ("rows of a key", of_each_key),
    ("dedup", deduplicated),
];

/// Where rows can go that are given out once.
pub(super) const APPENDED: [Target; 4] = [Target::Files, Target::Log, Target::View, Target::Delta];

pub(super) fn appended(of: Relation) -> Query {
    Query { of, targets: APPENDED.to_vec(), live: false }
}

/// A relation that stands in parentheses as the whole query.
fn unwrapped(of: &Relation) -> Relation {
    let strip = |text: &str| match text.strip_prefix('(').and_then(|text| text.strip_suffix(')')) {
        Some(inside) => inside.to_owned(),
        None => format!("SELECT * FROM {text}"),
    };
    Relation { sql: strip(&of.sql), oracle: strip(&of.oracle), columns: of.columns.clone() }
}

fn rows(maker: &mut Maker) -> Query {
    let of = if maker.chance(4) { maker.union_all() } else { maker.part(0) };
    Query { of: unwrapped(&of), targets: vec![Target::Files, Target::Log, Target::Delta], live: false }
}

fn join(maker: &mut Maker, relation: fn(&mut Maker) -> Relation) -> Query {
    let of = relation(maker);
    if maker.chance(3) {
        let condition = maker.condition(&of.columns);
        return appended(of.within(of.columns.clone(), |from| format!("SELECT * FROM {from} WHERE {condition}")));
    }
    appended(unwrapped(&of))
}

impl Maker {
    fn any_interval_join(&mut self) -> Relation {
        let join = *one(&["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"], &mut self.random);
        self.interval_join(join)
    }

    /// Keys of a GROUP BY: columns and expressions, each with the name that it gets.
    pub(super) fn keys(&mut self, input: &Relation, most: usize) -> Vec<(String, Column)> {
        let mut keys: Vec<(String, Column)> = Vec::new();
        for number in 0..self.random.usize(0..=most) {
            let name = format!("g{number}");
            let column = one(&input.columns, &mut self.random).clone();
            let (text, of) = match (column.of, column.calm, self.random.u32(0..3)) {
                (Type::Number, true, 0) => (format!("{} % 4", column.name), Type::Number),
                (Type::Number, true, 1) if column.name == "id" => ("id % 7".to_owned(), Type::Number),
                (Type::Text, _, 0) => (format!("upper({})", column.name), Type::Text),
                (Type::Time, true, _) => (format!("date_trunc('minute', {})", column.name), Type::Time),
                (_, _, 1) => (condition(&input.columns, &mut self.random, 0), Type::Flag),
                _ => (column.name.clone(), column.of),
            };
            let calm = column.calm || of == Type::Flag;
            if keys.iter().all(|(other, _)| *other != text) {
                keys.push((text, Column { calm, ..Column::new(&name, of) }));
            }
        }
        keys
    }

    pub(super) fn aggregates(&mut self, input: &Relation) -> Vec<(String, Column)> {
        let count = self.random.usize(1..5);
        let mut calls = vec![("count(*)".to_owned(), Column::new("n", Type::Number))];
        for number in 0..count {
            let (call, column) = aggregate(&input.columns, &mut self.random);
            if call.contains("DISTINCT") {
                self.constructs.insert("distinct aggregate");
            }
            if call.contains("FILTER") {
                self.constructs.insert("filter clause");
            }
            calls.push((call, column.named(&format!("a{number}"))));
        }
        calls
    }

    pub(super) fn having(&mut self) -> String {
        if !self.chance(4) {
            return String::new();
        }
        self.constructs.insert("having");
        let conditions = [
            " HAVING count(*) > 2",
            " HAVING count(*) % 2 = 0",
            " HAVING count(*) BETWEEN 2 AND 30 AND min(k) IS NOT NULL",
        ];
        (*one(&conditions, &mut self.random)).to_owned()
    }

    /// A window function over a relation: `TUMBLE(…)`, and the keys that a session is told apart by.
    pub(super) fn window(&mut self, kind: &'static str, input: &Relation, time: &str) -> (Relation, Vec<String>) {
        self.constructs.insert(match kind {
            "TUMBLE" => "tumble",
            "HOP" => "hop",
            _ => "session",
        });
        let mut columns = input.columns.clone();
        columns.extend([Column::new("window_start", Type::Time), Column::new("window_end", Type::Time)]);
        let mut apart = Vec::new();
        let more = match kind {
            "TUMBLE" => format!("{}{}", self.seconds(&[10, 25, 60, 180, 3600]), self.offset()),
            "HOP" => {
                let step = *one(&[5, 10, 20, 30], &mut self.random);
                let size = self.seconds(&[7, 10, 30, 50, 120]);
                format!("INTERVAL '{step} seconds', {size}{}", self.offset())
            }
            _ => {
                if !self.chance(5) {
                    apart.push("k".to_owned());
                }
                if input.names().contains(&"c0") && self.chance(4) {
                    apart.push("c0".to_owned());
                }
                let gap = self.seconds(&[2, 5, 15]);
                apart.iter().enumerate().fold(gap, |text, (number, key)| match number {
                    0 => format!("{text}, PARTITION BY {key}"),
                    _ => format!("{text}, {key}"),
                })
            }
        };
        (input.within(columns, |from| format!("{kind}({from}, {time}, {more})")), apart)
    }

    fn offset(&mut self) -> String {
        if !self.chance(6) {
            return String::new();
        }
        self.constructs.insert("offset");
        format!(", OFFSET => {}", self.seconds(&[1, 3, 9]))
    }

    /// A GROUP BY of windows.
    pub(super) fn window_groups(&mut self, kind: &'static str, input: &Relation, time: &str) -> Relation {
        let (windows, apart) = self.window(kind, input, time);
        let mut keys: Vec<(String, Column)> = Vec::new();
        for name in &apart {
            let column = input.columns.iter().find(|column| column.name == *name).expect("a column");
            keys.push((name.clone(), column.clone()));
        }
        keys.extend(self.keys(input, 2).into_iter().filter(|(text, _)| !apart.contains(text)));
        let calls = self.aggregates(input);
        let having = self.having();
        let filter = match kind != "SESSION" && self.chance(4) {
            true => format!(" WHERE {}", self.condition(&input.columns)),
            false => String::new(),
        };
        let shown = [&["window_start", "window_end"][..], &["window_start"], &["window_end"]];
        let shown = if time == "at" { *one(&shown, &mut self.random) } else { &["window_start", "window_end"] };
        let (mut list, mut columns) = named(&keys);
        for bound in shown {
            list.push((*bound).to_owned());
            columns.push(Column::new(bound, Type::Time));
        }
        let (texts, given) = named(&calls);
        list.extend(texts);
        columns.extend(given);
        let mut by: Vec<String> = keys.iter().map(|(text, _)| text.clone()).collect();
        by.extend(["window_start".to_owned(), "window_end".to_owned()]);
        let (list, by) = (list.join(", "), by.join(", "));
        windows.within(columns, |from| format!("SELECT {list} FROM {from}{filter} GROUP BY {by}{having}"))
    }

    /// A GROUP BY without windows.
    pub(super) fn plain_groups(&mut self, input: &Relation, keys: &[(String, Column)], having: &str) -> Relation {
        let calls = self.aggregates(input);
        let (mut list, mut columns) = named(keys);
        let (texts, given) = named(&calls);
        list.extend(texts);
        columns.extend(given);
        let filter = if self.chance(2) { String::new() } else { format!(" WHERE {}", self.condition(&input.columns)) };
        let by: Vec<&str> = keys.iter().map(|(text, _)| text.as_str()).collect();
        let by = if by.is_empty() { String::new() } else { format!(" GROUP BY {}", by.join(", ")) };
        let list = list.join(", ");
        input.within(columns, |from| format!("SELECT {list} FROM {from}{filter}{by}{having}"))
    }

    fn any_window(&mut self) -> &'static str {
        one::<&str>(&["TUMBLE", "TUMBLE", "HOP", "SESSION"], &mut self.random)
    }
}

pub(super) fn named(calls: &[(String, Column)]) -> (Vec<String>, Vec<Column>) {
    calls.iter().map(|(text, column)| (format!("{text} AS {}", column.name), column.clone())).unzip()
}

fn windowed(maker: &mut Maker, kind: &'static str) -> Query {
    let input = maker.stream();
    appended(maker.window_groups(kind, &input, "at"))
}

fn groups(maker: &mut Maker) -> Query {
    let input = maker.stream();
    let (keys, having) = (maker.keys(&input, 3), maker.having());
    let having = if keys.is_empty() { String::new() } else { having };
    let of = maker.plain_groups(&input, &keys, &having);
    Query { of, targets: vec![Target::View], live: true }
}

fn groups_by_key(maker: &mut Maker) -> Query {
    let input = maker.simple(0);
    let having = if maker.chance(2) { maker.having() } else { String::new() };
    let live = !having.is_empty();
    let plain = input.within(input.columns.clone(), |from| format!("(SELECT * FROM {from} WHERE k IS NOT NULL)"));
    let key = vec![("k".to_owned(), plain.columns[1].clone())];
    let of = maker.plain_groups(&plain, &key, &having);
    Query { of, targets: vec![Target::Upsert("k".to_owned()), Target::View], live }
}

fn windows_by_key(maker: &mut Maker) -> Query {
    let mut input = maker.simple(0);
    if maker.chance(2) {
        maker.constructs.insert("emit changes");
        maker.options.push_str(", emit = 'changes'");
        input = ours(&input);
    }
    let (windows, _) = maker.window("TUMBLE", &input, "at");
    let calls = maker.aggregates(&input);
    let (list, given) = named(&calls);
    let list = list.join(", ");
    let mut columns = vec![input.columns[1].clone(), Column::new("window_start", Type::Time)];
    columns.extend(given);
    let of = windows.within(columns, |from| {
        format!("SELECT k, window_start, {list} FROM {from} WHERE k IS NOT NULL GROUP BY k, window_start, window_end")
    });
    Query { of, targets: vec![Target::Upsert("k, window_start".to_owned())], live: false }
}

fn nested_groups(maker: &mut Maker) -> Query {
    let input = maker.simple(0);
    let inner_keys =
        vec![("k".to_owned(), input.columns[1].named("k")), ("id % 9".to_owned(), Column::new("id", Type::Number))];
    let having = maker.having();
    let inner = maker.plain_groups(&input, &inner_keys, &having).wrapped();
    let keys = maker.keys(&inner, 2);
    let of = maker.plain_groups(&inner, &keys, "");
    Query { of, targets: vec![Target::View], live: true }
}

fn groups_above_windows(maker: &mut Maker) -> Query {
    let input = maker.simple(0);
    let kind = maker.any_window();
    let inner = maker.window_groups(kind, &input, "at").wrapped();
    let mut keys = maker.keys(&inner, 2);
    keys.retain(|(text, _)| !text.contains("window_"));
    let of = maker.plain_groups(&inner, &keys, "");
    Query { of, targets: vec![Target::View], live: true }
}

fn distinct_in_windows(maker: &mut Maker) -> Query {
    let input = maker.stream();
    let kind = *one(&["TUMBLE", "HOP"], &mut maker.random);
    let (windows, _) = maker.window(kind, &input, "at");
    let (list, mut columns) = named(&maker.keys(&input, 3));
    let list: String = list.iter().map(|text| format!("{text}, ")).collect();
    columns.extend([Column::new("window_start", Type::Time), Column::new("window_end", Type::Time)]);
    let of = windows.within(columns, |from| format!("SELECT DISTINCT {list}window_start, window_end FROM {from}"));
    appended(of)
}

fn distinct(maker: &mut Maker) -> Query {
    let input = maker.stream();
    let mut keys = maker.keys(&input, 3);
    if keys.is_empty() {
        keys.push(("k".to_owned(), Column::new("g0", input.columns[1].of)));
    }
    let (list, columns) = named(&keys);
    let list = list.join(", ");
    let of = input.within(columns, |from| format!("SELECT DISTINCT {list} FROM {from}"));
    Query { of, targets: vec![Target::Files, Target::Log, Target::View], live: true }
}

fn union(maker: &mut Maker) -> Query {
    let (a, b) = (maker.simple(0), maker.simple(1));
    let filter = maker.condition(&b.columns);
    let columns = vec![a.columns[1].clone(), Column::new("third", Type::Number)];
    let of = a.with(&b, columns, |a, b| {
        format!("SELECT k, id % 3 AS third FROM {a} UNION SELECT k, id % 5 FROM {b} WHERE {filter}")
    });
    Query { of, targets: vec![Target::Files, Target::Log, Target::View], live: true }
}

fn union_of_groups(maker: &mut Maker) -> Query {
    maker.constructs.insert("union all");
    let (a, b) = (maker.simple(0), maker.simple(1));
    let columns = vec![a.columns[1].clone(), Column::new("n", Type::Number), Column::new("high", Type::Number)];
    let (having, filter) = (maker.having(), maker.condition(&b.columns));
    let of = a.with(&b, columns, |a, b| {
        format!(
            "SELECT k, count(*) AS n, max(id) AS high FROM {a} GROUP BY k{having} \
             UNION ALL SELECT k, count(DISTINCT id % 11), sum(id) FROM {b} WHERE {filter} GROUP BY k"
        )
    });
    let of = match maker.chance(2) {
        true => {
            let of = of.wrapped();
            let key = vec![("n % 5".to_owned(), Column::new("g0", Type::Number))];
            maker.plain_groups(&of, &key, "")
        }
        false => of,
    };
    Query { of, targets: vec![Target::View], live: true }
}

fn windows_of_windows(maker: &mut Maker) -> Query {
    let input = maker.stream();
    let kind = maker.any_window();
    let (windows, apart) = maker.window(kind, &input, "at");
    let mut keys = vec![("k".to_owned(), input.columns[1].clone())];
    keys.extend(apart.iter().filter(|name| *name != "k").map(|name| (name.clone(), Column::new(name, Type::Number))));
    let calls = maker.aggregates(&input);
    let (list, mut columns) = named(&keys);
    let (texts, given) = named(&calls);
    columns.extend(given);
    columns.push(Column::new("id", Type::Number));
    let by: Vec<&str> = keys.iter().map(|(text, _)| text.as_str()).collect();
    let bound = *one(&["window_start", "window_end"], &mut maker.random);
    let (list, texts, by, having) = (list.join(", "), texts.join(", "), by.join(", "), maker.having());
    let inner = windows.within(columns, |from| {
        format!(
            "(SELECT {list}, {texts}, max(id) AS id, {bound} AS w FROM {from} GROUP BY {by}, window_start, window_end{having})"
        )
    });
    let (windows, _) = maker.window("TUMBLE", &inner, "w");
    let keys = maker.keys(&inner, 1);
    let calls = maker.aggregates(&inner);
    let (mut list, mut columns) = named(&keys);
    list.push("window_start".to_owned());
    columns.push(Column::new("window_start", Type::Time));
    let (texts, given) = named(&calls);
    list.extend(texts);
    columns.extend(given);
    let by: String = keys.iter().map(|(text, _)| format!("{text}, ")).collect();
    let list = list.join(", ");
    appended(windows.within(columns, |from| format!("SELECT {list} FROM {from} GROUP BY {by}window_start, window_end")))
}

/// The rest of the row, by name: what decides between rows that are equal by what is written.
pub(super) fn rest(names: &[&str], written: &[&str]) -> String {
    let mut names: Vec<&str> = names.iter().copied().filter(|name| !written.contains(name)).collect();
    names.sort_unstable();
    names.iter().map(|name| format!(", {name}")).collect()
}

fn ranked(maker: &mut Maker, windows: &Relation, bound: &str) -> Query {
    maker.waits = true;
    let function = *one(&["row_number", "row_number", "rank", "dense_rank"], &mut maker.random);
    let more = if maker.chance(2) { ", k" } else { "" };
    let by = one(&windows.columns, &mut maker.random).name.clone();
    let descending = *one(&["", " DESC", " DESC NULLS LAST"], &mut maker.random);
    let most = maker.random.u32(1..5);
    let names: Vec<&str> = windows.names();
    let list = names.join(", ");
    let write = |from: &str, rest: &str| {
        format!(
            "SELECT {list}, CAST(place AS BIGINT) AS place FROM (SELECT *, {function}() OVER (PARTITION BY {bound}{more} \
             ORDER BY {by}{descending}{rest}) AS place FROM {from}) WHERE place <= {most}"
        )
    };
    let rest = if function == "row_number" { rest(&names, &[&by, bound]) } else { String::new() };
    let mut columns = windows.columns.clone();
    columns.push(Column::new("place", Type::Number));
    appended(Relation { sql: write(&windows.sql, ""), oracle: write(&windows.oracle, &rest), columns })
}

fn top_n(maker: &mut Maker) -> Query {
    let input = maker.stream();
    let kind = *one(&["TUMBLE", "TUMBLE", "HOP"], &mut maker.random);
    let (windows, _) = maker.window(kind, &input, "at");
    let bound = *one(&["window_start", "window_end"], &mut maker.random);
    ranked(maker, &windows, bound)
}

fn top_n_of_groups(maker: &mut Maker) -> Query {
    let input = maker.simple(0);
    let kind = *one(&["TUMBLE", "HOP"], &mut maker.random);
    let (windows, _) = maker.window(kind, &input, "at");
    let columns = vec![
        input.columns[1].clone(),
        Column::new("third", Type::Number),
        Column::new("window_start", Type::Time),
        Column::new("n", Type::Number),
        Column::new("high", Type::Number),
    ];
    let groups = windows.within(columns, |from| {
        format!(
            "(SELECT k, id % 3 AS third, window_start, count(*) AS n, max(id) AS high FROM {from} \
             GROUP BY k, id % 3, window_start, window_end)"
        )
    });
    ranked(maker, &groups, "window_start")
}

fn distinct_on(maker: &mut Maker) -> Query {
    maker.waits = true;
    let input = maker.stream();
    let (windows, _) = maker.window("TUMBLE", &input, "at");
    // A column twice in an ORDER BY makes DataFusion panic.
    let free: Vec<&Column> = input.columns.iter().filter(|column| column.name != "k").collect();
    let by = one(&free, &mut maker.random).name.clone();
    let descending = *one(&["", " DESC"], &mut maker.random);
    let names = windows.names();
    let (list, rest) = (names.join(", "), rest(&names, &["window_start", "k", &by]));
    let write = |from: &str, rest: &str| {
        format!(
            "SELECT DISTINCT ON (window_start, k) {list} FROM {from} ORDER BY window_start, k, {by}{descending}{rest}"
        )
    };
    let (sql, oracle) = (write(&windows.sql, ""), write(&windows.oracle, &rest));
    appended(Relation { sql, oracle, columns: windows.columns.clone() })
}
