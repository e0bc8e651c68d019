//! [`Location`]: where a dataset's files lie, what is listed there, and how a listed name is opened again.
//!
//! **Invariant:** a file's name is its path relative to the dataset's root, parted by `/`; names with a segment that
//! begins with `.` or `_` are never listed, so that staged files cannot be read.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern};
use tidemill_model::{Error, Kind, Result, Timestamp};
use tidemill_runtime::Environment;
use url::Url;

use super::remote::Remote;

/// The code of the error that there is no file: C315.
pub(super) const NOTHING_THERE: &str = "C315";

/// Where a dataset's files lie.
#[derive(Debug, Clone)]
pub(super) struct Location {
    /// As the user wrote it, for messages.
    pub(super) shown: String,
    /// The file or the folder.
    pub(super) root: Place,
    /// Which names below the root are meant; `None` means all.
    pattern: Option<Pattern>,
    /// Whether the path says that it is a folder, by ending in `/`.
    folder: bool,
}

/// A file or folder, here or in an object store.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// On this machine.
    Local(PathBuf),
    /// In an object store.
    Remote(Remote),
}

/// A file that was found.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Its name in the dataset.
    pub(super) name: String,
    /// Where it lies.
    pub(super) place: Place,
    /// Its length in bytes.
    pub(super) size: u64,
    /// When it was last written.
    pub(super) modified: Option<Timestamp>,
    /// What else changes when it is written: the entity tag of an object, inode and time of change of a file here.
    pub(super) mark: String,
}

impl Location {
    /// Reads what a user wrote as `path`.
    pub(super) fn parse(text: &str, env: &Environment) -> Result<Location> {
        let (root, pattern) = split_glob(text);
        let folder = pattern.is_some() || root.ends_with('/') || root.is_empty();
        let (root, pattern) = match local_path(&root, env)? {
            // A file whose very name has these characters is meant before any pattern is.
            Some(_) if pattern.is_some() && local_path(text, env)?.is_some_and(|whole| whole.exists()) => {
                (Place::Local(env.project.join(text)), None)
            }
            Some(local) => (Place::Local(local), pattern),
            None => (Place::Remote(Remote::open(&root, env)?), pattern),
        };
        Location::new(text, root, pattern, folder)
    }

    /// A location of which the parts are known: the file or folder, the pattern below it, and whether it is a folder
    /// even while there is nothing.
    pub(super) fn new(shown: &str, root: Place, pattern: Option<String>, folder: bool) -> Result<Location> {
        let pattern = pattern.map(|pattern| Pattern::new(&pattern)).transpose().map_err(|e| {
            Error::new(Kind::Config, "C313", format!("`{shown}` is not a glob: {e}"))
                .fact("`*` stands for any characters of a name, `**/` for any folders, `[ab]` for one of these")
        })?;
        Ok(Location { shown: shown.to_owned(), root, pattern, folder })
    }

    /// Whether it is a pattern, which cannot be written to.
    pub(super) fn is_pattern(&self) -> bool {
        self.pattern.is_some()
    }

    /// Every file, in the order of names. When nothing can be there yet (a glob, an existing folder, a path that ends
    /// in `/`) and `may_be_empty`, no file is no error.
    pub(super) fn list(&self, may_be_empty: bool) -> Result<Vec<Entry>> {
        let mut found = Vec::new();
        let exists = match &self.root {
            Place::Local(path) => self.list_local(path, &mut found)?,
            Place::Remote(remote) => self.list_remote(remote, &mut found)?,
        };
        if found.is_empty() && !(may_be_empty && (exists || self.folder)) {
            return Err(self.missing(exists));
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// The place of a file that was listed by this name.
    pub(super) fn find(&self, name: &str) -> Result<Place> {
        match &self.root {
            Place::Local(path) if self.pattern.is_none() && path.is_file() => Ok(Place::Local(path.clone())),
            Place::Local(path) => Ok(Place::Local(path.join(name))),
            Place::Remote(remote) if remote.path.filename() == Some(name) && remote.head()?.is_some() => {
                Ok(Place::Remote(remote.clone()))
            }
            Place::Remote(remote) => remote.below(name).map(Place::Remote),
        }
    }

    fn wants(&self, name: &str) -> bool {
        let options =
            MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };
        !name.split('/').any(is_hidden) && self.pattern.as_ref().is_none_or(|p| p.matches_with(name, options))
    }

    fn list_local(&self, root: &Path, found: &mut Vec<Entry>) -> Result<bool> {
        let meta = match fs::metadata(root) {
            Ok(meta) => meta,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(false),
            Err(e) => return Err(Error::io("look at", root.display(), e)),
        };
        if meta.is_dir() {
            self.walk(root, "", found)?;
        } else if self.pattern.is_none() {
            let name = root.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            found.push(entry(name, root.to_owned(), &meta));
        }
        Ok(true)
    }

    fn walk(&self, folder: &Path, prefix: &str, found: &mut Vec<Entry>) -> Result<()> {
        let items = match fs::read_dir(folder) {
            Ok(items) => items,
            // It went away between being listed and being looked into.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(Error::io("list", folder.display(), e)),
        };
        for item in items {
            let item = item.map_err(|e| Error::io("list", folder.display(), e))?;
            let Ok(name) = item.file_name().into_string() else {
                return Err(Error::new(
                    Kind::Config,
                    "C314",
                    format!("{} is not named in UTF-8", item.path().display()),
                )
                .fact("rename the file, or move it out of the folder"));
            };
            if is_hidden(&name) {
                continue;
            }
            let name = format!("{prefix}{name}");
            match fs::metadata(item.path()) {
                Ok(meta) if meta.is_dir() => self.walk(&item.path(), &format!("{name}/"), found)?,
                Ok(meta) if self.wants(&name) => found.push(entry(name, item.path(), &meta)),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(Error::io("look at", item.path().display(), e)),
            }
        }
        Ok(())
    }

    fn list_remote(&self, remote: &Remote, found: &mut Vec<Entry>) -> Result<bool> {
        let here = |name: String, place: Remote, meta: &object_store::ObjectMeta| Entry {
            name,
            place: Place::Remote(place),
            size: meta.size,
            modified: Some(Timestamp(meta.last_modified.timestamp_micros())),
            mark: meta.e_tag.clone().or_else(|| meta.version.clone()).unwrap_or_default(),
        };
        if !self.folder
            && let Some(meta) = remote.head()?
        {
            let name = remote.path.filename().unwrap_or_default().to_owned();
            found.push(here(name, remote.clone(), &meta));
            return Ok(true);
        }
        let listed = remote.list()?;
        let exists = !listed.is_empty();
        for (name, meta) in listed.into_iter().filter(|(name, _)| self.wants(name)) {
            let place = Remote { path: meta.location.clone(), ..remote.clone() };
            found.push(here(name, place, &meta));
        }
        Ok(exists)
    }

    fn missing(&self, exists: bool) -> Error {
        let at = match &self.root {
            Place::Local(path) => format!(" ({})", path.display()),
            Place::Remote(_) => String::new(),
        };
        let (message, fact) = if exists || self.pattern.is_some() {
            (format!("no file at `{}`{at}", self.shown), "put a file there, or correct `path`")
        } else if self.folder {
            (format!("no folder at `{}`{at}", self.shown), "create it with a file in it, or correct `path`")
        } else {
            (
                format!("nothing at `{}`{at}", self.shown),
                "correct `path`; if a folder is meant that is filled later, let it end in `/`",
            )
        };
        Error::new(Kind::Config, "C315", message).fact(fact)
    }
}

/// Whether a segment of a name is kept from readers.
fn is_hidden(segment: &str) -> bool {
    segment.starts_with('.') || segment.starts_with('_')
}

fn entry(name: String, path: PathBuf, meta: &fs::Metadata) -> Entry {
    let since_epoch = meta.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    let modified = since_epoch.and_then(|since| i64::try_from(since.as_micros()).ok()).map(Timestamp);
    let mark = format!("{}.{}.{}", meta.ino(), meta.ctime(), meta.ctime_nsec());
    Entry { name, place: Place::Local(path), size: meta.len(), modified, mark }
}

/// The local path that a text means, or `None` when it is an object store's URL.
fn local_path(text: &str, env: &Environment) -> Result<Option<PathBuf>> {
    if !text.contains("://") {
        return Ok(Some(env.project.join(text)));
    }
    if !text.starts_with("file://") {
        return Ok(None);
    }
    let path = Url::parse(text).ok().and_then(|url| url.to_file_path().ok());
    path.map(Some).ok_or_else(|| {
        Error::new(Kind::Config, "C313", format!("`{text}` is not the URL of a file"))
            .fact("write file:///absolute/path, or the path alone")
    })
}

/// The folder before the first segment with a wildcard, and the pattern from there on.
fn split_glob(text: &str) -> (String, Option<String>) {
    let segments: Vec<&str> = text.split('/').collect();
    match segments.iter().position(|segment| segment.contains(['*', '?', '['])) {
        None => (text.to_owned(), None),
        Some(at) => {
            let (root, pattern) = segments.split_at(at);
            let slash = if root.is_empty() { "" } else { "/" };
            (root.join("/") + slash, Some(pattern.join("/")))
        }
    }
}

/// The names of all files below a folder that readers can see; none when there is no folder yet.
pub(super) fn names_below(folder: &Place) -> Result<Vec<String>> {
    Ok(Location::new("", folder.clone(), None, true)?.list(true)?.into_iter().map(|entry| entry.name).collect())
}
