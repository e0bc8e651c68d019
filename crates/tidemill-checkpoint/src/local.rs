//! [`LocalStore`]: values as files of a folder.
//!
//! **Invariant:** a file gets its name only after its bytes are on the disk, and a call returns only after the name is.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tidemill_model::{Error, Kind, Result};

use crate::blob::{BlobStore, check_name, missing_part};

/// Values as files of a folder on this machine.
#[derive(Debug)]
pub struct LocalStore {
    root: PathBuf,
    /// Unfinished files; on the same file system as the rest, so that a rename is atomic.
    unfinished: PathBuf,
    /// Set once the folder for unfinished files is there.
    prepared: OnceLock<()>,
}

/// Numbers the unfinished files of this process, of all its stores: two of them may be on one folder.
static COUNTER: AtomicU64 = AtomicU64::new(0);

impl LocalStore {
    /// Opens the folder, which the first write creates when it is absent: whoever only looks changes nothing.
    ///
    /// # Errors
    /// Config, when something else than a folder stands there.
    pub fn open(dir: impl AsRef<Path>) -> Result<LocalStore> {
        let root = dir.as_ref().to_path_buf();
        let unfinished = root.join(".unfinished");
        let store = LocalStore { root, unfinished, prepared: OnceLock::new() };
        if store.root.exists() && !store.root.is_dir() {
            return Err(Error::new(Kind::Config, "C045", format!("{} is no folder", store.root.display()))
                .fact("the project's state goes there: move it away, or name another folder with path = '…' under [state] in tidemill.toml"));
        }
        Ok(store)
    }

    /// Makes the folders that writing needs, once, and removes what dead processes left unfinished in them.
    fn prepare(&self) -> Result<()> {
        if self.prepared.get().is_none() {
            let failed = |e| Error::io("create the folder", self.unfinished.display(), e);
            make_durable_folder(&self.unfinished).map_err(failed)?;
            self.remove_left_over();
            let _ = self.prepared.set(());
        }
        Ok(())
    }

    /// Removes unfinished files whose writer no longer lives. Failing is harmless: they are never read.
    fn remove_left_over(&self) {
        let can_tell = Path::new("/proc/self").exists();
        for entry in fs::read_dir(&self.unfinished).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let pid = name.to_str().and_then(|name| name.split_once('-')).map(|(pid, _)| pid);
            let alive = pid.is_some_and(|pid| Path::new("/proc").join(pid).exists());
            if can_tell && !alive {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// A new file under a name that nobody else has: in another container a process of the same number may write, too.
    fn create_unfinished(&self) -> io::Result<(PathBuf, File)> {
        loop {
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let path = self.unfinished.join(format!("{}-{number}", std::process::id()));
            match File::create_new(&path) {
                Ok(file) => return Ok((path, file)),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn path(&self, name: &str) -> Result<PathBuf> {
        check_name(name)?;
        Ok(self.root.join(name))
    }

    /// Writes the bytes to an unfinished file and through to the disk, then gives it its name by `publish`, which answers
    /// whether the file has another name as well.
    fn write<T>(&self, path: &Path, bytes: &[u8], publish: impl FnOnce(&Path) -> io::Result<(T, bool)>) -> Result<T> {
        self.prepare()?;
        let (unfinished, file) = self.create_unfinished().map_err(|e| Error::io("write", path.display(), e))?;
        let written = write_through(file, bytes).and_then(|()| {
            let folder = path.parent().unwrap_or(&self.root);
            make_durable_folder(folder)?;
            let outcome = publish(&unfinished)?;
            sync_folder(folder)?;
            Ok(outcome)
        });
        if !matches!(written, Ok((_, false))) {
            let _ = fs::remove_file(&unfinished);
        }
        written.map(|(outcome, _)| outcome).map_err(|e| Error::io("write", path.display(), e))
    }
}

impl BlobStore for LocalStore {
    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path(name)?;
        self.write(&path, bytes, |unfinished| Ok((fs::rename(unfinished, &path)?, false)))
    }

    fn create(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        let path = self.path(name)?;
        // A hard link never replaces: of several processes exactly one succeeds.
        self.write(&path, bytes, |unfinished| match fs::hard_link(unfinished, &path) {
            Ok(()) => Ok((true, true)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok((false, true)),
            Err(e) => Err(e),
        })
    }

    fn get(&self, name: &str) -> Result<Option<Bytes>> {
        let path = self.path(name)?;
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(Bytes::from(bytes))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("read", path.display(), e)),
        }
    }

    fn get_range(&self, name: &str, start: u64, length: u64) -> Result<Bytes> {
        let path = self.path(name)?;
        let read = || -> io::Result<Option<Bytes>> {
            let mut file = File::open(&path)?;
            let size = file.metadata()?.len();
            if start.checked_add(length).is_none_or(|end| end > size) {
                return Ok(None);
            }
            file.seek(SeekFrom::Start(start))?;
            let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
            file.read_exact(&mut bytes)?;
            Ok(Some(Bytes::from(bytes)))
        };
        match read() {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => Err(missing_part(name, start, length)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(missing_part(name, start, length).because(e)),
            Err(e) => Err(Error::io("read", path.display(), e)),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>> {
        let folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
        if !folder.is_empty() {
            check_name(folder)?;
        }
        let mut names = Vec::new();
        collect_names(&self.root.join(folder), folder, &mut names)?;
        names.retain(|name| name.starts_with(prefix));
        names.sort_unstable();
        Ok(names)
    }

    fn delete(&self, name: &str) -> Result<()> {
        let path = self.path(name)?;
        match fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(Error::io("remove", path.display(), e)),
        }
    }
}

fn write_through(mut file: File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    file.sync_data()
}

/// Makes a folder's entries durable; only Unix can and needs to.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Creates a folder and those above it; the new ones are durable when it returns.
fn make_durable_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() || folder.as_os_str().is_empty() {
        return Ok(());
    }
    let parent = folder.parent().unwrap_or(Path::new(""));
    make_durable_folder(parent)?;
    match fs::create_dir(folder) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
        Err(e) => return Err(e),
    }
    sync_folder(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })
}

fn collect_names(folder: &Path, name: &str, names: &mut Vec<String>) -> Result<()> {
    let failed = |e: io::Error| Error::io("list", folder.display(), e);
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(e)),
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let file_name = entry.file_name();
        let Some(part) = file_name.to_str() else {
            return Err(Error::new(Kind::Corrupt, "X004", format!("{} is no file of ours", entry.path().display()))
                .fact("move it out of the state folder"));
        };
        if part.starts_with('.') {
            continue;
        }
        let full = if name.is_empty() { part.to_owned() } else { format!("{name}/{part}") };
        if entry.file_type().map_err(failed)?.is_dir() {
            collect_names(&entry.path(), &full, names)?;
        } else {
            names.push(full);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{BlobStore, LocalStore};
    use crate::blob::law;

    #[test]
    fn meets_the_law() {
        let dir = tempfile::tempdir().expect("a folder");
        law::check(Arc::new(LocalStore::open(dir.path().join("new/state")).expect("opens")));
    }

    #[test]
    fn what_a_dead_process_left_is_never_seen_and_goes_away() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(dir.path().join(".unfinished")).expect("a folder");
        let dead = dir.path().join(".unfinished/999999999-0");
        std::fs::write(&dead, b"half").expect("writes");
        let store = LocalStore::open(dir.path()).expect("opens");
        assert_eq!(store.list("").expect("list"), Vec::<String>::new());
        assert!(dead.exists(), "looking changes nothing");
        store.put("a", b"1").expect("put");
        assert!(!dead.exists());
    }

    #[test]
    fn who_only_looks_creates_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let state = dir.path().join("state");
        let store = LocalStore::open(&state).expect("opens");
        assert_eq!(store.list("").expect("list"), Vec::<String>::new());
        assert_eq!(store.get("a").expect("get"), None);
        assert!(!state.exists());
    }

    #[test]
    fn a_file_in_the_place_of_a_folder_is_one_clear_error() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("state"), b"not a folder").expect("writes");
        let error = LocalStore::open(dir.path().join("state")).expect_err("refused");
        assert!(error.code() == "C045" && error.message().ends_with("state is no folder"), "{error}");
    }

    #[test]
    fn two_stores_on_one_folder_never_mix_their_bytes() {
        let dir = tempfile::tempdir().expect("a folder");
        std::thread::scope(|scope| {
            for i in 1..=3_u8 {
                let store = LocalStore::open(dir.path()).expect("opens");
                scope.spawn(move || {
                    for round in 0..50 {
                        let bytes = vec![i; 1000 * usize::from(i)];
                        store.put(&format!("{i}"), &bytes).expect("put");
                        assert_eq!(store.get(&format!("{i}")).expect("get").as_deref(), Some(bytes.as_slice()));
                        store.create(&format!("race/{round}"), &bytes).expect("create");
                        let won = store.get(&format!("race/{round}")).expect("get").expect("somebody won");
                        let one = won.first().copied().unwrap_or_default();
                        assert_eq!(won, vec![one; 1000 * usize::from(one)]);
                    }
                });
            }
        });
    }

    #[test]
    fn no_unfinished_file_stays_behind() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = LocalStore::open(dir.path()).expect("opens");
        store.put("a", b"1").expect("put");
        store.create("b", b"1").expect("create");
        store.create("b", b"2").expect("create");
        std::fs::create_dir(dir.path().join("c")).expect("mkdir");
        store.put("c", b"1").expect_err("a folder is in the way");
        assert_eq!(std::fs::read_dir(dir.path().join(".unfinished")).expect("reads").count(), 0);
    }
}
