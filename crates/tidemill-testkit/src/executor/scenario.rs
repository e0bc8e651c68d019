//! [`Scenario`]: everything that one seed decides before the first step.
//!
//! **Invariant:** two scenarios of one seed are equal; what happens later is decided by generators seeded from here.

use std::time::Duration;

use fastrand::Rng;
use tidemill_model::{Span, Trigger};

/// What is simulated.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The seed.
    pub seed: u64,
    /// When the pipeline works.
    pub trigger: Trigger,
    /// How often `continuous` commits.
    pub checkpoint: Duration,
    /// How many sources, and whether each is made of files instead of endless splits.
    pub sources: Vec<Kind>,
    /// Splits of each source at the start.
    pub splits: usize,
    /// Rows of all sources together, about.
    pub rows: usize,
    /// How far rows are out of order; also the delay of the watermark.
    pub disorder: Duration,
    /// After how long at its end a split stops holding time.
    pub idle: Duration,
    /// Whether endless sources get further splits while the pipeline runs.
    pub grows: bool,
    /// The length of a window.
    pub window: Duration,
    /// How many keys.
    pub keys: i64,
    /// The most rows in one pull.
    pub batch: usize,
    /// Rows that a lane takes into an epoch, and batches that wait in an exchange queue.
    pub epoch_rows: u64,
    /// Batches that wait in an exchange queue before its lane stops reading.
    pub queue_batches: usize,
    /// Calls to the outside of which one fails; 0: none.
    pub fails_one_in: u32,
    /// Calls to the outside of which one is slow.
    pub slow_one_in: u32,
    /// How many faults there are in all, so that every scenario comes to its end.
    pub faults: u32,
    /// How often a process dies between two steps or in a call.
    pub crashes: u32,
    /// How often a second process is started beside the first.
    pub rivals: u32,
    /// For how long a listing may miss new names.
    pub list_lag: Duration,
    /// Whether the sink of rows publishes part by part (as files do) instead of all at once (as a transaction does).
    pub piecemeal: bool,
    /// How far ahead of the others a split may be read.
    pub max_skew: Option<Duration>,
    /// For how long rows are held back on their way to the sink.
    pub hold: Option<Duration>,
}

/// What a source is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Splits without an end.
    Endless,
    /// A folder that gets further files.
    Files,
    /// A folder as it is at the start; it ends.
    Bounded,
}

impl Scenario {
    /// The scenario of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Scenario {
        let mut random = Rng::with_seed(seed ^ 0x7469_6465_6d69_6c6c);
        let r = &mut random;
        let trigger = match r.u32(0..4) {
            0 => Trigger::Once,
            1 => Trigger::Every(Span(Duration::from_millis(r.u64(50..2_000)))),
            _ => Trigger::Continuous,
        };
        let kind = [Kind::Endless, Kind::Endless, Kind::Files, Kind::Bounded][r.usize(0..4)];
        let second = if kind == Kind::Bounded { Kind::Bounded } else { [Kind::Endless, Kind::Files][r.usize(0..2)] };
        let sources = if r.u32(0..3) == 0 { vec![kind, second] } else { vec![kind] };
        let calm = r.u32(0..4) == 0;
        Scenario {
            seed,
            trigger,
            checkpoint: Duration::from_millis(r.u64(20..800)),
            sources,
            splits: r.usize(1..6),
            rows: r.usize(50..600),
            disorder: Duration::from_millis(r.u64(0..3) * r.u64(1..3_000)),
            idle: if r.bool() { Duration::from_secs(36_000) } else { Duration::from_millis(r.u64(200..3_000)) },
            grows: r.u32(0..3) == 0,
            window: Duration::from_millis(r.u64(100..4_000)),
            keys: r.i64(1..40),
            batch: r.usize(1..60),
            epoch_rows: if r.u32(0..3) == 0 { r.u64(10..100) } else { 1_000_000 },
            queue_batches: r.usize(1..8),
            fails_one_in: if calm { 0 } else { [25, 100, 400][r.usize(0..3)] },
            slow_one_in: [0, 40, 200][r.usize(0..3)],
            faults: r.u32(0..12),
            crashes: if calm { 0 } else { r.u32(0..8) },
            rivals: if r.u32(0..4) == 0 { r.u32(1..4) } else { 0 },
            list_lag: if r.u32(0..4) == 0 { Duration::from_millis(r.u64(1..2_000)) } else { Duration::ZERO },
            piecemeal: r.bool(),
            max_skew: (r.u32(0..3) == 0).then(|| Duration::from_millis(r.u64(0..2_000))),
            hold: (r.u32(0..3) == 0).then(|| Duration::from_millis(r.u64(1..20_000))),
        }
    }

    /// Whether no row may be late: every row keeps to the bound, no split is idle and none joins behind the watermark.
    #[must_use]
    pub fn is_strict(&self) -> bool {
        let joins = self.grows && self.sources.contains(&Kind::Endless);
        self.idle > Duration::from_secs(3_600) && !joins
    }
}
