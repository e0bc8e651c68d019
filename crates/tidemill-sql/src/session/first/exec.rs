//! [`FirstExec`]: the rows of all partitions gathered side by side, decided together, and given out by all partitions.
//!
//! **Invariant:** each row that stays comes out of one partition, once.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::{Result, internal_datafusion_err, internal_err};
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{LogicalPlan, UserDefinedLogicalNode};
use datafusion::physical_plan::execution_plan::EmissionType;
use datafusion::physical_plan::metrics::SpillMetrics;
use datafusion::physical_plan::statistics::ChildStats;
use datafusion::physical_plan::{ExecutionPlan, PlanProperties, SpillManager};
use datafusion::physical_planner::{ExtensionPlanner, PhysicalPlanner};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::task::JoinSet;

use super::FirstNode;
use super::decide::{Contest, Kept};
use super::gather::{Gathered, Gatherer};
use super::held::First;
use super::spread::{Part, Work};
use crate::session::exec::{Exec, Execute, Inputs, Rounds, as_below};
use crate::session::guarded::arrow_schema;

/// Makes the physical operators of [`FirstNode`]s.
#[derive(Debug)]
pub struct FirstPlanner;

#[async_trait]
impl ExtensionPlanner for FirstPlanner {
    async fn plan_extension(
        &self,
        _planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _logical_inputs: &[&LogicalPlan],
        physical_inputs: &[Arc<dyn ExecutionPlan>],
        _session: &dyn Session,
        _context: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let Some(node) = node.as_any().downcast_ref::<FirstNode>() else { return Ok(None) };
        let [input] = physical_inputs else { return internal_err!("the first rows have one input") };
        let order = node.order.iter().filter(|(at, _)| !node.keys.contains(at)).copied().collect();
        let first = First {
            keys: node.keys.clone(),
            order,
            output: node.output.clone(),
            schema: arrow_schema(&node.schema),
            words: node.words(),
        };
        Ok(Some(Exec::plan(FirstExec::new(Arc::new(first)), [Arc::clone(input)])))
    }
}

struct FirstExec {
    first: Arc<First>,
    gathering: Rounds<Gathering>,
}

/// All rows on their way to be gathered; whoever waits for them drives it.
type Gathering = Shared<BoxFuture<'static, Result<Arc<Ready>, Arc<DataFusionError>>>>;

/// What partitions take their rows from.
struct Ready {
    /// Rows in memory, with what is reserved for them.
    kept: Mutex<VecDeque<(Kept, MemoryReservation)>>,
    /// Rows in files, to be decided.
    parts: Mutex<Vec<Part>>,
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FirstExec {
    fn new(first: Arc<First>) -> FirstExec {
        FirstExec { first, gathering: Rounds::default() }
    }

    fn work(of: &Exec<FirstExec, 1>, partition: usize, context: &TaskContext) -> Arc<Work> {
        let [input] = &of.inputs;
        let spilled = SpillMetrics::new(&of.metrics, partition);
        let spills = SpillManager::new(context.runtime_env(), spilled, input.schema())
            .with_compression_type(context.session_config().spill_compression());
        Arc::new(Work { first: Arc::clone(&of.own.first), input: input.schema(), spills })
    }

    fn gathering(of: &Exec<FirstExec, 1>, partition: usize, context: &Arc<TaskContext>) -> Result<Gathering> {
        let [input] = &of.inputs;
        let partitions = of.output.partitioning.partition_count();
        of.own.gathering.next(partition, partitions, || {
            let mut lanes = Vec::with_capacity(partitions);
            for lane in 0..partitions {
                let gatherer = Gatherer::new(FirstExec::work(of, lane, context), 0, room(context));
                lanes.push((gatherer, input.execute(lane, Arc::clone(context))?));
            }
            let work = FirstExec::work(of, partition, context);
            let gathering = async move { gather(work, lanes).await.map(Arc::new).map_err(Arc::new) };
            Ok(gathering.boxed().shared())
        })
    }
}

fn room(context: &TaskContext) -> MemoryReservation {
    MemoryConsumer::new("first rows").with_can_spill(true).register(context.memory_pool())
}

/// Gathers all rows and decides those that are in memory.
async fn gather(work: Arc<Work>, lanes: Vec<(Gatherer, SendableRecordBatchStream)>) -> Result<Ready> {
    let workers = lanes.len();
    let mut tasks = JoinSet::new();
    for (lane, (mut gatherer, rows)) in lanes.into_iter().enumerate() {
        tasks.spawn(async move {
            gatherer.drain(rows).await?;
            Ok((lane, gatherer.finish()?))
        });
    }
    let mut gathered = joined(tasks).await?;
    gathered.sort_by_key(|(lane, _)| *lane);
    let gathered = gathered.into_iter().map(|(_, gathered)| gathered).collect::<Vec<_>>();
    if gathered.iter().any(|gathered| matches!(gathered, Gathered::Spread(_))) {
        return Ok(Ready { kept: Mutex::default(), parts: Mutex::new(all_in_files(&work, gathered).await?) });
    }
    let (mut held, mut rooms) = (Vec::new(), Vec::new());
    for gathered in gathered {
        if let Gathered::Held(rows, room) = gathered {
            rooms.extend(rows.batches.iter().map(|(_, bytes)| room.split(*bytes)));
            held.push(rows);
        }
    }
    let contest = Arc::new(Contest::new(held));
    let mut tasks = JoinSet::new();
    for _ in 0..workers {
        let (work, contest) = (Arc::clone(&work), Arc::clone(&contest));
        tasks.spawn_blocking(move || contest.work(&work.first, &work.input));
    }
    joined(tasks).await?;
    let Some(contest) = Arc::into_inner(contest) else { return internal_err!("a contest has no end") };
    Ok(Ready { kept: Mutex::new(contest.decided().zip(rooms).collect()), parts: Mutex::default() })
}

/// The parts of all lanes, those put together that have the same keys.
async fn all_in_files(work: &Arc<Work>, gathered: Vec<Gathered>) -> Result<Vec<Part>> {
    let mut tasks = JoinSet::new();
    for gathered in gathered {
        let work = Arc::clone(work);
        tasks.spawn_blocking(move || match gathered {
            Gathered::Held(rows, room) => Gatherer::put_out(&work, rows, room),
            spread @ Gathered::Spread(_) => Ok(spread),
        });
    }
    let mut all: Vec<Part> = Vec::new();
    for gathered in joined(tasks).await? {
        let Gathered::Spread(parts) = gathered else { continue };
        if all.is_empty() {
            all = parts;
            continue;
        }
        for (part, more) in all.iter_mut().zip(parts) {
            part.files.extend(more.files);
        }
    }
    all.retain(|part| !part.files.is_empty());
    Ok(all)
}

/// What all tasks answer, or the first error.
async fn joined<T: Send + 'static>(mut tasks: JoinSet<Result<T>>) -> Result<Vec<T>> {
    let mut all = Vec::new();
    while let Some(done) = tasks.join_next().await {
        all.push(done.map_err(|e| internal_datafusion_err!("a task of the first rows ended: {e}"))??);
    }
    Ok(all)
}

/// One partition's way through what is ready.
struct Giving {
    gathering: Gathering,
    work: Arc<Work>,
    context: Arc<TaskContext>,
    /// Rows of the part in hand, with what is reserved for them.
    own: VecDeque<(Kept, MemoryReservation)>,
}

impl Giving {
    async fn next(mut self) -> Result<Option<(RecordBatch, Giving)>> {
        let ready = self.gathering.clone().await.map_err(DataFusionError::Shared)?;
        loop {
            let next = self.own.pop_front().or_else(|| locked(&ready.kept).pop_front());
            let Some((kept, room)) = next else {
                let part = locked(&ready.parts).pop();
                let Some(part) = part else { return Ok(None) };
                self.decide(part, &ready).await?;
                continue;
            };
            if kept.stay() > 0 {
                let rows = kept.rows(|rows| self.work.first.output(rows))?;
                drop(room);
                return Ok(Some((rows, self)));
            }
        }
    }

    /// Reads a part; one that does not fit becomes smaller ones.
    async fn decide(&mut self, part: Part, ready: &Ready) -> Result<()> {
        let mut gatherer = Gatherer::new(Arc::clone(&self.work), part.depth, room(&self.context));
        for file in part.files {
            gatherer.drain(self.work.spills.read_spill_as_stream(file, None)?).await?;
        }
        match gatherer.finish()? {
            Gathered::Spread(parts) => {
                locked(&ready.parts).extend(parts.into_iter().filter(|part| !part.files.is_empty()));
            }
            Gathered::Held(rows, room) => {
                let rooms: Vec<MemoryReservation> = rows.batches.iter().map(|(_, bytes)| room.split(*bytes)).collect();
                let contest = Contest::new(vec![rows]);
                contest.work(&self.work.first, &self.work.input)?;
                self.own.extend(contest.decided().zip(rooms));
            }
        }
        Ok(())
    }
}

impl Execute<1> for FirstExec {
    const NAME: &'static str = "FirstExec";

    fn words(&self) -> String {
        self.first.words.clone()
    }

    fn output(&self, [input]: &Inputs<1>) -> PlanProperties {
        as_below(&self.first.schema, input).with_emission_type(EmissionType::Final)
    }

    /// At most as many rows as there are below, in any partition.
    fn asks(&self, partition: Option<usize>) -> ChildStats {
        partition.map_or(ChildStats::At(None), |_| ChildStats::Skip)
    }

    fn anew(own: &Arc<FirstExec>) -> Arc<FirstExec> {
        Arc::new(FirstExec::new(Arc::clone(&own.first)))
    }

    fn execute(of: &Exec<Self, 1>, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let giving = Giving {
            gathering: FirstExec::gathering(of, partition, &context)?,
            work: FirstExec::work(of, partition, &context),
            context,
            own: VecDeque::new(),
        };
        Ok(of.rows(partition, futures::stream::try_unfold(giving, Giving::next)))
    }
}
