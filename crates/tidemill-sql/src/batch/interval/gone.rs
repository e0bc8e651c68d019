//! Files that runs have read and that are gone: what a look puts on record of them, and [`Runner::lacks`], which runs
//! are refused for it.
//!
//! Refused is what would take rows away that stand: an interval that is computed again, and a result over all rows. A first
//! run has nothing to take away. It is refused as well when its windows reach back to what is gone, as they would be
//! published without a part of their rows; it is only warned of what no run has ever had, and where a query looks back over
//! all time, as it would never run again after the first file that is archived.
//!
//! **Invariant:** a row that stands goes away only when somebody has said that what is left is all there is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::LogicalPlan;
use tidemill_checkpoint::{Gone, GoneRange, GoneSplit};
use tidemill_model::{Epoch, Error, Interval, Kind, Offset, Result, SplitId, Timestamp};
use tidemill_runtime::Split;
use tidemill_runtime::exec::StopFlag;

use super::super::locality::dataset_of;
use super::super::owned::owned;
use super::super::reading::Gathered;
use super::super::seen::SplitTimes;
use super::super::tables::{Datasets, Manner};
use super::making::Head;
use super::runner::Runner;
use super::stage::statement;
use super::steps::{Step, Work};
use crate::catalog::Side;
use crate::language::Insert;

/// The code of a run that is refused because files are gone.
pub const SOURCE_GONE: &str = "D113";
/// The code of a run that is refused because a dataset lists no file at all.
pub(super) const SOURCE_SILENT: &str = "U064";

/// Whether a run was refused because files are gone: nothing was tried.
pub(super) fn is_refusal(error: &Error) -> bool {
    error.code() == SOURCE_GONE
}

/// What a run lacks because files are gone.
#[derive(Default)]
pub(super) struct Lacks {
    /// The step for which it is refused, and why.
    pub(super) refusal: Option<(String, Error)>,
    /// Step to what its rows lack.
    pub(super) warnings: BTreeMap<String, Vec<String>>,
}

/// What a statement reads for an interval.
struct Needs {
    /// Whether its result is over all rows.
    whole: bool,
    /// Dataset with event time to the stretch of it.
    parts: Vec<(String, Interval)>,
}

/// The finite splits that were seen and are not listed any more.
pub(super) fn lost(known: Option<&BTreeMap<SplitId, Offset>>, splits: &[Split]) -> Vec<(SplitId, SplitTimes)> {
    let listed: BTreeSet<&SplitId> = splits.iter().map(|split| &split.id).collect();
    let lost = known.into_iter().flatten().filter(|(id, _)| !listed.contains(id));
    lost.filter_map(|(id, offset)| Some((id.clone(), SplitTimes::of_finite(offset)?))).collect()
}

impl Runner<'_> {
    /// What is gone with splits of a dataset that have vanished: the intervals that their rows lie in, as far as any run may
    /// have read them. Of rows that were never looked at, all that was run.
    pub(super) async fn vanished(
        &self,
        head: &Head,
        dataset: &str,
        splits: Vec<(SplitId, SplitTimes)>,
        since: Epoch,
    ) -> Result<Vec<GoneSplit>> {
        let Some(read) = head.hull().filter(|_| !splits.is_empty()) else { return Ok(Vec::new()) };
        // What the first one looked back at was read, too.
        let first = Interval { start: read.start, end: self.cell_of(read.start).end.min(read.end) };
        let mut from = read.start;
        for step in &self.steps {
            let Work::Insert { insert, reads, .. } = &step.work else { continue };
            if !reads.contains(dataset) {
                continue;
            }
            let parts = self.needs(insert, reads, first, None).await?.parts;
            from =
                parts.iter().filter(|(name, _)| name == dataset).map(|(_, part)| part.start).fold(from, Timestamp::min);
        }
        let from = self.pipeline.start.map_or(from, |start| from.max(start));
        let gone = splits.into_iter().map(|(split, times)| {
            let all = || (!times.is_read()).then_some(read);
            let cells = times.range().map(|(first, last)| {
                let (start, end) = (self.cell_of(first).start.max(from), self.cell_of(last).end.min(read.end));
                Interval { start, end }
            });
            let ranges = cells.or_else(all).filter(|range| range.start < range.end).into_iter().collect();
            GoneSplit { split, told: times.told(), ranges, since }
        });
        Ok(gone.collect())
    }

    async fn needs(
        &self,
        insert: &Insert,
        reads: &BTreeSet<String>,
        interval: Interval,
        through: Option<Timestamp>,
    ) -> Result<Needs> {
        let engine = self.engine()?;
        let manner = Manner {
            side: Side::History,
            start: self.pipeline.start,
            owned: Some(interval),
            gathered: Arc::new(Gathered::only_counts(StopFlag::default())),
            only: None,
        };
        // Tables of its own may have to be written first.
        let (datasets, _) = Datasets::open_or_empty(self.catalog, engine.state(), &manner, reads).await?;
        let plan = statement(self.catalog, &engine, (insert, &BTreeMap::new()), &datasets)?;
        let lift = |e| crate::language::from_datafusion(&e, &insert.place);
        let owned = owned(plan, interval, through, self.catalog.project()).map_err(lift)?;
        let mut parts = Vec::new();
        let visited = owned.plan.apply_with_subqueries(|node| {
            if let LogicalPlan::TableScan(scan) = node
                && let Some(table) = dataset_of(scan)
            {
                let reading = table.reading();
                parts.extend(reading.interval.map(|part| (reading.dataset.clone(), part)));
            }
            Ok(TreeNodeRecursion::Continue)
        });
        visited.map_err(lift)?;
        Ok(Needs { whole: owned.whole.is_some(), parts })
    }

    /// What a run of the interval lacks, in the steps that it would compute; `again` when rows of the interval stand
    /// already. When that cannot be told, the step has failed.
    pub(super) async fn lacks(&self, head: &Head, of: (Interval, bool), kept: &[String]) -> Lacks {
        let mut lacks = Lacks::default();
        for step in self.steps.iter().filter(|step| !kept.iter().any(|name| *name == step.name)) {
            match self.step_lacks(head, of, step).await {
                Ok(warnings) if warnings.is_empty() => {}
                Ok(warnings) => drop(lacks.warnings.insert(step.name.to_string(), warnings)),
                Err(error) => {
                    lacks.refusal = Some((step.name.to_string(), error));
                    break;
                }
            }
        }
        lacks
    }

    async fn step_lacks(
        &self,
        head: &Head,
        (interval, again): (Interval, bool),
        step: &Step<'_>,
    ) -> Result<Vec<String>> {
        let Work::Insert { insert, reads, .. } = &step.work else { return Ok(Vec::new()) };
        let mut warnings = Vec::new();
        let through = head.through();
        let far =
            Interval { start: Timestamp(i64::MIN), end: through.map_or(interval.end, |end| end.max(interval.end)) };
        for dataset in self.watched.intersection(reads) {
            let gone = self.gone_of(head, dataset).await?;
            if gone.within(dataset, far).is_none() {
                continue;
            }
            let needs = self.needs(insert, reads, interval, through).await?;
            for (_, part) in needs.parts.iter().filter(|(name, _)| name == dataset) {
                match fate(&gone, (dataset, *part), (interval, again), needs.whole) {
                    Fate::Has => {}
                    Fate::Lacks(range) => {
                        warnings
                            .push(format!("what it owes to rows that are gone is missing: {}", said(dataset, &range)));
                    }
                    Fate::Refused(range) => {
                        return Err(self.refused(
                            (dataset, head.silent.contains(dataset)),
                            &step.name,
                            &range,
                            interval,
                        ));
                    }
                }
            }
        }
        Ok(warnings)
    }

    /// What is gone of a dataset, and what may be: of one that lists nothing at all, everything.
    async fn gone_of(&self, head: &Head, dataset: &str) -> Result<Gone> {
        let mut gone = head.gone();
        if head.silent.contains(dataset) {
            let lost = lost(head.seen.get(dataset), &[]);
            gone.lose(dataset, self.vanished(head, dataset, lost, Epoch::NONE).await?);
        }
        Ok(gone)
    }

    fn refused(&self, (dataset, silent): (&str, bool), step: &str, range: &GoneRange, interval: Interval) -> Error {
        let name = &self.pipeline.name;
        let without = match self.has_grid() {
            true => format!("tidemill rerun {name} {interval} --from-what-is-left"),
            false => format!("tidemill run {name} --interval {interval} --from-what-is-left"),
        };
        let Interval { start, end } = range.interval;
        let held = format!("they had rows from {start} to {end}, which `{step}` needs");
        if silent {
            let message = format!("`{dataset}` has no file any more, where some were read");
            return Error::new(Kind::Unavailable, "U064", message)
                .fact(held)
                .fact("look whether its disk is mounted and its `path` is right")
                .fact(format!("if they are gone for good: {without}"));
        }
        let message = match range.splits {
            1 => format!("the file `{}` of `{dataset}` is gone", range.example),
            n => format!("{n} files of `{dataset}` are gone, `{}` among them", range.example),
        };
        Error::new(Kind::Data, "D113", message)
            .fact(held)
            .fact("nothing was computed, so what stands is as it was")
            .fact("put them back under their names, and it is computed with their rows")
            .fact(format!("or compute it without their rows, which takes them out of what stands: {without}"))
    }
}

fn said(dataset: &str, range: &GoneRange) -> String {
    let (Interval { start, end }, example) = (range.interval, &range.example);
    let files = match range.splits {
        1 => format!("the file `{example}` of `{dataset}`"),
        n => format!("{n} files of `{dataset}`, `{example}` among them"),
    };
    format!("{files}, with rows from {start} to {end}")
}

/// What becomes of a run that reads a part of a dataset.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// Nothing of it is gone.
    Has,
    /// It is computed without this, as it never had it.
    Lacks(GoneRange),
    Refused(GoneRange),
}

fn fate(gone: &Gone, (dataset, part): (&str, Interval), (interval, again): (Interval, bool), whole: bool) -> Fate {
    let Some(range) = gone.within(dataset, part) else { return Fate::Has };
    let before = Interval { start: part.start, end: part.end.min(interval.start) };
    let bounded = part.start.0 > i64::MIN;
    let reaches_back = bounded && before.start < before.end && gone.within(dataset, before).is_some();
    if again || whole || reaches_back { Fate::Refused(range) } else { Fate::Lacks(range) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(start: i64, end: i64) -> Interval {
        Interval { start: Timestamp(start), end: Timestamp(end) }
    }

    #[test]
    fn what_would_take_rows_away_is_refused() {
        let mut gone = Gone::default();
        let ranges = vec![interval(20, 30)];
        gone.lose("raw", vec![GoneSplit { split: SplitId::new("a"), told: None, ranges, since: Epoch(1) }]);
        let all = i64::MIN;
        // The interval, from where it reads, whether it was done before, whether its result is over all rows; the fate.
        let cases = [
            ((30, 40), 30, true, false, "has"),
            ((20, 30), 20, true, false, "refused"),
            ((20, 30), 20, false, false, "lacks"),
            ((30, 40), 25, true, false, "refused"),
            ((30, 40), 25, false, false, "refused"),
            ((20, 30), 15, false, false, "lacks"),
            ((90, 99), all, true, false, "refused"),
            ((90, 99), all, false, false, "lacks"),
            ((90, 99), all, false, true, "refused"),
            ((10, 20), all, true, true, "has"),
        ];
        for ((start, end), from, again, whole, expected) in cases {
            let of = fate(&gone, ("raw", interval(from, end)), (interval(start, end), again), whole);
            let is = match of {
                Fate::Has => "has",
                Fate::Lacks(_) => "lacks",
                Fate::Refused(_) => "refused",
            };
            assert_eq!(is, expected, "[{start}, {end}) from {from}, again {again}, whole {whole}");
        }
    }
}
