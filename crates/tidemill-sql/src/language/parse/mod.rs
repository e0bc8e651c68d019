//! [`parse_script`]: the statements of one file, and everything that is wrong with them.
//!
//! **Invariant:** a statement with an error harms no other; each error stands at its place.

mod beside;
mod cursor;
mod sessions;
mod statement;
mod table;

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};
use tidemill_model::{Error, Kind, Options, Place};

use super::beside::{Expectation, Task, Wait};
use super::model::{Dataset, Insert, View};
use super::render::MOST;
use super::script::Script;

pub(crate) use cursor::DIALECT;
pub(crate) use sessions::session_keys;

/// The statements of one file, in the order of the file. Their `pipeline` is not filled in yet.
#[derive(Debug, Default)]
pub(crate) struct Statements {
    pub(crate) pipelines: Vec<Header>,
    pub(crate) datasets: Vec<Dataset>,
    pub(crate) views: Vec<View>,
    pub(crate) materialized: Vec<(View, Options)>,
    pub(crate) inserts: Vec<Insert>,
    pub(crate) tasks: Vec<Task>,
    pub(crate) waits: Vec<Wait>,
    pub(crate) expectations: Vec<Expectation>,
}

/// CREATE PIPELINE.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) options: Options,
}

/// Reads a file. At most [`MOST`] errors are answered.
pub(crate) fn parse_script(script: &Script) -> (Statements, Vec<Error>) {
    let mut statements = Statements::default();
    let mut errors = Vec::new();
    let mut tokens = match Tokenizer::new(&DIALECT, script.text()).tokenize_with_location() {
        Ok(tokens) => tokens,
        Err(error) => {
            let at = script.offset(error.location.line, error.location.column);
            let error = Error::new(Kind::Plan, "P100", format!("cannot read this: {}", error.message));
            errors.push(error.at(&script.bytes(at..at + 1)));
            return (statements, errors);
        }
    };
    session_keys(&mut tokens);
    for tokens in split(tokens) {
        if errors.len() == MOST {
            break;
        }
        if let Err(error) = statement::parse(cursor::Cursor::new(script, tokens), &mut statements) {
            errors.push(error);
        }
    }
    (statements, errors)
}

/// The tokens of each statement that has any.
fn split(tokens: Vec<TokenWithSpan>) -> Vec<Vec<TokenWithSpan>> {
    let mut statements = vec![Vec::new()];
    for token in tokens {
        if token.token == Token::SemiColon {
            statements.push(Vec::new());
        } else if let Some(last) = statements.last_mut() {
            last.push(token);
        }
    }
    statements.retain(|tokens| tokens.iter().any(|token| !matches!(token.token, Token::Whitespace(_))));
    statements
}
