//! [`Pipe`]: a pipeline over made-up rows, ready to be run in any way; its checkpoints lie in memory unless told otherwise.
//!
//! **Invariant:** nothing of a pipe is shared with another one; its folder goes with it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use tidemill_checkpoint::{BlobStore, Checkpoints, Memory};
use tidemill_connect::Blackhole;
use tidemill_model::{Clock, Error, Result, Settings, Timestamp, Trigger};
use tidemill_runtime::exec::{Job, Limits, Progress, ViewNode, Views};
use tidemill_runtime::{AtOnce, Connector, Environment, ErrorLimit, Format, StateMemory};
use tidemill_sql::language::Dataset;
use tidemill_sql::stream::{OpenTable, StreamPlan, plan_stream};
use tidemill_sql::{Catalog, Config, Formats, Project, Registry, Script, Side};
use tidemill_testkit::made::Made;
use tidemill_testkit::{ProjectFolder, VirtualClock};

/// A pipeline `p` over tables of the connector `made`.
pub(crate) struct Pipe {
    catalog: Catalog,
    /// Its folder on disk.
    pub(crate) folder: ProjectFolder,
    pub(crate) clock: Arc<VirtualClock>,
    pub(crate) store: Arc<dyn BlobStore>,
    pub(crate) progress: Arc<Progress>,
}

/// How it is run.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) lanes: usize,
    pub(crate) trigger: Trigger,
    pub(crate) checkpoint: Duration,
    /// Bytes of memory for state.
    pub(crate) memory: usize,
    pub(crate) limits: Limits,
}

impl Default for Run {
    fn default() -> Run {
        Run {
            lanes: 2,
            trigger: Trigger::Continuous,
            checkpoint: Duration::from_millis(5),
            memory: 1 << 30,
            limits: Limits::default(),
        }
    }
}

impl Pipe {
    /// The pipeline of these statements.
    pub(crate) fn new(sql: &str, made: &Made) -> Result<Pipe> {
        let clock = Arc::new(VirtualClock::at(Timestamp(1_893_456_000_000_000)));
        let folder = ProjectFolder::new("[project]\nname = \"pipe\"\n")?;
        let root = folder.path().to_owned();
        let config = Config::parse(&root, "", &|_| None)?;
        let project = Project::parse(root.clone(), config, &[Script::new("p.sql", sql)])?;
        let env =
            Environment { state: root.join(".tidemill"), project: root, clock: clock.clone(), stores: BTreeMap::new() };
        let make =
            |_: &str, _: &Settings, _: &SchemaRef| -> Result<Arc<dyn Format>> { Err(Error::internal("no formats")) };
        let formats = Formats { names: vec![], columnar: vec![], options: |_| Ok(&[]), make };
        let connectors: Vec<Arc<dyn Connector>> = vec![Arc::new(made.clone()), Arc::new(Blackhole)];
        let catalog = Catalog::new(project, Registry { connectors, formats, tables: Vec::new() }, env)?;
        let store = Arc::new(Memory::new());
        Ok(Pipe { catalog, folder, clock, store, progress: Arc::default() })
    }

    /// Its plan.
    pub(crate) fn plan(&self) -> Result<StreamPlan> {
        let open: OpenTable = Arc::new(|_: &Dataset| Err(Error::internal("no table is looked up in")));
        plan_stream(&self.catalog, "p", Side::Live, &open)
    }

    /// Its durable progress.
    pub(crate) fn checkpoints(&self) -> Arc<Checkpoints> {
        Arc::new(Checkpoints::new(Arc::clone(&self.store), "p"))
    }

    /// A process that runs it.
    pub(crate) fn job(&self, run: &Run) -> Result<Job> {
        let plan = self.plan()?;
        let view =
            |view: &tidemill_sql::stream::ViewPlan| ViewNode { view: view.name.clone(), node: view.node.clone() };
        Ok(Job {
            pipeline: "p".to_owned(),
            views: plan.views.iter().map(view).collect(),
            fingerprint: plan.fingerprint.clone(),
            graph: plan.graph,
            trigger: run.trigger.clone(),
            checkpoint: run.checkpoint,
            lanes: run.lanes,
            checkpoints: self.checkpoints(),
            clock: self.clock.clone() as Arc<dyn Clock>,
            published: Arc::new(Views::default()),
            progress: Arc::clone(&self.progress),
            background: Arc::new(AtOnce),
            limits: run.limits,
            memory: StateMemory::open(run.memory, &self.folder.path().join("spill"))?,
            errors: ErrorLimit::None,
            anew: None,
            letters: None,
        })
    }
}
