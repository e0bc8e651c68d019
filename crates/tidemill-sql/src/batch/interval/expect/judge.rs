//! [`Judging`]: the expectations of one table, evaluated over the rows that a run is about to write to it or to read from it.
//!
//! **Invariant:** what is said of an expectation that is not met names it, says how many rows or how far, and shows some.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, TimeUnit, TimestampMicrosecondType};
use bytes::Bytes;
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::parser::Parser;
use tidemill_model::{Error, Interval, Kind, Result, Span, Timestamp};
use tidemill_runtime::{DeadLetter, STATEMENT, rows_as_json};

use super::super::steps::no_views;
use super::rows::{judge_rows, quoted};
use crate::batch::engine::Engine;
use crate::batch::tables::Datasets;
use crate::catalog::Catalog;
use crate::language::{Clause, DIALECT, Expectation, Violation, from_datafusion};

/// How many rows an error shows.
const SHOWN: usize = 3;

/// The step that evaluates what is expected of a table before it is read.
pub(in crate::batch) fn input_step(dataset: &str) -> String {
    format!("expect {dataset}")
}

/// What judging found.
#[derive(Debug, Default)]
pub(in crate::batch) struct Judged {
    /// What is worth saying and stops nothing.
    pub(in crate::batch) warnings: Vec<String>,
    /// Rows that were left out and are kept.
    pub(in crate::batch) dead: Vec<DeadLetter>,
    /// Rows that were left out.
    pub(in crate::batch) dropped: u64,
    /// Rows that broke what is only warned of.
    pub(in crate::batch) warned: u64,
    /// The rows that may stand.
    pub(in crate::batch) stands: Option<Arc<dyn ExecutionPlan>>,
}

/// The expectations of a table.
pub(in crate::batch) struct Judging<'a> {
    pub(in crate::batch) catalog: &'a Catalog,
    pub(in crate::batch) engine: &'a Engine,
    pub(in crate::batch) dataset: &'a str,
    /// The column that says when a row happened, if the table has one.
    pub(in crate::batch) time: Option<String>,
    pub(in crate::batch) expectations: Vec<&'a Expectation>,
    pub(in crate::batch) interval: Interval,
    /// How many rows the intervals before had, the newest first.
    pub(in crate::batch) history: Vec<u64>,
}

impl Judging<'_> {
    /// Whether any of them needs the rows themselves, rather than how many there are.
    pub(in crate::batch) fn needs_rows(&self) -> bool {
        self.expectations.iter().any(|e| !matches!(e.clause, Clause::Rows { .. } | Clause::RowsLike { .. }))
    }

    /// Judges the rows of a table; not how many there are.
    ///
    /// # Errors
    /// Data, when one whose policy is FAIL is not met; of several, all.
    pub(in crate::batch) async fn rows(&self, table: Arc<dyn TableProvider>, others: &Datasets) -> Result<Judged> {
        let columns: Vec<String> = table.schema().fields().iter().map(|field| field.name().clone()).collect();
        let datasets = others.with(self.dataset, table);
        let rules = judge_rows(&self.expectations, &columns);
        let name = quoted(self.dataset);
        let (mut judged, mut failures) = (Judged::default(), Vec::new());
        for (at, broken) in &rules.breaks {
            let Some(expectation) = self.expectations.get(*at) else { continue };
            if !matches!(expectation.policy, Violation::Warn | Violation::Fail) {
                continue;
            }
            let from = rules.from(&name);
            let count =
                self.number(&datasets, &format!("SELECT count(*) FROM {from} WHERE {broken}"), expectation).await?;
            let Some(count) = count.filter(|count| *count > 0) else { continue };
            let list: Vec<String> = columns.iter().map(|column| quoted(column)).collect();
            let some = format!(
                "SELECT {} FROM {from} WHERE {broken} ORDER BY {} LIMIT {SHOWN}",
                list.join(", "),
                list.join(", ")
            );
            let shown = self.ask(&datasets, &some, expectation).await?;
            let message =
                format!("{} of `{}` not as `{}` expects", are(count.unsigned_abs()), self.dataset, expectation.name);
            judged.warned += if expectation.policy == Violation::Warn { count.unsigned_abs() } else { 0 };
            self.unmet(expectation, message, &shown, &mut judged, &mut failures);
        }
        for expectation in &self.expectations {
            self.of_all(expectation, &datasets, &mut judged, &mut failures).await?;
        }
        if let Some(error) = Error::all(failures) {
            return Err(error);
        }
        if let Some(left_by) = &rules.left_by {
            self.leave(&datasets, (&columns, &rules.from(&name), left_by), &mut judged).await?;
        }
        if let (None, Some(any)) = (&judged.stands, self.expectations.first()) {
            let list: Vec<String> = columns.iter().map(|column| quoted(column)).collect();
            let all = parsed(&format!("SELECT {} FROM {name}", list.join(", ")))?;
            judged.stands = Some(self.physical(&datasets, &all, any).await?);
        }
        Ok(judged)
    }

    /// How many rows a table has.
    ///
    /// # Errors
    /// What reading it answers.
    pub(in crate::batch) async fn rows_in(&self, table: Arc<dyn TableProvider>, others: &Datasets) -> Result<u64> {
        let Some(any) = self.expectations.first() else { return Ok(0) };
        let datasets = others.with(self.dataset, table);
        let count = self.number(&datasets, &format!("SELECT count(*) FROM {}", quoted(self.dataset)), any).await?;
        Ok(count.and_then(|count| u64::try_from(count).ok()).unwrap_or(0))
    }

    /// What is expected of all rows together.
    async fn of_all(
        &self,
        expectation: &Expectation,
        datasets: &Datasets,
        judged: &mut Judged,
        failures: &mut Vec<Error>,
    ) -> Result<()> {
        match &expectation.clause {
            Clause::Fresh(within) => {
                let Some(time) = &self.time else {
                    return Err(Error::new(
                        Kind::Plan,
                        "P119",
                        format!("`{}` has no event time to be fresh by", self.dataset),
                    )
                    .at(&expectation.clause_place)
                    .fact("declare WATERMARK FOR column AS column on the table, or time_column where it is replaced"));
                };
                let newest = format!("SELECT max({}) FROM {}", quoted(time), quoted(self.dataset));
                let found = self.ask(datasets, &newest, expectation).await?;
                let newest = found.first().filter(|rows| rows.num_rows() > 0).and_then(|rows| {
                    let times = cast(rows.column(0), &DataType::Timestamp(TimeUnit::Microsecond, None)).ok()?;
                    let times = times.as_primitive_opt::<TimestampMicrosecondType>()?;
                    (!times.is_empty() && times.is_valid(0)).then(|| Timestamp(times.value(0)))
                });
                let needed = Timestamp(
                    self.interval.end.0.saturating_sub(i64::try_from(within.as_micros()).unwrap_or(i64::MAX)),
                );
                if newest.is_none_or(|newest| newest < needed) {
                    let is =
                        newest.map_or_else(|| "there is no row".to_owned(), |at| format!("the newest row is of {at}"));
                    let message = format!(
                        "`{}` is not fresh: {is}, `{}` expects one from {needed} on ({} before the interval's end)",
                        self.dataset,
                        expectation.name,
                        Span(*within)
                    );
                    self.unmet(expectation, message, &[], judged, failures);
                }
            }
            Clause::Query(query) => {
                let rows = self.answer(datasets, query, expectation).await?;
                let count: usize = rows.iter().map(RecordBatch::num_rows).sum();
                if count > 0 {
                    let message = format!(
                        "the query of `{}` over `{}` finds {} and expects none",
                        expectation.name,
                        self.dataset,
                        are(count as u64)
                    );
                    self.unmet(expectation, message, &rows, judged, failures);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Judges how many rows there are.
    ///
    /// # Errors
    /// As [`Judging::rows`].
    pub(in crate::batch) fn count(&self, rows: u64, judged: &mut Judged) -> Result<()> {
        let mut failures = Vec::new();
        for expectation in &self.expectations {
            let expected = match &expectation.clause {
                Clause::Rows { least, most } => {
                    let inside = rows >= *least && most.is_none_or(|most| rows <= most);
                    (!inside)
                        .then(|| most.map_or_else(|| format!("at least {least}"), |most| format!("{least} to {most}")))
                }
                Clause::RowsLike { within, last } if !self.history.is_empty() => {
                    let last: Vec<u64> = self.history.iter().copied().take(*last).collect();
                    let mean = last.iter().sum::<u64>() as f64 / last.len() as f64;
                    let off = (rows as f64 - mean).abs() > mean * within;
                    off.then(|| {
                        format!(
                            "{:.0} within {:.0} %, the mean of the last {} intervals",
                            mean,
                            within * 100.0,
                            last.len()
                        )
                    })
                }
                _ => None,
            };
            if let Some(expected) = expected {
                let message = format!("`{}` has {rows} rows, `{}` expects {expected}", self.dataset, expectation.name);
                self.unmet(expectation, message, &[], judged, &mut failures);
            }
        }
        Error::all(failures).map_or(Ok(()), Err)
    }

    fn unmet(
        &self,
        expectation: &Expectation,
        message: String,
        rows: &[RecordBatch],
        judged: &mut Judged,
        failures: &mut Vec<Error>,
    ) {
        if expectation.policy == Violation::Warn {
            judged.warnings.push(message);
            return;
        }
        let error = Error::new(Kind::Data, "D111", message).at(&expectation.clause_place);
        let shown = rows.iter().flat_map(rows_as_json).take(SHOWN);
        let error = shown.fold(error, |error, row| error.fact(format!("such as {row}")));
        failures
            .push(error.fact("nothing of the step was published; ON VIOLATION says what happens instead of failing"));
    }

    /// Finds the rows that are left out, and what lets the others through.
    async fn leave(
        &self,
        datasets: &Datasets,
        (columns, from, left_by): (&[String], &str, &str),
        judged: &mut Judged,
    ) -> Result<()> {
        let Some(any) = self.expectations.first() else { return Ok(()) };
        let list: Vec<String> = columns.iter().map(|column| quoted(column)).collect();
        let list = list.join(", ");
        let all = format!("(SELECT {list}, {left_by} AS __left_by FROM {from})");
        let out = format!("SELECT * FROM {all} WHERE __left_by >= 0 ORDER BY {list}");
        let left = self.ask(datasets, &out, any).await?;
        if left.iter().all(|rows| rows.num_rows() == 0) {
            return Ok(());
        }
        let mut counts: BTreeMap<usize, u64> = BTreeMap::new();
        for rows in &left {
            self.letters(rows, judged, &mut counts)?;
        }
        for (at, count) in counts {
            let Some(expectation) = self.expectations.get(at) else { continue };
            let how = if expectation.policy == Violation::Drop { "left out" } else { "kept as dead letters" };
            let (rows, name) = (are(count), &expectation.name);
            judged.warnings.push(format!("{rows} of `{}` not as `{name}` expects and {how}", self.dataset));
        }
        let kept = format!("SELECT {list} FROM {all} WHERE __left_by < 0");
        let query = parsed(&kept)?;
        judged.stands = Some(self.physical(datasets, &query, any).await?);
        Ok(())
    }

    fn letters(&self, rows: &RecordBatch, judged: &mut Judged, counts: &mut BTreeMap<usize, u64>) -> Result<()> {
        let broken = |e: arrow::error::ArrowError| Error::internal("rows that were left out cannot be read").because(e);
        let last = rows.num_columns() - 1;
        let by = cast(rows.column(last), &DataType::Int64).map_err(broken)?;
        let by = by.as_primitive::<Int64Type>();
        let shown = rows.project(&(0..last).collect::<Vec<_>>()).map_err(broken)?;
        let times = self
            .time
            .as_ref()
            .and_then(|time| cast(shown.column_by_name(time)?, &DataType::Timestamp(TimeUnit::Microsecond, None)).ok());
        let times = times.as_ref().and_then(|times| times.as_primitive_opt::<TimestampMicrosecondType>());
        for (row, raw) in rows_as_json(&shown).into_iter().enumerate() {
            let at = usize::try_from(by.value(row)).unwrap_or(0);
            let Some(expectation) = self.expectations.get(at) else { continue };
            *counts.entry(at).or_default() += 1;
            if expectation.policy == Violation::Drop {
                judged.dropped += 1;
                continue;
            }
            let (line, _) = expectation.place.line_column();
            judged.dead.push(DeadLetter {
                dataset: self.dataset.to_owned(),
                reason: expectation.name.replace('_', " "),
                detail: format!("not as CREATE EXPECTATION {} says", expectation.name),
                split: format!("{STATEMENT}{}", expectation.place.file),
                position: line as u64,
                event_time: times.filter(|times| times.is_valid(row)).map(|times| times.value(row)),
                raw: Bytes::from(raw),
            });
        }
        Ok(())
    }

    async fn number(&self, datasets: &Datasets, sql: &str, expectation: &Expectation) -> Result<Option<i64>> {
        let rows = self.ask(datasets, sql, expectation).await?;
        let first = rows.first().filter(|rows| rows.num_rows() > 0);
        Ok(first.and_then(|rows| rows.column(0).as_primitive_opt::<Int64Type>().map(|column| column.value(0))))
    }

    async fn ask(&self, datasets: &Datasets, sql: &str, expectation: &Expectation) -> Result<Vec<RecordBatch>> {
        let query = parsed(sql)?;
        self.answer(datasets, &query, expectation).await
    }

    async fn answer(
        &self,
        datasets: &Datasets,
        query: &ast::Query,
        expectation: &Expectation,
    ) -> Result<Vec<RecordBatch>> {
        let physical = self.physical(datasets, query, expectation).await?;
        let lift = |e| from_datafusion(&e, &expectation.clause_place);
        collect(physical, self.engine.task()).await.map_err(lift)
    }

    async fn physical(
        &self,
        datasets: &Datasets,
        query: &ast::Query,
        expectation: &Expectation,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let others = |name: &TableReference| no_views(self.catalog, name);
        let place = &expectation.clause_place;
        let plan = datasets.plan(self.catalog, self.engine.state(), &others, (query, place))?;
        self.engine.physical(&plan).await.map_err(|e| from_datafusion(&e, place))
    }
}

/// So many rows, as the beginning of a sentence without its verb.
fn are(count: u64) -> String {
    if count == 1 { "1 row".to_owned() } else { format!("{count} rows") }
}

fn parsed(sql: &str) -> Result<Box<ast::Query>> {
    let broken = |e| Error::internal(format!("an expectation became no query: {sql}")).because(e);
    let mut parser = Parser::new(&DIALECT).try_with_sql(sql).map_err(broken)?;
    parser.parse_query().map_err(broken)
}
