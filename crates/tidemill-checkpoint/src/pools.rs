//! [`Pools`]: named pools of slots, for work of several processes that must not all run at once.
//!
//! ```text
//! pools/<pool>/<slot>/<20 digits>.json    the terms of one slot, as those of a lease
//! ```
//!
//! **Invariant:** no more slots are held than the pool has, as long as clocks differ by less than the grace; and the slot of
//! a process that died is free again when its time has passed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidemill_model::{Clock, Error, Kind, Result, Timestamp};

use crate::blob::BlobStore;
use crate::checkpoints::name_part;
use crate::term::Term;
use crate::terms::{Begun, GRACE, Newest, Record, Terms, number_of};

/// The pools in a store.
#[derive(Debug, Clone)]
pub struct Pools {
    store: Arc<dyn BlobStore>,
}

/// What is asked of a pool.
#[derive(Debug, Clone, Copy)]
pub struct SlotRequest<'a> {
    /// The pool's name.
    pub pool: &'a str,
    /// How many slots the pool has.
    pub slots: usize,
    /// How many of them the work takes, at least one.
    pub weight: usize,
    /// Free text for people that tells processes apart, as that of a lease.
    pub holder: &'a str,
    /// For how long the slots are held unless they are renewed.
    pub ttl: Duration,
}

/// Held slots, as many as the work weighs. Dropped without [`Slot::release`], they run out by themselves.
#[derive(Debug)]
pub struct Slot {
    /// By number; never empty.
    terms: BTreeMap<usize, Term>,
}

/// What everybody can read of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotView {
    /// Which of the pool's slots, from one.
    pub slot: usize,
    /// Who has it or had it last.
    pub holder: String,
    /// How often it was taken.
    pub term: u64,
    /// When it was taken.
    pub begun_at: Timestamp,
    /// When it is lost unless it is renewed.
    pub until: Timestamp,
    /// When it was last renewed, or was given back.
    pub alive_at: Timestamp,
    /// Whether it was given back.
    pub released: bool,
}

impl SlotView {
    /// Whether another may take the slot now.
    #[must_use]
    pub fn is_free(&self, now: Timestamp) -> bool {
        self.released || now >= self.until.plus(GRACE)
    }
}

/// A slot and the newest of its terms.
type Known = BTreeMap<usize, (Terms, Newest)>;

impl Pools {
    /// The pools in the store.
    #[must_use]
    pub fn new(store: Arc<dyn BlobStore>) -> Pools {
        Pools { store }
    }

    /// Takes as many free slots as the work weighs, or none: `None` says that too few are free, so ask again later. Take
    /// `now` from the clock right before.
    ///
    /// Where a pool was made smaller, those who still hold slots above its size count. Of two who want several slots each
    /// at one instant both may get none; let them not ask again at one instant.
    ///
    /// # Errors
    /// Config, when the work weighs more than the pool has; Unavailable; Corrupt, when it cannot be read who holds a slot.
    pub fn take(&self, request: &SlotRequest<'_>, now: Timestamp) -> Result<Option<Slot>> {
        let SlotRequest { pool, slots, holder, ttl, .. } = *request;
        let weight = request.weight.max(1);
        if weight > slots {
            let message = format!("work of weight {weight} never fits into pool `{pool}`, which has {slots} slots");
            return Err(Error::new(Kind::Config, "C046", message).fact("lower the weight, or give the pool more slots"));
        }
        let known = self.known(pool, slots)?;
        let held = known.values().filter(|(_, newest)| !newest.is_over(now)).count();
        if held + weight > slots {
            return Ok(None);
        }
        let mut taken = Slot { terms: BTreeMap::new() };
        for (slot, (terms, newest)) in known.into_iter().take_while(|(slot, _)| *slot <= slots) {
            if taken.terms.len() == weight {
                break;
            }
            if !newest.is_over(now) {
                continue;
            }
            match terms.begin(&newest, holder, ttl, None, now) {
                Ok(Begun::Won(record)) => drop(taken.terms.insert(slot, Term::won(terms, record, ttl))),
                Ok(Begun::Lost(_)) => {}
                Err(e) => {
                    // What cannot be given back now runs out; the caller is told of the first failure.
                    let _ = taken.release(now);
                    return Err(e);
                }
            }
        }
        if taken.terms.len() == weight {
            return Ok(Some(taken));
        }
        taken.release(now)?;
        Ok(None)
    }

    /// Every slot of a pool that was ever taken, by number; where listings lag, the newest may be missing.
    ///
    /// # Errors
    /// Unavailable; Corrupt, when a slot cannot be read.
    pub fn look(&self, pool: &str) -> Result<Vec<SlotView>> {
        let known = self.known(pool, 0)?.into_iter();
        Ok(known.filter_map(|(slot, (_, newest))| newest.record.map(|record| view(slot, record))).collect())
    }

    /// The slots of the pool up to `slots`, and those above that were ever taken.
    fn known(&self, pool: &str, slots: usize) -> Result<Known> {
        let root = format!("pools/{}", name_part(pool));
        let mut listed: BTreeMap<usize, Vec<u64>> = (1..=slots).map(|slot| (slot, Vec::new())).collect();
        let prefix = format!("{root}/");
        for name in self.store.list(&prefix)? {
            let parts = name.strip_prefix(&prefix).and_then(|name| name.split_once('/'));
            let numbers = parts.and_then(|(slot, file)| Some((slot.parse().ok()?, number_of(file)?)));
            if let Some((slot, term)) = numbers {
                listed.entry(slot).or_default().push(term);
            }
        }
        let newest = listed.into_iter().map(|(slot, listed)| {
            let what = format!("slot {slot} of pool `{pool}`");
            let terms = Terms::new(Arc::clone(&self.store), format!("{root}/{slot}"), what);
            let newest = terms.newest_from(listed)?;
            Ok((slot, (terms, newest)))
        });
        newest.collect()
    }
}

impl Slot {
    /// Holds the slots for one more time to live, as [`crate::Lease::renew`].
    ///
    /// # Errors
    /// Fenced, when one of them was lost: the work has to stop, or to take new ones. Unavailable; they are then held until
    /// when they were before, and may be renewed again.
    pub fn renew(&mut self, clock: &dyn Clock) -> Result<()> {
        self.terms.values_mut().try_for_each(|term| term.renew(clock, |_, _| {}))
    }

    /// Whether all slots are held, with a tenth of the time to live left for what is done now.
    #[must_use]
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.terms.values().all(|term| term.is_valid(now))
    }

    /// The numbers of the slots, from one.
    #[must_use]
    pub fn numbers(&self) -> Vec<usize> {
        self.terms.keys().copied().collect()
    }

    /// Gives the slots back.
    ///
    /// # Errors
    /// The first failure, after every slot was tried; what was not given back runs out by itself.
    pub fn release(self, now: Timestamp) -> Result<()> {
        let released: Vec<Result<()>> = self.terms.into_values().map(|term| term.release(now)).collect();
        released.into_iter().collect()
    }
}

fn view(slot: usize, record: Record) -> SlotView {
    let Record { term, holder, begun_at, alive_at, until, released, .. } = record;
    SlotView { slot, holder, term, begun_at, until, alive_at, released }
}

#[cfg(test)]
mod tests;
