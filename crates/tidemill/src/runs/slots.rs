//! [`Slots`]: how many runs go on at the same time, in this process and in the pools that processes share.
//!
//! **Invariant:** a slot of a pool is a lease: it is renewed while its run goes on, and frees itself when its process dies.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidemill_checkpoint::{BlobStore, Pools, Slot, SlotRequest};
use tidemill_model::{Clock, Error, Kind, Result};
use tidemill_runtime::exec::StopFlag;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// For how long a slot is held unless it is renewed.
const TTL: Duration = Duration::from_secs(30);
/// How often a pool without a free slot is asked again.
const AGAIN: Duration = Duration::from_millis(500);

/// The slots of a project.
#[derive(Debug)]
pub struct Slots {
    here: Arc<Semaphore>,
    pools: Pools,
    sizes: BTreeMap<String, usize>,
    holder: String,
    clock: Arc<dyn Clock>,
}

/// A slot that is held. Dropping it gives it back.
pub struct Held {
    _here: OwnedSemaphorePermit,
    renewing: Option<tokio::task::JoinHandle<()>>,
    done: StopFlag,
}

impl Slots {
    /// So many here, and the pools of the project.
    #[must_use]
    pub fn new(
        here: usize,
        store: Arc<dyn BlobStore>,
        sizes: BTreeMap<String, usize>,
        holder: &str,
        clock: Arc<dyn Clock>,
    ) -> Arc<Slots> {
        let (here, pools) = (Arc::new(Semaphore::new(here.max(1))), Pools::new(store));
        Arc::new(Slots { here, pools, sizes, holder: holder.to_owned(), clock })
    }

    /// Waits for a slot here, and for one of the pool; `None` when `stop` is set meanwhile. `stop` is set as well when a
    /// slot of a pool is lost while it is held.
    ///
    /// # Errors
    /// Config, when there is no such pool; Unavailable.
    pub async fn take(&self, pool: Option<&str>, stop: &StopFlag) -> Result<Option<Held>> {
        let closed = || Error::internal("the slots of this process were closed");
        // A slot of a pool is asked for with one of this process in hand, and neither is held while the other is waited for.
        let (here, taken) = loop {
            if stop.is_set() {
                return Ok(None);
            }
            let waiting = tokio::time::timeout(AGAIN, Arc::clone(&self.here).acquire_owned());
            let Ok(here) = waiting.await else { continue };
            let here = here.map_err(|_| closed())?;
            let Some(pool) = pool else { break (here, None) };
            if let Some(slot) = self.of_pool(pool)? {
                break (here, Some(slot));
            }
            drop(here);
            tokio::time::sleep(AGAIN).await;
        };
        let done = StopFlag::default();
        let renewing =
            taken.map(|slot| tokio::spawn(renew(slot, Arc::clone(&self.clock), (stop.clone(), done.clone()))));
        Ok(Some(Held { _here: here, renewing, done }))
    }

    fn of_pool(&self, pool: &str) -> Result<Option<Slot>> {
        let Some(&slots) = self.sizes.get(pool) else {
            let known: Vec<&str> = self.sizes.keys().map(String::as_str).collect();
            let error = Error::new(Kind::Config, "C115", format!("there is no pool `{pool}`"));
            let error = match tidemill_model::nearest(pool, known.iter().copied()) {
                Some(meant) => error.label(format!("did you mean `{meant}`?")),
                None => error,
            };
            return Err(error.fact(format!("add to tidemill.toml: [pools] {pool} = 2")));
        };
        let request = SlotRequest { pool, slots, weight: 1, holder: &self.holder, ttl: TTL };
        self.pools.take(&request, self.clock.now())
    }
}

/// Renews a slot until it is done with, and gives it back then.
async fn renew(mut slot: Slot, clock: Arc<dyn Clock>, (lost, done): (StopFlag, StopFlag)) {
    loop {
        for _ in 0..(TTL.as_millis() / 3 / 100) {
            if done.is_set() {
                // What is not given back runs out.
                let _ = slot.release(clock.now());
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        match slot.renew(clock.as_ref()) {
            Err(error) if error.kind() == Kind::Fenced => {
                lost.stop();
                return;
            }
            // It is held as long as it was before, and renewed the next time.
            Ok(()) | Err(_) => {}
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.done.stop();
        // The task gives the slot back; it is not waited for.
        drop(self.renewing.take());
    }
}
