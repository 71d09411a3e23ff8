//! The check of the database's certificate.

use std::fmt;
use std::sync::Arc;

use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::crypto::{
    CryptoProvider, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

/// Checks a certificate as `sslmode` asks. It is always checked that the database has the
/// certificate's key.
pub struct Verifier {
    /// The check of the chain of signatures and of the name; `None` to trust any certificate.
    chain: Option<Arc<dyn ServerCertVerifier>>,
    /// The certificates of `sslrootcert`; empty if the system's are trusted.
    trusted: Vec<CertificateDer<'static>>,
    /// Whether the certificate must be for the host's name.
    checks_name: bool,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    /// Trusts every certificate (`sslmode=prefer` and `require`).
    pub fn of_nothing(provider: Arc<CryptoProvider>) -> Verifier {
        Verifier {
            chain: None,
            trusted: Vec::new(),
            checks_name: false,
            provider,
        }
    }

    /// Trusts the certificates that the system trusts, if they are for the host's name.
    pub fn by_the_system(provider: Arc<CryptoProvider>) -> Verifier {
        let chain = rustls_platform_verifier::Verifier::new().with_provider(provider.clone());
        Verifier {
            chain: Some(Arc::new(chain)),
            trusted: Vec::new(),
            checks_name: true,
            provider,
        }
    }

    /// Trusts the certificates in `trusted` and those that they have signed, which `chain` checks.
    pub fn by_roots(
        chain: Arc<dyn ServerCertVerifier>,
        trusted: Vec<CertificateDer<'static>>,
        checks_name: bool,
        provider: Arc<CryptoProvider>,
    ) -> Verifier {
        Verifier {
            chain: Some(chain),
            trusted,
            checks_name,
            provider,
        }
    }

    /// Accepts a self-signed certificate that is itself in `trusted`, as PostgreSQL's manual
    /// describes one. It is marked as one of an authority, so that rustls refuses it as one of a
    /// server. By then rustls has checked its dates, but not its name.
    fn check_own_authority(
        &self,
        certificate: &CertificateDer,
        host: &ServerName,
        refusal: Error,
    ) -> Result<ServerCertVerified, Error> {
        let is_trusted = self
            .trusted
            .iter()
            .any(|trusted| trusted.as_ref() == certificate.as_ref());
        if !is_trusted || !refusal.to_string().contains("CaUsedAsEndEntity") {
            return Err(refusal);
        }
        if self.checks_name {
            verify_server_name(&ParsedCertificate::try_from(certificate)?, host)?;
        }
        Ok(ServerCertVerified::assertion())
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer,
        intermediates: &[CertificateDer],
        host: &ServerName,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
        let checked = chain.verify_server_cert(certificate, intermediates, host, ocsp, now);
        match checked {
            // The name is checked last, so that all else is valid.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.checks_name => Ok(ServerCertVerified::assertion()),
            Err(refusal) => self.check_own_authority(certificate, host, refusal),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
