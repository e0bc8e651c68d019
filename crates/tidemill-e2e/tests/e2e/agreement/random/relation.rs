//! [`Maker`] makes [`Relation`]s with an event time: a table, part of one, two together, two joined, frames over one.
//!
//! **Invariant:** each is said twice, for us and for plain DataFusion, which knows neither ASOF nor our order of ties.

use std::collections::BTreeSet;

use tidemill_testkit::Rng;

use super::super::changes::Changing;
use super::expression::{aggregate, condition, expression, expression_of, one};
use super::schema::{Column, Table, Type};

/// What can stand after FROM.
#[derive(Debug, Clone)]
pub(super) struct Relation {
    pub(super) sql: String,
    pub(super) oracle: String,
    pub(super) columns: Vec<Column>,
}

impl Relation {
    /// The relation of a query over this one, whose text `write` makes around it.
    pub(super) fn within(&self, columns: Vec<Column>, write: impl Fn(&str) -> String) -> Relation {
        Relation { sql: write(&self.sql), oracle: write(&self.oracle), columns }
    }

    pub(super) fn with(
        &self,
        other: &Relation,
        columns: Vec<Column>,
        write: impl Fn(&str, &str) -> String,
    ) -> Relation {
        Relation { sql: write(&self.sql, &other.sql), oracle: write(&self.oracle, &other.oracle), columns }
    }

    pub(super) fn names(&self) -> Vec<&str> {
        self.columns.iter().map(|column| column.name.as_str()).collect()
    }

    /// In parentheses, to stand after FROM of another query.
    pub(super) fn wrapped(&self) -> Relation {
        self.within(self.columns.clone(), |sql| format!("({sql})"))
    }
}

/// Rows after all that are compared only close windows; this leaves them out.
pub(super) const OURS: &str = "at < TIMESTAMP '2027-06-01T00:00:00'";

pub(super) fn ours(rows: &Relation) -> Relation {
    rows.within(rows.columns.clone(), |from| format!("(SELECT * FROM {from} WHERE {OURS})"))
}

/// What a query is made with, and what is known of it so far.
pub(super) struct Maker {
    pub(super) random: Rng,
    pub(super) tables: [Table; 2],
    pub(super) used: [bool; 2],
    pub(super) looks_up: bool,
    /// Whether rows wait for time, in a view too.
    pub(super) waits: bool,
    /// How the rows of the first table change, if they do, and whether by a declared key.
    pub(super) changes: Option<Changing>,
    pub(super) keyed: bool,
    /// The part of rows that come late.
    pub(super) late: f64,
    /// Options of the pipeline, each after a comma.
    pub(super) options: String,
    /// Statements that declare views.
    pub(super) views: String,
    /// What the query is made of.
    pub(super) constructs: BTreeSet<&'static str>,
}

impl Maker {
    pub(super) fn new(random: Rng, tables: [Table; 2]) -> Maker {
        Maker {
            random,
            tables,
            used: [false; 2],
            looks_up: false,
            waits: false,
            changes: None,
            keyed: false,
            late: 0.0,
            options: String::new(),
            views: String::new(),
            constructs: BTreeSet::new(),
        }
    }

    pub(super) fn chance(&mut self, of: u32) -> bool {
        self.random.u32(0..of) == 0
    }

    pub(super) fn seconds(&mut self, of: &[u32]) -> String {
        format!("INTERVAL '{} seconds'", one(of, &mut self.random))
    }

    pub(super) fn condition(&mut self, columns: &[Column]) -> String {
        condition(columns, &mut self.random, 2)
    }

    pub(super) fn table(&mut self, number: usize) -> Relation {
        self.used[number] = true;
        let Table { name, columns, .. } = &self.tables[number];
        Relation { sql: (*name).to_owned(), oracle: (*name).to_owned(), columns: columns.clone() }
    }

    /// Some rows and columns of a table, with columns that are computed.
    pub(super) fn part(&mut self, number: usize) -> Relation {
        let table = self.table(number);
        let (list, columns) = self.projection(&table);
        let filter = if self.chance(3) { String::new() } else { format!(" WHERE {}", self.condition(&table.columns)) };
        table.within(columns, |from| format!("(SELECT {list} FROM {from}{filter})"))
    }

    /// `id`, `k`, `at` and some others.
    fn projection(&mut self, from: &Relation) -> (String, Vec<Column>) {
        let (mut list, mut columns) = (Vec::new(), Vec::new());
        for column in &from.columns {
            if ["id", "k", "at"].contains(&column.name.as_str()) || self.random.u32(0..5) > 0 {
                list.push(column.name.clone());
                columns.push(column.clone());
            }
        }
        for number in 0..self.random.usize(0..3) {
            let (text, of) = expression(&from.columns, &mut self.random);
            list.push(format!("{text} AS e{number}"));
            columns.push(Column::new(&format!("e{number}"), of));
        }
        (list.join(", "), columns)
    }

    /// Rows of one table, whole or in part, perhaps by the name of a view.
    pub(super) fn simple(&mut self, number: usize) -> Relation {
        match self.random.u32(0..8) {
            0..4 => self.table(number),
            4 => {
                let part = self.part(number);
                self.view(&part)
            }
            _ => self.part(number),
        }
    }

    /// A view of a relation that is the same for the oracle.
    fn view(&mut self, of: &Relation) -> Relation {
        self.constructs.insert("view");
        let name = format!("v{}", self.views.lines().count());
        let query = of.sql.strip_prefix('(').and_then(|sql| sql.strip_suffix(')')).unwrap_or(&of.sql);
        self.views.push_str(&format!("CREATE VIEW {name} AS {query};\n"));
        Relation { sql: name.clone(), oracle: name, columns: of.columns.clone() }
    }

    /// Rows to stand on the right of a join: of the other table, at times of the same.
    pub(super) fn partner(&mut self) -> Relation {
        let number = if self.chance(6) { 0 } else { 1 };
        self.simple(number)
    }

    /// Rows with an event time `at`, of whatever makes such.
    pub(super) fn stream(&mut self) -> Relation {
        match self.random.u32(0..16) {
            0..10 => self.simple(0),
            10 | 11 => self.union_all(),
            12 => self.lookup(),
            13 => self.interval_join("JOIN"),
            14 => self.asof(),
            _ => self.over_range(),
        }
    }

    /// The two tables below each other.
    pub(super) fn union_all(&mut self) -> Relation {
        self.constructs.insert("union all");
        let (a, b) = (self.simple(0), self.simple(1));
        let types = [Type::Number, Type::Text, Type::Double, Type::Flag];
        let count = self.random.usize(1..4);
        let (mut of_a, mut of_b) = (Vec::new(), Vec::new());
        let mut columns = vec![Column::new("id", Type::Number), self.tables[0].columns[1].clone()];
        for number in 0..count {
            let of = *one(&types, &mut self.random);
            of_a.push(format!("{} AS u{number}", expression_of(&a.columns, of, &mut self.random)));
            of_b.push(format!("{} AS u{number}", expression_of(&b.columns, of, &mut self.random)));
            columns.push(Column::new(&format!("u{number}"), of));
        }
        columns.push(Column::new("at", Type::Time));
        let (of_a, of_b) = (of_a.join(", "), of_b.join(", "));
        let filter = if self.chance(2) { String::new() } else { format!(" WHERE {}", self.condition(&b.columns)) };
        a.with(&b, columns, |a, b| {
            format!("(SELECT id, k, {of_a}, at FROM {a} UNION ALL SELECT id, k, {of_b}, at FROM {b}{filter})")
        })
    }

    /// A table with what is known of its keys.
    pub(super) fn lookup(&mut self) -> Relation {
        let left = self.chance(2);
        self.constructs.insert(if left { "lookup left" } else { "lookup inner" });
        self.looks_up = true;
        let stream = self.simple(0);
        let mut list: Vec<String> = stream.names().iter().map(|name| format!("s.{name}")).collect();
        list.push("d.weight AS weight".to_owned());
        list.push("d.note AS note".to_owned());
        let mut columns = stream.columns.clone();
        columns.extend([Column::new("weight", Type::Number), Column::new("note", Type::Text)]);
        let (list, join) = (list.join(", "), if left { "LEFT JOIN" } else { "JOIN" });
        stream.within(columns, |from| format!("(SELECT {list} FROM {from} AS s {join} rates AS d ON s.k = d.k)"))
    }

    /// Rows with what is around them in time.
    pub(super) fn over_range(&mut self) -> Relation {
        self.constructs.insert("over range");
        self.waits = true;
        let input = ours(&self.simple(0));
        let mut list: Vec<String> = input.names().into_iter().map(str::to_owned).collect();
        let mut columns = input.columns.clone();
        for number in 0..self.random.usize(1..3) {
            let before = self.seconds(&[0, 5, 30, 90]);
            let after = match self.chance(3) {
                true => format!("{} FOLLOWING", self.seconds(&[5, 20])),
                false => "CURRENT ROW".to_owned(),
            };
            let of = (0..20).map(|_| aggregate(&input.columns, &mut self.random));
            let slides = |call: &str| {
                ["sum(", "count(", "min(", "max(", "avg("].iter().any(|name| call.starts_with(name))
                    && !call.contains("DISTINCT")
                    && !call.contains("FILTER")
            };
            let (call, column) = of
                .into_iter()
                .find(|(call, _)| slides(call))
                .unwrap_or_else(|| ("count(*)".to_owned(), Column::new("", Type::Number)));
            let partition = ["PARTITION BY k ", "", "PARTITION BY c0 % 2, k "];
            let partition = partition[self.random.usize(0..if input.names().contains(&"c0") { 3 } else { 2 })];
            list.push(format!(
                "{call} OVER ({partition}ORDER BY at RANGE BETWEEN {before} PRECEDING AND {after}) AS o{number}"
            ));
            columns.push(column.named(&format!("o{number}")));
        }
        let list = list.join(", ");
        input.within(columns, |from| format!("(SELECT {list} FROM {from})"))
    }
}
