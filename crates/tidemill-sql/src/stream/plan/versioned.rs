//! [`Versioned`]: a step whose statement calls functions that a program has added; its state depends on their versions.
//!
//! **Invariant:** it is the step that it wraps but for what stored state must agree with.

use std::sync::Arc;

use tidemill_model::Result;
use tidemill_runtime::{LookedUp, Operator, OperatorFactory, Reentrance};

/// Makes the operators of another factory.
#[derive(Debug)]
pub(super) struct Versioned {
    pub(super) step: Arc<dyn OperatorFactory>,
    /// The functions with their versions.
    pub(super) functions: String,
}

impl Versioned {
    /// With the functions, when there is something to add them to.
    fn with_functions(&self, text: String) -> String {
        if text.is_empty() { text } else { format!("{text}; functions {}", self.functions) }
    }
}

impl OperatorFactory for Versioned {
    fn create(&self, lane: usize, lanes: usize) -> Result<Box<dyn Operator>> {
        self.step.create(lane, lanes)
    }

    fn describe(&self) -> String {
        self.step.describe()
    }

    fn table(&self) -> Option<Arc<dyn LookedUp>> {
        self.step.table()
    }

    fn fingerprint(&self) -> String {
        self.with_functions(self.step.fingerprint())
    }

    fn definition(&self) -> String {
        self.with_functions(self.step.definition())
    }

    fn reentrance(&self) -> Option<Reentrance> {
        self.step.reentrance()
    }
}
