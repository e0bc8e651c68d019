//! Rows that change, rows that come late and are waited for, and the rows of a key over all time.
//!
//! **Invariant:** in the end each is what the rows that stand say, however they came to stand.

use super::super::case::Target;
use super::super::changes::{Changing, Kind};
use super::expression::one;
use super::relation::{Maker, OURS, Relation};
use super::schema::{Column, Type};
use super::shape::{APPENDED, Query, appended, named, rest};

impl Maker {
    /// The rows of a changelog, whole or in part.
    fn changelog(&mut self, recent: bool) -> Relation {
        let keys = if recent { 400 } else { self.random.i64(20..80) };
        self.changes = Some(Changing { keys, recent, kind: Kind::Debezium });
        self.keyed = self.random.bool();
        self.constructs.insert(if self.keyed { "changelog by key" } else { "changelog" });
        self.simple(0)
    }
}

/// Groups of all time of rows that change.
pub(super) fn changed_groups(maker: &mut Maker) -> Query {
    let input = maker.changelog(false);
    let keys = maker.keys(&input, 2);
    let having = if keys.is_empty() { String::new() } else { maker.having() };
    let of = maker.plain_groups(&input, &keys, &having);
    let of = match maker.chance(3) && !keys.is_empty() {
        true => {
            let of = of.wrapped();
            let keys = maker.keys(&of, 1);
            maker.plain_groups(&of, &keys, "")
        }
        false => of,
    };
    Query { of, targets: vec![Target::View], live: true }
}

/// Windows over rows that change, each change in time.
pub(super) fn changed_windows(maker: &mut Maker) -> Query {
    let input = maker.changelog(true);
    let kind = *one(&["TUMBLE", "HOP"], &mut maker.random);
    let of = maker.window_groups(kind, &input, "at");
    Query { of, targets: vec![Target::Log, Target::View], live: false }
}

/// Windows that rows correct after they have closed.
pub(super) fn late_windows(maker: &mut Maker) -> Query {
    maker.options.push_str(", allowed_lateness = '1 hour'");
    maker.late = 0.08;
    let input = maker.simple(0);
    let kind = *one(&["TUMBLE", "HOP"], &mut maker.random);
    let (windows, _) = maker.window(kind, &input, "at");
    let calls = maker.aggregates(&input);
    let (list, given) = named(&calls);
    let list = list.join(", ");
    let mut columns = vec![input.columns[1].clone(), Column::new("window_start", Type::Time)];
    columns.extend(given);
    let of = windows.within(columns, |from| {
        format!("SELECT k, window_start, {list} FROM {from} WHERE k IS NOT NULL GROUP BY k, window_start, window_end")
    });
    Query { of, targets: vec![Target::Upsert("k, window_start".to_owned()), Target::View], live: false }
}

/// The first rows of each key over all time.
pub(super) fn of_each_key(maker: &mut Maker) -> Query {
    let input = maker.simple(0);
    let free: Vec<&Column> = input.columns.iter().filter(|column| column.name != "k").collect();
    let by = one(&free, &mut maker.random).name.clone();
    let descending = *one(&["", " DESC", " DESC NULLS LAST"], &mut maker.random);
    let names = input.names();
    let (list, most) = (names.join(", "), maker.random.u32(1..4));
    let rest = rest(&names, &["k", &by]);
    let on = most == 1 && maker.chance(2);
    let write = |from: &str, rest: &str| match on {
        true => format!("SELECT DISTINCT ON (k) {list} FROM {from} ORDER BY k, {by}{descending}{rest}"),
        false => format!(
            "SELECT {list} FROM (SELECT *, row_number() OVER (PARTITION BY k ORDER BY {by}{descending}{rest}) AS nth \
             FROM {from}) WHERE nth <= {most}"
        ),
    };
    let (sql, oracle) = (write(&input.sql, ""), write(&input.oracle, &rest));
    let of = Relation { sql, oracle, columns: input.columns.clone() };
    Query { of, targets: vec![Target::View], live: true }
}

/// Of each key a row, and then none for a while.
pub(super) fn deduplicated(maker: &mut Maker) -> Query {
    maker.waits = true;
    let input = maker.simple(0);
    let input = input.within(Vec::new(), |from| format!("(SELECT id, k, at FROM {from})"));
    let while_ = maker.seconds(&[1, 7, 40, 200]);
    let sql = format!("SELECT id, k, at FROM DEDUP({}, at, {while_}, PARTITION BY k) WHERE {OURS}", input.sql);
    let from = &input.oracle;
    let oracle = format!(
        "WITH RECURSIVE firsts AS (
           SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY k ORDER BY at, id) AS nth FROM {from}) WHERE nth = 1
         ), nexts AS (
           SELECT of, id FROM (
             SELECT x.id AS of, y.id AS id, row_number() OVER (PARTITION BY x.id ORDER BY y.at, y.id) AS nth
             FROM {from} AS x JOIN {from} AS y ON (x.k IS NOT DISTINCT FROM y.k) AND y.at >= x.at + {while_}
           ) WHERE nth = 1
         ), lives AS (
           SELECT id FROM firsts UNION ALL SELECT n.id FROM lives AS l JOIN nexts AS n ON n.of = l.id
         )
         SELECT o.id, o.k, o.at FROM {from} AS o JOIN lives AS l ON l.id = o.id WHERE o.{OURS}"
    );
    appended(Relation { sql, oracle, columns: Vec::new() })
}

/// The best rows of each window of rows that change.
pub(super) fn changed_top(maker: &mut Maker) -> Query {
    maker.waits = true;
    let input = maker.changelog(true);
    let (windows, _) = maker.window("TUMBLE", &input, "at");
    let names = windows.names();
    let (list, rest) = (names.join(", "), rest(&names, &["id", "window_start"]));
    let write = |from: &str, rest: &str| {
        format!(
            "SELECT {list} FROM (SELECT *, row_number() OVER (PARTITION BY window_start ORDER BY id DESC{rest}) AS place \
             FROM {from}) WHERE place <= 3"
        )
    };
    let (sql, oracle) = (write(&windows.sql, ""), write(&windows.oracle, &rest));
    Query {
        of: Relation { sql, oracle, columns: windows.columns.clone() },
        targets: vec![APPENDED[1].clone()],
        live: false,
    }
}
