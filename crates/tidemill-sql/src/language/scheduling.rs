//! [`Scheduling`]: when the intervals of a pipeline run, how often a failed one is tried again, and what it may take.
//!
//! **Invariant:** every option is of use to a pipeline with a schedule or with intervals, and refused on any other.

use std::time::Duration;

use tidemill_model::{
    Catchup, Error, Grid, Kind, OptionKind, OptionSpec, Place, RetryPolicy, Settings, Timestamp, Trigger,
};

use super::options::place;

/// Options of CREATE PIPELINE that are about the runs of its intervals.
pub const SCHEDULE_OPTIONS: &[OptionSpec] = &[
    OptionSpec::optional(
        "timezone",
        OptionKind::Text,
        None,
        "The zone whose clock the schedule follows, by its IANA name: Europe/Paris. UTC unless given; event times are UTC in any case.",
    ),
    OptionSpec::optional(
        "grid",
        OptionKind::Text,
        None,
        "Which intervals there are, when they are not those between two looks of the trigger: @hourly, 1 day, 15 minutes, or cron.",
    ),
    OptionSpec::optional(
        "jitter",
        OptionKind::Span,
        None,
        "Within how much time after an interval is due its run begins; each pipeline has a moment of its own in it, always the same.",
    ),
    OptionSpec::optional("end", OptionKind::Time, None, "No interval that ends later is run by schedule."),
    OptionSpec::optional(
        "catchup",
        OptionKind::Text,
        None,
        "Which intervals that were due while no scheduler ran are run by themselves: none, latest (the last one), all, or since a time. Others stay visible as missing, for a backfill. Unless given: latest, and all where the trigger is a table.",
    ),
    OptionSpec::optional("concurrency", OptionKind::Integer, Some("1"), "How many intervals may run at the same time."),
    OptionSpec::optional(
        "pool",
        OptionKind::Text,
        None,
        "The pool of `tidemill.toml` whose slots its runs share with those of other pipelines.",
    ),
    OptionSpec::optional("retries", OptionKind::Integer, Some("0"), "How often a failed run is tried again."),
    OptionSpec::optional(
        "retry_delay",
        OptionKind::Span,
        Some("5 minutes"),
        "How long after a failure it is tried again, the first time.",
    ),
    OptionSpec::optional(
        "retry_factor",
        OptionKind::Number,
        Some("2"),
        "How many times longer each delay is than the one before.",
    ),
    OptionSpec::optional("retry_max_delay", OptionKind::Span, Some("1 hour"), "How long a delay is at most."),
    OptionSpec::optional(
        "retry_jitter",
        OptionKind::OneOf(&["some", "full", "none"]),
        Some("some"),
        "By how much delays differ, so that what failed together is not tried again together: up to half a delay more, anything up to the delay, or not at all.",
    ),
    OptionSpec::optional(
        "retry_limit",
        OptionKind::Span,
        None,
        "How long after the first attempt began another may begin at all.",
    ),
    OptionSpec::optional(
        "retry_on",
        OptionKind::Text,
        Some("unavailable, internal"),
        "Which failures are tried again, by their kinds: unavailable, data, internal, or all of these.",
    ),
    OptionSpec::optional(
        "timeout",
        OptionKind::Span,
        None,
        "How long an attempt may take before it is stopped and counts as failed.",
    ),
    OptionSpec::optional(
        "on_empty",
        OptionKind::OneOf(&["warn", "fail", "ignore"]),
        Some("warn"),
        "What becomes of a run that writes no row to a table whose intervals before had some: it stands with a warning, fails, or stands in silence.",
    ),
];

/// What becomes of a run that writes no rows where those before it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnEmpty {
    /// It stands, and that is said.
    #[default]
    Warn,
    /// It fails.
    Fail,
    /// It stands.
    Ignore,
}

/// How the intervals of a pipeline are run.
#[derive(Debug, Clone)]
pub struct Scheduling {
    /// Its intervals; `None` when it has no schedule.
    pub grid: Option<Grid>,
    /// Within how much time after an interval is due its run begins.
    pub jitter: Option<Duration>,
    /// No interval that ends later is run by schedule.
    pub end: Option<Timestamp>,
    /// Which missed intervals are run by themselves.
    pub catchup: Catchup,
    /// How many intervals may run at the same time.
    pub concurrency: usize,
    /// The pool whose slots its runs take.
    pub pool: Option<String>,
    /// How often and when a failed run is tried again.
    pub retry: RetryPolicy,
    /// How long an attempt may take.
    pub timeout: Option<Duration>,
    /// What becomes of a run that writes no rows where those before it did.
    pub on_empty: OnEmpty,
}

impl Scheduling {
    /// Reads the options.
    pub(super) fn of(
        settings: &Settings,
        trigger: &Trigger,
        value_place: &dyn Fn(&str) -> Option<Place>,
    ) -> Result<Scheduling, Vec<Error>> {
        let mut errors = Vec::new();
        let mut lift = |name: &str, error: Error| errors.push(place(error, value_place(name).as_ref()));
        let zone = settings.text("timezone");
        let own = match trigger {
            Trigger::Scheduled(schedule) => Some(Grid::of(schedule)),
            _ => None,
        };
        let grid = match settings.text("grid").map(|text| Grid::parse(text, zone)) {
            None => own,
            Some(Ok(grid)) => Some(grid),
            Some(Err(error)) => {
                lift("grid", error);
                None
            }
        };
        let catchup = Catchup::parse(settings.text("catchup").unwrap_or(match trigger {
            Trigger::On(_) => "all",
            _ => "latest",
        }));
        let on = tidemill_model::RetryOn::parse(settings.text("retry_on").unwrap_or("unavailable, internal"));
        let concurrency = settings.integer("concurrency").unwrap_or(1);
        if concurrency == 0 {
            lift("concurrency", Error::new(Kind::Config, "C120", "no interval could ever run with concurrency 0"));
        }
        let catchup = catchup.map_err(|e| lift("catchup", e)).ok();
        let on = on.map_err(|e| lift("retry_on", e)).ok();
        let on = on.unwrap_or_default();
        let retry = RetryPolicy {
            count: u32::try_from(settings.integer("retries").unwrap_or(0)).unwrap_or(u32::MAX),
            delay: settings.span("retry_delay").unwrap_or_default(),
            factor: settings.number("retry_factor").unwrap_or(2.0),
            max_delay: settings.span("retry_max_delay"),
            jitter: match settings.text("retry_jitter") {
                Some("full") => tidemill_model::Jitter::Full,
                Some("none") => tidemill_model::Jitter::None,
                _ => tidemill_model::Jitter::Deterministic,
            },
            limit: settings.span("retry_limit"),
            on,
        };
        if let Err(error) = retry.check() {
            lift(if retry.factor >= 1.0 { "retry_max_delay" } else { "retry_factor" }, error);
        }
        let (Some(catchup), true) = (catchup, errors.is_empty()) else { return Err(errors) };
        Ok(Scheduling {
            grid,
            jitter: settings.span("jitter"),
            end: settings.time("end"),
            catchup,
            concurrency: usize::try_from(concurrency).unwrap_or(usize::MAX),
            pool: settings.text("pool").map(str::to_owned),
            retry,
            timeout: settings.span("timeout"),
            on_empty: match settings.text("on_empty") {
                Some("fail") => OnEmpty::Fail,
                Some("ignore") => OnEmpty::Ignore,
                _ => OnEmpty::Warn,
            },
        })
    }
}
