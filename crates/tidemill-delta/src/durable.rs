//! [`Durable`]: a local file system whose writes survive a power failure.
//!
//! The library's local store leaves what it wrote to the page cache; staged rows are removed after a commit, so they
//! must not be the only durable copy. **Invariant:** when a write answers, the file and its name are on disk; and a
//! name that must be new (a version of the log) appears only with its whole content below it.

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};

/// A local file system with durable writes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Durable(Arc<LocalFileSystem>);

impl fmt::Display for Durable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Durable({})", self.0)
    }
}

/// Runs file operations where blocking is allowed.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

fn failed(source: std::io::Error) -> Error {
    Error::Generic { store: "local files", source: Box::new(source) }
}

/// Brings a file and its name to disk; the folder above too, which may be new.
fn sync(file: &FsPath) -> std::io::Result<()> {
    File::open(file)?.sync_all()?;
    for folder in file.ancestors().skip(1).take(2).filter(|folder| !folder.as_os_str().is_empty()) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

impl Durable {
    async fn synced(&self, location: &Path) -> Result<()> {
        let file = self.0.path_to_filesystem(location)?;
        blocking(move || sync(&file)).await.map_err(failed)
    }

    /// Writes beside the name, syncs, and only then gives it the name, which fails when it is taken.
    async fn create(&self, location: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let file = self.0.path_to_filesystem(location)?;
        let folder = file.parent().map(PathBuf::from).unwrap_or_default();
        let name = format!(".tidemill-{}-{}.tmp", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let beside =
            Path::from_absolute_path(folder.join(&name)).or_else(|_| Path::parse(format!("{location}{name}")))?;
        options.mode = PutMode::Overwrite;
        let written = self.0.put_opts(&beside, payload, options).await?;
        let (staged, named) = (self.0.path_to_filesystem(&beside)?, file.clone());
        let linked = blocking(move || {
            let linked =
                File::open(&staged).and_then(|file| file.sync_all()).and_then(|()| std::fs::hard_link(&staged, &named));
            std::fs::remove_file(&staged)?;
            linked.and_then(|()| sync(&named))
        });
        match linked.await {
            Ok(()) => Ok(written),
            Err(source) if source.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(Error::AlreadyExists { path: file.display().to_string(), source: Box::new(source) })
            }
            Err(source) => Err(failed(source)),
        }
    }
}

#[async_trait::async_trait]
impl ObjectStore for Durable {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if matches!(options.mode, PutMode::Create) {
            return self.create(location, payload, options).await;
        }
        let written = self.0.put_opts(location, payload, options).await?;
        self.synced(location).await?;
        Ok(written)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let parts = self.0.put_multipart_opts(location, options).await?;
        Ok(Box::new(DurableUpload { parts, store: self.clone(), location: location.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.0.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.0.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, to, options).await?;
        self.synced(to).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.0.rename_opts(from, to, options).await?;
        self.synced(to).await
    }
}

/// An upload in parts that is durable when complete.
#[derive(Debug)]
struct DurableUpload {
    parts: Box<dyn MultipartUpload>,
    store: Durable,
    location: Path,
}

#[async_trait::async_trait]
impl MultipartUpload for DurableUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.parts.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let written = self.parts.complete().await?;
        self.store.synced(&self.location).await?;
        Ok(written)
    }

    async fn abort(&mut self) -> Result<()> {
        self.parts.abort().await
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;

    use super::*;

    #[tokio::test]
    async fn a_name_is_given_once_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = Path::from_absolute_path(folder.path().join("log/1.json")).expect("a path");
        let store = Durable::default();
        let create = || PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        store.put_opts(&at, "first".into(), create()).await.expect("writes");
        let error = store.put_opts(&at, "second".into(), create()).await.expect_err("refused");
        assert!(matches!(error, Error::AlreadyExists { .. }), "{error}");
        assert_eq!(store.get(&at).await.expect("there").bytes().await.expect("bytes"), "first");
        let names = std::fs::read_dir(folder.path().join("log")).expect("lists").count();
        assert_eq!(names, 1);
        store.put(&at, "third".into()).await.expect("writes");
        assert_eq!(store.get(&at).await.expect("there").bytes().await.expect("bytes"), "third");
    }
}
