//! [`Intake`]: what a split reader gives becomes accepted rows and dead letters, for every executor alike.
//!
//! **Invariant:** each record ends as one accepted row, one dead letter, or one count (dropped, before the start).

use std::ops::Range;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::TimestampMicrosecondType;
use bytes::Bytes;
use tidemill_checkpoint::Counters;
use tidemill_model::{Error, Result, SplitId};

use crate::dead_letter::row_as_json;
use crate::{Batch, DeadLetter, Decoder, Gate, Payload, Positions, Records};

/// Decodes, and lets rows through a gate.
pub struct Intake {
    dataset: String,
    event_time: Option<String>,
    decoder: Option<Box<dyn Decoder>>,
    gate: Box<dyn Gate>,
}

/// What became of one payload.
#[derive(Debug)]
pub struct Taken {
    /// The accepted rows, with the gate's columns.
    pub rows: Batch,
    /// The records that were refused.
    pub dead: Vec<DeadLetter>,
    /// How many went which way.
    pub counters: Counters,
    /// See [`crate::Accepted::newest`].
    pub newest: Option<i64>,
}

impl Intake {
    /// For rows of `dataset`; `decoder` is needed when its source gives records.
    #[must_use]
    pub fn new(
        dataset: &str,
        event_time: Option<&str>,
        decoder: Option<Box<dyn Decoder>>,
        gate: Box<dyn Gate>,
    ) -> Intake {
        Intake { dataset: dataset.to_owned(), event_time: event_time.map(str::to_owned), decoder, gate }
    }

    /// The gate, to set its horizon.
    pub fn gate(&mut self) -> &mut dyn Gate {
        self.gate.as_mut()
    }

    /// Decodes and judges rows of a split. `rows_before` counts the rows of the split before these, which is the
    /// position of a row when the source gives columns.
    ///
    /// # Errors
    /// Data, when a row breaks a CHECK whose policy is FAIL.
    pub fn take(&mut self, split: &SplitId, rows_before: u64, payload: Payload) -> Result<Taken> {
        let mut dead = Vec::new();
        let mut counters = Counters::default();
        let (rows, weights, places) = match payload {
            Payload::Columns(rows) => (rows, None, Places::Rows { first: rows_before }),
            Payload::Records(records) => {
                let decoder = self
                    .decoder
                    .as_mut()
                    .ok_or_else(|| Error::internal(format!("{} gives records and has no format", self.dataset)))?;
                let decoded = decoder.decode(&records)?;
                dead.extend(decoded.bad.into_iter().map(|bad| DeadLetter {
                    dataset: self.dataset.clone(),
                    reason: bad.reason,
                    detail: bad.detail,
                    split: split.to_string(),
                    position: bad.position,
                    event_time: None,
                    raw: own(&bad.raw),
                }));
                (decoded.batch, decoded.weights, Places::Records { records, ordinals: decoded.ordinals })
            }
        };
        counters.rows_read = (rows.num_rows() + dead.len()) as u64;
        let accepted = self.gate.accept(Batch { rows: rows.clone(), weights })?;
        for (row, reason, detail) in accepted.dead {
            let row = row as usize;
            let (position, raw) = places.find(row, &rows);
            let event_time = self.event_time.as_deref().and_then(|column| time_of(&rows, column, row));
            let (dataset, split) = (self.dataset.clone(), split.to_string());
            dead.push(DeadLetter { dataset, reason, detail, split, position, event_time, raw });
        }
        counters.rows_accepted = accepted.batch.len() as u64;
        counters.rows_dropped = accepted.dropped;
        counters.rows_warned = accepted.warned;
        counters.rows_before_start = accepted.before_start;
        for letter in &dead {
            counters.count_dead(&letter.dataset, &letter.reason);
        }
        Ok(Taken { rows: accepted.batch, dead, counters, newest: accepted.newest })
    }
}

/// Bytes of their own: a slice would keep the whole block in memory for one record.
fn own(raw: &Bytes) -> Bytes {
    Bytes::copy_from_slice(raw)
}

fn time_of(rows: &RecordBatch, column: &str, row: usize) -> Option<i64> {
    let times = rows.column_by_name(column)?.as_primitive_opt::<TimestampMicrosecondType>()?;
    times.is_valid(row).then(|| times.value(row))
}

/// Where the rows of a batch came from.
enum Places {
    Rows { first: u64 },
    Records { records: Records, ordinals: Option<Vec<u32>> },
}

impl Places {
    /// Position and bytes of a row. Only called for refused rows, so it may scan.
    fn find(&self, row: usize, rows: &RecordBatch) -> (u64, Bytes) {
        match self {
            Places::Rows { first } => (first + row as u64, Bytes::from(row_as_json(rows, row))),
            Places::Records { records, ordinals } => {
                let ordinal = ordinals.as_ref().and_then(|o| o.get(row).copied()).unwrap_or(row as u32) as usize;
                let range = record_range(records, ordinal);
                let position = match records.positions {
                    Positions::Numbered(first) => first + ordinal as u64,
                    Positions::Bytes(first) => first + range.start as u64,
                };
                (position, own(&records.data.slice(range)))
            }
        }
    }
}

/// The bytes of a record, without its line end.
fn record_range(records: &Records, ordinal: usize) -> Range<usize> {
    let length = records.data.len();
    if let Some(ends) = &records.ends {
        let end = |of: usize| ends.get(of).map_or(length, |&end| end as usize);
        return if ordinal == 0 { 0..end(0) } else { end(ordinal - 1)..end(ordinal) };
    }
    let mut start = 0;
    let mut seen = 0;
    for end in memchr::memchr_iter(b'\n', &records.data).chain(std::iter::once(length)) {
        if !records.data[start..end].iter().all(u8::is_ascii_whitespace) {
            if seen == ordinal {
                return start..end;
            }
            seen += 1;
        }
        start = end + 1;
    }
    length..length
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BooleanArray, Int64Array, TimestampMicrosecondArray};
    use tidemill_model::Timestamp;

    use super::*;
    use crate::{Accepted, BadRecord, Decoded};

    /// Refuses 7.
    struct NoSeven;

    impl Gate for NoSeven {
        fn accept(&mut self, batch: Batch) -> Result<Accepted> {
            let values: Vec<i64> = batch.rows.column(0).as_primitive::<arrow::datatypes::Int64Type>().values().to_vec();
            let keep: BooleanArray = values.iter().map(|v| Some(*v != 7)).collect();
            let sevens = values.iter().enumerate().filter(|(_, v)| **v == 7);
            let dead = sevens.map(|(row, _)| (row as u32, "is seven".to_owned(), "n = 7".to_owned())).collect();
            let batch = batch.filter(&keep).expect("filters");
            Ok(Accepted { batch, dead, newest: None, dropped: 0, warned: 0, before_start: 0 })
        }

        fn set_horizon(&mut self, _: Option<(Timestamp, Timestamp)>) {}
    }

    /// One number a record; what is no number is bad.
    struct Numbers;

    impl Decoder for Numbers {
        fn decode(&mut self, records: &Records) -> Result<Decoded> {
            let text = String::from_utf8_lossy(&records.data).into_owned();
            let lines: Vec<&str> = match &records.ends {
                None => text.lines().filter(|line| !line.trim().is_empty()).collect(),
                Some(ends) => {
                    let starts = std::iter::once(0).chain(ends.iter().map(|end| *end as usize));
                    starts.zip(ends).map(|(start, end)| text.get(start..*end as usize).expect("ASCII")).collect()
                }
            };
            let (mut values, mut ordinals, mut bad) = (Vec::new(), Vec::new(), Vec::new());
            for (ordinal, line) in (0_u32..).zip(lines) {
                match line.parse::<i64>() {
                    Ok(value) => {
                        values.push(value);
                        ordinals.push(ordinal);
                    }
                    Err(e) => bad.push(BadRecord {
                        ordinal,
                        position: 99,
                        raw: Bytes::copy_from_slice(line.as_bytes()),
                        reason: "no number".to_owned(),
                        detail: e.to_string(),
                    }),
                }
            }
            Ok(Decoded { batch: batch(values), weights: None, ordinals: Some(ordinals), bad })
        }
    }

    fn batch(values: Vec<i64>) -> RecordBatch {
        let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(values.clone()));
        let values: ArrayRef = Arc::new(Int64Array::from(values));
        RecordBatch::try_from_iter([("n", values), ("at", times)]).expect("a batch")
    }

    /// Reason, position, event time and bytes of a dead letter.
    type Dead = (String, u64, Option<i64>, String);

    fn take(payload: Payload) -> (Vec<i64>, Vec<Dead>, Counters) {
        let mut intake = Intake::new("numbers", Some("at"), Some(Box::new(Numbers)), Box::new(NoSeven));
        let taken = intake.take(&SplitId::new("s"), 1000, payload).expect("takes");
        let rows = taken.rows.rows.column(0).as_primitive::<arrow::datatypes::Int64Type>().values().to_vec();
        let letter = |l: DeadLetter| (l.reason, l.position, l.event_time, String::from_utf8_lossy(&l.raw).into_owned());
        (rows, taken.dead.into_iter().map(letter).collect(), taken.counters)
    }

    #[test]
    fn every_record_has_one_fate_and_its_own_place() {
        let no_number = || ("no number".to_owned(), 99, None, "x".to_owned());
        let seven = |position, raw: &str| ("is seven".to_owned(), position, Some(7), raw.to_owned());
        let records = |text: &'static str, ends: Option<Vec<u32>>, positions| {
            Payload::Records(Records { data: Bytes::from_static(text.as_bytes()), ends, positions })
        };
        let cases = [
            (records("1\n\nx\n7\n8", None, Positions::Bytes(100)), vec![1, 8], vec![no_number(), seven(105, "7")]),
            (
                records("1x78", Some(vec![1, 2, 3, 4]), Positions::Numbered(40)),
                vec![1, 8],
                vec![no_number(), seven(42, "7")],
            ),
            (
                Payload::Columns(batch(vec![1, 7, 8])),
                vec![1, 8],
                vec![seven(1001, r#"{"n":"7","at":"1970-01-01T00:00:00.000007"}"#)],
            ),
        ];
        for (payload, rows, dead) in cases {
            let taken = take(payload);
            assert_eq!((&taken.0, &taken.1), (&rows, &dead));
            let counters = taken.2;
            assert_eq!(counters.rows_accepted, 2);
            assert_eq!(counters.rows_dead(), dead.len() as u64);
            assert_eq!(counters.rows_read, (rows.len() + dead.len()) as u64);
        }
    }
}
