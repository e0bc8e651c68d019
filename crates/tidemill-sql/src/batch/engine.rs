//! [`Engine`]: DataFusion with our SQL, bounded in memory, at one instant.
//!
//! **Invariant:** `now()` is the instant that the run was given, in all of it; what does not fit into memory spills to
//! the folder that the engine was given and nowhere else, and what fits leaves no trace on the disk.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::temporal_conversions::timestamp_us_to_datetime;
use datafusion::common::Result as DfResult;
use datafusion::execution::TaskContext;
use datafusion::execution::disk_manager::DiskManagerBuilder;
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, PhysicalPlanner};
use tidemill_model::{Result, Timestamp};

use super::guard::GuardPlanner;
use super::reading::external;
use super::spill::Spill;
use crate::session::{AsofPlanner, DedupPlanner, FirstPlanner, Functions, checked_plan, firsts, session_state_with};

/// How many of the largest users of memory an error about it names.
const NAMED_CONSUMERS: std::num::NonZeroUsize = std::num::NonZeroUsize::MIN.saturating_add(2);

/// What bounded work may use of the machine.
#[derive(Debug, Clone)]
pub struct Resources {
    /// How many partitions a query has: one for each core.
    pub partitions: usize,
    /// How many bytes operators may hold before they spill.
    pub memory: usize,
    /// The folder for what they spill; created by the first of them that does, of no worth after a run.
    pub spill: PathBuf,
}

/// DataFusion for one run or query.
pub(super) struct Engine {
    state: SessionState,
}

impl Engine {
    pub(super) fn new(resources: &Resources, now: Timestamp, functions: &Functions) -> Result<Engine> {
        let disk = DiskManagerBuilder::default().with_temp_file_factory(Arc::new(Spill::new(resources.spill.clone())));
        let pool = TrackConsumersPool::new(FairSpillPool::new(resources.memory), NAMED_CONSUMERS);
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(pool))
            .with_disk_manager_builder(disk)
            .build_arc()
            .map_err(|e| tidemill_model::Error::internal("the query engine does not start").because(e))?;
        let state = session_state_with(functions);
        let config = state.config().clone().with_target_partitions(resources.partitions.max(1));
        let mut props = ExecutionProps::new();
        if let Some(start) = timestamp_us_to_datetime(now.0) {
            props = props.with_query_execution_start_time(start.and_utc());
        }
        let state = SessionStateBuilder::new_from_existing(state)
            .with_config(config)
            .with_runtime_env(runtime)
            .with_execution_props(props)
            .build();
        Ok(Engine { state })
    }

    pub(super) fn state(&self) -> &SessionState {
        &self.state
    }

    pub(super) fn task(&self) -> Arc<TaskContext> {
        Arc::new(TaskContext::from(&self.state))
    }

    /// The physical plan of a logical one that is neither analysed nor optimised.
    pub(super) async fn physical(&self, plan: &LogicalPlan) -> DfResult<Arc<dyn ExecutionPlan>> {
        let optimised = self.state.optimize(plan)?;
        if matches!(optimised, LogicalPlan::Dml(_) | LogicalPlan::Ddl(_) | LogicalPlan::Copy(_)) {
            return Err(external(tidemill_model::Error::internal("a bounded plan only reads")));
        }
        let planner = DefaultPhysicalPlanner::with_extension_planners(vec![
            Arc::new(GuardPlanner),
            Arc::new(AsofPlanner),
            Arc::new(DedupPlanner),
            Arc::new(FirstPlanner),
        ]);
        checked_plan(planner.create_physical_plan(&firsts(optimised)?, &self.state).await?)
    }
}
