//! [`session_keys`]: `SESSION(t, column, gap, PARTITION BY a, b)`, and DEDUP that is written alike, in a form that the
//! parser of queries takes.
//!
//! **Invariant:** tokens keep their number and their places; nothing else than a call of SESSION or DEDUP is changed.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

/// Makes `PARTITION => a, b` of `PARTITION BY a, b` right inside the parentheses of SESSION or DEDUP.
pub(crate) fn session_keys(tokens: &mut [TokenWithSpan]) {
    // For each open parenthesis whether it is one of these.
    let mut open: Vec<bool> = Vec::new();
    let (mut last, mut before): (Option<usize>, Option<usize>) = (None, None);
    for at in 0..tokens.len() {
        let word = |at: Option<usize>, wanted: &str| {
            let token = at.and_then(|at| tokens.get(at)).map(|token| &token.token);
            matches!(token, Some(Token::Word(word)) if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(wanted))
        };
        match &tokens[at].token {
            Token::Whitespace(_) => continue,
            Token::LParen => open.push(word(last, "session") || word(last, "dedup")),
            Token::RParen => drop(open.pop()),
            Token::Word(by) if by.keyword == Keyword::BY => {
                let comma = before.is_some_and(|at| tokens[at].token == Token::Comma);
                if comma && open.last() == Some(&true) && word(last, "partition") {
                    tokens[at].token = Token::RArrow;
                }
            }
            _ => {}
        }
        (before, last) = (last, Some(at));
    }
}
