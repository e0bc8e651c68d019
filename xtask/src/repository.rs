//! [`Repository`]: the project's text files, read once, so that every rule is a function of them.
//!
//! **Invariant:** paths are relative to the project's root with `/` between names, in order.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Folders that hold no files of the project.
const SKIPPED: &[&str] = &[".git", ".tidemill", "target", "data", "node_modules", "__pycache__"];

/// Names (whole, or after the last dot) of the files that are text.
const TEXT: &[&str] = &[
    "rs",
    "toml",
    "md",
    "sql",
    "csv",
    "json",
    "jsonl",
    "sh",
    "py",
    "yml",
    "yaml",
    "svg",
    "html",
    "css",
    "js",
    "txt",
    "lock",
    "LICENSE",
    "justfile",
    "run",
    "gitignore",
    "editorconfig",
];

/// The text files of the project by path.
#[derive(Debug, Default)]
pub(crate) struct Repository {
    /// Path to content.
    pub(crate) files: BTreeMap<String, String>,
}

/// Makes the project's root the current folder: the nearest folder from the current one up that holds this crate. The
/// path that was compiled in may be another clone's, when clones share their artefacts.
pub(crate) fn enter_root() -> Result<(), String> {
    let here = std::env::current_dir().map_err(|e| format!("there is no current folder: {e}"))?;
    let root = here.ancestors().find(|folder| folder.join("xtask/src/repository.rs").is_file());
    let root = root.ok_or_else(|| format!("{} is not in a clone of the project", here.display()))?;
    std::env::set_current_dir(root).map_err(|e| format!("cannot enter {}: {e}", root.display()))
}

/// The project's root.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(".")
}

impl Repository {
    /// Reads every text file below `root`.
    pub(crate) fn read(root: &Path) -> Result<Repository, String> {
        let mut repository = Repository::default();
        let mut folders = vec![root.to_path_buf()];
        while let Some(folder) = folders.pop() {
            let entries = std::fs::read_dir(&folder).map_err(|e| format!("cannot read {}: {e}", folder.display()))?;
            for entry in entries {
                let entry = entry.map_err(|e| format!("cannot read {}: {e}", folder.display()))?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let path = entry.path();
                let kind = entry.file_type().map_err(|e| format!("cannot read {}: {e}", path.display()))?;
                if kind.is_dir() {
                    if !SKIPPED.contains(&name.as_str()) {
                        folders.push(path);
                    }
                } else if kind.is_file() && TEXT.contains(&name.rsplit('.').next().unwrap_or(&name)) {
                    let bytes = std::fs::read(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
                    let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().replace('\\', "/");
                    repository.files.insert(relative, String::from_utf8_lossy(&bytes).into_owned());
                }
            }
        }
        Ok(repository)
    }

    /// The files whose path ends so.
    pub(crate) fn ending<'a>(&'a self, end: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.files
            .iter()
            .filter(move |(path, _)| path.ends_with(end))
            .map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// The text of one file; empty when there is none.
    pub(crate) fn text(&self, path: &str) -> &str {
        self.files.get(path).map_or("", String::as_str)
    }

    /// Whether the project has this file, or a folder of that name.
    pub(crate) fn has(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let folder = format!("{path}/");
        self.files.contains_key(path) || self.files.keys().any(|file| file.starts_with(&folder))
    }

    /// A repository of these files, for tests of the rules.
    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Repository {
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        Repository { files }
    }
}
