//! Dead letters that enter again: [`choose`] finds which, [`sort`] says where each one does or why it stays, and
//! [`prepare`] makes ready the one epoch in which they do.
//!
//! **Invariant:** what a dry run says of a letter is what the run does with it.

mod corrected;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use tidemill_checkpoint::{Checkpoints, LetterId, Letters, Manifest, StateLock};
use tidemill_model::{Error, Kind, Result};
use tidemill_runtime::exec::{Dataflow, Entering, Entry, Progress, Reentry, StopFlag, Views, run};
use tidemill_runtime::{Graph, NodeKind, STATEMENT};
use tidemill_sql::Side;
use tidemill_sql::batch::{Lookups, finish_interval, query};

use crate::Workspace;
use crate::engine::{self, RunOptions};

pub use corrected::Corrected;

/// Which letters are meant; by default all of the pipeline that have not entered again.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// Of this table or view alone.
    pub dataset: Option<String>,
    /// With one of these reasons.
    pub reasons: Vec<String>,
    /// For which this SQL condition over the columns of `NAME.dead_letters` holds.
    pub condition: Option<String>,
    /// These, as somebody has corrected them.
    pub corrected: Option<Corrected>,
}

/// A dead letter that is meant.
#[derive(Debug, Clone)]
pub struct Letter {
    /// The source that it was read from, or the table or view that its row was on its way to.
    pub dataset: String,
    /// Its name; `None` of one that a run of an interval found.
    pub id: Option<LetterId>,
    /// Why it is one.
    pub reason: String,
    /// Where it was read, or the statement.
    pub split: String,
    /// Its position there.
    pub position: u64,
    /// What enters again.
    pub raw: Bytes,
    /// The step that its row failed in.
    pub step: Option<String>,
    /// How often it has entered again.
    pub attempts: u64,
}

/// What becomes of letters.
#[derive(Debug, Default)]
pub struct Sorted {
    /// Node to the letters that enter there.
    pub enters: BTreeMap<String, Vec<Letter>>,
    /// Dataset and reason to stay, with what to do instead, to how many.
    pub stays: BTreeMap<(String, Stays), u64>,
}

impl Sorted {
    /// How many enter.
    #[must_use]
    pub fn entering(&self) -> u64 {
        self.enters.values().map(|letters| letters.len() as u64).sum()
    }
}

/// Why a letter cannot enter again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stays {
    /// A run of an interval found it, and replaces it with the interval.
    OfInterval,
    /// The pipeline does not read its table any more.
    Unread,
    /// It is a change, and others came behind it.
    OutOfOrder,
    /// The step is not there any more.
    StepGone,
    /// The step is one of rows that letters do not hold whole.
    NotWhole,
}

impl Stays {
    /// Why, in words.
    #[must_use]
    pub fn why(self) -> &'static str {
        match self {
            Stays::OfInterval => "found by the run of an interval, whose rows and letters are replaced together",
            Stays::Unread => "the pipeline does not read it any more",
            Stays::OutOfOrder => "it is a change of a row, and later changes of that row may have come since",
            Stays::StepGone => "the step that the row failed in is not in the plan any more",
            Stays::NotWhole => {
                "the letter does not hold the whole row: it failed behind a join or where rows are taken back"
            }
        }
    }

    /// The command that does it.
    #[must_use]
    pub fn instead(self, pipeline: &str, dataset: &str) -> String {
        match self {
            Stays::OfInterval => format!("run the interval again: tidemill run {pipeline} --interval START/PERIOD"),
            Stays::Unread => "it stays a letter, to be asked for with tidemill query".to_owned(),
            Stays::OutOfOrder => format!("write the row to `{dataset}` once more, as it shall be now"),
            Stays::StepGone | Stays::NotWhole => {
                format!("compute the result anew: tidemill replay {pipeline} --from earliest --only {dataset}")
            }
        }
    }
}

/// Finds the letters that are meant, oldest first.
///
/// # Errors
/// Plan, when the condition is no condition; Config, when a corrected letter is none, or has entered again already.
pub async fn choose(workspace: &Workspace, pipeline: &str, choice: &Choice) -> Result<Vec<Letter>> {
    let Some(record) = workspace.checkpoints(pipeline).latest()? else { return Ok(Vec::new()) };
    let known: Vec<&String> = record.counters.dead_letters.keys().collect();
    let wanted: BTreeSet<&String> = match (&choice.dataset, &choice.corrected) {
        (Some(dataset), _) => BTreeSet::from([dataset]),
        (None, Some(corrected)) => corrected.datasets(),
        (None, None) => known.iter().copied().collect(),
    };
    let project = workspace.catalog.project();
    let mut letters = Vec::new();
    for dataset in &wanted {
        if !project.datasets.contains_key(*dataset) && !project.materialized.contains_key(*dataset) {
            let names = known.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(Error::new(
                Kind::Config,
                "C181",
                format!("no table or view `{dataset}` has dead letters here"),
            )
            .fact(format!("`{pipeline}` has some of: {names}"))
            .fact("letters of a table that is not declared any more can enter nowhere; choose others with --dataset"));
        }
        letters.extend(of_dataset(workspace, pipeline, dataset, choice).await?);
    }
    let reasons = || wanted.iter().filter_map(|name| record.counters.dead_letters.get(*name)).flat_map(BTreeMap::keys);
    if let Some(unknown) = choice.reasons.iter().find(|reason| !reasons().any(|known| known == *reason)) {
        let known: BTreeSet<&str> = reasons().map(String::as_str).collect();
        let known = known.into_iter().map(|reason| format!("'{reason}'")).collect::<Vec<_>>().join(", ");
        let error = Error::new(Kind::Config, "C181", format!("no dead letter has the reason '{unknown}'"));
        return Err(if known.is_empty() { error } else { error.fact(format!("reasons that there are: {known}")) });
    }
    letters.sort_by_key(|letter: &Letter| (letter.dataset.clone(), letter.id));
    match &choice.corrected {
        Some(corrected) => corrected.applied(letters),
        None => Ok(letters),
    }
}

async fn of_dataset(workspace: &Workspace, pipeline: &str, dataset: &str, choice: &Choice) -> Result<Vec<Letter>> {
    let text = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let mut sql = format!(
        "SELECT letter, reason, split, position, raw, step, attempts FROM \"{}\".dead_letters \
         WHERE replayed_epoch IS NULL AND pipeline = {}",
        dataset.replace('"', "\"\""),
        text(pipeline),
    );
    if !choice.reasons.is_empty() {
        let reasons: Vec<String> = choice.reasons.iter().map(|reason| text(reason)).collect();
        sql.push_str(&format!(" AND reason IN ({})", reasons.join(", ")));
    }
    if let Some(condition) = &choice.condition {
        sql.push_str(&format!(" AND ({condition})"));
    }
    let (views, resources) = (workspace.stored(), workspace.resources());
    let answer =
        query(&workspace.catalog, &views, &sql, &resources, StopFlag::default()).await.map_err(
            |error| match &choice.condition {
                Some(condition) => error.context(format!("choosing letters by `{condition}`")),
                None => error,
            },
        )?;
    let mut letters = Vec::new();
    for batch in &answer.batches {
        letters.extend(read(dataset, batch).ok_or_else(|| Error::internal("letters do not have their columns"))?);
    }
    Ok(letters)
}

fn read(dataset: &str, batch: &RecordBatch) -> Option<Vec<Letter>> {
    let text = |column: usize| batch.column(column).as_string_opt::<i32>();
    let number = |column: usize| batch.column(column).as_primitive_opt::<Int64Type>();
    let (letter, reason, split, position) = (text(0)?, text(1)?, text(2)?, number(3)?);
    let (raw, step, attempts) = (batch.column(4).as_binary_opt::<i32>()?, text(5)?, number(6)?);
    let unsigned = |n: i64| u64::try_from(n).unwrap_or(0);
    let rows = (0..batch.num_rows()).map(|row| Letter {
        dataset: dataset.to_owned(),
        id: letter.is_valid(row).then(|| LetterId::parse(letter.value(row))).flatten(),
        reason: reason.value(row).to_owned(),
        split: split.value(row).to_owned(),
        position: unsigned(position.value(row)),
        raw: Bytes::copy_from_slice(raw.value(row)),
        step: step.is_valid(row).then(|| step.value(row).to_owned()),
        attempts: if attempts.is_valid(row) { unsigned(attempts.value(row)) } else { 0 },
    });
    Some(rows.collect())
}

/// Says where each letter enters: a record at its source, through the decoder and the gate as they are now; a row that
/// an expression failed on at the step that it failed in.
#[must_use]
pub fn sort(graph: &Graph, letters: Vec<Letter>) -> Sorted {
    let mut sorted = Sorted::default();
    for letter in letters {
        match place(graph, &letter) {
            Ok(node) => sorted.enters.entry(node).or_default().push(letter),
            Err(stays) => *sorted.stays.entry((letter.dataset, stays)).or_default() += 1,
        }
    }
    sorted
}

fn place(graph: &Graph, letter: &Letter) -> Result<String, Stays> {
    if letter.id.is_none() {
        return Err(Stays::OfInterval);
    }
    if let Some(step) = &letter.step {
        let node = graph.nodes.iter().find(|node| node.name == *step).ok_or(Stays::StepGone)?;
        return match &node.kind {
            NodeKind::Operator(factory) if factory.reentrance().is_some() => Ok(node.name.clone()),
            _ => Err(Stays::NotWhole),
        };
    }
    if letter.split.starts_with(STATEMENT) {
        return Err(Stays::NotWhole);
    }
    let source = graph.nodes.iter().find_map(|node| match &node.kind {
        NodeKind::Source(source) if source.dataset == letter.dataset => Some((node, source)),
        _ => None,
    });
    match source {
        None => Err(Stays::Unread),
        Some((_, source)) if source.changes => Err(Stays::OutOfOrder),
        Some((node, _)) => Ok(node.name.clone()),
    }
}

/// Letters on their way, ready to be stepped while the lock is held.
pub struct Prepared {
    /// What runs.
    pub dataflow: Dataflow,
    /// The epoch on record.
    pub before: Box<Manifest>,
    /// How many enter.
    pub entering: u64,
    /// Held while it runs.
    pub lock: StateLock,
}

/// What became of letters that entered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entered {
    /// The epoch; `None` when it was stopped before.
    pub epoch: Option<tidemill_model::Epoch>,
    /// How many entered.
    pub letters: u64,
    /// How many are letters again.
    pub dead: u64,
    /// How many rows came late for windows that have closed.
    pub late: u64,
}

impl Prepared {
    /// Runs it on this thread to the end of its epoch, or until it is stopped.
    ///
    /// # Errors
    /// The first error of any part. Unless the epoch is on record, nothing was changed.
    pub fn run(self, checkpoints: &Checkpoints, stop: &StopFlag) -> Result<Entered> {
        run(self.dataflow, stop)?;
        let after = checkpoints.latest()?.filter(|manifest| manifest.epoch > self.before.epoch);
        drop(self.lock);
        let none = Entered { epoch: None, letters: 0, dead: 0, late: 0 };
        let Some(after) = after else { return Ok(none) };
        let (then, now) = (&self.before.counters, &after.counters);
        Ok(Entered {
            epoch: Some(after.epoch),
            letters: self.entering,
            dead: (now.rows_dead() + self.entering).saturating_sub(then.rows_dead()),
            late: now.rows_late.saturating_sub(then.rows_late),
        })
    }
}

/// Makes ready the epoch in which these letters enter. `None` when none can; those that entered since they were chosen
/// are left out.
///
/// # Errors
/// Plan, when state on record was computed by another query; Fenced, when the pipeline runs elsewhere; whatever sources,
/// sinks and the store answer. Nothing is changed then.
pub fn prepare(
    workspace: &Workspace,
    pipeline: &str,
    letters: Vec<Letter>,
    options: &RunOptions,
    progress: &Arc<Progress>,
) -> Result<Option<Prepared>> {
    let plan = engine::plan(workspace, pipeline)?;
    let lock = workspace.lock(pipeline)?;
    let checkpoints = workspace.checkpoints(pipeline);
    finish_interval(&workspace.catalog, pipeline, &checkpoints)?;
    let Some(record) = checkpoints.latest()? else { return Ok(None) };
    let marked = checkpoints.replayed(&record)?;
    let is_marked = |letter: &Letter| {
        let of = marked.get(&letter.dataset);
        letter.id.is_some_and(|id| of.is_some_and(|marks| marks.contains_key(&id)))
    };
    let sorted = sort(&plan.graph, letters.into_iter().filter(|letter| !is_marked(letter)).collect());
    let entering = sorted.entering();
    if entering == 0 {
        return Ok(None);
    }
    let mut job = engine::job(workspace, pipeline, plan, options, &Arc::new(Views::default()), progress)?;
    job.letters = Some(reentry(sorted));
    let dataflow = Dataflow::new(job)?;
    Ok(Some(Prepared { dataflow, before: Box::new(record), entering, lock }))
}

fn reentry(sorted: Sorted) -> Reentry {
    let mut reentry = Reentry::default();
    let mut marks = Letters::new();
    for (node, letters) in sorted.enters {
        let mut entry = Entry { node, letters: Vec::with_capacity(letters.len()) };
        for letter in letters {
            let Some(id) = letter.id else { continue };
            let counted = reentry.counted.entry(letter.dataset.clone()).or_default();
            *counted.entry(letter.reason).or_default() += 1;
            marks.entry(letter.dataset.clone()).or_default().insert(id);
            let Letter { dataset, split, position, raw, attempts, .. } = letter;
            entry.letters.push(Entering { dataset, split, position, raw, attempts });
        }
        reentry.entries.push(entry);
    }
    reentry.letters = marks;
    reentry
}

/// A plan of the pipeline over live data, for saying where letters enter.
///
/// # Errors
/// As [`engine::plan`].
pub(crate) fn graph(workspace: &Workspace, pipeline: &str) -> Result<Graph> {
    let lookups = Lookups::new(&workspace.catalog, Side::Live);
    let plan = tidemill_sql::stream::plan_stream(&workspace.catalog, pipeline, Side::Live, &lookups.opener())?;
    Ok(plan.graph)
}
