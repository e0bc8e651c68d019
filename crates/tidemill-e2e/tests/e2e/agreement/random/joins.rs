//! Joins of two relations: by how far apart their times are, by the latest before, by window.
//!
//! **Invariant:** each is said twice, for us and for plain DataFusion, which knows no ASOF.

use super::expression::one;
use super::relation::{Maker, OURS, Relation, ours};
use super::schema::Column;
use super::shape::{Query, appended};

impl Maker {
    /// The columns of two relations beside each other; those of the right one are called `r_…`.
    fn beside(left: &Relation, right: &Relation, keyless: bool) -> (Vec<String>, Vec<Column>) {
        let (mut list, mut columns) = (Vec::new(), Vec::new());
        for column in &left.columns {
            let (name, of_left) = (&column.name, format!("l.{}", column.name));
            list.push(if keyless && name == "k" { "coalesce(l.k, r.k) AS k".to_owned() } else { of_left });
            columns.push(column.clone());
        }
        for column in right.columns.iter().filter(|column| column.name != "k") {
            list.push(format!("r.{} AS r_{}", column.name, column.name));
            columns.push(column.named(&format!("r_{}", column.name)));
        }
        (list, columns)
    }

    /// The condition of a join by time: the keys, both bounds, and perhaps more.
    fn near(&mut self) -> String {
        let (before, after) = (self.seconds(&[0, 5, 20]), self.seconds(&[1, 10, 40]));
        let bounds = match self.random.u32(0..3) {
            0 => format!("r.at BETWEEN l.at - {before} AND l.at + {after}"),
            1 => format!("r.at > l.at - {after} AND r.at <= l.at + {before}"),
            _ => format!("l.at >= r.at - {before} AND l.at < r.at + {after}"),
        };
        let keys = match self.random.u32(0..8) {
            0 => {
                self.constructs.insert("interval of two keys");
                "l.k = r.k AND l.id % 3 = r.id % 3 AND "
            }
            1 => {
                self.constructs.insert("interval without keys");
                "(l.id + r.id) % 11 = 0 AND "
            }
            _ => "l.k = r.k AND ",
        };
        let more = if self.chance(3) { " AND l.id <> r.id + 1" } else { "" };
        format!("{keys}{bounds}{more}")
    }

    /// Rows of one table that have a partner in time, or have none.
    pub(super) fn half_join(&mut self) -> Relation {
        let anti = self.chance(2);
        self.constructs.insert(if anti { "interval anti" } else { "interval semi" });
        self.waits |= anti;
        let (left, right) = (ours(&self.simple(0)), ours(&self.partner()));
        let on = self.near();
        let list: Vec<String> = left.names().iter().map(|name| format!("l.{name}")).collect();
        let list = list.join(", ");
        let word = match (self.chance(2), anti) {
            (true, true) => "LEFT ANTI JOIN",
            (true, false) => "LEFT SEMI JOIN",
            (false, true) => "NOT EXISTS",
            (false, false) => "EXISTS",
        };
        left.with(&right, left.columns.clone(), |l, r| match word.ends_with("JOIN") {
            true => format!("(SELECT {list} FROM {l} AS l {word} {r} AS r ON {on})"),
            false => format!("(SELECT {list} FROM {l} AS l WHERE {word} (SELECT 1 FROM {r} AS r WHERE {on}))"),
        })
    }

    /// Pairs whose times are near each other. What has no partner comes when time has passed.
    pub(super) fn interval_join(&mut self, join: &'static str) -> Relation {
        self.constructs.insert(match join {
            "JOIN" => "interval inner",
            "LEFT JOIN" => "interval left",
            "RIGHT JOIN" => "interval right",
            _ => "interval full",
        });
        let (left, right) = (ours(&self.simple(0)), ours(&self.partner()));
        self.waits |= join != "JOIN";
        let on = self.near();
        let (list, columns) = Maker::beside(&left, &right, join == "FULL JOIN");
        let list = list.join(", ");
        left.with(&right, columns, |l, r| format!("(SELECT {list} FROM {l} AS l {join} {r} AS r ON {on})"))
    }

    /// Rows with the last one before them, or the first after them.
    pub(super) fn asof(&mut self) -> Relation {
        self.constructs.insert("asof");
        self.waits = true;
        let (left, right) = (self.simple(0), self.partner());
        let compare = *one(&[">=", ">", "<=", "<"], &mut self.random);
        let back = compare.starts_with('>');
        let limit = self.seconds(&[15, 60]);
        let limit = match (self.chance(2), back) {
            (true, _) => String::new(),
            (false, true) => format!(" AND r.at >= l.at - {limit}"),
            (false, false) => format!(" AND r.at <= l.at + {limit}"),
        };
        let (list, columns) = Maker::beside(&left, &right, false);
        let list = list.join(", ");
        let mut rest: Vec<&str> = right.names().into_iter().filter(|name| *name != "at").collect();
        rest.sort_unstable();
        rest.insert(0, "at");
        let order = if back { "DESC NULLS FIRST" } else { "ASC NULLS LAST" };
        let order: Vec<String> = rest.iter().map(|name| format!("r.{name} {order}")).collect();
        let order = order.join(", ");
        let (l, r) = (&left.oracle, &right.oracle);
        let oracle = format!(
            "(SELECT {list} FROM {l} AS l LEFT JOIN (SELECT * FROM (SELECT l.id AS of_id, r.*, \
             row_number() OVER (PARTITION BY l.id ORDER BY {order}) AS nth FROM {l} AS l JOIN {r} AS r \
             ON l.k = r.k AND l.at {compare} r.at{limit}) WHERE nth = 1) AS r ON r.of_id = l.id WHERE l.{OURS})"
        );
        let (l, r) = (&left.sql, &right.sql);
        let sql = format!(
            "(SELECT {list} FROM {l} AS l ASOF JOIN {r} AS r MATCH_CONDITION (l.at {compare} r.at) \
             ON l.k = r.k{limit} WHERE l.{OURS})"
        );
        Relation { sql, oracle, columns }
    }
}

pub(super) fn window_join(maker: &mut Maker) -> Query {
    let (kind, name) = *one(
        &[
            ("JOIN", "window inner"),
            ("LEFT JOIN", "window left"),
            ("RIGHT JOIN", "window right"),
            ("FULL JOIN", "window full"),
            ("LEFT SEMI JOIN", "window semi"),
            ("LEFT ANTI JOIN", "window anti"),
        ],
        &mut maker.random,
    );
    maker.constructs.insert(name);
    maker.waits = true;
    let size = maker.seconds(&[5, 10, 20]);
    let hops = maker.chance(4);
    let (left, right) = (maker.simple(0), maker.partner());
    let mut side = |side: &Relation| {
        let grouped = maker.chance(3);
        if grouped {
            maker.constructs.insert("window join of groups");
        }
        side.within(Vec::new(), |from| {
            let windows = match hops {
                true => format!("HOP({from}, at, INTERVAL '5 seconds', {size})"),
                false => format!("TUMBLE({from}, at, {size})"),
            };
            match grouped {
                true => format!(
                    "(SELECT max(id) AS id, k, window_start, window_end FROM {windows} \
                     GROUP BY k, window_start, window_end)"
                ),
                false => format!("(SELECT id, k, window_start, window_end FROM {windows})"),
            }
        })
    };
    let (left, right) = (side(&left), side(&right));
    let more = *one(&["", " AND l.id <> r.id", " AND l.id < r.id * 2"], &mut maker.random);
    let list = match kind {
        "LEFT SEMI JOIN" | "LEFT ANTI JOIN" => "l.id AS id, l.k AS k, l.window_start AS begins",
        _ => "l.id AS id, r.id AS r_id, coalesce(l.k, r.k) AS k, coalesce(l.window_start, r.window_start) AS begins",
    };
    let write = |l: &str, r: &str| {
        format!(
            "SELECT {list} FROM {l} AS l {kind} {r} AS r ON l.window_start = r.window_start \
             AND l.window_end = r.window_end AND l.k = r.k{more}"
        )
    };
    appended(left.with(&right, Vec::new(), write))
}
