//! [`rewrite`]: an upsert that copies only the files it must, for tables without features of their own.
//!
//! The library's MERGE joins every row of the table with the changes and carries all columns through the join. Here
//! the keys alone decide which rows go; then the files that lose rows are copied without them, and the new rows are
//! added. **Invariant:** only files of the snapshot are read and removed, and the commit says that the whole table was
//! read, so that any other commit since then makes it fail and be tried again.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, BooleanArray, BooleanBufferBuilder, RecordBatch};
use arrow::compute::{SortOptions, filter_record_batch, sort_to_indices, take_record_batch};
use arrow::datatypes::SchemaRef;
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::logical_expr::{Expr, lit};
use datafusion::physical_optimizer::pruning::{PruningPredicateBuilder, PruningStatistics};
use datafusion::prelude::SessionContext;
use deltalake_core::datafile::writer::{DeltaWriter, WriterConfig};
use deltalake_core::kernel::transaction::{CommitBuilder, CommitProperties, TableReference};
use deltalake_core::kernel::{Action, Add, EagerSnapshot};
use deltalake_core::operations::write::configs::WriterStatsConfig;
use deltalake_core::protocol::DeltaOperation;
use deltalake_core::{DeltaTable, DeltaTableError};
use futures::{StreamExt, TryStreamExt, stream};
use tidemill_model::Error;
use tokio::task::JoinSet;

use crate::commit::Failed;
use crate::datafile::{DataFile, OpenFile};
use crate::latest::{Changes, internal};
use crate::probe::{Met, Probe};
use crate::sink::Target;
use crate::write::{ROWS_AT_ONCE, file_properties};

/// Footers fetched at once; waiting for a store costs nothing here.
const FOOTERS_AT_ONCE: usize = 8;
/// Tasks that read and write at once.
const WORKERS: usize = 2;
/// Below this many bytes one task does all, so that few files stay few.
const WORTH_SHARING: u64 = 8 << 20;
/// As soon as this many small files have gathered, they are copied together with the rest.
const SMALL_FILES: usize = 16;

/// A row group to be looked at or copied.
type Unit = (usize, usize);

/// Whether the files hold all there is to the table, and nothing must be kept besides.
pub(crate) fn is_plain(table: &DeltaTable) -> std::result::Result<bool, DeltaTableError> {
    let snapshot = table.snapshot()?.snapshot();
    let settings = snapshot.metadata().configuration();
    let off = |name: &str| settings.get(name).is_none_or(|value| value.eq_ignore_ascii_case("false"));
    let mapped = settings.get("delta.columnMapping.mode").is_some_and(|mode| mode != "none");
    let plain_settings = off("delta.enableChangeDataFeed")
        && off("delta.enableRowTracking")
        && off("delta.appendOnly")
        && off("delta.enableInCommitTimestamps")
        && !mapped
        && !settings.keys().any(|name| name.starts_with("delta.constraints."));
    // Generated columns, invariants, identities and mapped names are all metadata of fields that begin so.
    let plain_columns = !serde_json::to_string(snapshot.schema().as_ref())?.contains("\"delta.");
    let plain_files = || {
        snapshot
            .log_data()
            .iter()
            .all(|file| file.deletion_vector_descriptor().is_none() && !file.path().contains("://"))
    };
    Ok(plain_settings && plain_columns && plain_files())
}

/// Puts the changes into a plain table.
pub(crate) async fn rewrite(
    target: &Target,
    table: &DeltaTable,
    changes: Changes,
    key: &[usize],
    sequence: Option<usize>,
    properties: CommitProperties,
) -> std::result::Result<DeltaTable, Failed> {
    let snapshot = table.snapshot()?.snapshot().clone();
    let schema = snapshot.arrow_schema();
    let partitions = snapshot.metadata().partition_columns().to_vec();
    let store = table.log_store().object_store(None);
    let candidates = candidates(&snapshot, &changes, key)?;
    let probe = Arc::new(Probe::new(changes, key, sequence)?);

    let mut files = Vec::new();
    let views: Vec<_> = snapshot.log_data().iter().zip(candidates).collect();
    for at in by_least_key(&snapshot, &probe.table, key, views.len())? {
        let Some((view, candidate)) = views.get(at) else { continue };
        files.push((DataFile::of(view, &schema, &partitions)?, *candidate));
    }
    let small = target.file_size.get() / 8;
    let gather = files.iter().filter(|(file, _)| file.size < small).count() >= SMALL_FILES;
    files.retain(|(file, candidate)| *candidate || (gather && file.size < small));
    let footers = stream::iter(files).map(|(file, _)| file.open(Arc::clone(&store))).buffered(FOOTERS_AT_ONCE);
    let open = Arc::new(footers.try_collect::<Vec<_>>().await?);

    let mut met = look(&probe, &open).await?;
    let beaten: BTreeSet<u32> = met.iter().flat_map(|(_, met)| met.beaten.iter().copied()).collect();
    let touched: BTreeSet<usize> = met
        .iter()
        .filter(|((file, _), met)| {
            !met.gone.is_empty() || (gather && open.get(*file).is_some_and(|open| open.file.size < small))
        })
        .map(|((file, _), _)| *file)
        .collect();
    met.retain(|((file, _), _)| touched.contains(file));
    let new = take_record_batch(&probe.changes.rows, &probe.winners(&beaten)).map_err(internal)?;
    let new = RecordBatch::try_new(Arc::clone(&schema), new.columns().to_vec()).map_err(internal)?;

    let stats = WriterStatsConfig::from_config(snapshot.table_configuration());
    let config = WriterConfig::new(
        Arc::clone(&schema),
        partitions,
        Some(file_properties(&target.stored, &target.mode)),
        Some(target.file_size),
        Some(ROWS_AT_ONCE),
        stats.num_indexed_cols,
        stats.stats_columns,
    );
    let writer = || DeltaWriter::new(Arc::clone(&store), config.clone());
    let added = copy(&open, met, &schema, new, writer).await?;

    let removed =
        touched.iter().filter_map(|&file| open.get(file)).map(|open| Action::Remove(open.file.remove.clone()));
    let actions: Vec<Action> = removed.chain(added.into_iter().map(Action::Add)).collect();
    let operation = DeltaOperation::Merge {
        predicate: None,
        merge_predicate: Some(key_names(&schema, key)),
        matched_predicates: Vec::new(),
        not_matched_predicates: Vec::new(),
        not_matched_by_source_predicates: Vec::new(),
    };
    CommitBuilder::from(properties)
        .with_actions(actions)
        .build(Some(&snapshot as &dyn TableReference), table.log_store(), operation)
        .await?;
    let mut table = table.clone();
    table.update_state().await?;
    Ok(table)
}

fn key_names(schema: &SchemaRef, key: &[usize]) -> String {
    let pairs = key.iter().map(|&at| schema.field(at).name()).map(|name| format!("stored.{name} = given.{name}"));
    pairs.collect::<Vec<_>>().join(" AND ")
}

/// For each file of the snapshot, whether its statistics allow a key of the changes in it.
fn candidates(snapshot: &EagerSnapshot, changes: &Changes, key: &[usize]) -> std::result::Result<Vec<bool>, Failed> {
    let log = snapshot.log_data();
    let mut within: Option<Expr> = None;
    for &at in key {
        let column = changes.rows.column(at);
        if column.is_empty() || column.data_type().is_floating() || column.data_type().is_nested() {
            continue;
        }
        let name = || Expr::Column(Column::from_name(changes.rows.schema_ref().field(at).name()));
        let bound = |descending| -> std::result::Result<ScalarValue, DeltaTableError> {
            let first = sort_to_indices(column, Some(SortOptions { descending, nulls_first: false }), Some(1))?;
            Ok(ScalarValue::try_from_array(column, first.value(0) as usize)?)
        };
        let range = name().gt_eq(lit(bound(false)?)).and(name().lt_eq(lit(bound(true)?)));
        within = Some(within.map_or(range.clone(), |other| other.and(range)));
    }
    let Some(within) = within else { return Ok(vec![true; log.num_files()]) };
    let schema = changes.rows.schema();
    let names = DFSchema::try_from(Arc::clone(&schema))?;
    let predicate = SessionContext::new().create_physical_expr(within, &names)?;
    Ok(PruningPredicateBuilder::new().with_file_schema(schema).try_build(predicate)?.prune(&log)?)
}

/// The files in order of their least keys, so that what is copied together lies together and can be skipped later.
fn by_least_key(
    snapshot: &EagerSnapshot,
    table: &SchemaRef,
    key: &[usize],
    files: usize,
) -> std::result::Result<Vec<usize>, DeltaTableError> {
    let log = snapshot.log_data();
    let least = key.first().and_then(|&at| log.min_values(&Column::from_name(table.field(at).name())));
    match least.filter(|least| least.len() == files) {
        Some(least) => Ok(sort_to_indices(&least, None, None)?.values().iter().map(|&at| at as usize).collect()),
        None => Ok((0..files).collect()),
    }
}

/// Looks all row groups through, several at a time.
async fn look(probe: &Arc<Probe>, open: &Arc<Vec<OpenFile>>) -> std::result::Result<Vec<(Unit, Met)>, Failed> {
    let units = units(open);
    let next = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let units = Arc::new(units);
    let mut tasks = JoinSet::new();
    for _ in 0..WORKERS {
        let (probe, open, units, next) = (Arc::clone(probe), Arc::clone(open), Arc::clone(&units), Arc::clone(&next));
        tasks.spawn(async move {
            let mut found = Vec::new();
            while let Some(&(file, group)) = units.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                if let Some(open) = open.get(file) {
                    found.push(((file, group), probe.meet(open, group).await?));
                }
            }
            Ok::<_, Failed>(found)
        });
    }
    let mut found = joined(tasks).await?;
    found.sort_by_key(|(unit, _)| *unit);
    Ok(found)
}

fn units(open: &[OpenFile]) -> Vec<Unit> {
    open.iter()
        .enumerate()
        .flat_map(|(file, open)| (0..open.group_rows().len()).map(move |group| (file, group)))
        .collect()
}

/// Copies the row groups without the rows that are gone, and adds the new rows.
///
/// Each task takes neighbouring row groups, so that rows that lay together stay together.
async fn copy(
    open: &Arc<Vec<OpenFile>>,
    met: Vec<(Unit, Met)>,
    schema: &SchemaRef,
    new: RecordBatch,
    writer: impl Fn() -> DeltaWriter,
) -> std::result::Result<Vec<Add>, Failed> {
    let bytes: u64 = met
        .iter()
        .map(|((file, _), _)| *file)
        .collect::<BTreeSet<_>>()
        .iter()
        .filter_map(|&file| open.get(file))
        .map(|open| open.file.size)
        .sum();
    let workers = if bytes < WORTH_SHARING { 1 } else { WORKERS };
    let share = met.len().div_ceil(workers).max(1);
    let mut shares: Vec<Vec<(Unit, Met)>> = Vec::new();
    for unit in met {
        match shares.last_mut() {
            Some(last) if last.len() < share => last.push(unit),
            _ => shares.push(vec![unit]),
        }
    }
    if shares.is_empty() {
        shares.push(Vec::new());
    }
    let last = shares.len() - 1;
    let mut tasks = JoinSet::new();
    for (at, share) in shares.into_iter().enumerate() {
        let (open, schema, mut writer) = (Arc::clone(open), Arc::clone(schema), writer());
        let new = (at == last && new.num_rows() > 0).then(|| new.clone());
        tasks.spawn(async move {
            let copied = copy_share(&open, &share, &schema, new, &mut writer).await;
            match copied {
                Ok(()) => Ok(writer.close().await?),
                Err(error) => {
                    // The first error is the one to tell; parts of an upload are removed as well as they can be.
                    let _ = writer.abort().await;
                    Err(error)
                }
            }
        });
    }
    joined(tasks).await
}

async fn copy_share(
    open: &[OpenFile],
    share: &[(Unit, Met)],
    schema: &SchemaRef,
    new: Option<RecordBatch>,
    writer: &mut DeltaWriter,
) -> std::result::Result<(), Failed> {
    let all: Vec<usize> = (0..schema.fields().len()).collect();
    for ((file, group), met) in share {
        let Some(open) = open.get(*file) else { continue };
        let mut columns = open.read(*group, schema, &all)?;
        let (mut start, mut gone) = (0_u32, met.gone.iter().copied().peekable());
        while let Some((count, columns)) = columns.next().await? {
            let rows = RecordBatch::try_new(Arc::clone(schema), columns).map_err(internal)?;
            let end = start + count as u32;
            let rows = if gone.peek().is_some_and(|&row| row < end) {
                let mut keep = BooleanBufferBuilder::new(count);
                keep.append_n(count, true);
                while let Some(row) = gone.next_if(|&row| row < end) {
                    keep.set_bit((row - start) as usize, false);
                }
                filter_record_batch(&rows, &BooleanArray::new(keep.finish(), None)).map_err(internal)?
            } else {
                rows
            };
            if rows.num_rows() > 0 {
                writer.write(&rows).await?;
            }
            start = end;
        }
    }
    match new {
        Some(new) => Ok(writer.write(&new).await?),
        None => Ok(()),
    }
}

/// The results of all tasks, or the first error.
async fn joined<T: Send + 'static>(
    mut tasks: JoinSet<std::result::Result<Vec<T>, Failed>>,
) -> std::result::Result<Vec<T>, Failed> {
    let mut all = Vec::new();
    while let Some(done) = tasks.join_next().await {
        all.extend(done.map_err(|error| Error::internal(format!("a task of an upsert panicked: {error}")))??);
    }
    Ok(all)
}
