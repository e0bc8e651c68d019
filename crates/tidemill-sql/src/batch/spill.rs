//! [`Spill`]: the folder for what does not fit into memory, made when the first operator spills.
//!
//! **Invariant:** a plan that is only looked at, and a query that fits into memory, create no folder.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::common::Result as DfResult;
use datafusion::execution::disk_manager::{DiskManager, DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::{SpillFile, TempFileFactory};
use tidemill_model::Error;

use super::reading::external;

/// Makes the files that operators spill to.
#[derive(Debug)]
pub(super) struct Spill {
    folder: PathBuf,
    disk: Mutex<Option<Arc<DiskManager>>>,
}

impl Spill {
    pub(super) fn new(folder: PathBuf) -> Spill {
        Spill { folder, disk: Mutex::new(None) }
    }

    fn disk(&self) -> DfResult<Arc<DiskManager>> {
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(disk) = disk.as_ref() {
            return Ok(Arc::clone(disk));
        }
        std::fs::create_dir_all(&self.folder)
            .map_err(|e| external(Error::io("create the folder", self.folder.display(), e)))?;
        let mode = DiskManagerMode::Directories(vec![self.folder.clone()]);
        let made = Arc::new(DiskManagerBuilder::default().with_mode(mode).build()?);
        Ok(Arc::clone(disk.insert(made)))
    }
}

impl TempFileFactory for Spill {
    fn create_temp_file(&self, description: &str) -> DfResult<Arc<dyn SpillFile>> {
        self.disk()?.create_tmp_file(description)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_comes_with_the_first_file() {
        let folder = std::env::temp_dir().join(format!("tidemill-spill-{}", std::process::id()));
        let spill = Spill::new(folder.clone());
        assert!(!folder.exists());
        let file = spill.create_temp_file("sorting").expect("a file");
        let path = file.path().expect("a file on this machine").to_owned();
        assert!(path.starts_with(&folder) && path.exists());
        drop((file, spill));
        assert!(!path.exists(), "and goes with its last user");
        let _ = std::fs::remove_dir_all(folder);
    }
}
