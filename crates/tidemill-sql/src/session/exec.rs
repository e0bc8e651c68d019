//! [`Exec`]: a physical operator of ours among DataFusion's. What one has of its own it says by [`Execute`].
//!
//! **Invariant:** over other inputs an operator is another one that nobody has executed; a scan has no inputs and stays
//! itself. What is said of the number of rows is never exact, so that no answer is taken from it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, Statistics, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{EquivalenceProperties, OrderingRequirements, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, ExecutionPlanProperties, InputDistributionRequirements,
    Partitioning, PlanProperties,
};
use futures::{Stream, TryStreamExt};

/// The plans below an operator.
pub(crate) type Inputs<const N: usize> = [Arc<dyn ExecutionPlan>; N];

/// What an operator over `N` inputs says of itself. DataFusion sees none of its expressions.
pub(crate) trait Execute<const N: usize>: Sized + Send + Sync + 'static {
    /// Its name in a plan.
    const NAME: &'static str;
    /// Whether rows of a partition come out in the order in which they came.
    const KEEPS_ORDER: bool = false;

    /// What a plan shows behind the name; may be empty.
    fn words(&self) -> String;

    /// Columns and partitions of what comes out.
    fn output(&self, inputs: &Inputs<N>) -> PlanProperties;

    /// Which rows it needs in one partition: any, unless it says so.
    fn distribution(&self, _inputs: &Inputs<N>) -> InputDistributionRequirements {
        InputDistributionRequirements::new(vec![Distribution::UnspecifiedDistribution; N])
    }

    /// The order in which it needs the rows of each input: any, unless it says so.
    fn ordering(&self, _inputs: &Inputs<N>) -> Vec<Option<OrderingRequirements>> {
        vec![None; N]
    }

    /// Which statistics of its inputs it wants for those of a partition, or of all: none, unless it says so.
    fn asks(&self, _partition: Option<usize>) -> ChildStats {
        ChildStats::Skip
    }

    /// About how many rows come out of a partition, or of all: as many as it has heard of the first input, unless it
    /// knows better.
    fn about(&self, inputs: &[Arc<Statistics>], _partition: Option<usize>) -> Option<Arc<Statistics>> {
        inputs.first().cloned()
    }

    /// The same over other inputs. One that remembers executions begins anew.
    fn anew(own: &Arc<Self>) -> Arc<Self> {
        Arc::clone(own)
    }

    /// Begins to execute a partition.
    ///
    /// # Errors
    /// What keeps it from beginning. Others come out as rows do.
    fn execute(of: &Exec<Self, N>, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream>;
}

/// See the module.
pub(crate) struct Exec<T, const N: usize> {
    pub(crate) own: Arc<T>,
    pub(crate) inputs: Inputs<N>,
    pub(crate) output: Arc<PlanProperties>,
    pub(crate) metrics: ExecutionPlanMetricsSet,
}

impl<T: Execute<N>, const N: usize> Exec<T, N> {
    /// An operator's place in a plan.
    pub(crate) fn plan(own: T, inputs: Inputs<N>) -> Arc<dyn ExecutionPlan> {
        Exec::over(Arc::new(own), inputs)
    }

    fn over(own: Arc<T>, inputs: Inputs<N>) -> Arc<dyn ExecutionPlan> {
        let output = Arc::new(own.output(&inputs));
        Arc::new(Exec { own, inputs, output, metrics: ExecutionPlanMetricsSet::new() })
    }

    /// These rows as those of a partition, counted.
    pub(crate) fn rows<S>(&self, partition: usize, rows: S) -> SendableRecordBatchStream
    where
        S: Stream<Item = Result<RecordBatch>> + Send + 'static,
    {
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let rows = rows.inspect_ok(move |rows| metrics.record_output(rows.num_rows()));
        Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows))
    }
}

impl<T: Execute<N>, const N: usize> ExecutionPlan for Exec<T, N> {
    fn name(&self) -> &'static str {
        T::NAME
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.output
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.inputs.iter().collect()
    }

    fn required_input_distribution(&self) -> Vec<Distribution> {
        self.input_distribution_requirements().into_per_child()
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        self.own.distribution(&self.inputs)
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        self.own.ordering(&self.inputs)
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![T::KEEPS_ORDER; N]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match <Inputs<N>>::try_from(children) {
            Ok(_) if N == 0 => Ok(self),
            Ok(inputs) => Ok(Exec::over(T::anew(&self.own), inputs)),
            Err(others) => internal_err!("{} has {N} inputs, not {}", T::NAME, others.len()),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        T::execute(self, partition, context)
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        (0..N).map(|_| self.own.asks(partition)).collect()
    }

    fn statistics_from_inputs(&self, inputs: &[Arc<Statistics>], args: &StatisticsArgs) -> Result<Arc<Statistics>> {
        let mut about = Statistics::new_unknown(&self.schema());
        if let Some(known) = self.own.about(inputs, args.partition()) {
            about.num_rows = known.num_rows.to_inexact();
            about.total_byte_size = known.total_byte_size.to_inexact();
        }
        Ok(Arc::new(about))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

impl<T: Execute<N>, const N: usize> DisplayAs for Exec<T, N> {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.own.words() {
            words if words.is_empty() => f.write_str(T::NAME),
            words => write!(f, "{}: {words}", T::NAME),
        }
    }
}

impl<T: Execute<N>, const N: usize> fmt::Debug for Exec<T, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(T::NAME).field("words", &self.own.words()).finish_non_exhaustive()
    }
}

/// A scan's output.
pub(crate) fn scanned(columns: &SchemaRef, partitions: usize, emission: EmissionType) -> PlanProperties {
    let partitions = Partitioning::UnknownPartitioning(partitions);
    PlanProperties::new(EquivalenceProperties::new(Arc::clone(columns)), partitions, emission, Boundedness::Bounded)
}

/// Columns that come out of as many partitions as the input has, as its rows come.
pub(crate) fn as_below(columns: &SchemaRef, input: &Arc<dyn ExecutionPlan>) -> PlanProperties {
    let partitions = input.output_partitioning().partition_count();
    scanned(columns, partitions, input.pipeline_behavior()).with_boundedness(input.boundedness())
}

/// A column of an input.
pub(crate) fn column_of(input: &Arc<dyn ExecutionPlan>, at: usize) -> Arc<dyn PhysicalExpr> {
    Arc::new(Column::new(input.schema().field(at).name(), at))
}

/// What the partitions of a plan share, anew each time that all of them are executed: the first execution of each
/// belongs to round 0, the second to round 1.
pub(crate) struct Rounds<R>(Mutex<(Vec<usize>, Vec<R>)>);

impl<R> Default for Rounds<R> {
    fn default() -> Rounds<R> {
        Rounds(Mutex::default())
    }
}

impl<R: Clone> Rounds<R> {
    /// What a partition, one of `of`, shares in its next round; whoever is the first of a round makes it.
    pub(crate) fn next(&self, partition: usize, of: usize, make: impl FnOnce() -> Result<R>) -> Result<R> {
        let mut rounds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (executed, shared) = &mut *rounds;
        executed.resize(of, 0);
        let Some(times) = executed.get_mut(partition) else {
            return internal_err!("there is no partition {partition}");
        };
        let round = *times;
        *times += 1;
        if shared.len() == round {
            shared.push(make()?);
        }
        match shared.get(round) {
            Some(shared) => Ok(shared.clone()),
            None => internal_err!("a partition is ahead of the others"),
        }
    }
}
