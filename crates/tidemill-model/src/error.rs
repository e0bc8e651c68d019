//! [`Error`]: what went wrong, where in the user's text, and what to do about it.
//!
//! **Invariant:** the [`Kind`] alone says what a caller must do; nobody matches on an error's text.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// The result of everything that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller must do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Fix the project: options, connections, the command line.
    Config,
    /// Fix the SQL at its place.
    Plan,
    /// A record is bad; the dataset's policy decides.
    Data,
    /// Something outside does not answer or has no room: try again later.
    Unavailable,
    /// Another run owns this: stop.
    Fenced,
    /// Stored bytes are not what was written.
    Corrupt,
    /// A defect of Tidemill.
    Internal,
}

/// A range of bytes in a file of the user's, with the file's text so that it can be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file's name as the user knows it, relative to the project.
    pub file: Arc<str>,
    /// The whole text of the file.
    pub text: Arc<str>,
    /// The bytes meant.
    pub span: Range<usize>,
}

impl Place {
    /// Line and column, both from 1, columns in characters.
    #[must_use]
    pub fn line_column(&self) -> (usize, usize) {
        let before = self.text.get(..self.span.start).unwrap_or(&self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        (line, column)
    }

    /// The text of the line that the place starts on.
    #[must_use]
    pub fn line_text(&self) -> &str {
        let (line, _) = self.line_column();
        self.text.lines().nth(line - 1).unwrap_or("")
    }
}

/// An error with its kind, code, place, facts and cause.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    code: &'static str,
    message: String,
    label: String,
    place: Option<Place>,
    facts: Vec<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    more: Vec<Error>,
}

impl Error {
    /// An error of this kind. `code` is its letter and number (`C011`, `P104`), stable for searching and `help`.
    pub fn new(kind: Kind, code: &'static str, message: impl Into<String>) -> Error {
        Error(Box::new(Inner {
            kind,
            code,
            message: message.into(),
            label: String::new(),
            place: None,
            facts: Vec::new(),
            source: None,
            more: Vec::new(),
        }))
    }

    /// A defect of Tidemill.
    pub fn internal(message: impl Into<String>) -> Error {
        Error::new(Kind::Internal, "I001", message)
    }

    /// Adds the place in the user's text, unless one is known already.
    #[must_use]
    pub fn at(mut self, place: &Place) -> Error {
        self.0.place.get_or_insert_with(|| place.clone());
        self
    }

    /// The words beside the caret: "did you mean `amount`?".
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Error {
        self.0.label = label.into();
        self
    }

    /// Adds a line of fact or advice below the message.
    #[must_use]
    pub fn fact(mut self, fact: impl Into<String>) -> Error {
        self.0.facts.push(fact.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        self.0.source = Some(source.into());
        self
    }

    /// Puts words before the message: what was being done.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Error {
        self.0.message = format!("{context}: {}", self.0.message);
        self
    }

    /// Adds further errors found in the same pass.
    #[must_use]
    pub fn and(mut self, more: Vec<Error>) -> Error {
        self.0.more.extend(more);
        self
    }

    /// Several errors as one, if there are any; the first stays first.
    #[must_use]
    pub fn all(errors: Vec<Error>) -> Option<Error> {
        let mut errors = errors.into_iter();
        let first = errors.next()?;
        Some(first.and(errors.collect()))
    }

    /// What the caller must do.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.0.code
    }

    /// What went wrong, in one sentence.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The words beside the caret; may be empty.
    #[must_use]
    pub fn caret_label(&self) -> &str {
        &self.0.label
    }

    /// Where in the user's text, if that is known.
    #[must_use]
    pub fn place(&self) -> Option<&Place> {
        self.0.place.as_ref()
    }

    /// Facts and advice, in order.
    #[must_use]
    pub fn facts(&self) -> &[String] {
        &self.0.facts
    }

    /// Further errors found in the same pass.
    #[must_use]
    pub fn more(&self) -> &[Error] {
        &self.0.more
    }

    /// An input-output error while doing `what` to `target`, with the advice that its cause calls for.
    pub fn io(what: &str, target: impl fmt::Display, source: std::io::Error) -> Error {
        use std::io::ErrorKind as K;
        let message = format!("cannot {what} {target}: {source}");
        let error = match source.kind() {
            K::StorageFull | K::QuotaExceeded => Error::new(Kind::Unavailable, "U010", message)
                .fact("nothing of the unfinished epoch was committed; free some space, then run again"),
            K::NotFound => Error::new(Kind::Config, "C040", message).fact("check the path, or create it"),
            K::PermissionDenied | K::ReadOnlyFilesystem => {
                Error::new(Kind::Config, "C041", message).fact("check the owner and the mode of the path")
            }
            _ => Error::new(Kind::Unavailable, "U011", message),
        };
        error.because(source)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.0.place {
            let (line, column) = place.line_column();
            write!(f, "{}:{line}:{column}: ", place.file)?;
        }
        f.write_str(&self.0.message)?;
        if !self.0.label.is_empty() {
            write!(f, " ({})", self.0.label)?;
        }
        for fact in &self.0.facts {
            write!(f, "; {fact}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}
