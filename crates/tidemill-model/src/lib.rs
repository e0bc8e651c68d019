//! The nouns of Tidemill: epochs, splits, offsets, time, triggers, schedules, retries, options and errors.
//!
//! **Invariant:** nothing here does input or output, reads a clock or draws a random number; every other crate may
//! depend on this one and it depends on none of them.

mod catchup;
mod duration;
mod error;
mod hash;
mod ids;
mod interval;
mod nearest;
mod options;
mod overlaps;
mod retry;
mod schedule;
mod time;
mod trigger;

pub use catchup::Catchup;
pub use duration::Span;
pub use error::{Error, Kind, Place, Result};
pub use ids::{Epoch, Generation, Offset, SplitId};
pub use interval::Interval;
pub use nearest::nearest;
pub use options::{Given, OptionKind, OptionSpec, Options, Settings};
pub use overlaps::Overlaps;
pub use retry::{Jitter, RetryOn, RetryPolicy, Verdict};
pub use schedule::{Grid, Schedule};
pub use time::{Clock, Timestamp, Watermark};
pub use trigger::Trigger;
