//! What a gigabyte that is stored and expires costs the disk: the log of changes (WAL), what is
//! written, and the space that is not reused. PostgreSQL alone, by statements of the server's form.

use std::fmt::Write;
use std::time::{Duration, Instant};

use postgres::Client;

use crate::common::{Cluster, Database, bytes, config_folder, run as run_command};
use crate::process::written;

/// The size of the files, bytes.
const SIZE: usize = 1_000_000;
/// The part of all files that comes and goes in a step, one in so many. With 140 GB of files that
/// live for two weeks, a step is the time in which 350 MB come: 50 minutes.
const STEPS: usize = 400;

/// One way to run the database.
pub struct Way {
    pub name: &'static str,
    settings: &'static [&'static str],
    /// Steps between two checkpoints.
    checkpoint: usize,
    /// Steps between two runs of vacuum.
    vacuum: usize,
    /// Whether the files of a step are in a table of their own, which is dropped.
    is_partitioned: bool,
}

const USUAL: Way = Way {
    name: "",
    settings: &[],
    checkpoint: 1,
    vacuum: STEPS / 50,
    is_partitioned: false,
};

/// The ways that are compared. A vacuum every fiftieth of the files is what `schema.pgsql` sets.
pub const WAYS: [Way; 9] = [
    Way {
        name: "vacuum after a fiftieth, as schema.pgsql has it",
        ..USUAL
    },
    Way {
        name: "vacuum after a fifth, PostgreSQL's default",
        vacuum: STEPS / 5,
        ..USUAL
    },
    Way {
        name: "vacuum before each checkpoint",
        vacuum: 1,
        ..USUAL
    },
    Way {
        name: "vacuum after a fiftieth, a sixth of the checkpoints",
        checkpoint: 6,
        ..USUAL
    },
    Way {
        name: "vacuum before each of a sixth of the checkpoints",
        checkpoint: 6,
        vacuum: 6,
        ..USUAL
    },
    Way {
        name: "the package's settings for 512 MB",
        settings: &[
            "shared_buffers=32MB",
            "max_wal_size=256MB",
            "maintenance_work_mem=16MB",
        ],
        ..USUAL
    },
    Way {
        name: "wal_compression=lz4",
        settings: &["wal_compression=lz4"],
        ..USUAL
    },
    Way {
        name: "full_page_writes=off",
        settings: &["full_page_writes=off"],
        ..USUAL
    },
    Way {
        name: "a table for each step, which is dropped",
        is_partitioned: true,
        ..USUAL
    },
];

/// Replaces all of `files` files, step by step, in each way whose name contains `only`.
pub fn run(files: usize, only: &str) -> String {
    let mut text = String::from(
        "| way | WAL, GB: stored | expired | written, GB | expiry and vacuum, s | at last, times the files |\n\
         | --- | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for way in WAYS.iter().filter(|way| way.name.contains(only)) {
        let steady = [
            "max_wal_size=20GB",
            "checkpoint_timeout=1h",
            "autovacuum=off",
        ];
        let mut cluster = Cluster::with(true, &[&steady, way.settings].concat());
        text += &measure(&cluster, way, files.max(STEPS));
        cluster.stop();
    }
    text
}

/// What was used up to a moment.
#[derive(Default)]
struct Used {
    /// WAL of storing, and of expiry with vacuum, bytes.
    wal: [i64; 2],
    /// The time of expiry and vacuum.
    time: Duration,
}

fn measure(cluster: &Cluster, way: &Way, files: usize) -> String {
    let database = cluster.database();
    let folder = config_folder(&database.url, "");
    run_command(folder.path(), &["init-db"]);
    let mut client = database.client();
    let batch = files / STEPS;
    for step in 0..STEPS {
        store(&mut client, way, step, batch);
    }
    execute(&mut client, "VACUUM");
    execute(&mut client, "CHECKPOINT");
    let (mut used, before) = (Used::default(), written(cluster.pid()));
    for step in 0..STEPS {
        pass(&mut client, way, step, batch, &mut used);
    }
    execute(&mut client, "CHECKPOINT");
    let written = written(cluster.pid()) - before;
    let gigabytes = (batch * STEPS * SIZE) as f64 / 1e9;
    let mut row = String::new();
    let _ = writeln!(
        row,
        "| {} | {:.3} | {:.4} | {:.2} | {:.2} | {:.2} |",
        way.name,
        used.wal[0] as f64 / 1e9 / gigabytes,
        used.wal[1] as f64 / 1e9 / gigabytes,
        written as f64 / 1e9 / gigabytes,
        used.time.as_secs_f64() / gigabytes,
        size(&database) as f64 / 1e9 / gigabytes,
    );
    eprint!("{row}");
    row
}

/// Lets the files of one step expire, stores as many, and runs vacuum and a checkpoint if it's time.
fn pass(client: &mut Client, way: &Way, step: usize, batch: usize, used: &mut Used) {
    let wal = |client: &mut Client| -> i64 {
        let row = client.query_one("SELECT (pg_current_wal_lsn() - '0/0')::int8", &[]);
        row.expect("a number").get(0)
    };
    let (before, began) = (wal(client), Instant::now());
    if way.is_partitioned {
        execute(client, &format!("DROP TABLE files_{step}"));
    } else {
        let pattern = format!("file-{step}-%");
        let expire = "UPDATE files SET expiry = now() WHERE id LIKE $1";
        client.execute(expire, &[&pattern]).expect("expired");
        execute(client, "DELETE FROM files WHERE expiry <= now()");
        if (step + 1) % way.vacuum == 0 {
            execute(client, "VACUUM files");
        }
    }
    used.time += began.elapsed();
    let expired = wal(client);
    used.wal[1] += expired - before;
    store(client, way, STEPS + step, batch);
    used.wal[0] += wal(client) - expired;
    if (step + 1) % way.checkpoint == 0 {
        execute(client, "CHECKPOINT");
    }
}

/// Stores the files that come in a step.
fn store(client: &mut Client, way: &Way, step: usize, count: usize) {
    let mut table = String::from("files");
    if way.is_partitioned {
        table = format!("files_{step}");
        let create = format!("CREATE TABLE {table} (LIKE files INCLUDING ALL)");
        execute(client, &create);
    }
    let insert = format!("INSERT INTO {table} (id, data, expiry) VALUES ($1, $2, 'infinity')");
    let insert = client.prepare(&insert).expect("prepared");
    for number in 0..count {
        let content = bytes((step * count + number) as u64, SIZE);
        let id = format!("file-{step}-{number}");
        client.execute(&insert, &[&id, &content]).expect("stored");
    }
}

/// The space that all tables of files take, bytes.
fn size(database: &Database) -> i64 {
    database.number(
        "SELECT sum(pg_total_relation_size(oid))::int8 FROM pg_class \
         WHERE relname LIKE 'files%' AND relkind = 'r'",
    )
}

fn execute(client: &mut Client, sql: &str) {
    client.batch_execute(sql).expect("valid SQL");
}
