//! Durable progress: the manifest of an epoch, the ledger of intervals, the stores they lie in, and recovery as a
//! pure function.
//!
//! **Invariant:** the newest readable manifest is the only authority on a pipeline's progress. A file of an epoch
//! above it is as good as absent, whoever wrote it.

mod blob;
mod checkpoints;
mod dead_letters;
mod envelope;
mod gone;
mod lease;
mod ledger;
mod local;
mod lock;
mod manifest;
mod outlook;
mod pauses;
mod pools;
mod rebuild;
mod recovery;
mod remote;
mod replayed;
mod runs;
mod stale;
mod term;
mod terms;

pub use blob::{BlobStore, Fault, Memory};
pub use checkpoints::Checkpoints;
pub use gone::{Gone, GoneRange, GoneSplit};
pub use lease::{Acquired, Lease, LeaseView};
pub use ledger::{Ledger, LedgerEntry};
pub use local::LocalStore;
pub use lock::StateLock;
pub use manifest::{
    ChunkRef, Counters, IntervalSize, Manifest, OperatorState, SinkState, SourceProgress, SplitProgress, TableMet,
    ViewState,
};
pub use outlook::{DueRun, Outlook, Rule, Why};
pub use pauses::{Pause, Pauses};
pub use pools::{Pools, Slot, SlotRequest, SlotView};
pub use rebuild::{Fate, fates, switch};
pub use recovery::{Recovery, recover};
pub use remote::RemoteStore;
pub use replayed::{LetterId, Letters, reentered};
pub use runs::{OpenRun, OpenRuns, RunFailure, StepDone};
pub use stale::{Stale, StaleMark};
pub use terms::GRACE;
