//! Whether a client has ended its side of a connection.
//!
//! **Fault.** The end of a connection within a chunk looks like the end of the body.
//!
//! **Where.** chunked_transfer 1.5 gives "0 bytes" for both (its `decoder.rs`, `read`).
//!
//! **Seen.** `tests/chunked.rs` ends bodies early: they were stored as far as they came.
//!
//! **Until** chunked_transfer fails where a chunk is cut short.
//!
//! The system is asked what became of the connection: a client that waits for its answer has not
//! ended its side. Behind a Unix socket the system doesn't tell, and there a web server is the
//! client.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;

use crate::lock::lock;

/// The state ESTABLISHED in the system's table of connections.
const ESTABLISHED: &str = "01";

/// Whether a client of our TCP port has ended its side of the connection, as far as the system
/// tells.
pub fn has_hung_up(own_port: u16, client: SocketAddr) -> bool {
    let table = match client {
        SocketAddr::V4(_) => "/proc/self/net/tcp",
        SocketAddr::V6(_) => "/proc/self/net/tcp6",
    };
    // The table may have megabytes, and the system takes its time for each reader.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = lock(&ONE_AT_A_TIME);
    let Ok(table) = File::open(table) else {
        return false;
    };
    let lines = BufReader::new(table).lines().map_while(Result::ok);
    state(lines, own_port, client).is_some_and(|state| state != ESTABLISHED)
}

/// The state of a connection, of a table with a connection on each line: a number, the local
/// address, the remote address, the state (`proc(5)`, `/proc/net/tcp`).
fn state(
    mut table: impl Iterator<Item = String>,
    own_port: u16,
    client: SocketAddr,
) -> Option<String> {
    let (own_port, client) = (format!(":{own_port:04X}"), as_in_table(client));
    table.find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (local, remote, state) = (words.next()?, words.next()?, words.next()?);
        (remote == client && local.ends_with(&own_port)).then(|| state.to_string())
    })
}

/// Words of four bytes, each written as the machine's number.
fn as_in_table(address: SocketAddr) -> String {
    let bytes = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let words = bytes.chunks_exact(4).map(|word| {
        let mut number = [0; 4];
        number.copy_from_slice(word);
        format!("{:08X}", u32::from_ne_bytes(number))
    });
    format!("{}:{:04X}", words.collect::<String>(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Shutdown, TcpListener, TcpStream};

    #[test]
    fn a_client_has_hung_up_when_it_has_ended_its_side() {
        for address in ["127.0.0.1:0", "[::1]:0", "[::ffff:127.0.0.1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                eprintln!("{address} is not to be had here");
                continue;
            };
            let own = listener.local_addr().expect("bound");
            let client = TcpStream::connect(own).expect("it listens");
            let (_accepted, address) = listener.accept().expect("a connection");
            assert!(!has_hung_up(own.port(), address), "{address}");
            client.shutdown(Shutdown::Write).expect("connected");
            while !has_hung_up(own.port(), address) {
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn who_is_not_in_the_table_has_not_hung_up() {
        let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
        assert!(!has_hung_up(9, nobody));
        assert_eq!(state(std::iter::empty(), 9, nobody), None);
        let table = [
            "  sl  local_address rem_address   st",
            "   0: 0100007F:0009 0100007F:0009 08 x",
        ];
        if cfg!(target_endian = "little") {
            let table = table.into_iter().map(str::to_string);
            assert_eq!(state(table, 9, nobody).as_deref(), Some("08"));
        }
    }
}
