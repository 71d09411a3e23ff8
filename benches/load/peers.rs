//! The server beside what a user could run instead, through the same web server, by the same
//! clients, in the same minute.

use std::fmt::Write;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::client::{Client, head};
use crate::common::{
    Cluster, Connection, Database, Server, bytes, eventually, free_port, open_to_all, signal,
};
use crate::door::Door;
use crate::table::{DEFAULT_CACHE, median, rounded};
use crate::work::{CLIENTS, Outcome, Random, Step, Transport, closed_loop, id_of, stamp};
use crate::{process, web};

/// The processes of the sample in Python, as many as the server that this one replaces has.
const PYTHON_PROCESSES: &str = "4";
/// How many files of each size are fetched, at random.
const FILES: usize = 16;

/// A row of the table: a kind of work, with files of one size.
pub struct Row {
    pub name: &'static str,
    size: usize,
    is_upload: bool,
    /// Onion requests, which only this server answers here.
    is_onion: bool,
}

const fn row(name: &'static str, size: usize, is_upload: bool, is_onion: bool) -> Row {
    Row {
        name,
        size,
        is_upload,
        is_onion,
    }
}

/// The rows of the table.
pub const ROWS: &[Row] = &[
    row("GET 1 KB", 1_000, false, false),
    row("GET 1 MB", 1_000_000, false, false),
    row("GET 10 MB", 10_000_000, false, false),
    row("POST 1 KB", 1_000, true, false),
    row("POST 1 MB", 1_000_000, true, false),
    row("POST 10 MB", 10_000_000, true, false),
    row("onion GET 1 KB", 1_000, false, true),
    row("onion GET 1 MB", 1_000_000, false, true),
    row("onion GET 10 MB", 10_000_000, false, true),
];

/// What is compared, in the order of the columns.
pub const NAMES: [&str; 3] = [
    "this server",
    "sample in Python",
    "nginx, files in a folder",
];

/// A way to store and fetch files.
struct Peer {
    address: String,
    /// Whether it is nginx alone, which stores what is PUT under a name that the client chooses.
    is_folder: bool,
    /// The first of its processes; those that descend from them count too.
    processes: Vec<u32>,
}

/// What a peer did of one kind of work.
#[derive(Default)]
struct Did {
    rates: Vec<f64>,
    total: Outcome,
    /// The processor time of its processes, without the database's.
    processor: Duration,
}

impl Did {
    /// The processor time per request, milliseconds.
    fn processor(&self) -> f64 {
        self.total.share_of(self.processor)
    }
}

/// The measurements of a row: this server's, and those of the peers that do such work.
pub struct Compared {
    pub row: &'static Row,
    did: Vec<Did>,
}

impl Compared {
    /// How many times as many requests this server answers as that peer does, the median of the
    /// rounds. `None` if the peer doesn't do such work.
    pub fn requests(&self, peer: usize) -> Option<f64> {
        let theirs = &self.did.get(peer)?.rates;
        let ratios = self.did[0].rates.iter().zip(theirs);
        Some(median(ratios.map(|(ours, theirs)| ours / theirs).collect()))
    }

    /// How many times less processor time a request costs than with that peer.
    pub fn processor(&self, peer: usize) -> Option<f64> {
        Some(self.did.get(peer)?.processor() / self.did[0].processor())
    }
}

/// Measures all peers.
pub fn measure_all(only: &str, rounds: usize, seconds: f64) -> Vec<Compared> {
    let mut cluster = Cluster::durable();
    let (ours, theirs) = (cluster.database(), cluster.database());
    let settings = format!("{DEFAULT_CACHE}\n{}", Door::Nginx.settings());
    let server = Server::with(&ours, &settings);
    let nginx = web::Nginx::before(&server);
    // The first start of a server makes the tables.
    drop(Server::start(&theirs));
    let others = Others::start(&theirs);
    let peers = [
        Peer {
            address: nginx.address.clone(),
            is_folder: false,
            processes: vec![server.pid(), nginx.pid()],
        },
        others.python(),
        others.folder(),
    ];
    let transport = Transport::Onion(process::x25519_key(&server));
    let rows = ROWS.iter().filter(|row| row.name.contains(only));
    let compare = |row: &'static Row| {
        let did = measure(row, &peers, &transport, [&ours, &theirs], rounds, seconds);
        let compared = Compared { row, did };
        eprint!("{}", describe(&compared));
        compared
    };
    let compared = rows.map(compare).collect();
    drop((others, nginx, server));
    cluster.stop();
    compared
}

/// The table as Markdown.
pub fn table(compared: &[Compared]) -> String {
    let rows: String = compared.iter().map(describe).collect();
    head_of_table() + &rows
}

fn measure(
    row: &Row,
    peers: &[Peer],
    transport: &Transport,
    databases: [&Database; 2],
    rounds: usize,
    seconds: f64,
) -> Vec<Did> {
    let count = if row.is_onion { 1 } else { peers.len() };
    let peers = &peers[..count];
    let names: Vec<Vec<String>> = peers.iter().map(|peer| fill(peer, row)).collect();
    let mut did: Vec<Did> = peers.iter().map(|_| Did::default()).collect();
    for _ in 0..rounds {
        for ((peer, names), did) in peers.iter().zip(&names).zip(&mut did) {
            let before = process::processor_time_of_all(&peer.processes);
            let outcome = closed_loop(CLIENTS, seconds, |number| {
                if row.is_upload {
                    uploads(peer, row, number)
                } else {
                    downloads(peer, row, transport, names, number)
                }
            });
            let used = process::processor_time_of_all(&peer.processes) - before;
            did.processor += used;
            did.rates.push(outcome.rate());
            did.total.add(outcome);
            if row.is_upload {
                let empty = "TRUNCATE files; CHECKPOINT";
                databases
                    .iter()
                    .for_each(|database| database.execute(empty));
            }
        }
    }
    did
}

/// Stores the files of a row that will be fetched. Returns their names.
fn fill(peer: &Peer, row: &Row) -> Vec<String> {
    let mut client = Client::new(&peer.address, false);
    let count = if row.is_upload { 0 } else { FILES };
    let store = |number: usize| {
        let content = bytes(number as u64, row.size);
        let name = format!("{}-{number}", row.size);
        let answer = store(peer, &mut client, &name, &content);
        answer.expect("stored")
    };
    (0..count).map(store).collect()
}

/// Stores a file, and returns its name.
fn store(peer: &Peer, client: &mut Client, name: &str, content: &[u8]) -> io::Result<String> {
    if !peer.is_folder {
        let answer = Transport::Direct.post(content).fetch(client)?;
        return Ok(id_of(&answer));
    }
    let head = head("PUT", &format!("/file/{name}"), Some(content.len()));
    let answer = client.ask(&[&head, content])?;
    match answer.status {
        201 | 204 => Ok(name.to_string()),
        other => Err(io::Error::other(format!("status {other}"))),
    }
}

fn uploads<'a>(peer: &'a Peer, row: &Row, number: usize) -> Step<'a> {
    let mut client = Client::new(&peer.address, false);
    let mut content = bytes(number as u64, row.size);
    let mut count = 0u32;
    Box::new(move || {
        // Each upload is a different file. The folder keeps as many as there are names.
        count += 1;
        stamp(&mut content, number, count);
        let name = format!("new-{number}-{}", count % FILES as u32);
        store(peer, &mut client, &name, &content).map(drop)
    })
}

fn downloads<'a>(
    peer: &'a Peer,
    row: &Row,
    transport: &Transport,
    names: &[String],
    number: usize,
) -> Step<'a> {
    let (size, mut client) = (row.size, Client::new(&peer.address, false));
    let mut random = Random::new(number);
    let transport = if row.is_onion {
        transport
    } else {
        &Transport::Direct
    };
    let paths = names.iter().map(|name| format!("/file/{name}"));
    let requests: Vec<_> = paths.map(|path| transport.get(&path)).collect();
    Box::new(move || requests[random.below(requests.len())].send(&mut client, size))
}

/// The servers that are not ours.
struct Others {
    folder: tempfile::TempDir,
    nginx: Child,
    uwsgi: Child,
    ports: [u16; 2],
}

impl Others {
    fn start(database: &Database) -> Others {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        fs::create_dir(path.join("file")).expect("a folder");
        open_to_all(path, "file");
        let anybody = fs::Permissions::from_mode(0o777);
        fs::set_permissions(path.join("file"), anybody).expect("our own");
        let uwsgi = uwsgi(path, database).spawn().expect("uwsgi is installed");
        eventually("uwsgi listens", || path.join("uwsgi.sock").exists());
        let ports = [free_port(), free_port()];
        let mut text = include_str!("../peers/nginx.conf").to_string();
        for (from, to) in [
            ("FOLDER", path.display().to_string()),
            ("DAV", ports[0].to_string()),
            ("PYTHON", ports[1].to_string()),
        ] {
            text = text.replace(from, &to);
        }
        let config = path.join("nginx.conf");
        fs::write(&config, text).expect("writable");
        let mut nginx = Command::new("/usr/sbin/nginx");
        nginx.arg("-c").arg(&config).args(["-g", "daemon off;"]);
        let nginx = nginx.spawn().expect("nginx is installed");
        let address = format!("127.0.0.1:{}", ports[0]);
        eventually("nginx listens", || Connection::try_open(&address).is_ok());
        Others {
            folder,
            nginx,
            uwsgi,
            ports,
        }
    }

    fn folder(&self) -> Peer {
        Peer {
            address: format!("127.0.0.1:{}", self.ports[0]),
            is_folder: true,
            processes: vec![self.nginx.id()],
        }
    }

    fn python(&self) -> Peer {
        Peer {
            address: format!("127.0.0.1:{}", self.ports[1]),
            is_folder: false,
            processes: vec![self.nginx.id(), self.uwsgi.id()],
        }
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        for (child, name) in [(&mut self.nginx, "TERM"), (&mut self.uwsgi, "INT")] {
            signal(child.id(), name);
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(self.folder.path());
    }
}

fn uwsgi(folder: &Path, database: &Database) -> Command {
    let mut uwsgi = Command::new("uwsgi");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/files.py");
    uwsgi.args(["--plugin", "python3", "--master", "--disable-logging"]);
    uwsgi.args(["--processes", PYTHON_PROCESSES, "--chmod-socket=666"]);
    uwsgi.arg("--socket").arg(folder.join("uwsgi.sock"));
    uwsgi.arg("--wsgi-file").arg(script);
    uwsgi.env("DATABASE", &database.url);
    let log = fs::File::create(folder.join("uwsgi.log")).expect("writable");
    uwsgi.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    uwsgi
}

fn head_of_table() -> String {
    let mut names = String::from("| work |");
    let mut rule = String::from("| --- |");
    for (number, peer) in NAMES.iter().enumerate() {
        let _ = write!(names, " {peer}, /s | processor, ms |");
        rule += " ---: | ---: |";
        if number > 0 {
            names += " times as many | times less processor |";
            rule += " ---: | ---: |";
        }
    }
    format!("{names}\n{rule}\n")
}

/// A row of the table.
fn describe(compared: &Compared) -> String {
    let mut text = format!("| {} |", compared.row.name);
    for (number, peer) in compared.did.iter().enumerate() {
        let rate = rounded(median(peer.rates.clone()));
        let errors = match peer.total.errors {
            0 => String::new(),
            count => format!(" ({count} errors)"),
        };
        let _ = write!(text, " {rate}{errors} | {:.3} |", peer.processor());
        let ratios = (compared.requests(number), compared.processor(number));
        if let (1.., (Some(requests), Some(processor))) = (number, ratios) {
            let _ = write!(text, " **{requests:.1}** | {processor:.1} |");
        }
    }
    text + "\n"
}
