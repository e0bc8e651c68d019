//! The command line: one `match` from what was typed to what is done.
//!
//! **Invariant:** results go to stdout, progress and notes to stderr; exit code 0 = done, 1 = failed, 2 = usage.

mod args;
mod backfill;
mod dead_letters;
mod demo;
mod failure;
mod gone;
mod grid;
mod imported;
mod init;
mod intervals;
mod letters;
mod numbers;
mod output;
mod pauses;
mod plan;
mod query;
mod reference;
mod replay;
mod rows;
mod run;
mod runs;
mod start;
mod status;
mod story;
mod tables;
mod telling;
mod verify;
mod watermarks;
mod work;

use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use tidemill_model::{Error, Interval, Result, Timestamp, Trigger};

use crate::functions::Functions;
use crate::rebuild::Request;
use crate::runs::Only;
use crate::{RunOptions, SystemClock, Workspace, variable};
use args::{Arguments, Command, Common, Letters, Marks, Order, Picks};
use backfill::Typed;
use failure::{Failure, Outcome};
pub(crate) use numbers::duration;
use output::Output;

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    main_with(&Functions::new())
}

/// Runs the command line of a process whose program adds functions to SQL.
#[must_use]
pub fn main_with(functions: &Functions) -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are answers, everything else is a usage error.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    let output = Output::new(&arguments.common);
    let outcome = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let outcome = runtime.block_on(Box::pin(execute(&arguments, functions, &output)));
            // Reads that were given up on must not keep the process.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(Error::io("start", "the asynchronous runtime", error).into()),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            output.error(failure.error());
            failure.code()
        }
    }
}

async fn execute(arguments: &Arguments, functions: &Functions, output: &Output) -> Outcome<ExitCode> {
    match &arguments.command {
        Command::Init { folder, example } => init::init(folder, example.as_deref(), output)?,
        Command::Demo { stay, rows, folder } => {
            return Ok(Box::pin(demo::demo(*stay, rows.map(|rows| rows.get()), folder.as_deref(), output)).await?);
        }
        Command::Reference { page } => reference::reference(page.as_deref(), output)?,
        command => {
            let asked = Asked::read(command).map_err(Failure::Usage)?;
            let workspace = open(&arguments.common, functions)?;
            if let Command::Start { once } = command {
                start::start(workspace, *once, output).await?;
                return Ok(ExitCode::SUCCESS);
            }
            let done = Box::pin(in_project(&workspace, command, asked, output)).await;
            return done.map_err(|failure| failure.with_state(&workspace));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// When a run is asked to work. It is read before the project is, so that what was typed wrongly is told first.
struct Asked {
    trigger: Option<Trigger>,
    interval: Option<Interval>,
    replay: Option<Request>,
    backfill: Option<Typed>,
}

impl Asked {
    fn read(command: &Command) -> Result<Asked> {
        if let Command::Replay { from, only, whole, .. } = command {
            let replay = Some(replay::request(from, only, *whole)?);
            return Ok(Asked { trigger: None, interval: None, replay, backfill: None });
        }
        if let Command::Backfill {
            from, to, only, order, concurrency, from_what_is_left, dry_run, yes, resume, ..
        } = command
        {
            let time = |text: &Option<String>| text.as_deref().map(Timestamp::parse).transpose();
            let backfill = Typed {
                from: time(from)?,
                to: time(to)?,
                only: match only {
                    Picks::Missing => Only::Missing,
                    Picks::Failed => Only::Failed,
                    Picks::Stale => Only::Stale,
                    Picks::Changed => Only::Changed,
                    Picks::All => Only::All,
                },
                descending: *order == Order::Desc,
                concurrency: concurrency.map(NonZeroUsize::get),
                dry_run: *dry_run,
                yes: *yes,
                resume: *resume,
                from_what_is_left: *from_what_is_left,
            };
            return Ok(Asked { trigger: None, interval: None, replay: None, backfill: Some(backfill) });
        }
        let Command::Run { trigger, interval, .. } = command else {
            return Ok(Asked { trigger: None, interval: None, replay: None, backfill: None });
        };
        Ok(Asked {
            trigger: trigger.as_deref().map(|text| Trigger::parse(text, None)).transpose()?,
            interval: interval.as_deref().map(Interval::parse).transpose()?,
            replay: None,
            backfill: None,
        })
    }
}

/// The commands that are about a project.
async fn in_project(workspace: &Workspace, command: &Command, asked: Asked, output: &Output) -> Outcome<ExitCode> {
    match command {
        Command::Init { .. } | Command::Demo { .. } | Command::Reference { .. } | Command::Start { .. } => {}
        Command::Backfill { pipeline, .. } => {
            let pipeline = workspace.catalog.project().pipeline(pipeline).map_err(Failure::Usage)?;
            if let Some(typed) = &asked.backfill {
                Box::pin(backfill::backfill(workspace, pipeline, typed, output)).await?;
            }
        }
        Command::Rerun { pipeline, run, from_step, from_what_is_left } => {
            let pipeline = workspace.catalog.project().pipeline(pipeline).map_err(Failure::Usage)?;
            let asked = (run.as_str(), from_step.as_deref(), *from_what_is_left);
            Box::pin(backfill::rerun(workspace, pipeline, asked, output)).await?;
        }
        Command::Runs { pipeline, run, last, logs } => match (pipeline, run) {
            (Some(pipeline), Some(run)) => {
                let pipeline = workspace.catalog.project().pipeline(pipeline).map_err(Failure::Usage)?;
                runs::run(workspace, &pipeline.name, *run, *logs, output)?;
            }
            _ => runs::runs(workspace, pipeline.as_deref(), *last, output)?,
        },
        Command::Pause { pipeline, why } => {
            let pipeline = workspace.catalog.project().pipeline(pipeline).map_err(Failure::Usage)?;
            pauses::pause(workspace, pipeline, why, output)?;
        }
        Command::Resume { pipeline } => {
            let pipeline = workspace.catalog.project().pipeline(pipeline).map_err(Failure::Usage)?;
            pauses::resume(workspace, pipeline, output)?;
        }
        Command::Plan { pipeline } => plan::plan(workspace, pipeline.as_deref(), output)?,
        Command::Replay { pipeline, dry_run, lanes, .. } => {
            let pipeline = workspace.catalog.project().pipeline(pipeline).map_err(Failure::Usage)?;
            let Some(request) = &asked.replay else { return Ok(ExitCode::SUCCESS) };
            if *dry_run {
                replay::dry_run(workspace, pipeline, request, output)?;
            } else {
                let lanes = lanes.map(|lanes| lanes.get());
                Box::pin(replay::replay(workspace, pipeline, request, lanes, output)).await?;
            }
        }
        Command::Run { pipeline, lanes, serve, rebuild, from_what_is_left, .. } => {
            let pipeline = workspace.catalog.project().pipeline(pipeline).map_err(Failure::Usage)?;
            match asked.interval {
                Some(interval) => {
                    Box::pin(run::interval(workspace, pipeline, (interval, *from_what_is_left), output)).await?;
                }
                None => {
                    let lanes = lanes.map(|lanes| lanes.get());
                    let options = RunOptions { trigger: asked.trigger, lanes, ..RunOptions::default() };
                    let how = run::How { serve: *serve, rebuild: *rebuild };
                    Box::pin(run::live(workspace, pipeline, options, how, output)).await?;
                }
            }
        }
        Command::Query { sql } => Box::pin(query::query(workspace, sql, output)).await?,
        Command::Status { pipeline } => status::status(workspace, pipeline.as_deref(), output)?,
        Command::DeadLetters { replay: Some(Letters::Replay(asked)), .. } => {
            let pipeline = workspace.catalog.project().pipeline(&asked.pipeline).map_err(Failure::Usage)?;
            Box::pin(letters::replay(workspace, pipeline, asked, output)).await?;
        }
        Command::DeadLetters { replay: None, pipeline, show } => {
            let pipeline = pipeline.as_deref().unwrap_or_default();
            Box::pin(dead_letters::dead_letters(workspace, pipeline, *show, output)).await?;
        }
        Command::Watermarks { import: Some(Marks::Import { file, dry_run }), .. } => {
            imported::import(workspace, file, *dry_run, output)?;
        }
        Command::Watermarks { import: None, pipeline } => {
            watermarks::watermarks(workspace, pipeline.as_deref(), output)?;
        }
        Command::Verify { pipeline } => return Box::pin(verify::verify(workspace, pipeline, output)).await,
    }
    Ok(ExitCode::SUCCESS)
}

/// Opens the project that the command is about.
fn open(common: &Common, functions: &Functions) -> Result<Workspace> {
    let here = match &common.project {
        Some(folder) => folder.clone(),
        None => std::env::current_dir().map_err(|e| Error::io("find", "the current folder", e))?,
    };
    Workspace::open_with(&here, Arc::new(SystemClock), &variable, functions)
}
