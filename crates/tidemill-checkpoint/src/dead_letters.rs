//! Where dead letters lie: one file for each dataset and epoch that had some; rows that a statement failed on lie with
//! the table or view that they were on their way to.
//!
//! ```text
//! pipelines/<pipeline>/dead_letters/<dataset>/<20 digits>.arrow                  of a stream's epoch
//! pipelines/<pipeline>/dead_letters/<dataset>/<20 digits>_<start>_<end>.arrow    of an interval's run, microseconds, read
//! pipelines/<pipeline>/dead_letters/<dataset>/<20 digits>_<start>_<end>_out.arrow    the same, on their way to the dataset
//! pipelines/<pipeline>/late/<dataset>/<20 digits>.arrow                          late rows of a stream's epoch
//! ```
//!
//! **Invariant:** a file counts only while its epoch is at or below the newest manifest, and the file of an interval
//! only until a later epoch covers that interval: dead letters of an interval are replaced with its rows, and appear
//! and vanish in the same step as they do. A generation of a stream replaces those before it in its manifest.

use bytes::Bytes;
use tidemill_model::{Epoch, Interval, Result, Timestamp};

use crate::checkpoints::{epoch_of, name_part};
use crate::{Checkpoints, Manifest};

impl Checkpoints {
    /// Writes the dead letters of a dataset in a stream's epoch; a second call for the same epoch replaces them.
    ///
    /// # Errors
    /// Unavailable.
    pub fn write_dead_letters(&self, dataset: &str, epoch: Epoch, bytes: &[u8]) -> Result<()> {
        self.store().put(&format!("{}{:020}.arrow", self.dead_letter_folder(dataset), epoch.0), bytes)
    }

    /// Writes the dead letters of a dataset in an interval's run. A rerun must call it even when there are none, so
    /// that those of the run before go away. Those of rows that were `written` to it stand beside those of records that
    /// were read from it.
    ///
    /// # Errors
    /// Unavailable.
    pub fn write_interval_dead_letters(
        &self,
        dataset: &str,
        epoch: Epoch,
        (interval, written): (Interval, bool),
        bytes: &[u8],
    ) -> Result<()> {
        let Interval { start, end } = interval;
        let kind = if written { "_out" } else { "" };
        let name = format!("{}{:020}_{}_{}{kind}.arrow", self.dead_letter_folder(dataset), epoch.0, start.0, end.0);
        self.store().put(&name, bytes)
    }

    /// The files that hold the dead letters of a dataset as of a manifest, oldest first.
    ///
    /// # Errors
    /// Unavailable.
    pub fn dead_letter_files(&self, dataset: &str, as_of: &Manifest) -> Result<Vec<String>> {
        let names = self.store().list(&self.dead_letter_folder(dataset))?;
        let from = as_of.dead_from.get(dataset).copied().unwrap_or(Epoch::NONE);
        Ok(standing(names, from, as_of.epoch))
    }

    /// The epoch of a file that holds the dead letters of a stream; `None` for one of an interval's run.
    #[must_use]
    pub fn letters_of(file: &str) -> Option<Epoch> {
        if interval_of(file).is_some() { None } else { epoch_of(file) }
    }

    /// A file named by [`Checkpoints::dead_letter_files`]; `None` when it was replaced since.
    ///
    /// # Errors
    /// Unavailable.
    pub fn read_dead_letters(&self, file: &str) -> Result<Option<Bytes>> {
        self.store().get(file)
    }

    /// Writes the rows that came late on their way to a table or view in a stream's epoch; a second call for the same
    /// epoch replaces them.
    ///
    /// # Errors
    /// Unavailable.
    pub fn write_late_rows(&self, dataset: &str, epoch: Epoch, bytes: &[u8]) -> Result<()> {
        self.store().put(&format!("{}{:020}.arrow", self.late_folder(dataset), epoch.0), bytes)
    }

    /// The files that hold the late rows of a table or view as of a manifest, oldest first; they are read by
    /// [`Checkpoints::read_dead_letters`].
    ///
    /// # Errors
    /// Unavailable.
    pub fn late_files(&self, dataset: &str, as_of: &Manifest) -> Result<Vec<String>> {
        let names = self.store().list(&self.late_folder(dataset))?;
        let from = as_of.dead_from.get(dataset).copied().unwrap_or(Epoch::NONE);
        Ok(standing(names, from, as_of.epoch))
    }

    pub(crate) fn remove_dead_letters_after(&self, epoch: Epoch) -> Result<()> {
        for kind in ["dead_letters", "late", "replayed"] {
            for name in self.store().list(&format!("{}/{kind}/", self.root()))? {
                if epoch_of(&name).is_some_and(|of| of > epoch) {
                    self.store().delete(&name)?;
                }
            }
        }
        Ok(())
    }

    fn late_folder(&self, dataset: &str) -> String {
        format!("{}/late/{}/", self.root(), name_part(dataset))
    }

    fn dead_letter_folder(&self, dataset: &str) -> String {
        format!("{}/dead_letters/{}/", self.root(), name_part(dataset))
    }
}

/// The files that count as of an epoch; `names` are in order, thus by epoch. A stream's files before `from` are of a
/// generation that was replaced.
fn standing(names: Vec<String>, from: Epoch, up_to: Epoch) -> Vec<String> {
    let mut covered: Vec<(Interval, bool)> = Vec::new();
    let mut files: Vec<String> = Vec::new();
    for name in names.into_iter().rev().filter(|name| epoch_of(name).is_some_and(|epoch| epoch <= up_to)) {
        match interval_of(&name) {
            Some((interval, written))
                if covered
                    .iter()
                    .any(|(by, kind)| *kind == written && by.start <= interval.start && interval.end <= by.end) => {}
            Some(of) => {
                covered.push(of);
                files.push(name);
            }
            None if epoch_of(&name).is_none_or(|epoch| epoch < from) => {}
            None => files.push(name),
        }
    }
    files.reverse();
    files
}

/// The interval in a file's name, and whether its letters were on their way to the dataset.
fn interval_of(name: &str) -> Option<(Interval, bool)> {
    let bare = name.strip_suffix(".arrow")?;
    let (bare, written) = bare.strip_suffix("_out").map_or((bare, false), |bare| (bare, true));
    let mut parts = bare.rsplit('/').next()?.splitn(3, '_').skip(1);
    let mut time = || parts.next()?.parse().ok().map(Timestamp);
    Some((Interval { start: time()?, end: time()? }, written))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidemill_model::{Epoch, Interval, Timestamp};

    use crate::{Checkpoints, Manifest, Memory};

    fn contents(checkpoints: &Checkpoints, up_to: u64) -> Vec<String> {
        contents_from(checkpoints, 0, up_to)
    }

    fn contents_from(checkpoints: &Checkpoints, from: u64, up_to: u64) -> Vec<String> {
        let mut manifest = Manifest::first("p", Epoch(up_to), Timestamp(0));
        manifest.dead_from.insert("orders".to_owned(), Epoch(from));
        let files = checkpoints.dead_letter_files("orders", &manifest).expect("lists");
        let read = |file: &String| checkpoints.read_dead_letters(file).expect("reads").expect("is there");
        files.iter().map(|file| String::from_utf8_lossy(&read(file)).into_owned()).collect()
    }

    #[test]
    fn late_rows_count_with_their_epoch() {
        let checkpoints = Checkpoints::new(Arc::new(Memory::new()), "p");
        for epoch in [1, 3] {
            checkpoints.write_late_rows("per_minute", Epoch(epoch), b"rows").expect("writes");
        }
        checkpoints.write_late_rows("per_hour", Epoch(1), b"rows").expect("writes");
        let files = |up_to| {
            let manifest = Manifest::first("p", Epoch(up_to), Timestamp(0));
            checkpoints.late_files("per_minute", &manifest).expect("lists").len()
        };
        assert_eq!((files(0), files(2), files(3)), (0, 1, 2));
        checkpoints.clean_after(Epoch(2)).expect("cleans");
        assert_eq!(files(9), 1);
    }

    #[test]
    fn only_committed_epochs_count_and_a_rerun_replaces() {
        let checkpoints = Checkpoints::new(Arc::new(Memory::new()), "p");
        let write = |epoch, bytes: &str| {
            checkpoints.write_dead_letters("orders", Epoch(epoch), bytes.as_bytes()).expect("writes");
        };
        let write_interval = |epoch, start, end, bytes: &str| {
            let interval = Interval { start: Timestamp(start), end: Timestamp(end) };
            let written =
                checkpoints.write_interval_dead_letters("orders", Epoch(epoch), (interval, false), bytes.as_bytes());
            written.expect("writes");
        };
        write(1, "s1");
        write_interval(2, -10, 10, "i2");
        write_interval(3, 10, 20, "i3");
        write(4, "s4");
        write_interval(5, -10, 10, "i5");
        write_interval(6, -10, 20, "i6");
        checkpoints.write_dead_letters("orders.archive", Epoch(1), b"another dataset").expect("writes");

        assert_eq!(contents(&checkpoints, 0), Vec::<String>::new());
        assert_eq!(contents(&checkpoints, 3), ["s1", "i2", "i3"]);
        assert_eq!(contents(&checkpoints, 5), ["s1", "i3", "s4", "i5"]);
        assert_eq!(contents(&checkpoints, 9), ["s1", "s4", "i6"]);
        assert_eq!(contents_from(&checkpoints, 4, 9), ["s4", "i6"], "those of a generation before are gone");

        checkpoints.clean_after(Epoch(4)).expect("cleans");
        assert_eq!(contents(&checkpoints, 9), ["s1", "i2", "i3", "s4"]);
    }
}
