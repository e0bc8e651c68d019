//! When to look and which cells to own: [`Schedule`] is a list of instants, [`Grid`] the cells between such instants.
//!
//! **Invariant:** what is written decides alone: neither the present, nor the machine, nor its time zone has a say.
//!
//! # What can be written
//!
//! | text | fires |
//! |---|---|
//! | `@hourly` | at each full hour |
//! | `@daily`, `@midnight` | at 00:00 |
//! | `@weekly` | on Monday at 00:00, as `date_trunc('week')` has it; the Sunday of cron is `0 0 * * 0` |
//! | `@monthly`, `@quarterly`, `@yearly`, `@annually` | on the first day, at 00:00 |
//! | `every 15 minutes`, `every 2 days` | at the multiples of that length since 1970-01-01T00:00Z; whole weeks since Monday 1970-01-05 |
//! | `0 3 * * 1-5` | cron: minute, hour, day, month, weekday |
//!
//! Cron knows lists, ranges, steps, the names `JAN` and `MON`, `L` for the last day, `15W` for the working day nearest
//! to the 15th, `5L` for the last Friday and `1#2` for the second Monday. When both a day and a weekday are given, one
//! of them suffices; a `+` before the weekday asks for both. Any of these may end in a time zone, `@daily in
//! Europe/Paris`, which is how a schedule with a zone is shown.
//!
//! # Time zones
//!
//! Without a zone everything is UTC. With a zone, hours begin at :00 of the local clock (at :30 of UTC in Kolkata),
//! days at local midnight, and `every` must be whole days: a day of 23 or 25 hours cannot be cut into equal pieces. The
//! zones are those compiled in.
//!
//! When the local clock jumps:
//!
//! - A local time that does not exist fires at the first instant after the gap. Several that do not exist fire there
//!   once, together with the fire that belongs there anyway.
//! - A local time that exists twice fires at the earlier of the two only.
//! - A cron with `*` or a step in its hour field follows the clock instead: it fires whenever the clock shows a time
//!   that it names, so twice at one that exists twice, and never at one that does not exist. So `0 * * * *` fires 23 or
//!   25 times on such days, once each real hour. `@hourly` is the same.
//!
//! So `30 2 * * *` in Paris fires on the last Sunday of March at 03:00 and on the last Sunday of October at the first
//! 02:30, and `@daily` has cells of 23 and 25 hours.

mod cron;
mod days;
mod fires;
mod grid;
mod pattern;
mod read;
#[cfg(test)]
mod tests;
mod when;
mod zone;

pub(crate) use cron::is_meant as is_cron;
pub use grid::Grid;
pub(crate) use read::PRESETS;
pub use when::Schedule;
