//! [`StateLock`]: one process at a time on a state folder.
//!
//! **Invariant:** the operating system holds the lock, so that it ends with its process, however that ends. The number
//! in the file is for people.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use tidemill_model::{Error, Kind, Result};

/// How often a lock that is held is asked for again, and after which pause: `status` holds it for an instant.
const TRIES: usize = 5;
const PAUSE: Duration = Duration::from_millis(10);

/// Exclusive use of a folder, until dropped.
#[derive(Debug)]
pub struct StateLock {
    file: File,
}

impl StateLock {
    /// Locks the folder, creating it when it is absent. `what` names it in the error: "pipeline `orders`".
    ///
    /// # Errors
    /// Fenced, when another process holds it; Config or Unavailable, when the lock file cannot be written.
    pub fn acquire(dir: impl AsRef<Path>, what: &str) -> Result<StateLock> {
        let path = dir.as_ref().join("lock");
        let failed = |e| Error::io("lock", path.display(), e);
        std::fs::create_dir_all(dir.as_ref()).map_err(failed)?;
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        for attempt in 1.. {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if attempt < TRIES => std::thread::sleep(PAUSE),
                Err(TryLockError::WouldBlock) => return Err(held(&mut file, what, &path)),
                Err(TryLockError::Error(e)) => return Err(failed(e)),
            }
        }
        file.set_len(0).map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(StateLock { file })
    }

    /// Whether a process holds the folder now. Looking creates nothing and keeps nobody from taking the lock.
    #[must_use]
    pub fn is_held(dir: impl AsRef<Path>) -> bool {
        let Ok(file) = File::open(dir.as_ref().join("lock")) else { return false };
        let asked = file.try_lock_shared();
        let _ = file.unlock();
        matches!(asked, Err(TryLockError::WouldBlock))
    }
}

impl Drop for StateLock {
    fn drop(&mut self) {
        // The file stays: removing it would let two processes lock two files of one name.
        let _ = self.file.set_len(0);
        let _ = self.file.unlock();
    }
}

fn held(file: &mut File, what: &str, path: &Path) -> Error {
    let mut text = String::new();
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_string(&mut text));
    let pid = text.trim();
    let (holder, advice) = if read.is_ok() && !pid.is_empty() {
        (format!("process {pid}"), format!("stop process {pid}, or wait until it ends"))
    } else {
        ("another process".to_owned(), "stop the other process, or wait until it ends".to_owned())
    };
    Error::new(Kind::Fenced, "F001", format!("{what} is already being run by {holder}"))
        .fact(advice)
        .fact(format!("the lock is {}", path.display()))
}

#[cfg(test)]
mod tests {
    use tidemill_model::Kind;

    use super::StateLock;

    #[test]
    fn the_second_is_told_who_holds_it_until_the_first_lets_go() {
        let dir = tempfile::tempdir().expect("a folder");
        let state = dir.path().join("state");
        let first = StateLock::acquire(&state, "pipeline `orders`").expect("free");
        let error = StateLock::acquire(&state, "pipeline `orders`").expect_err("held");
        assert_eq!(error.kind(), Kind::Fenced);
        let expected = format!("pipeline `orders` is already being run by process {}", std::process::id());
        assert_eq!(error.message(), expected);
        assert!(StateLock::is_held(&state));
        drop(first);
        assert!(!StateLock::is_held(&state));
        assert!(!StateLock::is_held(dir.path().join("nowhere")), "and nothing is created by asking");
        StateLock::acquire(&state, "pipeline `orders`").expect("free again");
    }
}
