//! [`GeneratorSource`]: the rows of a model as splits; row `i` belongs to split `i` modulo the number of splits.
//!
//! **Invariant:** a split's id says how many there are, for with another number its rows are others.

use std::sync::Arc;

use tidemill_model::{Clock, Error, Kind, Offset, Result, SplitId};
use tidemill_runtime::{Boundedness, ReadHints, Source, Split, SplitReader, Version};

use super::config::{GeneratorConfig, Model};
use super::reader::{GeneratorReader, Pace, Position};

/// About how long a record is.
const RECORD_BYTES: u64 = 160;

/// A generated dataset.
#[derive(Debug)]
pub(super) struct GeneratorSource {
    config: Arc<GeneratorConfig>,
    clock: Arc<dyn Clock>,
}

impl GeneratorSource {
    /// A source of these rows.
    pub(super) fn new(config: GeneratorConfig, clock: Arc<dyn Clock>) -> GeneratorSource {
        GeneratorSource { config: Arc::new(config), clock }
    }

    fn id(&self, split: u64) -> SplitId {
        SplitId::new(format!("{}-{split}-of-{}", self.config.model.name(), self.config.splits))
    }
}

impl Source for GeneratorSource {
    fn boundedness(&self) -> Boundedness {
        if self.config.rows.is_some() { Boundedness::Bounded } else { Boundedness::Unbounded }
    }

    fn list_splits(&self) -> Result<Vec<Split>> {
        // Rows that come by the clock are a stream even when they end; rows that are all there are like files.
        let finite = self.config.rows.is_some() && self.config.rows_per_second.is_none();
        let min_event_time = match &self.config.model {
            Model::Orders(model) if finite => Some(model.start().0),
            Model::Nexmark(model) if finite => Some(model.start().0),
            _ => None,
        };
        let split = |number| Split {
            id: self.id(number),
            finite,
            min_event_time,
            max_event_time: None,
            bytes: self.config.rows_of(number).map(|rows| rows * RECORD_BYTES),
            content: None,
        };
        Ok((0..self.config.splits).map(split).collect())
    }

    /// Its rows are made from its options alone.
    fn version(&self) -> Result<Option<Version>> {
        Ok(Some(Version { token: "generated".to_owned(), grows: true }))
    }

    fn open(&self, split: &Split, resume: Option<&Offset>, _hints: &ReadHints) -> Result<Box<dyn SplitReader>> {
        let number = (0..self.config.splits).find(|number| self.id(*number) == split.id).ok_or_else(|| {
            Error::new(Kind::Corrupt, "X050", format!("the generator has no split `{}`", split.id)).fact(
                "its options were changed since progress was saved; put them back, or remove the pipeline's state",
            )
        })?;
        let position = match resume {
            None => Position { rows: 0, due: None },
            Some(offset) => Position::parse(offset).ok_or_else(|| {
                Error::new(Kind::Corrupt, "X051", format!("`{offset}` is not an offset of split `{}`", split.id))
                    .fact("the offset of a generator's split is its number of rows, and with a rate also when the next is due")
            })?,
        };
        let pace = self.config.rows_per_second.map(|rate| {
            let next = number + position.rows * self.config.splits;
            Pace::new(
                rate,
                next,
                position.due.unwrap_or_else(|| Pace::due_from(self.clock.now(), rate, position.rows, next)),
            )
        });
        Ok(Box::new(GeneratorReader::new(self.config.clone(), number, position.rows, pace, self.clock.clone())))
    }
}
