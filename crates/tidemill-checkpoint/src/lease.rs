//! [`Lease`]: leadership of one scheduler over a project, in a store that knows no compare-and-swap.
//!
//! ```text
//! leases/<name>/terms/<20 digits>.json
//! ```
//!
//! Leadership goes in terms. A rival begins the next one when the newest was given back, or when its `until` and the
//! [`GRACE`] for clocks that differ have passed. The argument why at most one leads is in `term.rs`.
//!
//! **Invariant:** at any instant at most one [`Lease::is_valid`] answers yes, as long as clocks differ by less than the
//! grace; and terms only grow, so that the later leader has the greater one.

use std::sync::Arc;
use std::time::Duration;

use tidemill_model::{Clock, Result, Timestamp};

use crate::blob::BlobStore;
use crate::checkpoints::name_part;
use crate::term::Term;
use crate::terms::{Begun, GRACE, Newest, Record, Terms};

/// Leadership over a project, for as long as it is renewed. Dropped without [`Lease::release`], it runs out by itself.
#[derive(Debug)]
pub struct Lease {
    term: Term,
    since: Timestamp,
    pause: Duration,
}

/// How an attempt to lead ended.
#[derive(Debug)]
pub enum Acquired {
    /// This process leads.
    Held(Lease),
    /// Another one leads, or was quicker. Ask again later.
    HeldBy(LeaseView),
}

/// What everybody can read of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseView {
    /// Who has it or had it last.
    pub holder: String,
    /// The number of its term.
    pub term: u64,
    /// When the term began.
    pub begun_at: Timestamp,
    /// When it ends unless it is renewed.
    pub until: Timestamp,
    /// When it was last renewed, or was given back.
    pub alive_at: Timestamp,
    /// Whether it was given back.
    pub released: bool,
    /// As [`Lease::since`].
    pub since: Timestamp,
}

impl LeaseView {
    /// Whether another may take the lease now.
    #[must_use]
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.released || now >= self.until.plus(GRACE)
    }
}

impl Lease {
    /// Takes the lease if nobody has it. Take `now` from the clock right before.
    ///
    /// `holder` is free text for people and tells processes apart: host, process and something that no other start of the
    /// process shares. Who leads renews a few times within `ttl`; `pause` is the longest time without a leader that does
    /// not begin [`Lease::since`] anew.
    ///
    /// An attempt whose answer was lost finds out by reading the term back. If that fails as well, nobody leads until the
    /// term has run out.
    ///
    /// # Errors
    /// Unavailable, and the process does not lead then; Corrupt, when it cannot be read who leads.
    pub fn try_acquire(
        store: Arc<dyn BlobStore>,
        name: &str,
        holder: &str,
        ttl: Duration,
        pause: Duration,
        now: Timestamp,
    ) -> Result<Acquired> {
        let terms = terms(store, name);
        let newest = terms.newest()?;
        let since = since(newest.record.as_ref(), pause, now);
        let begun = match newest {
            Newest { record: Some(record), .. } if !record.is_over(now) => Begun::Lost(record),
            newest => terms.begin(&newest, holder, ttl, Some(since), now)?,
        };
        Ok(match begun {
            Begun::Won(record) => Acquired::Held(Lease { term: Term::won(terms, record, ttl), since, pause }),
            Begun::Lost(record) => Acquired::HeldBy(view(record)),
        })
    }

    /// Who leads or led last; `None` when nobody ever did.
    ///
    /// # Errors
    /// Unavailable; Corrupt, when it cannot be read.
    pub fn look(store: Arc<dyn BlobStore>, name: &str) -> Result<Option<LeaseView>> {
        Ok(terms(store, name).newest()?.record.map(view))
    }

    /// Goes on leading for one more time to live. The clock is read before and after the write, for one that comes too
    /// late does not count.
    ///
    /// # Errors
    /// Fenced, and for ever, when another leads or the lease ran out before: try to acquire a new one. Unavailable; it is
    /// then valid until when it was before, and may be renewed again.
    pub fn renew(&mut self, clock: &dyn Clock) -> Result<()> {
        let mut since = self.since;
        self.term.renew(clock, |record, now| {
            if now.since(record.alive_at) > self.pause {
                since = now;
            }
            record.since = Some(since);
        })?;
        self.since = since;
        Ok(())
    }

    /// Whether this process leads. Ask before everything that only the leader may do, with the present instant; a tenth of
    /// the time to live is left for doing it.
    #[must_use]
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.term.is_valid(now)
    }

    /// The number of the term, greater than that of every leader before: what tells late orders from present ones.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.term.record().term
    }

    /// When the lease ends unless it is renewed.
    #[must_use]
    pub fn until(&self) -> Timestamp {
        self.term.record().until
    }

    /// Since when leaders have watched the project without a pause longer than the `pause` of acquiring: what was due
    /// before was missed while nobody watched.
    #[must_use]
    pub fn since(&self) -> Timestamp {
        self.since
    }

    /// Gives the lease back, so that another can lead at once.
    ///
    /// # Errors
    /// Unavailable; it then runs out by itself.
    pub fn release(self, now: Timestamp) -> Result<()> {
        self.term.release(now)
    }
}

fn terms(store: Arc<dyn BlobStore>, name: &str) -> Terms {
    Terms::new(store, format!("leases/{}/terms", name_part(name)), format!("lease `{name}`"))
}

/// Since when leaders have watched, for one that follows on `before` now.
fn since(before: Option<&Record>, pause: Duration, now: Timestamp) -> Timestamp {
    match before {
        Some(before) if now.since(before.alive_at) <= pause => before.since.unwrap_or(now).min(now),
        _ => now,
    }
}

fn view(record: Record) -> LeaseView {
    let Record { term, holder, begun_at, alive_at, until, released, since, .. } = record;
    LeaseView { holder, term, begun_at, until, alive_at, released, since: since.unwrap_or(begun_at) }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
pub(crate) mod tests;
