//! [`DebeziumDecoder`]: records of changes to weighted rows.
//!
//! The envelope of each record is looked through once; the rows inside are laid one behind the other and read by the
//! decoder of JSON, which knows their shape after the first ones.
//!
//! **Invariant:** a record gives all of its rows or none: a row that goes (-1) stands before the one that comes (1).

use std::collections::BTreeSet;

use arrow::array::{BooleanArray, Int64Array};
use arrow::compute::filter_record_batch;
use bytes::Bytes;
use tidemill_model::{Error, Result};
use tidemill_runtime::{Decoded, Decoder, Positions, Records};

use crate::format::{Block, Fault, found};
use crate::json::{Entry, Scanner, unreadable};

/// Reads changes.
pub(super) struct DebeziumDecoder {
    rows: Box<dyn Decoder>,
    /// Whether a key says which row a change replaces, so that `before` matters for deletions alone.
    keyed: bool,
    /// Room to work in.
    entries: Vec<Entry>,
    open: Vec<u8>,
}

/// The rows inside the records of a block.
#[derive(Default)]
struct Sides {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    of: Vec<Side>,
}

/// A row inside a record.
#[derive(Clone, Copy)]
struct Side {
    record: u32,
    /// Where the record lies in the block.
    place: (usize, usize),
    weight: i64,
}

/// The rows of a change in its record.
struct Change<'a> {
    before: Option<&'a [u8]>,
    after: Option<&'a [u8]>,
}

impl DebeziumDecoder {
    /// A decoder over one of the rows themselves.
    pub(super) fn new(rows: Box<dyn Decoder>, keyed: bool) -> DebeziumDecoder {
        DebeziumDecoder { rows, keyed, entries: Vec::new(), open: Vec::new() }
    }

    /// What a record says. What follows a deletion for those who keep the last record of a key says nothing: `None`.
    fn change<'a>(&mut self, record: &'a [u8]) -> Result<Option<Change<'a>>, Fault> {
        if matches!(record.trim_ascii(), b"" | b"null") {
            return Ok(None);
        }
        self.fields(record, 0, record.len())?;
        if let (None, Some((start, end))) = (self.field(record, b"\"op\""), self.field(record, b"\"payload\"")) {
            if record.get(start..end) == Some(b"null") {
                return Ok(None);
            }
            self.fields(record, start, end)?;
        }
        let op = self.field(record, b"\"op\"").and_then(|(start, end)| record.get(start..end));
        let (before, after) = match op {
            Some(b"\"c\"" | b"\"r\"") => (false, true),
            Some(b"\"u\"") => (!self.keyed, true),
            Some(b"\"d\"") => (true, false),
            Some(b"\"t\"") => {
                let detail = "op is \"t\", which takes back all rows at once and is not followed; delete them one by one, or begin a new topic";
                return Err(fault("a table was truncated", detail.to_owned()));
            }
            Some(other) => {
                let found = String::from_utf8_lossy(other).chars().take(40).collect::<String>();
                return Err(fault("unknown change", format!("op is {found}; expected \"c\", \"r\", \"u\" or \"d\"")));
            }
            None => {
                let detail = "expected the fields `op`, `before` and `after`, at the top or in `payload`";
                return Err(fault("no change", detail.to_owned()));
            }
        };
        let op = op.map(String::from_utf8_lossy).unwrap_or_default();
        let row = |wanted: bool, name: &str, key: &[u8]| wanted.then(|| self.row(record, &op, name, key)).transpose();
        Ok(Some(Change { before: row(before, "before", b"\"before\"")?, after: row(after, "after", b"\"after\"")? }))
    }

    /// Lists the fields of the object that lies there.
    fn fields(&mut self, record: &[u8], start: usize, end: usize) -> Result<(), Fault> {
        self.entries.clear();
        let within = record.get(..end).unwrap_or_default();
        let scanned = Scanner::new(within, start).record(&mut self.open, &mut self.entries);
        scanned.map_err(|fault| unreadable(within, &fault))
    }

    /// Where the value of a field lies; of a repeated one the last counts.
    fn field(&self, record: &[u8], key: &[u8]) -> Option<(usize, usize)> {
        let named = |entry: &&Entry| record.get(entry.key.start..entry.key.start + key.len()) == Some(key);
        self.entries.iter().rev().find(named).map(|entry| (entry.value.start, entry.value.end))
    }

    /// The row that a change must bring.
    fn row<'a>(&self, record: &'a [u8], op: &str, name: &str, key: &[u8]) -> Result<&'a [u8], Fault> {
        let place = self.field(record, key);
        match place.and_then(|(start, end)| record.get(start..end)) {
            Some(row) if row.first() == Some(&b'{') => Ok(row),
            None | Some(b"null") => {
                let why = match (name, self.keyed) {
                    ("before", false) => {
                        "without a PRIMARY KEY on the table a change brings the row that it takes back (in Postgres: REPLICA IDENTITY FULL)"
                    }
                    ("before", true) => "a deletion says there which key goes",
                    _ => "the row as it is now is expected there",
                };
                Err(fault(&format!("no `{name}`"), format!("op is {op} and `{name}` is null; {why}")))
            }
            Some(_) => {
                let start = place.map_or(0, |(start, _)| start);
                let detail = format!("expected an object at byte {start}{}", found(record, start));
                Err(fault(&format!("`{name}` is no row"), detail))
            }
        }
    }
}

fn fault(reason: &str, detail: String) -> Fault {
    Fault { reason: reason.to_owned(), detail }
}

impl Sides {
    fn push(&mut self, row: Option<&[u8]>, side: Side) -> Result<()> {
        let Some(row) = row else { return Ok(()) };
        self.bytes.extend_from_slice(row);
        self.ends.push(u32::try_from(self.bytes.len()).map_err(|_| Error::internal("a block passes 4 GiB"))?);
        self.of.push(side);
        Ok(())
    }
}

impl Decoder for DebeziumDecoder {
    fn decode(&mut self, records: &Records) -> Result<Decoded> {
        let mut block = Block::of(records)?;
        let mut sides = Sides::default();
        sides.bytes.reserve(block.bytes().len());
        while let Some((start, end)) = block.next() {
            let stop = end.unwrap_or_else(|| block.line_end(start));
            let record = block.bytes().get(start..stop).unwrap_or_default();
            if end.is_none() && record.trim_ascii().is_empty() {
                block.skip(stop);
                continue;
            }
            let side = |weight| Side { record: block.ordinal, place: (start, stop), weight };
            let (goes, comes) = (side(-1), side(1));
            match self.change(record) {
                Ok(Some(change)) => {
                    sides.push(change.before, goes)?;
                    sides.push(change.after, comes)?;
                    block.good(stop);
                }
                Ok(None) => block.good(stop),
                Err(bad) => block.bad(start, stop, bad.reason, bad.detail),
            }
        }
        let Sides { bytes, ends, of } = sides;
        let inside = Records { data: Bytes::from(bytes), ends: Some(ends), positions: Positions::Numbered(0) };
        let decoded = self.rows.decode(&inside)?;
        let mut refused = BTreeSet::new();
        for bad in decoded.bad {
            let Some(side) = of.get(bad.ordinal as usize) else { continue };
            if refused.insert(side.record) {
                let name = if side.weight < 0 { "before" } else { "after" };
                let detail = format!("in `{name}`: {}", bad.detail);
                block.refuse(side.record, side.place, Fault { reason: bad.reason, detail });
            }
        }
        let rows: Vec<Side> = match &decoded.ordinals {
            None => of,
            Some(ordinals) => ordinals.iter().filter_map(|row| of.get(*row as usize).copied()).collect(),
        };
        let kept = |side: &&Side| !refused.contains(&side.record);
        let batch = if refused.is_empty() {
            decoded.batch
        } else {
            let keep: BooleanArray = rows.iter().map(|side| Some(kept(&side))).collect();
            filter_record_batch(&decoded.batch, &keep)
                .map_err(|e| Error::internal("decoded rows do not fit their records").because(e))?
        };
        let weights: Vec<i64> = rows.iter().filter(kept).map(|side| side.weight).collect();
        let weights = weights.iter().any(|weight| *weight != 1).then(|| Int64Array::from(weights.clone()));
        let ordinals = rows.iter().filter(kept).map(|side| side.record).collect();
        Ok(block.changes(batch, weights, ordinals))
    }
}
