//! Where runs go when they come: ahead, or to their sessions.
//!
//! **Invariant:** a run that is behind the watermark meets every run that came before it, those that lay ahead among them.

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch, StringArray};
use arrow::compute::{filter_record_batch, not};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use tidemill_runtime::LateRow;

use super::super::ahead::Ahead;
use super::super::index::Admitted;
use super::super::runs::lasts;
use super::{Done, Sessions};
use crate::stream::late::CameLate;

impl Sessions {
    /// Takes runs; a column more than they have holds the rows that may be late.
    pub(super) fn take(&mut self, rows: &RecordBatch, late: &mut Vec<LateRow>) -> Done {
        let own: Vec<usize> = (0..self.spec.partial.fields().len()).collect();
        let texts = rows.columns().get(own.len()).cloned();
        let rows = rows.project(&own)?;
        let firsts = rows.column(0).as_primitive::<TimestampMicrosecondType>().values();
        let watermark = self.watermark;
        let behind: BooleanArray = firsts.iter().map(|first| Some(*first < watermark)).collect();
        if behind.true_count() == 0 {
            return self.ahead.push(&self.spec, rows);
        }
        let ahead = filter_record_batch(&rows, &not(&behind)?)?;
        self.ahead.push(&self.spec, ahead)?;
        let rows = filter_record_batch(&rows, &behind)?;
        let texts = texts.map(|texts| arrow::compute::filter(&texts, &behind)).transpose()?;
        let texts = texts.as_ref().map(|texts| texts.as_string::<i32>());
        let touches = lasts(&self.spec, &rows).iter().max().map_or(i64::MIN, |last| last.saturating_add(self.gap));
        // What it touches may go on by rows that lie ahead: all that began before the watermark.
        self.admit_ahead(touches.max(watermark))?;
        self.admit(&rows, texts, watermark, late)
    }

    /// Finds the sessions of runs that lay ahead and begin before a time. No session that they could belong to is final.
    pub(super) fn admit_ahead(&mut self, before: i64) -> Done {
        while let Some((number, rows)) = self.ahead.pop(&self.spec, before)? {
            self.gone.push(Ahead::name(number));
            self.admit(&rows, None, self.settled, &mut Vec::new())?;
        }
        Ok(())
    }

    /// Finds the sessions of runs, or that they are late.
    pub(super) fn admit(
        &mut self,
        rows: &RecordBatch,
        texts: Option<&StringArray>,
        watermark: i64,
        late: &mut Vec<LateRow>,
    ) -> Done {
        let keys = self.key_rows(&self.key_columns(rows)?)?;
        let firsts = rows.column(0).as_primitive::<TimestampMicrosecondType>().values();
        let lasts = lasts(&self.spec, rows);
        let counts = rows.column(rows.num_columns() - 1).as_primitive::<Int64Type>().values();
        let (mut ids, mut keep) = (Vec::with_capacity(rows.num_rows()), Vec::with_capacity(rows.num_rows()));
        for row in 0..rows.num_rows() {
            let key = keys.as_ref().map_or(&[][..], |keys| keys.row(row).data());
            let admitted = self.index.admit(key, (firsts[row], lasts[row]), watermark);
            if let Some(standing) = &mut self.standing {
                self.index.joined.drain(..).for_each(|joined| standing.orphan(joined));
            } else {
                self.index.joined.clear();
            }
            match admitted {
                Admitted::To(id) => {
                    self.unclose(id);
                    self.index.name(id);
                    ids.push(id);
                    keep.push(true);
                }
                Admitted::Late(window) => {
                    self.late += counts[row].unsigned_abs();
                    let told = CameLate { event_time: Some(firsts[row]), window, pairs: 1 };
                    let text = texts.filter(|texts| texts.is_valid(row)).map(|texts| texts.value(row));
                    late.extend(text.and_then(|text| self.home.row(text.to_owned(), told, self.now)));
                    keep.push(false);
                }
            }
        }
        if ids.len() < rows.num_rows() {
            return self.pile(filter_record_batch(rows, &BooleanArray::from(keep))?, ids);
        }
        self.pile(rows.clone(), ids)
    }

    /// A session that rows came to is given out again when it closes, if it goes on beyond what has passed.
    fn unclose(&mut self, id: u32) {
        let (Some(closes_by), Some(standing)) = (self.closes_by, &mut self.standing) else { return };
        if self.index.session(id).last.saturating_add(self.gap) > closes_by {
            standing.orphan(id);
        }
    }
}
