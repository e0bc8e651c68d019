//! [`BlobStore`]: where durable bytes lie, by name; [`Memory`] is the one for tests, with faults on demand.
//!
//! **Invariant:** a name is either absent or holds one whole value; no reader ever sees a part of one.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tidemill_model::{Error, Kind, Result};

/// Named values that survive the process. Names are paths with `/`, without empty, `.` or `..` parts.
pub trait BlobStore: Send + Sync + fmt::Debug {
    /// Writes a value, replacing one that is there. Durable when it returns.
    ///
    /// # Errors
    /// Unavailable; the name then holds the old value or the new one, whole.
    fn put(&self, name: &str, bytes: &[u8]) -> Result<()>;

    /// Writes a value unless the name is taken; `false` when it is. Of several at the same time exactly one gets
    /// `true`. Durable when it returns.
    ///
    /// # Errors
    /// Unavailable; the name then is absent or holds this value, whole.
    fn create(&self, name: &str, bytes: &[u8]) -> Result<bool>;

    /// The value, or `None` when there is none.
    ///
    /// # Errors
    /// Unavailable.
    fn get(&self, name: &str) -> Result<Option<Bytes>>;

    /// A part of a value.
    ///
    /// # Errors
    /// Corrupt, when the value is absent or ends before the part does; Unavailable.
    fn get_range(&self, name: &str, start: u64, length: u64) -> Result<Bytes>;

    /// The names that begin with `prefix`, in order.
    ///
    /// # Errors
    /// Unavailable.
    fn list(&self, prefix: &str) -> Result<Vec<String>>;

    /// Removes a value; removing an absent one is no error.
    ///
    /// # Errors
    /// Unavailable.
    fn delete(&self, name: &str) -> Result<()>;
}

/// A name that could leave the store's folder is a defect of the caller or an attack, never a file.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let bad = name.is_empty()
        || name.contains(['\\', '\0'])
        || name.split('/').any(|part| part.is_empty() || part.starts_with('.') || part.len() > 240);
    if bad { Err(Error::internal(format!("`{name}` cannot be the name of a stored value"))) } else { Ok(()) }
}

/// The error of a part that is not there.
pub(crate) fn missing_part(name: &str, start: u64, length: u64) -> Error {
    Error::new(Kind::Corrupt, "X003", format!("stored file {name} lacks the {length} bytes from byte {start}"))
        .fact("it was cut or removed by something else; put it back from a backup of the state folder")
}

/// What goes wrong in a [`Memory`], for tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The write does not happen: a full disk, or a crash just before.
    Before,
    /// The write happens, but the caller is told that it did not: a crash just after, or a lost answer.
    After,
}

/// A store in memory.
#[derive(Debug, Default)]
pub struct Memory {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    values: BTreeMap<String, Bytes>,
    /// Writes that still succeed, and what happens to the one after them and all that follow.
    fault: Option<(usize, Fault)>,
    writes: usize,
}

impl Memory {
    /// An empty store.
    #[must_use]
    pub fn new() -> Memory {
        Memory::default()
    }

    /// Lets `writes` more writes and removals succeed; the next one fails in this way and every later one fails
    /// without effect, as if the process had died there.
    pub fn fail_after(&self, writes: usize, fault: Fault) {
        self.inner().fault = Some((writes, fault));
    }

    /// Ends the faults, as a restart does.
    pub fn heal(&self) {
        self.inner().fault = None;
    }

    /// How many writes and removals were asked for.
    #[must_use]
    pub fn writes(&self) -> usize {
        self.inner().writes
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write<T>(&self, name: &str, apply: impl FnOnce(&mut BTreeMap<String, Bytes>) -> T) -> Result<T> {
        check_name(name)?;
        let mut inner = self.inner();
        inner.writes += 1;
        let fault = match inner.fault {
            None => return Ok(apply(&mut inner.values)),
            Some((0, fault)) => fault,
            Some((left, fault)) => {
                inner.fault = Some((left - 1, fault));
                return Ok(apply(&mut inner.values));
            }
        };
        inner.fault = Some((0, Fault::Before));
        if fault == Fault::After {
            apply(&mut inner.values);
        }
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        Err(Error::io("write", name, full))
    }
}

impl BlobStore for Memory {
    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let bytes = Bytes::copy_from_slice(bytes);
        self.write(name, |values| {
            values.insert(name.to_owned(), bytes);
        })
    }

    fn create(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        let bytes = Bytes::copy_from_slice(bytes);
        self.write(name, |values| {
            let absent = !values.contains_key(name);
            if absent {
                values.insert(name.to_owned(), bytes);
            }
            absent
        })
    }

    fn get(&self, name: &str) -> Result<Option<Bytes>> {
        check_name(name)?;
        Ok(self.inner().values.get(name).cloned())
    }

    fn get_range(&self, name: &str, start: u64, length: u64) -> Result<Bytes> {
        check_name(name)?;
        let missing = || missing_part(name, start, length);
        let inner = self.inner();
        let value = inner.values.get(name).ok_or_else(missing)?;
        let end = start.checked_add(length).filter(|end| *end <= value.len() as u64).ok_or_else(missing)?;
        Ok(value.slice(start as usize..end as usize))
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>> {
        let inner = self.inner();
        Ok(inner
            .values
            .range(prefix.to_owned()..)
            .map(|(k, _)| k)
            .take_while(|k| k.starts_with(prefix))
            .cloned()
            .collect())
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.write(name, |values| {
            values.remove(name);
        })
    }
}

/// What every store must do; each implementation's tests call it.
#[cfg(test)]
pub(crate) mod law {
    use std::sync::Arc;

    use super::BlobStore;
    use tidemill_model::Kind;

    pub(crate) fn check(store: Arc<dyn BlobStore>) {
        assert_eq!(store.get("a/b").expect("get"), None);
        assert!(store.create("a/b", b"one").expect("create"), "absent");
        assert!(!store.create("a/b", b"two").expect("create"), "taken");
        assert_eq!(store.get("a/b").expect("get").as_deref(), Some(b"one".as_slice()));
        store.put("a/b", b"three").expect("put");
        store.put("a/c/d", b"").expect("put of nothing");
        store.put("ab", b"x").expect("put");
        assert_eq!(store.get_range("a/b", 1, 3).expect("range").as_ref(), b"hre");
        assert_eq!(store.get_range("a/b", 5, 0).expect("range").len(), 0);
        for (start, length) in [(3, 3), (6, 1), (u64::MAX, 2)] {
            let error = store.get_range("a/b", start, length).expect_err("beyond the end");
            assert_eq!(error.kind(), Kind::Corrupt, "{error}");
        }
        assert_eq!(store.get_range("none", 0, 1).expect_err("absent").kind(), Kind::Corrupt);
        assert_eq!(store.list("a/").expect("list"), ["a/b", "a/c/d"]);
        assert_eq!(store.list("a").expect("list"), ["a/b", "a/c/d", "ab"]);
        assert_eq!(store.list("none/").expect("list"), Vec::<String>::new());
        store.delete("a/b").expect("delete");
        store.delete("a/b").expect("delete again");
        assert_eq!(store.get("a/b").expect("get"), None);
        for name in ["", "/etc/passwd", "a/../../b", "a//b", "a/", ".hidden", "a\\b", "a\0b"] {
            assert_eq!(store.put(name, b"x").expect_err(name).kind(), Kind::Internal, "{name}");
            assert!(store.get(name).is_err() && store.create(name, b"").is_err() && store.delete(name).is_err());
        }
        one_winner(&store);
    }

    fn one_winner(store: &Arc<dyn BlobStore>) {
        let threads: Vec<_> = (0..8_u8)
            .map(|i| {
                let store = Arc::clone(store);
                std::thread::spawn(move || store.create("race", &[i; 100]).expect("create").then_some(i))
            })
            .collect();
        let winners: Vec<u8> = threads.into_iter().filter_map(|t| t.join().expect("joins")).collect();
        assert_eq!(winners.len(), 1, "{winners:?}");
        assert_eq!(store.get("race").expect("get").as_deref(), Some([winners[0]; 100].as_slice()));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{BlobStore, Fault, Memory, law};

    #[test]
    fn meets_the_law() {
        law::check(Arc::new(Memory::new()));
    }

    #[test]
    fn faults_strike_where_asked() {
        for (fault, lands) in [(Fault::Before, false), (Fault::After, true)] {
            let store = Memory::new();
            store.fail_after(1, fault);
            store.put("a", b"1").expect("still works");
            assert_eq!(store.put("b", b"2").expect_err("fails").code(), "U010");
            store.put("c", b"3").expect_err("dead from then on");
            store.heal();
            assert_eq!(store.get("b").expect("get").is_some(), lands);
            assert_eq!(store.get("c").expect("get"), None);
        }
    }
}
