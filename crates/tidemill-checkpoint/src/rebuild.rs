//! [`fates`] and [`switch`]: what becomes of state on record when queries changed, and the one manifest that puts a
//! result that was computed anew in the place of the old one.
//!
//! **Invariant:** the new manifest stands at exactly the offsets of the old one. Whatever is kept goes on as if nothing
//! had happened, and whatever was computed anew has seen the same input, no row more and no row less.

use std::collections::{BTreeMap, BTreeSet};

use tidemill_model::{Error, Offset, Result, SplitId};

use crate::{Counters, Manifest};

/// What becomes of an operator's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It is read as it is.
    Keep,
    /// It was computed by another query.
    Rebuild,
    /// The plan has the operator and the record does not.
    New,
    /// The record has the operator and the plan does not.
    Gone,
}

impl Fate {
    /// One word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Fate::Keep => "keep",
            Fate::Rebuild => "rebuild",
            Fate::New => "new",
            Fate::Gone => "gone",
        }
    }
}

/// The fate of each stateful operator: those of the plan (name, fingerprint) in its order, then those that are gone.
/// Stateless nodes have an empty fingerprint and no fate.
#[must_use]
pub fn fates(latest: &Manifest, plan: &[(String, String)]) -> Vec<(String, Fate)> {
    let has_read = latest.sources.values().any(|source| !source.splits.is_empty());
    let planned = plan.iter().filter(|(_, fingerprint)| !fingerprint.is_empty()).map(|(name, fingerprint)| {
        let fate = match latest.state.get(name) {
            Some(state) if state.fingerprint == *fingerprint => Fate::Keep,
            Some(_) => Fate::Rebuild,
            // Starting empty misses nothing as long as nothing was read.
            None if !has_read => Fate::Keep,
            None => Fate::New,
        };
        (name.clone(), fate)
    });
    let is_planned = |name: &String| plan.iter().any(|(node, fingerprint)| node == name && !fingerprint.is_empty());
    let gone = latest.state.keys().filter(|name| !is_planned(name)).map(|name| (name.clone(), Fate::Gone));
    planned.chain(gone).collect()
}

/// Puts what was computed anew in the place of what it replaces. `anew` is the epoch as drafted from the new reading
/// alone; `kept` are the stateful operators that it did not compute, `datasets` what it read and computed: their dead
/// letters were found anew. Splits in `from` were read from there on, all others from their beginning.
///
/// # Errors
/// Internal, when the new reading did not read exactly what the record has.
pub fn switch(
    record: &Manifest,
    anew: Manifest,
    kept: &BTreeSet<String>,
    datasets: &BTreeSet<String>,
    from: &BTreeMap<String, BTreeMap<SplitId, Offset>>,
) -> Result<Manifest> {
    for (source, progress) in &anew.sources {
        let before = record.sources.get(source).into_iter().flat_map(|source| &source.splits);
        for (id, split) in before.filter(|(_, split)| split.is_begun()) {
            if from.get(source).is_some_and(|splits| splits.contains_key(id)) {
                continue;
            }
            let read = progress.splits.get(id).map(|split| split.rows);
            if read != Some(split.rows) {
                let message = format!("{read:?} records of {source} split {id} were read anew, not {}", split.rows);
                return Err(Error::internal(message));
            }
        }
    }
    let mut manifest = Manifest { sources: record.sources.clone(), ..anew.clone() };
    manifest.ledger = record.ledger.clone();
    manifest.runs = record.runs.clone();
    manifest.stale = record.stale.clone();
    manifest.seen = record.seen.clone();
    manifest.gone = record.gone.clone();
    manifest.sizes = record.sizes.clone();
    let kept_state = record.state.iter().filter(|(node, _)| kept.contains(*node));
    manifest.state.extend(kept_state.map(|(node, state)| (node.clone(), state.clone())));
    let kept_views = record.views.iter().filter(|(_, view)| kept.contains(&view.node));
    manifest.views.extend(kept_views.map(|(name, view)| (name.clone(), view.clone())));
    let others = record.tables.iter().filter(|(node, _)| !anew.tables.contains_key(*node));
    manifest.tables.extend(others.map(|(node, table)| (node.clone(), table.clone())));
    manifest.counters = counters(record, &anew, datasets, kept.is_empty() && from.is_empty());
    manifest.dead_from = record.dead_from.clone();
    manifest.dead_from.extend(datasets.iter().map(|dataset| (dataset.clone(), manifest.epoch)));
    Ok(manifest)
}

/// Dead letters are counted where they were found anew. The other counts are of the pipeline as a whole, so they are
/// replaced when the whole was read and computed anew.
fn counters(record: &Manifest, anew: &Manifest, datasets: &BTreeSet<String>, whole: bool) -> Counters {
    let whole = whole && record.sources.keys().all(|source| anew.sources.contains_key(source));
    let mut counters = if whole { anew.counters.clone() } else { record.counters.clone() };
    counters.rows_written = record.counters.rows_written + anew.counters.rows_written;
    let others = record.counters.dead_letters.iter().filter(|(dataset, _)| !datasets.contains(*dataset));
    counters.dead_letters = others.map(|(dataset, reasons)| (dataset.clone(), reasons.clone())).collect();
    counters.dead_letters.extend(anew.counters.dead_letters.clone());
    counters
}

#[cfg(test)]
mod tests {
    use tidemill_model::{Epoch, Timestamp, Watermark};

    use super::*;
    use crate::{ChunkRef, OperatorState, SourceProgress, SplitProgress, ViewState};

    fn state(fingerprint: &str) -> OperatorState {
        let chunk = ChunkRef { file: format!("file of {fingerprint}"), start: 0, length: 1, crc: 0, here: None };
        OperatorState {
            fingerprint: fingerprint.to_owned(),
            lanes: 1,
            chunks: BTreeMap::from([("0/all".to_owned(), chunk)]),
        }
    }

    fn source(rows: u64) -> SourceProgress {
        let offset = Some(Offset::number(rows * 10));
        let split = SplitProgress { offset, rows, ..SplitProgress::default() };
        SourceProgress { splits: BTreeMap::from([(SplitId::new("0"), split)]), watermark: Some(Watermark(7)) }
    }

    fn record() -> Manifest {
        let mut manifest = Manifest::first("p", Epoch(5), Timestamp(1));
        manifest.sources.insert("orders".to_owned(), source(40));
        for (node, fingerprint) in [("v.final", "a"), ("v", "b"), ("w", "c")] {
            manifest.state.insert(node.to_owned(), state(fingerprint));
        }
        for view in ["v", "w"] {
            let state = ViewState { node: view.to_owned(), complete_to: None, newest_arrival: None };
            manifest.views.insert(view.to_owned(), state);
        }
        manifest.counters.rows_read = 40;
        manifest.counters.rows_written = 9;
        for dataset in ["orders", "v", "w", "kept"] {
            manifest.counters.count_dead(dataset, "bad");
        }
        manifest
    }

    #[test]
    fn each_operator_has_its_fate() {
        let of = |manifest: &Manifest, plan: &[(&str, &str)]| -> Vec<(String, Fate)> {
            let plan: Vec<(String, String)> = plan.iter().map(|(n, f)| ((*n).to_owned(), (*f).to_owned())).collect();
            fates(manifest, &plan)
        };
        let named = |fates: &[(&str, Fate)]| -> Vec<(String, Fate)> {
            fates.iter().map(|(name, fate)| ((*name).to_owned(), *fate)).collect()
        };
        let plan = [("orders", ""), ("v.final", "a"), ("v", "x"), ("u", "n")];
        let expected = [("v.final", Fate::Keep), ("v", Fate::Rebuild), ("u", Fate::New), ("w", Fate::Gone)];
        assert_eq!(of(&record(), &plan), named(&expected));
        let unread = Manifest { sources: BTreeMap::new(), state: BTreeMap::new(), ..record() };
        assert_eq!(of(&unread, &[("u", "n")]), named(&[("u", Fate::Keep)]), "nothing was missed");
    }

    #[test]
    fn what_is_kept_stays_and_the_rest_is_replaced() {
        let mut anew = Manifest::first("p", Epoch(6), Timestamp(2));
        anew.sources.insert("orders".to_owned(), SourceProgress { watermark: None, ..source(40) });
        anew.state.insert("v".to_owned(), state("x"));
        let view = ViewState { node: "v".to_owned(), complete_to: Some(Watermark(7)), newest_arrival: None };
        anew.views.insert("v".to_owned(), view.clone());
        anew.counters.rows_read = 40;
        anew.counters.rows_written = 2;
        anew.counters.count_dead("orders", "worse");

        let kept = BTreeSet::from(["w".to_owned()]);
        let datasets = BTreeSet::from(["orders".to_owned(), "v".to_owned()]);
        let switched = switch(&record(), anew.clone(), &kept, &datasets, &BTreeMap::new()).expect("switches");
        assert_eq!((switched.epoch, &switched.sources), (Epoch(6), &record().sources), "offsets do not move");
        let fingerprints: Vec<(&str, &str)> =
            switched.state.iter().map(|(node, state)| (node.as_str(), state.fingerprint.as_str())).collect();
        assert_eq!(fingerprints, [("v", "x"), ("w", "c")]);
        assert_eq!(switched.views.keys().collect::<Vec<_>>(), ["v", "w"]);
        assert_eq!(switched.views["v"], view);
        assert_eq!((switched.counters.rows_read, switched.counters.rows_written), (40, 11));
        let dead: Vec<&String> = switched.counters.dead_letters.keys().collect();
        assert_eq!(dead, ["kept", "orders", "w"], "those of v are gone with its rows");
        assert!(switched.counters.dead_letters["orders"].contains_key("worse"));
        assert_eq!(switched.dead_from, BTreeMap::from([("orders".to_owned(), Epoch(6)), ("v".to_owned(), Epoch(6))]));

        let other = SourceProgress { watermark: None, ..source(39) };
        anew.sources.insert("orders".to_owned(), other);
        let all = BTreeMap::new();
        switch(&record(), anew.clone(), &kept, &datasets, &all).expect_err("a row is missing");
        let part = BTreeMap::from([("orders".to_owned(), BTreeMap::from([(SplitId::new("0"), Offset::number(10))]))]);
        let switched = switch(&record(), anew, &kept, &datasets, &part).expect("that is what was asked");
        assert_eq!((&switched.sources, switched.counters.rows_read), (&record().sources, 40));
    }
}
