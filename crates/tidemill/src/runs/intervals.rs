//! [`Intervals`]: the intervals of a pipeline: its grid, when they are due, and which pipelines they come after.
//!
//! **Invariant:** a pipeline that is triggered by a table has the grid of whoever writes that table.

use std::collections::BTreeSet;
use std::time::Duration;

use tidemill_checkpoint::{Manifest, Outlook, Rule};
use tidemill_model::{Error, Grid, Kind, Result, Schedule, Timestamp, Trigger};
use tidemill_sql::batch::{PlannedStep, StepKind, plan_interval};
use tidemill_sql::language::{Pipeline, Project};

use crate::Workspace;

/// The intervals of one pipeline.
#[derive(Debug, Clone)]
pub struct Intervals {
    /// The pipeline.
    pub pipeline: String,
    /// Which there are.
    pub grid: Grid,
    /// When to look for those that are due; without it, when a table that triggers the pipeline has new ones.
    pub schedule: Option<Schedule>,
    /// How long rows may come after their time.
    pub delay: Duration,
    /// The steps of a run, in order.
    pub steps: Vec<PlannedStep>,
    /// Pipelines with intervals of their own that write what this one reads.
    pub upstream: BTreeSet<String>,
    jitter: Option<Duration>,
    start: Option<Timestamp>,
    end: Option<Timestamp>,
}

impl Intervals {
    /// The intervals of a pipeline; `None` when it has none: it is run by its live trigger, or only by hand.
    ///
    /// # Errors
    /// Plan, when its steps cannot be planned, or what triggers it has no intervals.
    pub fn of(workspace: &Workspace, pipeline: &Pipeline) -> Result<Option<Intervals>> {
        let project = workspace.catalog.project();
        let Some(grid) = grid_of(project, pipeline, &mut BTreeSet::new())? else { return Ok(None) };
        if pipeline.inserts.is_empty() && pipeline.tasks.is_empty() {
            return Ok(None);
        }
        let steps = plan_interval(&workspace.catalog, &pipeline.name, &workspace.resources())?;
        let read: BTreeSet<&String> = steps
            .iter()
            .filter_map(|step| if let StepKind::Insert { reads } = &step.kind { Some(reads) } else { None })
            .flatten()
            .collect();
        let delays =
            read.iter().filter_map(|name| project.datasets.get(*name)?.watermark.as_ref()).map(|mark| mark.delay);
        let mut upstream = BTreeSet::new();
        for other in project.pipelines.values().filter(|other| other.name != pipeline.name) {
            let writes = other.inserts.iter().any(|insert| read.contains(&insert.target));
            if writes && grid_of(project, other, &mut BTreeSet::new()).is_ok_and(|grid| grid.is_some()) {
                upstream.insert(other.name.clone());
            }
        }
        let schedule = match &pipeline.trigger {
            Trigger::Scheduled(schedule) => Some(schedule.as_ref().clone()),
            _ => None,
        };
        Ok(Some(Intervals {
            pipeline: pipeline.name.clone(),
            grid,
            schedule,
            delay: delays.max().unwrap_or_default(),
            steps,
            jitter: pipeline.scheduling.jitter,
            // Who follows another one begins where that does.
            start: pipeline.start.or_else(|| {
                let followed = matches!(pipeline.trigger, Trigger::On(_));
                let starts = upstream.iter().filter(|_| followed).filter_map(|name| project.pipelines.get(name)?.start);
                starts.min()
            }),
            upstream,
            end: pipeline.scheduling.end,
        }))
    }

    /// When they are due.
    #[must_use]
    pub fn rule(&self) -> Rule<'_> {
        Rule {
            name: &self.pipeline,
            grid: &self.grid,
            schedule: self.schedule.as_ref(),
            delay: self.delay,
            jitter: self.jitter,
            start: self.start,
            end: self.end,
        }
    }

    /// What of them is done, missing, stale or failed.
    #[must_use]
    pub fn outlook<'a>(&'a self, record: Option<&'a Manifest>, now: Timestamp) -> Outlook<'a> {
        Outlook::new(self.rule(), record, now)
    }
}

/// The grid of a pipeline: its own, or that of whoever writes what triggers it.
fn grid_of(project: &Project, pipeline: &Pipeline, seen: &mut BTreeSet<String>) -> Result<Option<Grid>> {
    if let Some(grid) = &pipeline.scheduling.grid {
        return Ok(Some(grid.clone()));
    }
    let Trigger::On(datasets) = &pipeline.trigger else { return Ok(None) };
    if !seen.insert(pipeline.name.clone()) {
        let round: Vec<&str> = seen.iter().map(String::as_str).collect();
        return Err(Error::new(
            Kind::Plan,
            "P191",
            format!("these pipelines trigger each other: {}", round.join(", ")),
        )
        .at(&pipeline.place)
        .fact("give one of them a schedule"));
    }
    for dataset in datasets {
        let writes = |other: &&Pipeline| other.inserts.iter().any(|insert| insert.target == *dataset);
        let Some(writer) = project.pipelines.values().find(writes) else {
            let error =
                Error::new(Kind::Plan, "P191", format!("no pipeline writes `{dataset}`, which triggers this one"));
            let written =
                project.pipelines.values().flat_map(|other| &other.inserts).map(|insert| insert.target.as_str());
            let error = match tidemill_model::nearest(dataset, written) {
                Some(meant) => error.label(format!("did you mean `{meant}`?")),
                None => error,
            };
            return Err(error
                .at(&pipeline.place)
                .fact("trigger = 'on TABLE' names a table that another pipeline of the project writes"));
        };
        if let Some(grid) = grid_of(project, writer, seen)? {
            return Ok(Some(grid));
        }
    }
    Err(Error::new(Kind::Plan, "P191", "what triggers this pipeline is not written by intervals")
        .at(&pipeline.place)
        .fact(format!("give the pipelines that write {} a schedule, or this one", datasets.join(" and ")))
        .fact("a pipeline that follows a live one is best live too: trigger = 'continuous'"))
}
