//! Who may talk to the API server, and how they know that it is the one.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use data_encoding::HEXLOWER;
use rcgen::KeyPair;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use crate::apiserver::kubeconfig::kubeconfig;
use crate::apiserver::tls::Certificate;

/// What clients need to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Credentials {
    /// The authority's certificate, PEM.
    pub authority: String,
    /// The token of a member of `system:masters`.
    pub admin: String,
    /// The token of the user `system:kube-proxy`, whose rights every API server knows.
    pub proxy: String,
}

/// Files that the servers read.
#[derive(Debug)]
pub struct Files {
    /// The server's certificate, PEM.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The key that signs the tokens of service accounts.
    pub account_key: PathBuf,
    /// Its public half.
    pub account_public_key: PathBuf,
    /// Tokens and whose they are.
    pub tokens: PathBuf,
}

impl Credentials {
    /// Makes new ones, and the servers' files in `dir`.
    pub fn make(dir: &Path) -> Result<(Self, Files)> {
        let server = Certificate::make("127.0.0.1")?;
        let account = KeyPair::generate()?;
        let credentials = Self {
            authority: server.authority,
            admin: token()?,
            proxy: token()?,
        };
        let tokens = format!(
            "{},nodescope-lab,admin,\"system:masters\"\n{},system:kube-proxy,kube-proxy\n",
            credentials.admin, credentials.proxy
        );
        let write = |name: &str, text: &str| -> Result<PathBuf> {
            let path = dir.join(name);
            std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
            Ok(path)
        };
        let files = Files {
            certificate: write("apiserver.crt", &server.certificate.pem())?,
            key: write("apiserver.key", &server.key.serialize_pem())?,
            account_key: write("accounts.key", &account.serialize_pem())?,
            account_public_key: write("accounts.pub", &account.public_key_pem())?,
            tokens: write("tokens.csv", &tokens)?,
        };
        Ok((credentials, files))
    }

    /// A kubeconfig with `token` for the server at `url`.
    pub fn kubeconfig(&self, url: &str, token: &str) -> String {
        kubeconfig(url, token, &self.authority)
    }
}

/// 128 random bits: the machine's other users reach the relay's port as well.
fn token() -> Result<String> {
    let mut bytes = [0; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .ok()
        .context("the system gives no random numbers")?;
    Ok(HEXLOWER.encode(&bytes))
}
