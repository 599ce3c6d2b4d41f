//! Requests to HTTP servers inside a namespace.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

use super::netns::Netns;

/// How long a server may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

impl Netns {
    /// GETs `path` of the server at `to`: status and body.
    pub fn http(&self, to: SocketAddr, path: &str) -> Result<(u16, String)> {
        let mut stream =
            self.enter(|| TcpStream::connect_timeout(&to, Duration::from_secs(1)))??;
        stream.set_read_timeout(Some(TIMEOUT))?;
        // HTTP/1.0: the answer ends with the connection, and is not chunked.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {to}\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Ok((status.context("no HTTP status")?, body.to_owned()))
    }
}
