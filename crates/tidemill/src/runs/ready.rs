//! [`Readiness`]: whether what an interval's run reads is there.
//!
//! **Invariant:** nothing that waits holds a slot, and what it waits for is said in words.

use std::collections::BTreeMap;

use tidemill_checkpoint::{Ledger, Manifest};
use tidemill_model::{Error, Interval, Kind, Result, Span, Timestamp};
use tidemill_sql::language::Pipeline;

use super::Intervals;
use super::wait::{is_there, named};
use crate::Workspace;

/// What a run waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The interval.
    pub interval: Interval,
    /// In words: "for orders_hourly to do it", "for the file landing/2026-01-01/_DONE".
    pub what: String,
    /// When to look again.
    pub look_at: Timestamp,
}

/// How soon is looked again, when nothing says when.
pub(super) const AGAIN: std::time::Duration = std::time::Duration::from_millis(500);
/// How often is looked whether another pipeline has done an interval.
const UPSTREAM: std::time::Duration = std::time::Duration::from_secs(2);

/// A pipeline that this one comes after.
struct Upstream {
    ledger: Ledger,
    /// From when on it has intervals.
    begun: Option<Timestamp>,
    /// Whether all that is on record can be read.
    published: bool,
}

/// What is there, looked at once for many intervals.
pub struct Readiness<'a> {
    workspace: &'a Workspace,
    intervals: &'a Intervals,
    pipeline: &'a Pipeline,
    /// The pipelines that write what is read.
    upstream: BTreeMap<String, Upstream>,
}

impl<'a> Readiness<'a> {
    /// Reads the manifests of the pipelines that this one comes after.
    ///
    /// # Errors
    /// Unavailable, Corrupt.
    pub fn look(workspace: &'a Workspace, intervals: &'a Intervals) -> Result<Readiness<'a>> {
        let pipeline = workspace.catalog.project().pipeline(&intervals.pipeline)?;
        let mut upstream = BTreeMap::new();
        for name in &intervals.upstream {
            let latest = workspace.checkpoints(name).latest()?;
            let other = workspace.catalog.project().pipeline(name)?;
            let first = latest.as_ref().and_then(|m| m.ledger.entries().first().map(|entry| entry.interval.start));
            let begun = other.start.or(first);
            // What is on record and not published yet, nobody can read.
            let published = match &latest {
                Some(latest) => workspace.checkpoints(name).is_published(latest)?,
                None => true,
            };
            let ledger = latest.map_or_else(Ledger::default, |manifest: Manifest| manifest.ledger);
            upstream.insert(name.clone(), Upstream { ledger, begun, published });
        }
        Ok(Readiness { workspace, intervals, pipeline, upstream })
    }

    /// What a run of the interval waits for; `None` when it can begin.
    ///
    /// # Errors
    /// Unavailable, when a file or object cannot be looked for; U063, when it was waited for too long.
    pub fn of(&self, interval: Interval, now: Timestamp) -> Result<Option<Waiting>> {
        for (name, Upstream { ledger, begun, published }) in &self.upstream {
            // What lies before the other pipeline's beginning is nobody's, and not waited for.
            let needed = begun.map_or(interval, |begun| Interval { start: interval.start.max(begun), ..interval });
            if needed.start < needed.end && (!ledger.contains(needed) || !published) {
                let what = format!("for {name} to do it");
                return Ok(Some(Waiting { interval, what, look_at: now.plus(UPSTREAM) }));
            }
        }
        for wait in &self.pipeline.waits {
            let path = named(wait, interval)?;
            if is_there(self.workspace, &path).map_err(|e| e.at(&wait.place))? {
                continue;
            }
            let since = self.intervals.rule().due_at(interval);
            let timeout = wait.settings.span("timeout").unwrap_or_default();
            if now < since.plus(timeout) {
                let every = wait.settings.span("every").unwrap_or_default();
                let what = format!("for {path} to be there");
                return Ok(Some(Waiting { interval, what, look_at: now.plus(every.max(UPSTREAM / 20)) }));
            }
            if wait.settings.text("then") != Some("run") {
                let message = format!("{path} has not come within {} after the interval was due", Span(timeout));
                return Err(Error::new(Kind::Unavailable, "U063", message).at(&wait.place).fact(
                    "a longer `timeout` of CREATE WAIT lets it wait on; then = 'run' lets the run begin without it",
                ));
            }
        }
        Ok(None)
    }
}
