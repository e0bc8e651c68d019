//! [`problem`]: errors of the Delta library as ours, with the kind that says what to do.
//!
//! **Invariant:** no decision is made on the text of a library error, only on its variants.

use deltalake_core::DeltaTableError;
use deltalake_core::kernel::transaction::{CommitConflictError, TransactionError};
use tidemill_model::{Error, Kind};

use crate::config::Location;

/// A library error while doing `what` to the table at `location`.
pub(crate) fn problem(location: &Location, what: &str, source: DeltaTableError) -> Error {
    let shown = &location.shown;
    let message = format!("cannot {what} the Delta table {shown}: {}", first_line(&source));
    let error = match &source {
        DeltaTableError::ObjectStore { source } => return store_problem(message, source),
        DeltaTableError::Io { source } => {
            let copy = std::io::Error::new(source.kind(), source.to_string());
            return Error::io(what, format_args!("the Delta table {shown}"), copy);
        }
        DeltaTableError::NotATable(_) | DeltaTableError::InvalidTableLocation(_) => {
            Error::new(Kind::Config, "C214", message).fact("check the option `path`")
        }
        DeltaTableError::InvalidData { .. } => Error::new(Kind::Data, "D210", message)
            .fact("the table's own constraints refuse a row; nothing of the epoch was written"),
        DeltaTableError::SchemaMismatch { .. } => Error::new(Kind::Config, "C215", message),
        DeltaTableError::Transaction { source: TransactionError::UnsupportedTableFeatures(_) }
        | DeltaTableError::Transaction { source: TransactionError::DeltaTableAppendOnly }
        | DeltaTableError::UnsupportedColumnMapping { .. } => Error::new(Kind::Config, "C216", message)
            .fact("the table asks for something that cannot be written here: choose another `write` or another table"),
        DeltaTableError::Transaction { .. } | DeltaTableError::VersionAlreadyExists(_) => {
            Error::new(Kind::Unavailable, "U211", message)
                .fact("other writers kept changing the table; the commit is tried again from the start")
        }
        DeltaTableError::InvalidJsonLog { .. }
        | DeltaTableError::InvalidStatsJson { .. }
        | DeltaTableError::InvalidVersion(_)
        | DeltaTableError::MetadataError(_)
        | DeltaTableError::NoSchema
        | DeltaTableError::Parquet { .. }
        | DeltaTableError::KernelError(_)
        | DeltaTableError::Kernel { .. } => Error::new(
            Kind::Corrupt,
            "X210",
            format!("cannot {what} the Delta table {shown}: it is damaged"),
        )
        .fact(format!(
            "look at {}/_delta_log: a file there, or one that it names, is not as it was written, or is missing",
            shown.trim_end_matches('/')
        )),
        // What goes wrong while rows are written (a constraint of the table, mostly) arrives as text alone.
        DeltaTableError::Generic(text) => without_trace(text)
            .lines()
            .skip(1)
            .filter(|line| !line.trim().is_empty())
            .take(8)
            .fold(Error::new(Kind::Data, "D211", message), |error, line| error.fact(line.to_owned())),
        _ => Error::new(Kind::Internal, "I210", message),
    };
    error.because(said(&source))
}

/// What the library says, without its trace: that names the library's files to whoever wanted to know about their own.
pub(crate) fn said(error: &DeltaTableError) -> String {
    without_trace(&error.to_string())
}

fn without_trace(text: &str) -> String {
    // How the library's layers introduce what the one below them says.
    const LAYERS: [&str; 4] = ["Kernel error: ", "Generic delta kernel error: ", "Arrow error: ", "Json error: "];
    let text = LAYERS.iter().fold(text, |text, layer| text.strip_prefix(layer).unwrap_or(text));
    let lines = text.lines().take_while(|line| {
        let frame = line.trim().split_once(": ").is_some_and(|(number, _)| number.parse::<u32>().is_ok());
        !frame && !line.trim().to_ascii_lowercase().starts_with("backtrace")
    });
    lines.collect::<Vec<_>>().join("\n").trim_end().to_owned()
}

/// A store's error, by what the caller can do about it.
fn store_problem(message: String, source: &object_store::Error) -> Error {
    match source {
        object_store::Error::NotFound { .. } => Error::new(Kind::Corrupt, "X211", message).fact(
            "the table's log names a file that is not there; was the folder changed by hand, or vacuumed too early?",
        ),
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
            Error::new(Kind::Config, "C217", message)
                .fact("check the owner and the mode of the folder, or the store's keys")
        }
        object_store::Error::NotSupported { .. }
        | object_store::Error::NotImplemented { .. }
        | object_store::Error::UnknownConfigurationKey { .. } => Error::new(Kind::Config, "C218", message),
        _ => Error::new(Kind::Unavailable, "U210", message),
    }
}

/// Whether the table moved under us, so that the whole attempt may be made again on a newer snapshot.
pub(crate) fn is_conflict(error: &DeltaTableError) -> bool {
    match error {
        DeltaTableError::VersionAlreadyExists(_) => true,
        DeltaTableError::Transaction { source } => match source {
            TransactionError::VersionAlreadyExists(_) | TransactionError::MaxCommitAttempts(_) => true,
            TransactionError::CommitConflict(conflict) => matches!(
                conflict,
                CommitConflictError::ConcurrentAppend
                    | CommitConflictError::ConcurrentDeleteRead
                    | CommitConflictError::ConcurrentDeleteDelete
                    | CommitConflictError::ConcurrentTransaction
                    | CommitConflictError::MetadataChanged
                    | CommitConflictError::ProtocolChanged(_)
            ),
            _ => false,
        },
        _ => false,
    }
}

/// Library messages run over several lines with hints of their own.
fn first_line(error: &DeltaTableError) -> String {
    said(error).lines().next().unwrap_or_default().to_owned()
}
