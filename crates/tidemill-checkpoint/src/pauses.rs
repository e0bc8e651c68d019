//! [`Pauses`]: which pipelines are paused, and when those that go on again were resumed.
//!
//! ```text
//! paused/<pipeline>.json     there while it is paused: since when, by whom and why
//! resumed/<pipeline>.json    when it was last resumed; it stays
//! ```
//!
//! **Invariant:** a pipeline that is no longer paused has a note of when it was resumed, for the note is written first: what
//! was due during the pause is never taken for missed.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tidemill_model::{Error, Kind, Result, Timestamp};

use crate::blob::BlobStore;
use crate::checkpoints::name_part;

/// The pauses in a store.
#[derive(Debug, Clone)]
pub struct Pauses {
    store: Arc<dyn BlobStore>,
}

/// That a pipeline is paused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// The pipeline.
    pub pipeline: String,
    /// Who paused it, or was the last to say that it be paused.
    pub by: String,
    /// Why, in that one's words.
    pub why: String,
    /// Since when.
    pub since: Timestamp,
}

#[derive(Debug, Serialize, Deserialize)]
struct Resumed {
    pipeline: String,
    at: Timestamp,
}

impl Pauses {
    /// The pauses in the store.
    #[must_use]
    pub fn new(store: Arc<dyn BlobStore>) -> Pauses {
        Pauses { store }
    }

    /// Pauses a pipeline. One that is paused stays so since when it was; who and why are of the last who said so.
    ///
    /// # Errors
    /// Unavailable; it may be paused or not, and asking again is harmless.
    pub fn pause(&self, pipeline: &str, by: &str, why: &str, now: Timestamp) -> Result<Pause> {
        let before = match self.paused(pipeline) {
            // What cannot be read is replaced: this is how a damaged note is mended.
            Err(e) if e.kind() == Kind::Corrupt => None,
            before => before?,
        };
        let since = before.map_or(now, |before| before.since);
        let pause = Pause { pipeline: pipeline.to_owned(), by: by.to_owned(), why: why.to_owned(), since };
        self.store.put(&paused_file(pipeline), &to_json(&pause)?)?;
        Ok(pause)
    }

    /// Lets a pipeline go on; `false` when it was not paused, which changes nothing.
    ///
    /// # Errors
    /// Unavailable; it may be paused or not, and asking again is harmless.
    pub fn resume(&self, pipeline: &str, now: Timestamp) -> Result<bool> {
        let paused = paused_file(pipeline);
        if self.store.get(&paused)?.is_none() {
            return Ok(false);
        }
        let resumed = Resumed { pipeline: pipeline.to_owned(), at: now };
        self.store.put(&resumed_file(pipeline), &to_json(&resumed)?)?;
        self.store.delete(&paused)?;
        Ok(true)
    }

    /// Whether a pipeline is paused, and how.
    ///
    /// # Errors
    /// Unavailable; Corrupt, when the note cannot be read.
    pub fn paused(&self, pipeline: &str) -> Result<Option<Pause>> {
        self.read(&paused_file(pipeline))
    }

    /// When a pipeline was last resumed; `None` when it never was. Catching up begins anew there. While it is paused
    /// this may be the beginning of a resume that was not completed.
    ///
    /// # Errors
    /// Unavailable; Corrupt, when the note cannot be read.
    pub fn resumed_at(&self, pipeline: &str) -> Result<Option<Timestamp>> {
        let resumed: Option<Resumed> = self.read(&resumed_file(pipeline))?;
        Ok(resumed.map(|resumed| resumed.at))
    }

    /// All pauses, in the order of their files. One of this instant may be missing where listings lag, so ask
    /// [`Pauses::paused`] before a pipeline is run.
    ///
    /// # Errors
    /// Unavailable; Corrupt, when a note cannot be read.
    pub fn all(&self) -> Result<Vec<Pause>> {
        let names = self.store.list("paused/")?;
        names.iter().filter_map(|name| self.read(name).transpose()).collect()
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let Some(bytes) = self.store.get(name)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|e| {
            Error::new(Kind::Corrupt, "X007", format!("the note {name} in the state cannot be read: {e}"))
                .fact("pause the pipeline and resume it, which writes the notes anew")
                .because(e)
        })
    }
}

fn paused_file(pipeline: &str) -> String {
    format!("paused/{}.json", name_part(pipeline))
}

fn resumed_file(pipeline: &str) -> String {
    format!("resumed/{}.json", name_part(pipeline))
}

fn to_json(note: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(note).map_err(|e| Error::internal("a note cannot be written as JSON").because(e))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidemill_model::{Kind, Timestamp};

    use super::{Pause, Pauses};
    use crate::{BlobStore, Fault, Memory};

    fn pauses() -> (Arc<Memory>, Pauses) {
        let memory = Arc::new(Memory::new());
        (Arc::clone(&memory), Pauses::new(memory))
    }

    #[test]
    fn a_pause_keeps_its_beginning_and_a_resume_is_remembered() {
        let (_, pauses) = pauses();
        assert!(!pauses.resume("orders", Timestamp(1)).expect("resumes"), "was not paused");
        assert_eq!(pauses.resumed_at("orders").expect("reads"), None);
        pauses.pause("orders", "ann", "a fault", Timestamp(10)).expect("pauses");
        let pause = pauses.pause("orders", "bob", "maintenance", Timestamp(20)).expect("pauses again");
        assert_eq!((pause.since, pause.by.as_str(), pause.why.as_str()), (Timestamp(10), "bob", "maintenance"));
        assert_eq!(pauses.paused("orders").expect("reads"), Some(pause));
        assert!(pauses.resume("orders", Timestamp(30)).expect("resumes"));
        assert!(!pauses.resume("orders", Timestamp(40)).expect("resumes"), "only the first counts");
        assert_eq!(pauses.paused("orders").expect("reads"), None);
        assert_eq!(pauses.resumed_at("orders").expect("reads"), Some(Timestamp(30)));
        let pause = pauses.pause("orders", "ann", "", Timestamp(50)).expect("pauses");
        assert_eq!(pause.since, Timestamp(50));
        assert_eq!(pauses.resumed_at("orders").expect("reads"), Some(Timestamp(30)), "it stays");
    }

    #[test]
    fn names_that_are_no_paths_are_told_apart() {
        let (_, pauses) = pauses();
        let names = ["a", "a/b", "..", "é", "a.json", "A"];
        for name in names {
            pauses.pause(name, "ann", "", Timestamp(1)).expect("pauses");
        }
        let mut found: Vec<String> =
            pauses.all().expect("lists").into_iter().map(|Pause { pipeline, .. }| pipeline).collect();
        found.sort_unstable();
        let mut expected = names.map(str::to_owned);
        expected.sort_unstable();
        assert_eq!(found, expected);
    }

    #[test]
    fn killed_at_every_write_a_resumed_pipeline_knows_when() {
        for fault in [Fault::Before, Fault::After] {
            for writes in 0..3 {
                let (memory, pauses) = pauses();
                memory.fail_after(writes, fault);
                let _ =
                    pauses.pause("orders", "ann", "", Timestamp(1)).and_then(|_| pauses.resume("orders", Timestamp(2)));
                memory.heal();
                let paused = pauses.paused("orders").expect("reads").is_some();
                let resumed = pauses.resumed_at("orders").expect("reads");
                let never = writes == 0 && fault == Fault::Before;
                assert!(paused || never || resumed == Some(Timestamp(2)), "{fault:?} {writes}");
                pauses.pause("orders", "ann", "", Timestamp(3)).expect("pauses");
                assert!(pauses.resume("orders", Timestamp(4)).expect("resumes"));
                assert_eq!(pauses.resumed_at("orders").expect("reads"), Some(Timestamp(4)));
            }
        }
    }

    #[test]
    fn a_damaged_note_is_mended_by_pausing_and_resuming() {
        let (memory, pauses) = pauses();
        for file in ["paused/orders.json", "resumed/orders.json"] {
            memory.put(file, b"{").expect("writes");
        }
        assert_eq!(pauses.paused("orders").expect_err("damaged").kind(), Kind::Corrupt);
        assert_eq!(pauses.resumed_at("orders").expect_err("damaged").code(), "X007");
        pauses.pause("orders", "ann", "", Timestamp(1)).expect("pauses");
        pauses.resume("orders", Timestamp(2)).expect("resumes");
        assert_eq!(pauses.resumed_at("orders").expect("reads"), Some(Timestamp(2)));
    }
}
