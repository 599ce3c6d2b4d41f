//! The server's certificate: made anew at each start, signed by an authority that only the
//! kubeconfig knows.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// The name that the certificate is for besides loopback; kubeconfigs ask for it whatever the
/// server's address is, since the lab's fabric may translate that.
pub const SERVER_NAME: &str = "kubernetes.default.svc";

/// Why the server's TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The certificate could not be made.
    #[error("cannot make the API server's certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The certificate was not taken.
    #[error("cannot serve TLS: {0}")]
    Tls(#[from] tokio_rustls::rustls::Error),
}

/// A server's certificate, and the authority that signed it.
pub struct Certificate {
    /// The authority's certificate, PEM.
    pub authority: String,
    /// The server's certificate.
    pub certificate: rcgen::Certificate,
    /// The server's key.
    pub key: KeyPair,
}

impl Certificate {
    /// Makes an authority and a certificate for [`SERVER_NAME`], loopback and `address`.
    ///
    /// # Errors
    /// Where the system's random numbers or the address cannot be used.
    pub fn make(address: &str) -> Result<Self, Error> {
        let mut authority = CertificateParams::new(Vec::new())?;
        authority
            .distinguished_name
            .push(rcgen::DnType::CommonName, "nodescope lab");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
        let names = [
            SERVER_NAME,
            "kubernetes",
            "localhost",
            "127.0.0.1",
            "::1",
            address,
        ];
        let mut server = CertificateParams::new(names.map(str::to_owned))?;
        server
            .distinguished_name
            .push(rcgen::DnType::CommonName, "kube-apiserver");
        let key = KeyPair::generate()?;
        let certificate = server.signed_by(&key, &authority)?;
        Ok(Self {
            authority: authority.pem(),
            certificate,
            key,
        })
    }
}

/// The TLS side of a server.
pub struct Tls {
    acceptor: TlsAcceptor,
    authority: String,
}

impl Tls {
    /// Takes handshakes with a new certificate for [`SERVER_NAME`], loopback and `address`.
    ///
    /// # Errors
    /// Where the system's random numbers or the address cannot be used.
    pub fn new(address: &str) -> Result<Self, Error> {
        let made = Certificate::make(address)?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(
                vec![made.certificate.der().clone()],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.key.serialize_der())),
            )?;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            authority: made.authority,
        })
    }

    /// Takes TLS handshakes.
    pub fn acceptor(&self) -> &TlsAcceptor {
        &self.acceptor
    }

    /// The authority's certificate, PEM.
    pub fn authority(&self) -> &str {
        &self.authority
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}
