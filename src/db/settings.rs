//! The parsed and checked `database.url` or `database.read_url`, and connecting with it.

use std::borrow::Cow;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use postgres::Client;
use postgres::config::{ChannelBinding, Host, SslMode, TargetSessionAttrs};
use postgres::error::DbError;
use zeroize::Zeroizing;

use super::deadline::{Deadlines, Patience, Watched};
use super::error::Error;
use super::hosts;
use super::passwords::{self, Login};
use super::pooling::{self, First, Pooling, Second};
use super::session::{self, SessionSettings};
use super::tls::{self, Connector, TlsSettings};
use super::url;

/// The default of `database.url`.
pub const DEFAULT_URL: &str = "host=/run/postgresql dbname=sessionfiles";

/// The folder of PostgreSQL's socket on Debian, which is used if the URL names no host.
const DEFAULT_SOCKET_FOLDER: &str = "/run/postgresql";
/// The names of that folder, of which the second is the older one.
const DEFAULT_SOCKET_FOLDERS: [&str; 2] = [DEFAULT_SOCKET_FOLDER, "/var/run/postgresql"];
/// The longest attempt to connect, unless the URL sets `connect_timeout`.
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a database on another machine may leave sent data unacknowledged before the connection
/// is closed, unless the URL sets `tcp_user_timeout`. By default the system retries for a quarter
/// of an hour.
const DEFAULT_TCP_USER_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a connection is idle before the system probes its other end, unless the URL sets
/// `keepalives_idle`.
const DEFAULT_KEEPALIVES_IDLE: Duration = Duration::from_secs(30);
/// An examination that failed within this time is followed by a connection without one.
const EXAMINED_SOON: Duration = Duration::from_secs(2);
/// The longest folder of a socket, bytes. A Unix socket's address holds 107 bytes (unix(7)), of
/// which the socket's name, `/.s.PGSQL.65535`, takes 15.
const MAX_SOCKET_FOLDER: usize = 107 - 15;

/// The settings with which connections to the database are made.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The settings that the driver supports.
    pub(super) driver: postgres::Config,
    tls: TlsSettings,
    /// `passfile`: the password file for a login without a password.
    password_file: Option<PathBuf>,
    /// Whether several hosts may be tried one by one. A setting of theirs that not every version of
    /// the driver tells would be lost.
    pub(super) may_split: bool,
}

/// How a connection begins.
pub(super) struct Begin {
    /// Further session settings.
    pub(super) session: SessionSettings,
    /// Whether a second connection is opened for a moment, to see whether a pooler shares sessions.
    /// Becomes false if nothing was to be seen that way.
    pub(super) with_second: Cell<bool>,
    /// Who is told when the database is there.
    pub(super) watched: Arc<Watched>,
    /// What watches further connections that are made for this one.
    pub(super) deadlines: Arc<Deadlines>,
    /// What gets the notices and warnings that the database sends.
    pub(super) notice: Arc<dyn Fn(DbError) + Send + Sync>,
    /// Gets the highest timeline that was seen when the connection was admitted.
    pub(super) timeline: Cell<i64>,
}

/// The timeline of a connection whose place among others is unknown: none is higher.
pub(super) const NO_TIMELINE: i64 = i64::MAX;

/// The parameters that the driver supports, and of which it matters whether they are given.
const GIVEN: [&str; 2] = ["target_session_attrs", "sslnegotiation"];
/// The parameter of libpq that names a password file.
const PASSWORD_FILE: &str = "passfile";
/// The most hosts of `database.read_url`. Each has a thread that watches it.
const MAX_REPLICAS: usize = 16;
/// PostgreSQL's port, which is used if the URL names none.
const DEFAULT_PORT: u16 = 5432;

impl Settings {
    /// Parses key=value pairs or a `postgresql://` URL, and refuses settings that can never work.
    ///
    /// # Errors
    /// The mistake. The text isn't repeated, because it may hold a password.
    pub fn parse(url: &str) -> Result<Settings, String> {
        // Several hosts are a primary and its standbys.
        Settings::parse_for(url, TargetSessionAttrs::ReadWrite)
    }

    /// Parses the same for databases that are only read, each host by itself.
    ///
    /// # Errors
    /// The mistake, without the text.
    pub fn parse_replicas(url: &str) -> Result<Settings, String> {
        let settings = Settings::parse_for(url, TargetSessionAttrs::Any)?;
        let hosts = settings.driver.get_hosts().len();
        if hosts > MAX_REPLICAS {
            return Err(format!("{hosts} hosts are more than {MAX_REPLICAS}"));
        }
        if hosts > 1 && !settings.may_split {
            return Err("sslnegotiation can't be set for several hosts".into());
        }
        Ok(settings)
    }

    fn parse_for(url: &str, several: TargetSessionAttrs) -> Result<Settings, String> {
        if url.trim().is_empty() {
            return Err("it is empty".into());
        }
        let given = url::take(url, &GIVEN).taken;
        let is_given = |name: &str| given.iter().any(|(given, _)| *given == name);
        let names: Vec<&str> = tls::PARAMETERS.into_iter().chain([PASSWORD_FILE]).collect();
        let url = url::take(url, &names);
        let tls = TlsSettings::parse(&url.taken)?;
        let password_file = url.taken.iter().find(|(name, _)| *name == PASSWORD_FILE);
        let password_file = password_file.map(|(_, file)| PathBuf::from(file));
        let parsed = url.rest.parse();
        let mut config: postgres::Config = parsed.map_err(|error: postgres::Error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            cause.unwrap_or_else(|| error.to_string())
        })?;
        if config.get_ssl_mode() != SslMode::Prefer {
            // The driver has seen one where we did not, so that it would be lost.
            return Err(
                "sslmode can't be told from what stands before it; in a URL's user or password \
                 write %3F for ?, and write the names of parameters as they are"
                    .into(),
            );
        }
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            config.host_path(DEFAULT_SOCKET_FOLDER);
        }
        refuse_impossible(&config)?;
        if config.get_hosts().is_empty() {
            // Certificates are checked for the address if the host has no name.
            let addresses = config.get_hostaddrs().to_vec();
            for address in addresses {
                config.host(&address.to_string());
            }
        }
        set_tls(&mut config, &tls)?;
        set_defaults(&mut config);
        if config.get_hosts().len() > 1 && !is_given(GIVEN[0]) {
            config.target_session_attrs(several);
        }
        Ok(Settings {
            driver: config,
            tls,
            password_file,
            may_split: !is_given(GIVEN[1]),
        })
    }

    /// The settings of each host alone, with the host's name for the log.
    pub(super) fn each_host(&self) -> Vec<(String, Settings)> {
        let hosts = hosts::each(&self.driver);
        // What this driver doesn't tell of a host is kept if it is the only one.
        let is_one = hosts.len() == 1;
        let settings = |(name, driver)| {
            let driver = if is_one { self.driver.clone() } else { driver };
            let settings = Settings {
                driver,
                tls: self.tls.clone(),
                password_file: self.password_file.clone(),
                may_split: false,
            };
            (name, settings)
        };
        hosts.into_iter().map(settings).collect()
    }

    /// Opens a connection, which is not replaced when it breaks.
    ///
    /// # Errors
    /// Those of an attempt to connect.
    pub(super) fn connect(&self) -> Result<Client, Error> {
        let begin = Begin {
            session: &[],
            with_second: Cell::new(true),
            watched: Arc::new(Watched::new(Patience::Unlimited)),
            deadlines: Arc::default(),
            notice: Arc::new(|_| ()),
            timeline: Cell::new(NO_TIMELINE),
        };
        let (client, _) = self.connect_to(self.with_password()?, &begin)?;
        Ok(client)
    }

    /// The settings for the driver, with the password.
    pub(super) fn with_password(&self) -> Result<postgres::Config, Error> {
        let mut driver = self.driver.clone();
        if driver.get_password().is_none() {
            if let Some(password) = self.password().map_err(Error::Refused)? {
                driver.password(password.as_bytes());
            }
        }
        Ok(driver)
    }

    /// Opens a connection to what `driver` names.
    pub(super) fn connect_to(
        &self,
        mut driver: postgres::Config,
        begin: &Begin,
    ) -> Result<(Client, Pooling), Error> {
        let began = Instant::now();
        let notice = begin.notice.clone();
        driver.notice_callback(move |received| notice(received));
        let connector = || Ok(self.connector()?.watched_by(begin.watched.clone()));
        let mut connected = open(&driver, connector()?)?;
        if driver.get_ssl_mode() == SslMode::Prefer && connected.as_ref().is_err_and(is_of_tls) {
            // As libpq does: `prefer` means TLS only if it works.
            driver.ssl_mode(SslMode::Disable);
            connected = open(&driver, connector()?)?;
        }
        let client = connected.map_err(|error| Error::of_connecting(&error))?;
        let examined = match self.examined(client, &driver, begin, began) {
            // While the second connection was made, a time limit for idle sessions may have ended
            // the first one.
            Err(Error::Unavailable(_))
                if begin.with_second.get() && began.elapsed() < EXAMINED_SOON =>
            {
                begin.with_second.set(false);
                let began = Instant::now();
                let client = open(&driver, connector()?)?;
                let client = client.map_err(|error| Error::of_connecting(&error))?;
                self.examined(client, &driver, begin, began)
            }
            examined => examined,
        };
        let (mut client, pooling) = examined?;
        begin.watched.asks_further();
        if let Pooling::Own { .. } = pooling {
            let set = client.batch_execute(&session::statements(begin.session));
            set.map_err(|error| Error::of_connecting(&error))?;
        }
        Ok((client, pooling))
    }

    /// Finds out whose the session is behind a connection that began to be made at `began`.
    fn examined(
        &self,
        mut client: Client,
        driver: &postgres::Config,
        begin: &Begin,
        began: Instant,
    ) -> Result<(Client, Pooling), Error> {
        let second = begin.with_second.get().then(|| {
            let watched = begin.watched.another();
            let connector = self.connector();
            let connector = connector.map(|connector| connector.watched_by(watched.clone()));
            let driver = driver.clone();
            let open = move || open(&driver, connector.ok()?).ok()?.ok();
            Second { open, watched }
        });
        let first = First {
            client: &mut client,
            watched: &begin.watched,
            began,
        };
        let pooling = pooling::examine(first, second)?;
        Ok((client, pooling))
    }

    /// Whether there must be TLS.
    pub(super) fn requires_tls(&self) -> bool {
        !matches!(
            self.driver.get_ssl_mode(),
            SslMode::Disable | SslMode::Prefer
        )
    }

    /// The connector that starts TLS, if the settings ask for it.
    pub(super) fn connector(&self) -> Result<Connector, Error> {
        let connector = match self.driver.get_ssl_mode() {
            SslMode::Disable => TlsSettings::default().connector(),
            _ => self.tls.connector(),
        };
        connector.map_err(Error::Refused)
    }

    /// Finds the password if it isn't in the URL.
    fn password(&self) -> Result<Option<Zeroizing<String>>, String> {
        let os_user = std::env::var("USER").unwrap_or_default();
        let user = self.driver.get_user().unwrap_or(&os_user);
        let ports = self.driver.get_ports();
        let mut found: Option<Option<Zeroizing<String>>> = None;
        for (index, host) in self.driver.get_hosts().iter().enumerate() {
            let port = ports.get(index).or(ports.first()).copied();
            let login = Login {
                host: &name_in_password_file(host),
                port: port.unwrap_or(DEFAULT_PORT),
                database: self.driver.get_dbname().unwrap_or(user),
                user,
            };
            let password = passwords::find(self.password_file.as_deref(), login)?;
            // The driver has one password for all hosts, and none may learn another one's.
            if found.as_ref().is_some_and(|other| *other != password) {
                return Err(
                    "the password file has different passwords for the hosts; several \
                            hosts must have one"
                        .into(),
                );
            }
            found = Some(password);
        }
        Ok(found.flatten())
    }

    /// The name of the database, for messages.
    pub fn database_name(&self) -> &str {
        self.driver.get_dbname().unwrap_or("(the user's own)")
    }

    /// The threads that watch the hosts, if they are replicas: one for each, and one for the
    /// primary.
    pub fn watching_threads(&self) -> usize {
        self.driver.get_hosts().len() + 1
    }

    /// Warnings about settings that may be a mistake, a sentence for each, which begins with the
    /// settings' `key`.
    pub fn warnings(&self, key: &str) -> Vec<String> {
        let certificates = self.connector().err();
        let certificates = certificates.map(|error| format!("{key}: {error}"));
        let missing = self.socket_folders().filter(|folder| !folder.is_dir());
        let warn = |folder: &PathBuf| {
            format!(
                "{key}: there is no folder {} with PostgreSQL's socket now; install or \
                 start PostgreSQL, or set host to where it is",
                folder.display()
            )
        };
        missing.map(warn).chain(certificates).collect()
    }

    fn socket_folders(&self) -> impl Iterator<Item = &PathBuf> {
        self.driver
            .get_hosts()
            .iter()
            .filter_map(|host| match host {
                Host::Unix(folder) => Some(folder),
                Host::Tcp(_) => None,
            })
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings::parse(DEFAULT_URL).expect("the default is valid")
    }
}

/// Refuses settings that the driver accepts although no connection is possible. Values aren't
/// repeated, because a URL with a second `@` has part of its password in the host.
fn refuse_impossible(config: &postgres::Config) -> Result<(), String> {
    let (hosts, addresses) = (config.get_hosts(), config.get_hostaddrs());
    for host in hosts {
        match host {
            Host::Tcp(name) => refuse_name(name)?,
            Host::Unix(folder) => refuse_folder(folder)?,
        }
    }
    let count = hosts.len().max(addresses.len());
    if !hosts.is_empty() && !addresses.is_empty() && hosts.len() != addresses.len() {
        return Err("the numbers of host and hostaddr differ".into());
    }
    let ports = config.get_ports();
    if ports.len() > 1 && ports.len() != count {
        return Err("there must be one port, or as many as hosts".into());
    }
    if ports.contains(&0) {
        return Err("no database listens on port 0".into());
    }
    for (option, value) in [("dbname", config.get_dbname()), ("user", config.get_user())] {
        if value.is_some_and(|value| value.is_empty() || value.contains('\0')) {
            return Err(format!("{option} is empty or no name"));
        }
    }
    Ok(())
}

/// Sets the driver's `sslmode`. Over Unix sockets there is never TLS, as with libpq.
fn set_tls(config: &mut postgres::Config, tls: &TlsSettings) -> Result<(), String> {
    let is_local = |host: &Host| matches!(host, Host::Unix(_));
    let hosts = config.get_hosts();
    let all_are_local = hosts.iter().all(is_local);
    if tls.is_required() && !all_are_local && hosts.iter().any(is_local) {
        return Err(
            "sslmode asks for TLS, and one of the hosts is a Unix socket, over which \
                    there is none"
                .into(),
        );
    }
    let needs_tls = config.get_channel_binding() == ChannelBinding::Require;
    if needs_tls && (all_are_local || tls.driver_mode() == SslMode::Disable) {
        return Err("channel_binding=require needs TLS".into());
    }
    config.ssl_mode(if all_are_local {
        SslMode::Disable
    } else {
        tls.driver_mode()
    });
    Ok(())
}

/// Sets what the operator's URL leaves open.
fn set_defaults(config: &mut postgres::Config) {
    if config.get_application_name().is_none() {
        config.application_name("session-file-server");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(DEFAULT_CONNECT_TIMEOUT);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(DEFAULT_TCP_USER_TIMEOUT);
    }
    if config.get_keepalives_idle() == postgres::Config::new().get_keepalives_idle() {
        config.keepalives_idle(DEFAULT_KEEPALIVES_IDLE);
    }
}

/// Connects. The driver panics where its runtime can't have the descriptors that it needs
/// (`config.rs` of postgres, `connect`), and a thread that asks the database must not end by that.
fn open(
    driver: &postgres::Config,
    connector: Connector,
) -> Result<Result<Client, postgres::Error>, Error> {
    // What a panic may leave half done is inside, and is thrown away.
    let connected = catch_unwind(AssertUnwindSafe(|| driver.connect(connector)));
    connected.map_err(|_| Error::Unavailable("no descriptor is left for a connection".into()))
}

/// Whether an error is one of TLS, which the driver doesn't tell but by its text.
fn is_of_tls(error: &postgres::Error) -> bool {
    error
        .to_string()
        .starts_with("error performing TLS handshake")
}

/// A host as password files have it: `localhost` for the folder where PostgreSQL's socket is by
/// default.
fn name_in_password_file(host: &Host) -> Cow<'_, str> {
    match host {
        Host::Tcp(name) => name.into(),
        Host::Unix(folder)
            if DEFAULT_SOCKET_FOLDERS
                .iter()
                .any(|d| folder == Path::new(d)) =>
        {
            "localhost".into()
        }
        Host::Unix(folder) => folder.to_string_lossy(),
    }
}

fn refuse_name(name: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || ".-_:%".contains(c);
    if name.is_empty() {
        Err("a host is empty".into())
    } else if !name.chars().all(allowed) {
        Err(
            "a host is neither a name, nor an address, nor a folder that starts with /; \
             characters as @ and / in a URL's user or password are written %40 and %2F"
                .into(),
        )
    } else {
        Ok(())
    }
}

fn refuse_folder(folder: &Path) -> Result<(), String> {
    if folder.as_os_str().len() > MAX_SOCKET_FOLDER {
        return Err(format!(
            "the folder of a socket is longer than {MAX_SOCKET_FOLDER} bytes"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_url_is_explained_without_repeating_its_password() {
        let error = Settings::parse("password=secret port=x").expect_err("no port");
        assert!(
            error.contains("port") && !error.contains("secret"),
            "{error}"
        );
        assert!(!format!("{:?}", Settings::parse("password=secret")).contains("secret"));
        let error = Settings::parse("postgresql://u:p@secret@h/db").expect_err("no host");
        assert!(
            error.contains("%40") && !error.contains("secret"),
            "{error}"
        );
    }

    #[test]
    fn without_a_host_the_socket_is_where_debian_has_it() {
        for url in [
            "dbname=x",
            "user=x",
            "dbname=x port=5433",
            "postgresql:///x",
            "postgres:///x",
            "postgresql://user@/x",
            "postgresql://",
        ] {
            let settings = Settings::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            let folders: Vec<_> = settings.socket_folders().collect();
            assert_eq!(folders, [Path::new(DEFAULT_SOCKET_FOLDER)], "{url}");
        }
        let settings = Settings::parse("hostaddr=127.0.0.1 dbname=x").expect("an address");
        assert_eq!(settings.socket_folders().count(), 0);
    }

    #[test]
    fn what_can_never_work_is_refused() {
        let long = format!("host=/{}", "a".repeat(100));
        for (url, reason) in [
            ("", "empty"),
            ("  ", "empty"),
            ("host='' dbname=x", "a host is empty"),
            ("host=a,,b dbname=x", "a host is empty"),
            ("postgresql://:5433/x", "a host is empty"),
            (
                "host=run/postgresql dbname=x",
                "a folder that starts with /",
            ),
            ("host=@abstract dbname=x", "a folder that starts with /"),
            ("host='a b'", "neither a name"),
            ("host=a port=0", "port 0"),
            ("host=a port=70000", "port"),
            ("host=a port=1,2", "one port"),
            ("host=a,b hostaddr=127.0.0.1", "host and hostaddr"),
            ("host=a hostaddr=localhost", "hostaddr"),
            ("host=/run channel_binding=require", "TLS"),
            ("host=a sslmode=disable channel_binding=require", "TLS"),
            ("host=a,/run sslmode=require", "Unix socket"),
            ("host=a sslmode=verify-ca", "sslrootcert"),
            ("postgresql://u:pa?ss@db/files?sslmode=require", "%3F"),
            ("postgresql://db/files?ssl%6dode=require", "as they are"),
            ("host=a sslmode=perhaps", "sslmode"),
            (
                "host=a target_session_attrs=primary",
                "target_session_attrs",
            ),
            ("host=a dbname=''", "dbname"),
            ("host=a colour=red", "colour"),
            (&long, "longer than 92 bytes"),
        ] {
            let error = Settings::parse(url).expect_err(url);
            assert!(error.contains(reason), "{url}: {error}");
        }
    }

    #[test]
    fn a_socket_folder_that_is_not_there_is_a_warning_only() {
        let settings = Settings::parse("host=/no/such/folder,/proc dbname=x").expect("valid");
        let warnings = settings.warnings("database.url");
        assert!(
            warnings.len() == 1 && warnings[0].contains("/no/such/folder"),
            "{warnings:?}"
        );
    }
}
