//! The nouns of Tidemill: epochs, splits, offsets, time, triggers, options and errors.
//!
//! **Invariant:** nothing here does input or output, reads a clock or draws a random number; every other crate may
//! depend on this one and it depends on none of them.

mod duration;
mod error;
mod ids;
mod interval;
mod nearest;
mod options;
mod time;
mod trigger;

pub use duration::Span;
pub use error::{Error, Kind, Place, Result};
pub use ids::{Epoch, Generation, Offset, SplitId};
pub use interval::Interval;
pub use nearest::nearest;
pub use options::{Given, OptionKind, OptionSpec, Options, Settings};
pub use time::{Clock, Timestamp, Watermark};
pub use trigger::Trigger;
