//! Queries that nobody wrote: tables, rows and a query from a seed, run in several ways and compared with the oracle.
//!
//! **Invariant:** everything follows from the seed and the query's number. `cargo xtask queries --count 5000 --seed 7` makes
//! many of them, `--seed 7 --query 17` runs one alone, and `TIDEMILL_E2E_QUERY` puts another query in its place, over the
//! same tables and rows: a smaller one that still fails.

mod changing;
mod expression;
mod failing;
mod joins;
mod ordered;
mod relation;
mod schema;
mod shape;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use tidemill_model::Timestamp;
use tidemill_testkit::Rng;

use super::case::{Case, FROM, Input, Target};
use super::execution::{Bench, Way};
use crate::knobs;
use expression::one;
use relation::Maker;
use schema::{Column, Table, Type};
use shape::{Query, SHAPES};

/// A query with its tables, and the ways to run it.
struct Made {
    case: Case,
    constructs: BTreeSet<&'static str>,
    runs: Vec<(Target, Way)>,
}

fn make(number: u64, seed: u64) -> Made {
    let mut random = Rng::with_seed(seed);
    let key = schema::key(&mut random);
    let from = begin(&mut random);
    let tables = [Table::make("a", &key, from, &mut random), Table::make("b", &key, from, &mut random)];
    let mut maker = Maker::new(random, tables);
    let (shape, write) = SHAPES[usize::try_from(number).unwrap_or(0) % SHAPES.len()];
    maker.constructs.insert(shape);
    let Query { of, targets, live } = write(&mut maker);
    let mut case = Case {
        name: format!("random_{number}"),
        query: of.sql,
        oracle: Some(of.oracle),
        targets: targets.clone(),
        waits: maker.waits,
        live,
        options: std::mem::take(&mut maker.options),
        ..Case::default()
    };
    if maker.chance(8) {
        maker.constructs.insert("by name");
        case.by_name = true;
    }
    if maker.changes.is_some() {
        // What is refused of a change is a matter of its own.
        maker.tables[0].follow(maker.keyed);
    }
    let mut accepted = "true".to_owned();
    if maker.chance(8) && maker.changes.is_none() {
        maker.constructs.insert("start");
        let start = from.plus(Duration::from_secs(maker.random.u64(1..60))).to_string();
        case.options.push_str(&format!(", start = '{start}'"));
        accepted = format!("at >= TIMESTAMP '{}'", start.trim_end_matches('Z'));
    }
    for (table, used) in maker.tables.iter().zip(maker.used) {
        if used {
            case.declarations.push_str(&table.declaration());
            case.accept.insert(table.name.to_owned(), format!("{} AND {accepted}", table.accepted()));
            let mut input = input(table, from, &mut maker.random);
            input.late = maker.late;
            if table.name == "a" && maker.changes.is_some() {
                (input.changes, input.timeless) = (maker.changes, 0.0);
            }
            case.inputs.push(input);
            if table.has_checks() {
                maker.constructs.insert("check");
            }
        }
    }
    // What the views of a query read is declared before them.
    case.declarations.push_str(&maker.views);
    if !case.options.contains("emit") && maker.changes.is_none() && maker.late == 0.0 && maker.chance(6) {
        maker.constructs.insert("beside");
        case.beside = Some(beside(&case.inputs[0].table, &key));
    }
    if maker.looks_up {
        let of = if key.of == Type::Number { "BIGINT" } else { "VARCHAR" };
        case.declarations
            .push_str(&format!("CREATE TABLE rates (k {of}, weight BIGINT, note VARCHAR) WITH (@lookup);\n"));
        case.lookups.insert("rates".to_owned(), rates(&key, &mut maker.random));
    }
    let runs = runs(&targets, live, &mut maker.random);
    Made { case, constructs: maker.constructs, runs }
}

/// The first event time: of late, before and around 1970, at the end of a February, of a month.
fn begin(random: &mut Rng) -> Timestamp {
    let second = |seconds: i64| Timestamp(seconds * 1_000_000);
    *one(&[FROM, FROM, FROM, second(-100), second(-86_400 * 365), second(1_709_164_770), second(1_769_903_990)], random)
}

/// A statement that writes rows of a table to files nobody compares with the oracle.
fn beside(table: &str, key: &Column) -> String {
    let of = if key.of == Type::Number { "BIGINT" } else { "VARCHAR" };
    format!(
        "CREATE TABLE beside (k {of}, id BIGINT, at TIMESTAMP) \
         WITH (connector = 'files', path = 'out/beside', format = 'json');\n\
         INSERT INTO beside SELECT k, id, at FROM {table} WHERE id % 2 = 0;\n"
    )
}

fn input(table: &Table, from: Timestamp, random: &mut Rng) -> Input {
    let words = table.columns.iter().filter(|column| !column.values.is_empty() && column.name != "at");
    Input {
        table: table.name.to_owned(),
        rows: random.usize(40..300),
        from,
        apart: Duration::from_millis(*one(&[50, 400, 1_000, 2_500], random)),
        late: 0.0,
        timeless: if random.u32(0..6) == 0 { 0.02 } else { 0.0 },
        grain: *one(&[Duration::ZERO, Duration::from_millis(1), Duration::from_secs(1)], random),
        words: words.map(|column| (column.name.clone(), column.values.clone())).collect(),
        changes: None,
    }
}

/// One row for most keys, several for some, and one without.
fn rates(key: &Column, random: &mut Rng) -> String {
    let mut lines = String::new();
    let keys: BTreeSet<&String> = key.values.iter().collect();
    for value in keys {
        let value = match key.of {
            Type::Number => value.clone(),
            _ => serde_json::Value::String(value.clone()).to_string(),
        };
        for _ in 0..*one(&[0, 1, 1, 1, 3], random) {
            lines.push_str(&format!(
                "{{\"k\": {value}, \"weight\": {}, \"note\": \"n{}\"}}\n",
                random.i64(0..9),
                random.u32(0..4)
            ));
        }
    }
    lines.push_str("{\"k\": null, \"weight\": 9, \"note\": \"never\"}\n");
    lines
}

/// Three ways to run a query, each into a target that takes it.
fn runs(targets: &[Target], live: bool, random: &mut Rng) -> Vec<(Target, Way)> {
    let mut runs = Vec::new();
    let stored: Vec<&Target> = targets.iter().filter(|target| **target != Target::View).collect();
    if !live && !stored.is_empty() {
        let way = if random.bool() { Way::Interval } else { Way::Intervals { count: random.usize(2..5) } };
        runs.push(((*one(&stored, random)).clone(), way));
    }
    runs.push((one(targets, random).clone(), Way::Threads { lanes: random.usize(1..=3) }));
    let way = match random.u32(0..4) {
        0 => Way::simulated("once", random.u64(0..3)),
        1 => Way::simulated("every 40 ms", random.u64(0..4)),
        _ => Way::simulated("continuous", random.u64(0..6)),
    };
    runs.push((one(targets, random).clone(), way));
    runs
}

/// What came of all queries.
#[derive(Default)]
struct Tally {
    /// By construct: how many queries, how many executions agreed, how many were refused.
    constructs: BTreeMap<&'static str, [u64; 3]>,
    refused: BTreeMap<String, u64>,
    ways: BTreeMap<&'static str, u64>,
    runs: u64,
    empty: u64,
    deaths: u64,
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let refused: u64 = self.refused.values().sum();
        writeln!(f, "{} executions, {refused} refused, {} queries without an answer", self.runs, self.empty)?;
        writeln!(f, "agreed by way: {:?}; {} deaths", self.ways, self.deaths)?;
        for (construct, [queries, agreed, refused]) in &self.constructs {
            writeln!(f, "  {construct:22} {queries:5} queries, {agreed:5} agreed, {refused:5} refused")?;
        }
        for (why, count) in &self.refused {
            writeln!(f, "  {count:5} refused: {why}")?;
        }
        Ok(())
    }
}

impl Tally {
    /// Runs one query; what disagrees is answered.
    fn run(&mut self, number: u64) -> Vec<String> {
        let seed = knobs::seed_of(&["random", &number.to_string()]);
        let Made { mut case, constructs, runs } = make(number, seed);
        if let Some(query) = knobs::query() {
            (case.query, case.oracle) = (query, None);
        }
        for construct in &constructs {
            self.constructs.entry(construct).or_default()[0] += 1;
        }
        let told = |what: &str, failure: &str| {
            format!("{} {what}:\n{}\n{}\n  {failure}", case.name, case.declarations, case.query)
        };
        let bench = match Bench::made(&case, seed) {
            Ok(bench) => bench,
            Err(failure) => return vec![told("is not understood by the oracle", &failure)],
        };
        if !bench.is_said() {
            self.empty += 1;
            return Vec::new();
        }
        self.empty += u64::from(!bench.has_answer());
        let mut failures = Vec::new();
        for (target, way) in &runs {
            self.runs += 1;
            // A panic is told with its query, and the others go on.
            let checked = std::panic::catch_unwind(AssertUnwindSafe(|| bench.check(target, way, seed)));
            let Ok(checked) = checked else {
                failures.push(told(&format!("{way:?} into {target:?}"), "panicked, as told above"));
                continue;
            };
            match checked {
                Ok(outcome) => {
                    *self.ways.entry(way.name()).or_default() += 1;
                    self.deaths += outcome.deaths;
                    constructs.iter().for_each(|construct| self.constructs.entry(construct).or_default()[1] += 1);
                }
                Err(failure) => match failure.refused {
                    Some(code) => {
                        let first = failure.to_string();
                        let (_, message) = first.split_once(": ").unwrap_or(("", &first));
                        let message = message.lines().next().unwrap_or_default();
                        *self.refused.entry(format!("{code} {message}")).or_default() += 1;
                        constructs.iter().for_each(|construct| self.constructs.entry(construct).or_default()[2] += 1);
                    }
                    None => failures.push(told(&format!("{way:?} into {target:?}"), &failure.to_string())),
                },
            }
        }
        failures
    }
}

#[test]
fn random_queries() {
    let only = knobs::only_case();
    let numbers = match only.strip_prefix("random_") {
        Some(number) => {
            let number: u64 = number.parse().expect("TIDEMILL_E2E_CASE=random_NUMBER");
            number..number + 1
        }
        None => 0..knobs::queries(),
    };
    let mut tally = Tally::default();
    let mut failures = Vec::new();
    for number in numbers.clone() {
        let found = tally.run(number);
        // At once: of thousands, one may take long.
        found.iter().for_each(|failure| println!("{failure}\n"));
        failures.extend(found);
    }
    println!("{tally}");
    let again = format!("again, one alone: cargo xtask queries --seed {} --query <number>", knobs::seed());
    assert!(failures.is_empty(), "{} executions disagree; {again}\n{}\n{tally}", failures.len(), failures.join("\n\n"));
    if only.is_empty() {
        let refused: u64 = tally.refused.values().sum();
        assert!(refused * 3 <= tally.runs, "over a third of all executions are refused\n{tally}");
        assert!(tally.empty * 4 <= numbers.end, "over a quarter of all queries have no answer\n{tally}");
        let untested = tally.constructs.iter().filter(|(_, [queries, agreed, _])| *queries > 2 && *agreed == 0);
        let untested: Vec<&str> = untested.map(|(construct, _)| *construct).collect();
        assert!(untested.is_empty(), "{untested:?} are never tested\n{tally}");
    }
}
