//! A stand-in for GitHub, which a test tells what to answer. It is a proxy, too.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

/// What the stand-in answers.
#[derive(Clone)]
pub enum Script {
    Answer {
        status: u16,
        headers: String,
        body: Vec<u8>,
    },
    /// 60 MB of spaces.
    Huge,
    /// Nothing, for longer than the test waits.
    Silence,
    /// A byte of the body now and then.
    Trickle,
    /// A byte of the head now and then.
    TrickleHead,
    Close,
}

impl Script {
    pub fn status(status: u16, headers: &str) -> Script {
        Script::Answer {
            status,
            headers: headers.into(),
            body: b"{}".to_vec(),
        }
    }

    pub fn ok(body: impl Into<Vec<u8>>) -> Script {
        Script::Answer {
            status: 200,
            headers: String::new(),
            body: body.into(),
        }
    }

    pub fn releases(releases: &Value, etag: &str) -> Script {
        let headers = format!("ETag: \"{etag}\"\r\n");
        Script::Answer {
            status: 200,
            headers,
            body: releases.to_string().into(),
        }
    }
}

#[derive(Default)]
struct State {
    scripts: HashMap<String, Script>,
    /// Request heads, by project.
    asked: HashMap<String, Vec<String>>,
}

/// A stand-in for GitHub; it knows what each project's releases are.
pub struct GitHub {
    pub address: String,
    state: Arc<Mutex<State>>,
}

impl GitHub {
    pub fn start() -> GitHub {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        GitHub { address, state }
    }

    pub fn set(&self, project: &str, script: Script) {
        self.state
            .lock()
            .expect("no panic")
            .scripts
            .insert(project.into(), script);
    }

    pub fn asked(&self, project: &str) -> Vec<String> {
        let state = self.state.lock().expect("no panic");
        state.asked.get(project).cloned().unwrap_or_default()
    }

    /// Settings for a server that asks this stand-in.
    pub fn settings(&self, more: &str) -> String {
        format!(
            "versions.enabled = true\nversions.github_api = 'http://{}/'\n\
             versions.projects.desktop = 'o/desktop'\nversions.projects.android = 'o/android'\n\
             versions.projects.ios = 'o/ios'\n{more}",
            self.address
        )
    }
}

impl State {
    /// Notes a request for a project; what to answer.
    fn note(&mut self, project: &str, head: String) -> Script {
        let asked = self.asked.entry(project.into()).or_default();
        asked.push(head);
        let script = self.scripts.get(project).cloned();
        script.unwrap_or(Script::status(404, ""))
    }
}

fn serve(mut stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            return;
        }
    }
    if head.starts_with("CONNECT ") {
        // As a proxy the stand-in leads to itself: it also serves the request inside the tunnel.
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        state.lock().expect("no panic").note("proxy", head);
        return serve(stream, state);
    }
    let path = head.split(' ').nth(1).unwrap_or("");
    let path = path.split("/repos/").nth(1).unwrap_or("");
    let project = path.split("/releases").next().unwrap_or("");
    let script = state.lock().expect("no panic").note(project, head.clone());
    // A client that hangs up is what some of the tests are about.
    let _ = play(script, &head, &mut stream);
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read(&mut [0; 64]);
}

/// Answers a request as the script wants it.
fn play(script: Script, request: &str, stream: &mut TcpStream) -> std::io::Result<()> {
    match script {
        Script::Answer {
            status,
            headers,
            body,
        } => {
            let etag = headers.trim().strip_prefix("ETag: ");
            let condition = etag.map(|etag| format!("if-none-match: {}", etag.to_lowercase()));
            let is_known = condition.is_some_and(|etag| request.to_lowercase().contains(&etag));
            let (status, body) = if is_known {
                (304, Vec::new())
            } else {
                (status, body)
            };
            let length = body.len();
            let head = format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {length}\r\n\r\n");
            stream.write_all(head.as_bytes())?;
            stream.write_all(&body)
        }
        Script::Huge => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 60000000\r\n\r\n")?;
            stream.write_all(&vec![b' '; 60_000_000])
        }
        Script::Silence => {
            std::thread::sleep(Duration::from_secs(600));
            Ok(())
        }
        Script::Trickle => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n")?;
            trickle(stream)
        }
        Script::TrickleHead => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nX: ")?;
            trickle(stream)
        }
        Script::Close => Ok(()),
    }
}

fn trickle(stream: &mut TcpStream) -> std::io::Result<()> {
    (0..1200).try_for_each(|_| {
        std::thread::sleep(Duration::from_millis(500));
        stream.write_all(b" ")
    })
}
