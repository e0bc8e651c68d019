//! GROUP BY over sessions on a stream, in two operators: [`SessionPartialFactory`] makes runs of the rows of a lane,
//! [`SessionFactory`] joins the runs of a key to sessions.
//!
//! **Invariant:** which rows make a session follows from their keys and times; runs are only a shorter way to say them.

mod ahead;
mod finish;
mod index;
mod key;
mod line;
mod partial;
mod runs;
mod standing;

pub(in crate::stream) use finish::SessionFactory;
pub(in crate::stream) use partial::SessionPartialFactory;
