//! [`Slot`]: the leaf of a plan that is run again and again over other rows.
//!
//! **Invariant:** a run sees the rows that were put before it; a slot belongs to one operator on one lane.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::Result;
use datafusion::datasource::{TableProvider, TableType};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::execution_plan::EmissionType;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, PlanProperties};

use crate::session::exec::{Exec, Execute, Inputs, scanned};

/// Rows in the place of a table.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    schema: SchemaRef,
    rows: Arc<Mutex<Vec<RecordBatch>>>,
}

impl Slot {
    pub(super) fn new(schema: SchemaRef) -> Slot {
        Slot { schema, rows: Arc::default() }
    }

    /// Puts other rows in the place of those before.
    pub(super) fn put(&self, rows: Vec<RecordBatch>) {
        *self.rows.lock().unwrap_or_else(PoisonError::into_inner) = rows;
    }
}

#[async_trait]
impl TableProvider for Slot {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = match projection {
            None => Arc::clone(&self.schema),
            Some(projection) => Arc::new(self.schema.project(projection)?),
        };
        Ok(Exec::plan(SlotExec { slot: self.clone(), schema, projection: projection.cloned() }, []))
    }
}

struct SlotExec {
    slot: Slot,
    schema: SchemaRef,
    projection: Option<Vec<usize>>,
}

impl Execute<0> for SlotExec {
    const NAME: &'static str = "SlotExec";

    fn words(&self) -> String {
        String::new()
    }

    fn output(&self, _inputs: &Inputs<0>) -> PlanProperties {
        scanned(&self.schema, 1, EmissionType::Incremental)
    }

    fn execute(of: &Exec<Self, 0>, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let rows = of.own.slot.rows.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let own = Arc::clone(&of.own);
        let batches = rows.into_iter().map(move |rows| match &own.projection {
            None => Ok(rows),
            Some(projection) => Ok(rows.project(projection)?),
        });
        // Not counted: a slot stays itself from run to run, and would count for ever.
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&of.own.schema), futures::stream::iter(batches))))
    }
}
