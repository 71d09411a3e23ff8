//! What can go wrong with the database, as far as callers act on it.

use std::fmt;

use postgres::error::{DbError, Severity};

/// A statement that failed. Its text is for the operator's log.
#[derive(Debug)]
pub enum Error {
    /// The database can't be reached, or can't work now: it may come back by itself.
    Unavailable(String),
    /// The database refuses us: a wrong name, user or password. Nothing but the operator
    /// changes that.
    Refused(String),
    /// The database lets us in, but not at its tables: they are another user's.
    Forbidden(String),
    /// The database holds tables of an older server, or of another program.
    Layout(String),
    /// Tables can't be changed now, because somebody else uses them.
    Busy(String),
    /// Anything else: a bug, or a database that was tampered with.
    Failed(String),
}

impl Error {
    /// Sorts an error of an attempt to connect.
    pub(super) fn of_connecting(error: &postgres::Error) -> Error {
        match Error::of(error) {
            // We ourselves can't do what the settings or the server ask for.
            Error::Failed(text) if error.as_db_error().is_none() => Error::Refused(text),
            // The user may not connect to this database.
            Error::Forbidden(text) => Error::Refused(text),
            other => other,
        }
    }

    /// Sorts an error of a statement on an open connection.
    pub(super) fn of_statement(error: &postgres::Error) -> Error {
        match Error::of(error) {
            // Whatever ended the connection, the next one may last.
            Error::Failed(text) if error.as_db_error().is_some_and(is_fatal) => {
                Error::Unavailable(text)
            }
            other => other,
        }
    }

    /// Sorts an error by what the database says of it.
    pub(super) fn of(error: &postgres::Error) -> Error {
        let text = describe(error);
        let Some(cause) = error.as_db_error() else {
            return match (error.is_closed(), std::error::Error::source(error)) {
                (true, _) => Error::Unavailable(text),
                (_, Some(cause)) if cause.is::<std::io::Error>() => Error::Unavailable(text),
                _ => Error::Failed(text),
            };
        };
        match cause.code().code() {
            // Too long, cancelled by the operator, or out-waited by another statement.
            "57014" | "55P03" | "40P01" | "40001" => Error::Unavailable(text),
            // See [`Remedy::of`].
            "23505" => Error::Unavailable(text),
            // A stand-by that hasn't been promoted yet.
            "25006" => Error::Unavailable(text),
            // No such database; no such user, or one who may not come in; a wrong password.
            "3D000" | "28000" | "28P01" => Error::Refused(text),
            "42501" => Error::Forbidden(text),
            // Connection exceptions, insufficient resources, operator intervention.
            code if ["08", "53", "57"]
                .iter()
                .any(|class| code.starts_with(class)) =>
            {
                Error::Unavailable(text)
            }
            _ => Error::Failed(text),
        }
    }
}

/// What can be done about a failed statement before its caller hears of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// The connection has ended, or is of no use any more: a new one may do.
    Reconnect,
    /// A prepared statement doesn't fit any more: prepared again it may.
    PrepareAgain,
    /// Another transaction was in the way, and this one was rolled back.
    TryAgain,
    /// An index refuses a row that another one misses, as long as it is being built.
    TryLater,
    /// Nothing.
    None,
}

impl Remedy {
    /// The remedy for an error of a statement.
    pub(super) fn of(error: &postgres::Error) -> Remedy {
        let Some(cause) = error.as_db_error() else {
            // Not the database's own word: the conversation itself went wrong.
            return Remedy::Reconnect;
        };
        if is_fatal(cause) {
            return Remedy::Reconnect;
        }
        match cause.code().code() {
            // A pooler or a fail-over may have moved us to a stand-by.
            "25006" => Remedy::Reconnect,
            // A column has another type now, somebody has removed all prepared statements, or
            // a pooler has given us a connection on which others are prepared.
            "0A000" | "26000" | "42P05" => Remedy::PrepareAgain,
            "40001" | "40P01" => Remedy::TryAgain,
            // No statement of ours stores an id twice. But while `init-db --rebuild-ids` builds
            // the new index, that knows of files which the old one misses.
            "23505" => Remedy::TryLater,
            // Connection exceptions, which poolers send as ordinary errors.
            code if code.starts_with("08") => Remedy::Reconnect,
            _ => Remedy::None,
        }
    }
}

/// Whether PostgreSQL closes the connection after this error.
fn is_fatal(error: &DbError) -> bool {
    match error.parsed_severity() {
        Some(severity) => matches!(severity, Severity::Fatal | Severity::Panic),
        // Poolers may send the older field alone, which is in English then.
        None => matches!(error.severity(), "FATAL" | "PANIC"),
    }
}

/// An error for the operator's log, with its cause: which the driver names itself up to 0.7.12,
/// and no more in later versions. What the database says in detail is left away, because that
/// names file ids.
pub(super) fn describe(error: &postgres::Error) -> String {
    let Some(answer) = error.as_db_error() else {
        let text = error.to_string();
        let cause = std::error::Error::source(error).map(ToString::to_string);
        return match cause {
            Some(cause) if !text.contains(&cause) => format!("{text}: {cause}"),
            _ => text,
        };
    };
    let mut text = format!("{} (SQLSTATE {})", answer.message(), answer.code().code());
    if let Some(hint) = answer.hint() {
        text += &format!("; {hint}");
    }
    text
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Unavailable(text)
            | Error::Refused(text)
            | Error::Forbidden(text)
            | Error::Layout(text)
            | Error::Busy(text)
            | Error::Failed(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}
