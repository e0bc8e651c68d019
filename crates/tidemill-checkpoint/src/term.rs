//! [`Term`]: one term that this process has won, and how long it may rely on it.
//!
//! At any instant at most one holder believes that its term is valid, as long as clocks differ by less than [`GRACE`]:
//!
//! 1. Exactly one wins a number, for its file is created if absent. So two holders have different terms, n < m, and
//!    somebody began term n+1 after reading that term n was over.
//! 2. Who found term n over read it at or after `until` + grace on its own clock, so after `until` on the holder's. The
//!    holder of n believes in it only before the last `until` that it knows to have been in the file in time: a renewal
//!    counts only when it was written before the `until` of the one before had passed. So nobody who found the term over
//!    can have read the file before that renewal was in it, and the holder stops believing before anybody takes over.
//! 3. Who gave a term back no longer has it.
//!
//! The holder asks [`Term::is_valid`] before what the term protects, and some margin is left for doing it. Beyond that, for
//! a process that is held up between asking and doing or a clock that is wrong by more, the term does not protect: there
//! the manifest of an epoch does, which is created if absent, so that the late one loses at the commit.
//!
//! It relies on what [`crate::BlobStore`] promises: a write that failed has happened by then or never happens.
//!
//! **Invariant:** a term that was found over is never valid again, whatever the clock says later.

use std::time::Duration;

use tidemill_model::{Clock, Error, Kind, Result, Timestamp};

#[cfg(doc)]
use crate::GRACE;
use crate::terms::{Record, Terms};

/// The part of the time to live that is left for doing what the term protects.
const MARGIN: u32 = 10;

/// A term that this process has won.
#[derive(Debug)]
pub(crate) struct Term {
    terms: Terms,
    record: Record,
    ttl: Duration,
    /// Found over; it must be won anew.
    over: bool,
}

impl Term {
    pub(crate) fn won(terms: Terms, record: Record, ttl: Duration) -> Term {
        Term { terms, record, ttl, over: false }
    }

    pub(crate) fn record(&self) -> &Record {
        &self.record
    }

    /// Whether what the term protects may be done now.
    pub(crate) fn is_valid(&self, now: Timestamp) -> bool {
        !self.over && now.plus(self.ttl / MARGIN) < self.record.until
    }

    /// Moves `until` to one time to live from now. `note` changes what else the holder carries along.
    ///
    /// The clock is read before and after the write: one that took until the term was over may have been too late.
    ///
    /// # Errors
    /// Fenced, from then on for ever, when another began a term or this one ran out. Unavailable; the term is then valid
    /// until when it was before, and may be renewed again.
    pub(crate) fn renew(&mut self, clock: &dyn Clock, note: impl FnOnce(&mut Record, Timestamp)) -> Result<()> {
        let now = clock.now();
        if self.over || now >= self.record.until {
            return Err(self.ran_out());
        }
        if let Some(fenced) = self.overtaken()? {
            self.over = true;
            return Err(fenced);
        }
        let mut renewed = self.record.clone();
        note(&mut renewed, now);
        renewed.alive_at = renewed.alive_at.max(now);
        // Never earlier, or a rival could read less than the holder relies on when this write's answer is lost.
        renewed.until = renewed.until.max(now.plus(self.ttl));
        self.terms.rewrite(&renewed)?;
        if clock.now() >= self.record.until {
            return Err(self.ran_out());
        }
        self.record = renewed;
        Ok(())
    }

    /// Gives the term back, so that another need not wait until it is over.
    ///
    /// # Errors
    /// Unavailable; it then ends by itself.
    pub(crate) fn release(mut self, now: Timestamp) -> Result<()> {
        if self.overtaken()?.is_some() {
            return Ok(());
        }
        if self.is_valid(now) {
            self.record.alive_at = self.record.alive_at.max(now);
        }
        self.record.released = true;
        self.terms.rewrite(&self.record)
    }

    /// Whether another has begun a term since, or removed this one's file: a file is removed only when there are greater
    /// ones, which a listing may not show yet, or by a person.
    fn overtaken(&self) -> Result<Option<Error>> {
        let own = self.terms.read(self.record.term)?;
        let by = match self.terms.greater(self.record.term)? {
            Some(term) => self.terms.read(term)?.map_or_else(|| format!("term {term}"), |record| record.holder),
            None if own.is_some_and(|own| own.is_same_term(&self.record)) => return Ok(None),
            None => "another process".to_owned(),
        };
        let Record { term, .. } = self.record;
        let message = format!("term {term} of the {} is over: {by} has taken it", self.terms.what());
        Ok(Some(Error::new(Kind::Fenced, "F003", message).fact("nothing may be done any more that it protects")))
    }

    fn ran_out(&mut self) -> Error {
        self.over = true;
        let Record { term, until, .. } = self.record;
        let message = format!("term {term} of the {} ran out at {until} before it was renewed", self.terms.what());
        Error::new(Kind::Fenced, "F004", message)
            .fact("the process stood still, or the store answered too late; it has to be won anew")
    }
}
