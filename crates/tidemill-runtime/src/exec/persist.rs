//! From what lanes staged to the manifest of an epoch.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use tidemill_checkpoint::{Checkpoints, ChunkRef, Manifest, TableMet, ViewState};
use tidemill_model::{Epoch, Result, Timestamp, Watermark};

use super::command::Ack;
use super::job::ViewNode;
use super::reentry::Reentering;
use crate::{ColdFile, DeadLetter, ErrorLimit, Filed, LateRow, dead_letter_batch, ipc, late_batch};

/// State is written in files of about so many bytes, so that a large one is never in memory as a whole.
const FILE_BYTES: usize = 64 << 20;

/// What the next manifest is built from.
pub(crate) struct Draft<'a> {
    pub(crate) pipeline: &'a str,
    pub(crate) fingerprint: &'a str,
    pub(crate) views: &'a [ViewNode],
    /// Operator node to fingerprint, for stateful ones.
    pub(crate) fingerprints: &'a BTreeMap<String, String>,
    pub(crate) previous: Option<&'a Manifest>,
    /// Whether the acknowledged chunks are all there is (the first epoch after a start).
    pub(crate) whole: bool,
    /// The operator nodes of which they are not: those that kept their chunks.
    pub(crate) kept: &'a BTreeSet<String>,
    pub(crate) lanes: usize,
    pub(crate) now: Timestamp,
    /// How many rows may fail in expressions.
    pub(crate) errors: ErrorLimit,
    /// The letters that enter again, if that is what the epoch is.
    pub(crate) reentering: Option<&'a Reentering>,
    /// Node to the table that its rows met.
    pub(crate) tables: &'a BTreeMap<String, TableMet>,
}

/// Writes dead letters, late rows and state, and answers the manifest that makes them count, and how many bytes of state.
///
/// # Errors
/// Data, when more rows failed in expressions than may; what the store answers.
pub(crate) fn draft(store: &Checkpoints, epoch: Epoch, acks: &mut [Ack], from: &Draft<'_>) -> Result<(Manifest, u64)> {
    let failed: Vec<&DeadLetter> = acks.iter().flat_map(|ack| &ack.dead).map(|filed| &filed.letter).collect();
    let read = acks.iter().flat_map(|ack| ack.sources.values()).map(|cut| cut.counters.rows_read).sum();
    from.errors.check(&failed, read, &format!("epoch {epoch}"))?;
    let mut manifest = Manifest {
        pipeline: from.pipeline.to_owned(),
        epoch,
        fingerprint: from.fingerprint.to_owned(),
        committed_at: from.now,
        sources: from.previous.map(|m| m.sources.clone()).unwrap_or_default(),
        state: from.previous.map(|m| m.state.clone()).unwrap_or_default(),
        views: BTreeMap::new(),
        sinks: BTreeMap::new(),
        tables: from.tables.clone(),
        ledger: from.previous.map(|m| m.ledger.clone()).unwrap_or_default(),
        runs: from.previous.map(|m| m.runs.clone()).unwrap_or_default(),
        stale: from.previous.map(|m| m.stale.clone()).unwrap_or_default(),
        seen: from.previous.map(|m| m.seen.clone()).unwrap_or_default(),
        gone: from.previous.map(|m| m.gone.clone()).unwrap_or_default(),
        sizes: from.previous.map(|m| m.sizes.clone()).unwrap_or_default(),
        counters: from.previous.map(|m| m.counters.clone()).unwrap_or_default(),
        dead_from: from.previous.map(|m| m.dead_from.clone()).unwrap_or_default(),
    };
    if from.whole {
        manifest.state.retain(|node, _| from.kept.contains(node));
    }
    sources(&mut manifest, acks);
    let bytes = state(&mut manifest, store, acks, from)?;
    for ack in acks.iter() {
        manifest.counters.rows_written += ack.rows_written;
        for (step, rows) in &ack.rows_late {
            manifest.counters.count_late(step, *rows);
        }
        for Filed { letter, .. } in &ack.dead {
            manifest.counters.count_dead(&letter.dataset, &letter.reason);
        }
        for (sink, committable) in &ack.sinks {
            let state = manifest.sinks.entry(sink.clone()).or_default();
            state.committables.push(committable.0.clone());
        }
    }
    dead_letters(store, epoch, acks, from)?;
    late_rows(store, epoch, acks, from)?;
    views(&mut manifest, acks, from);
    Ok((manifest, bytes))
}

fn sources(manifest: &mut Manifest, acks: &[Ack]) {
    for ack in acks {
        for (name, cut) in &ack.sources {
            let progress = manifest.sources.entry(name.clone()).or_default();
            for (id, split) in &cut.splits {
                progress.splits.insert(id.clone(), split.clone());
            }
            manifest.counters.add(&cut.counters);
        }
    }
    // The watermark on record is the one that every lane has given out: operators have closed what lies below it.
    for (name, progress) in &mut manifest.sources {
        let given = acks.iter().filter_map(|ack| ack.sources.get(name)).map(|cut| cut.watermark).min();
        if let Some(given) = given.filter(|given| *given > Watermark::MIN) {
            progress.watermark = Some(progress.watermark.map_or(given, |before| before.max(given)));
        }
    }
}

fn state(manifest: &mut Manifest, store: &Checkpoints, acks: &[Ack], from: &Draft<'_>) -> Result<u64> {
    for (node, fingerprint) in from.fingerprints {
        let state = manifest.state.entry(node.clone()).or_default();
        state.fingerprint.clone_from(fingerprint);
        state.lanes = from.lanes;
    }
    let (mut files, mut waiting, mut all, mut written) = (Vec::new(), 0, 0, false);
    for ack in acks {
        let mut file = ack.staged.as_ref().map(ColdFile::open).transpose()?;
        for (node, chunks) in &ack.state {
            // A chunk that was staged and dropped again, as of a part that is empty by then, is gone.
            let last: HashMap<&str, usize> =
                chunks.iter().enumerate().map(|(at, chunk)| (chunk.name.as_str(), at)).collect();
            for (_, chunk) in chunks.iter().enumerate().filter(|(at, chunk)| last[chunk.name.as_str()] == *at) {
                let key = format!("{}/{}", ack.lane, chunk.name);
                if let Some(state) = manifest.state.get_mut(node) {
                    state.chunks.remove(&key);
                }
                if let Some(staged) = &chunk.bytes {
                    let bytes = staged.read(file.as_mut())?;
                    waiting += bytes.len();
                    all += bytes.len() as u64;
                    files.push((node.clone(), key, bytes));
                }
                if waiting >= FILE_BYTES {
                    write(manifest, store, std::mem::take(&mut files))?;
                    (waiting, written) = (0, true);
                }
            }
        }
    }
    if !written && manifest.has_room_for(all) {
        // A file costs as much as the manifest itself: little state is part of it.
        for (node, key, bytes) in files {
            manifest.state.entry(node).or_default().chunks.insert(key, ChunkRef::here(&bytes));
        }
        return Ok(all);
    }
    files.extend(manifest.take_here());
    write(manifest, store, files)?;
    Ok(all)
}

/// Writes chunks as one file and names them in the manifest.
fn write(manifest: &mut Manifest, store: &Checkpoints, files: Vec<(String, String, Bytes)>) -> Result<()> {
    let files = files.into_iter().map(|(node, key, bytes)| (format!("{node}\n{key}"), bytes)).collect();
    for (name, reference) in store.write_state(manifest.epoch, files)? {
        if let Some((node, key)) = name.split_once('\n') {
            manifest.state.entry(node.to_owned()).or_default().chunks.insert(key.to_owned(), reference);
        }
    }
    Ok(())
}

fn dead_letters(store: &Checkpoints, epoch: Epoch, acks: &mut [Ack], from: &Draft<'_>) -> Result<()> {
    let mut by_dataset: BTreeMap<String, Vec<Filed>> = BTreeMap::new();
    let mut put = |filed: Filed| by_dataset.entry(filed.letter.dataset.clone()).or_default().push(filed);
    for ack in acks {
        for (source, cut) in &mut ack.sources {
            for letter in std::mem::take(&mut cut.dead) {
                put(match from.reentering {
                    Some(reentering) => reentering.again(source, letter),
                    None => Filed::from(letter),
                });
            }
        }
        for filed in std::mem::take(&mut ack.dead) {
            put(match from.reentering {
                Some(reentering) => reentering.failed(filed),
                None => filed,
            });
        }
    }
    for (dataset, letters) in by_dataset {
        let batch = dead_letter_batch(&letters, from.pipeline, epoch.0, from.now.0)?;
        store.write_dead_letters(&dataset, epoch, &ipc::encode_batch(&batch)?)?;
    }
    Ok(())
}

fn late_rows(store: &Checkpoints, epoch: Epoch, acks: &mut [Ack], from: &Draft<'_>) -> Result<()> {
    let mut by_dataset: BTreeMap<String, Vec<(String, LateRow)>> = BTreeMap::new();
    for (step, row) in acks.iter_mut().flat_map(|ack| std::mem::take(&mut ack.late)) {
        by_dataset.entry(row.dataset.clone()).or_default().push((step, row));
    }
    for (dataset, rows) in by_dataset {
        let batch = late_batch(&rows, from.pipeline, epoch.0, from.now.0)?;
        store.write_late_rows(&dataset, epoch, &ipc::encode_batch(&batch)?)?;
    }
    Ok(())
}

fn views(manifest: &mut Manifest, acks: &[Ack], from: &Draft<'_>) {
    let arrived = acks.iter().flat_map(|ack| &ack.arrivals).map(|(at, _)| *at).max();
    for view in from.views {
        let complete = acks.iter().filter_map(|ack| ack.watermarks.get(&view.node)).min().copied();
        let before = from.previous.and_then(|m| m.views.get(&view.view));
        let state = ViewState {
            node: view.node.clone(),
            complete_to: complete.filter(|w| *w > Watermark::MIN).max(before.and_then(|b| b.complete_to)),
            newest_arrival: arrived.max(before.and_then(|b| b.newest_arrival)),
        };
        manifest.views.insert(view.view.clone(), state);
    }
}
