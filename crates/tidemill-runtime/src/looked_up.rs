//! The contract of a table that rows are looked up in beside a dataflow: [`LookedUp`] is read when a run starts and read
//! again when it has changed.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tidemill_model::Result;

/// Which content a dataset has now, as far as that can be told without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Another one for another content, and the same as long as the content is; short, and shown to people.
    pub token: String,
    /// Whether content only grows at its ends, so that whatever a reader finds was the content at some instant.
    pub grows: bool,
}

/// Dataset to the version of it that was read; without those that cannot tell.
pub type Versions = BTreeMap<String, String>;

/// What was read of a table, in the form that its operator wants.
pub type Rows = Arc<dyn Any + Send + Sync>;

/// A table, or a bounded query over some, that an operator looks rows up in.
///
/// The engine calls `read` when a run starts and then again and again beside the lanes. Whatever it answers is met by the
/// rows of whole epochs, by the same ones on every lane.
pub trait LookedUp: Send + Sync + fmt::Debug {
    /// The datasets that are read.
    fn datasets(&self) -> Vec<String>;

    /// How often to ask whether they have changed; `None` for never.
    fn refresh(&self) -> Option<Duration>;

    /// Whether operators keep the first version in their state, so that it is never read again. Conservative default: no.
    fn is_kept(&self) -> bool {
        false
    }

    /// The rows as they are now and the versions that they are of; `None` when these are `known`. May wait for input.
    ///
    /// # Errors
    /// Whatever the datasets answer; Unavailable, when they changed while they were read.
    fn read(&self, known: Option<&Versions>) -> Result<Option<(Versions, Rows)>>;
}

/// Runs work beside a dataflow, whose lanes and coordinator never wait.
pub trait Background: Send + Sync + fmt::Debug {
    /// Begins a piece of work, which ends by itself.
    ///
    /// # Errors
    /// Unavailable, when it cannot be begun.
    fn begin(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> Result<()>;
}

/// A thread for each piece of work.
#[derive(Debug, Clone, Copy, Default)]
pub struct Threads;

impl Background for Threads {
    fn begin(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> Result<()> {
        let begun = std::thread::Builder::new().name(format!("tidemill-{name}")).spawn(work);
        begun.map(drop).map_err(|e| tidemill_model::Error::io("start", "a thread", e))
    }
}

/// Work is done before `begin` returns, for those who decide about the order of things, as simulations do.
#[derive(Debug, Clone, Copy, Default)]
pub struct AtOnce;

impl Background for AtOnce {
    fn begin(&self, _name: &str, work: Box<dyn FnOnce() + Send>) -> Result<()> {
        work();
        Ok(())
    }
}
