//! A client's side of onion requests.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use session_file_server::protocol::keys::ServerKeys;
use session_file_server::protocol::onion::cipher::FreshNonce;
use session_file_server::protocol::onion::client::{OnionRequest, read_v4_reply, v4_plaintext};

use super::{Database, Server};

/// A server with two keys, and how clients speak to it.
pub struct Onion {
    pub server: Server,
    pub public_keys: Vec<[u8; 32]>,
}

impl Onion {
    pub fn start(settings: &str) -> Onion {
        Onion::on(&Database::new(), settings)
    }

    /// A server with two keys on that database.
    pub fn on(database: &Database, settings: &str) -> Onion {
        let keys = ServerKeys::from_secrets(&[5; 32], Some(&[6; 32]));
        let files = tempfile::tempdir().expect("a folder");
        let file = |name: &str, byte: u8| {
            let path = files.path().join(name);
            std::fs::write(&path, hex::encode([byte; 32])).expect("writable");
            path.display().to_string()
        };
        let settings = format!(
            "{settings}\nkeys.ed25519 = '{}'\nkeys.x25519 = '{}'",
            file("ed", 5),
            file("x", 6)
        );
        let server = Server::with(database, &settings);
        let public_keys = keys.pairs().iter().map(|pair| *pair.public()).collect();
        Onion {
            server,
            public_keys,
        }
    }

    /// Encrypts `plaintext`, sends it, and decrypts the answer.
    pub fn exchange(
        &self,
        path: &str,
        key: usize,
        enc_type: Option<&str>,
        plaintext: &[u8],
    ) -> Vec<u8> {
        let exchange = new_exchange(&self.public_keys[key], enc_type);
        let request = exchange.seal(plaintext, nonce()).expect("sealed");
        let answer = self.server.post(path, &request);
        assert_eq!(answer.status, 200, "{answer:?}");
        let reply = match path {
            "/oxen/v4/lsrpc" => {
                assert_eq!(
                    answer.header("Content-Type"),
                    Some("application/octet-stream")
                );
                answer.body
            }
            _ => STANDARD.decode(&answer.body).expect("base64"),
        };
        exchange.open(reply).expect("encrypted for us")
    }

    pub fn v4(&self, plaintext: &[u8]) -> Reply {
        Reply::read(&self.exchange("/oxen/v4/lsrpc", 0, Some("xchacha20"), plaintext))
    }

    pub fn v4_request(&self, method: &str, endpoint: &str, body: Option<&[u8]>) -> Reply {
        self.v4(&v4_plaintext(method, endpoint, &[], body))
    }

    pub fn v3(&self, request: Value) -> Vec<u8> {
        self.exchange(
            "/oxen/v3/lsrpc",
            0,
            Some("aes-gcm"),
            request.to_string().as_bytes(),
        )
    }
}

/// A list of texts as a v4 plaintext has it: `l`, each with its length before it, `e`.
pub fn bencoded(parts: &[&str]) -> Vec<u8> {
    let parts = parts.iter().map(|part| format!("{}:{part}", part.len()));
    format!("l{}e", parts.collect::<String>()).into_bytes()
}

pub fn random<const N: usize>() -> [u8; N] {
    let mut random = [0; N];
    getrandom::getrandom(&mut random).expect("random numbers");
    random
}

pub fn nonce() -> FreshNonce {
    FreshNonce(random())
}

pub fn new_exchange(server: &[u8; 32], enc_type: Option<&str>) -> OnionRequest {
    OnionRequest::new(server, enc_type, random()).expect("an enc type and a key")
}

pub struct Reply {
    pub status: u16,
    pub meta: Value,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn read(plaintext: &[u8]) -> Reply {
        let (status, meta, body) = read_v4_reply(plaintext).expect("two parts");
        Reply {
            status,
            meta,
            body: body.to_vec(),
        }
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    pub fn content_type(&self) -> &str {
        self.meta["headers"]["content-type"]
            .as_str()
            .expect("a content type")
    }
}
