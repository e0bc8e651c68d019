//! `tidemill init`: a new project, or a copy of an example.
//!
//! **Invariant:** no file that exists is overwritten.

use std::path::Path;

use tidemill_model::{Error, Kind, Result, nearest};

use super::failure::{Failure, Outcome};
use super::numbers::shell;
use super::output::Output;

/// A file of a project, as it lies in this repository.
type File = (&'static str, &'static str);

/// The examples that `init --example` writes and the demo runs: the very files of `examples/`.
pub(crate) const EXAMPLES: &[(&str, &[File])] = &[("orders", ORDERS), ("hourly", HOURLY)];

const HOURLY: &[File] = &[
    ("README.md", include_str!("../../../../examples/hourly/README.md")),
    ("tidemill.toml", include_str!("../../../../examples/hourly/tidemill.toml")),
    ("pipelines/orders.sql", include_str!("../../../../examples/hourly/pipelines/orders.sql")),
    ("landing/orders.jsonl", include_str!("../../../../examples/hourly/landing/orders.jsonl")),
];

const ORDERS: &[File] = &[
    ("README.md", include_str!("../../../../examples/orders/README.md")),
    ("tidemill.toml", include_str!("../../../../examples/orders/tidemill.toml")),
    ("pipelines/ingest.sql", include_str!("../../../../examples/orders/pipelines/ingest.sql")),
    ("pipelines/lake.sql", include_str!("../../../../examples/orders/pipelines/lake.sql")),
    ("pipelines/report.sql", include_str!("../../../../examples/orders/pipelines/report.sql")),
    ("pipelines/revenue.sql", include_str!("../../../../examples/orders/pipelines/revenue.sql")),
    ("pipelines/tables.sql", include_str!("../../../../examples/orders/pipelines/tables.sql")),
    ("tables/rates.csv", include_str!("../../../../examples/orders/tables/rates.csv")),
];

/// What a bare `init` writes: one pipeline that runs at once, from a file to a file.
const START: &[File] = &[
    (
        "tidemill.toml",
        "# The project. Everything has a default; see the reference for what can be set.\n[project]\nname = \"NAME\"\n",
    ),
    (
        "pipelines/hello.sql",
        "-- Reads every JSON line of data/in/, keeps the good ones, and writes them to data/out/ as Parquet.\n\
         --   tidemill plan hello      what it will do\n\
         --   tidemill run hello       do it; run it again after adding a file\n\
         CREATE PIPELINE hello WITH (trigger = 'once');\n\n\
         CREATE TABLE visits (\n  visitor VARCHAR NOT NULL,\n  page VARCHAR,\n  seconds DOUBLE,\n  \
         CONSTRAINT seconds_negative CHECK (seconds >= 0) ON VIOLATION DEAD LETTER\n\
         ) WITH (connector = 'files', path = 'data/in', format = 'json');\n\n\
         CREATE TABLE long_visits (\n  visitor VARCHAR,\n  page VARCHAR,\n  seconds DOUBLE\n\
         ) WITH (connector = 'files', path = 'data/out', format = 'parquet');\n\n\
         INSERT INTO long_visits SELECT visitor, lower(page) AS page, seconds FROM visits WHERE seconds > 10;\n",
    ),
    (
        "data/in/visits.jsonl",
        "{\"visitor\":\"ada\",\"page\":\"/Home\",\"seconds\":12.5}\n\
         {\"visitor\":\"bob\",\"page\":\"/docs\",\"seconds\":-1}\n\
         {\"visitor\":\"cyn\",\"page\":\"/docs\",\"seconds\":48}\n",
    ),
    (".gitignore", ".tidemill/\n"),
];

pub(crate) fn init(folder: &Path, example: Option<&str>, output: &Output) -> Outcome {
    let files = match example {
        None => START,
        Some(name) => find(name).map_err(Failure::Usage)?,
    };
    write(folder, files)?;
    let shown = shell(folder);
    output.note(format!("wrote {} files to {shown}", files.len()));
    output.note("Next:");
    let (planned, run) = match example {
        Some("hourly") => ("orders", "orders"),
        Some(_) => ("revenue", "ingest"),
        None => ("hello", "hello"),
    };
    if folder != Path::new(".") {
        output.note(format!("  cd {shown}"));
    }
    output.note(format!("  tidemill plan {planned}"));
    output.note(format!("  tidemill run {run}"));
    Ok(())
}

/// The files of an example.
pub(crate) fn find(name: &str) -> Result<&'static [File]> {
    EXAMPLES.iter().find(|(example, _)| *example == name).map(|(_, files)| *files).ok_or_else(|| {
        let names: Vec<&str> = EXAMPLES.iter().map(|(name, _)| *name).collect();
        let error = Error::new(Kind::Config, "C051", format!("no example `{name}`"));
        let error = match nearest(name, names.iter().copied()) {
            Some(meant) => error.label(format!("did you mean `{meant}`?")),
            None => error,
        };
        error.fact(format!("examples: {}", names.join(", ")))
    })
}

/// Writes a project's files; refuses before the first if any of them exists.
pub(crate) fn write(folder: &Path, files: &[File]) -> Result<()> {
    if let Some((name, _)) = files.iter().find(|(name, _)| folder.join(name).exists()) {
        let message = format!("{} exists", folder.join(name).display());
        return Err(Error::new(Kind::Config, "C052", message)
            .fact("nothing was written; give a new folder, or move the file away"));
    }
    let whole = std::path::absolute(folder).map_err(|e| Error::io("find", folder.display(), e))?;
    let name = whole.file_name().and_then(|name| name.to_str()).unwrap_or("project");
    let name = name.replace('\\', "\\\\").replace('"', "\\\"");
    for (path, text) in files {
        let path = folder.join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|e| Error::io("create", parent.display(), e))?;
        }
        std::fs::write(&path, text.replace("NAME", &name)).map_err(|e| Error::io("write", path.display(), e))?;
    }
    Ok(())
}
