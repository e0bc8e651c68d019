//! [`GeneratorReader`]: makes the rows of one split as they are pulled, at a rate if there is one.
//!
//! **Invariant:** an offset is a number of rows, and with a rate also when the next row is due; the rows after it follow from
//! the model alone.

use std::sync::Arc;

use tidemill_model::{Clock, Error, Kind, Offset, Result, Timestamp};
use tidemill_runtime::{Payload, Positions, Pull, Records, SourceBatch, SplitReader};

use super::config::{GeneratorConfig, Model, share_of};
use super::dimensions::{Customer, Product};
use super::encode::RecordWriter;
use super::nexmark::Table;

/// The most rows in a batch, about a MiB.
const BATCH: u64 = 8192;

/// An offset, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    /// The rows of the split before it.
    pub(super) rows: u64,
    /// When the next row is due, if rows come at a rate.
    pub(super) due: Option<Timestamp>,
}

impl Position {
    /// Reads `rows` or `rows@microseconds`.
    pub(super) fn parse(offset: &Offset) -> Option<Position> {
        match offset.0.split_once('@') {
            None => Some(Position { rows: offset.as_number()?, due: None }),
            Some((rows, due)) => Some(Position { rows: rows.parse().ok()?, due: Some(Timestamp(due.parse().ok()?)) }),
        }
    }

    fn offset(self) -> Offset {
        match self.due {
            None => Offset::number(self.rows),
            Some(due) => Offset(format!("{}@{}", self.rows, due.0)),
        }
    }
}

/// When rows come into being: row `i` at `origin + (i + 1) / rate`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    rate: f64,
    /// Microseconds since 1970, with their fraction.
    origin: f64,
}

impl Pace {
    /// The pace at which row `next` is due at `due`.
    pub(super) fn new(rate: f64, next: u64, due: Timestamp) -> Pace {
        Pace { rate, origin: due.0 as f64 - (next + 1) as f64 * 1e6 / rate }
    }

    /// When row `next` is due for a split opened now: at the start all rows are counted from now; a split that was read
    /// without a rate before goes on from now.
    pub(super) fn due_from(now: Timestamp, rate: f64, read: u64, next: u64) -> Timestamp {
        let wait = if read == 0 { (next + 1) as f64 * 1e6 / rate } else { 0.0 };
        Timestamp(now.0.saturating_add(wait.ceil() as i64))
    }

    /// When row `i` is due.
    fn due(&self, i: u64) -> Timestamp {
        Timestamp((self.origin + (i + 1) as f64 * 1e6 / self.rate).round() as i64)
    }

    /// How many rows, of all splits, are due.
    fn available(&self, now: Timestamp) -> u64 {
        // Half a microsecond of grace, so that a row is there when the clock stands at what `due` said.
        ((now.0 as f64 - self.origin + 0.5) * self.rate / 1e6).max(0.0) as u64
    }
}

/// One split being read.
#[derive(Debug)]
pub(super) struct GeneratorReader {
    config: Arc<GeneratorConfig>,
    split: u64,
    /// The rows of this split that were given out.
    rows: u64,
    pace: Option<Pace>,
    clock: Arc<dyn Clock>,
    bound: Option<u64>,
}

impl GeneratorReader {
    /// Reads `split` after `rows` of its rows.
    pub(super) fn new(
        config: Arc<GeneratorConfig>,
        split: u64,
        rows: u64,
        pace: Option<Pace>,
        clock: Arc<dyn Clock>,
    ) -> GeneratorReader {
        GeneratorReader { config, split, rows, pace, clock, bound: None }
    }

    /// How many rows of this split exist now.
    fn present(&self, now: Timestamp) -> u64 {
        let exist = self.pace.map_or(u64::MAX, |pace| share_of(pace.available(now), self.split, self.config.splits));
        exist.min(self.config.rows_of(self.split).unwrap_or(u64::MAX))
    }

    /// The number, in all of the model, of a row of this split.
    fn global(&self, row: u64) -> u64 {
        self.split + row * self.config.splits
    }

    fn write(&self, count: u64) -> RecordWriter {
        let mut writer = RecordWriter::with_room(count);
        for row in (self.rows..self.rows + count).map(|row| self.global(row)) {
            match &self.config.model {
                Model::Orders(model) => writer.order(&model.record(row)),
                Model::Customers(seed) => writer.customer(&Customer::of(*seed, row)),
                Model::Products(seed) => writer.product(&Product::of(*seed, row)),
                Model::Nexmark(model) => match model.table {
                    Table::Person => writer.person(&model.person(row)),
                    Table::Auction => writer.auction(&model.auction(row)),
                    Table::Bid => writer.bid(&model.bid(row)),
                },
            }
        }
        writer
    }
}

impl SplitReader for GeneratorReader {
    fn next(&mut self) -> Result<Pull> {
        if self.config.rows_of(self.split).is_some_and(|all| self.rows >= all) {
            return Ok(Pull::Finished);
        }
        let now = self.clock.now();
        let ready = self.present(now).min(self.bound.unwrap_or(u64::MAX)).saturating_sub(self.rows).min(BATCH);
        if ready == 0 {
            return Ok(Pull::AtEnd);
        }
        let writer = self.write(ready);
        let arrived = self.pace.map_or(now, |pace| pace.due(self.global(self.rows)));
        let first = self.rows;
        self.rows += ready;
        let due = self.pace.map(|pace| pace.due(self.global(self.rows)));
        Ok(Pull::Rows(SourceBatch {
            payload: Payload::Records(Records {
                data: writer.data.into(),
                ends: Some(writer.ends),
                positions: Positions::Numbered(first),
            }),
            resume: Position { rows: self.rows, due }.offset(),
            arrived: Some(arrived),
            first: None,
        }))
    }

    fn bound_to_present(&mut self) -> Result<()> {
        if self.config.rows.is_none() && self.pace.is_none() {
            return Err(Error::new(Kind::Config, "C084", "an endless generator without a rate has no present end")
                .fact("give it `rows`, or `rows_per_second`"));
        }
        self.bound = Some(self.present(self.clock.now()));
        Ok(())
    }

    fn stop_at(&mut self, offset: &Offset) -> Result<()> {
        let position = Position::parse(offset).ok_or_else(|| {
            Error::new(Kind::Corrupt, "X085", format!("`{offset}` is no offset of a generator"))
                .fact("the table read from another connector when the offset was recorded")
        })?;
        // Rows that came once need not be waited for again.
        self.pace = None;
        self.bound = Some(position.rows);
        Ok(())
    }
}
