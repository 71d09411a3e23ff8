//! TLS for connections to the database, by rustls. `sslmode`, `sslrootcert`, `sslcert` and `sslkey`
//! of `database.url` mean the same as for libpq. A connection that is less secure than they ask for
//! is refused.
//!
//! The driver expects TLS as a future over an asynchronous stream. The types here only adapt
//! rustls' stream to the driver's traits; no code of ours is asynchronous.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use postgres::Socket;
use postgres::config::SslMode;
use postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use sha2::{Digest, Sha256, Sha384, Sha512};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;
use tokio_rustls::client;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::crypto::{self, CryptoProvider};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use super::deadline::Watched;
use super::verifier::Verifier;

/// The parameters of libpq that this module reads.
pub const PARAMETERS: [&str; 4] = ["sslmode", "sslrootcert", "sslcert", "sslkey"];
/// The value of `sslrootcert` that stands for the certificates which the system trusts.
const SYSTEM: &str = "system";

/// The `sslmode`: whether TLS is used, and how the database's certificate is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Mode {
    /// No TLS.
    Disable,
    /// TLS if the database supports it. The certificate isn't checked.
    #[default]
    Prefer,
    /// TLS. The certificate isn't checked.
    Require,
    /// TLS. The certificate must be signed by one in `sslrootcert`.
    VerifyCa,
    /// TLS. The certificate must be signed by one in `sslrootcert` and be for the host's name.
    VerifyFull,
}

impl Mode {
    /// Parses the value of `sslmode`.
    fn parse(value: &str) -> Result<Mode, String> {
        match value {
            "disable" => Ok(Mode::Disable),
            "allow" | "prefer" => Ok(Mode::Prefer),
            "require" => Ok(Mode::Require),
            "verify-ca" => Ok(Mode::VerifyCa),
            "verify-full" => Ok(Mode::VerifyFull),
            _ => Err(
                "sslmode is none of disable, prefer, require, verify-ca and \
                            verify-full"
                    .into(),
            ),
        }
    }
}

/// The settings of TLS in `database.url`.
#[derive(Clone, Debug, Default)]
pub struct TlsSettings {
    mode: Mode,
    /// The file of the trusted certificates; `None` for those of the system.
    root: Option<PathBuf>,
    /// The files of our own certificate and of its key.
    own: Option<(PathBuf, PathBuf)>,
}

impl TlsSettings {
    /// Parses the parameters.
    ///
    /// # Errors
    /// A description of the mistake.
    pub fn parse(parameters: &[(&str, String)]) -> Result<TlsSettings, String> {
        let value = |name: &str| {
            let found = parameters.iter().rev().find(|(known, _)| *known == name);
            found
                .map(|(_, value)| value.as_str())
                .filter(|value| !value.is_empty())
        };
        let root = value("sslrootcert");
        let asked = value("sslmode").map(Mode::parse).transpose()?;
        let mode = match (asked, root) {
            // As libpq: anybody can get a certificate that the system trusts, so the name counts.
            (None, Some(SYSTEM)) => Mode::VerifyFull,
            (Some(weaker), Some(SYSTEM)) if weaker < Mode::VerifyFull => {
                return Err("sslrootcert=system needs sslmode=verify-full".into());
            }
            // As libpq: naming trusted certificates implies checking them.
            (Some(Mode::Require), Some(_)) => Mode::VerifyCa,
            (Some(Mode::VerifyCa), None) => {
                return Err(
                    "sslmode=verify-ca needs sslrootcert, the file of the certificate that \
                            signs the database's"
                        .into(),
                );
            }
            (asked, _) => asked.unwrap_or_default(),
        };
        let own = match (value("sslcert"), value("sslkey")) {
            (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
            (None, None) => None,
            _ => return Err("sslcert and sslkey need each other".into()),
        };
        Ok(TlsSettings {
            mode,
            root: root.filter(|root| *root != SYSTEM).map(PathBuf::from),
            own,
        })
    }

    /// The driver's `sslmode`, which doesn't include the checks of the certificate.
    pub fn driver_mode(&self) -> SslMode {
        match self.mode {
            Mode::Disable => SslMode::Disable,
            Mode::Prefer => SslMode::Prefer,
            _ => SslMode::Require,
        }
    }

    /// Whether connections without TLS are refused.
    pub fn is_required(&self) -> bool {
        self.mode >= Mode::Require
    }

    /// Reads the certificates and makes a connector. This happens for each connection, because
    /// certificates are renewed in place.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn connector(&self) -> Result<Connector, String> {
        let provider = Arc::new(crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(self.verifier(provider)?));
        let config = match &self.own {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates(certificate, "sslcert")?;
                let key = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| unreadable("sslkey", key, &error))?;
                let usable = config.with_client_auth_cert(chain, key);
                usable.map_err(|error| format!("sslcert and sslkey can't be used: {error}"))?
            }
        };
        Ok(Connector {
            config: Arc::new(config),
            watched: None,
        })
    }

    fn verifier(&self, provider: Arc<CryptoProvider>) -> Result<Verifier, String> {
        if self.mode < Mode::VerifyCa {
            return Ok(Verifier::of_nothing(provider));
        }
        let Some(file) = &self.root else {
            return Ok(Verifier::by_the_system(provider));
        };
        let trusted = certificates(file, "sslrootcert")?;
        let mut roots = RootCertStore::empty();
        for certificate in &trusted {
            let added = roots.add(certificate.clone());
            added.map_err(|error| unreadable("sslrootcert", file, &error))?;
        }
        let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let chain = chain
            .build()
            .map_err(|error| unreadable("sslrootcert", file, &error))?;
        let checks_name = self.mode == Mode::VerifyFull;
        Ok(Verifier::by_roots(chain, trusted, checks_name, provider))
    }
}

/// Reads the certificates in a file, which must have at least one.
fn certificates(file: &Path, parameter: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|error| unreadable(parameter, file, &error))?;
    if found.is_empty() {
        return Err(unreadable(parameter, file, &"it has no certificate"));
    }
    Ok(found)
}

fn unreadable(parameter: &str, file: &Path, reason: &dyn fmt::Display) -> String {
    format!("{parameter}={} can't be used: {reason}", file.display())
}

/// Starts TLS on connections to the database.
#[derive(Clone)]
pub struct Connector {
    config: Arc<ClientConfig>,
    /// Who is told of the connection that is made.
    watched: Option<Arc<Watched>>,
}

impl Connector {
    /// The same, which tells `watched` of the connection.
    pub(super) fn watched_by(mut self, watched: Arc<Watched>) -> Connector {
        self.watched = Some(watched);
        self
    }
}

impl MakeTlsConnect<Socket> for Connector {
    type Stream = Stream;
    type TlsConnect = ConnectorTo;
    type Error = rustls::pki_types::InvalidDnsNameError;

    fn make_tls_connect(&mut self, host: &str) -> Result<ConnectorTo, Self::Error> {
        // The driver calls this for each connection, with TLS or without.
        if let Some(watched) = &self.watched {
            watched.connected();
        }
        // The host is empty for a Unix socket, on which TLS is never started.
        let host = if host.is_empty() { "localhost" } else { host };
        Ok(ConnectorTo {
            config: self.config.clone(),
            host: ServerName::try_from(host.to_string())?,
        })
    }
}

/// Starts TLS on a connection to one host.
pub struct ConnectorTo {
    config: Arc<ClientConfig>,
    host: ServerName<'static>,
}

impl TlsConnect<Socket> for ConnectorTo {
    type Stream = Stream;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, Self::Error>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(async move {
            let connecting = TlsConnector::from(self.config).connect(self.host, socket);
            connecting.await.map(Stream).map_err(explained)
        })
    }
}

/// The error of starting TLS, with an explanation if the database's certificate is the problem.
fn explained(error: io::Error) -> Box<dyn std::error::Error + Send + Sync> {
    let cause = error
        .get_ref()
        .and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)) => {
            "the database's certificate is of an unknown issuer (UnknownIssuer); set sslrootcert to \
             the file of the certificate that signs it"
                .into()
        }
        Some(cause) => cause.to_string().into(),
        None => error.into(),
    }
}

/// A connection to the database inside TLS.
pub struct Stream(client::TlsStream<Socket>);

impl TlsStream for Stream {
    fn channel_binding(&self) -> ChannelBinding {
        let (_, connection) = self.0.get_ref();
        let certificate = connection.peer_certificates().and_then(<[_]>::first);
        let hash = certificate.and_then(|certificate| end_point_hash(certificate));
        hash.map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// The `tls-server-end-point` of RFC 5929, 4.1: the hash of the database's certificate by the hash
/// function of its signature, or by SHA-256 instead of MD5 and SHA-1. `None` for signatures without
/// a single hash function (Ed25519, RSA-PSS).
fn end_point_hash(certificate: &[u8]) -> Option<Vec<u8>> {
    /// 1.2.840.113549.1.1, the signatures of PKCS #1.
    const RSA: [u8; 8] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    /// 1.2.840.10045.4, the signatures of ECDSA.
    const ECDSA: [u8; 6] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];
    // Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm SEQUENCE { OID, … }, … }
    let (whole, _) = der_content(certificate)?;
    let (_, after) = der_content(whole)?;
    let (algorithm, _) = der_content(after)?;
    let (oid, _) = der_content(algorithm)?;
    let by_rsa = oid.strip_prefix(&RSA).map(|last| match last {
        [4 | 5 | 11] => 256,
        [12] => 384,
        [13] => 512,
        _ => 0,
    });
    let by_ecdsa = oid.strip_prefix(&ECDSA).map(|last| match last {
        [1] | [3, 2] => 256,
        [3, 3] => 384,
        [3, 4] => 512,
        _ => 0,
    });
    match by_rsa.or(by_ecdsa)? {
        256 => Some(Sha256::digest(certificate).to_vec()),
        384 => Some(Sha384::digest(certificate).to_vec()),
        512 => Some(Sha512::digest(certificate).to_vec()),
        _ => None,
    }
}

/// The content of the first element in DER, and the bytes after the element (X.690, 8.1).
fn der_content(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_tag, rest) = der.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first >= 0x80 {
        let (digits, after) = rest.split_at_checked(usize::from(first - 0x80))?;
        if digits.len() > 4 {
            return None;
        }
        length = digits
            .iter()
            .fold(0, |length, digit| (length << 8) | usize::from(*digit));
        rest = after;
    }
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(parameters: &[(&'static str, &str)]) -> Result<TlsSettings, String> {
        let parameters: Vec<_> = parameters
            .iter()
            .map(|(n, v)| (*n, v.to_string()))
            .collect();
        TlsSettings::parse(&parameters)
    }

    #[test]
    fn modes_mean_what_they_mean_for_libpq() {
        let mode = |parameters: &[(&'static str, &str)]| parse(parameters).map(|tls| tls.mode);
        assert_eq!(mode(&[]), Ok(Mode::Prefer));
        assert_eq!(mode(&[("sslmode", "disable")]), Ok(Mode::Disable));
        assert_eq!(mode(&[("sslmode", "require")]), Ok(Mode::Require));
        let root = ("sslrootcert", "/x.pem");
        assert_eq!(mode(&[("sslmode", "require"), root]), Ok(Mode::VerifyCa));
        assert_eq!(
            mode(&[("sslmode", "verify-full"), root]),
            Ok(Mode::VerifyFull)
        );
        assert_eq!(mode(&[("sslmode", "verify-full")]), Ok(Mode::VerifyFull));
        assert_eq!(mode(&[("sslrootcert", "system")]), Ok(Mode::VerifyFull));
        for refused in [
            &[("sslmode", "verify-ca")][..],
            &[("sslmode", "yes")],
            &[("sslmode", "require"), ("sslrootcert", "system")],
            &[("sslcert", "/x.pem")],
            &[("sslkey", "/x.pem")],
        ] {
            assert!(parse(refused).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn a_certificate_is_hashed_as_its_signature_says() {
        let certificate = |oid: &[u8]| {
            let mut algorithm = vec![0x06, oid.len() as u8];
            algorithm.extend_from_slice(oid);
            let mut content = vec![0x30, 3, 1, 2, 3, 0x30, algorithm.len() as u8];
            content.extend(algorithm);
            let mut whole = vec![0x30, 0x81, content.len() as u8];
            whole.extend(content);
            whole
        };
        let rsa = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
        let ecdsa = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];
        for (oid, length) in [
            ([&rsa[..], &[5]].concat(), Some(32)),
            ([&rsa[..], &[11]].concat(), Some(32)),
            ([&rsa[..], &[13]].concat(), Some(64)),
            ([&rsa[..], &[10]].concat(), None),
            ([&ecdsa[..], &[3, 3]].concat(), Some(48)),
            (vec![0x2b, 0x65, 0x70], None),
        ] {
            let hash = end_point_hash(&certificate(&oid));
            assert_eq!(hash.map(|hash| hash.len()), length, "{oid:?}");
        }
        for broken in [
            &b""[..],
            b"\x30",
            b"\x30\x85\x01\x01\x01\x01\x01",
            b"\x30\x05\x30\x80",
        ] {
            assert_eq!(end_point_hash(broken), None);
        }
    }
}
