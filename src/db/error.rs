//! Errors of the database, by what callers can do about them.

use std::fmt;

use postgres::error::{DbError, Severity};

/// What PgBouncer says to settings in the option `options`.
const UNSUPPORTED_PARAMETER: &str = "unsupported startup parameter";

/// An error of the database. Its text is for the operator's log.
#[derive(Debug)]
pub enum Error {
    /// The database can't be reached, or can't work now. It may recover by itself.
    Unavailable(String),
    /// The database refuses the connection because of a wrong name, user or password. The operator
    /// must change that.
    Refused(String),
    /// The server's user lacks privileges on the tables.
    Forbidden(String),
    /// The database has tables of an older server, or of another program.
    Layout(String),
    /// A pooler stands before the database that the server, or this command, can't work with. The
    /// operator must change that.
    Pooler(String),
    /// Tables can't be changed now, because another program uses them.
    Busy(String),
    /// Any other error: a bug, or a database that was tampered with.
    Failed(String),
}

impl Error {
    /// Classifies an error of an attempt to connect.
    pub(super) fn of_connecting(error: &postgres::Error) -> Error {
        let answer = error.as_db_error().map(DbError::message);
        if answer.is_some_and(|answer| answer.starts_with(UNSUPPORTED_PARAMETER)) {
            return Error::Pooler(format!(
                "{}; take options out of database.url, or let \
                 PgBouncer drop them by ignore_startup_parameters = options",
                describe(error)
            ));
        }
        match Error::of(error) {
            // An error of the driver: it doesn't support what the settings or PostgreSQL require.
            Error::Failed(text) if error.as_db_error().is_none() => Error::Refused(text),
            // The user lacks the privilege to connect to this database.
            Error::Forbidden(text) => Error::Refused(text),
            other => other,
        }
    }

    /// Classifies an error of a statement on an open connection.
    pub(super) fn of_statement(error: &postgres::Error) -> Error {
        match Error::of(error) {
            // The connection was ended. The next one may last.
            Error::Failed(text) if error.as_db_error().is_some_and(is_fatal) => {
                Error::Unavailable(text)
            }
            other => other,
        }
    }

    /// Classifies an error by its cause and its SQLSTATE.
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
            // Timeout or cancelled, lock timeout, deadlock, serialization failure.
            "57014" | "55P03" | "40P01" | "40001" => Error::Unavailable(text),
            // Unique violation; a prepared statement that is gone, or of which the name is taken. See
            // [`Remedy::of`].
            "23505" | "26000" | "42P05" => Error::Unavailable(text),
            // Read-only transaction: a standby that isn't promoted yet.
            "25006" => Error::Unavailable(text),
            // No such database; user unknown or not permitted; wrong password.
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

/// What may cure a failed statement, before its error is returned to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// A new connection, because this one has ended or is unusable.
    Reconnect,
    /// Preparing the statements again, because a prepared one is invalid.
    PrepareAgain,
    /// Running the work again, because it was rolled back in favour of another transaction.
    TryAgain,
    /// Running the work later, because an index under construction refuses a row that the damaged
    /// index doesn't find.
    TryLater,
    /// No remedy.
    None,
}

impl Remedy {
    /// The remedy for an error of a statement.
    pub(super) fn of(error: &postgres::Error) -> Remedy {
        let Some(cause) = error.as_db_error() else {
            // The error is the driver's: the connection is broken.
            return Remedy::Reconnect;
        };
        if is_fatal(cause) {
            return Remedy::Reconnect;
        }
        match cause.code().code() {
            // Read-only transaction: a pooler or a failover has moved us to a standby.
            "25006" => Remedy::Reconnect,
            // A column's type has changed; all prepared statements were deallocated; or a pooler
            // has switched to a connection with other prepared statements.
            "0A000" | "26000" | "42P05" => Remedy::PrepareAgain,
            "40001" | "40P01" => Remedy::TryAgain,
            // Unique violation. Our statements never store an id twice, but while `init-db
            // --rebuild-ids` builds the new index, that has files which the damaged one misses.
            "23505" => Remedy::TryLater,
            // Connection exceptions, which poolers send without ending the connection.
            code if code.starts_with("08") => Remedy::Reconnect,
            _ => Remedy::None,
        }
    }
}

/// Whether PostgreSQL closes the connection after this error.
fn is_fatal(error: &DbError) -> bool {
    match error.parsed_severity() {
        Some(severity) => matches!(severity, Severity::Fatal | Severity::Panic),
        // Poolers may send only the older, localized field. They send it in English.
        None => matches!(error.severity(), "FATAL" | "PANIC"),
    }
}

/// The text of an error for the operator's log. It includes the cause, which versions of the driver
/// after 0.7.12 don't. It leaves out the database's details, because they contain file ids.
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
            | Error::Pooler(text)
            | Error::Busy(text)
            | Error::Failed(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}
