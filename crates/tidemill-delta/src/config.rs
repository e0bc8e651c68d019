//! The options of the connector, checked: [`DeltaConfig`] and the [`Location`] of a table.
//!
//! **Invariant:** nothing is read from the process environment; credentials come from [`Environment::stores`] only.

use std::fmt;
use std::num::NonZeroU64;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use deltalake_core::logstore::{
    LogStoreFactory, LogStoreRef, ObjectStoreRef, StorageConfig, default_logstore, logstore_factories, logstore_with,
};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use tidemill_model::{Error, Kind, OptionKind, OptionSpec, Result, Settings, nearest};
use tidemill_runtime::{DatasetSpec, Environment};
use url::Url;

use crate::durable::Durable;
use crate::problem::problem;

/// The options of `connector = 'delta'`.
pub(crate) const OPTIONS: &[OptionSpec] = &[
    OptionSpec::required(
        "path",
        OptionKind::Text,
        "The folder of the table: a path relative to the project, an absolute path, file://… or s3://bucket/prefix.",
    ),
    OptionSpec::optional(
        "partition_by",
        OptionKind::Text,
        None,
        "The columns that a new table is partitioned by, separated by commas.",
    ),
    OptionSpec::optional(
        "target_file_size",
        OptionKind::Integer,
        None,
        "About how many bytes a data file may reach before the next one is begun. Left out, 128 MiB; 32 MiB where rows \
         are merged by key, since a merge copies whole files.",
    ),
    OptionSpec::optional(
        "compact_every",
        OptionKind::Integer,
        None,
        "Joins small files after so many epochs. Left out, never; a table that another stream reads must not be \
         compacted.",
    ),
];

/// Where a table is.
#[derive(Clone)]
pub(crate) struct Location {
    /// The canonical form.
    pub(crate) url: Url,
    /// As the user wrote it.
    pub(crate) shown: String,
    /// Settings of the object store of this scheme.
    store: Vec<(String, String)>,
}

/// The checked options of a dataset.
#[derive(Debug, Clone)]
pub(crate) struct DeltaConfig {
    pub(crate) location: Location,
    pub(crate) partition_by: Vec<String>,
    pub(crate) target_file_size: Option<NonZeroU64>,
    pub(crate) compact_every: Option<NonZeroU64>,
}

impl DeltaConfig {
    /// Reads the options of a dataset.
    ///
    /// # Errors
    /// Config: the path is of no kind that can be read, or a size is zero.
    pub(crate) fn of(spec: &DatasetSpec, env: &Environment) -> Result<DeltaConfig> {
        Ok(DeltaConfig {
            location: Location::of(&spec.settings, env)?,
            partition_by: list(spec.settings.text("partition_by").unwrap_or_default()),
            target_file_size: above_zero(&spec.settings, "target_file_size")?,
            compact_every: above_zero(&spec.settings, "compact_every")?,
        })
    }
}

fn above_zero(settings: &Settings, name: &str) -> Result<Option<NonZeroU64>> {
    match settings.integer(name).map(NonZeroU64::new) {
        None => Ok(None),
        Some(Some(number)) => Ok(Some(number)),
        Some(None) => Err(Error::new(Kind::Config, "C213", format!("option `{name}` must be above 0"))
            .fact("leave it out for the default")),
    }
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

impl fmt::Debug for Location {
    /// Without the settings of the store: there are secrets among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Location").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

impl Location {
    fn of(settings: &Settings, env: &Environment) -> Result<Location> {
        let shown = settings.text("path").unwrap_or_default().trim().to_owned();
        if shown.is_empty() {
            return Err(Error::new(Kind::Config, "C210", "option `path` is empty")
                .fact("write the folder of the Delta table, like path = 'out/orders' or 's3://bucket/orders'"));
        }
        let url = if shown.contains("://") { remote(&shown)? } else { local(&env.project.join(&shown))? };
        let store = env.stores.get(url.scheme()).cloned().unwrap_or_default();
        Ok(Location { url, shown, store })
    }

    /// The log of the table and the store below it; nothing is read yet.
    pub(crate) fn log_store(&self) -> Result<LogStoreRef> {
        let opened = if self.url.scheme() == "s3" {
            logstore_factories()
                .entry(scheme_of_s3()?)
                .or_insert_with(|| Arc::new(ConditionalPutLog) as Arc<dyn LogStoreFactory>);
            logstore_with(self.s3()?, &self.url, StorageConfig::default())
        } else {
            logstore_with(Arc::new(Durable::default()), &self.url, StorageConfig::default())
        };
        opened.map_err(|error| problem(self, "open", error))
    }

    fn s3(&self) -> Result<ObjectStoreRef> {
        // The builder's default is a conditional put with `If-None-Match`, which makes a commit atomic without a lock
        // service; `new` (unlike `from_env`) reads nothing behind our back.
        let mut builder = AmazonS3Builder::new().with_url(self.url.as_str());
        for (name, value) in &self.store {
            let key: AmazonS3ConfigKey = name.to_ascii_lowercase().parse().map_err(|_| unknown_setting(name))?;
            builder = builder.with_config(key, value);
        }
        let store = builder.build().map_err(|error| {
            Error::new(Kind::Config, "C212", format!("cannot use the S3 settings for {}: {error}", self.shown))
                .fact("check [stores.s3] in tidemill.toml")
                .because(error)
        })?;
        Ok(Arc::new(store))
    }
}

fn unknown_setting(name: &str) -> Error {
    const KNOWN: [&str; 7] =
        ["region", "endpoint", "access_key_id", "secret_access_key", "session_token", "allow_http", "bucket"];
    let error = Error::new(Kind::Config, "C212", format!("unknown setting `{name}` of the s3 store"));
    let error = match nearest(name, KNOWN) {
        Some(meant) => error.label(format!("did you mean `{meant}`?")),
        None => error,
    };
    error.fact(format!("settings: {}", KNOWN.join(", ")))
}

fn scheme_of_s3() -> Result<Url> {
    Url::parse("s3://").map_err(|error| Error::internal(error.to_string()))
}

/// The log on a store whose conditional put makes commits atomic.
struct ConditionalPutLog;

impl LogStoreFactory for ConditionalPutLog {
    fn with_options(
        &self,
        prefixed: ObjectStoreRef,
        root: ObjectStoreRef,
        location: &Url,
        options: &StorageConfig,
    ) -> deltalake_core::DeltaResult<LogStoreRef> {
        Ok(default_logstore(prefixed, root, location, options))
    }
}

fn remote(text: &str) -> Result<Url> {
    let bad = |why: &str| {
        Error::new(Kind::Config, "C210", format!("`{text}` is no place of a Delta table: {why}"))
            .fact("write a path relative to the project, an absolute path, file:///… or s3://bucket/prefix")
    };
    let mut url = Url::parse(text).map_err(|error| bad(&error.to_string()))?;
    match url.scheme() {
        "file" => return local(&url.to_file_path().map_err(|()| bad("it names no folder of this machine"))?),
        "s3" if url.host_str().is_some_and(|bucket| !bucket.is_empty()) => {}
        "s3" => return Err(bad("the bucket is missing")),
        "s3a" | "s3n" => return remote(&text.replacen(&format!("{}://", url.scheme()), "s3://", 1)),
        other => return Err(bad(&format!("`{other}` is not supported"))),
    }
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    Ok(url)
}

/// The folder as a URL, without `.` and `..`, so that one folder has one name.
fn local(path: &Path) -> Result<Url> {
    let bad = |why: String| Error::new(Kind::Config, "C210", format!("`{}` is no folder: {why}", path.display()));
    let absolute = std::path::absolute(path).map_err(|error| bad(error.to_string()))?;
    let mut folder = PathBuf::new();
    for part in absolute.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                folder.pop();
            }
            other => folder.push(other),
        }
    }
    Url::from_directory_path(&folder).map_err(|()| bad("it is not absolute".to_owned()))
}
