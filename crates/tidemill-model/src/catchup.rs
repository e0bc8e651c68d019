//! [`Catchup`]: which of the intervals that were missed are run.
//!
//! **Invariant:** a catchup only chooses among intervals that are due and not done; it makes none due.

use std::fmt;

use crate::{Error, Kind, Result, Timestamp, nearest};

/// Which intervals without a run are made up for, now and after a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Catchup {
    /// None: only intervals that become due from now on.
    None,
    /// The latest that is due. Those before it stay holes, and are shown as such.
    #[default]
    Latest,
    /// Each, also those before the last that succeeded.
    All,
    /// Each that begins at or after the instant.
    Since(Timestamp),
}

impl Catchup {
    /// Reads `none`, `latest`, `all`, `since 2026-01-01`.
    ///
    /// # Errors
    /// Config, when it is none of these or the time is none.
    pub fn parse(text: &str) -> Result<Catchup> {
        let lower = text.trim().to_ascii_lowercase();
        match lower.as_str() {
            "none" => return Ok(Catchup::None),
            "latest" => return Ok(Catchup::Latest),
            "all" => return Ok(Catchup::All),
            _ => {}
        }
        if let Some((word, at)) = text.trim().split_once(char::is_whitespace)
            && word.eq_ignore_ascii_case("since")
        {
            return Timestamp::parse(at).map(Catchup::Since);
        }
        let mut error = Error::new(Kind::Config, "C068", format!("`{text}` is no catchup"))
            .fact("catchups: none, latest, all, since 2026-01-01");
        if Timestamp::parse(text).is_ok() {
            error = error.label(format!("did you mean `since {}`?", text.trim()));
        } else if let Some(meant) = nearest(&lower, ["none", "latest", "all"]) {
            error = error.label(format!("did you mean `{meant}`?"));
        }
        Err(error)
    }
}

impl fmt::Display for Catchup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Catchup::None => f.write_str("none"),
            Catchup::Latest => f.write_str("latest"),
            Catchup::All => f.write_str("all"),
            Catchup::Since(at) => write!(f, "since {at}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_shows() {
        for text in ["none", "latest", "all", "since 2026-01-01T00:00:00Z", "since 2026-01-01T02:30:00.500Z"] {
            let read = Catchup::parse(text).expect(text);
            assert_eq!(read.to_string(), text);
        }
        let since = Catchup::parse(" SINCE  2026-01-01 ").expect("reads");
        assert_eq!(since.to_string(), "since 2026-01-01T00:00:00Z");
        assert_eq!(Catchup::default(), Catchup::Latest);
    }

    #[test]
    fn refuses_the_rest_and_says_what_was_meant() {
        let cases = [
            ("lastest", "C068", "did you mean `latest`?"),
            ("2026-01-01", "C068", "did you mean `since 2026-01-01`?"),
            ("everything", "C068", ""),
            ("since", "C068", ""),
            ("since yesterday", "C030", ""),
        ];
        for (text, code, label) in cases {
            let error = Catchup::parse(text).expect_err(text);
            assert_eq!((error.code(), error.caret_label()), (code, label), "{text}");
        }
    }
}
