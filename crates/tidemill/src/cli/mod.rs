//! The command line: one `match` from what was typed to what is done.
//!
//! **Invariant:** results go to stdout, progress and notes to stderr; exit code 0 = done, 1 = failed, 2 = usage.

mod args;
mod dead_letters;
mod demo;
mod init;
mod numbers;
mod output;
mod plan;
mod query;
mod reference;
mod rows;
mod run;
mod status;
mod story;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use tidemill_model::{Error, Result};

use crate::{SystemClock, Workspace, variable};
use args::{Arguments, Command, Common};
use output::Output;

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
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
            let outcome = runtime.block_on(Box::pin(execute(&arguments, &output)));
            // Reads that were given up on must not keep the process.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(Error::io("start", "the asynchronous runtime", error)),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            output.error(&error);
            ExitCode::FAILURE
        }
    }
}

async fn execute(arguments: &Arguments, output: &Output) -> Result<ExitCode> {
    let common = &arguments.common;
    match &arguments.command {
        Command::Init { folder, example } => init::init(folder, example.as_deref(), output)?,
        Command::Demo { stay, rows, folder } => {
            return Box::pin(demo::demo(*stay, rows.map(|rows| rows.get()), folder.as_deref(), output)).await;
        }
        Command::Plan { pipeline } => plan::plan(&open(common)?, pipeline.as_deref(), output)?,
        Command::Run { pipeline, trigger, interval, lanes, serve } => {
            let workspace = open(common)?;
            match interval {
                Some(interval) => Box::pin(run::interval(&workspace, pipeline, interval, output)).await?,
                None => {
                    run::live(&workspace, pipeline, trigger.as_deref(), lanes.map(|lanes| lanes.get()), *serve, output)
                        .await?
                }
            }
        }
        Command::Query { sql } => Box::pin(query::query(&open(common)?, sql, output)).await?,
        Command::Status { pipeline } => status::status(&open(common)?, pipeline.as_deref(), output)?,
        Command::DeadLetters { pipeline, show } => {
            dead_letters::dead_letters(&open(common)?, pipeline, *show, output)?;
        }
        Command::Reference { page } => reference::reference(page.as_deref(), output)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Opens the project that the command is about.
fn open(common: &Common) -> Result<Workspace> {
    let here = match &common.project {
        Some(folder) => folder.clone(),
        None => std::env::current_dir().map_err(|e| Error::io("find", "the current folder", e))?,
    };
    Workspace::open(&here, Arc::new(SystemClock), &variable)
}
