//! [`registry`]: every connector and format of this binary, and [`look`]: what is there to be read of their datasets.
//!
//! **Invariant:** a connector is registered here or nowhere; there is no discovery.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use tidemill_model::Result;
use tidemill_runtime::{DatasetSpec, Environment, Split, Version};
use tidemill_sql::{BatchTables, Formats, Presence, Registry};

/// Every connector and format.
#[must_use]
pub fn registry() -> Registry {
    let mut connectors = tidemill_connect::connectors();
    connectors.push(Arc::new(tidemill_delta::DeltaConnector));
    Registry {
        connectors,
        formats: Formats {
            names: tidemill_connect::FORMATS.iter().map(|format| format.name).collect(),
            columnar: vec!["parquet"],
            options: tidemill_connect::format_options,
            make: tidemill_connect::format,
        },
        tables: vec![Arc::new(DeltaTables)],
    }
}

/// What lies at a dataset's place, looked at without creating it.
///
/// # Errors
/// As reading it would answer.
pub(crate) fn look(connector: &str, spec: &DatasetSpec, env: &Environment) -> Result<Presence> {
    let (is_there, otherwise) = match connector {
        "delta" => (tidemill_delta::is_there(spec, env)?, Presence::Missing),
        // The first reader of a topic creates it.
        "log" => (tidemill_connect::is_there(connector, spec, env)?, Presence::Unborn),
        _ => (tidemill_connect::is_there(connector, spec, env)?, Presence::Missing),
    };
    Ok(if is_there { Presence::There } else { otherwise })
}

/// Delta tables as DataFusion reads them itself, with its pruning of files.
#[derive(Debug)]
struct DeltaTables;

#[async_trait]
impl BatchTables for DeltaTables {
    fn connector(&self) -> &'static str {
        "delta"
    }

    async fn open(&self, spec: &DatasetSpec, env: &Environment) -> Result<Arc<dyn TableProvider>> {
        tidemill_delta::table_provider(spec, env).await
    }

    async fn version(&self, spec: &DatasetSpec, env: &Environment) -> Result<Option<Version>> {
        tidemill_delta::table_version(spec, env).await.map(Some)
    }

    fn files(&self, spec: &DatasetSpec, env: &Environment) -> Result<Option<Vec<Split>>> {
        tidemill_delta::table_files(spec, env).map(Some)
    }
}
