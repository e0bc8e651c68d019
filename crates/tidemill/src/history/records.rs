//! [`RunRecord`] and [`StepRecord`]: one attempt of a run, and one of its steps, as they are kept.
//!
//! **Invariant:** words of states and causes are written and read here alone.

use rusqlite::Row;
use rusqlite::types::Type;
use tidemill_model::{Interval, Timestamp};

pub(super) const COLUMNS: &str = "run, pipeline, start_us, end_us, generation, epoch, cause, attempt, state, begun_us, ended_us, rows_read, rows_written, dead, step, code, error, retry_us, holder";

/// How a run or step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// It goes on.
    Running,
    /// It ended well.
    Done,
    /// An attempt before has done it.
    Kept,
    /// It failed.
    Failed,
    /// It was asked to stop.
    Stopped,
    /// Its process ended under it.
    Died,
}

impl RunState {
    const WORDS: [(RunState, &'static str); 6] = [
        (RunState::Running, "running"),
        (RunState::Done, "done"),
        (RunState::Kept, "kept"),
        (RunState::Failed, "failed"),
        (RunState::Stopped, "stopped"),
        (RunState::Died, "died"),
    ];

    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        RunState::WORDS.iter().find(|(state, _)| *state == self).map_or("failed", |(_, word)| word)
    }

    fn of(word: &str) -> Option<RunState> {
        RunState::WORDS.iter().find(|(_, other)| *other == word).map(|(state, _)| *state)
    }
}

/// Why a run was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It was due.
    Schedule,
    /// Rows came after it was done.
    Late,
    /// A backfill.
    Backfill,
    /// Somebody asked for it.
    Manual,
}

impl Cause {
    const WORDS: [(Cause, &'static str); 4] = [
        (Cause::Schedule, "schedule"),
        (Cause::Late, "late rows"),
        (Cause::Backfill, "backfill"),
        (Cause::Manual, "manual"),
    ];

    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        Cause::WORDS.iter().find(|(cause, _)| *cause == self).map_or("manual", |(_, word)| word)
    }

    fn of(word: &str) -> Option<Cause> {
        Cause::WORDS.iter().find(|(_, other)| *other == word).map(|(cause, _)| *cause)
    }
}

/// One attempt of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRecord {
    /// Its number.
    pub run: i64,
    /// The pipeline.
    pub pipeline: String,
    /// What it owns.
    pub interval: Interval,
    /// Which version of the interval's rows it wrote, if it got there.
    pub generation: Option<u64>,
    /// The epoch that made it stand.
    pub epoch: Option<u64>,
    /// Why it was begun.
    pub cause: Cause,
    /// Which attempt it is, from 1.
    pub attempt: u32,
    /// How it stands.
    pub state: RunState,
    /// When it began.
    pub begun: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// Records read.
    pub rows_read: Option<u64>,
    /// Rows written.
    pub rows_written: Option<u64>,
    /// Dead letters.
    pub dead: Option<u64>,
    /// The step that failed.
    pub step: Option<String>,
    /// The code of its error.
    pub code: Option<String>,
    /// Its error.
    pub error: Option<String>,
    /// When it is tried again.
    pub retry_at: Option<Timestamp>,
    /// The process that ran it.
    pub holder: String,
}

/// One step of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepRecord {
    /// Its name.
    pub step: String,
    /// How it stands.
    pub state: RunState,
    /// When it began.
    pub begun: Option<Timestamp>,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// Rows written.
    pub rows: Option<u64>,
    /// What a program gave.
    pub value: Option<String>,
    /// Its error.
    pub error: Option<String>,
}

impl RunRecord {
    /// Of a run that begins.
    #[must_use]
    pub fn begun(pipeline: &str, interval: Interval, (cause, attempt): (Cause, u32), at: Timestamp) -> RunRecord {
        RunRecord {
            run: 0,
            pipeline: pipeline.to_owned(),
            interval,
            generation: None,
            epoch: None,
            cause,
            attempt,
            state: RunState::Running,
            begun: at,
            ended: None,
            rows_read: None,
            rows_written: None,
            dead: None,
            step: None,
            code: None,
            error: None,
            retry_at: None,
            holder: String::new(),
        }
    }

    pub(super) fn of(row: &Row<'_>) -> rusqlite::Result<RunRecord> {
        let time = |at: usize| row.get::<_, Option<i64>>(at).map(|at| at.map(Timestamp));
        let number = |at: usize| row.get::<_, Option<i64>>(at).map(|n| n.and_then(|n| u64::try_from(n).ok()));
        Ok(RunRecord {
            run: row.get(0)?,
            pipeline: row.get(1)?,
            interval: Interval { start: Timestamp(row.get(2)?), end: Timestamp(row.get(3)?) },
            generation: number(4)?,
            epoch: number(5)?,
            cause: word(row, 6, Cause::of)?,
            attempt: row.get(7)?,
            state: word(row, 8, RunState::of)?,
            begun: Timestamp(row.get(9)?),
            ended: time(10)?,
            rows_read: number(11)?,
            rows_written: number(12)?,
            dead: number(13)?,
            step: row.get(14)?,
            code: row.get(15)?,
            error: row.get(16)?,
            retry_at: time(17)?,
            holder: row.get(18)?,
        })
    }
}

impl StepRecord {
    pub(super) fn of(row: &Row<'_>) -> rusqlite::Result<StepRecord> {
        let time = |at: usize| row.get::<_, Option<i64>>(at).map(|at| at.map(Timestamp));
        Ok(StepRecord {
            step: row.get(0)?,
            state: word(row, 1, RunState::of)?,
            begun: time(2)?,
            ended: time(3)?,
            rows: row.get::<_, Option<i64>>(4)?.and_then(|n| u64::try_from(n).ok()),
            value: row.get(5)?,
            error: row.get(6)?,
        })
    }
}

fn word<T>(row: &Row<'_>, at: usize, read: fn(&str) -> Option<T>) -> rusqlite::Result<T> {
    let text: String = row.get(at)?;
    read(&text).ok_or_else(|| {
        let unknown = std::io::Error::other(format!("`{text}` is a word of another version"));
        rusqlite::Error::FromSqlConversionFailure(at, Type::Text, Box::new(unknown))
    })
}
