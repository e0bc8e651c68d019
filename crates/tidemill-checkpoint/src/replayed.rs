//! Which dead letters have entered again: [`LetterId`] names one, [`reentered`] is the epoch in which some did.
//!
//! ```text
//! pipelines/<pipeline>/replayed/<20 digits>.json    the letters that entered again in that epoch
//! ```
//!
//! **Invariant:** a mark counts only while its epoch is at or below the newest manifest, so a letter is marked in the
//! same step in which the results of its row appear: never before, and never without.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use tidemill_model::{Epoch, Error, Kind, Result};

use crate::checkpoints::epoch_of;
use crate::{Checkpoints, Counters, Manifest};

/// A dead letter of a stream, within its pipeline and dataset: the epoch that kept it, and which of that epoch's it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LetterId {
    /// The epoch.
    pub epoch: Epoch,
    /// Its row in the file of that epoch.
    pub row: u64,
}

impl LetterId {
    /// Reads `12/3`; `None` when it is no such name.
    #[must_use]
    pub fn parse(text: &str) -> Option<LetterId> {
        let (epoch, row) = text.trim().split_once('/')?;
        Some(LetterId { epoch: Epoch(epoch.parse().ok()?), row: row.parse().ok()? })
    }
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.epoch, self.row)
    }
}

/// Dataset to the letters of it.
pub type Letters = BTreeMap<String, BTreeSet<LetterId>>;

/// As the file has it: dataset to epoch to rows.
type Stored = BTreeMap<String, BTreeMap<u64, Vec<u64>>>;

impl Checkpoints {
    /// Marks letters as having entered again in an epoch; a second call for the same epoch replaces the first.
    ///
    /// # Errors
    /// Unavailable.
    pub fn write_replayed(&self, epoch: Epoch, letters: &Letters) -> Result<()> {
        let mut stored = Stored::new();
        for (dataset, letters) in letters {
            let by_epoch = stored.entry(dataset.clone()).or_default();
            for letter in letters {
                by_epoch.entry(letter.epoch.0).or_default().push(letter.row);
            }
        }
        let bytes = serde_json::to_vec(&stored)
            .map_err(|e| Error::internal("marks of dead letters cannot be written").because(e))?;
        self.store().put(&format!("{}{:020}.json", self.replayed_folder(), epoch.0), &bytes)
    }

    /// The letters of each dataset that have entered again as of a manifest, each with the epoch in which it did.
    ///
    /// # Errors
    /// Corrupt, Unavailable.
    pub fn replayed(&self, as_of: &Manifest) -> Result<BTreeMap<String, BTreeMap<LetterId, Epoch>>> {
        let mut found: BTreeMap<String, BTreeMap<LetterId, Epoch>> = BTreeMap::new();
        for name in self.store().list(&self.replayed_folder())? {
            let Some(epoch) = epoch_of(&name).filter(|epoch| *epoch <= as_of.epoch) else { continue };
            let Some(bytes) = self.store().get(&name)? else { continue };
            let stored: Stored = serde_json::from_slice(&bytes).map_err(|e| {
                Error::new(Kind::Corrupt, "X080", format!("{name}, which says what was replayed, is not readable"))
                    .fact("put it back from a backup; without it letters could enter twice")
                    .because(e)
            })?;
            for (dataset, by_epoch) in stored {
                let of = found.entry(dataset).or_default();
                for (kept, rows) in by_epoch {
                    of.extend(rows.into_iter().map(|row| (LetterId { epoch: Epoch(kept), row }, epoch)));
                }
            }
        }
        Ok(found)
    }

    pub(crate) fn replayed_folder(&self) -> String {
        format!("{}/replayed/", self.root())
    }
}

/// The manifest of an epoch in which dead letters entered again: `drafted` upon `record`, where `gone` counts those
/// letters by dataset and reason. No record of a source was read, so no offset and no time moves.
#[must_use]
pub fn reentered(record: &Manifest, drafted: Manifest, gone: &BTreeMap<String, BTreeMap<String, u64>>) -> Manifest {
    let mut counters = Counters { rows_read: record.counters.rows_read, ..drafted.counters };
    for (dataset, reasons) in gone {
        let Some(standing) = counters.dead_letters.get_mut(dataset) else { continue };
        for (reason, rows) in reasons {
            if let Some(count) = standing.get_mut(reason) {
                *count = count.saturating_sub(*rows);
            }
        }
        standing.retain(|_, count| *count > 0);
    }
    counters.dead_letters.retain(|_, reasons| !reasons.is_empty());
    Manifest { sources: record.sources.clone(), counters, ..drafted }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidemill_model::Timestamp;

    use super::*;
    use crate::{Memory, SourceProgress};

    fn letter(epoch: u64, row: u64) -> LetterId {
        LetterId { epoch: Epoch(epoch), row }
    }

    #[test]
    fn a_letter_has_a_name() {
        for (text, expected) in [
            ("12/3", Some(letter(12, 3))),
            (" 1/0 ", Some(letter(1, 0))),
            ("12", None),
            ("/", None),
            ("a/1", None),
            ("1/-1", None),
        ] {
            assert_eq!(LetterId::parse(text), expected, "{text}");
        }
        assert_eq!(letter(12, 3).to_string(), "12/3");
    }

    #[test]
    fn marks_count_with_their_epoch() {
        let checkpoints = Checkpoints::new(Arc::new(Memory::new()), "p");
        let of = |letters: &[LetterId]| Letters::from([("orders".to_owned(), letters.iter().copied().collect())]);
        checkpoints.write_replayed(Epoch(3), &of(&[letter(1, 0), letter(2, 7)])).expect("writes");
        checkpoints.write_replayed(Epoch(5), &of(&[letter(3, 1)])).expect("writes");
        let marked = |up_to| {
            let manifest = Manifest::first("p", Epoch(up_to), Timestamp(0));
            let replayed = checkpoints.replayed(&manifest).expect("reads");
            replayed.get("orders").into_iter().flatten().map(|(l, e)| (l.to_string(), e.0)).collect::<Vec<_>>()
        };
        assert_eq!(marked(2), []);
        assert_eq!(marked(4), [("1/0".to_owned(), 3), ("2/7".to_owned(), 3)]);
        assert_eq!(marked(5).len(), 3);
        checkpoints.clean_after(Epoch(4)).expect("cleans");
        assert_eq!(marked(9).len(), 2, "of an epoch that never was");
    }

    #[test]
    fn nothing_was_read_and_what_entered_is_no_letter_any_more() {
        let mut record = Manifest::first("p", Epoch(5), Timestamp(1));
        record.sources.insert("orders".to_owned(), SourceProgress::default());
        record.counters.rows_read = 40;
        record.counters.rows_accepted = 37;
        (0..3).for_each(|_| record.counters.count_dead("orders", "bad"));
        let mut drafted = Manifest { epoch: Epoch(6), ..record.clone() };
        drafted.sources.insert("letters".to_owned(), SourceProgress::default());
        drafted.counters.rows_read += 3;
        drafted.counters.rows_accepted += 2;
        drafted.counters.count_dead("orders", "worse");
        let gone = BTreeMap::from([("orders".to_owned(), BTreeMap::from([("bad".to_owned(), 3)]))]);
        let manifest = reentered(&record, drafted, &gone);
        assert_eq!((manifest.epoch, &manifest.sources), (Epoch(6), &record.sources));
        assert_eq!((manifest.counters.rows_read, manifest.counters.rows_accepted), (40, 39));
        assert_eq!(manifest.counters.dead_letters["orders"], BTreeMap::from([("worse".to_owned(), 1)]));
    }
}
