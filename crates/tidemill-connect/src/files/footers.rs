//! [`Footers`]: what the footers of Parquet files said, for all who list them while the connector lives.
//!
//! **Invariant:** a file is known by its place and by what changes when it is written; one that was written anew is read anew.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tidemill_model::Result;

use super::row_groups::FilePart;

/// How many files are remembered.
const MOST: usize = 100_000;

/// The splits of files by what tells the files apart. Runs of intervals list the same files again and again.
#[derive(Debug, Default)]
pub(super) struct Footers {
    parts: Mutex<HashMap<String, Vec<FilePart>>>,
}

impl Footers {
    /// The splits of a file, read if they are not known.
    pub(super) fn of(&self, file: &str, read: impl FnOnce() -> Result<Vec<FilePart>>) -> Result<Vec<FilePart>> {
        if let Some(known) = self.parts().get(file) {
            return Ok(known.clone());
        }
        let parts = read()?;
        let mut known = self.parts();
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(file.to_owned(), parts.clone());
        Ok(parts)
    }

    fn parts(&self) -> MutexGuard<'_, HashMap<String, Vec<FilePart>>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
