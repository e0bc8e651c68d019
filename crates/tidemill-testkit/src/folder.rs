//! [`ProjectFolder`]: a project in a temporary folder that goes away with it.
//!
//! **Invariant:** a file is there whole or not at all, as readers of folders of files demand.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tidemill_model::{Error, Result};

/// A project folder.
#[derive(Debug)]
pub struct ProjectFolder {
    folder: TempDir,
}

impl ProjectFolder {
    /// A project with this `tidemill.toml` and no pipelines yet.
    ///
    /// # Errors
    /// As writing files.
    pub fn new(config: &str) -> Result<ProjectFolder> {
        let folder =
            TempDir::with_prefix("tidemill-test-").map_err(|e| Error::io("create", "a temporary folder", e))?;
        let folder = ProjectFolder { folder };
        folder.write("tidemill.toml", config)?;
        Ok(folder)
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The path of a file in it.
    #[must_use]
    pub fn join(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Writes a file, with the folders above it; an earlier one of the name is replaced.
    ///
    /// # Errors
    /// As writing files.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let whole = self.join(path);
        let parent = whole.parent().unwrap_or_else(|| self.path());
        std::fs::create_dir_all(parent).map_err(|e| Error::io("create", parent.display(), e))?;
        let name = whole.file_name().unwrap_or_default().to_string_lossy();
        let unfinished = parent.join(format!("_unfinished-{name}"));
        std::fs::write(&unfinished, content).map_err(|e| Error::io("write", unfinished.display(), e))?;
        std::fs::rename(&unfinished, &whole).map_err(|e| Error::io("name", whole.display(), e))
    }

    /// Every file below a folder of the project with its bytes, by path: what "nothing has changed" is compared by.
    ///
    /// # Errors
    /// As reading files.
    pub fn contents(&self, path: &str) -> Result<Vec<(PathBuf, Vec<u8>)>> {
        let mut found = Vec::new();
        let mut folders = vec![self.join(path)];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            for entry in entries {
                let path = entry.map_err(|e| Error::io("list", folder.display(), e))?.path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let bytes = std::fs::read(&path).map_err(|e| Error::io("read", path.display(), e))?;
                    found.push((path, bytes));
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// Keeps the folder for a look after a failure, and says where it is.
    #[must_use]
    pub fn keep(self) -> PathBuf {
        self.folder.keep()
    }
}
