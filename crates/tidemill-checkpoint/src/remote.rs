//! [`RemoteStore`]: values as objects of an object store (S3 and what speaks like it).
//!
//! **Invariant:** callers are synchronous and may stand on any thread, one of an async runtime included; the requests
//! run on a runtime of the store's own.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use tidemill_model::{Error, Kind, Result};
use tokio::runtime::{Builder, Runtime};
use url::Url;

use crate::blob::{BlobStore, check_name, missing_part};

/// Values as objects below a URL.
pub struct RemoteStore {
    store: Arc<dyn ObjectStore>,
    root: Path,
    url: String,
    /// Taken only when dropped.
    runtime: Option<Runtime>,
}

impl RemoteStore {
    /// Opens `url` (`s3://bucket/folder`) with the store's options (`region`, `endpoint`, `access_key_id`, …).
    ///
    /// # Errors
    /// Config, when the URL or an option is none that the store knows.
    pub fn open(url: &str, options: impl IntoIterator<Item = (String, String)>) -> Result<RemoteStore> {
        let refused = |e: Box<dyn std::error::Error + Send + Sync>| {
            Error::new(Kind::Config, "C042", format!("cannot use the object store {url}: {e}"))
                .fact("write s3://BUCKET/FOLDER, and the store's settings into tidemill.toml")
                .because(e)
        };
        let parsed = Url::parse(url).map_err(|e| refused(e.into()))?;
        let (store, root) = object_store::parse_url_opts(&parsed, options).map_err(|e| refused(e.into()))?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("tidemill-store")
            .enable_all()
            .build()
            .map_err(|e| Error::io("start a thread for", url, e))?;
        Ok(RemoteStore { store: Arc::from(store), root, url: url.to_owned(), runtime: Some(runtime) })
    }

    fn path(&self, name: &str) -> Result<Path> {
        check_name(name)?;
        Path::parse(format!("{}/{name}", self.root))
            .map_err(|e| Error::internal(format!("`{name}` is no object's name")).because(e))
    }

    /// Runs a request on the store's own runtime and waits for it on this thread.
    fn wait<T, F>(&self, what: &str, name: &str, request: F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = object_store::Result<T>> + Send + 'static,
    {
        let stopped = || Error::internal("the object store's thread has stopped");
        let (answer, answered) = mpsc::sync_channel(1);
        self.runtime.as_ref().ok_or_else(stopped)?.spawn(async move {
            // The receiver waits below, so that sending cannot fail.
            let _ = answer.send(request.await);
        });
        answered.recv().map_err(|_| stopped())?.map_err(|e| self.failed(what, name, e))
    }

    fn failed(&self, what: &str, name: &str, source: object_store::Error) -> Error {
        let message = format!("cannot {what} {name} in {}: {source}", self.url);
        let error = match &source {
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                Error::new(Kind::Config, "C041", message).fact("check the store's keys and what they may do")
            }
            object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. } => {
                Error::new(Kind::Config, "C043", message)
                    .fact("the store must support conditional writes (If-None-Match); keep the state on another one")
            }
            object_store::Error::NotFound { .. } => {
                Error::new(Kind::Config, "C040", message).fact("check that the bucket exists")
            }
            _ => Error::new(Kind::Unavailable, "U012", message).fact("check that the object store answers"),
        };
        error.because(source)
    }

    fn put_mode(&self, name: &str, bytes: &[u8], mode: PutMode) -> Result<bool> {
        let (store, path) = (Arc::clone(&self.store), self.path(name)?);
        let payload = PutPayload::from_bytes(Bytes::copy_from_slice(bytes));
        self.wait("write", name, async move {
            match store.put_opts(&path, payload, PutOptions { mode, ..PutOptions::default() }).await {
                Ok(_) => Ok(true),
                Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
                Err(e) => Err(e),
            }
        })
    }
}

impl BlobStore for RemoteStore {
    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.put_mode(name, bytes, PutMode::Overwrite).map(|_| ())
    }

    fn create(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        self.put_mode(name, bytes, PutMode::Create)
    }

    fn get(&self, name: &str) -> Result<Option<Bytes>> {
        let (store, path) = (Arc::clone(&self.store), self.path(name)?);
        self.wait("read", name, async move {
            match store.get(&path).await {
                Ok(found) => Ok(Some(found.bytes().await?)),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(e) => Err(e),
            }
        })
    }

    fn get_range(&self, name: &str, start: u64, length: u64) -> Result<Bytes> {
        let missing = || missing_part(name, start, length);
        let end = start.checked_add(length).ok_or_else(missing)?;
        let (store, path) = (Arc::clone(&self.store), self.path(name)?);
        let part = self.wait("read", name, async move {
            let size = match store.head(&path).await {
                Ok(meta) => meta.size,
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                Err(e) => return Err(e),
            };
            match length {
                _ if end > size => Ok(None),
                // An empty range cannot be asked for.
                0 => Ok(Some(Bytes::new())),
                _ => store.get_range(&path, start..end).await.map(Some),
            }
        })?;
        part.filter(|part| part.len() as u64 == length).ok_or_else(missing)
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>> {
        let folder = prefix.rsplit_once('/').map(|(folder, _)| folder);
        let path = folder.map_or_else(|| Ok(self.root.clone()), |folder| self.path(folder))?;
        let store = Arc::clone(&self.store);
        let found = self.wait("list", prefix, async move {
            store.list(Some(&path)).map_ok(|meta| meta.location.to_string()).try_collect::<Vec<_>>().await
        })?;
        let root = self.root.as_ref();
        let below = |name: String| match name.strip_prefix(root) {
            Some(rest) => rest.trim_start_matches('/').to_owned(),
            None => name,
        };
        let mut names: Vec<String> = found.into_iter().map(below).filter(|name| name.starts_with(prefix)).collect();
        names.sort_unstable();
        Ok(names)
    }

    fn delete(&self, name: &str) -> Result<()> {
        let (store, path) = (Arc::clone(&self.store), self.path(name)?);
        self.wait("remove", name, async move {
            match store.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(e) => Err(e),
            }
        })
    }
}

impl fmt::Debug for RemoteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the options: they hold keys.
        f.debug_struct("RemoteStore").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Drop for RemoteStore {
    fn drop(&mut self) {
        // A runtime that waits for its threads may not be dropped on another runtime's thread; this one does not wait.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidemill_model::Kind;

    use super::RemoteStore;
    use crate::blob::law;

    #[test]
    fn meets_the_law() {
        law::check(Arc::new(RemoteStore::open("memory:///state", []).expect("opens")));
    }

    #[test]
    fn may_be_used_and_dropped_on_a_thread_of_a_runtime() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
        runtime.block_on(async {
            law::check(Arc::new(RemoteStore::open("memory:///", []).expect("opens")));
        });
    }

    #[test]
    fn a_url_of_no_store_is_refused() {
        for url in ["nowhere", "gopher://x/y"] {
            assert_eq!(RemoteStore::open(url, []).expect_err("refused").kind(), Kind::Config, "{url}");
        }
    }

    #[test]
    fn keys_are_never_shown() {
        let options = [("access_key_id", "me"), ("secret_access_key", "hush"), ("region", "eu-west-1")];
        let options = options.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let store = RemoteStore::open("s3://bucket/folder", options).expect("opens");
        assert!(!format!("{store:?}").contains("hush"));
    }
}
