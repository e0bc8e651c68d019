//! [`restore`]: gives operators their state back, chunk by chunk.
//!
//! A chunk is read and decoded once, for all lanes that need it; each lane takes what is its own on a thread of its own.
//! Where as many lanes as before go on, chunks may stay as they are, and a lane is given only those that it stored.
//!
//! **Invariant:** no more than a few chunks are in memory at once, whatever there is to restore; but for those of views,
//! which readers in this process are shown.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use arrow::array::RecordBatch;
use tidemill_checkpoint::{ChunkRef, Manifest};
use tidemill_model::{Error, Result};

use super::job::Job;
use super::lane::Lane;
use crate::{Operator, Stored};

/// State of fewer bytes than this is not worth a thread.
const WORTH_THREADS: u64 = 1 << 20;
/// How many chunks wait for a lane.
const WAITING: usize = 2;

/// A chunk, or why there are no more.
type Chunk = Result<(String, RecordBatch)>;

/// Restores every operator on every lane, and publishes the views as they were. Answers the nodes whose chunks stay.
pub(super) fn restore(job: &Job, manifest: &Manifest, lanes: &mut [Lane]) -> Result<BTreeSet<String>> {
    let mut stay = BTreeSet::new();
    for (node, state) in &manifest.state {
        let mut operators = Vec::with_capacity(lanes.len());
        for lane in lanes.iter_mut() {
            operators.push((lane.number(), lane.operator(node)?));
        }
        let keeps = operators.iter().all(|(_, operator)| operator.keeps_chunks());
        let kept = keeps && state.lanes == operators.len();
        if kept {
            stay.insert(node.clone());
        }
        let view = job.views.iter().find(|view| view.node == *node);
        let mut shown = Vec::new();
        let read = |(key, reference): (&String, &ChunkRef)| -> Result<(String, RecordBatch)> {
            let bytes = job.checkpoints.read_chunk(reference)?;
            let (schema, batches) = crate::ipc::decode_batches(&bytes)?;
            let rows = match batches.as_slice() {
                [one] => one.clone(),
                several => arrow::compute::concat_batches(&schema, several)
                    .map_err(|e| Error::internal("state chunks do not fit together").because(e))?,
            };
            if view.is_some() {
                shown.push((key.clone(), rows.clone()));
            }
            Ok((key.clone(), rows))
        };
        let restored = give(&state.chunks, read, kept, operators);
        restored.map_err(|e| e.context(format!("restoring {node}")))?;
        if let Some(view) = view
            && let Some(state) = manifest.views.get(&view.view)
        {
            job.published.restore(&view.view, &shown, manifest.epoch, state);
        }
    }
    Ok(stay)
}

/// Reads the chunks of an operator one after the other and gives each to the lanes that need it.
fn give(
    chunks: &BTreeMap<String, ChunkRef>,
    mut read: impl FnMut((&String, &ChunkRef)) -> Result<(String, RecordBatch)>,
    kept: bool,
    mut operators: Vec<(usize, &mut Box<dyn Operator>)>,
) -> Result<()> {
    let lanes = operators.len();
    let mine = |lane: usize, key: &str| !kept || key.split_once('/').is_some_and(|(of, _)| of == lane.to_string());
    let names: Vec<Vec<String>> =
        (0..lanes).map(|lane| chunks.keys().filter(|key| mine(lane, key)).map(|key| chunk_of(key)).collect()).collect();
    let bytes: u64 = chunks.values().map(|chunk| chunk.length).sum();
    if lanes == 1 || bytes < WORTH_THREADS {
        let all = if lanes == 1 { Vec::new() } else { chunks.iter().map(&mut read).collect::<Result<Vec<_>>>()? };
        for (lane, operator) in operators {
            let named = |(key, rows): &(String, RecordBatch)| (chunk_of(key), rows.clone());
            let mut held = all.iter().filter(|(key, _)| mine(lane, key)).map(|chunk| Ok(named(chunk)));
            let mut fresh = chunks.iter().map(|chunk| read(chunk).map(|chunk| named(&chunk)));
            let source: &mut dyn Iterator<Item = Chunk> = if lanes == 1 { &mut fresh } else { &mut held };
            operator.restore_from(&mut Stored::new((lane, lanes), kept, &names[lane], source))?;
        }
        return Ok(());
    }
    std::thread::scope(|scope| {
        let mut senders: Vec<(usize, SyncSender<Chunk>)> = Vec::new();
        let mut threads = Vec::new();
        for (lane, operator) in operators.drain(..) {
            let (sender, receiver): (_, Receiver<Chunk>) = sync_channel(WAITING);
            senders.push((lane, sender));
            let names = &names[lane];
            let body =
                move || operator.restore_from(&mut Stored::new((lane, lanes), kept, names, &mut receiver.iter()));
            let thread = std::thread::Builder::new().name(format!("restore-{lane}")).spawn_scoped(scope, body);
            threads.push(thread.map_err(|e| Error::io("start a thread for", format!("lane {lane}"), e))?);
        }
        let mut failure = None;
        'chunks: for (key, reference) in chunks {
            match read((key, reference)) {
                Ok((key, rows)) => {
                    for (_, sender) in senders.iter().filter(|(lane, _)| mine(*lane, &key)) {
                        // A lane that failed has hung up; what it says is found when all have ended.
                        let _ = sender.send(Ok((chunk_of(&key), rows.clone())));
                    }
                }
                Err(error) => {
                    failure = Some(error);
                    break 'chunks;
                }
            }
        }
        drop(senders);
        for thread in threads {
            let ended = thread.join().unwrap_or_else(|_| Err(Error::internal("a lane panicked while it was restored")));
            failure = failure.or(ended.err());
        }
        failure.map_or(Ok(()), Err)
    })
}

/// The name of a chunk without its lane.
fn chunk_of(key: &str) -> String {
    key.split_once('/').map_or(key, |(_, chunk)| chunk).to_owned()
}
