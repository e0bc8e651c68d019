//! [`Terms`]: the numbered terms in which one thing is held, as files of a folder.
//!
//! ```text
//! <folder>/<20 digits>.json    one term: who holds it, until when, and whether it was given back
//! ```
//!
//! **Invariant:** exactly one wins a number, and a number is never used again: the last few files stay, and who creates
//! a number that was removed by age finds greater ones and gives way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidemill_model::{Error, Kind, Result, Timestamp};

use crate::blob::BlobStore;

/// How much the clocks of two machines may differ. A term is taken over only when it has been over for so long.
pub const GRACE: Duration = Duration::from_secs(5);

/// How many files stay, so that a number that was used is seen even in a listing that misses the newest.
const KEPT: u64 = 3;

/// Tells two attempts of one holder apart; the holder's text tells processes apart.
static ATTEMPTS: AtomicU64 = AtomicU64::new(0);

/// What the file of a term holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) term: u64,
    pub(crate) holder: String,
    attempt: u64,
    pub(crate) begun_at: Timestamp,
    /// When the holder was last seen to live: at the beginning, a renewal, or when it gave the term back.
    pub(crate) alive_at: Timestamp,
    pub(crate) until: Timestamp,
    #[serde(default)]
    pub(crate) released: bool,
    /// What a lease carries on from term to term; see [`crate::Lease::since`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<Timestamp>,
}

impl Record {
    /// Whether another may begin the next term.
    pub(crate) fn is_over(&self, now: Timestamp) -> bool {
        self.released || now >= self.until.plus(GRACE)
    }

    /// Whether both are states of one term that one attempt has won.
    pub(crate) fn is_same_term(&self, other: &Record) -> bool {
        (self.term, &self.holder, self.attempt) == (other.term, &other.holder, other.attempt)
    }
}

/// What lies in the folder.
#[derive(Debug)]
pub(crate) struct Newest {
    /// The greatest term; `None` when none was ever begun.
    pub(crate) record: Option<Record>,
    /// The numbers that a listing showed, in order.
    listed: Vec<u64>,
}

impl Newest {
    /// Whether a term may be begun.
    pub(crate) fn is_over(&self, now: Timestamp) -> bool {
        self.record.as_ref().is_none_or(|record| record.is_over(now))
    }
}

/// How an attempt to begin a term ended.
#[derive(Debug)]
pub(crate) enum Begun {
    Won(Record),
    /// Another was quicker: the newest term that is known now.
    Lost(Record),
}

/// The terms of one thing that at most one may hold.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    store: Arc<dyn BlobStore>,
    folder: String,
    /// Names the thing in errors: "lease `scheduler`".
    what: String,
}

impl Terms {
    pub(crate) fn new(store: Arc<dyn BlobStore>, folder: String, what: String) -> Terms {
        Terms { store, folder, what }
    }

    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    pub(crate) fn newest(&self) -> Result<Newest> {
        self.newest_from(self.numbers()?)
    }

    /// As [`Terms::newest`], when the folder was listed already. A listing may miss what was created a moment ago, so
    /// the next number is asked for by its name until there is none.
    pub(crate) fn newest_from(&self, mut listed: Vec<u64>) -> Result<Newest> {
        // Others may begin so many terms between listing and reading that the one read was removed; then look again.
        for _ in 0..100 {
            let mut record = None;
            if let Some(&last) = listed.last() {
                record = self.read(last)?;
                if record.is_none() {
                    listed = self.numbers()?;
                    continue;
                }
            }
            while let Some(next) = self.read(number_after(record.as_ref()))? {
                record = Some(next);
            }
            return Ok(Newest { record, listed });
        }
        Err(self.vanish())
    }

    /// Begins the term after the newest, which the caller found to be over at `now`. The caller took `now` before it
    /// read the newest: what it decides is then right for every later instant, too.
    pub(crate) fn begin(
        &self,
        newest: &Newest,
        holder: &str,
        ttl: Duration,
        since: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Begun> {
        let record = Record {
            term: number_after(newest.record.as_ref()),
            holder: holder.to_owned(),
            attempt: ATTEMPTS.fetch_add(1, Ordering::Relaxed),
            begun_at: now,
            alive_at: now,
            until: now.plus(ttl),
            released: false,
            since,
        };
        if let Some(other) = self.create(&record)? {
            return Ok(Begun::Lost(other));
        }
        // Absent does not mean that nobody was here: who was held up for long comes to a number that was used and
        // removed by age since. Then there are greater ones, for a number is removed only when they exist.
        // The file stays for the next winner to remove; who looks for the newest is not misled by it.
        if self.greater(record.term)?.is_some() {
            return Ok(Begun::Lost(self.newest_record()?));
        }
        for old in newest.listed.iter().filter(|old| old.saturating_add(KEPT) <= record.term) {
            // What could not be removed is never read as the newest, and goes with the next term.
            let _ = self.store.delete(&self.file(*old));
        }
        Ok(Begun::Won(record))
    }

    /// Creates the file of a term; answers who else has it. When the answer of the store is lost, or it says that a name
    /// is taken that the first of two tries took, the file itself tells who won.
    fn create(&self, record: &Record) -> Result<Option<Record>> {
        let created = self.store.create(&self.file(record.term), &to_json(record)?);
        if let Ok(true) = created {
            return Ok(None);
        }
        match (self.read(record.term), created) {
            (Ok(Some(found)), _) => Ok((!found.is_same_term(record)).then_some(found)),
            (Ok(None), Ok(_)) => self.newest_record().map(Some),
            (_, Err(e)) | (Err(e), _) => Err(e),
        }
    }

    fn newest_record(&self) -> Result<Record> {
        self.newest()?.record.ok_or_else(|| self.vanish())
    }

    fn vanish(&self) -> Error {
        Error::new(Kind::Unavailable, "U014", format!("terms vanish from {} while they are read", self.folder))
    }

    /// The number of a term after this one, if there is any.
    pub(crate) fn greater(&self, term: u64) -> Result<Option<u64>> {
        let next = term.saturating_add(1);
        match self.numbers()?.pop().filter(|last| *last > term) {
            None => Ok(self.read(next)?.map(|_| next)),
            greater => Ok(greater),
        }
    }

    pub(crate) fn read(&self, term: u64) -> Result<Option<Record>> {
        let name = self.file(term);
        let Some(bytes) = self.store.get(&name)? else { return Ok(None) };
        let damaged = |how: String| {
            Error::new(Kind::Corrupt, "X006", format!("{name} does not say who holds the {}: {how}", self.what))
                .fact(format!("stop every process that uses this state, then remove the folder {}", self.folder))
        };
        let record: Record = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()).because(e))?;
        if record.term == term {
            return Ok(Some(record));
        }
        Err(damaged(format!("it is of term {}", record.term)))
    }

    /// Rewrites the file of a term; only its winner may.
    pub(crate) fn rewrite(&self, record: &Record) -> Result<()> {
        self.store.put(&self.file(record.term), &to_json(record)?)
    }

    fn numbers(&self) -> Result<Vec<u64>> {
        let prefix = format!("{}/", self.folder);
        let names = self.store.list(&prefix)?;
        Ok(names.iter().filter_map(|name| number_of(name.strip_prefix(&prefix)?)).collect())
    }

    fn file(&self, term: u64) -> String {
        format!("{}/{term:020}.json", self.folder)
    }
}

/// The number in the file name of a term; `None` for files that are none of ours.
pub(crate) fn number_of(file: &str) -> Option<u64> {
    let digits = file.strip_suffix(".json")?;
    let plain = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if plain { digits.parse().ok() } else { None }
}

fn number_after(record: Option<&Record>) -> u64 {
    record.map_or(1, |record| record.term.saturating_add(1))
}

fn to_json(record: &Record) -> Result<Vec<u8>> {
    serde_json::to_vec(record).map_err(|e| Error::internal("a term cannot be written as JSON").because(e))
}
