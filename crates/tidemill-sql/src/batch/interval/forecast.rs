//! [`forecast`]: what runs of intervals would read of the datasets that others write, and which files of their targets
//! they would write anew.
//!
//! It is told from plans, listings, statistics and the record. What the pipeline writes itself is not counted among what
//! it reads, as the runs write it first.
//!
//! **Invariant:** nothing is run, created or locked; and what is called least and most holds for what is there now.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::common::TableReference;
use datafusion::logical_expr::LogicalPlan;
use tidemill_checkpoint::Manifest;
use tidemill_model::{Interval, Overlaps, Result, Timestamp};
use tidemill_runtime::Rewrites;

use super::super::engine::{Engine, Resources};
use super::super::scans::{Look, Scan, scans};
use super::super::sinks::Target;
use super::super::tables::outline;
use super::amount::{Amount, Share, amount};
use super::runner::Anew;
use super::steps::{Step, Work, expected_of, kept, no_views, steps};
use crate::catalog::{Catalog, Side};
use crate::language::{Clause, Expectation, Insert, Pipeline, from_datafusion};

/// What runs would read and write anew.
#[derive(Debug)]
pub struct Forecast {
    /// What they would read, by the dataset's name.
    pub reads: Vec<Foretold<Amount>>,
    /// What of their targets they would write anew, in the order of the steps; `None` where the target cannot tell.
    pub rewrites: Vec<Foretold<Option<Rewrites>>>,
}

/// What is foretold of a dataset, or why nothing can be.
#[derive(Debug)]
pub struct Foretold<T> {
    /// The dataset.
    pub dataset: String,
    /// How much.
    pub found: Result<T>,
}

/// Tells what these runs would read and write anew, in this order.
///
/// # Errors
/// Plan, as a run would answer. What is wrong with one dataset is told in its place.
pub fn forecast(
    catalog: &Catalog,
    pipeline: &str,
    resources: &Resources,
    record: Option<&Manifest>,
    runs: &[(Interval, Anew)],
) -> Result<Forecast> {
    let engine = Engine::new(resources, catalog.environment().clock.now(), catalog.functions())?;
    let pipeline = catalog.project().pipeline(pipeline)?;
    let steps = steps(catalog, &engine, pipeline)?;
    let foretelling = Foretelling { catalog, engine: &engine, pipeline, record };
    let done = foretelling.steps_done(&steps, runs);
    let own: BTreeSet<&str> = pipeline.inserts.iter().map(|insert| insert.target.as_str()).collect();
    let mut shares: BTreeMap<String, Vec<Share>> = BTreeMap::new();
    let mut rewrites = Vec::new();
    for step in &steps {
        let is_done = |cell: &Interval| done.get(cell).is_some_and(|done| done.contains(step.name.as_ref()));
        let cells: Vec<Interval> = runs.iter().map(|(cell, _)| *cell).filter(|cell| !is_done(cell)).collect();
        if cells.is_empty() {
            continue;
        }
        for (scan, times) in foretelling.scans_of(step)? {
            if !own.contains(scan.dataset.as_str()) {
                let share = foretelling.share(&scan, times, &cells);
                shares.entry(scan.dataset).or_default().push(share);
            }
        }
        if let Work::Insert { insert, plan, .. } = &step.work {
            let found = foretelling.rewrites(insert, plan, &cells);
            rewrites.push(Foretold { dataset: step.name.to_string(), found });
        }
    }
    let watched: BTreeSet<&String> = steps.iter().flat_map(Step::reads).collect();
    let reads = shares.into_iter().map(|(dataset, shares)| {
        let found = amount(catalog, &dataset, watched.contains(&dataset), record, &shares);
        Foretold { dataset, found }
    });
    Ok(Forecast { reads: reads.collect(), rewrites })
}

struct Foretelling<'a> {
    catalog: &'a Catalog,
    engine: &'a Engine,
    pipeline: &'a Pipeline,
    record: Option<&'a Manifest>,
}

/// How often a scan is made in a run, at least and at most.
type Times = (u64, u64);

impl Foretelling<'_> {
    /// The steps that an attempt before has done for an interval.
    fn steps_done(&self, steps: &[Step<'_>], runs: &[(Interval, Anew)]) -> BTreeMap<Interval, BTreeSet<String>> {
        let open = self.record.iter().flat_map(|record| record.runs.iter()).filter(|run| !run.steps.is_empty());
        let done: BTreeMap<Interval, BTreeSet<String>> =
            open.map(|run| (run.interval, kept(steps, run).into_iter().collect())).collect();
        if done.is_empty() {
            return done;
        }
        let go_on = runs.iter().filter(|(_, anew)| *anew == Anew::Rest);
        go_on.filter_map(|(cell, _)| done.get_key_value(cell)).map(|(cell, done)| (*cell, done.clone())).collect()
    }

    /// What a step reads, and how often.
    fn scans_of(&self, step: &Step<'_>) -> Result<Vec<(Scan, Times)>> {
        let project = self.catalog.project();
        let once = |scan| (scan, (1, 1));
        match &step.work {
            Work::Insert { insert, plan, .. } => {
                let found = scans(plan, project).map_err(|e| from_datafusion(&e, &insert.place))?;
                let mut found: Vec<(Scan, Times)> = found.into_iter().map(once).collect();
                // Its own rows have been put aside.
                let others = self.queries(&expected_of(self.pipeline, &insert.target))?.into_iter();
                found.extend(others.filter(|scan| scan.dataset != insert.target).map(once));
                Ok(found)
            }
            Work::Task(_) => Ok(Vec::new()),
            Work::Expect { dataset, expectations } => {
                let timed = self.catalog.dataset(dataset)?.watermark.is_some();
                let look = if timed { Look::within() } else { Look::All };
                let own = |to_the_end| Scan { dataset: (*dataset).to_owned(), look: look.clone(), to_the_end };
                let asked = |e: &&&Expectation| {
                    matches!(e.clause, Clause::Check(_) | Clause::NotNull(_) | Clause::Unique(_) | Clause::Fresh(_))
                };
                let shows = |e: &&&Expectation| asked(e) && !matches!(e.clause, Clause::Fresh(_));
                // How many rows there are is counted in the end; some that are not as expected are looked for.
                let least = expectations.iter().filter(asked).count() as u64 + 1;
                let most = least + expectations.iter().filter(shows).count() as u64;
                let queries = self.queries(expectations)?.into_iter();
                let mut found = vec![(own(true), (least, most))];
                found.extend(queries.map(|scan| if scan.dataset == *dataset { own(false) } else { scan }).map(once));
                Ok(found)
            }
        }
    }

    /// What expectations ask: of other datasets all rows.
    fn queries(&self, expectations: &[&Expectation]) -> Result<Vec<Scan>> {
        let mut found = Vec::new();
        for expectation in expectations {
            let Clause::Query(query) = &expectation.clause else { continue };
            let place = &expectation.clause_place;
            let others = |name: &TableReference| no_views(self.catalog, name);
            let plan = outline(self.catalog, self.engine.state(), Side::History, &others, (query, place))?.plan;
            let scans = scans(&plan, self.catalog.project()).map_err(|e| from_datafusion(&e, place))?;
            found.extend(scans.into_iter().map(|scan| Scan { look: Look::All, to_the_end: false, ..scan }));
        }
        Ok(found)
    }

    /// Which times a scan looks at in runs of these intervals, one after the other.
    fn share(&self, scan: &Scan, (least, most): Times, cells: &[Interval]) -> Share {
        let done = self.record.iter().flat_map(|record| record.ledger.entries()).map(|entry| entry.interval.end);
        let mut through = done.max().unwrap_or(Timestamp(i64::MIN));
        let looked = cells.iter().map(|cell| {
            let looked = scan.look.of(*cell, through);
            through = through.max(cell.end);
            looked
        });
        Share {
            runs: cells.len() as u64,
            times: looked.collect::<Option<Vec<Interval>>>().map(Overlaps::of),
            least: if scan.to_the_end { least } else { 0 },
            most,
        }
    }

    fn rewrites(&self, insert: &Insert, plan: &LogicalPlan, cells: &[Interval]) -> Result<Option<Rewrites>> {
        Target::open(self.catalog, &self.pipeline.name, insert, plan, cells.first().copied())?.sink.rewrites(cells)
    }
}
