//! The table behind a [`Location`]: loading it, creating it, and what is done by one commit at a time.
//!
//! **Invariant:** a table is created by version 0 alone. The library would otherwise put a second set of metadata on
//! top of a table that another writer created meanwhile.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use arrow::datatypes::{Schema, SchemaRef};
use deltalake_core::kernel::StructType;
use deltalake_core::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake_core::kernel::transaction::CommitProperties;
use deltalake_core::operations::create::CreateBuilder;
use deltalake_core::protocol::SaveMode;
use deltalake_core::{DeltaTable, DeltaTableError};
use tidemill_model::{Error, Kind, Result};

use crate::config::{DeltaConfig, Location};
use crate::problem::{problem, said};

/// The code of the error that there is no table: C214.
pub(crate) const NO_TABLE: &str = "C214";

impl Location {
    /// The table at its latest version; `None` when there is none yet.
    ///
    /// # Errors
    /// Corrupt when its log cannot be read, Unavailable when the store does not answer.
    pub(crate) async fn load(&self) -> Result<Option<DeltaTable>> {
        let mut table = DeltaTable::new(self.log_store()?);
        let there = table.log_store().is_delta_table_location().await;
        if !there.map_err(|error| problem(self, "look at", error))? {
            return Ok(None);
        }
        match table.load().await {
            Ok(()) => Ok(Some(table)),
            // The log has files and yet no version can be made of them.
            Err(
                error @ (DeltaTableError::NotATable(_)
                | DeltaTableError::Generic(_)
                | DeltaTableError::GenericError { .. }),
            ) => Err(Error::new(
                Kind::Corrupt,
                "X210",
                format!("the log of the Delta table {} cannot be read", self.shown),
            )
            .fact(format!(
                "look at {}/_delta_log: a file there is damaged or missing",
                self.shown.trim_end_matches('/')
            ))
            .because(said(&error))),
            Err(error) => Err(problem(self, "read", error)),
        }
    }

    /// Whether there is a log of a table, be it readable or not.
    ///
    /// # Errors
    /// Unavailable when the store does not answer.
    pub(crate) async fn is_there(&self) -> Result<bool> {
        self.log_store()?.is_delta_table_location().await.map_err(|error| problem(self, "look at", error))
    }

    /// A table that must exist.
    ///
    /// # Errors
    /// Config when there is none.
    pub(crate) async fn existing(&self) -> Result<DeltaTable> {
        self.load().await?.ok_or_else(|| {
            Error::new(Kind::Config, NO_TABLE, format!("there is no Delta table at {}", self.shown))
                .fact("check the option `path`; a pipeline that writes it creates it with its first rows")
        })
    }
}

/// The columns of a table in their declared order, as Arrow types.
pub(crate) fn columns(table: &DeltaTable) -> Result<SchemaRef> {
    let state = table.snapshot().map_err(|error| Error::internal(error.to_string()))?;
    Ok(state.snapshot().arrow_schema())
}

/// The table, created with these columns when there is none.
///
/// # Errors
/// As [`Location::load`]; Config when the columns cannot be stored.
pub(crate) async fn open_or_create(config: &DeltaConfig, name: &str, stored: &Schema) -> Result<DeltaTable> {
    if let Some(table) = config.location.load().await? {
        return Ok(table);
    }
    let columns: StructType = stored
        .try_into_kernel()
        .map_err(|error: arrow::error::ArrowError| Error::internal(format!("columns without a Delta type: {error}")))?;
    let created = CreateBuilder::new()
        .with_log_store(config.location.log_store()?)
        .with_table_name(name)
        .with_columns(columns.fields().cloned())
        .with_partition_columns(config.partition_by.iter().cloned())
        .with_save_mode(SaveMode::ErrorIfExists)
        .with_commit_properties(CommitProperties::default().with_max_retries(0))
        .await;
    match created {
        Ok(table) => Ok(table),
        // Another writer was first, either before the library looked or between its look and its commit.
        Err(error) => match config.location.load().await? {
            Some(table) => Ok(table),
            None => Err(problem(&config.location, "create", error)),
        },
    }
}

/// Checks that the table is partitioned as the dataset says.
///
/// # Errors
/// Config when `partition_by` was given and differs.
pub(crate) fn same_partitions(config: &DeltaConfig, table: &DeltaTable) -> Result<()> {
    let state = table.snapshot().map_err(|error| Error::internal(error.to_string()))?;
    let existing = state.metadata().partition_columns();
    if config.partition_by.is_empty() || config.partition_by == existing {
        return Ok(());
    }
    let words = |names: &[String]| if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
    Err(Error::new(
        Kind::Config,
        "C222",
        format!(
            "the Delta table {} is partitioned by {}, not by {}",
            config.location.shown,
            words(existing),
            words(&config.partition_by)
        ),
    )
    .fact("leave `partition_by` out, or write to another table"))
}

/// The right to commit to a table, among the sinks of this process.
///
/// Other processes are met with optimistic retries; among ourselves it is cheaper to wait than to do the work twice.
pub(crate) async fn turn(location: &Location) -> tokio::sync::OwnedMutexGuard<()> {
    type Turns = Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>;
    static TURNS: LazyLock<Turns> = LazyLock::new(Turns::default);
    let turn = {
        let mut turns = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(turns.entry(location.url.to_string()).or_default())
    };
    turn.lock_owned().await
}
