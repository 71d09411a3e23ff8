//! A client that sends exactly what a test wants, and reads exactly one answer.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// How long a client waits at each step. Nothing takes longer, so that a test that hangs fails.
const PATIENCE: Duration = Duration::from_secs(60);

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn try_clone(&self) -> std::io::Result<Stream> {
        Ok(match self {
            Stream::Tcp(stream) => Stream::Tcp(stream.try_clone()?),
            Stream::Unix(stream) => Stream::Unix(stream.try_clone()?),
        })
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buffer),
            Stream::Unix(stream) => stream.read(buffer),
        }
    }
}

pub struct Connection {
    reader: BufReader<Stream>,
    writer: Stream,
}

impl Connection {
    /// Connects to `host:port` or `unix:PATH`.
    pub fn open(address: &str) -> Connection {
        Connection::try_open(address).unwrap_or_else(|error| panic!("{address}: {error}"))
    }

    /// Connects to `host:port` from another of this machine's addresses.
    pub fn open_from(client: &str, address: &str) -> Connection {
        let connect = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            let client: SocketAddr = format!("{client}:0").parse().expect("an address");
            socket.bind(&client.into())?;
            let server: SocketAddr = address.parse().expect("an address");
            socket.connect(&server.into())?;
            Connection::over_tcp(socket.into())
        };
        connect().unwrap_or_else(|error| panic!("{address} from {client}: {error}"))
    }

    pub fn try_open(address: &str) -> std::io::Result<Connection> {
        match address.strip_prefix("unix:") {
            Some(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Connection::over(Stream::Unix(stream))
            }
            None => Connection::over_tcp(TcpStream::connect(address)?),
        }
    }

    pub fn over_tcp(stream: TcpStream) -> std::io::Result<Connection> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Connection::over(Stream::Tcp(stream))
    }

    fn over(writer: Stream) -> std::io::Result<Connection> {
        let reader = BufReader::new(writer.try_clone()?);
        Ok(Connection { reader, writer })
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match &mut self.writer {
            Stream::Tcp(stream) => stream.write_all(bytes),
            Stream::Unix(stream) => stream.write_all(bytes),
        }
    }

    /// Says that nothing more will be sent.
    pub fn finish(&self) {
        let _ = match &self.writer {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
    }

    /// Sends the head of a request.
    pub fn head(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        self.send((head + "\r\n").as_bytes())
            .expect("the server listens");
    }

    /// A request and its answer. The connection can be used again.
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        self.try_request(method, path, headers, body)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    pub fn try_request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Response> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if method == "POST" {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        self.send((head + "\r\n").as_bytes())?;
        // A server that refuses need not take the whole body.
        let sent = self.send(body);
        match self.try_answer(method) {
            Ok(answer) => Ok(answer),
            Err(error) => sent.and(Err(error)),
        }
    }

    /// Reads one answer.
    pub fn answer(&mut self, method: &str) -> Response {
        self.try_answer(method).expect("an answer")
    }

    pub fn try_answer(&mut self, method: &str) -> std::io::Result<Response> {
        loop {
            let mut answer = self.read_head()?;
            if answer.status == 100 {
                continue;
            }
            let length = answer.header("Content-Length");
            let length: usize = length
                .expect("every answer has a length")
                .parse()
                .expect("digits");
            if method != "HEAD" {
                answer.body = vec![0; length];
                self.reader.read_exact(&mut answer.body)?;
            }
            return Ok(answer);
        }
    }

    pub fn read_exact(&mut self, buffer: &mut [u8]) {
        self.reader.read_exact(buffer).expect("as many bytes");
    }

    /// Reads to the end of a head.
    pub fn skip_head(&mut self) {
        while !self.line().expect("a line").is_empty() {}
    }

    /// The first line of whatever is answered; empty if the connection ends without one.
    pub fn first_line(&mut self) -> String {
        let mut line = Vec::new();
        let _ = self.reader.read_until(b'\n', &mut line);
        String::from_utf8_lossy(&line).trim_end().to_string()
    }

    /// Whether the server has closed the connection, having sent nothing more.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.reader.read(&mut [0]), Ok(0) | Err(_))
    }

    fn read_head(&mut self) -> std::io::Result<Response> {
        let status = self.line()?;
        let status = status
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        let Some(status) = status else {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        };
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            match line.split_once(": ") {
                Some((name, value)) => headers.push((name.to_string(), value.to_string())),
                None => {
                    return Ok(Response {
                        status,
                        headers,
                        body: Vec::new(),
                    });
                }
            }
        }
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        Ok(line.trim_end_matches(['\r', '\n']).to_string())
    }
}

pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    pub fn number(&self, field: &str) -> f64 {
        self.json()[field]
            .as_f64()
            .unwrap_or_else(|| panic!("no {field}: {self:?}"))
    }

    /// Fails unless this is the answer to a failed request with that status.
    pub fn assert_error(&self, status: u16) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(
            self.header("Content-Type"),
            Some("application/json"),
            "{self:?}"
        );
        assert_eq!(self.json(), serde_json::json!({ "status_code": status }));
    }
}

impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let body = String::from_utf8_lossy(&self.body[..self.body.len().min(200)]);
        write!(
            f,
            "{} {:?} {body:?} ({} bytes)",
            self.status,
            self.headers,
            self.body.len()
        )
    }
}
