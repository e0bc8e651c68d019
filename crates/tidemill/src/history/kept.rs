//! [`History`]: the file that runs are kept in.
//!
//! **Invariant:** a write that fails is told to whoever asked for it, and nothing waits for it for long.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};
use tidemill_model::{Error, Interval, Kind, Result, Timestamp};

use super::records::{self, Cause, RunRecord, StepRecord};
use super::schema;

/// How long a process waits for another one that writes.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many runs of each pipeline are kept.
const KEPT: u32 = 100_000;

/// The history of a project's runs. Cheap to clone; all clones share a connection.
#[derive(Debug, Clone)]
pub struct History {
    connection: Arc<Mutex<Connection>>,
}

impl History {
    /// Opens the file `history.sqlite` of a state folder, creating it when it is absent.
    ///
    /// # Errors
    /// Unavailable, when it cannot be opened; Corrupt, when it is no history or of a newer version.
    pub fn open(state: &Path) -> Result<History> {
        std::fs::create_dir_all(state).map_err(|e| Error::io("create", state.display(), e))?;
        let path = state.join("history.sqlite");
        let connection = Connection::open(&path).map_err(|e| failed(&e, "open"))?;
        connection.busy_timeout(PATIENCE).map_err(|e| failed(&e, "open"))?;
        schema::bring_up(&connection)?;
        Ok(History { connection: Arc::new(Mutex::new(connection)) })
    }

    /// Opens the history of a state folder to look at it: `None` when there is none yet. Creates nothing.
    ///
    /// # Errors
    /// As [`History::open`].
    pub fn look(state: &Path) -> Result<Option<History>> {
        if state.join("history.sqlite").is_file() { History::open(state).map(Some) } else { Ok(None) }
    }

    /// A run begins; answers its number.
    ///
    /// # Errors
    /// Unavailable.
    pub fn begin(
        &self,
        pipeline: &str,
        interval: Interval,
        (cause, attempt): (Cause, u32),
        (at, holder): (Timestamp, &str),
    ) -> Result<i64> {
        let connection = self.connection();
        let done = connection.execute(
            "INSERT INTO runs (pipeline, start_us, end_us, cause, attempt, state, begun_us, holder) VALUES (?1, ?2, ?3, ?4, ?5, 'running', ?6, ?7)",
            params![pipeline, interval.start.0, interval.end.0, cause.word(), attempt, at.0, holder],
        );
        done.map_err(|e| failed(&e, "write"))?;
        let run = connection.last_insert_rowid();
        if run % 1_000 == 0 {
            let old = "DELETE FROM runs WHERE pipeline = ?1 AND run <= (SELECT run FROM runs WHERE pipeline = ?1 ORDER BY run DESC LIMIT 1 OFFSET ?2)";
            connection.execute(old, params![pipeline, KEPT]).map_err(|e| failed(&e, "write"))?;
        }
        Ok(run)
    }

    /// A step of a run is somewhere: begun, done or failed.
    ///
    /// # Errors
    /// Unavailable.
    pub fn step(&self, run: i64, step: &StepRecord) -> Result<()> {
        let done = self.connection().execute(
            "INSERT INTO steps (run, step, state, begun_us, ended_us, rows, value, error) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT (run, step) DO UPDATE SET state = excluded.state, ended_us = excluded.ended_us, rows = excluded.rows,
                value = excluded.value, error = excluded.error, begun_us = coalesce(begun_us, excluded.begun_us)",
            params![
                run,
                step.step,
                step.state.word(),
                step.begun.map(|at| at.0),
                step.ended.map(|at| at.0),
                step.rows.and_then(|rows| i64::try_from(rows).ok()),
                step.value,
                step.error
            ],
        );
        done.map(drop).map_err(|e| failed(&e, "write"))
    }

    /// A run has ended.
    ///
    /// # Errors
    /// Unavailable.
    pub fn end(&self, run: i64, ended: &RunRecord) -> Result<()> {
        let number = |n: Option<u64>| n.and_then(|n| i64::try_from(n).ok());
        let done = self.connection().execute(
            "UPDATE runs SET state = ?2, ended_us = ?3, generation = ?4, rows_read = ?5, rows_written = ?6, dead = ?7,
                step = ?8, code = ?9, error = ?10, retry_us = ?11, epoch = ?12 WHERE run = ?1",
            params![
                run,
                ended.state.word(),
                ended.ended.map(|at| at.0),
                number(ended.generation),
                number(ended.rows_read),
                number(ended.rows_written),
                number(ended.dead),
                ended.step,
                ended.code,
                ended.error,
                ended.retry_at.map(|at| at.0),
                number(ended.epoch),
            ],
        );
        done.map(drop).map_err(|e| failed(&e, "write"))
    }

    /// The newest runs of a pipeline, or of all, newest first.
    ///
    /// # Errors
    /// Unavailable, Corrupt.
    pub fn newest(&self, pipeline: Option<&str>, at_most: u32) -> Result<Vec<RunRecord>> {
        let connection = self.connection();
        let text = format!(
            "SELECT {} FROM runs WHERE ?1 IS NULL OR pipeline = ?1 ORDER BY run DESC LIMIT ?2",
            records::COLUMNS
        );
        let mut query = connection.prepare_cached(&text).map_err(|e| failed(&e, "read"))?;
        let rows = query.query_map(params![pipeline, at_most], RunRecord::of).map_err(|e| failed(&e, "read"))?;
        rows.collect::<std::result::Result<_, _>>().map_err(|e| failed(&e, "read"))
    }

    /// One run.
    ///
    /// # Errors
    /// Unavailable, Corrupt.
    pub fn run(&self, run: i64) -> Result<Option<RunRecord>> {
        let connection = self.connection();
        let text = format!("SELECT {} FROM runs WHERE run = ?1", records::COLUMNS);
        connection.query_row(&text, [run], RunRecord::of).optional().map_err(|e| failed(&e, "read"))
    }

    /// The steps of a run, in the order in which they began.
    ///
    /// # Errors
    /// Unavailable, Corrupt.
    pub fn steps(&self, run: i64) -> Result<Vec<StepRecord>> {
        let connection = self.connection();
        let text =
            "SELECT step, state, begun_us, ended_us, rows, value, error FROM steps WHERE run = ?1 ORDER BY rowid";
        let mut query = connection.prepare_cached(text).map_err(|e| failed(&e, "read"))?;
        let rows = query.query_map([run], StepRecord::of).map_err(|e| failed(&e, "read"))?;
        rows.collect::<std::result::Result<_, _>>().map_err(|e| failed(&e, "read"))
    }

    /// Runs that say they are running, of a pipeline that nobody runs: whoever ran them has died. They are marked so.
    ///
    /// # Errors
    /// Unavailable.
    pub fn died(&self, pipeline: &str, now: Timestamp) -> Result<usize> {
        let connection = self.connection();
        let steps = "UPDATE steps SET state = 'died', ended_us = ?2 WHERE state = 'running' AND run IN (SELECT run FROM runs WHERE pipeline = ?1 AND state = 'running')";
        connection.execute(steps, params![pipeline, now.0]).map_err(|e| failed(&e, "write"))?;
        let runs = "UPDATE runs SET state = 'died', ended_us = ?2, error = 'its process has ended; what it had finished is kept' WHERE state = 'running' AND pipeline = ?1";
        connection.execute(runs, params![pipeline, now.0]).map_err(|e| failed(&e, "write"))
    }

    /// How long the last runs that ended well took, newest first.
    ///
    /// # Errors
    /// Unavailable, Corrupt.
    pub fn took(&self, pipeline: &str, last: u32) -> Result<Vec<Duration>> {
        let connection = self.connection();
        let text =
            "SELECT ended_us - begun_us FROM runs WHERE pipeline = ?1 AND state = 'done' ORDER BY run DESC LIMIT ?2";
        let mut query = connection.prepare_cached(text).map_err(|e| failed(&e, "read"))?;
        let rows =
            query.query_map(params![pipeline, last], |row| row.get::<_, i64>(0)).map_err(|e| failed(&e, "read"))?;
        let micros: Vec<i64> = rows.collect::<std::result::Result<_, _>>().map_err(|e| failed(&e, "read"))?;
        Ok(micros.into_iter().map(|n| Duration::from_micros(u64::try_from(n).unwrap_or(0))).collect())
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn failed(error: &rusqlite::Error, what: &str) -> Error {
    let (kind, code) = match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => (Kind::Corrupt, "X060"),
        _ => (Kind::Unavailable, "U060"),
    };
    Error::new(kind, code, format!("cannot {what} the history of runs: {error}")).fact(
        "it is history.sqlite in the state folder and only for people: it may be moved away, and a new one begins",
    )
}
