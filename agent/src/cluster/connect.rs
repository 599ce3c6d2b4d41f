//! One client of the API: how long it waits for an answer, and the token that it shows.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderValue, Request};
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{AuthError, Body, ConfigExt as _};
use kube::config::AuthInfo;
use kube::{Client, Error};
use tower::{BoxError, ServiceBuilder};

/// How long the API server may take before it is taken to be away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Without a sign of life of the other side's kernel a connection is given up, also one on
    /// which nothing has to be said: whole seconds, six at least for all to be told apart.
    pub silence: Duration,
    /// A request has to be answered, if only by the beginning of an answer.
    pub answer: Duration,
}

impl Default for Patience {
    /// Clients of the project itself notice a dead connection after 30 to 45 seconds (client-go's
    /// HTTP/2 health check). The server ends requests after 60 seconds by itself
    /// (kube-apiserver's `--request-timeout`), so who waits for longer waits in vain.
    fn default() -> Self {
        Self {
            silence: Duration::from_secs(30),
            answer: Duration::from_secs(75),
        }
    }
}

/// A watch is asked to end after 290 s; whoever is silent for longer is not there.
const READ_TIMEOUT: Duration = Duration::from_secs(300);

/// A client with a configuration's server and user. Nothing is sent yet.
pub(super) fn connect(mut config: kube::Config, patience: Patience) -> Result<Client, Error> {
    if let Some(url) = config.proxy_url.take() {
        return Err(Error::ProxyProtocolUnsupported {
            proxy_url: Box::new(url),
        });
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    // The first question after half of the time, two more; and what was sent is not waited on for
    // longer than an answer to those.
    tcp.set_keepalive(Some(patience.silence / 2));
    tcp.set_keepalive_interval(Some(patience.silence / 6));
    tcp.set_keepalive_retries(Some(3));
    tcp.set_tcp_user_timeout(Some(patience.silence));
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp)?);
    connector.set_connect_timeout(Some(patience.silence / 3));
    connector.set_read_timeout(Some(READ_TIMEOUT));
    connector.set_write_timeout(Some(READ_TIMEOUT));
    connector.set_reset_reader_on_write(true);
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
    let token = Token::of(&mut config.auth_info)?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_request(move |mut request: Request<Body>| {
            let header = token.as_ref().and_then(|token| token.header());
            if let Some(header) = header {
                request.headers_mut().insert(AUTHORIZATION, header);
            }
            request
        })
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace))
}

/// A token in a file, which is read for each request: requests are few, and a token that was
/// rotated is in force at once.
#[derive(Clone)]
struct Token {
    path: PathBuf,
    last: Arc<Mutex<String>>,
}

impl Token {
    /// Takes the file over from the client library, which reads it once a minute, and as it is,
    /// with the end of its line; none where the user has no file or something that goes before it.
    fn of(auth: &mut AuthInfo) -> Result<Option<Self>, Error> {
        if auth.auth_provider.is_some() || auth.username.is_some() || auth.token.is_some() {
            return Ok(None);
        }
        let Some(path) = auth.token_file.take().map(PathBuf::from) else {
            return Ok(None);
        };
        match read(&path) {
            Ok(token) => Ok(Some(Self {
                path,
                last: Arc::new(Mutex::new(token)),
            })),
            Err(error) => Err(Error::Auth(AuthError::ReadTokenFile(error, path))),
        }
    }

    /// What the file says; what it said last where it cannot be read now.
    fn header(&self) -> Option<HeaderValue> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(token) = read(&self.path)
            && !token.is_empty()
        {
            *last = token;
        }
        let mut header = HeaderValue::try_from(format!("Bearer {last}")).ok()?;
        header.set_sensitive(true);
        Some(header)
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    Ok(std::fs::read_to_string(path)?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_whenever_it_is_shown() -> Result<(), Box<dyn std::error::Error>> {
        let file = tempfile::NamedTempFile::new()?;
        let path = file.path().to_owned();
        std::fs::write(&path, "one\n")?;
        let mut auth = AuthInfo::default();
        assert!(Token::of(&mut auth)?.is_none());
        auth.token_file = Some(path.display().to_string());
        let Some(token) = Token::of(&mut auth)? else {
            panic!("no token");
        };
        assert!(auth.token_file.is_none());
        let shown = || token.header().map(|header| header.as_bytes().to_vec());
        assert_eq!(shown().as_deref(), Some(&b"Bearer one"[..]));
        std::fs::write(&path, "two")?;
        assert_eq!(shown().as_deref(), Some(&b"Bearer two"[..]));
        // Half written, and gone.
        std::fs::write(&path, "")?;
        assert_eq!(shown().as_deref(), Some(&b"Bearer two"[..]));
        drop(file);
        assert_eq!(shown().as_deref(), Some(&b"Bearer two"[..]));
        auth.token_file = Some(path.display().to_string());
        let Err(error) = Token::of(&mut auth) else {
            panic!("a token out of nothing");
        };
        assert!(super::super::config::reason(&error).contains(&*path.to_string_lossy()));
        Ok(())
    }
}
