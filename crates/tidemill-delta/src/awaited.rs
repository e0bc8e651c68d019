//! [`Awaited`]: a table that is declared and that nobody has written yet.
//!
//! **Invariant:** it has no splits until it exists; from then on it is the source of the table.

use std::sync::OnceLock;

use tidemill_model::{Offset, Result};
use tidemill_runtime::{Boundedness, DatasetSpec, Environment, ReadHints, Source, Split, SplitReader};

use crate::source::DeltaSource;
use crate::table::NO_TABLE;

/// A source that waits for its table to be created.
#[derive(Debug)]
pub(crate) struct Awaited {
    spec: DatasetSpec,
    env: Environment,
    table: OnceLock<DeltaSource>,
}

impl Awaited {
    pub(crate) fn new(spec: &DatasetSpec, env: &Environment) -> Awaited {
        Awaited { spec: spec.clone(), env: env.clone(), table: OnceLock::new() }
    }

    /// The table's source, once the table exists.
    fn table(&self) -> Result<Option<&DeltaSource>> {
        if let Some(table) = self.table.get() {
            return Ok(Some(table));
        }
        match DeltaSource::open(&self.spec, &self.env) {
            Ok(table) => Ok(Some(self.table.get_or_init(|| table))),
            Err(error) if error.code() == NO_TABLE => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Source for Awaited {
    fn boundedness(&self) -> Boundedness {
        Boundedness::Unbounded
    }

    fn list_splits(&self) -> Result<Vec<Split>> {
        self.table()?.map_or_else(|| Ok(Vec::new()), DeltaSource::list_splits)
    }

    fn open(&self, split: &Split, resume: Option<&Offset>, hints: &ReadHints) -> Result<Box<dyn SplitReader>> {
        match self.table()? {
            Some(table) => table.open(split, resume, hints),
            // It was there when the split was listed: the error says that it is gone.
            None => {
                DeltaSource::open(&self.spec, &self.env).and_then(|table| Source::open(&table, split, resume, hints))
            }
        }
    }
}
