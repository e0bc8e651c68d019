//! [`ErrorLimit`]: how many rows may fail in expressions before an epoch or a run of an interval fails as a whole.
//!
//! **Invariant:** what is above the limit commits nothing: a mistake in a query is told, not turned into dead letters
//! by the million.

use std::collections::BTreeMap;

use tidemill_model::{Error, Kind, Result};

use crate::DeadLetter;

/// A share of few rows says little, so it counts from here on.
const LEAST: u64 = 100;

/// How many rows of an epoch or run may fail.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ErrorLimit {
    /// Any number.
    None,
    /// So many of a hundred rows read, and a hundred rows in any case.
    Percent(f64),
    /// So many rows.
    Rows(u64),
}

impl Default for ErrorLimit {
    fn default() -> ErrorLimit {
        ErrorLimit::Percent(1.0)
    }
}

impl ErrorLimit {
    /// Reads `1 %`, `500` or `none`.
    ///
    /// # Errors
    /// Config.
    pub fn parse(text: &str) -> Result<ErrorLimit> {
        let text = text.trim();
        if text.eq_ignore_ascii_case("none") {
            return Ok(ErrorLimit::None);
        }
        let limit = match text.strip_suffix('%') {
            Some(share) => share.trim().parse().ok().filter(|p| (0.0..=100.0).contains(p)).map(ErrorLimit::Percent),
            None => text.parse().ok().map(ErrorLimit::Rows),
        };
        limit.ok_or_else(|| {
            Error::new(Kind::Config, "C069", format!("`{text}` is no limit of errors"))
                .label("one of: 1 %, 500, none")
                .fact("a share of the rows read by an epoch or run (100 rows are allowed in any case), or a number of rows")
        })
    }

    /// Whether `failed` rows are too many of `read` ones. `what` names the epoch or run.
    ///
    /// # Errors
    /// Data, with the most frequent fault.
    pub fn check(self, failed: &[&DeadLetter], read: u64, what: &str) -> Result<()> {
        let most = match self {
            ErrorLimit::None => return Ok(()),
            ErrorLimit::Percent(percent) => LEAST.max((read as f64 * percent / 100.0) as u64),
            ErrorLimit::Rows(rows) => rows,
        };
        if failed.len() as u64 <= most {
            return Ok(());
        }
        let message = format!("{} of {read} rows of {what} failed in expressions, and {most} may", failed.len());
        let mut by_reason: BTreeMap<&str, (usize, &DeadLetter)> = BTreeMap::new();
        for letter in failed {
            by_reason.entry(&letter.reason).or_insert((0, letter)).0 += 1;
        }
        let mut error = Error::new(Kind::Data, "D130", message);
        if let Some((reason, (rows, letter))) = by_reason.into_iter().max_by_key(|(_, (rows, _))| *rows) {
            error = error.fact(format!("{rows} of them: {reason}, in the {}:{}", letter.split, letter.position));
            error = error.fact(format!("such as: {}", letter.detail));
        }
        Err(error
            .fact("nothing is committed; mend the expression (TRY_CAST, nullif(divisor, 0), a CHECK on the table)")
            .fact("or allow more with max_errors = '…' of the pipeline, when such rows are to be dead letters"))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn letter(reason: &str) -> DeadLetter {
        DeadLetter {
            dataset: "out".to_owned(),
            reason: reason.to_owned(),
            detail: format!("{reason} here"),
            split: "statement in p.sql".to_owned(),
            position: 3,
            event_time: None,
            raw: Bytes::new(),
        }
    }

    #[test]
    fn limits_are_shares_numbers_or_none() {
        let cases = [
            ("none", Some(ErrorLimit::None)),
            ("1 %", Some(ErrorLimit::Percent(1.0))),
            ("0.5%", Some(ErrorLimit::Percent(0.5))),
            ("20", Some(ErrorLimit::Rows(20))),
            ("101 %", None),
            ("-1", None),
            ("many", None),
        ];
        for (text, expected) in cases {
            assert_eq!(ErrorLimit::parse(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn a_share_counts_from_a_hundred_rows_on() {
        let letters: Vec<DeadLetter> =
            (0..101).map(|n| letter(if n < 60 { "division by zero" } else { "other" })).collect();
        let failed = |n: usize| letters.iter().take(n).collect::<Vec<_>>();
        let one = ErrorLimit::Percent(1.0);
        assert!(one.check(&failed(100), 100, "epoch 1").is_ok());
        assert!(one.check(&failed(101), 20_000, "epoch 1").is_ok());
        assert!(ErrorLimit::Rows(100).check(&failed(100), 100, "epoch 1").is_ok());
        assert!(ErrorLimit::None.check(&failed(101), 101, "epoch 1").is_ok());
        let error = one.check(&failed(101), 200, "epoch 1").expect_err("too many");
        assert_eq!(error.message(), "101 of 200 rows of epoch 1 failed in expressions, and 100 may");
        assert!(error.facts()[0].starts_with("60 of them: division by zero, in the statement in p.sql:3"));
    }
}
