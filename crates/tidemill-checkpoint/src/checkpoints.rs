//! [`Checkpoints`]: the durable progress of one pipeline in a [`BlobStore`].
//!
//! ```text
//! pipelines/<pipeline>/epochs/<20 digits>.json            the manifest of an epoch, with chunks of state if they are few bytes
//! pipelines/<pipeline>/state/<20 digits>-<crc>.bin        the state chunks that the epoch wrote otherwise
//! pipelines/<pipeline>/dead_letters/<dataset>/…           see `dead_letters.rs`; `late/` and `replayed/` beside it, too
//! pipelines/<pipeline>/published                          the manifest that every sink is known to have committed
//! ```
//!
//! **Invariant:** whatever an epoch refers to is durable before its manifest is created, and nothing that a kept
//! manifest refers to is removed. State files are named by their content too, so that a process that lost the race
//! for an epoch never wrote into the winner's file.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tidemill_model::{Epoch, Error, Kind, Result};

use crate::blob::BlobStore;
use crate::envelope;
use crate::{ChunkRef, Manifest};

/// How many manifests stay: enough for a slow reader to finish with the files of the one that it began with.
const KEPT: usize = 10;

/// The durable progress of one pipeline.
#[derive(Debug)]
pub struct Checkpoints {
    store: Arc<dyn BlobStore>,
    /// `pipelines/<pipeline>`.
    root: String,
    pipeline: String,
    /// What lies in the store, so that it is listed once and not for each epoch.
    known: Mutex<Option<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    /// Kept manifests, and the state files that each refers to.
    kept: BTreeMap<Epoch, BTreeSet<String>>,
    /// State files that are there.
    files: BTreeSet<String>,
}

impl Checkpoints {
    /// The progress of `pipeline` in the store.
    #[must_use]
    pub fn new(store: Arc<dyn BlobStore>, pipeline: &str) -> Checkpoints {
        let root = format!("pipelines/{}", name_part(pipeline));
        Checkpoints { store, root, pipeline: pipeline.to_owned(), known: Mutex::new(None) }
    }

    /// The pipeline.
    #[must_use]
    pub fn pipeline(&self) -> &str {
        &self.pipeline
    }

    pub(crate) fn store(&self) -> &dyn BlobStore {
        self.store.as_ref()
    }

    pub(crate) fn root(&self) -> &str {
        &self.root
    }

    /// The newest manifest: the only authority on progress. `None` when nothing was ever committed.
    ///
    /// # Errors
    /// Corrupt, when the newest one cannot be read: it was created in one step, so it is damaged and not unfinished,
    /// and going on from an older one would write rows twice. Unavailable.
    pub fn latest(&self) -> Result<Option<Manifest>> {
        // Another process may remove an old manifest between listing and reading, but then there is a newer one.
        for _ in 0..100 {
            let listed = self.epoch_files()?.pop();
            let newest = match &listed {
                None => None,
                Some(name) => match self.store.get(name)? {
                    Some(bytes) => Some(self.parse(name, &bytes)?),
                    None => continue,
                },
            };
            return self.newest_after(newest);
        }
        Err(Error::new(Kind::Unavailable, "U013", format!("manifests vanish from {} while they are read", self.root)))
    }

    /// A listing may miss what was created a moment ago, by another process or in a store whose listings lag: epochs
    /// have no gaps, so the next one is asked for by its name until there is none. Who took an older manifest for the
    /// newest would remove what the newest refers to.
    fn newest_after(&self, mut newest: Option<Manifest>) -> Result<Option<Manifest>> {
        loop {
            let next = self.epoch_file(newest.as_ref().map_or(Epoch::NONE, |manifest| manifest.epoch).next());
            match self.store.get(&next)? {
                Some(bytes) => newest = Some(self.parse(&next, &bytes)?),
                None => return Ok(newest),
            }
        }
    }

    /// Commits an epoch. Creating the same manifest again is no error, so that a lost answer may be asked for again.
    ///
    /// # Errors
    /// Fenced, when the epoch is there already: another process wrote it, and this one must stop. Unavailable; whether
    /// the epoch was committed is then unknown until [`Checkpoints::latest`] is asked.
    pub fn create(&self, manifest: &Manifest) -> Result<()> {
        let name = self.epoch_file(manifest.epoch);
        let bytes = envelope::seal("manifest", &to_json(manifest)?);
        let created = self.store.create(&name, &bytes)?;
        if !created && self.store.get(&name)?.as_deref() != Some(bytes.as_slice()) {
            return Err(self.fenced(manifest.epoch));
        }
        // Absent does not mean that nobody was here: a process that was held for long comes to an epoch that another one
        // has committed and that was removed by age since. Then there are newer ones, which are looked for afterwards,
        // for an epoch is removed only when they exist.
        let newer = self.epoch_files()?.iter().any(|other| epoch_of(other).is_some_and(|of| of > manifest.epoch));
        if !newer {
            return Ok(());
        }
        if created {
            self.store.delete(&name)?;
        }
        Err(self.fenced(manifest.epoch))
    }

    fn fenced(&self, epoch: Epoch) -> Error {
        let message = format!("epoch {epoch} of pipeline `{}` was committed by another process", self.pipeline);
        Error::new(Kind::Fenced, "F002", message)
            .fact("nothing of this process's epoch was published")
            .fact("let one process run the pipeline: stop this one, or the other and start this one again")
    }

    /// Notes that every sink has published what this manifest prepared. Who starts next need not commit it again.
    ///
    /// # Errors
    /// Unavailable; the note may then be missing, which costs the next start a commit that changes nothing.
    pub fn mark_published(&self, manifest: &Manifest) -> Result<()> {
        self.store.put(&self.published_file(), published_note(manifest).as_bytes())
    }

    /// Whether every sink is known to have published what this manifest prepared. A note of any other manifest, a later
    /// one of a state that was set back among them, knows nothing of this one; nor does a damaged note.
    ///
    /// # Errors
    /// Unavailable.
    pub fn is_published(&self, manifest: &Manifest) -> Result<bool> {
        let bytes = self.store.get(&self.published_file())?;
        Ok(bytes.is_some_and(|bytes| bytes == published_note(manifest)))
    }

    /// Writes the changed state chunks of an epoch, all in one file. No file is written for none.
    ///
    /// # Errors
    /// Unavailable.
    pub fn write_state(&self, epoch: Epoch, chunks: Vec<(String, Bytes)>) -> Result<BTreeMap<String, ChunkRef>> {
        if chunks.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut packed = Vec::with_capacity(chunks.iter().map(|(_, bytes)| bytes.len()).sum());
        let mut places = Vec::with_capacity(chunks.len());
        for (key, bytes) in chunks {
            let start = packed.len() as u64;
            packed.extend_from_slice(&bytes);
            places.push((key, start, bytes.len() as u64, crc32c::crc32c(&bytes)));
        }
        let file = format!("{}/state/{:020}-{:08x}.bin", self.root, epoch.0, crc32c::crc32c(&packed));
        self.store.put(&file, &packed)?;
        if let Some(known) = self.known.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            known.files.insert(file.clone());
        }
        let refs = places.into_iter();
        Ok(refs
            .map(|(key, start, length, crc)| (key, ChunkRef { file: file.clone(), start, length, crc, here: None }))
            .collect())
    }

    /// The bytes of a state chunk.
    ///
    /// # Errors
    /// Corrupt, when they are not what was written; Unavailable.
    pub fn read_chunk(&self, chunk: &ChunkRef) -> Result<Bytes> {
        let bytes = match chunk.bytes_here() {
            Some(bytes) => bytes,
            None => self.store.get_range(&chunk.file, chunk.start, chunk.length)?,
        };
        if crc32c::crc32c(&bytes) == chunk.crc {
            return Ok(bytes);
        }
        let message = format!("stored state in {} from byte {} does not match its checksum", chunk.file, chunk.start);
        Err(Error::new(Kind::Corrupt, "X002", message)
            .fact("put the file back from a backup, or remove the pipeline's state and what it has written, and run it from the start"))
    }

    /// Removes what a dead process wrote for epochs above the newest manifest. Call it once after recovery, before
    /// the first new epoch.
    ///
    /// # Errors
    /// Unavailable.
    pub fn clean(&self, latest: &Manifest) -> Result<()> {
        self.clean_after(latest.epoch)
    }

    /// As [`Checkpoints::clean`], when there may be no manifest yet ([`Epoch::NONE`]).
    ///
    /// Dead letters of later epochs must go, or they would count when the epoch is reached. State files of later
    /// epochs are left to [`Checkpoints::prune`], which runs after this process won an epoch: until then a process
    /// that is not quite dead might still commit them.
    ///
    /// # Errors
    /// Unavailable.
    pub fn clean_after(&self, epoch: Epoch) -> Result<()> {
        self.remove_dead_letters_after(epoch)
    }

    /// Keeps the last few manifests, and removes the older ones and all state that no kept one refers to. Call it
    /// after a commit; it lists the store only the first time.
    ///
    /// # Errors
    /// Unavailable; what was not removed is tried again next time.
    pub fn prune(&self, newest: &Manifest) -> Result<()> {
        self.prune_some(newest, usize::MAX)
    }

    /// As [`Checkpoints::prune`], but removes at most so many files, or an eighth of those that can go if that is more: who
    /// commits often is not held up by what many epochs together have left. The rest goes later.
    ///
    /// # Errors
    /// As [`Checkpoints::prune`].
    pub fn prune_some(&self, newest: &Manifest, at_most: usize) -> Result<()> {
        let mut guard = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = match guard.as_mut() {
            Some(known) => known,
            None => guard.insert(self.look_around()?),
        };
        known.kept.insert(newest.epoch, state_files(newest));
        while known.kept.len() > KEPT {
            // Manifests go before what they refer to: a crash between leaves files too many, never one too few.
            let Some((&oldest, _)) = known.kept.first_key_value() else { break };
            self.store.delete(&self.epoch_file(oldest))?;
            known.kept.remove(&oldest);
        }
        // A file of a later epoch may be one that this process is about to commit.
        let unreferenced = |file: &String| {
            epoch_of(file).is_some_and(|epoch| epoch <= newest.epoch)
                && !known.kept.values().any(|files| files.contains(file))
        };
        let mut doomed: Vec<String> = known.files.iter().filter(|file| unreferenced(file)).cloned().collect();
        doomed.truncate(at_most.max(doomed.len() / 8));
        for file in doomed {
            self.store.delete(&file)?;
            known.files.remove(&file);
        }
        Ok(())
    }

    fn look_around(&self) -> Result<Known> {
        let mut known = Known::default();
        for name in self.epoch_files()? {
            let Some(epoch) = epoch_of(&name) else { continue };
            // A damaged old manifest is nobody's authority; it goes away with its age.
            let manifest = self.store.get(&name)?.and_then(|bytes| self.parse(&name, &bytes).ok());
            known.kept.insert(epoch, manifest.as_ref().map(state_files).unwrap_or_default());
        }
        known.files = self.store.list(&format!("{}/state/", self.root))?.into_iter().collect();
        Ok(known)
    }

    fn published_file(&self) -> String {
        format!("{}/published", self.root)
    }

    fn epoch_file(&self, epoch: Epoch) -> String {
        format!("{}/epochs/{:020}.json", self.root, epoch.0)
    }

    fn epoch_files(&self) -> Result<Vec<String>> {
        let mut names = self.store.list(&format!("{}/epochs/", self.root))?;
        names.retain(|name| epoch_of(name).is_some());
        Ok(names)
    }

    fn parse(&self, name: &str, bytes: &[u8]) -> Result<Manifest> {
        let body = envelope::open("manifest", name, bytes)?;
        let manifest: Manifest = serde_json::from_slice(body).map_err(|e| {
            let message = format!("{name} is whole but is no manifest that this version knows: {e}");
            Error::new(Kind::Corrupt, "X001", message)
                .fact("run the version of Tidemill that wrote it, or a newer one")
                .because(e)
        })?;
        if Some(manifest.epoch) == epoch_of(name) && manifest.pipeline == self.pipeline {
            return Ok(manifest);
        }
        let message =
            format!("{name} holds epoch {} of pipeline `{}`: it was renamed", manifest.epoch, manifest.pipeline);
        Err(Error::new(Kind::Corrupt, "X001", message).fact("give it its name back, or remove it"))
    }
}

/// The epoch in a file's name, `…/<20 digits>…`; `None` for files that are none of ours.
pub(crate) fn epoch_of(name: &str) -> Option<Epoch> {
    let file = name.rsplit('/').next()?;
    let digits = file.get(..20).filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))?;
    digits.parse().ok().map(Epoch)
}

/// What tells a manifest from every other one: its epoch, and when it was made.
fn published_note(manifest: &Manifest) -> String {
    format!("epoch {} of {}\n", manifest.epoch.0, manifest.committed_at)
}

/// A name as one part of a path: what is not plain is written as `%` and two hexadecimal digits.
pub(crate) fn name_part(name: &str) -> String {
    let mut part = String::with_capacity(name.len());
    for (i, byte) in name.bytes().enumerate() {
        match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'-' => part.push(char::from(byte)),
            b'.' if i > 0 => part.push('.'),
            _ => part.push_str(&format!("%{byte:02X}")),
        }
    }
    part
}

fn state_files(manifest: &Manifest) -> BTreeSet<String> {
    let chunks = manifest.state.values().flat_map(|state| state.chunks.values());
    chunks.filter(|chunk| chunk.here.is_none()).map(|chunk| chunk.file.clone()).collect()
}

fn to_json(manifest: &Manifest) -> Result<Vec<u8>> {
    serde_json::to_vec(manifest).map_err(|e| Error::internal("a manifest cannot be written as JSON").because(e))
}

#[cfg(test)]
#[path = "checkpoints_tests.rs"]
mod tests;
