//! `check-config --system`: whether the configuration fits the machine and the database.

use std::path::Path;

use super::app;
use super::explain::explain;
use crate::config::{Config, Shares};
use crate::db::{Capacity, Database, ReplicaReport, ReplicaState};
use crate::machine::{self, Limits};
use crate::quantity::{bytes, number};
use crate::{output, server};

/// The connections of a server beside those of its workers: the timer's and the probe's, and one
/// for a command such as `status`. Those that last for a moment aren't counted.
const OTHER_CONNECTIONS: u64 = 3;
/// One more with replicas, for the thread that asks how far the database's WAL goes.
const CONNECTIONS_FOR_REPLICAS: u64 = 1;
/// What the server takes beside the memory for files, bytes: itself, its threads, and what malloc
/// keeps.
const BESIDE: u64 = 40_000_000;
/// What the system and a web server need, bytes.
const SYSTEM: u64 = 100_000_000;
/// What PostgreSQL needs for each connection, bytes.
const PER_CONNECTION: u64 = 8_000_000;
/// Where Debian's PostgreSQL keeps all data.
const DEBIAN_DATA: &str = "/var/lib/postgresql";

/// The facts about the machine and the database that the checks need.
struct Facts {
    /// The memory that this process may have.
    limits: Limits,
    /// The descriptors that this process may have, if there is a limit.
    descriptors: Option<u64>,
    /// What the database has; the reason if it can't be asked.
    database: Result<Capacity, String>,
    /// The bytes that are free where PostgreSQL's data are; the reason if that can't be known.
    free_disk: Result<u64, String>,
    /// What was found out about the replicas.
    replicas: Vec<ReplicaReport>,
}

/// The result of a check: a sentence, about what was found or about what doesn't fit.
pub type Finding = Result<String, String>;

/// Prints what was checked, and complains of what doesn't fit.
///
/// # Errors
/// If something doesn't fit.
pub fn run(config: &Config) -> Result<(), String> {
    let findings = check(config, &Facts::gather(config));
    for finding in &findings {
        match finding {
            Ok(fits) => output::mention(&format!("{fits}\n")),
            Err(misfit) => output::complain(misfit),
        }
    }
    if findings.iter().any(Result::is_err) {
        return Err("the configuration doesn't fit this machine".into());
    }
    Ok(())
}

impl Facts {
    fn gather(config: &Config) -> Facts {
        let replicas = config.replicas.as_ref();
        let database = Database::with_replicas(config.database.clone(), replicas);
        let mut connection = database.connection();
        let database = connection.capacity();
        let database = database.map_err(|error| explain(&error, config));
        Facts {
            limits: Limits::read(),
            descriptors: machine::descriptors(),
            free_disk: free_disk(database.as_ref().ok()),
            database,
            replicas: connection.report_on_replicas(),
        }
    }
}

/// The bytes that are free where PostgreSQL's data are.
fn free_disk(database: Option<&Capacity>) -> Result<u64, String> {
    let Some(database) = database else {
        return Err("the database can't be asked".into());
    };
    if !database.is_local {
        return Err("the database is on another machine".into());
    }
    let told = database.data_directory.as_deref();
    let folder = Path::new(told.unwrap_or(DEBIAN_DATA));
    machine::free_disk(folder).map_err(|error| match told {
        Some(folder) => format!("{folder}: {error}"),
        None => "the database doesn't tell this user where its data are (GRANT \
                 pg_read_all_settings lets it)"
            .into(),
    })
}

fn check(config: &Config, facts: &Facts) -> Vec<Finding> {
    let shares = config.shares(&facts.limits);
    let mut findings = vec![
        connections(config, facts),
        own_memory(&shares, &facts.limits),
        shared_memory(config, &shares, facts),
        descriptors(config, facts.descriptors),
        disk(config, facts),
    ];
    findings.extend(facts.replicas.iter().map(replica));
    findings
}

/// The connections of a server with this configuration beside those of its workers.
fn other_connections(config: &Config) -> u64 {
    OTHER_CONNECTIONS
        + config
            .replicas
            .as_ref()
            .map_or(0, |_| CONNECTIONS_FOR_REPLICAS)
}

fn replica(report: &ReplicaReport) -> Finding {
    let text = format!("replica on {}: {}", report.name, report.state.describe());
    match report.state {
        ReplicaState::Unusable(_) => Err(text),
        ReplicaState::Behind(_) | ReplicaState::IsPrimary => Ok(text),
    }
}

fn connections(config: &Config, facts: &Facts) -> Finding {
    let database = facts
        .database
        .as_ref()
        .map_err(|error| format!("connections: not checked: {error}"))?;
    let (workers, has) = (config.workers as u64, database.connections());
    let others = other_connections(config);
    let needs = workers + others;
    if needs <= has {
        return Ok(format!(
            "connections: {workers} workers and {others} others, of {has} that \
             PostgreSQL has for this user"
        ));
    }
    let fitting = has.saturating_sub(others);
    let remedy = match fitting {
        0 => String::new(),
        fitting => format!("set workers to {fitting}, or "),
    };
    let reason = match database.limit {
        Some(limit) if limit == has => "CONNECTION LIMIT of its role or database".to_string(),
        _ => format!(
            "max_connections = {}, of which {} are reserved",
            database.max_connections, database.reserved
        ),
    };
    Err(format!(
        "connections: {workers} workers and {others} others need {needs}, but PostgreSQL \
         has {has} for this user ({reason}); {remedy}raise that limit"
    ))
}

/// Whether the memory for files fits the limit on this process alone.
pub fn own_memory(shares: &Shares, limits: &Limits) -> Finding {
    let Some(own) = limits.own else {
        return Ok("memory: no limit on this process alone".into());
    };
    let needs = shares.total() as u64 + BESIDE;
    if needs <= own {
        return Ok(format!(
            "memory: {} at most, of {} that this process may have",
            bytes(needs),
            bytes(own)
        ));
    }
    Err(format!(
        "memory: {} for files and {} beside them are more than the {} that this process may have \
         (MemoryMax= and MemoryHigh= of systemd, memory.max of a container); lower memory, \
         files.cache_size or files.max_size, or raise that limit",
        bytes(shares.total() as u64),
        bytes(BESIDE),
        bytes(own)
    ))
}

fn shared_memory(config: &Config, shares: &Shares, facts: &Facts) -> Finding {
    let Some(machine) = facts.limits.shared else {
        return Ok("memory: not checked: the system doesn't tell how much there is".into());
    };
    let files = shares.total() as u64;
    let local = facts.database.as_ref().ok().filter(|db| db.is_local);
    let postgresql = local.map_or(0, |database| {
        database.shared_buffers
            + (config.workers as u64 + other_connections(config)) * PER_CONNECTION
    });
    let needs = files + BESIDE + SYSTEM + postgresql;
    if needs <= machine {
        return Ok(format!(
            "memory: {} for files, of {} that the machine has",
            bytes(files),
            bytes(machine)
        ));
    }
    let beside = match local {
        Some(database) => format!(
            "{} of PostgreSQL (shared_buffers are {}) and {} of everything else",
            bytes(postgresql),
            bytes(database.shared_buffers),
            bytes(BESIDE + SYSTEM)
        ),
        None => format!("{} of everything else", bytes(BESIDE + SYSTEM)),
    };
    Err(format!(
        "memory: {} for files, {beside} are more than the {} that the machine has; lower memory, \
         workers or files.cache_size here, or shared_buffers in PostgreSQL",
        bytes(files),
        bytes(machine)
    ))
}

fn descriptors(config: &Config, limit: Option<u64>) -> Finding {
    let of_service = app::descriptors(config);
    let enough = server::enough_descriptors(of_service) as u64;
    match limit {
        Some(limit) if limit < enough => Err(format!(
            "descriptors: this process may have {}, which is enough for {} clients at once; raise \
             the limit (LimitNOFILE= of systemd, ulimit -n) to {enough}",
            number(limit),
            server::affordable_connections(limit as usize, of_service)
        )),
        Some(limit) => Ok(format!(
            "descriptors: {enough} at most, of {}",
            number(limit)
        )),
        None => Ok("descriptors: no limit".into()),
    }
}

fn disk(config: &Config, facts: &Facts) -> Finding {
    let Some(most) = config.files.max_total_size else {
        return Ok("disk: not checked: files.max_total_size is not set".into());
    };
    let (free, database) = match (&facts.free_disk, &facts.database) {
        (Ok(free), Ok(database)) => (*free, database),
        (Err(reason), _) | (_, Err(reason)) => {
            return Ok(format!("disk: not checked: {reason}"));
        }
    };
    // The table takes a tenth more than its files.
    let to_come = (most + most / 10).saturating_sub(database.size);
    if to_come <= free {
        return Ok(format!(
            "disk: {} to come at most, of {} that are free",
            bytes(to_come),
            bytes(free)
        ));
    }
    Err(format!(
        "disk: with files.max_total_size of {} the database may grow by {}, but {} are free where \
         its data are; lower files.max_total_size, or make room",
        bytes(most),
        bytes(to_come),
        bytes(free)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> Capacity {
        Capacity {
            max_connections: 100,
            reserved: 3,
            limit: None,
            shared_buffers: 128 << 20,
            is_local: true,
            size: 1_000_000_000,
            data_directory: None,
        }
    }

    fn facts() -> Facts {
        Facts {
            limits: Limits {
                shared: Some(4 << 30),
                own: None,
            },
            descriptors: Some(1 << 20),
            database: Ok(database()),
            free_disk: Ok(100_000_000_000),
            replicas: Vec::new(),
        }
    }

    fn misfits(settings: &str, facts: &Facts) -> Vec<String> {
        let config = Config::parse(settings, Path::new("config.toml")).expect("valid");
        let findings = check(&config, facts).into_iter();
        findings.filter_map(Result::err).collect()
    }

    fn assert_misfit(settings: &str, facts: &Facts, expected: &str) {
        let found = misfits(settings, facts);
        assert!(
            matches!(&found[..], [only] if only.starts_with(expected)),
            "{found:?} is not {expected:?}"
        );
    }

    #[test]
    fn the_defaults_fit_a_machine_of_512_mb_and_larger_ones() {
        assert_eq!(misfits("", &facts()), Vec::<String>::new());
        let mut small = facts();
        small.limits.shared = Some(500_000_000);
        assert_eq!(misfits("", &small), Vec::<String>::new());
        small.limits.own = Some(250_000_000);
        assert_eq!(misfits("", &small), Vec::<String>::new());
    }

    #[test]
    fn connections_beyond_what_the_database_has_are_found() {
        let fits = "workers = 94\nmemory = 100_000_000";
        assert_eq!(misfits(fits, &facts()), Vec::<String>::new());
        assert_misfit(
            "workers = 95",
            &facts(),
            "connections: 95 workers and 3 others need 98, but PostgreSQL has 97 for this user \
             (max_connections = 100, of which 3 are reserved); set workers to 94",
        );
        let mut limited = facts();
        limited.database = Ok(Capacity {
            limit: Some(5),
            ..database()
        });
        assert_misfit("", &limited, "connections: 8 workers");
        limited.database = Err("the database is away".into());
        assert_misfit("", &limited, "connections: not checked: the database");
    }

    #[test]
    fn a_replica_that_can_t_be_used_is_found() {
        let report = |state| ReplicaReport {
            name: "a, port 5432".into(),
            state,
        };
        let mut replicated = facts();
        replicated.replicas = vec![
            report(ReplicaState::Behind(7)),
            report(ReplicaState::IsPrimary),
            report(ReplicaState::Unusable("it is gone".into())),
        ];
        let misfit = "replica on a, port 5432: left out: it is gone";
        assert_misfit("", &replicated, misfit);
        let settings = "database.read_url = 'host=a'\nworkers = 94";
        assert_misfit(settings, &facts(), "connections: 94 workers and 4 others");
    }

    #[test]
    fn memory_beyond_the_machines_and_beyond_the_process_limit_is_found() {
        let mut small = facts();
        small.limits.shared = Some(500_000_000);
        assert_misfit("memory = 300_000_000", &small, "memory: 300 MB for files");
        small.database = Ok(Capacity {
            is_local: false,
            ..database()
        });
        let fits = "memory = 300_000_000";
        assert_eq!(misfits(fits, &small), Vec::<String>::new());
        small.limits.own = Some(330_000_000);
        assert_misfit(fits, &small, "memory: 300 MB for files and 40.0 MB beside");
    }

    #[test]
    fn few_descriptors_and_too_small_a_disk_are_found() {
        let mut few = facts();
        few.descriptors = Some(1024);
        assert_misfit(
            "",
            &few,
            "descriptors: this process may have 1,024, which is enough for 300 clients",
        );
        assert_misfit(
            "workers = 11\nmemory = 100_000_000",
            &few,
            "descriptors: this process may have 1,024, which is enough for 295 clients",
        );
        let settings = "files.max_total_size = 100_000_000_000";
        assert_misfit(settings, &facts(), "disk: with files.max_total_size of 100");
        let mut unknown = facts();
        unknown.free_disk = Err("nobody knows".into());
        assert_eq!(misfits(settings, &unknown), Vec::<String>::new());
    }
}
