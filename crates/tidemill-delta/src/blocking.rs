//! [`block_on`]: the bridge from the synchronous contracts to the asynchronous Delta library.
//!
//! **Invariant:** futures run on this crate's own runtime, never on the caller's, so that a caller inside another
//! runtime cannot make tokio panic.

use std::future::Future;
use std::sync::{OnceLock, mpsc};

use tidemill_model::{Error, Result};
use tokio::runtime::{Builder, Handle, Runtime};

/// Planning a MERGE recurses deeply; tokio's default of 2 MiB is near the edge.
const STACK: usize = 8 << 20;

/// The runtime of this crate.
pub(crate) fn handle() -> Result<&'static Handle> {
    static RUNTIME: OnceLock<std::result::Result<Runtime, String>> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("tidemill-delta")
            .thread_stack_size(STACK)
            .enable_all()
            .build()
            .map_err(|error| error.to_string())
    });
    match runtime {
        Ok(runtime) => Ok(runtime.handle()),
        Err(why) => Err(Error::internal(format!("cannot start the threads of the Delta connector: {why}"))),
    }
}

/// Runs a future to its end and waits for it.
///
/// # Errors
/// Those of the future; Internal when it panicked.
pub(crate) fn block_on<T, F>(future: F) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let (answer, answered) = mpsc::sync_channel(1);
    handle()?.spawn(async move {
        // The receiver waits below for as long as this task lives.
        let _ = answer.send(future.await);
    });
    answered.recv().unwrap_or_else(|_| Err(Error::internal("an operation on a Delta table panicked")))
}
