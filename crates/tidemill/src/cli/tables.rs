//! Tables that rows are looked up in, for people: which version they meet, and whether it could be read again.
//!
//! **Invariant:** what is said comes from manifests, or of a running pipeline from what it shows.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tidemill_checkpoint::TableMet;
use tidemill_runtime::exec::TableStatus;

use super::numbers::instant;

/// What was said of the tables of a run.
#[derive(Debug, Default)]
pub(super) struct WatchedTables(BTreeMap<String, TableMet>);

impl WatchedTables {
    /// What happened since it was asked last, a line each. A table that fails in the same way again is no news.
    pub(super) fn news(&mut self, tables: &[TableStatus]) -> Vec<String> {
        let mut news = Vec::new();
        for table in tables {
            let Some(before) = self.0.insert(table.node.clone(), table.met.clone()) else { continue };
            let names = table.datasets.join(", ");
            if before.versions != table.met.versions {
                news.push(format!("{names} changed: rows meet {}", words(&table.met)));
            }
            match &table.met.failed {
                Some(why) if before.failed.as_ref() != Some(why) => {
                    let since = instant(table.met.read_at);
                    news.push(format!("! {names} cannot be read again, rows meet it as of {since}: {why}"));
                }
                None if before.failed.is_some() => news.push(format!("{names} can be read again")),
                _ => {}
            }
        }
        news
    }
}

/// Which versions of the datasets were read, and when.
pub(super) fn words(met: &TableMet) -> String {
    let versions: Vec<String> = met.versions.iter().map(|(name, version)| format!("{name} ({version})")).collect();
    let versions = if versions.is_empty() { "rows".to_owned() } else { versions.join(", ") };
    format!("{versions} as of {}", instant(met.read_at))
}

/// One line for each table that an epoch looked rows up in.
pub(super) fn lines(tables: &BTreeMap<String, TableMet>) -> Vec<String> {
    let of = |(node, met): (&String, &TableMet)| match &met.failed {
        None => format!("{node} meets {}", words(met)),
        Some(why) => format!("! {node} meets {}, and cannot read again: {why}", words(met)),
    };
    tables.iter().map(of).collect()
}

/// The same for programs.
pub(super) fn as_json(tables: &BTreeMap<String, TableMet>) -> Value {
    let of = |(node, met): (&String, &TableMet)| {
        json!({
            "node": node,
            "versions": met.versions,
            "read_at": met.read_at.to_string(),
            "failed": met.failed,
        })
    };
    tables.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use tidemill_model::Timestamp;

    use super::*;

    fn status(version: &str, failed: Option<&str>) -> Vec<TableStatus> {
        let met = TableMet {
            versions: BTreeMap::from([("rates".to_owned(), version.to_owned())]),
            read_at: Timestamp(0),
            failed: failed.map(str::to_owned),
        };
        vec![TableStatus { node: "out.lookup".to_owned(), datasets: vec!["rates".to_owned()], met }]
    }

    #[test]
    fn only_what_is_new_is_said() {
        let mut watched = WatchedTables::default();
        let cases: [(&str, Option<&str>, &[&str]); 6] = [
            ("1", None, &[]),
            ("1", None, &[]),
            ("2", None, &["rates changed: rows meet rates (2) as of 1970-01-01 00:00:00"]),
            ("2", Some("gone"), &["! rates cannot be read again, rows meet it as of 1970-01-01 00:00:00: gone"]),
            ("2", Some("gone"), &[]),
            ("2", None, &["rates can be read again"]),
        ];
        for (version, failed, expected) in cases {
            assert_eq!(watched.news(&status(version, failed)), expected, "{version} {failed:?}");
        }
    }
}
