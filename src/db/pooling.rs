//! Poolers that share PostgreSQL's sessions between their clients' transactions.
//!
//! Behind such a pooler (PgBouncer's `pool_mode = transaction`) each transaction of a connection may
//! run in another session. Two things follow:
//!
//! - A session's settings would reach other clients, and theirs reach us. So nothing is set there
//!   for longer than a transaction.
//! - The driver prepares statements under the names `s0`, `s1` and so on, as every program with this
//!   driver does. A pooler that hands these names on to whichever session is free runs statements
//!   that aren't there, or another program's. A pooler that can do better gives each statement a
//!   name of its own. By that name it is recognised; any other one that shares sessions is refused.

use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use postgres::error::SqlState;
use postgres::{Client, GenericClient, Statement};

use super::error::{Error, describe};

/// Selects whether a statement with a name of the driver's was prepared in this transaction, and how
/// many statements of the session have such names. It has no parameters: a program that runs it in
/// place of one of its own gets an error in most cases.
const LOOK: &str = "SELECT coalesce(bool_or(prepare_time >= now()), false), count(*) \
     FROM pg_prepared_statements WHERE name ~ '^s[0-9]+$'";
/// Replaces the operator's time-out for statements, which may be shorter than a look takes.
const LOOK_TIMEOUT: &str = "SET LOCAL statement_timeout = '5s'";
/// How often the first connection looks for its statement while the second one holds a session, or
/// waits for one. If sessions are shared, other clients of the pooler may displace it each time.
const LOOKS: u32 = 16;
/// How long the second connection may take. A pooler with one session for each connection may have
/// none left. It is less than the time that a server gives the first connection to be made.
const SECOND_PATIENCE: Duration = Duration::from_secs(3);

/// Whose the session behind a connection is.
pub(super) enum Pooling {
    /// It is the connection's own, as far as can be seen. The statement stays prepared in it: whoever
    /// else is given the session sees that it is shared.
    Own { _statement: Option<Statement> },
    /// A pooler shares it between transactions, and keeps track of prepared statements.
    Shared,
}

/// What is seen in a session.
struct Sight {
    /// Whether a statement was prepared in this transaction by a name of the driver's. If ours was
    /// prepared and has another name, or was there already, then a pooler keeps track of statements.
    is_by_driver: bool,
    /// How many statements of the session have a name of the driver's.
    by_driver: i64,
}

impl Sight {
    /// Whether the session has statements of others, if ours has the name that the driver gave it.
    fn has_others(&self) -> bool {
        self.by_driver > 1
    }
}

/// Finds out whose session a new connection has. With `second`, which opens another connection to
/// the same place, it also finds out whether the two share sessions.
///
/// # Errors
/// [`Error::Pooler`] if sessions are shared and statements get lost; those of the database.
pub(super) fn examine(
    client: &mut Client,
    second: Option<impl FnOnce() -> Option<Client> + Send + 'static>,
) -> Result<Pooling, Error> {
    let (marker, sight) = match first_look(client) {
        Ok(seen) => seen,
        Err(error) if is_of_statements(&error) => return Err(forgets()),
        Err(error) if is_unsupported(&error) => {
            log::debug!(
                "the database doesn't tell its prepared statements: {}",
                describe(&error)
            );
            return Ok(Pooling::Own { _statement: None });
        }
        Err(_) if second.is_some_and(refuses_transactions) => {
            return Err(Error::Pooler(
                "it ends connections that begin a transaction; set pool_mode = transaction or \
                 session in PgBouncer"
                    .into(),
            ));
        }
        Err(error) => return Err(Error::of_connecting(&error)),
    };
    if !sight.is_by_driver {
        return Ok(Pooling::Shared);
    }
    if sight.has_others() || second.is_some_and(|second| is_shared(client, &marker, second)) {
        return Err(forgets());
    }
    Ok(Pooling::Own {
        _statement: Some(marker),
    })
}

/// Prepares the statement and runs it, in one transaction and so in one session.
fn first_look(client: &mut impl GenericClient) -> Result<(Statement, Sight), postgres::Error> {
    let mut transaction = client.transaction()?;
    transaction.batch_execute(LOOK_TIMEOUT)?;
    let marker = transaction.prepare(LOOK)?;
    let sight = look(&mut transaction, &marker)?;
    transaction.commit()?;
    Ok((marker, sight))
}

fn look(client: &mut impl GenericClient, marker: &Statement) -> Result<Sight, postgres::Error> {
    let row = client.query_one(marker, &[])?;
    Ok(Sight {
        is_by_driver: row.try_get(0)?,
        by_driver: row.try_get(1)?,
    })
}

/// Whether a new connection works until it begins a transaction. The driver may lose what the pooler
/// says of that.
fn refuses_transactions(second: impl FnOnce() -> Option<Client>) -> bool {
    second().is_some_and(|mut client| {
        client.is_valid(SECOND_PATIENCE).is_ok() && client.batch_execute("BEGIN").is_err()
    })
}

/// Whether an error says that the database doesn't know what was asked, as one that only speaks
/// PostgreSQL's protocol may not.
pub(super) fn is_unsupported(error: &postgres::Error) -> bool {
    let is_of = |state: &SqlState| {
        ["42", "0A"]
            .iter()
            .any(|class| state.code().starts_with(class))
    };
    error.code().is_some_and(is_of)
}

/// Whether an error says that a statement isn't prepared, or that another one has its name.
pub(super) fn is_of_statements(error: &postgres::Error) -> bool {
    let states = [
        SqlState::INVALID_SQL_STATEMENT_NAME,
        SqlState::DUPLICATE_PSTATEMENT,
    ];
    error.code().is_some_and(|state| states.contains(state))
}

/// Whether a second connection can take the first one's session. It holds the session that it is
/// given, and sees the first one's statement there; or the first one misses its statement, at once or
/// when the second one has given its session back.
fn is_shared(
    first: &mut Client,
    marker: &Statement,
    second: impl FnOnce() -> Option<Client> + Send + 'static,
) -> bool {
    let (tell, told) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    // A thread of its own, because a pooler without a free session keeps it waiting.
    let builder = thread::Builder::new().name("pooling".into());
    let hold = move || {
        // The receiver is gone if this took too long.
        let _ = second().map(|client| hold_session(client, &tell, &released));
    };
    if builder.spawn(hold).is_err() {
        return false;
    }
    let sees_others = told.recv_timeout(SECOND_PATIENCE);
    // If the second connection waits for a session, others use them all.
    if sees_others == Ok(true) || is_displaced(first, marker) {
        return true;
    }
    drop(release);
    sees_others.is_ok() && told.recv_timeout(SECOND_PATIENCE).is_ok() && is_displaced(first, marker)
}

/// Holds a session until it is `released`. Tells whether there are statements of others, and when the
/// session is given back.
fn hold_session(mut client: Client, tell: &Sender<bool>, released: &Receiver<()>) -> Option<()> {
    let mut transaction = client.transaction().ok()?;
    transaction.batch_execute(LOOK_TIMEOUT).ok()?;
    let marker = transaction.prepare(LOOK);
    let sees_others = match &marker {
        Ok(marker) => look(&mut transaction, marker).is_ok_and(|sight| sight.has_others()),
        Err(error) => is_of_statements(error),
    };
    tell.send(sees_others).ok()?;
    // Nothing is sent: the other end is dropped.
    let _ = released.recv();
    transaction.commit().ok()?;
    tell.send(sees_others).ok()
}

/// Whether a connection misses its statement, or sees those of others.
fn is_displaced(client: &mut Client, marker: &Statement) -> bool {
    (0..LOOKS).any(|_| match look(client, marker) {
        Ok(sight) => sight.has_others(),
        Err(error) => is_of_statements(&error),
    })
}

fn forgets() -> Error {
    Error::Pooler(
        "it mixes up the prepared statements of its clients; set max_prepared_statements = 200 in \
         PgBouncer 1.21 or newer, or pool_mode = session"
            .into(),
    )
}
