//! [`Target`]: an INSERT's dataset opened for one interval; and what a manifest needs to say so that another process
//! can open it again.
//!
//! **Invariant:** what an interval's run prepared is named in the manifest by its target and its interval, so that
//! whoever comes next commits it with the same meaning.

use std::sync::Arc;

use datafusion::logical_expr::LogicalPlan;
use tidemill_checkpoint::Manifest;
use tidemill_model::{Epoch, Error, Interval, Result, Timestamp};
use tidemill_runtime::{Committable, Sink, SinkTarget, WriteMode};

use super::confined::{Confined, changed, prepared_for};
use crate::catalog::Catalog;
use crate::language::Insert;
use crate::session::{default_sequence, result_schema};

/// Where rows go.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) name: String,
    pub(super) mode: WriteMode,
    pub(super) sink: Arc<dyn Sink>,
}

impl Target {
    /// Opens the dataset for the rows of a plan, as the stream executor does but for the interval.
    pub(super) fn open(
        catalog: &Catalog,
        pipeline: &str,
        insert: &Insert,
        plan: &LogicalPlan,
        interval: Option<Interval>,
    ) -> Result<Target> {
        let name = insert.target.as_str();
        let schema = result_schema(plan);
        let mut mode = catalog.write_mode(name, &schema, insert.part.as_ref())?;
        if let WriteMode::Upsert { sequence: sequence @ None, .. } = &mut mode {
            *sequence = default_sequence(plan, catalog.project());
        }
        let staging = catalog.environment().state.join("pipelines").join(pipeline).join("staging").join(name);
        // Runs of several intervals stage side by side.
        let staging = match interval {
            Some(interval) => staging.join(format!("{}_{}", interval.start.0, interval.end.0)),
            None => staging,
        };
        let (pipeline, sink) = (pipeline.to_owned(), name.to_owned());
        let target = SinkTarget { pipeline, sink, schema, mode: mode.clone(), interval, staging };
        let sink = catalog.sink(name, &target)?;
        let place = insert.part.as_ref().map_or(&insert.place, |(_, place)| place);
        let sink: Arc<dyn Sink> = match &mode {
            mode if mode.replaces() => Arc::new(Confined::new(sink, name, (mode, place), &target.schema)?),
            _ => sink,
        };
        Ok(Target { name: name.to_owned(), mode, sink })
    }

    /// Publishes what was prepared.
    pub(super) fn commit(&self, epoch: Epoch, committables: &[Committable]) -> Result<()> {
        let context = |e: Error| e.context(format!("publishing to `{}`", self.name));
        let prepared = committables.iter().find_map(prepared_for).filter(|_| !self.mode.replaces());
        if let Some(said) = prepared {
            return Err(context(changed(&self.name, said)));
        }
        self.sink.committer().and_then(|mut committer| committer.commit(epoch, committables)).map_err(context)
    }

    /// Removes what dead processes staged for later epochs.
    pub(super) fn abort_after(&self, epoch: Epoch) -> Result<()> {
        self.sink.committer()?.abort_after(epoch)
    }
}

/// The name of a target's entry in the manifest of an interval's run.
pub(super) fn entry(target: &str, interval: Interval) -> String {
    format!("{target}@{}/{}", interval.start.0, interval.end.0)
}

/// The target and the interval that an entry names; a stream's entries have no interval.
pub(super) fn parse_entry(entry: &str) -> (&str, Option<Interval>) {
    let parsed = entry.rsplit_once('@').and_then(|(target, times)| {
        let (start, end) = times.split_once('/')?;
        let interval = Interval { start: Timestamp(start.parse().ok()?), end: Timestamp(end.parse().ok()?) };
        Some((target, interval))
    });
    parsed.map_or((entry, None), |(target, interval)| (target, Some(interval)))
}

/// What the newest manifest prepared: target, interval, committables.
pub(super) fn prepared(manifest: &Manifest) -> Vec<(String, Option<Interval>, Vec<Committable>)> {
    let entries = manifest.sinks.iter().map(|(entry, state)| {
        let (target, interval) = parse_entry(entry);
        (target.to_owned(), interval, state.committables.iter().cloned().map(Committable).collect())
    });
    entries.collect()
}

#[cfg(test)]
mod tests {
    use super::{entry, parse_entry};
    use tidemill_model::{Interval, Timestamp};

    #[test]
    fn entries_are_told_apart() {
        let interval = Interval { start: Timestamp(-5), end: Timestamp(7) };
        assert_eq!(parse_entry(&entry("a@b", interval)), ("a@b", Some(interval)));
        for stream in ["orders", "a@b", "a@1/x"] {
            assert_eq!(parse_entry(stream), (stream, None));
        }
    }
}
