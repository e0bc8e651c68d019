//! Object stores for synchronous callers: [`Remote`] objects, and [`RemoteRead`], a reader that fetches ahead.
//!
//! **Invariant:** callers may stand on any thread, one of an async runtime included: requests run on threads of this
//! module's own and are waited for through a channel.

use std::fmt;
use std::future::Future;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path as LocalPath;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::aws::AmazonS3ConfigKey;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, WriteMultipart};
use tidemill_model::{Error, Kind, Result};
use tokio::runtime::{Builder, Runtime};
use url::Url;

use tidemill_runtime::Environment;

/// How much one request asks for.
const FETCH: u64 = 8 << 20;

/// A place in an object store: an object or a prefix.
#[derive(Clone)]
pub(super) struct Remote {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) path: Path,
    /// The URL of the dataset, for messages.
    pub(super) url: Arc<str>,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Remote({} in {})", self.path, self.url)
    }
}

impl Remote {
    /// Opens a URL with the settings that the project gives its scheme; the process environment has no say.
    pub(super) fn open(url: &str, env: &Environment) -> Result<Remote> {
        let refused = |e: Box<dyn std::error::Error + Send + Sync>| {
            Error::new(Kind::Config, "C311", format!("cannot use the object store {url}: {e}"))
                .fact("write s3://BUCKET/FOLDER/, and the store's settings (endpoint, region, keys) into tidemill.toml")
                .because(e)
        };
        let parsed = Url::parse(url).map_err(|e| refused(e.into()))?;
        let options = env.stores.get(parsed.scheme()).cloned().unwrap_or_default();
        if let Some((name, _)) = options.iter().find(|(name, _)| !is_setting(parsed.scheme(), name)) {
            return Err(refused(format!("{} has no setting `{name}`", parsed.scheme()).into()));
        }
        let (store, path) = object_store::parse_url_opts(&parsed, options).map_err(|e| refused(e.into()))?;
        Ok(Remote { store: Arc::from(store), path, url: Arc::from(url) })
    }

    /// The place `name` (segments parted by `/`) below this one.
    pub(super) fn below(&self, name: &str) -> Result<Remote> {
        let full = if self.path.as_ref().is_empty() { name.to_owned() } else { format!("{}/{name}", self.path) };
        let path = Path::parse(full).map_err(|e| {
            Error::new(Kind::Config, "C312", format!("`{name}` cannot name an object in {}: {e}", self.url))
                .fact("leave out empty segments, `.` and `..`")
                .because(e)
        })?;
        Ok(Remote { store: Arc::clone(&self.store), path, url: Arc::clone(&self.url) })
    }

    /// The object itself, if there is one.
    pub(super) fn head(&self) -> Result<Option<ObjectMeta>> {
        let (store, path) = (Arc::clone(&self.store), self.path.clone());
        let found = wait(async move { store.head(&path).await });
        match found.and_then(|found| found) {
            Ok(meta) => Ok(Some(meta)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.failed("look at", e)),
        }
    }

    /// Every object below this prefix, with its name relative to it.
    pub(super) fn list(&self) -> Result<Vec<(String, ObjectMeta)>> {
        let (store, path) = (Arc::clone(&self.store), self.path.clone());
        let found: object_store::Result<Vec<ObjectMeta>> =
            wait(async move { store.list(Some(&path)).try_collect().await }).and_then(|found| found);
        let objects = found.map_err(|e| self.failed("list", e))?;
        let named = objects.into_iter().filter_map(|meta| {
            let rest = meta.location.as_ref().strip_prefix(self.path.as_ref())?;
            Some((rest.trim_start_matches('/').to_owned(), meta))
        });
        Ok(named.filter(|(name, _)| !name.is_empty()).collect())
    }

    /// Some bytes of the object.
    pub(super) fn fetch(&self, range: Range<u64>) -> Result<Bytes> {
        let (store, path) = (Arc::clone(&self.store), self.path.clone());
        let got = wait(async move { store.get_range(&path, range).await });
        got.and_then(|got| got).map_err(|e| self.failed("read", e))
    }

    /// Several ranges of the object; neighbours are fetched together.
    pub(super) fn fetch_all(&self, ranges: Vec<Range<u64>>) -> Result<Vec<Bytes>> {
        let (store, path) = (Arc::clone(&self.store), self.path.clone());
        let got = wait(async move { store.get_ranges(&path, &ranges).await });
        got.and_then(|got| got).map_err(|e| self.failed("read", e))
    }

    /// Stores a local file as this object, whole or not at all.
    pub(super) fn upload(&self, file: &LocalPath) -> Result<()> {
        let input = std::fs::File::open(file).map_err(|e| Error::io("open", file.display(), e))?;
        let (store, path) = (Arc::clone(&self.store), self.path.clone());
        let done = wait(async move { upload(&*store, &path, input).await });
        done.and_then(|done| done).map_err(|e| self.failed("write", e))
    }

    /// Removes the object, if it is there.
    pub(super) fn delete(&self) -> Result<()> {
        let (store, path) = (Arc::clone(&self.store), self.path.clone());
        match wait(async move { store.delete(&path).await }).and_then(|done| done) {
            Err(object_store::Error::NotFound { .. }) | Ok(()) => Ok(()),
            Err(e) => Err(self.failed("remove", e)),
        }
    }

    /// An error of the store, with what its cause calls for.
    pub(super) fn failed(&self, what: &str, source: object_store::Error) -> Error {
        use object_store::Error as E;
        let message = format!("cannot {what} {} in {}: {source}", self.path, self.url);
        let error = match &source {
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
                Error::new(Kind::Config, "C041", message).fact("check the store's keys and what they may do")
            }
            E::NotFound { .. } => Error::new(Kind::Config, "C040", message).fact("check the bucket and the path"),
            _ => Error::new(Kind::Unavailable, "U310", message).fact("check that the object store answers"),
        };
        error.because(source)
    }
}

/// Small files by one request, large ones in parts; a part of a file is never visible. Reading the local file blocks
/// one of this module's own threads for some milliseconds a part.
async fn upload(store: &dyn ObjectStore, path: &Path, mut input: std::fs::File) -> object_store::Result<()> {
    let first = block_of(&mut input)?;
    if (first.len() as u64) < FETCH {
        return store.put(path, first.into()).await.map(|_| ());
    }
    let mut parts = WriteMultipart::new_with_chunk_size(store.put_multipart(path).await?, FETCH as usize);
    let mut next = Ok(first);
    loop {
        match next {
            Ok(block) if block.is_empty() => return parts.finish().await.map(|_| ()),
            Ok(block) => {
                parts.wait_for_capacity(4).await?;
                parts.put(block);
            }
            Err(e) => {
                parts.abort().await?;
                return Err(e);
            }
        }
        next = block_of(&mut input);
    }
}

fn block_of(input: &mut std::fs::File) -> object_store::Result<Bytes> {
    let mut block = Vec::with_capacity(FETCH as usize);
    match input.take(FETCH).read_to_end(&mut block) {
        Ok(_) => Ok(Bytes::from(block)),
        Err(e) => Err(object_store::Error::Generic { store: "local file", source: Box::new(e) }),
    }
}

/// The threads on which requests run, started with the first request.
fn runtime() -> object_store::Result<&'static Runtime> {
    static RUNTIME: OnceLock<io::Result<Runtime>> = OnceLock::new();
    let started = RUNTIME.get_or_init(|| {
        Builder::new_multi_thread().worker_threads(2).thread_name("tidemill-files").enable_all().build()
    });
    started.as_ref().map_err(|e| generic(&format!("cannot start threads: {e}")))
}

/// Whether a store of this scheme has the setting; the store itself passes over those that it does not know.
fn is_setting(scheme: &str, name: &str) -> bool {
    !matches!(scheme, "s3" | "s3a") || name.parse::<AmazonS3ConfigKey>().is_ok()
}

fn generic(message: &str) -> object_store::Error {
    object_store::Error::Generic { store: "files", source: message.into() }
}

/// Starts a request; its answer comes through the channel.
fn start<T, F>(request: F) -> object_store::Result<Receiver<T>>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let (answer, answered) = sync_channel(1);
    runtime()?.spawn(async move {
        // Sending fails only when nobody waits for the answer any more.
        let _ = answer.send(request.await);
    });
    Ok(answered)
}

/// Runs a request and waits for it on this thread.
fn wait<T, F>(request: F) -> object_store::Result<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    start(request)?.recv().map_err(|_| generic("the thread of the request has stopped"))
}

/// Reads an object from `at` on, asking for the next block while the present one is used.
pub(super) struct RemoteRead {
    object: Remote,
    /// The first byte not yet asked for.
    at: u64,
    size: u64,
    /// No block that begins here or later is asked for ahead: what lies there is needed only to end a record.
    ahead_until: u64,
    present: Bytes,
    coming: Option<Receiver<object_store::Result<Bytes>>>,
}

impl RemoteRead {
    pub(super) fn new(object: Remote, at: u64, size: u64, ahead_until: u64) -> RemoteRead {
        RemoteRead { object, at, size, ahead_until, present: Bytes::new(), coming: None }
    }

    fn ask(&mut self) -> object_store::Result<Option<Receiver<object_store::Result<Bytes>>>> {
        if self.at >= self.size {
            return Ok(None);
        }
        let range = self.at..self.size.min(self.at + FETCH);
        self.at = range.end;
        let (store, path) = (Arc::clone(&self.object.store), self.object.path.clone());
        start(async move { store.get_range(&path, range).await }).map(Some)
    }

    fn fetch_next(&mut self) -> object_store::Result<()> {
        let coming = match self.coming.take() {
            Some(coming) => Some(coming),
            None => self.ask()?,
        };
        let Some(coming) = coming else { return Ok(()) };
        self.present = coming.recv().map_err(|_| generic("the thread of the request has stopped"))??;
        if self.at < self.ahead_until {
            self.coming = self.ask()?;
        }
        Ok(())
    }
}

impl Read for RemoteRead {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.present.is_empty() {
            self.fetch_next().map_err(|e| match e {
                object_store::Error::NotFound { .. } => io::Error::new(io::ErrorKind::NotFound, e),
                other => io::Error::other(other),
            })?;
        }
        let n = self.present.len().min(into.len());
        into[..n].copy_from_slice(&self.present.split_to(n));
        Ok(n)
    }
}
