//! [`FirstHalfFactory`]: keys and order of rows as columns, on the lane where rows arrive.
//!
//! Of a batch only the first rows of each key go on: a key that has most of the rows does not flood the lane that owns it.
//!
//! **Invariant:** a row that is dropped has enough rows of its key before it in the same batch.

use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::filter_record_batch;
use datafusion::error::DataFusionError;
use tidemill_model::{Place, Result};
use tidemill_runtime::{Batch, Operator, OperatorFactory, Output};

use super::TopSpec;
use super::coder::Coder;
use crate::session::values;
use crate::stream::transform::failed;

/// Makes the operators.
#[derive(Debug)]
pub(in crate::stream) struct FirstHalfFactory {
    pub(in crate::stream) spec: Arc<TopSpec>,
    /// Whether rows may be taken back: then any row may become one of the first.
    pub(in crate::stream) changing: bool,
}

impl OperatorFactory for FirstHalfFactory {
    fn create(&self, _lane: usize, lanes: usize) -> Result<Box<dyn Operator>> {
        let coder = Coder::new(&self.spec).map_err(|error| failed(&error.into(), &self.spec.place))?;
        let coder = (lanes > 1 && !self.changing).then_some(coder);
        Ok(Box::new(FirstHalf { spec: Arc::clone(&self.spec), coder }))
    }

    fn describe(&self) -> String {
        format!("order rows for the {}", self.spec.words)
    }

    fn definition(&self) -> String {
        format!("top {}", self.spec.fingerprint())
    }
}

struct FirstHalf {
    spec: Arc<TopSpec>,
    /// `None` where rows stay on their lane, so that nothing is gained by dropping them here, or may be taken back.
    coder: Option<Coder>,
}

impl FirstHalf {
    fn ordered(&self, rows: &RecordBatch) -> Result<RecordBatch, DataFusionError> {
        let columns = self.spec.exprs.iter().map(|expr| values(expr, rows)).collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.spec.schema), columns, &options)?)
    }

    /// The rows that may be among the first.
    fn first(&self, rows: RecordBatch, coder: &Coder) -> Result<RecordBatch, DataFusionError> {
        let (keys, rests) = coder.encode(&rows)?;
        let mut sorted: Vec<usize> = (0..rows.num_rows()).collect();
        sorted.sort_unstable_by(|one, other| {
            keys.row(*one).cmp(keys.row(*other)).then_with(|| rests.row(*one).cmp(rests.row(*other)))
        });
        let mut keep = vec![false; rows.num_rows()];
        for of_key in sorted.chunk_by(|one, other| keys.row(*one) == keys.row(*other)) {
            of_key.iter().take(self.spec.most).for_each(|row| keep[*row] = true);
        }
        Ok(filter_record_batch(&rows, &BooleanArray::from(keep))?)
    }
}

impl Operator for FirstHalf {
    fn on_batch(&mut self, _input: usize, batch: Batch, out: &mut Output) -> Result<()> {
        let lost = |error: DataFusionError, place: &Place| failed(&error, place);
        let mut rows = self.ordered(&batch.rows).map_err(|error| lost(error, &self.spec.place))?;
        if let Some(coder) = &self.coder {
            rows = self.first(rows, coder).map_err(|error| lost(error, &self.spec.place))?;
            out.push(Batch::inserts(rows));
        } else {
            out.push(batch.with_rows(rows));
        }
        Ok(())
    }
}
