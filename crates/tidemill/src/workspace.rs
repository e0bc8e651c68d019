//! [`Workspace`]: a project opened for work: its catalog, its checkpoint store and its state folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidemill_checkpoint::{BlobStore, Checkpoints, LocalStore, RemoteStore, StateLock};
use tidemill_model::{Clock, Result};
use tidemill_runtime::Environment;
use tidemill_sql::batch::{Resources, Stored};
use tidemill_sql::session::Functions;
use tidemill_sql::{Catalog, Project};

use tidemill_serve::{ServedView, Window};

use crate::registry::look;
use crate::{engine, registry};

/// Memory for bounded queries when the project does not say.
const DEFAULT_MEMORY: u64 = 4 << 30;

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
    for pipeline in pipelines {
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
