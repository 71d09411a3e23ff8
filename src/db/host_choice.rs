//! Which of several hosts a connection leads to.
//!
//! The hosts are tried in the order of `database.url`, those that have just failed last, because a
//! frozen one keeps each connection waiting for seconds. All of them are asked for their positions
//! at once, each by a thread, so that those that are well are heard soon.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use postgres::config::TargetSessionAttrs;
use postgres::{Client, Config};

use super::deadline::Patience;
use super::error::Error;
use super::hosts;
use super::lineage::{Lineage, Position};
use super::pooling::Pooling;
use super::settings::{Begin, NO_TIMELINE, Settings};

/// How long a look at all hosts waits for their answers. What a host tells later counts, too.
const LOOK_PATIENCE: Duration = Duration::from_millis(1500);

impl Settings {
    /// Opens a connection to the first host that takes it and isn't refused by `lineage`.
    ///
    /// # Errors
    /// That of the last host.
    pub(super) fn connect_with(
        &self,
        begin: &Begin,
        lineage: &Arc<Lineage>,
    ) -> Result<(Client, Pooling), Error> {
        let driver = self.with_password()?;
        let Some(hosts) = self.several(&driver) else {
            return self.connect_to(driver, begin);
        };
        let now = Instant::now();
        if lineage.is_unknown(now) {
            self.look_at(&hosts, begin, lineage, now);
        }
        let (failed, well): (Vec<_>, Vec<_>) = hosts
            .into_iter()
            .partition(|(name, _)| lineage.has_failed(name, now));
        let mut last = Error::Unavailable("there is no host".into());
        for (name, host) in well.into_iter().chain(failed) {
            match self.admitted(&name, host, begin, lineage) {
                Ok(connected) => return Ok(connected),
                Err(error) => {
                    lineage.failed(&name, Instant::now());
                    last = error;
                }
            }
        }
        Err(last)
    }

    /// Connects to a host, if `lineage` doesn't refuse it.
    fn admitted(
        &self,
        name: &str,
        host: Config,
        begin: &Begin,
        lineage: &Lineage,
    ) -> Result<(Client, Pooling), Error> {
        let mut connected = self.connect_to(host, begin)?;
        let position = Position::of(&mut connected.0);
        let position = position.map_err(|error| Error::of_connecting(&error))?;
        let admitted = position.map_or(Ok(NO_TIMELINE), |at| lineage.admit(name, at));
        begin.timeline.set(admitted.map_err(Error::Unavailable)?);
        Ok(connected)
    }

    /// Asks all hosts for their positions, standbys too, if there are several.
    ///
    /// # Errors
    /// That of a password that can't be read.
    pub(super) fn look_at_hosts(&self, begin: &Begin, lineage: &Arc<Lineage>) -> Result<(), Error> {
        let driver = self.with_password()?;
        if let Some(hosts) = self.several(&driver) {
            self.look_at(&hosts, begin, lineage, Instant::now());
        }
        Ok(())
    }

    /// Whether there are several hosts whose positions matter.
    pub fn has_several_hosts(&self) -> bool {
        self.several(&self.driver).is_some()
    }

    fn several(&self, driver: &Config) -> Option<Vec<(String, Config)>> {
        self.may_split.then(|| hosts::single(driver)).flatten()
    }

    /// Asks hosts for their positions, and waits for the answers, but not for long. A host that has
    /// not answered an earlier question isn't asked again.
    fn look_at(
        &self,
        hosts: &[(String, Config)],
        begin: &Begin,
        lineage: &Arc<Lineage>,
        now: Instant,
    ) {
        let (tell, told) = mpsc::channel();
        let mut asked = 0;
        for (place, (name, host)) in hosts.iter().enumerate() {
            if !lineage.begins_to_ask(name) {
                continue;
            }
            let question = self.question(name.clone(), host.clone(), begin, lineage.clone());
            let (tell, late, host) = (tell.clone(), lineage.clone(), name.clone());
            let ask = move || {
                // Whoever wanted to know may have gone on.
                if let Err(unheard) = tell.send((place, question())) {
                    unheard.0.1.note(&host, &late);
                }
            };
            match thread::Builder::new().name("look".into()).spawn(ask) {
                Ok(_) => asked += 1,
                Err(_) => lineage.has_asked(name),
            }
        }
        let until = now + LOOK_PATIENCE;
        let answer = || told.recv_timeout(until.saturating_duration_since(Instant::now()));
        let mut answers: Vec<_> = (0..asked).map_while(|_| answer().ok()).collect();
        // In the order of the URL: of several clusters all servers must choose the same.
        answers.sort_by_key(|(place, _)| *place);
        for (place, answer) in &answers {
            answer.note(&hosts[*place].0, lineage);
        }
        // A database that is away now may tell its position later.
        if answers.len() == hosts.len() && answers.iter().all(|it| it.1 == Answer::Nothing) {
            lineage.told_nothing(now);
        }
    }

    /// What asks a host for its position.
    fn question(
        &self,
        name: String,
        mut host: Config,
        begin: &Begin,
        lineage: Arc<Lineage>,
    ) -> impl FnOnce() -> Answer + Send + use<> {
        host.target_session_attrs(TargetSessionAttrs::Any);
        let (settings, deadlines) = (self.clone(), begin.deadlines.clone());
        move || {
            let begin = Begin {
                session: &[],
                with_second: Cell::new(false),
                watched: deadlines.watch(Patience::Request),
                deadlines,
                notice: Arc::new(|_| ()),
                timeline: Cell::new(NO_TIMELINE),
            };
            let connected = settings.connect_to(host, &begin).ok();
            let answer = match connected.map(|(mut client, _)| Position::of(&mut client)) {
                Some(Ok(Some(position))) => Answer::Position(position),
                Some(Ok(None)) => Answer::Nothing,
                Some(Err(_)) | None => Answer::None,
            };
            lineage.has_asked(&name);
            answer
        }
    }
}

/// What became of the question for a position.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// The host has told it.
    Position(Position),
    /// The host tells none.
    Nothing,
    /// There was no answer.
    None,
}

impl Answer {
    /// Lets `lineage` know. An old primary is logged.
    fn note(self, host: &str, lineage: &Lineage) {
        match self {
            Answer::Position(position) => drop(lineage.admit(host, position)),
            Answer::Nothing => {}
            Answer::None => lineage.failed(host, Instant::now()),
        }
    }
}
