//! [`parse`]: one statement, told by its first words, and the small ones; CREATE TABLE has a file of its own.
//!
//! **Invariant:** a statement that is not one of ours is refused with what is possible.

use datafusion::sql::sqlparser::tokenizer::Token;
use tidemill_model::{Error, Kind, Result};

use super::beside;
use super::cursor::Cursor;
use super::table::table;
use super::{Header, Statements};
use crate::language::constant::table_part;
use crate::language::model::{Insert, View};

const POSSIBLE: &str = "statements: CREATE PIPELINE, CREATE TABLE, CREATE VIEW, CREATE MATERIALIZED VIEW, INSERT INTO, CREATE TASK, CREATE WAIT, CREATE EXPECTATION";

const REFUSED: &[&str] = &[
    "DROP", "ALTER", "DELETE", "UPDATE", "MERGE", "COPY", "SET", "SHOW", "DESCRIBE", "EXPLAIN", "TRUNCATE", "BEGIN",
    "COMMIT", "GRANT", "CALL", "USE",
];

/// Reads the statement to its end and adds it.
pub(super) fn parse(mut cursor: Cursor<'_>, statements: &mut Statements) -> Result<()> {
    if cursor.eat(&["CREATE"]) {
        create(&mut cursor, statements)?;
    } else if cursor.eat(&["INSERT"]) {
        insert(&mut cursor, statements)?;
    } else {
        return Err(other(&cursor));
    }
    if cursor.at_end() { Ok(()) } else { Err(cursor.unexpected("`;` or the end of the statement", &[])) }
}

fn create(cursor: &mut Cursor<'_>, statements: &mut Statements) -> Result<()> {
    let place = cursor.here();
    if cursor.eat(&["OR", "REPLACE"]) {
        let error = Error::new(Kind::Plan, "P101", "CREATE OR REPLACE is not possible here").at(&place);
        return Err(error.label("write CREATE: the files say what there is"));
    }
    if cursor.eat(&["PIPELINE"]) {
        let name = begin(cursor, "the pipeline's name")?;
        let options = if cursor.sees(&["WITH"]) { cursor.options()? } else { tidemill_model::Options::default() };
        statements.pipelines.push(Header { name: name.text, place: name.place, options });
    } else if cursor.eat(&["TABLE"]) {
        let name = begin(cursor, "the table's name")?;
        statements.datasets.push(table(cursor, name)?);
    } else if cursor.eat(&["VIEW"]) {
        let name = begin(cursor, "the view's name")?;
        cursor.expect(&["AS"])?;
        let query = cursor.query()?;
        statements.views.push(View { name: name.text, pipeline: String::new(), query, place: name.place });
    } else if cursor.eat(&["MATERIALIZED", "VIEW"]) {
        let name = begin(cursor, "the view's name")?;
        let options = if cursor.sees(&["WITH"]) { cursor.options()? } else { tidemill_model::Options::default() };
        cursor.expect(&["AS"])?;
        let query = cursor.query()?;
        let view = View { name: name.text, pipeline: String::new(), query, place: name.place };
        statements.materialized.push((view, options));
    } else if cursor.eat(&["TASK"]) {
        let name = begin(cursor, "the task's name")?;
        statements.tasks.push(beside::task(cursor, name)?);
    } else if cursor.eat(&["WAIT"]) {
        let name = begin(cursor, "the wait's name")?;
        statements.waits.push(beside::wait(cursor, name)?);
    } else if cursor.eat(&["EXPECTATION"]) {
        let name = begin(cursor, "the expectation's name")?;
        statements.expectations.push(beside::expectation(cursor, name)?);
    } else if cursor.eat(&["EXTERNAL"]) {
        let error = Error::new(Kind::Plan, "P101", "CREATE EXTERNAL TABLE is not possible here").at(&place);
        return Err(error.label("write CREATE TABLE name (…) WITH (connector = '…')"));
    } else {
        let words = ["PIPELINE", "TABLE", "VIEW", "MATERIALIZED", "TASK", "WAIT", "EXPECTATION"];
        let expected = "PIPELINE, TABLE, VIEW, MATERIALIZED VIEW, TASK, WAIT or EXPECTATION";
        return Err(cursor.unexpected(expected, &words).fact(POSSIBLE));
    }
    Ok(())
}

/// The name after CREATE and the kind.
fn begin(cursor: &mut Cursor<'_>, what: &str) -> Result<super::cursor::Name> {
    let place = cursor.here();
    if cursor.eat(&["IF", "NOT", "EXISTS"]) {
        let error = Error::new(Kind::Plan, "P101", "IF NOT EXISTS is not possible here").at(&place);
        return Err(error.label("leave it out: the files say what there is"));
    }
    cursor.project_name(what)
}

fn insert(cursor: &mut Cursor<'_>, statements: &mut Statements) -> Result<()> {
    let place = cursor.here();
    if cursor.eat(&["OVERWRITE"]) {
        let error = Error::new(Kind::Plan, "P101", "INSERT OVERWRITE is not possible here").at(&place);
        return Err(
            error.label("write INSERT INTO; the table's option `write` says how: append, upsert, replace or overwrite")
        );
    }
    cursor.expect(&["INTO"])?;
    let target = cursor.project_name("the table's name")?;
    let mut columns = Vec::new();
    if cursor.sees_symbol(0, &Token::LParen) && !starts_query(cursor) {
        columns = cursor.identifiers("a column")?;
    }
    let place = cursor.here();
    let by_name = cursor.eat(&["BY", "NAME"]);
    if by_name && !columns.is_empty() {
        let error = Error::new(Kind::Plan, "P100", "a list of columns and BY NAME exclude each other").at(&place);
        return Err(error.label("leave out one of them"));
    }
    let place = cursor.here();
    let part = match cursor.eat(&["REPLACE"]) {
        true => {
            cursor.expect(&["WHERE"])?;
            let (condition, place) = cursor.expression()?;
            Some((table_part(&condition).map_err(|e| e.at(&place))?, place))
        }
        false if cursor.sees(&["WHERE"]) => {
            let error = Error::new(Kind::Plan, "P100", "WHERE stands before the query").at(&place);
            return Err(error.label("write REPLACE WHERE … before the query, or WHERE within it"));
        }
        false => None,
    };
    let query = cursor.query()?;
    let columns = columns.into_iter().map(|name| name.text).collect();
    statements.inserts.push(Insert { target: target.text, columns, by_name, part, query, place: target.place });
    Ok(())
}

/// Whether the parenthesis that comes next holds a query rather than names.
fn starts_query(cursor: &Cursor<'_>) -> bool {
    cursor.sees_symbol(1, &Token::LParen) || ["SELECT", "WITH", "VALUES"].iter().any(|word| cursor.sees_clause(1, word))
}

fn other(cursor: &Cursor<'_>) -> Error {
    let place = cursor.here();
    let word = cursor.word().unwrap_or("").to_ascii_uppercase();
    if ["SELECT", "WITH", "VALUES", "FROM"].contains(&word.as_str()) || cursor.sees_symbol(0, &Token::LParen) {
        return Error::new(Kind::Plan, "P101", "a query alone does nothing in a pipeline")
            .at(&place)
            .label("say where its rows go")
            .fact("to a table: INSERT INTO name SELECT …; to a served view: CREATE MATERIALIZED VIEW name AS SELECT …")
            .fact("to look at rows once: tidemill query \"SELECT …\"");
    }
    if REFUSED.contains(&word.as_str()) {
        return Error::new(Kind::Plan, "P101", format!("{word} is not possible in a pipeline"))
            .at(&place)
            .fact(POSSIBLE);
    }
    cursor.unexpected("CREATE or INSERT INTO", &["CREATE", "INSERT"]).fact(POSSIBLE)
}
