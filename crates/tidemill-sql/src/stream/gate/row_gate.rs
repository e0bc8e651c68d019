//! [`RowGate`]: judges batches column by column; a batch without a refused row passes uncopied.
//!
//! **Invariant:** rows before the start and dropped rows are counted, dead ones told with their row number; what is
//! left is in its old order.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, SchemaRef, TimeUnit, TimestampMicrosecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::physical_expr::PhysicalExpr;
use tidemill_model::{Error, Kind, Result, Timestamp};
use tidemill_runtime::{Accepted, Batch, Gate};

use crate::language::Violation;
use crate::session::truths;

/// One rule and what a row that breaks it is told.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) test: Test,
    pub(super) reason: String,
    pub(super) detail: String,
    pub(super) policy: Violation,
    /// Whether it is about a column of the key of a changelog.
    pub(super) of_key: bool,
}

/// How the rows of a changelog are judged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Changing {
    /// Whether a key tells rows apart. Then a row that is refused takes back the one before it: what does not pass does
    /// not stand, nor does what it replaced.
    pub(super) keyed: bool,
    /// The column that is true where the row's key is gone.
    pub(super) deleted: Option<usize>,
}

/// What a rule demands.
#[derive(Debug)]
pub(super) enum Test {
    /// A column has a value.
    NotNull { column: usize },
    /// A condition is true or NULL; `columns` are those that it reads.
    Holds { condition: Arc<dyn PhysicalExpr>, columns: Vec<(String, usize)> },
}

/// The gate of one dataset on one lane.
#[derive(Debug)]
pub(super) struct RowGate {
    dataset: String,
    rules: Vec<Rule>,
    event_time: Option<usize>,
    start: Option<Timestamp>,
    /// Where the accepted columns lie in a decoded batch.
    output: Vec<usize>,
    schema: SchemaRef,
    horizon: Option<(Timestamp, Timestamp)>,
    changing: Option<Changing>,
}

/// Rows that break a rule, and why, where the condition itself failed.
struct Broken {
    rows: BooleanBuffer,
    errors: Vec<(usize, String)>,
}

impl RowGate {
    pub(super) fn new(
        dataset: String,
        rules: Vec<Rule>,
        event_time: Option<usize>,
        start: Option<Timestamp>,
        output: Vec<usize>,
        schema: &SchemaRef,
    ) -> RowGate {
        RowGate { dataset, rules, event_time, start, output, schema: Arc::clone(schema), horizon: None, changing: None }
    }

    /// The same for rows of a changelog.
    pub(super) fn of_changes(self, changing: Option<Changing>) -> RowGate {
        RowGate { changing, ..self }
    }

    /// The weights of the rows of a changelog; `None` where rows only come.
    fn weights(&self, batch: &Batch) -> Option<Vec<i64>> {
        let changing = self.changing?;
        let mut weights = match &batch.weights {
            Some(weights) => weights.values().to_vec(),
            None => vec![1; batch.len()],
        };
        if let Some(deleted) = changing.deleted.and_then(|column| batch.rows.column(column).as_boolean_opt()) {
            for (weight, deleted) in weights.iter_mut().zip(deleted) {
                if deleted == Some(true) {
                    *weight = -1;
                }
            }
        }
        Some(weights)
    }

    /// Whether a row of a changelog needs no judging by a rule, as it is taken back. One that was refused when it came is
    /// not there to be taken back.
    fn is_taken_back(
        &self,
        rule: Option<&Rule>,
        weights: Option<&[i64]>,
        keep: &mut Option<Vec<bool>>,
        row: usize,
    ) -> bool {
        let (Some(changing), Some(weights)) = (self.changing, weights) else { return false };
        if weights[row] > 0 || rule.is_some_and(|rule| rule.of_key) {
            return false;
        }
        if !changing.keyed && rule.is_none_or(|rule| rule.policy != Violation::Warn) {
            keep.get_or_insert_with(|| vec![true; weights.len()])[row] = false;
        }
        true
    }

    /// Leaves a row out. Of a changelog by key it takes back what stands.
    fn refuse(
        &self,
        of_key: bool,
        weights: Option<&mut [i64]>,
        keep: &mut Option<Vec<bool>>,
        (row, rows): (usize, usize),
    ) {
        match weights {
            Some(weights) if !of_key && self.changing.is_some_and(|changing| changing.keyed) => weights[row] = -1,
            _ => keep.get_or_insert_with(|| vec![true; rows])[row] = false,
        }
    }

    /// The accepted columns of the rows that are kept.
    fn let_through(&self, batch: &RecordBatch, keep: Option<&[bool]>) -> Result<RecordBatch> {
        let columns = self.output.iter().map(|&column| Arc::clone(batch.column(column))).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let defect = |e| {
            Error::internal(format!("the gate of `{}` met other columns than were planned", self.dataset)).because(e)
        };
        let Some(keep) = keep else {
            return RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options).map_err(defect);
        };
        // Filtered before it gets the stricter schema: a refused NULL must not be in a column declared NOT NULL.
        let loose = batch.project(&self.output).map_err(defect)?;
        let kept = filter_record_batch(&loose, &BooleanArray::from(keep.to_vec())).map_err(defect)?;
        let options = RecordBatchOptions::new().with_row_count(Some(kept.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), kept.columns().to_vec(), &options).map_err(defect)
    }

    /// The greatest event time of the kept rows that may move the watermark.
    fn newest(&self, times: &ArrayRef, keep: Option<&[bool]>) -> Option<i64> {
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let values = times.values();
        let greatest = match keep {
            None => values.iter().copied().max(),
            Some(keep) => values.iter().zip(keep).filter(|(_, keep)| **keep).map(|(at, _)| *at).max(),
        }?;
        let Some((present, horizon)) = self.horizon else { return Some(greatest) };
        if greatest <= present.0 {
            return Some(greatest);
        }
        let kept = |row: usize| keep.is_none_or(|keep| keep[row]);
        let in_sight = values.iter().enumerate().filter(|(row, at)| **at <= horizon.0 && kept(*row));
        in_sight.map(|(_, at)| (*at).min(present.0)).max()
    }
}

impl Gate for RowGate {
    fn accept(&mut self, batch: Batch) -> Result<Accepted> {
        let mut weights = self.weights(&batch);
        let batch = batch.rows;
        let rows = batch.num_rows();
        let mut keep: Option<Vec<bool>> = None;
        let (mut dead, mut dropped, mut warned, mut before_start) = (Vec::new(), 0, 0, 0);
        for rule in &self.rules {
            let Some(broken) = rule.broken(&batch)? else { continue };
            for row in broken.rows.set_indices() {
                if keep.as_ref().is_some_and(|keep| !keep[row])
                    || self.is_taken_back(Some(rule), weights.as_deref(), &mut keep, row)
                {
                    continue;
                }
                match rule.policy {
                    Violation::Warn => {
                        warned += 1;
                        continue;
                    }
                    Violation::Drop => dropped += 1,
                    Violation::DeadLetter => {
                        dead.push((row as u32, rule.reason.clone(), rule.tell(&batch, row, &broken)));
                    }
                    Violation::Fail => {
                        return Err(Error::new(Kind::Data, "D120", format!("`{}`: {}", self.dataset, rule.reason))
                            .fact(rule.tell(&batch, row, &broken))
                            .fact("the policy is FAIL: nothing of this epoch is committed; ON VIOLATION DEAD LETTER goes on without the row"));
                    }
                }
                self.refuse(rule.of_key, weights.as_deref_mut(), &mut keep, (row, rows));
            }
        }
        let times = self.event_time.map(|column| in_micros(batch.column(column))).transpose()?;
        if let (Some(times), Some(start)) = (&times, self.start) {
            let values = times.as_primitive::<TimestampMicrosecondType>().values();
            // Before a gate refuses NULLs their slots hold anything; those rows are not kept already.
            for (row, _) in values.iter().enumerate().filter(|(_, at)| **at < start.0) {
                if keep.as_ref().is_some_and(|keep| !keep[row])
                    || self.is_taken_back(None, weights.as_deref(), &mut keep, row)
                {
                    continue;
                }
                before_start += 1;
                self.refuse(false, weights.as_deref_mut(), &mut keep, (row, rows));
            }
        }
        // A row's first fate decides, so dead letters come out by rule; readers expect them by row.
        dead.sort_by_key(|(row, _, _)| *row);
        // What is taken back says nothing of the present.
        let comes = weights.as_ref().map(|weights| {
            let kept = |row: usize| keep.as_ref().is_none_or(|keep| keep[row]);
            weights.iter().enumerate().map(|(row, weight)| *weight > 0 && kept(row)).collect::<Vec<bool>>()
        });
        let newest = times.as_ref().and_then(|times| self.newest(times, comes.as_deref().or(keep.as_deref())));
        let rows = self.let_through(&batch, keep.as_deref())?;
        let weights = weights.map(|weights| {
            let kept = |row: usize| keep.as_ref().is_none_or(|keep| keep[row]);
            weights
                .into_iter()
                .enumerate()
                .filter(|(row, _)| kept(*row))
                .map(|(_, weight)| weight)
                .collect::<Vec<i64>>()
        });
        let weights = weights.filter(|weights| weights.iter().any(|weight| *weight != 1)).map(Int64Array::from);
        let batch = Batch { rows, weights };
        Ok(Accepted { batch, dead, newest, dropped, warned, before_start })
    }

    fn set_horizon(&mut self, horizon: Option<(Timestamp, Timestamp)>) {
        self.horizon = horizon;
    }
}

impl Rule {
    /// The rows that break the rule; `None` when none does.
    fn broken(&self, batch: &RecordBatch) -> Result<Option<Broken>> {
        let (condition, _) = match &self.test {
            Test::NotNull { column } => {
                let nulls = batch.column(*column).logical_nulls().filter(|nulls| nulls.null_count() > 0);
                return Ok(nulls.map(|nulls| Broken { rows: !nulls.inner(), errors: Vec::new() }));
            }
            Test::Holds { condition, columns } => (condition, columns),
        };
        let Ok(truth) = truths(condition, batch) else { return self.broken_one_by_one(condition, batch).map(Some) };
        let passed = truth.values();
        let failed = match truth.nulls() {
            None => !passed,
            Some(valid) => &(!passed) & valid.inner(),
        };
        Ok((failed.count_set_bits() > 0).then_some(Broken { rows: failed, errors: Vec::new() }))
    }

    /// The same when the condition fails for some row: each row then answers for itself.
    fn broken_one_by_one(&self, condition: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<Broken> {
        let mut errors = Vec::new();
        let mut failed = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            match truths(condition, &batch.slice(row, 1)) {
                Ok(truth) => failed.push(truth.is_valid(0) && !truth.value(0)),
                Err(error) => {
                    errors.push((row, error.strip_backtrace()));
                    failed.push(true);
                }
            }
        }
        Ok(Broken { rows: BooleanBuffer::from(failed), errors })
    }

    /// What exactly was wrong with a row.
    fn tell(&self, batch: &RecordBatch, row: usize, broken: &Broken) -> String {
        let Test::Holds { columns, .. } = &self.test else { return self.detail.clone() };
        let options = FormatOptions::default().with_null("NULL");
        let values = columns.iter().map(|(name, column)| {
            let shown = ArrayFormatter::try_new(batch.column(*column), &options).map(|f| f.value(row).to_string());
            format!("{name} = {}", shown.unwrap_or_else(|e| e.to_string()))
        });
        let values = values.collect::<Vec<_>>().join(", ");
        match broken.errors.iter().find(|(at, _)| *at == row) {
            Some((_, error)) => format!("{values}; {} cannot be evaluated: {error}", self.detail),
            None => format!("{values}; {}", self.detail),
        }
    }
}

/// A time column as microseconds.
fn in_micros(times: &ArrayRef) -> Result<ArrayRef> {
    match times.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, _) => Ok(Arc::clone(times)),
        _ => cast(times, &DataType::Timestamp(TimeUnit::Microsecond, None))
            .map_err(|e| Error::internal("the event time is no time").because(e)),
    }
}
