//! TLS to agents on the network.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

/// How agents on TCP are spoken to; the names are those of the `hubble` client.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "TLS to agents")]
pub struct Tls {
    /// Speak TLS with agents on TCP
    #[arg(long = "tls", env = "NODESCOPE_TLS", value_name = "BOOL",
          num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value_t = false, hide_default_value = true)]
    pub enabled: bool,
    /// Authorities that sign the agents' certificates (PEM) [default: those of this machine]
    #[arg(
        long = "tls-ca-cert-files",
        value_name = "FILE",
        value_delimiter = ',',
        requires = "enabled"
    )]
    pub authorities: Vec<PathBuf>,
    /// Certificate to show to agents that ask for one (PEM)
    #[arg(
        long = "tls-client-cert-file",
        value_name = "FILE",
        requires_all = ["enabled", "key"]
    )]
    pub cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(
        long = "tls-client-key-file",
        value_name = "FILE",
        requires_all = ["enabled", "cert"]
    )]
    pub key: Option<PathBuf>,
    /// Name that the agents' certificates are for [default: the host of --server]
    #[arg(long = "tls-server-name", value_name = "NAME", requires = "enabled")]
    pub server_name: Option<String>,
}

impl Tls {
    /// What a connection takes; `None` for plain text.
    ///
    /// # Errors
    /// When a file cannot be read or is no PEM; it is named.
    pub fn config(&self) -> anyhow::Result<Option<ClientTlsConfig>> {
        if !self.enabled {
            return Ok(None);
        }
        let mut config = ClientTlsConfig::new();
        if self.authorities.is_empty() {
            config = config.with_native_roots();
        }
        for path in &self.authorities {
            let pem = read("--tls-ca-cert-files", path, "CERTIFICATE")?;
            config = config.ca_certificate(Certificate::from_pem(pem));
        }
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            let cert = read("--tls-client-cert-file", cert, "CERTIFICATE")?;
            let key = read("--tls-client-key-file", key, "PRIVATE KEY")?;
            config = config.identity(Identity::from_pem(cert, key));
        }
        if let Some(name) = &self.server_name {
            config = config.domain_name(name);
        }
        Ok(Some(config))
    }
}

/// A PEM file that has a section of this kind.
fn read(flag: &str, path: &Path, section: &str) -> anyhow::Result<String> {
    let named = || format!("{flag} {}", path.display());
    let pem = std::fs::read_to_string(path).with_context(named)?;
    let begins = |line: &str| line.starts_with("-----BEGIN ") && line.contains(section);
    anyhow::ensure!(
        pem.lines().any(begins),
        "{}: no {section} in it: give a PEM file that has one",
        named()
    );
    Ok(pem)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use nodescope_tests::pki::Authority;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        tls: Tls,
    }

    fn parse(words: &[&str]) -> Result<Tls, clap::Error> {
        let words = [&["nodescope"], words].concat();
        Line::try_parse_from(words).map(|line| line.tls)
    }

    #[test]
    fn files_go_with_tls_and_a_certificate_with_its_key() {
        for good in [
            &[][..],
            &["--tls"],
            &["--tls", "--tls-server-name", "a.b"],
            &[
                "--tls",
                "--tls-client-cert-file",
                "a",
                "--tls-client-key-file",
                "b",
            ],
        ] {
            assert!(parse(good).is_ok(), "{good:?}");
        }
        for bad in [
            &["--tls-ca-cert-files", "a"][..],
            &["--tls-server-name", "a.b"],
            &["--tls", "--tls-client-cert-file", "a"],
            &["--tls", "--tls-client-key-file", "b"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_bad_file_is_named_with_its_flag() -> anyhow::Result<()> {
        let directory = tempfile::tempdir()?;
        let issued = Authority::new("one")?.issue(&["a.b"])?;
        let cert = directory.path().join("cert").display().to_string();
        let key = directory.path().join("key").display().to_string();
        std::fs::write(&cert, &issued.cert)?;
        std::fs::write(&key, &issued.key)?;
        assert!(parse(&[])?.config()?.is_none());
        let good = [
            "--tls",
            "--tls-client-cert-file",
            &cert,
            "--tls-client-key-file",
            &key,
        ];
        assert!(parse(&good)?.config()?.is_some());
        for (words, flag) in [
            (
                ["--tls", "--tls-ca-cert-files", &key],
                "--tls-ca-cert-files",
            ),
            (
                ["--tls", "--tls-ca-cert-files", "/none"],
                "--tls-ca-cert-files",
            ),
        ] {
            let Err(error) = parse(&words)?.config() else {
                panic!("taken: {words:?}");
            };
            let said = format!("{error:#}");
            assert!(said.contains(flag) && said.contains(words[2]), "{said}");
        }
        let swapped = [
            "--tls",
            "--tls-client-cert-file",
            &key,
            "--tls-client-key-file",
            &cert,
        ];
        assert!(parse(&swapped)?.config().is_err());
        Ok(())
    }
}
