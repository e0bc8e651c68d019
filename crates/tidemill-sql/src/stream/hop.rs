//! [`HopFactory`]: gives each row once for each hopping window that it is in, where no GROUP BY takes them together.
//!
//! **Invariant:** nothing is late here and nothing is kept; rows come out in the order of rows, then of windows.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::{take, take_record_batch};
use arrow::datatypes::{Int64Type, SchemaRef, TimestampMicrosecondType};
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;
use tidemill_model::{Place, Result};
use tidemill_runtime::{Batch, Operator, OperatorFactory, Output};

use super::transform::failed;
use crate::session::{WindowSize, values};

/// Makes the operators.
#[derive(Debug)]
pub(super) struct HopFactory {
    /// The time of a row, over the input.
    pub(super) time: Arc<dyn PhysicalExpr>,
    pub(super) size: WindowSize,
    /// The input's columns, then the bounds of the window.
    pub(super) schema: SchemaRef,
    pub(super) text: String,
    pub(super) place: Place,
}

impl OperatorFactory for HopFactory {
    fn create(&self, _lane: usize, _lanes: usize) -> Result<Box<dyn Operator>> {
        let (time, schema) = (Arc::clone(&self.time), Arc::clone(&self.schema));
        Ok(Box::new(Hop { time, size: self.size, schema, place: self.place.clone() }))
    }

    fn describe(&self) -> String {
        self.text.clone()
    }
}

struct Hop {
    time: Arc<dyn PhysicalExpr>,
    size: WindowSize,
    schema: SchemaRef,
    place: Place,
}

impl Hop {
    fn multiply(&self, batch: &Batch) -> std::result::Result<Batch, DataFusionError> {
        let times = values(&self.time, &batch.rows)?;
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let (mut rows, mut starts) = (Vec::new(), Vec::new());
        for (row, at) in (0_u32..).zip(times.iter()) {
            for start in at.into_iter().flat_map(|at| self.size.starts_at(at)) {
                rows.push(row);
                starts.push(start);
            }
        }
        let rows = UInt32Array::from(rows);
        let mut columns = take_record_batch(&batch.rows, &rows)?.columns().to_vec();
        let bound = |values: Vec<i64>| -> ArrayRef {
            Arc::new(TimestampMicrosecondArray::from(values).with_timezone_opt(times.timezone().map(Arc::<str>::from)))
        };
        let ends = starts.iter().map(|start| self.size.end_of(*start)).collect();
        columns.push(bound(starts));
        columns.push(bound(ends));
        let weights = match &batch.weights {
            None => None,
            Some(weights) => Some(take(weights, &rows, None)?.as_primitive::<Int64Type>().clone()),
        };
        Ok(Batch { rows: RecordBatch::try_new(Arc::clone(&self.schema), columns)?, weights })
    }
}

impl Operator for Hop {
    fn on_batch(&mut self, _input: usize, batch: Batch, out: &mut Output) -> Result<()> {
        out.push(self.multiply(&batch).map_err(|error| failed(&error, &self.place))?);
        Ok(())
    }
}
