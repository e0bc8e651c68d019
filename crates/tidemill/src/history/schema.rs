//! The tables of the history, and how an older file is brought up to this version.
//!
//! **Invariant:** a file of a newer version is left alone.

use rusqlite::Connection;
use tidemill_model::{Error, Kind, Result};

use super::kept::failed;

/// What each version added to the one before, from an empty file on.
const VERSIONS: &[&str] = &["
    CREATE TABLE runs (
        run INTEGER PRIMARY KEY AUTOINCREMENT,
        pipeline TEXT NOT NULL,
        start_us INTEGER NOT NULL,
        end_us INTEGER NOT NULL,
        generation INTEGER,
        epoch INTEGER,
        cause TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        state TEXT NOT NULL,
        begun_us INTEGER NOT NULL,
        ended_us INTEGER,
        rows_read INTEGER,
        rows_written INTEGER,
        dead INTEGER,
        step TEXT,
        code TEXT,
        error TEXT,
        retry_us INTEGER,
        holder TEXT NOT NULL
    );
    CREATE INDEX runs_of_pipeline ON runs (pipeline, run);
    CREATE INDEX runs_of_state ON runs (state) WHERE state = 'running';
    CREATE TABLE steps (
        run INTEGER NOT NULL REFERENCES runs (run) ON DELETE CASCADE,
        step TEXT NOT NULL,
        state TEXT NOT NULL,
        begun_us INTEGER,
        ended_us INTEGER,
        rows INTEGER,
        value TEXT,
        error TEXT,
        PRIMARY KEY (run, step)
    );
"];

/// Makes the tables that are missing.
pub(super) fn bring_up(connection: &Connection) -> Result<()> {
    let fail = |e: rusqlite::Error| failed(&e, "open");
    // Readers never wait for a writer, and a run waits for no disk: what is lost with the power is only history.
    connection
        .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON;")
        .map_err(fail)?;
    let version = || -> Result<usize> {
        let known: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(fail)?;
        Ok(known as usize)
    };
    if version()? == VERSIONS.len() {
        return Ok(());
    }
    connection.execute_batch("BEGIN IMMEDIATE").map_err(fail)?;
    // Another process may have done it meanwhile.
    let known = version()?;
    let done = if known > VERSIONS.len() {
        Err(Error::new(
            Kind::Corrupt,
            "X061",
            format!("the history of runs is of version {known}, which this Tidemill does not know"),
        )
        .fact("run the version of Tidemill that wrote it, or a newer one"))
    } else {
        let missing = VERSIONS.iter().skip(known).copied().collect::<String>();
        connection.execute_batch(&format!("{missing} PRAGMA user_version = {};", VERSIONS.len())).map_err(fail)
    };
    let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
    connection.execute_batch(end).map_err(fail)?;
    done
}
