//! GROUP BY on a stream, in two operators: [`PartialFactory`] pre-aggregates on the lane where rows arrive,
//! [`FinalFactory`] merges what belongs together and emits it. [`GroupSpec`] is what both know of the query.
//!
//! **Invariant:** whether a row is late is decided once, in the partial operator, row by row against its own watermark;
//! it sends on what it holds of a window before it lets the watermark close that window. So nothing that was accepted
//! is late further down.

mod changes;
mod finish;
mod groups;
mod panes;
mod partial;
mod session;
mod sliding;
mod spec;
mod tiers;
mod windows;

pub(super) use changes::changed_rows;
pub(super) use finish::{Emission, FinalFactory};
pub(super) use groups::Groups;
pub(super) use partial::PartialFactory;
pub(super) use session::{SessionFactory, SessionPartialFactory};
pub(super) use sliding::SlidingFactory;
pub(super) use spec::{Aggregate, GroupSpec, OutputColumn, SessionBy, WindowBy};
