//! [`check`]: what must be true of the world at any moment, and [`check_end`]: what must be true when all is read.
//!
//! The expected answers come from the rows of the topics below a manifest's offsets and nothing else: not from
//! batches, lanes, epochs or restarts, for none of these may show.
//!
//! **Invariant:** a check reads durable things and published views only, never the inside of a process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use tidemill_checkpoint::{BlobStore, Checkpoints, Manifest};
use tidemill_model::{Epoch, Error, Result};
use tidemill_runtime::ipc;

use super::dimension::{COPIES, DIMENSION};
use super::operators::{fails, is_left_out, numbers};
use super::topic::Row;
use super::world::{PIPELINE, Running, VIEW, World};

/// Key to how many rows and the sum of their ids.
type Totals = BTreeMap<i64, (i64, i64)>;

fn wrong(what: impl Into<String>) -> Error {
    Error::internal(what)
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, epoch: Epoch, found: &T, expected: &T) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(wrong(format!("{what} at epoch {epoch}:\n  found    {found:?}\n  expected {expected:?}")))
}

/// The rows below the offsets of a manifest.
#[must_use]
pub(super) fn below(world: &World, manifest: &Manifest) -> Vec<Row> {
    let mut rows = Vec::new();
    for (number, topic) in world.topics.iter().enumerate() {
        let Some(progress) = manifest.sources.get(if number == 0 { "a" } else { "b" }) else { continue };
        for (id, split) in &progress.splits {
            let read = split.offset.as_ref().and_then(|offset| offset.as_number()).unwrap_or(0);
            rows.extend(topic.first(id, read as usize));
        }
    }
    rows
}

/// Whether a row goes on after [`super::operators::Map`].
fn goes_on(row: &Row) -> bool {
    row.at.is_some() && !fails(row.id) && !is_left_out(row.key)
}

fn totals(rows: &[Row]) -> Totals {
    let mut totals = Totals::new();
    for row in rows.iter().filter(|row| goes_on(row)) {
        let total = totals.entry(row.key).or_default();
        *total = (total.0 + 1, total.1 + row.id);
    }
    totals
}

fn totals_of<'a>(batches: impl Iterator<Item = &'a RecordBatch>) -> Result<Totals> {
    let mut totals = Totals::new();
    for batch in batches {
        let (keys, counts, sums) = (numbers(batch, 0), numbers(batch, 1), numbers(batch, 2));
        for (row, key) in keys.into_iter().enumerate() {
            if totals.insert(key, (counts[row], sums[row])).is_some() {
                return Err(wrong(format!("key {key} is twice in the view")));
            }
        }
    }
    Ok(totals)
}

fn state_of(world: &World, manifest: &Manifest, node: &str) -> Result<Vec<RecordBatch>> {
    let store = Checkpoints::new(world.disk.calm() as Arc<dyn BlobStore>, PIPELINE);
    let mut batches = Vec::new();
    for chunk in manifest.state.get(node).iter().flat_map(|state| state.chunks.values()) {
        batches.extend(ipc::decode_batches(&store.read_chunk(chunk)?)?.1);
    }
    Ok(batches)
}

/// What must be true at any moment: the newest manifest's state, and what each table shows, is what the rows below
/// the offsets make.
///
/// # Errors
/// Internal, with what is wrong.
pub(super) fn check(world: &World) -> Result<()> {
    if let Some(damage) = world.disk.damage() {
        return Err(wrong(damage));
    }
    let Some(manifest) = world.disk.newest() else {
        return match world.rows.rows().len() + world.windows.rows().len() {
            0 => Ok(()),
            shown => Err(wrong(format!("{shown} rows are visible and no epoch is committed"))),
        };
    };
    let rows = below(world, &manifest);
    let view = totals_of(state_of(world, &manifest, "totals")?.iter())?;
    same("the view at rest", manifest.epoch, &view, &totals(&rows))?;
    // A sink may be one epoch behind the manifest: its commit comes after.
    if let Some(done) = world.rows.done().filter(|done| *done > Epoch::NONE) {
        let known = world.disk.manifests();
        let Some((_, of)) = known.iter().find(|(_, manifest)| manifest.epoch == done) else {
            return Err(wrong(format!("a sink shows epoch {done}, which no manifest has")));
        };
        // An epoch in which a sink got nothing is not committed to it.
        let later = known.iter().take_while(|(_, m)| m.epoch <= manifest.epoch).skip_while(|(_, m)| m.epoch <= done);
        let silent = later.take_while(|(_, m)| !m.sinks.contains_key("rows")).last().map_or(of, |(_, m)| m);
        let (mut shown, expected) = (shown(world), ids(&below(world, silent)));
        if world.scenario.hold.is_some() {
            // What is held back has still to come.
            shown.extend(state_of(world, silent, "hold")?.iter().flat_map(|rows| numbers(rows, 0)));
            shown.sort_unstable();
        }
        same("the rows that a sink shows", done, &shown, &expected)?;
    }
    met(world).map(drop)
}

/// The rows of an epoch met one version of the dimension, the one on record, on all lanes. Answers how often another one
/// was met than in the epoch before.
///
/// # Errors
/// Internal, with what is wrong.
pub(super) fn met(world: &World) -> Result<usize> {
    let mut versions: BTreeMap<Epoch, BTreeSet<i64>> = BTreeMap::new();
    for (epoch, [_, _, version]) in world.met.rows() {
        versions.entry(epoch).or_default().insert(version);
    }
    for (_, manifest) in world.disk.manifests() {
        let Some(met) = versions.get(&manifest.epoch) else { continue };
        let noted = manifest.tables.get("meet").and_then(|table| table.versions.get(DIMENSION)?.parse::<i64>().ok());
        same("the versions that rows met", manifest.epoch, met, &noted.into_iter().collect())?;
    }
    let met: Vec<&BTreeSet<i64>> = versions.values().collect();
    Ok(met.windows(2).filter(|pair| pair[0] != pair[1]).count())
}

/// What a process publishes to readers inside it is one whole epoch.
///
/// # Errors
/// Internal, with what is wrong.
pub(super) fn check_published(world: &World, running: &Running) -> Result<()> {
    let Some(view) = running.published.rows(VIEW)? else { return Ok(()) };
    let known = world.disk.manifests();
    let Some((_, manifest)) = known.iter().find(|(_, manifest)| manifest.epoch == view.epoch) else {
        return Err(wrong(format!("a view shows epoch {}, which no manifest has", view.epoch)));
    };
    same("the published view", view.epoch, &totals_of(view.batches.iter())?, &totals(&below(world, manifest)))
}

/// The ids of rows that go on, in order.
fn ids(rows: &[Row]) -> Vec<i64> {
    let mut ids: Vec<i64> = rows.iter().filter(|row| goes_on(row)).map(|row| row.id).collect();
    ids.sort_unstable();
    ids
}

fn shown(world: &World) -> Vec<i64> {
    let mut ids: Vec<i64> = world.rows.rows().into_iter().map(|(_, [id, ..])| id).collect();
    ids.sort_unstable();
    ids
}

/// Whether the newest manifest has all rows of all topics.
#[must_use]
pub(super) fn is_all_read(world: &World) -> bool {
    let all: usize = world.topics.iter().flat_map(|topic| topic.lengths()).map(|(_, rows)| rows).sum();
    world.disk.newest().is_some_and(|manifest| below(world, &manifest).len() == all)
}

/// What must be true once all is read and the last process has ended.
///
/// # Errors
/// Internal, with what is wrong.
pub(super) fn check_end(world: &World, rivalled: bool) -> Result<()> {
    check(world)?;
    monotone(world)?;
    let Some(manifest) = world.disk.newest() else { return Err(wrong("nothing was ever committed")) };
    let (epoch, rows) = (manifest.epoch, below(world, &manifest));
    same("the rows in the sink", epoch, &shown(world), &ids(&rows))?;
    finals(world, &manifest, &rows)?;
    let counters = &manifest.counters;
    same("rows read", epoch, &counters.rows_read, &(rows.len() as u64))?;
    let accepted = rows.iter().filter(|row| row.at.is_some()).count() as u64;
    same("rows accepted", epoch, &counters.rows_accepted, &accepted)?;
    let tables = [&world.rows, &world.windows, &world.met];
    let written: usize = tables.iter().map(|table| table.rows().len()).sum();
    same("rows written", epoch, &counters.rows_written, &(written as u64))?;
    let mut met: Vec<i64> = world.met.rows().iter().map(|(_, [id, ..])| *id).collect();
    met.sort_unstable();
    let copies = ids(&rows).into_iter().flat_map(|id| std::iter::repeat_n(id, COPIES)).collect();
    same("the rows that were looked up", epoch, &met, &copies)?;
    let refused: Vec<i64> = dead(&rows);
    same("dead letters counted", epoch, &counters.rows_dead(), &(refused.len() as u64))?;
    // Of two processes at once, the one that lost an epoch may have written over the dead letters of the other.
    if rivalled { Ok(()) } else { same("dead letters at rest", epoch, &dead_at_rest(world, &manifest)?, &refused) }
}

/// Each window is given out once, complete, or is still open; what is late is counted.
fn finals(world: &World, manifest: &Manifest, rows: &[Row]) -> Result<()> {
    let epoch = manifest.epoch;
    let size = i64::try_from(world.scenario.window.as_micros()).unwrap_or(1);
    let mut given: BTreeMap<(i64, i64), i64> = BTreeMap::new();
    for (_, [key, window, count]) in world.windows.rows() {
        if given.insert((window, key), count).is_some() {
            return Err(wrong(format!("the window {window} of key {key} was given out twice")));
        }
    }
    let mut open: BTreeMap<(i64, i64), i64> = BTreeMap::new();
    for batch in state_of(world, manifest, "windows")? {
        let (keys, windows, counts) = (numbers(&batch, 0), numbers(&batch, 1), numbers(&batch, 2));
        for row in 0..batch.num_rows() {
            open.insert((windows[row], keys[row]), counts[row]);
        }
    }
    let late = manifest.counters.rows_late;
    let counted = given.values().chain(open.values()).sum::<i64>() + late as i64;
    same("rows in windows and late", epoch, &counted, &(ids(rows).len() as i64))?;
    if !world.scenario.is_strict() {
        return Ok(());
    }
    same("late rows", epoch, &late, &0)?;
    let mut expected: BTreeMap<(i64, i64), i64> = BTreeMap::new();
    for row in rows.iter().filter(|row| goes_on(row)) {
        *expected.entry((row.at.unwrap_or(0).div_euclid(size) * size, row.key)).or_default() += 1;
    }
    let mut all = given.clone();
    all.extend(open);
    same("windows", epoch, &all, &expected)?;
    // Whatever the watermark has passed is given out.
    let passed = manifest.sources.values().map(|source| source.watermark).min().flatten();
    let due = expected.keys().filter(|(window, _)| passed.is_some_and(|at| at.0 >= window + size));
    same("windows given out", epoch, &given.keys().copied().collect::<BTreeSet<_>>(), &due.copied().collect())
}

/// Epochs follow one another, and neither offsets nor time nor counts go back.
fn monotone(world: &World) -> Result<()> {
    let known = world.disk.manifests();
    for (number, (_, manifest)) in known.iter().enumerate() {
        same("the number of an epoch", manifest.epoch, &manifest.epoch.0, &(number as u64 + 1))?;
    }
    for pair in known.windows(2) {
        let (before, after) = (&pair[0].1, &pair[1].1);
        let back = |what: &str| Err(wrong(format!("{what} went back from epoch {} to {}", before.epoch, after.epoch)));
        for (name, progress) in &before.sources {
            let Some(now) = after.sources.get(name) else { return back("a source") };
            if now.watermark < progress.watermark {
                return back("a watermark");
            }
            for (id, split) in &progress.splits {
                let number = |split: Option<&tidemill_checkpoint::SplitProgress>| {
                    split.and_then(|split| split.offset.as_ref()).and_then(|offset| offset.as_number())
                };
                let now = now.splits.get(id);
                if number(now) < number(Some(split)) || now.is_none_or(|now| split.finished && !now.finished) {
                    return back(&format!("split {id}"));
                }
            }
        }
        let complete = |manifest: &Manifest| manifest.views.get(VIEW).and_then(|view| view.complete_to);
        if complete(after) < complete(before) {
            return back("the boundary of the view");
        }
        if after.counters.rows_read < before.counters.rows_read || after.committed_at < before.committed_at {
            return back("a count or a clock");
        }
    }
    Ok(())
}

fn dead(rows: &[Row]) -> Vec<i64> {
    let mut ids: Vec<i64> = rows.iter().filter(|row| row.at.is_none() || fails(row.id)).map(|row| row.id).collect();
    ids.sort_unstable();
    ids
}

fn dead_at_rest(world: &World, as_of: &Manifest) -> Result<Vec<i64>> {
    let store = Checkpoints::new(world.disk.calm() as Arc<dyn BlobStore>, PIPELINE);
    let mut ids = Vec::new();
    for dataset in ["a", "b", "rows"] {
        for file in store.dead_letter_files(dataset, as_of)? {
            let Some(bytes) = store.read_dead_letters(&file)? else { continue };
            for batch in ipc::decode_batches(&bytes)?.1 {
                let Some(raw) = batch.column_by_name("raw") else { continue };
                for text in raw.as_binary::<i32>().iter().flatten() {
                    let row: serde_json::Value =
                        serde_json::from_slice(text).map_err(|e| wrong("a dead letter is no JSON").because(e))?;
                    ids.extend(row["id"].as_str().and_then(|id| id.parse::<i64>().ok()));
                }
            }
        }
    }
    ids.sort_unstable();
    Ok(ids)
}
