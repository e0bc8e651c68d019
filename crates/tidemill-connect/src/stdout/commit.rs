//! [`StdoutCommitter`]: prints staged lines.
//!
//! **Invariant:** a staged file is removed when it was printed and never before, so that its absence is the record of
//! its having been printed.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::PoisonError;

use tidemill_model::{Epoch, Error, Kind, Result};
use tidemill_runtime::{Committable, SinkCommitter};

use super::Stream;

/// Prints what the writers of one sink staged.
pub(super) struct StdoutCommitter {
    staging: PathBuf,
    stream: Stream,
}

impl StdoutCommitter {
    pub(super) fn new(staging: PathBuf, stream: Stream) -> StdoutCommitter {
        StdoutCommitter { staging, stream }
    }

    fn print(&self, staged: &str) -> Result<bool> {
        let path = self.staging.join(staged);
        let mut lines = match File::open(&path) {
            Ok(lines) => lines,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(Error::io("open", path.display(), e)),
        };
        {
            // A thread that panicked while printing has broken off a line at worst.
            let mut stream = self.stream.0.lock().unwrap_or_else(PoisonError::into_inner);
            let printed = io::copy(&mut lines, &mut *stream).and_then(|_| stream.flush());
            printed.map_err(|e| Error::io("print to", "the standard output", e))?;
        }
        fs::remove_file(&path).map_err(|e| Error::io("remove", path.display(), e))?;
        Ok(true)
    }
}

impl SinkCommitter for StdoutCommitter {
    fn commit(&mut self, epoch: Epoch, committables: &[Committable]) -> Result<()> {
        let mut printed = false;
        for committable in committables {
            let staged = committable.0.get("staged").and_then(|staged| staged.as_str()).ok_or_else(|| {
                Error::new(Kind::Corrupt, "X341", format!("epoch {epoch} was not written to the standard output"))
                    .fact("the pipeline's sink was another one; finish that run first, or rename the dataset")
            })?;
            printed |= self.print(staged)?;
        }
        if printed { crate::files::sync_folder(&self.staging) } else { Ok(()) }
    }

    fn abort_after(&mut self, epoch: Epoch) -> Result<()> {
        let items = match fs::read_dir(&self.staging) {
            Ok(items) => items,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(Error::io("list", self.staging.display(), e)),
        };
        for item in items {
            let item = item.map_err(|e| Error::io("list", self.staging.display(), e))?;
            let name = item.file_name().to_string_lossy().into_owned();
            let of = name.split_once('-').and_then(|(n, _)| n.parse().ok()).map(Epoch);
            if of.is_none_or(|of| of > epoch) {
                fs::remove_file(item.path()).map_err(|e| Error::io("remove", item.path().display(), e))?;
            }
        }
        Ok(())
    }
}
