//! [`Window`]: the groups of one window in a final operator.
//!
//! **Invariant:** a window is either live (a table that takes rows) or frozen (a batch of states, shared with whoever
//! stores it); freezing and thawing changes no result. Accumulators give up their state when asked for it, so there is
//! no other way to look at a window and go on with it. A frozen one may lie in the tier.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use datafusion::common::Result;
use tidemill_runtime::{Parked, Share, bytes_of};

use super::groups::Groups;
use super::spec::GroupSpec;
use crate::stream::state::lost;

/// The groups of one window.
pub(super) struct Window {
    table: Table,
    /// Rows came since [`Window::settle`].
    pub(super) changed: bool,
    /// The stored state is older than this one.
    pub(super) unsaved: bool,
    /// What was emitted last, where changes are emitted.
    pub(super) emitted: Emitted,
    /// Rows came since [`Window::park`] was last thought of.
    pub(super) touched: bool,
    /// About how many bytes the live table takes.
    live: usize,
}

enum Table {
    Live(Box<Groups>),
    Frozen(Parked),
}

/// The results that stand downstream.
pub(super) enum Emitted {
    /// None yet.
    Nothing,
    /// These.
    Rows(Parked),
    /// Those of these states: restored, not yet computed.
    Of(Parked),
}

impl Emitted {
    fn parked(&mut self) -> Option<&mut Parked> {
        match self {
            Emitted::Nothing => None,
            Emitted::Rows(rows) | Emitted::Of(rows) => Some(rows),
        }
    }
}

impl Window {
    pub(super) fn new(spec: &GroupSpec) -> Result<Window> {
        let groups = Groups::new(&spec.key_schema(1), &spec.aggregates)?;
        Ok(Window {
            table: Table::Live(Box::new(groups)),
            changed: false,
            unsaved: false,
            emitted: Emitted::Nothing,
            touched: true,
            live: 0,
        })
    }

    /// The window as it was stored.
    pub(super) fn restored(states: RecordBatch) -> Window {
        let emitted = Emitted::Of(states.clone().into());
        Window { table: Table::Frozen(states.into()), changed: false, unsaved: true, emitted, touched: false, live: 0 }
    }

    /// About how many bytes of memory it takes.
    pub(super) fn bytes(&mut self) -> usize {
        let table = match &self.table {
            Table::Live(_) => self.live,
            Table::Frozen(states) => states.bytes(),
        };
        table + self.emitted.parked().map_or(0, |rows| rows.bytes())
    }

    /// Moves what it has to the tier.
    pub(super) fn park(&mut self, spec: &GroupSpec, start: i64, share: &Share) -> Result<()> {
        self.freeze(spec, start)?;
        if let Table::Frozen(states) = &mut self.table {
            states.park(share).map_err(lost)?;
        }
        self.emitted.parked().map_or(Ok(()), |rows| rows.park(share).map_err(lost))
    }

    /// Nothing of it has been emitted yet.
    pub(super) fn withhold(&mut self) {
        self.changed = true;
        self.emitted = Emitted::Nothing;
    }

    /// Adds partial groups; all rows are of this window.
    pub(super) fn merge(&mut self, spec: &GroupSpec, partial: &RecordBatch) -> Result<()> {
        merge(self.thaw(spec)?, spec, partial)?;
        self.live += bytes_of(partial);
        self.touched = true;
        self.changed = true;
        self.unsaved = true;
        Ok(())
    }

    /// The states of all groups; the window stays as it is.
    pub(super) fn freeze(&mut self, spec: &GroupSpec, start: i64) -> Result<RecordBatch> {
        match &mut self.table {
            Table::Frozen(states) => states.read().map_err(lost),
            Table::Live(groups) => {
                let rows = groups.len();
                let mut columns: Vec<ArrayRef> = Vec::with_capacity(spec.partial.fields().len());
                columns.push(start_column(spec, start, rows));
                columns.extend(groups.take_states()?);
                let options = RecordBatchOptions::new().with_row_count(Some(rows));
                let states = RecordBatch::try_new_with_options(Arc::clone(&spec.partial), columns, &options)?;
                self.table = Table::Frozen(states.clone().into());
                Ok(states)
            }
        }
    }

    /// The results of all groups; the window is gone after this.
    pub(super) fn finish(mut self, spec: &GroupSpec, start: i64) -> Result<RecordBatch> {
        let groups = self.thaw(spec)?;
        results(groups, spec, start)
    }

    fn thaw(&mut self, spec: &GroupSpec) -> Result<&mut Groups> {
        if let Table::Frozen(states) = &self.table {
            let states = states.read().map_err(lost)?;
            self.live = bytes_of(&states);
            self.table = Table::Live(Box::new(thawed(spec, &states)?));
        }
        match &mut self.table {
            Table::Live(groups) => Ok(groups),
            Table::Frozen(_) => datafusion::common::internal_err!("a window did not thaw"),
        }
    }
}

pub(super) fn start_column(spec: &GroupSpec, start: i64, rows: usize) -> ArrayRef {
    let zone = match spec.partial.field(0).data_type() {
        arrow::datatypes::DataType::Timestamp(_, zone) => zone.clone(),
        _ => None,
    };
    Arc::new(arrow::array::TimestampMicrosecondArray::from_value(start, rows).with_timezone_opt(zone))
}

pub(super) fn merge(groups: &mut Groups, spec: &GroupSpec, partial: &RecordBatch) -> Result<()> {
    let (leading, columns) = (spec.leading(), partial.columns());
    let keys = &columns[1..leading];
    groups.merge(keys, &columns[leading..], partial.num_rows(), &spec.aggregates)
}

/// A table of these states; group `i` is row `i`.
fn thawed(spec: &GroupSpec, states: &RecordBatch) -> Result<Groups> {
    let mut groups = Groups::new(&spec.key_schema(1), &spec.aggregates)?;
    merge(&mut groups, spec, states)?;
    Ok(groups)
}

/// The results of these states, row by row. Always computed from states, never from a table that also took rows, so
/// that a restored window gives the same bits as one that lived on.
pub(super) fn results_of(spec: &GroupSpec, start: i64, states: &RecordBatch) -> Result<RecordBatch> {
    results(&mut thawed(spec, states)?, spec, start)
}

fn results(groups: &mut Groups, spec: &GroupSpec, start: i64) -> Result<RecordBatch> {
    let rows = groups.len();
    let (keys, results) = groups.take_results()?;
    let columns = spec.assemble(start, &keys, &results, rows);
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(Arc::clone(&spec.schema), columns, &options)?)
}

/// Counts the windows of an operator in memory, and parks some of them when they are too much: those first that rows
/// no longer come for, and of these the ones that close last.
pub(super) fn relieve<'a>(
    windows: impl Iterator<Item = (i64, &'a mut Window)>,
    spec: &GroupSpec,
    share: &mut Share,
) -> Result<()> {
    if !share.is_bounded() {
        return Ok(());
    }
    let mut all: Vec<(i64, &mut Window)> = windows.collect();
    let mut taken: usize = all.iter_mut().map(|(_, window)| window.bytes()).sum();
    share.set(taken);
    if share.excess() > 0 {
        all.sort_by_key(|(start, window)| (window.touched, std::cmp::Reverse(*start)));
        for (start, window) in &mut all {
            let bytes = window.bytes();
            if bytes == 0 {
                continue;
            }
            window.park(spec, *start, share)?;
            taken -= bytes;
            share.set(taken);
            if share.excess() == 0 {
                break;
            }
        }
    }
    all.into_iter().for_each(|(_, window)| window.touched = false);
    Ok(())
}
