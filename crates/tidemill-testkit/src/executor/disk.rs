//! [`Disk`]: the checkpoint store that survives every process, and a witness of each manifest that was ever created.
//!
//! **Invariant:** what the witness holds is in the order in which the epochs became real.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tidemill_checkpoint::{BlobStore, Manifest, Memory};
use tidemill_model::{Clock, Error, Result, Timestamp};

use super::weather::Process;
use crate::VirtualClock;

/// The most manifests that a listing misses.
const MISSED: usize = 5;

/// What lies on it.
#[derive(Debug)]
pub(super) struct Disk {
    values: Arc<Memory>,
    clock: Arc<VirtualClock>,
    list_lag: Duration,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// When names came into being.
    born: BTreeMap<String, Timestamp>,
    /// Every manifest, with the process that created it.
    manifests: Vec<(usize, Manifest)>,
    damaged: Option<String>,
}

impl Disk {
    /// An empty disk, whose listings may miss what is younger than `list_lag`.
    #[must_use]
    pub(super) fn new(clock: &Arc<VirtualClock>, list_lag: Duration) -> Arc<Disk> {
        Arc::new(Disk { values: Arc::new(Memory::new()), clock: Arc::clone(clock), list_lag, seen: Mutex::default() })
    }

    /// The disk without faults, as a reader of another machine sees it.
    #[must_use]
    pub(super) fn calm(&self) -> Arc<Memory> {
        Arc::clone(&self.values)
    }

    /// What a witness could not read of a manifest.
    #[must_use]
    pub(super) fn damage(&self) -> Option<String> {
        self.seen().damaged.clone()
    }

    /// Every manifest so far, with the number of the process that created it.
    #[must_use]
    pub(super) fn manifests(&self) -> Vec<(usize, Manifest)> {
        self.seen().manifests.clone()
    }

    /// The newest manifest.
    #[must_use]
    pub(super) fn newest(&self) -> Option<Manifest> {
        self.seen().manifests.last().map(|(_, manifest)| manifest.clone())
    }

    /// How many bytes lie on it.
    ///
    /// # Errors
    /// None: nothing goes wrong on a calm disk.
    pub(super) fn bytes(&self) -> Result<usize> {
        let mut bytes = 0;
        for name in self.values.list("")? {
            bytes += self.values.get(&name)?.map_or(0, |value| value.len());
        }
        Ok(bytes)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, process: usize, name: &str, bytes: &[u8]) {
        let now = self.clock.now();
        let mut seen = self.seen();
        seen.born.entry(name.to_owned()).or_insert(now);
        if name.contains("/epochs/") {
            let body = bytes.split(|byte| *byte == b'\n').nth(1).unwrap_or_default();
            match serde_json::from_slice::<Manifest>(body) {
                // One below the newest was removed by age before: its process is told that it is fenced, and nobody reads it.
                Ok(manifest) if seen.manifests.last().is_some_and(|(_, newest)| newest.epoch > manifest.epoch) => {}
                Ok(manifest) => seen.manifests.push((process, manifest)),
                Err(error) => seen.damaged = Some(format!("{name}: {error}")),
            }
        }
    }
}

/// The disk as one process reaches it.
#[derive(Debug)]
pub(super) struct Mount {
    /// The disk.
    pub(super) disk: Arc<Disk>,
    /// The process.
    pub(super) process: Arc<Process>,
}

impl BlobStore for Mount {
    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.process.call(&format!("put of {name}"), || {
            self.disk.note(self.process.number, name, bytes);
            self.disk.values.put(name, bytes)
        })?
    }

    fn create(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        self.process.call(&format!("create of {name}"), || {
            let created = self.disk.values.create(name, bytes)?;
            if created {
                self.disk.note(self.process.number, name, bytes);
            }
            Ok::<bool, Error>(created)
        })?
    }

    fn get(&self, name: &str) -> Result<Option<Bytes>> {
        self.process.call(&format!("get of {name}"), || self.disk.values.get(name))?
    }

    fn get_range(&self, name: &str, start: u64, length: u64) -> Result<Bytes> {
        self.process.call(&format!("get of a part of {name}"), || self.disk.values.get_range(name, start, length))?
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>> {
        let mut names = self.process.call(&format!("list of {prefix}"), || self.disk.values.list(prefix))??;
        let now = self.disk.clock.now();
        let seen = self.disk.seen();
        // Of manifests only: what a dead process left of an epoch is found by listing, which no store does that late.
        // And of the last few only: by its lag a store may miss new epochs, not so many that the ones it shows are
        // removed by age.
        let young = |name: &String| seen.born.get(name).is_some_and(|born| born.plus(self.disk.list_lag) > now);
        if prefix.ends_with("/epochs/") {
            let shown = names.iter().rposition(|name| !young(name)).map_or(0, |last| last + 1);
            names.truncate(shown.max(names.len().saturating_sub(MISSED)));
        }
        Ok(names)
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.process.call(&format!("delete of {name}"), || self.disk.values.delete(name))?
    }
}
