//! [`Workspace`]: a project opened for work: its catalog, its checkpoint store and its state folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidemill_checkpoint::{BlobStore, Checkpoints, LocalStore, RemoteStore, StateLock};
use tidemill_model::{Clock, Result};
use tidemill_runtime::{Environment, StateMemory};
use tidemill_sql::batch::{Resources, Stored};
use tidemill_sql::session::Functions;
use tidemill_sql::{Catalog, Project};

use tidemill_serve::{ServedView, Window};

use crate::registry::look;
use crate::{engine, machine, registry};

/// Memory for bounded queries when the project does not say.
const DEFAULT_MEMORY: u64 = 4 << 30;
/// Memory for states where neither the project nor the machine says how much there is.
const DEFAULT_STATE_MEMORY: u64 = 2 << 30;
/// Less than this would only be slow.
const LEAST_STATE_MEMORY: u64 = 128 << 20;

/// What states may take unless the project says it: a third of the machine, so that the rest of the process, readers of
/// views and the system's cache of files have room too.
fn default_state_memory() -> u64 {
    machine::memory().map_or(DEFAULT_STATE_MEMORY, |bytes| (bytes / 3).max(LEAST_STATE_MEMORY))
}

/// A project opened for work.
#[derive(Debug)]
pub struct Workspace {
    /// Its datasets with their connectors.
    pub catalog: Arc<Catalog>,
    /// Where manifests and state lie.
    pub store: Arc<dyn BlobStore>,
    /// The folder of the project's own state.
    pub state: PathBuf,
    /// The present.
    pub clock: Arc<dyn Clock>,
    /// How many lanes a pipeline has.
    pub lanes: usize,
    memory: u64,
    state_memory: u64,
}

impl Workspace {
    /// Opens the project in `start` or the nearest folder above it.
    ///
    /// # Errors
    /// Config and Plan, all that are found in its files.
    pub fn open(start: &Path, clock: Arc<dyn Clock>, env: &dyn Fn(&str) -> Option<String>) -> Result<Workspace> {
        Workspace::open_with(start, clock, env, &Functions::new())
    }

    /// As [`Workspace::open`], for queries that may call these functions, too.
    ///
    /// # Errors
    /// As [`Workspace::open`].
    pub fn open_with(
        start: &Path,
        clock: Arc<dyn Clock>,
        env: &dyn Fn(&str) -> Option<String>,
        functions: &Functions,
    ) -> Result<Workspace> {
        let project = Project::load(start, env)?;
        let config = project.config.clone();
        let environment = Environment {
            project: project.root.clone(),
            state: config.state.clone(),
            clock: Arc::clone(&clock),
            stores: config.store_settings(),
        };
        let store: Arc<dyn BlobStore> = match &config.checkpoint {
            None => Arc::new(LocalStore::open(&config.state)?),
            Some(url) => {
                let scheme = url.split(':').next().unwrap_or_default();
                let settings = environment.stores.get(scheme).cloned().unwrap_or_default();
                Arc::new(RemoteStore::open(url, settings)?)
            }
        };
        let catalog = Catalog::new(project, registry(), environment)?.look_by(look).with_functions(functions.clone());
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        Ok(Workspace {
            catalog: Arc::new(catalog),
            store,
            state: config.state,
            clock,
            lanes: config.lanes.unwrap_or(cores).max(1),
            memory: config.memory.unwrap_or(DEFAULT_MEMORY),
            state_memory: config.state_memory.unwrap_or_else(default_state_memory),
        })
    }

    /// A pipeline's durable progress.
    #[must_use]
    pub fn checkpoints(&self, pipeline: &str) -> Arc<Checkpoints> {
        Arc::new(Checkpoints::new(Arc::clone(&self.store), pipeline))
    }

    /// The rows of views and dead letters as committed.
    #[must_use]
    pub fn stored(&self) -> Stored {
        Stored::new(Arc::clone(&self.store))
    }

    /// What bounded queries may use.
    #[must_use]
    pub fn resources(&self) -> Resources {
        let memory = usize::try_from(self.memory).unwrap_or(usize::MAX);
        Resources { partitions: self.lanes, memory, spill: self.state.join("spill") }
    }

    /// What the states of a pipeline's operators may take of memory, and where the rest lies while it runs: `bytes`, or
    /// what the project says. The pipeline must be locked.
    ///
    /// # Errors
    /// Config and Unavailable, when what an earlier run left there cannot be removed.
    pub fn state_memory(&self, pipeline: &str, bytes: Option<usize>) -> Result<StateMemory> {
        let bytes = bytes.unwrap_or_else(|| usize::try_from(self.state_memory).unwrap_or(usize::MAX));
        StateMemory::open(bytes, &self.folder(pipeline).join("spill"))
    }

    /// Makes this process the only one that runs the pipeline.
    ///
    /// # Errors
    /// Fenced, when another one does.
    pub fn lock(&self, pipeline: &str) -> Result<StateLock> {
        StateLock::acquire(self.folder(pipeline), &format!("pipeline `{pipeline}`"))
    }

    /// Whether a process runs the pipeline now.
    #[must_use]
    pub fn is_running(&self, pipeline: &str) -> bool {
        StateLock::is_held(self.folder(pipeline))
    }

    fn folder(&self, pipeline: &str) -> PathBuf {
        self.state.join("pipelines").join(pipeline)
    }
}

/// What the server knows of the views that these pipelines keep.
///
/// # Errors
/// As [`engine::plan`].
pub(crate) fn served_views(workspace: &Workspace, pipelines: &[String]) -> Result<Vec<ServedView>> {
    let mut views = Vec::new();
    let project = workspace.catalog.project();
    let keeps = |name: &&String| project.pipeline(name).is_ok_and(|pipeline| !pipeline.materialized.is_empty());
    for pipeline in pipelines.iter().filter(keeps) {
        for view in engine::plan(workspace, pipeline)?.views {
            views.push(ServedView {
                window: view.window().map(|(column, end)| Window { column, end }),
                name: view.name,
                pipeline: pipeline.clone(),
                schema: view.schema,
            });
        }
    }
    Ok(views)
}
