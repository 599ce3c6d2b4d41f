//! TLS of the API on the network: certificates, read anew when their files change.

use std::fs::Metadata;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ServerConfig, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, RootCertStore};

use crate::config::Tls as Files;

/// What HTTP/2 over TLS is called in the handshake (RFC 9113, section 3.2).
const HTTP2: &[u8] = b"h2";

const CERT: &str = "--tls-cert";
const KEY: &str = "--tls-key";
const CLIENT_CA: &str = "--tls-client-ca";

/// Files that TLS cannot be served with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("{flag} {}: {source}: give a file that the agent can read", .path.display())]
    Read {
        /// The flag that names the file.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{flag} {}: no {wanted} in it{}: give a PEM file that has one", .path.display(), because(.reason))]
    Pem {
        /// The flag that names the file.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What it should hold.
        wanted: &'static str,
        /// What is wrong with what it holds; empty when it holds none.
        reason: String,
    },
    /// Certificate and key cannot be used together.
    #[error(
        "--tls-cert {} with --tls-key {}: {source}: give a certificate and the key that it is for",
        .cert.display(), .key.display()
    )]
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
    /// The authority cannot be used.
    #[error("--tls-client-ca {}: {reason}: give the certificate of an authority", .path.display())]
    ClientCa {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

fn because(reason: &str) -> String {
    if reason.is_empty() {
        String::new()
    } else {
        format!(" ({reason})")
    }
}

/// What TLS is served with at the moment.
struct Loaded {
    config: Arc<ServerConfig>,
    /// DNS names that the certificate is for.
    names: Vec<String>,
}

/// The certificate of the API, and who may connect. The files are looked at when somebody does:
/// one that was replaced takes effect for the next connection.
pub struct Certificates {
    files: Files,
    loaded: ArcSwap<Loaded>,
    seen: Mutex<Stamps>,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Certificates").field(&self.files).finish()
    }
}

impl Certificates {
    /// Reads the files.
    ///
    /// # Errors
    /// [`Error`] names the flag and file at fault.
    pub fn load(files: Files) -> Result<Self, Error> {
        // Looked at before they are read: what changes meanwhile is seen the next time.
        let seen = Stamps::of(&files);
        let loaded = load(&files)?;
        Ok(Self {
            files,
            loaded: ArcSwap::from_pointee(loaded),
            seen: Mutex::new(seen),
        })
    }

    /// Reads the files anew if they changed; what was read last stays when they are no good.
    /// Looks at the disk: not for the reactor.
    pub fn refresh(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Stamps::of(&self.files);
        if *seen == now {
            return;
        }
        *seen = now;
        match load(&self.files) {
            Ok(loaded) => {
                self.loaded.store(Arc::new(loaded));
                tracing::info!(cert = %self.files.cert.display(), "TLS: certificate read anew");
            }
            Err(error) => {
                tracing::warn!(%error, "TLS: changed files not taken, serving the ones before");
            }
        }
    }

    /// Takes handshakes with what was read last.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.loaded.load().config))
    }

    /// The name under which a client can check the certificate of the agent on a node: its first
    /// DNS name, of `*.suffix` that with the node in the star's place, else the address. All
    /// agents of a DaemonSet are taken to have certificates alike.
    pub fn server_name(&self, node: &str, ip: IpAddr) -> String {
        let loaded = self.loaded.load();
        match loaded
            .names
            .first()
            .map(|name| (name, name.strip_prefix("*.")))
        {
            // A star stands for one label.
            Some((_, Some(suffix))) => format!("{}.{suffix}", node.replace('.', "-")),
            Some((name, None)) => name.clone(),
            None => ip.to_string(),
        }
    }
}

/// What tells one state of a file from another: device, inode, change time, size.
type Stamp = Option<(u64, u64, i64, i64, u64)>;

#[derive(PartialEq, Eq)]
struct Stamps([Stamp; 3]);

impl Stamps {
    fn of(files: &Files) -> Self {
        let stamp = |of: Metadata| (of.dev(), of.ino(), of.ctime(), of.ctime_nsec(), of.size());
        let look = |path: &Path| std::fs::metadata(path).ok().map(stamp);
        let client_ca = files.client_ca.as_deref();
        Self([
            look(&files.cert),
            look(&files.key),
            client_ca.and_then(look),
        ])
    }
}

fn load(files: &Files) -> Result<Loaded, Error> {
    let provider = Arc::new(ring::default_provider());
    let chain = certificates(CERT, &files.cert)?;
    let names = names(&chain);
    let key = PrivateKeyDer::from_pem_slice(&read(KEY, &files.key)?)
        .map_err(|error| bad_pem(KEY, &files.key, "private key", &error))?;
    let pair = |source| Error::Pair {
        cert: files.cert.clone(),
        key: files.key.clone(),
        source,
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(pair)?;
    let builder = match &files.client_ca {
        Some(path) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots(path)?, provider);
            let verifier = verifier.build().map_err(|error| unusable(path, &error))?;
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(pair)?;
    config.alpn_protocols = vec![HTTP2.to_vec()];
    Ok(Loaded {
        config: Arc::new(config),
        names,
    })
}

fn roots(path: &Path) -> Result<Arc<RootCertStore>, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(CLIENT_CA, path)? {
        roots
            .add(certificate)
            .map_err(|error| unusable(path, &error))?;
    }
    Ok(Arc::new(roots))
}

fn unusable(path: &Path, error: &dyn std::error::Error) -> Error {
    Error::ClientCa {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

/// DNS names of the first certificate of a chain, which is the server's.
fn names(chain: &[CertificateDer<'_>]) -> Vec<String> {
    let parsed = chain.first().map(webpki::EndEntityCert::try_from);
    let Some(Ok(own)) = parsed else {
        return Vec::new();
    };
    own.valid_dns_names().map(str::to_owned).collect()
}

fn certificates(flag: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let text = read(flag, path)?;
    let all = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|error| bad_pem(flag, path, "certificate", &error))?;
    if all.is_empty() {
        return Err(bad_pem(
            flag,
            path,
            "certificate",
            &pem::Error::NoItemsFound,
        ));
    }
    Ok(all)
}

fn bad_pem(flag: &'static str, path: &Path, wanted: &'static str, error: &pem::Error) -> Error {
    Error::Pem {
        flag,
        path: path.to_owned(),
        wanted,
        reason: match error {
            pem::Error::NoItemsFound => String::new(),
            other => other.to_string(),
        },
    }
}

fn read(flag: &'static str, path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Read {
        flag,
        path: path.to_owned(),
        source,
    })
}
