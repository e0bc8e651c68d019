//! CREATE TASK, CREATE WAIT and CREATE EXPECTATION.
//!
//! **Invariant:** names are read as they are; what they stand for is looked up when all files are read.

use datafusion::sql::sqlparser::tokenizer::Token;
use tidemill_model::{Error, Kind, Options, Place, Result};

use super::cursor::{Cursor, Name};
use crate::language::beside::{Clause, Expectation, TASK_OPTIONS, Task, WAIT_OPTIONS, Wait};
use crate::language::constant_interval;
use crate::language::model::Violation;

/// Reads what follows CREATE TASK and the name.
pub(super) fn task(cursor: &mut Cursor<'_>, name: Name) -> Result<Task> {
    let (mut after, mut before) = (Vec::new(), Vec::new());
    loop {
        if cursor.eat(&["AFTER"]) {
            after.extend(names(cursor)?);
        } else if cursor.eat(&["BEFORE"]) {
            before.extend(names(cursor)?);
        } else {
            break;
        }
    }
    if !cursor.sees(&["WITH"]) {
        return Err(cursor.unexpected("AFTER, BEFORE or WITH (command = '…')", &["AFTER", "BEFORE", "WITH"]));
    }
    let settings = cursor.options()?.resolve("task", TASK_OPTIONS)?;
    Ok(Task { name: name.text, place: name.place, after, before, settings })
}

/// Reads what follows CREATE WAIT and the name.
pub(super) fn wait(cursor: &mut Cursor<'_>, name: Name) -> Result<Wait> {
    let options = if cursor.sees(&["WITH"]) { cursor.options()? } else { Options::default() };
    let settings = options.resolve("wait", WAIT_OPTIONS).map_err(|e| e.at(&name.place))?;
    Ok(Wait { name: name.text, place: name.place, settings })
}

fn names(cursor: &mut Cursor<'_>) -> Result<Vec<(String, Place)>> {
    let mut names = Vec::new();
    loop {
        let name = cursor.project_name("the name of a table or task")?;
        names.push((name.text, name.place));
        if !cursor.eat_symbol(&Token::Comma) {
            return Ok(names);
        }
    }
}

/// Reads what follows CREATE EXPECTATION and the name.
pub(super) fn expectation(cursor: &mut Cursor<'_>, name: Name) -> Result<Expectation> {
    cursor.expect(&["ON"])?;
    let dataset = cursor.project_name("the table's name")?;
    let start = cursor.start();
    let clause = clause(cursor)?;
    let clause_place = cursor.since(start);
    let start = cursor.start();
    let policy = policy(cursor, &clause)?;
    if matches!(policy, Violation::DeadLetter | Violation::Drop) && !clause.is_of_rows() {
        let place = cursor.since(start);
        let place = if place.span.is_empty() { &clause_place } else { &place };
        return Err(Error::new(
            Kind::Plan,
            "P116",
            "this is expected of all rows together, so no row can be left out for it",
        )
        .at(place)
        .label("write ON VIOLATION WARN or ON VIOLATION FAIL"));
    }
    Ok(Expectation {
        name: name.text,
        place: name.place,
        dataset: (dataset.text, dataset.place),
        clause,
        clause_place,
        policy,
    })
}

impl Clause {
    /// Whether it is told of each row whether it is as expected.
    fn is_of_rows(&self) -> bool {
        matches!(self, Clause::Check(_) | Clause::NotNull(_) | Clause::Unique(_))
    }
}

fn clause(cursor: &mut Cursor<'_>) -> Result<Clause> {
    if cursor.eat(&["CHECK"]) {
        cursor.expect_symbol(&Token::LParen)?;
        let (condition, _) = cursor.expression()?;
        cursor.expect_symbol(&Token::RParen)?;
        Ok(Clause::Check(Box::new(condition)))
    } else if cursor.eat(&["NOT"]) {
        cursor.expect(&["NULL"])?;
        Ok(Clause::NotNull(columns(cursor)?))
    } else if cursor.eat(&["UNIQUE"]) {
        Ok(Clause::Unique(columns(cursor)?))
    } else if cursor.eat(&["ROWS"]) {
        rows(cursor)
    } else if cursor.eat(&["FRESH"]) {
        cursor.expect(&["WITHIN"])?;
        let (expr, place) = cursor.expression()?;
        Ok(Clause::Fresh(constant_interval(&expr).map_err(|e| e.at(&place))?))
    } else if cursor.eat(&["QUERY"]) {
        cursor.expect_symbol(&Token::LParen)?;
        let query = cursor.query()?;
        cursor.expect_symbol(&Token::RParen)?;
        Ok(Clause::Query(query))
    } else {
        let words = ["CHECK", "NOT", "UNIQUE", "ROWS", "FRESH", "QUERY"];
        let expected = "CHECK (…), NOT NULL (…), UNIQUE (…), ROWS BETWEEN n AND m, ROWS AT LEAST n, ROWS WITHIN n % OF LAST m, FRESH WITHIN INTERVAL '…' or QUERY (SELECT …)";
        Err(cursor.unexpected(expected, &words))
    }
}

/// What follows ROWS.
fn rows(cursor: &mut Cursor<'_>) -> Result<Clause> {
    if cursor.eat(&["BETWEEN"]) {
        let least = number(cursor)?;
        cursor.expect(&["AND"])?;
        let place = cursor.here();
        let most = number(cursor)?;
        if most < least {
            return Err(Error::new(Kind::Plan, "P116", format!("no number is between {least} and {most}")).at(&place));
        }
        Ok(Clause::Rows { least, most: Some(most) })
    } else if cursor.eat(&["AT"]) {
        cursor.expect(&["LEAST"])?;
        Ok(Clause::Rows { least: number(cursor)?, most: None })
    } else if cursor.eat(&["WITHIN"]) {
        let percent = number(cursor)?;
        cursor.expect_symbol(&Token::Mod)?;
        cursor.expect(&["OF", "LAST"])?;
        let last = usize::try_from(number(cursor)?).unwrap_or(usize::MAX);
        Ok(Clause::RowsLike { within: percent as f64 / 100.0, last: last.max(1) })
    } else {
        let expected = "BETWEEN n AND m, AT LEAST n or WITHIN n % OF LAST m";
        Err(cursor.unexpected(expected, &["BETWEEN", "AT", "WITHIN"]))
    }
}

fn columns(cursor: &mut Cursor<'_>) -> Result<Vec<String>> {
    Ok(cursor.identifiers("a column")?.into_iter().map(|name| name.text).collect())
}

fn number(cursor: &mut Cursor<'_>) -> Result<u64> {
    let start = cursor.start();
    let text = cursor.number("a whole number")?;
    text.parse()
        .map_err(|_| Error::new(Kind::Plan, "P116", format!("`{text}` is no whole number")).at(&cursor.since(start)))
}

fn policy(cursor: &mut Cursor<'_>, clause: &Clause) -> Result<Violation> {
    if !cursor.eat(&["ON", "VIOLATION"]) {
        return Ok(if clause.is_of_rows() { Violation::DeadLetter } else { Violation::Fail });
    }
    super::table::violation(cursor)
}
