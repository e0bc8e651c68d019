//! [`table`]: CREATE TABLE with its columns, watermark, checks, key and options.
//!
//! **Invariant:** the Arrow schema and the list of columns agree in order and names.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr};
use datafusion::sql::sqlparser::tokenizer::Token;
use tidemill_model::{Error, Kind, Place, Result};

use super::cursor::{Cursor, Name};
use crate::language::check::check_columns;
use crate::language::constant::constant_interval;
use crate::language::model::{Check, Column, Dataset, Violation, WatermarkClause};
use crate::language::types::arrow_type;

#[derive(Default)]
struct Body {
    columns: Vec<Column>,
    fields: Vec<Field>,
    watermark: Option<WatermarkClause>,
    checks: Vec<Check>,
    primary_key: Option<Vec<Name>>,
    /// Errors that do not stop the reading: the rest of the statement is read as well.
    errors: Vec<Error>,
}

/// Reads what follows `CREATE TABLE name`.
pub(super) fn table(cursor: &mut Cursor<'_>, name: Name) -> Result<Dataset> {
    let mut body = Body::default();
    if cursor.eat_symbol(&Token::LParen) {
        loop {
            item(cursor, &mut body)?;
            if cursor.eat_symbol(&Token::RParen) {
                break;
            }
            if !cursor.eat_symbol(&Token::Comma) {
                return Err(cursor.unexpected("`,` or `)`", &["NOT", "NULL", "PRIMARY", "ON"]));
            }
        }
    }
    if !cursor.sees(&["WITH"]) {
        return Err(cursor.unexpected("WITH (connector = '…')", &["WITH"]));
    }
    let options = cursor.options()?;
    let history = if cursor.eat(&["HISTORY"]) { Some(cursor.options()?) } else { None };
    finish(body, name, options, history)
}

fn finish(
    mut body: Body,
    name: Name,
    options: tidemill_model::Options,
    history: Option<tidemill_model::Options>,
) -> Result<Dataset> {
    let key = body.primary_key.unwrap_or_default();
    for column in &key {
        if let Some(field) = body.fields.iter_mut().find(|field| *field.name() == column.text) {
            field.set_nullable(false);
        }
    }
    let dataset = Dataset {
        name: name.text,
        pipeline: String::new(),
        place: name.place,
        columns: body.columns,
        schema: Arc::new(Schema::new(body.fields)),
        watermark: body.watermark,
        checks: body.checks,
        primary_key: key.iter().map(|name| name.text.clone()).collect(),
        key_places: key.into_iter().map(|name| name.place).collect(),
        options,
        history,
    };
    // A column whose type could not be read is missing from the schema: what refers to it is right all the same.
    if body.errors.is_empty() && !dataset.columns.is_empty() {
        body.errors = check_columns(&dataset, &dataset.schema);
    }
    Error::all(body.errors).map_or(Ok(dataset), Err)
}

fn item(cursor: &mut Cursor<'_>, body: &mut Body) -> Result<()> {
    let start = cursor.start();
    if cursor.eat(&["WATERMARK", "FOR"]) {
        let clause = watermark(cursor, start)?;
        match clause {
            Ok(clause) if body.watermark.is_none() => body.watermark = Some(clause),
            Ok(clause) => body.errors.push(twice("WATERMARK", &clause.place)),
            Err(error) => body.errors.push(error),
        }
    } else if cursor.eat(&["CONSTRAINT"]) {
        let name = cursor.identifier("the constraint's name")?;
        cursor.expect(&["CHECK"])?;
        body.checks.push(check(cursor, Some(name))?);
    } else if cursor.sees(&["CHECK"]) && cursor.sees_symbol(1, &Token::LParen) {
        cursor.expect(&["CHECK"])?;
        body.checks.push(check(cursor, None)?);
    } else if cursor.eat(&["PRIMARY", "KEY"]) {
        let names = cursor.identifiers("a column")?;
        key(body, names, &cursor.since(start));
    } else {
        column(cursor, body)?;
    }
    Ok(())
}

fn twice(what: &str, place: &Place) -> Error {
    Error::new(Kind::Plan, "P112", format!("a table has one {what}")).at(place).label("the second one")
}

fn key(body: &mut Body, names: Vec<Name>, place: &Place) {
    if body.primary_key.is_some() {
        body.errors.push(twice("PRIMARY KEY", place));
    } else {
        body.primary_key = Some(names);
    }
}

fn column(cursor: &mut Cursor<'_>, body: &mut Body) -> Result<()> {
    let start = cursor.start();
    let name = cursor.identifier("a column, WATERMARK FOR, CHECK or PRIMARY KEY")?;
    let (sql, place) = cursor.data_type()?;
    let mut nullable = true;
    loop {
        if cursor.eat(&["NOT", "NULL"]) {
            nullable = false;
        } else if cursor.eat(&["PRIMARY", "KEY"]) {
            key(body, vec![name.clone()], &cursor.since(start));
        } else if !cursor.eat(&["NULL"]) {
            break;
        }
    }
    if let Some(first) = body.columns.iter().find(|column| column.name == name.text) {
        let (line, _) = first.place.line_column();
        let error = Error::new(Kind::Plan, "P112", format!("column `{}` is declared twice", name.text));
        body.errors.push(error.at(&name.place).label(format!("first on line {line}")));
        return Ok(());
    }
    match arrow_type(&sql) {
        Ok(data_type) => {
            body.fields.push(Field::new(&name.text, data_type, nullable));
            body.columns.push(Column { name: name.text, place: name.place });
        }
        Err(error) => body.errors.push(error.at(&place)),
    }
    Ok(())
}

/// What follows `WATERMARK FOR`. The outer error stops the reading, the inner one does not.
fn watermark(cursor: &mut Cursor<'_>, start: usize) -> Result<Result<WatermarkClause>> {
    let column = cursor.identifier("the event-time column")?;
    cursor.expect(&["AS"])?;
    let (expr, expr_place) = cursor.expression()?;
    let place = cursor.since(start);
    let is_column = |expr: &Expr| match expr {
        Expr::Identifier(ident) if ident.quote_style.is_none() => ident.value.to_lowercase() == column.text,
        Expr::Identifier(ident) => ident.value == column.text,
        _ => false,
    };
    let delay = match &expr {
        same if is_column(same) => Ok(std::time::Duration::ZERO),
        Expr::BinaryOp { left, op: BinaryOperator::Minus, right } if is_column(left) => constant_interval(right),
        _ => Err(Error::new(Kind::Plan, "P111", "a watermark is its column less a constant")
            .fact(format!("write WATERMARK FOR {0} AS {0} - INTERVAL '10 seconds'", column.text))),
    };
    Ok(match delay {
        Ok(delay) => Ok(WatermarkClause { column: column.text, delay, place }),
        Err(error) => Err(error.at(&expr_place)),
    })
}

/// What follows `CHECK`.
fn check(cursor: &mut Cursor<'_>, name: Option<Name>) -> Result<Check> {
    cursor.expect_symbol(&Token::LParen)?;
    let (condition, place) = cursor.expression()?;
    cursor.expect_symbol(&Token::RParen)?;
    let mut policy = Violation::DeadLetter;
    if cursor.eat(&["ON", "VIOLATION"]) {
        policy = violation(cursor)?;
    }
    let name = name.map_or_else(|| cursor.one_line(&place), |name| name.text);
    Ok(Check { name, condition, policy, place })
}

/// What follows `ON VIOLATION`.
pub(super) fn violation(cursor: &mut Cursor<'_>) -> Result<Violation> {
    if cursor.eat(&["DEAD", "LETTER"]) || cursor.eat(&["QUARANTINE"]) {
        Ok(Violation::DeadLetter)
    } else if cursor.eat(&["DROP"]) {
        Ok(Violation::Drop)
    } else if cursor.eat(&["WARN"]) {
        Ok(Violation::Warn)
    } else if cursor.eat(&["FAIL"]) {
        Ok(Violation::Fail)
    } else {
        let words = ["DEAD", "DROP", "WARN", "FAIL", "QUARANTINE"];
        Err(cursor.unexpected("DEAD LETTER (or QUARANTINE, the same), DROP, WARN or FAIL", &words))
    }
}
