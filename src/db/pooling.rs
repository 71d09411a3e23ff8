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

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use postgres::error::SqlState;
use postgres::{Client, GenericClient, Statement};

use super::deadline::Watched;
use super::error::{Error, describe};

/// Selects whether a statement with a name of the driver's was prepared in this transaction, how
/// many statements of the session have such names, and what tells the session from others: its
/// process, when that began, and its age, both in seconds. It has no parameters: a program that runs
/// it in place of one of its own gets an error in most cases.
const LOOK: &str = "SELECT coalesce(bool_or(prepare_time >= now()), false), count(name), \
         pg_backend_pid(), max(extract(epoch FROM began))::float8, \
         max(extract(epoch FROM clock_timestamp() - began))::float8 \
     FROM (SELECT max(backend_start) AS began FROM pg_stat_activity \
         WHERE pid = pg_backend_pid()) AS session \
     LEFT JOIN pg_prepared_statements ON name ~ '^s[0-9]+$'";
/// Replaces the operator's time-out for statements, which may be shorter than a look takes.
const LOOK_TIMEOUT: &str = "SET LOCAL statement_timeout = '5s'";
/// How often the first connection looks for its statement while the second one holds a session, or
/// waits for one, and again afterwards. If sessions are shared, other clients of the pooler may
/// displace it each time.
const LOOKS: u32 = 16;
/// The same if both sessions have begun together with their connections, as they do without a
/// pooler. A pooler's sessions are older, except for its very first ones.
const LOOKS_AT_NEW: u32 = 2;
/// How long these looks may take if the database is slow, or far away.
const LOOKING: Duration = Duration::from_secs(3);
/// How long the second connection is waited for. A pooler with one session for each connection may
/// have none left. The first connection is not asked anything meanwhile, so that its deadlines
/// rest; the second one has deadlines of its own, which end it.
const SECOND_PATIENCE: Duration = Duration::from_secs(3);

/// Whose the session behind a connection is.
pub(super) enum Pooling {
    /// It is the connection's own, as far as can be seen. The statement stays prepared in it: whoever
    /// else is given the session sees that it is shared.
    Own { _statement: Option<Statement> },
    /// A pooler shares it between transactions, and keeps track of prepared statements.
    Shared,
}

/// The connection that is examined.
pub(super) struct First<'a> {
    pub(super) client: &'a mut Client,
    pub(super) watched: &'a Watched,
    /// When it began to be made.
    pub(super) began: Instant,
}

/// What opens another connection to the same place, and watches it.
pub(super) struct Second<Open> {
    pub(super) open: Open,
    pub(super) watched: Arc<Watched>,
}

/// A session: its process, and when that began, in seconds of the epoch. Several databases behind
/// one address may have processes of the same number.
type Session = (i32, f64);

/// What is seen in a session.
struct Sight {
    /// Whether a statement was prepared in this transaction by a name of the driver's. If ours was
    /// prepared and has another name, or was there already, then a pooler keeps track of statements.
    is_by_driver: bool,
    /// How many statements of the session have a name of the driver's.
    by_driver: i64,
    /// The session, if the database tells when it began.
    session: Option<Session>,
    /// Whether the session is younger than its connection, so that it was made for it.
    is_new: bool,
}

impl Sight {
    /// Whether the session has statements of others, if ours has the name that the driver gave it.
    fn has_others(&self) -> bool {
        self.by_driver > 1
    }

    /// Whether the same connection was seen in another session.
    fn is_elsewhere(&self, other: &Sight) -> bool {
        let sessions = self.session.zip(other.session);
        sessions.is_some_and(|(one, other)| one != other)
    }
}

/// What a second connection sees in its session.
enum SecondSight {
    /// Statements of others.
    Others,
    /// None, in this session.
    Own(Sight),
    /// Nothing: the look has failed.
    Nothing,
}

/// Finds out whose session a new connection has. With `second` it also finds out whether the two
/// share sessions.
///
/// # Errors
/// [`Error::Pooler`] if sessions are shared and statements get lost; those of the database.
pub(super) fn examine(
    mut first: First,
    second: Option<Second<impl FnOnce() -> Option<Client> + Send + 'static>>,
) -> Result<Pooling, Error> {
    first.watched.asks_further();
    let (marker, sight) = match first_look(&mut first) {
        Ok(seen) => seen,
        Err(error) if is_of_statements(&error) => return Err(forgets()),
        Err(error) if is_unsupported(&error) => {
            log::debug!(
                "the database doesn't tell its prepared statements: {}",
                describe(&error)
            );
            return Ok(Pooling::Own { _statement: None });
        }
        // A database that says nothing refuses nothing.
        Err(_) if !first.watched.was_closed() && second.is_some_and(refuses_transactions) => {
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
    let is_shared = |second| is_shared(&mut first, &marker, &sight, second);
    if sight.has_others() || second.is_some_and(is_shared) {
        return Err(forgets());
    }
    Ok(Pooling::Own {
        _statement: Some(marker),
    })
}

/// Prepares the statement and runs it, in one transaction and so in one session.
fn first_look(first: &mut First) -> Result<(Statement, Sight), postgres::Error> {
    let mut transaction = first.client.transaction()?;
    first.watched.asks_further();
    transaction.batch_execute(LOOK_TIMEOUT)?;
    let marker = transaction.prepare(LOOK)?;
    first.watched.asks_further();
    let sight = look(&mut transaction, &marker, first.began)?;
    transaction.commit()?;
    Ok((marker, sight))
}

/// Looks at the session of a connection that `began` to be made then.
fn look(
    client: &mut impl GenericClient,
    marker: &Statement,
    began: Instant,
) -> Result<Sight, postgres::Error> {
    let row = client.query_one(marker, &[])?;
    let (process, start): (i32, Option<f64>) = (row.try_get(2)?, row.try_get(3)?);
    let age: Option<f64> = row.try_get(4)?;
    Ok(Sight {
        is_by_driver: row.try_get(0)?,
        by_driver: row.try_get(1)?,
        session: start.map(|start| (process, start)),
        is_new: age.is_some_and(|age| age <= began.elapsed().as_secs_f64()),
    })
}

/// Whether a new connection works until it begins a transaction. The driver may lose what the pooler
/// says of that. All of this may take as long as the database's greeting.
fn refuses_transactions(second: Second<impl FnOnce() -> Option<Client>>) -> bool {
    let Second { open, watched } = second;
    let Some(mut client) = open() else {
        return false;
    };
    client.is_valid(SECOND_PATIENCE).is_ok()
        && client.batch_execute("BEGIN").is_err()
        && !watched.was_closed()
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
/// given, which is the one that the first one had, or sees the first one's statement there; or the
/// first one misses its statement or is elsewhere, at once or when the second one has given its
/// session back.
fn is_shared(
    first: &mut First,
    marker: &Statement,
    sight: &Sight,
    second: Second<impl FnOnce() -> Option<Client> + Send + 'static>,
) -> bool {
    let (tell, told) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    // A thread of its own, because a pooler without a free session keeps it waiting.
    let builder = thread::Builder::new().name("pooling".into());
    let hold = move || {
        // The receiver is gone if this took too long.
        let _ = hold_session(second, &tell, &released);
    };
    if builder.spawn(hold).is_err() {
        return false;
    }
    first.watched.end();
    let held = told.recv_timeout(SECOND_PATIENCE);
    let looks = match &held {
        Ok(SecondSight::Others) => return true,
        Ok(SecondSight::Own(other))
            if other.session.is_some() && other.session == sight.session =>
        {
            return true;
        }
        Ok(SecondSight::Own(other)) if other.is_new && sight.is_new => LOOKS_AT_NEW,
        // If the second connection waits for a session, others use them all.
        Ok(_) | Err(_) => LOOKS,
    };
    if is_displaced(first, marker, sight, looks) {
        return true;
    }
    drop(release);
    held.is_ok()
        && told.recv_timeout(SECOND_PATIENCE).is_ok()
        && is_displaced(first, marker, sight, looks)
}

/// Holds a session until it is `released`. Tells what it sees there, and when the session is given
/// back.
fn hold_session(
    second: Second<impl FnOnce() -> Option<Client>>,
    tell: &Sender<SecondSight>,
    released: &Receiver<()>,
) -> Option<()> {
    let began = Instant::now();
    // The client is dropped before what watches it, because closing it may need an answer.
    let Second { open, watched } = second;
    let mut client = open()?;
    watched.asks_further();
    let mut transaction = client.transaction().ok()?;
    transaction.batch_execute(LOOK_TIMEOUT).ok()?;
    let seen = match transaction.prepare(LOOK) {
        Ok(marker) => look(&mut transaction, &marker, began),
        Err(error) if is_of_statements(&error) => {
            tell.send(SecondSight::Others).ok()?;
            return None;
        }
        Err(error) => Err(error),
    };
    tell.send(match seen {
        Ok(sight) if sight.has_others() => SecondSight::Others,
        Ok(sight) => SecondSight::Own(sight),
        Err(_) => SecondSight::Nothing,
    })
    .ok()?;
    watched.end();
    // Nothing is sent: the other end is dropped.
    let _ = released.recv();
    watched.asks_further();
    transaction.commit().ok()?;
    tell.send(SecondSight::Nothing).ok()
}

/// Whether a connection misses its statement, sees those of others, or is in another session than
/// that of its first `sight`.
fn is_displaced(first: &mut First, marker: &Statement, sight: &Sight, looks: u32) -> bool {
    let until = Instant::now() + LOOKING;
    let mut is_displaced = false;
    for _ in 0..looks {
        first.watched.asks_further();
        is_displaced = match look(first.client, marker, first.began) {
            Ok(seen) => seen.has_others() || seen.is_elsewhere(sight),
            Err(error) => is_of_statements(&error),
        };
        if is_displaced || first.client.is_closed() || Instant::now() > until {
            break;
        }
    }
    first.watched.end();
    is_displaced
}

fn forgets() -> Error {
    Error::Pooler(
        "it mixes up the prepared statements of its clients; set max_prepared_statements = 200 in \
         PgBouncer 1.21 or newer, or pool_mode = session"
            .into(),
    )
}
