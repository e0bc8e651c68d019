//! [`FilesCommitter`]: gives staged files the names by which readers find them.
//!
//! **Invariant:** publishing is one atomic step for each file (a rename here, a put in an object store), and a staged
//! file is removed only when its published one is durable; so a commit may be broken off and repeated anywhere.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidemill_model::{Epoch, Error, Interval, Kind, Result, Timestamp};
use tidemill_runtime::{Committable, SinkCommitter};

use super::location::{Place, names_below};
use super::merge::merge;
use super::sink::{Prepared, PreparedFile, Replaces, Target, create_folder, interval_name, sync_folder};

/// Publishes what the writers of one sink staged.
pub(super) struct FilesCommitter {
    target: Arc<Target>,
}

impl FilesCommitter {
    pub(super) fn new(target: Arc<Target>) -> FilesCommitter {
        FilesCommitter { target }
    }

    /// Whether the target holds rows that an interval's file cannot replace.
    pub(super) fn check(&self) -> Result<()> {
        let Some(interval) = self.target.interval.filter(|_| self.target.replaces != Replaces::Own) else {
            return Ok(());
        };
        if self.target.replaces == Replaces::Everything {
            return self.check_everything();
        }
        let own = interval_name(interval);
        for name in names_below(&self.target.folder)? {
            let stem = name.rsplit_once('.').map_or(name.as_str(), |(stem, _)| stem);
            let clear = stem == own
                || parse_interval(stem).is_some_and(|other| other.end <= interval.start || interval.end <= other.start);
            if !clear {
                let message =
                    format!("`{name}` in {} may hold rows of {interval}, which this run replaces", self.target.shown);
                return Err(Error::new(Kind::Config, "C336", message).fact(
                    "files are replaced whole, by the same interval: write to a folder of its own, keep to one length of \
                     interval, or use connector = 'delta'",
                ));
            }
        }
        Ok(())
    }

    /// Whether the target holds rows beside the one file that is overwritten.
    fn check_everything(&self) -> Result<()> {
        let own = self.target.whole();
        let Some(other) = names_below(&self.target.folder)?.into_iter().find(|name| Some(name) != own.as_ref()) else {
            return Ok(());
        };
        let message = format!("`{other}` in {} has rows that overwriting would leave", self.target.shown);
        Err(Error::new(Kind::Config, "C338", message)
            .fact("a table that is overwritten is one file: remove the others, or write to a folder of its own"))
    }

    fn staged(&self, file: &PreparedFile) -> PathBuf {
        self.target.staging.join(&file.staged)
    }

    fn publish(&self, epoch: Epoch, file: &PreparedFile, touched: &mut BTreeSet<PathBuf>) -> Result<()> {
        let staged = self.staged(file);
        let is_staged = exists(&staged)?;
        match &self.target.folder {
            Place::Local(folder) => {
                let published = folder.join(&file.name);
                match (is_staged, size_of(&published)?) {
                    (true, None) => {
                        published.parent().map_or(Ok(()), create_folder)?;
                        fs::rename(&staged, &published).map_err(|e| Error::io("rename to", published.display(), e))?;
                    }
                    (false, Some(size)) if size == file.bytes => {}
                    (true, Some(_)) => return Err(self.foreign(epoch, &file.name)),
                    (false, _) => return Err(self.lost(epoch, file)),
                }
                touched.extend(published.parent().map(Path::to_owned));
            }
            Place::Remote(remote) => {
                let object = remote.below(&file.name)?;
                match (is_staged, object.head()?.map(|meta| meta.size)) {
                    (true, None) => object.upload(&staged)?,
                    (_, Some(size)) if size == file.bytes => {}
                    (true, Some(_)) => return Err(self.foreign(epoch, &file.name)),
                    (false, _) => return Err(self.lost(epoch, file)),
                }
                remove(&staged)?;
            }
        }
        Ok(())
    }

    /// Publishes `files` together as one, in one step, in place of what had the name.
    fn replace(&self, epoch: Epoch, name: &str, files: &[&PreparedFile]) -> Result<()> {
        let staged: Vec<PathBuf> = files.iter().map(|file| self.staged(file)).collect();
        let mut all_staged = true;
        for path in &staged {
            all_staged &= exists(path)?;
        }
        // Staged files are removed only after publishing: when one is gone, that has happened.
        if all_staged {
            let whole = match staged.as_slice() {
                [] => None,
                [one] => Some(one.clone()),
                [first, ..] => {
                    let headers: Vec<u64> = files.iter().map(|file| file.header).collect();
                    let into = first.with_extension("merged");
                    merge(&staged, &headers, &self.target.encoding, &into)?;
                    Some(into)
                }
            };
            self.publish_whole(name, whole.as_deref())?;
        } else if let (Some(file), false) = (files.first(), self.is_published(name)?) {
            return Err(self.lost(epoch, file));
        }
        staged.iter().try_for_each(|path| remove(path))?;
        // The interval's folder is empty now, unless another run has begun to stage there: then it stays.
        if let Some(folder) = staged.first().and_then(|path| path.parent()) {
            let _ = fs::remove_dir(folder);
        }
        Ok(())
    }

    fn is_published(&self, name: &str) -> Result<bool> {
        match &self.target.folder {
            Place::Local(folder) => exists(&folder.join(name)),
            Place::Remote(remote) => Ok(remote.below(name)?.head()?.is_some()),
        }
    }

    fn publish_whole(&self, name: &str, whole: Option<&Path>) -> Result<()> {
        match (&self.target.folder, whole) {
            (Place::Local(folder), Some(whole)) => {
                create_folder(folder)?;
                let published = folder.join(name);
                fs::rename(whole, &published).map_err(|e| Error::io("rename to", published.display(), e))?;
                sync_folder(folder)
            }
            (Place::Local(folder), None) if folder.exists() => {
                remove(&folder.join(name))?;
                sync_folder(folder)
            }
            (Place::Local(_), None) => Ok(()),
            (Place::Remote(remote), Some(whole)) => remote.below(name)?.upload(whole),
            (Place::Remote(remote), None) => remote.below(name)?.delete(),
        }
    }

    fn foreign(&self, epoch: Epoch, name: &str) -> Error {
        let message = format!(
            "`{name}` in {} was written by another run of this pipeline, whose epoch {epoch} it is",
            self.target.shown
        );
        Error::new(Kind::Fenced, "F310", message).fact(
            "bring back the state folder of that run; or, to start anew, remove its files or choose another `path`",
        )
    }

    fn lost(&self, epoch: Epoch, file: &PreparedFile) -> Error {
        let message = format!("{} of epoch {epoch} is neither staged nor published as `{}`", file.staged, file.name);
        Error::new(Kind::Corrupt, "X330", message).fact(format!(
            "staged files lie in {} and must stay there until they are published",
            self.target.staging.display()
        ))
    }

    /// Published files of this sink and later epochs: they belong to a run whose state we do not have.
    fn refuse_later(&self, epoch: Epoch) -> Result<()> {
        let mark = format!("part-{}-", self.target.identity);
        for name in names_below(&self.target.folder)? {
            let file = name.rsplit('/').next().unwrap_or_default();
            let of = file.strip_prefix(&mark).and_then(|rest| rest.split('-').next()).and_then(|n| n.parse().ok());
            if let Some(later) = of.map(Epoch).filter(|of| *of > epoch) {
                return Err(self.foreign(later, &name));
            }
        }
        Ok(())
    }
}

impl SinkCommitter for FilesCommitter {
    fn commit(&mut self, epoch: Epoch, committables: &[Committable]) -> Result<()> {
        let prepared = committables.iter().map(|committable| serde_json::from_value(committable.0.clone()));
        let prepared: Vec<Prepared> = prepared.collect::<Result<_, _>>().map_err(|e| {
            Error::new(Kind::Corrupt, "X331", format!("epoch {epoch} does not say which files it has: {e}"))
                .fact("its manifest was written by another version; finish the run with that version first")
        })?;
        let mut touched = BTreeSet::new();
        for file in prepared.iter().filter(|lane| lane.whole.is_none()).flat_map(|lane| &lane.files) {
            self.publish(epoch, file, &mut touched)?;
        }
        touched.iter().try_for_each(|folder| sync_folder(folder))?;
        let names: BTreeSet<&String> = prepared.iter().filter_map(|lane| lane.whole.as_ref()).collect();
        for name in names {
            let lanes = prepared.iter().filter(|lane| lane.whole.as_ref() == Some(name));
            let files: Vec<&PreparedFile> = lanes.flat_map(|lane| &lane.files).collect();
            self.replace(epoch, name, &files)?;
        }
        Ok(())
    }

    fn abort_after(&mut self, epoch: Epoch) -> Result<()> {
        let staging = match self.target.interval {
            Some(interval) => self.target.staging.join(interval_name(interval)),
            None => self.target.staging.clone(),
        };
        let items = match fs::read_dir(&staging) {
            Ok(items) => Some(items),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(Error::io("list", staging.display(), e)),
        };
        for item in items.into_iter().flatten() {
            let item = item.map_err(|e| Error::io("list", staging.display(), e))?;
            let name = item.file_name().to_string_lossy().into_owned();
            let of = name.split('-').next().and_then(|n| n.parse().ok()).map(Epoch);
            if !item.path().is_dir() && of.is_none_or(|of| of > epoch) {
                remove(&item.path())?;
            }
        }
        if self.target.interval.is_none() { self.refuse_later(epoch) } else { Ok(()) }
    }
}

/// The interval that a file is named by.
pub(super) fn parse_interval(stem: &str) -> Option<Interval> {
    let (start, end) = stem.strip_prefix("interval-")?.split_once('_')?;
    Some(Interval { start: parse_short(start)?, end: parse_short(end)? })
}

/// An instant whose time of day has no colons.
fn parse_short(text: &str) -> Option<Timestamp> {
    let (day, time) = text.split_once('T')?;
    let (hours, minutes, rest) = (time.get(..2)?, time.get(2..4)?, time.get(4..)?);
    Timestamp::parse(&format!("{day}T{hours}:{minutes}:{rest}")).ok()
}

fn exists(path: &Path) -> Result<bool> {
    path.try_exists().map_err(|e| Error::io("look at", path.display(), e))
}

fn size_of(path: &Path) -> Result<Option<u64>> {
    match fs::metadata(path) {
        Ok(meta) => Ok(Some(meta.len())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("look at", path.display(), e)),
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path.display(), e)),
        _ => Ok(()),
    }
}
