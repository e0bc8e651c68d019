//! [`Cursor`]: the tokens of one statement, with errors at their place.
//!
//! **Invariant:** it never passes a token that it did not accept, so an error stands where reading stopped.

use std::ops::Range;

use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Word};
use tidemill_model::{Error, Given, Kind, Options, Place, Result, nearest};

use crate::language::script::Script;
use crate::language::syntax::{syntax_error, unexpected};

/// The dialect of queries: DataFusion's own default.
pub(crate) static DIALECT: GenericDialect = GenericDialect {};

/// A name and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Name {
    pub(super) text: String,
    pub(super) place: Place,
}

pub(super) struct Cursor<'a> {
    parser: Parser<'a>,
    script: &'a Script,
    statement: Range<usize>,
    /// The end of the last token taken.
    taken: usize,
}

impl<'a> Cursor<'a> {
    /// A cursor before these tokens, which are all of one statement.
    pub(super) fn new(script: &'a Script, tokens: Vec<TokenWithSpan>) -> Cursor<'a> {
        let ranges =
            || tokens.iter().filter(|t| !matches!(t.token, Token::Whitespace(_))).filter_map(|t| script.range(t.span));
        let start = ranges().next().map_or(0, |range| range.start);
        let statement = start..ranges().next_back().map_or(start, |range| range.end);
        let parser = Parser::new(&DIALECT).with_tokens_with_locations(tokens);
        Cursor { parser, script, taken: statement.start, statement }
    }

    fn peek(&self) -> &TokenWithSpan {
        self.parser.peek_token_ref()
    }

    pub(super) fn at_end(&self) -> bool {
        self.peek().token == Token::EOF
    }

    /// The next token, when it is an unquoted word.
    pub(super) fn word(&self) -> Option<&str> {
        unquoted(&self.peek().token)
    }

    /// Whether these words come next.
    pub(super) fn sees(&self, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(n, word)| {
            unquoted(&self.parser.peek_nth_token_ref(n).token).is_some_and(|next| next.eq_ignore_ascii_case(word))
        })
    }

    /// Whether the token after the next `n` is this word and not the last one of a name in a list.
    pub(super) fn sees_clause(&self, n: usize, word: &str) -> bool {
        let is = |n: usize, symbol: &Token| self.sees_symbol(n, symbol);
        unquoted(&self.parser.peek_nth_token_ref(n).token).is_some_and(|next| next.eq_ignore_ascii_case(word))
            && !is(n + 1, &Token::Comma)
            && !is(n + 1, &Token::RParen)
    }

    /// Whether the token after the next `n` is this symbol.
    pub(super) fn sees_symbol(&self, n: usize, symbol: &Token) -> bool {
        self.parser.peek_nth_token_ref(n).token == *symbol
    }

    /// Takes these words if they come next.
    pub(super) fn eat(&mut self, words: &[&str]) -> bool {
        let seen = self.sees(words);
        if seen {
            words.iter().for_each(|_| self.advance());
        }
        seen
    }

    /// Takes these words.
    pub(super) fn expect(&mut self, words: &[&str]) -> Result<()> {
        for word in words {
            if !self.eat(&[word]) {
                return Err(self.unexpected(word, &[word]));
            }
        }
        Ok(())
    }

    /// Takes this symbol if it comes next.
    pub(super) fn eat_symbol(&mut self, symbol: &Token) -> bool {
        let seen = self.sees_symbol(0, symbol);
        if seen {
            self.advance();
        }
        seen
    }

    /// Takes this symbol.
    pub(super) fn expect_symbol(&mut self, symbol: &Token) -> Result<()> {
        if self.eat_symbol(symbol) { Ok(()) } else { Err(self.unexpected(&format!("`{symbol}`"), &[])) }
    }

    fn advance(&mut self) {
        self.parser.advance_token();
        if let Some(range) = self.script.range(self.parser.get_current_token().span) {
            self.taken = range.end;
        }
    }

    /// Takes an identifier; unquoted ones in lower case.
    pub(super) fn identifier(&mut self, what: &str) -> Result<Name> {
        let text = match &self.peek().token {
            Token::Word(Word { value, quote_style: None, .. }) => value.to_lowercase(),
            Token::Word(Word { value, quote_style: Some('"'), .. }) if !value.is_empty() => value.clone(),
            _ => return Err(self.unexpected(what, &[])),
        };
        let place = self.here();
        self.advance();
        Ok(Name { text, place })
    }

    /// Takes the name of something of the project. It names a folder too, so it is plain and short.
    pub(super) fn project_name(&mut self, what: &str) -> Result<Name> {
        let name = self.identifier(what)?;
        let plain = name.text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            && name.text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !plain || name.text.len() > 63 || self.sees_symbol(0, &Token::Period) {
            let error = Error::new(Kind::Plan, "P102", format!("`{}` cannot be a name here", name.text))
                .at(&name.place)
                .label("names are a-z, 0-9 and _, begin with a letter, and have one part of at most 63 characters");
            return Err(error);
        }
        Ok(name)
    }

    /// Takes `(a, b, …)`.
    pub(super) fn identifiers(&mut self, what: &str) -> Result<Vec<Name>> {
        self.expect_symbol(&Token::LParen)?;
        let mut names = vec![self.identifier(what)?];
        while self.eat_symbol(&Token::Comma) {
            names.push(self.identifier(what)?);
        }
        if self.eat_symbol(&Token::RParen) { Ok(names) } else { Err(self.unexpected("`,` or `)`", &[])) }
    }

    /// Takes `WITH (name = value, …)`.
    pub(super) fn options(&mut self) -> Result<Options> {
        let mut options = Options { place: Some(self.here()), ..Options::default() };
        self.expect(&["WITH"])?;
        self.expect_symbol(&Token::LParen)?;
        while !self.eat_symbol(&Token::RParen) {
            let name = self.identifier("the name of an option")?;
            self.expect_symbol(&Token::Eq)?;
            let start = self.start();
            let value = self.option_value()?;
            let given = Given { value, name_place: Some(name.place.clone()), value_place: Some(self.since(start)) };
            if options.given.insert(name.text.clone(), given).is_some() {
                let error = Error::new(Kind::Config, "C018", format!("option `{}` is given twice", name.text));
                return Err(error.at(&name.place));
            }
            if !self.eat_symbol(&Token::Comma) && !self.sees_symbol(0, &Token::RParen) {
                return Err(self.unexpected("`,` or `)`", &[]));
            }
        }
        Ok(options)
    }

    fn option_value(&mut self) -> Result<String> {
        let minus = self.eat_symbol(&Token::Minus);
        let value = match &self.peek().token {
            Token::Number(number, _) if minus => format!("-{number}"),
            Token::Number(number, _) => number.to_string(),
            Token::SingleQuotedString(text) if !minus => text.clone(),
            Token::Word(word) if !minus && ["true", "false"].contains(&word.value.to_lowercase().as_str()) => {
                word.value.to_lowercase()
            }
            Token::Word(word) if !minus => word.value.clone(),
            _ => return Err(self.unexpected("a value: 'text', a number, true or false", &[])),
        };
        self.advance();
        Ok(value)
    }

    /// Takes a number and answers its text.
    pub(super) fn number(&mut self, what: &str) -> Result<String> {
        let Token::Number(text, _) = &self.peek().token else { return Err(self.unexpected(what, &[])) };
        let text = text.to_string();
        self.advance();
        Ok(text)
    }

    /// Takes a query.
    pub(super) fn query(&mut self) -> Result<Box<ast::Query>> {
        self.foreign(Parser::parse_query)
    }

    /// Takes an expression and answers its place too.
    pub(super) fn expression(&mut self) -> Result<(ast::Expr, Place)> {
        let start = self.start();
        let expr = self.foreign(Parser::parse_expr)?;
        Ok((expr, self.since(start)))
    }

    /// Takes a type and answers its place too.
    pub(super) fn data_type(&mut self) -> Result<(ast::DataType, Place)> {
        let start = self.start();
        if !matches!(self.peek().token, Token::Word(_)) {
            return Err(self.unexpected("the type of the column", &[]));
        }
        let sql = self.foreign(Parser::parse_data_type)?;
        Ok((sql, self.since(start)))
    }

    fn foreign<T>(&mut self, parse: impl FnOnce(&mut Parser<'a>) -> Result<T, ParserError>) -> Result<T> {
        let parsed = parse(&mut self.parser).map_err(|e| syntax_error(&e, self.script, self.statement.clone()))?;
        if let Some(range) = self.last_taken() {
            self.taken = range.end;
        }
        Ok(parsed)
    }

    /// The bytes of the last token before the next one. A lookahead may have left the parser behind white space.
    fn last_taken(&self) -> Option<Range<usize>> {
        (0..self.parser.index()).rev().map(|n| self.parser.token_at(n)).find_map(|token| {
            if matches!(token.token, Token::Whitespace(_)) { None } else { self.script.range(token.span) }
        })
    }

    /// Where the next token begins.
    pub(super) fn start(&self) -> usize {
        self.script.range(self.peek().span).map_or(self.statement.end, |range| range.start)
    }

    /// The place of the next token.
    pub(super) fn here(&self) -> Place {
        self.script.place(self.peek().span).unwrap_or_else(|| self.script.bytes(self.statement.end..self.statement.end))
    }

    /// The place from a byte to the end of the last token taken.
    pub(super) fn since(&self, start: usize) -> Place {
        self.script.bytes(start..self.taken.max(start))
    }

    /// The text of a place, in one line.
    pub(super) fn one_line(&self, place: &Place) -> String {
        self.script.slice(place.span.clone()).split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// The error of the next token; `words` are the words that could stand here, for the nearest one.
    pub(super) fn unexpected(&self, expected: &str, words: &[&str]) -> Error {
        let found = match &self.peek().token {
            Token::EOF => None,
            token => Some(token.to_string()),
        };
        let meant = self.word().and_then(|word| nearest(word, words.iter().copied()));
        match meant {
            Some(meant) => unexpected(self.script, &self.statement, self.here(), found.as_deref(), None)
                .label(format!("did you mean {meant}?")),
            None => unexpected(self.script, &self.statement, self.here(), found.as_deref(), Some(expected)),
        }
    }
}

fn unquoted(token: &Token) -> Option<&str> {
    match token {
        Token::Word(Word { value, quote_style: None, .. }) => Some(value),
        _ => None,
    }
}
