//! [`DeltaConnector`]: `connector = 'delta'`.
//!
//! **Invariant:** opening a dataset reads the table's log at most; it writes nothing.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use tidemill_model::{OptionSpec, Result};
use tidemill_runtime::{Connector, DatasetSpec, Environment, Sink, SinkTarget, Source};

use crate::awaited::Awaited;
use crate::blocking::block_on;
use crate::config::{DeltaConfig, OPTIONS};
use crate::sink::DeltaSink;
use crate::source::DeltaSource;
use crate::table::{NO_TABLE, columns};
use crate::types::presented_schema;

/// Delta Lake tables.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeltaConnector;

impl Connector for DeltaConnector {
    fn name(&self) -> &'static str {
        "delta"
    }

    fn doc(&self) -> &'static str {
        "A Delta Lake table on this machine or in S3: appended to, merged by key, or replaced by interval, exactly once; \
         read as a table, or file by file as a stream while it is only appended to."
    }

    fn options(&self) -> &'static [OptionSpec] {
        OPTIONS
    }

    fn discover_schema(&self, spec: &DatasetSpec, env: &Environment) -> Result<SchemaRef> {
        let location = DeltaConfig::of(spec, env)?.location;
        block_on(async move { Ok(presented_schema(columns(&location.existing().await?)?.as_ref())) })
    }

    fn source(&self, spec: &DatasetSpec, env: &Environment) -> Result<Arc<dyn Source>> {
        match DeltaSource::open(spec, env) {
            Ok(source) => Ok(Arc::new(source)),
            // With its columns declared, a table may be planned before the pipeline that writes it has begun.
            Err(error) if error.code() == NO_TABLE && !spec.schema.fields().is_empty() => {
                Ok(Arc::new(Awaited::new(spec, env)))
            }
            Err(error) => Err(error),
        }
    }

    fn sink(&self, spec: &DatasetSpec, target: &SinkTarget, env: &Environment) -> Result<Arc<dyn Sink>> {
        Ok(Arc::new(DeltaSink::open(spec, target, env)?))
    }
}
