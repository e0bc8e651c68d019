//! [`Case`]: a file of `cases/`: tables, a query, rows, and what to compare.
//!
//! The file is SQL. Lines that begin with `-- @` are for the test:
//!
//! ```text
//! -- @rows orders: 400 apart 1500      rows of a table, how many milliseconds of event time apart; [late 0.03] [timeless 0.01]
//! -- @changes orders: debezium 40      its rows become changes of so many keys; `upsert` for rows with `gone`, `recent` if none is late
//! -- @words orders.currency: eur, EUR, NULL    what a column is made of
//! -- @row rates: {"currency": "EUR"}   a row of a table that is looked up in
//! -- @targets files log view delta     what the query is written to; `upsert id` is a Delta table with that key
//! -- @accept orders: amount > 0        the rows that its CHECKs let through
//! -- @counts dropped: amount < 0       rows of the first table that are counted so; also `warned`, `dead REASON`, and
//!                                      `failed REASON` of rows that an expression of the query fails on
//! -- @approximate p95 0.03             a column that may differ by that share
//! -- @late n                           late rows come: the sum of column n and the late rows are all rows
//! -- @with allowed_lateness = '1 hour'   options of the pipeline
//! -- @sequence id                      the column that orders the versions of a key, for `upsert`
//! -- @live                           its rows belong to no interval, so there is no run of one
//! -- @waits                            its rows are given out when time has passed them, in a view too
//! -- @oracle                           the lines up to `-- @query` are the query as plain DataFusion understands it
//! -- @query                            the query is what follows
//! ```
//!
//! `WITH (@debezium)` and `WITH (@upsert)` stand for topics of changes by the first column.
//! `WITH (@input)` stands for wherever a run reads the rows from, `WITH (@lookup)` for a small file.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use tidemill_model::Timestamp;
use tidemill_testkit::{Tolerances, Words};

use super::changes::{Changing, Kind};

/// What a query is written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Files,
    Log,
    View,
    Delta,
    Upsert(String),
}

/// The rows of one table.
#[derive(Debug, Clone)]
pub(crate) struct Input {
    pub(crate) table: String,
    pub(crate) rows: usize,
    /// The event time of the first.
    pub(crate) from: Timestamp,
    pub(crate) apart: Duration,
    pub(crate) late: f64,
    pub(crate) timeless: f64,
    /// See [`tidemill_testkit::Arrivals`].
    pub(crate) grain: Duration,
    pub(crate) words: Words,
    pub(crate) changes: Option<Changing>,
}

/// The first event time of made-up rows, unless a case says another.
pub(crate) const FROM: Timestamp = Timestamp(1_767_225_600_000_000);

/// One case.
#[derive(Debug, Clone, Default)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) declarations: String,
    pub(crate) query: String,
    pub(crate) oracle: Option<String>,
    pub(crate) inputs: Vec<Input>,
    pub(crate) lookups: BTreeMap<String, String>,
    pub(crate) targets: Vec<Target>,
    pub(crate) accept: BTreeMap<String, String>,
    pub(crate) counts: Vec<(String, String)>,
    pub(crate) tolerances: Tolerances,
    /// The column that counts rows, when some are late.
    pub(crate) late: Option<String>,
    /// The column that orders versions, for `upsert`.
    pub(crate) sequence: Option<String>,
    /// Whether rows wait for time without a window, in a view too.
    pub(crate) waits: bool,
    /// Whether only live triggers can run it.
    pub(crate) live: bool,
    /// More options of the pipeline, each after a comma.
    pub(crate) options: String,
    /// Whether columns go to the target by name: it has them in another order.
    pub(crate) by_name: bool,
    /// Statements of the pipeline that write to something else than what is compared, from the same tables.
    pub(crate) beside: Option<String>,
}

impl Case {
    /// Whether rows are only given out when time has passed them.
    pub(crate) fn is_windowed(&self) -> bool {
        self.windows() > 0 || self.query.contains(" OVER (")
    }

    /// Whether tables too show windows that are open.
    pub(crate) fn shows_open(&self) -> bool {
        self.options.contains("emit = 'changes'")
    }

    /// Whether a view shows only what time has passed: of windows that are made of windows the inner ones.
    pub(crate) fn waits_in_views(&self) -> bool {
        self.waits || self.windows() > 1
    }

    /// Whether it reads changes, which only a topic keeps in order.
    pub(crate) fn reads_changes(&self) -> bool {
        self.inputs.iter().any(|input| input.changes.is_some())
    }

    fn windows(&self) -> usize {
        ["TUMBLE(", "HOP(", "SESSION("].iter().map(|word| self.query.matches(word).count()).sum()
    }

    fn parse(name: &str, text: &str) -> Case {
        let mut case = Case { name: name.to_owned(), ..Case::default() };
        let mut words: BTreeMap<String, Words> = BTreeMap::new();
        let mut part = Part::Declarations;
        for line in text.lines() {
            let Some(directive) = line.strip_prefix("-- @") else {
                let lines = match part {
                    Part::Declarations => &mut case.declarations,
                    Part::Oracle => case.oracle.get_or_insert_default(),
                    Part::Query => &mut case.query,
                };
                lines.push_str(line);
                lines.push('\n');
                continue;
            };
            let (word, rest) = directive.split_once(' ').unwrap_or((directive, ""));
            let named = || rest.split_once(": ").unwrap_or_else(|| panic!("{name}: `{line}` needs `NAME: `"));
            match word {
                "sequence" => case.sequence = Some(rest.to_owned()),
                "live" => case.live = true,
                "with" => case.options.push_str(&format!(", {rest}")),
                "waits" => case.waits = true,
                "query" => part = Part::Query,
                "oracle" => part = Part::Oracle,
                "targets" => case.targets = targets(rest),
                "rows" => case.inputs.push(input(named().0, named().1)),
                "changes" => {
                    let input = case.inputs.iter_mut().find(|input| input.table == named().0).expect("@rows before");
                    input.changes = Some(changing(named().1));
                }
                "row" => {
                    let lines = case.lookups.entry(named().0.to_owned()).or_default();
                    lines.push_str(named().1);
                    lines.push('\n');
                }
                "words" => {
                    let (table, column) = named().0.split_once('.').expect("@words TABLE.COLUMN: …");
                    let list = named().1.split(',').map(|word| word.trim().to_owned()).collect();
                    words.entry(table.to_owned()).or_default().insert(column.to_owned(), list);
                }
                "accept" => drop(case.accept.insert(named().0.to_owned(), named().1.to_owned())),
                "counts" => case.counts.push((named().0.to_owned(), named().1.to_owned())),
                "approximate" => {
                    let (column, share) = rest.split_once(' ').expect("@approximate COLUMN SHARE");
                    case.tolerances.insert(column.to_owned(), share.parse().expect("a share"));
                }
                "late" => case.late = Some(rest.to_owned()),
                other => panic!("{name}: unknown directive `@{other}`"),
            }
        }
        for input in &mut case.inputs {
            input.words = words.remove(&input.table).unwrap_or_default();
        }
        assert!(
            !case.query.trim().is_empty() && !case.targets.is_empty() && !case.inputs.is_empty(),
            "{name} is whole"
        );
        case
    }
}

enum Part {
    Declarations,
    Oracle,
    Query,
}

fn targets(text: &str) -> Vec<Target> {
    let mut words = text.split_whitespace();
    let mut targets = Vec::new();
    while let Some(word) = words.next() {
        targets.push(match word {
            "files" => Target::Files,
            "log" => Target::Log,
            "view" => Target::View,
            "delta" => Target::Delta,
            "upsert" => Target::Upsert(words.next().expect("upsert KEY").to_owned()),
            other => panic!("unknown target `{other}`"),
        });
    }
    targets
}

fn input(table: &str, text: &str) -> Input {
    let mut words = text.split_whitespace();
    let rows = words.next().and_then(|word| word.parse().ok()).expect("@rows TABLE: COUNT apart MILLISECONDS");
    let mut input = Input {
        table: table.to_owned(),
        rows,
        from: FROM,
        apart: Duration::from_secs(1),
        late: 0.0,
        timeless: 0.0,
        grain: Duration::ZERO,
        words: Words::new(),
        changes: None,
    };
    while let (Some(word), Some(value)) = (words.next(), words.next()) {
        match word {
            "apart" => input.apart = Duration::from_millis(value.parse().expect("milliseconds")),
            "late" => input.late = value.parse().expect("a share"),
            "timeless" => input.timeless = value.parse().expect("a share"),
            other => panic!("unknown word `{other}` in @rows"),
        }
    }
    input
}

fn changing(text: &str) -> Changing {
    let mut words = text.split_whitespace();
    let kind = match words.next() {
        Some("debezium") => Kind::Debezium,
        Some("upsert") => Kind::Upsert,
        other => panic!("unknown kind of changes {other:?}"),
    };
    let keys = words.next().and_then(|word| word.parse().ok()).expect("@changes TABLE: KIND KEYS");
    Changing { keys, recent: words.next() == Some("recent"), kind }
}

/// Every case whose name has `part` in it, by name.
pub(crate) fn cases(part: &str) -> Vec<Case> {
    // Cargo runs tests in their package's folder; a path that was compiled in may be another clone's.
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(Path::new("cases")).expect("the folder of cases") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if path.extension().is_some_and(|extension| extension == "sql") && name.contains(part) {
            cases.push(Case::parse(&name, &std::fs::read_to_string(&path).expect("a case")));
        }
    }
    assert!(!cases.is_empty(), "no case is named like `{part}`");
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    cases
}
