//! One version of each crate whose types cross our interfaces: two of them compile and do not fit together.

use std::collections::BTreeMap;

use super::Findings;
use crate::repository::Repository;

const SINGLE: &[&str] = &[
    "arrow",
    "arrow-array",
    "arrow-schema",
    "datafusion",
    "datafusion-common",
    "deltalake-core",
    "object_store",
    "parquet",
    "sqlparser",
];

/// Checks `Cargo.lock`.
pub(super) fn rule(repository: &Repository, found: &mut Findings) {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut name = "";
    for line in repository.text("Cargo.lock").lines() {
        let value = |key: &str| line.strip_prefix(key).map(|rest| rest.trim_matches('"'));
        if let Some(value) = value("name = ") {
            name = value;
        } else if let Some(value) = value("version = ") {
            versions.entry(name).or_default().push(value);
        }
    }
    for single in SINGLE {
        match versions.get(single).map_or(&[][..], Vec::as_slice) {
            [_] => {}
            [] => {
                found.broken("Cargo.lock", format!("no `{single}`; the list in xtask/src/tidy/lock.rs is out of date"))
            }
            several => {
                found.broken("Cargo.lock", format!("{} versions of `{single}`: {}", several.len(), several.join(", ")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::broken;
    use super::*;

    #[test]
    fn two_versions_are_refused() {
        let mut lock: String =
            SINGLE.iter().map(|name| format!("[[package]]\nname = \"{name}\"\nversion = \"1.0.0\"\n")).collect();
        assert!(broken(rule, &[("Cargo.lock", &lock)]).is_empty());
        lock.push_str("[[package]]\nname = \"arrow-array\"\nversion = \"2.0.0\"\n");
        assert_eq!(broken(rule, &[("Cargo.lock", &lock)]), ["Cargo.lock: 2 versions of `arrow-array`: 1.0.0, 2.0.0"]);
    }
}
