//! The server's certificate: made anew at each start, signed by an authority that only the
//! kubeconfig knows.

use std::sync::{Arc, PoisonError, RwLock};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
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

/// The name of the lab's authority.
const NAME: &str = "nodescope lab";

/// Which certificate a server shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// One of its authority, good for long.
    Good,
    /// One of its authority that is good no more.
    Expired,
    /// One of its authority that is not good yet, as for a client whose clock is slow.
    Early,
    /// One of an authority that no client knows.
    Foreign,
}

/// Who signs certificates.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    names: Vec<String>,
}

impl Authority {
    /// A new one of this name, for certificates for [`SERVER_NAME`], loopback and `address`.
    fn new(name: &str, address: &str) -> Result<Self, Error> {
        let mut params = CertificateParams::new(Vec::new())?;
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let names = [
            SERVER_NAME,
            "kubernetes",
            "localhost",
            "127.0.0.1",
            "::1",
            address,
        ];
        Ok(Self {
            issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)?,
            names: names.map(str::to_owned).into(),
        })
    }

    fn issue(&self, shown: Shown) -> Result<(rcgen::Certificate, KeyPair), Error> {
        let mut params = CertificateParams::new(self.names.clone())?;
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "kube-apiserver");
        match shown {
            Shown::Good | Shown::Foreign => {}
            Shown::Expired => params.not_after = date_time_ymd(2020, 1, 1),
            Shown::Early => params.not_before = date_time_ymd(4000, 1, 1),
        }
        let key = KeyPair::generate()?;
        Ok((params.signed_by(&key, &self.issuer)?, key))
    }
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
        let authority = Authority::new(NAME, address)?;
        let (certificate, key) = authority.issue(Shown::Good)?;
        Ok(Self {
            authority: authority.issuer.pem(),
            certificate,
            key,
        })
    }
}

/// The TLS side of a server.
pub struct Tls {
    acceptor: RwLock<TlsAcceptor>,
    authority: Authority,
    pem: String,
}

impl Tls {
    /// Takes handshakes with a new certificate for [`SERVER_NAME`], loopback and `address`.
    ///
    /// # Errors
    /// Where the system's random numbers or the address cannot be used.
    pub fn new(address: &str) -> Result<Self, Error> {
        let authority = Authority::new(NAME, address)?;
        let acceptor = acceptor(&authority, Shown::Good)?;
        Ok(Self {
            pem: authority.issuer.pem(),
            acceptor: RwLock::new(acceptor),
            authority,
        })
    }

    /// Takes handshakes with another certificate from now on.
    ///
    /// # Errors
    /// Where the system's random numbers cannot be used.
    pub fn show(&self, shown: Shown) -> Result<(), Error> {
        let acceptor = match shown {
            Shown::Foreign => acceptor(&Authority::new("somebody else", "127.0.0.1")?, shown)?,
            _ => acceptor(&self.authority, shown)?,
        };
        *self
            .acceptor
            .write()
            .unwrap_or_else(PoisonError::into_inner) = acceptor;
        Ok(())
    }

    /// Takes TLS handshakes.
    pub fn acceptor(&self) -> TlsAcceptor {
        let acceptor = self.acceptor.read();
        acceptor.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The authority's certificate, PEM.
    pub fn authority(&self) -> &str {
        &self.pem
    }
}

fn acceptor(authority: &Authority, shown: Shown) -> Result<TlsAcceptor, Error> {
    let (certificate, key) = authority.issue(shown)?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}
