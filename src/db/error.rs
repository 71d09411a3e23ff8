//! What can go wrong with the database, as far as callers act on it.

use std::fmt;

use postgres::error::{DbError, SqlState};

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
    /// Anything else: a bug, or a database that was tampered with.
    Failed(String),
}

impl Error {
    /// Sorts an error of a statement or of an attempt to connect.
    pub(super) fn of(error: &postgres::Error) -> Error {
        let Some(cause) = error.as_db_error() else {
            return match (error.is_closed(), std::error::Error::source(error)) {
                (true, _) => Error::Unavailable(error.to_string()),
                (_, Some(cause)) if cause.is::<std::io::Error>() => {
                    Error::Unavailable(error.to_string())
                }
                _ => Error::Failed(error.to_string()),
            };
        };
        let text = describe(cause);
        match cause.code().code() {
            // Too long, cancelled by the operator, or out-waited by another statement.
            "57014" | "55P03" | "40P01" | "40001" => Error::Unavailable(text),
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

/// Whether the connection on which `error` came is of no further use.
pub(super) fn ends_connection(error: &postgres::Error) -> bool {
    match error.code() {
        Some(code) => {
            code == &SqlState::ADMIN_SHUTDOWN
                || code == &SqlState::CRASH_SHUTDOWN
                || code == &SqlState::CANNOT_CONNECT_NOW
                // A pooler or a fail-over may have moved us to a stand-by.
                || code == &SqlState::READ_ONLY_SQL_TRANSACTION
        }
        // Not the server's own word: the conversation itself went wrong.
        None => true,
    }
}

fn describe(error: &DbError) -> String {
    let mut text = format!("{} (SQLSTATE {})", error.message(), error.code().code());
    if let Some(hint) = error.hint() {
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
            | Error::Failed(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}
