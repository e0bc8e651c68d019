//! The command line as typed: [`Arguments`].
//!
//! **Invariant:** parsing decides nothing; every default that depends on the project is resolved by the command.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// One definition of a pipeline, run as batch, micro-batch or stream, with the same answer each time.
#[derive(Debug, Parser)]
#[command(name = "tidemill", version, about, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// The project's folder [default: this folder or the nearest above it with tidemill.toml]
    #[arg(long, short = 'C', global = true, value_name = "FOLDER")]
    pub(crate) project: Option<PathBuf>,
    /// How results are printed
    #[arg(long, global = true, value_enum, default_value_t = Format::Human)]
    pub(crate) format: Format,
    /// Only results and errors, no progress
    #[arg(long, short = 'q', global = true)]
    pub(crate) quiet: bool,
    /// Errors as one line each: file:line:column: code: text
    #[arg(long, global = true)]
    pub(crate) short: bool,
    /// Causes of errors, too
    #[arg(long, short = 'v', global = true)]
    pub(crate) verbose: bool,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Tables for people.
    Human,
    /// One JSON value.
    Json,
    /// One JSON object a line.
    Ndjson,
}

/// A number above 0, refused in words of people.
fn at_least_one<T: std::str::FromStr>(text: &str) -> Result<T, &'static str> {
    text.parse().map_err(|_| "write a whole number, 1 or more")
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a new project, or a copy of an example
    Init {
        /// The folder, created if absent
        folder: PathBuf,
        /// Copy this example instead of a small start
        #[arg(long, value_name = "NAME")]
        example: Option<String>,
    },
    /// The orders story: one definition in three modes, compared with the truth
    Demo {
        /// Keep the server up afterwards
        #[arg(long)]
        stay: bool,
        /// How many orders
        #[arg(long, value_name = "N", value_parser = at_least_one::<NonZeroU64>)]
        rows: Option<NonZeroU64>,
        /// The folder it works in, emptied first if an earlier demo made it [default: a folder of its own under the system's temporary one]
        #[arg(long, value_name = "FOLDER")]
        folder: Option<PathBuf>,
    },
    /// Check a pipeline and show its graph and guarantees; changes nothing
    Plan {
        /// The pipeline [default: all]
        pipeline: Option<String>,
    },
    /// Run one pipeline here
    Run {
        /// The pipeline
        pipeline: String,
        /// When it works, instead of its own trigger: once, continuous, 'every 5 seconds'
        #[arg(long, value_name = "TRIGGER", conflicts_with = "interval")]
        trigger: Option<String>,
        /// Run one interval of event time instead: 2026-11-20T02/PT1H, 2026-11-20/2026-11-21
        #[arg(long, value_name = "START/PERIOD")]
        interval: Option<String>,
        /// How many lanes [default: as configured, or one for each core]
        #[arg(long, value_name = "N", value_parser = at_least_one::<NonZeroUsize>)]
        lanes: Option<NonZeroUsize>,
        /// With an interval: compute it although files are gone that it was computed from; their rows go out of what stands
        #[arg(long, requires = "interval")]
        from_what_is_left: bool,
        /// Answer its views over HTTP at the address of tidemill.toml while it runs
        #[arg(long, conflicts_with = "interval")]
        serve: bool,
        /// Compute what another query computed anew first, from the beginning of the input, and switch it in one epoch
        #[arg(long, conflicts_with = "interval")]
        rebuild: bool,
    },
    /// Compute a pipeline's results anew over the input that it has read, and switch them in one epoch
    Replay {
        /// The pipeline
        pipeline: String,
        /// From where: earliest; a time, which leaves out rows before it: 2026-11-20T02; or offsets of splits, where the
        /// others are read from their beginning: raw_orders/raw-orders/3=1200,raw_orders/raw-orders/4=88, or @FILE with them
        #[arg(long, value_name = "earliest|TIME|OFFSETS")]
        from: String,
        /// Only this table or view; may be repeated [default: all that the pipeline writes]
        #[arg(long, value_name = "NAME")]
        only: Vec<String>,
        /// With a time or offsets: let results be those of the replayed rows alone, without anything older
        #[arg(long)]
        whole: bool,
        /// Show what would be read, replaced and refused; change nothing
        #[arg(long)]
        dry_run: bool,
        /// How many lanes [default: as configured, or one for each core]
        #[arg(long, value_name = "N", value_parser = at_least_one::<NonZeroUsize>)]
        lanes: Option<NonZeroUsize>,
    },
    /// Run all pipelines, by their schedules and live, and serve their views
    Start {
        /// Run what is due now and end, instead of going on
        #[arg(long)]
        once: bool,
    },
    /// Run intervals of a pipeline that are missing, failed, stale or changed, or all of a range anew
    Backfill {
        /// The pipeline
        pipeline: String,
        /// The first instant of the range [default: where the pipeline begins]
        #[arg(long, value_name = "TIME")]
        from: Option<String>,
        /// The end of the range [default: the end of the last interval that is due]
        #[arg(long, value_name = "TIME")]
        to: Option<String>,
        /// Which intervals of the range
        #[arg(long, value_enum, default_value_t = Picks::Missing)]
        only: Picks,
        /// Which of them come first
        #[arg(long, value_enum, default_value_t = Order::Asc)]
        order: Order,
        /// How many run at the same time [default: as the pipeline says]
        #[arg(long, value_name = "N", value_parser = at_least_one::<NonZeroUsize>)]
        concurrency: Option<NonZeroUsize>,
        /// Also intervals that files are gone of which they were computed from; the rows of these go out of what stands
        #[arg(long)]
        from_what_is_left: bool,
        /// Show what would be run; change nothing
        #[arg(long)]
        dry_run: bool,
        /// Run it without asking
        #[arg(long, short = 'y')]
        yes: bool,
        /// Go on with a backfill that was stopped, by its number
        #[arg(long, value_name = "N", conflicts_with_all = ["from", "to", "only", "order"])]
        resume: Option<u64>,
    },
    /// Run an interval of a pipeline again, in whole or from a step on
    Rerun {
        /// The pipeline
        pipeline: String,
        /// The number of a run, or an interval: START/PERIOD or START/END
        run: String,
        /// Only this step and those after it
        #[arg(long, value_name = "STEP")]
        from_step: Option<String>,
        /// Compute it although files are gone that it was computed from; their rows go out of what stands
        #[arg(long)]
        from_what_is_left: bool,
    },
    /// The runs of intervals as they were, and the intervals that are missing
    Runs {
        /// The pipeline [default: all]
        pipeline: Option<String>,
        /// One run in detail, by its number
        run: Option<i64>,
        /// How many runs are shown, the newest first
        #[arg(long, value_name = "N", default_value_t = 20)]
        last: u32,
        /// With a run: what its programs printed, too
        #[arg(long, requires = "run")]
        logs: bool,
    },
    /// Let schedulers leave a pipeline alone until it is resumed
    Pause {
        /// The pipeline
        pipeline: String,
        /// The reason, for whoever looks
        #[arg(long, value_name = "TEXT", default_value = "")]
        why: String,
    },
    /// Let schedulers run a paused pipeline again
    Resume {
        /// The pipeline
        pipeline: String,
    },
    /// Ask a question in SQL over tables, views and dead letters
    Query {
        /// One SELECT
        sql: String,
    },
    /// How far each pipeline is
    Status {
        /// The pipeline [default: all]
        pipeline: Option<String>,
    },
    /// What could not be read or broke an expectation, by reason; `replay` lets it enter again
    #[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
    DeadLetters {
        #[command(subcommand)]
        replay: Option<Letters>,
        /// The pipeline
        #[arg(required = true)]
        pipeline: Option<String>,
        /// Show the newest N records, too
        #[arg(long, value_name = "N", default_value_t = 1)]
        show: usize,
    },
    /// How far time is, which split holds it back, and what came late; `import` takes a table of hand-written ones over
    #[command(args_conflicts_with_subcommands = true)]
    Watermarks {
        #[command(subcommand)]
        import: Option<Marks>,
        /// The pipeline [default: all]
        pipeline: Option<String>,
    },
    /// Compute anew what a pipeline serves and has written, and show what differs by key
    Verify {
        /// The pipeline
        pipeline: String,
    },
    /// Print a generated page of the reference
    #[command(hide = true)]
    Reference {
        /// The page [default: list them]
        page: Option<String>,
    },
}

/// Which intervals of a range a backfill runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Picks {
    /// Those that are not done.
    Missing,
    /// Those whose run has failed.
    Failed,
    /// Those that lack rows which came after they were done.
    Stale,
    /// Those that another query has computed.
    Changed,
    /// All of them, anew.
    All,
}

/// Which intervals come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Order {
    /// The earliest.
    Asc,
    /// The latest.
    Desc,
}

/// What is done with watermarks.
#[derive(Debug, Subcommand)]
pub(crate) enum Marks {
    /// Take over, once, what a hand-written table of watermarks says is done: pipeline_name, last_value, …
    Import {
        /// The table, as CSV with a header or as JSON lines
        file: PathBuf,
        /// Show what it would say; change nothing
        #[arg(long)]
        dry_run: bool,
    },
}

/// What is done with dead letters.
#[derive(Debug, Subcommand)]
pub(crate) enum Letters {
    /// Let letters enter again, after what made them letters was corrected: all of them in one epoch
    Replay(Replaying),
}

/// Which letters enter again.
#[derive(Debug, Args)]
pub(crate) struct Replaying {
    /// The pipeline
    pub(crate) pipeline: String,
    /// Only those of this table or view [default: all of the pipeline]
    #[arg(long, value_name = "NAME", conflicts_with = "from")]
    pub(crate) dataset: Option<String>,
    /// Only those with this reason; may be repeated
    #[arg(long, value_name = "REASON", conflicts_with = "from")]
    pub(crate) reason: Vec<String>,
    /// Only those for which this condition over the columns of NAME.dead_letters holds
    #[arg(long = "where", value_name = "SQL", conflicts_with = "from")]
    pub(crate) condition: Option<String>,
    /// Those of this file, with the records as they were corrected there; dead-letters P --format ndjson writes it
    #[arg(long, value_name = "FILE")]
    pub(crate) from: Option<PathBuf>,
    /// Show what would enter and what cannot; change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How many lanes [default: as configured, or one for each core]
    #[arg(long, value_name = "N", value_parser = at_least_one::<NonZeroUsize>)]
    pub(crate) lanes: Option<NonZeroUsize>,
}
