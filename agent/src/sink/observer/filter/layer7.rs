//! Tests on the protocol, and on what only application-layer records have.

use regex::Regex;

use super::{Error, Test, any};
use crate::sink::proto::flow::{Dns, Flow, Http, layer4, layer7};

/// A protocol that can be asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Tcp,
    Udp,
    Icmp,
    IcmpV4,
    IcmpV6,
    Sctp,
    Dns,
    Http,
}

/// Protocol name, in any case.
pub(super) fn protocol(values: &[String]) -> Result<Option<Test>, Error> {
    const WANTED: &str = "a protocol (tcp, udp, icmp, icmpv4, icmpv6, sctp, dns, http)";
    let parse = |value: &String| {
        Ok(match value.to_ascii_lowercase().as_str() {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "icmp" => Protocol::Icmp,
            "icmpv4" => Protocol::IcmpV4,
            "icmpv6" => Protocol::IcmpV6,
            "sctp" => Protocol::Sctp,
            "dns" => Protocol::Dns,
            "http" => Protocol::Http,
            _ => return Err(Error::new("protocol", value, WANTED)),
        })
    };
    let protocols = values.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    Ok(any(protocols, |view, wanted| is(view.flow, *wanted)))
}

fn is(flow: &Flow, wanted: Protocol) -> bool {
    use layer4::Protocol as L4;
    let found = flow.l4.as_ref().and_then(|l4| l4.protocol.as_ref());
    match wanted {
        Protocol::Tcp => matches!(found, Some(L4::Tcp(_))),
        Protocol::Udp => matches!(found, Some(L4::Udp(_))),
        Protocol::Icmp => matches!(found, Some(L4::IcmPv4(_) | L4::IcmPv6(_))),
        Protocol::IcmpV4 => matches!(found, Some(L4::IcmPv4(_))),
        Protocol::IcmpV6 => matches!(found, Some(L4::IcmPv6(_))),
        Protocol::Sctp => matches!(found, Some(L4::Sctp(_))),
        Protocol::Dns => dns(flow).is_some(),
        Protocol::Http => http(flow).is_some(),
    }
}

fn record(flow: &Flow) -> Option<&layer7::Record> {
    flow.l7.as_ref()?.record.as_ref()
}

fn http(flow: &Flow) -> Option<&Http> {
    match record(flow)? {
        layer7::Record::Http(http) => Some(http),
        layer7::Record::Dns(_) => None,
    }
}

fn dns(flow: &Flow) -> Option<&Dns> {
    match record(flow)? {
        layer7::Record::Dns(dns) => Some(dns),
        layer7::Record::Http(_) => None,
    }
}

/// HTTP status code: `404`, or `4+` for all that begin so.
pub(super) fn status(values: &[String]) -> Result<Option<Test>, Error> {
    let parse = |value: &String| {
        let digits = value.strip_suffix('+').unwrap_or(value);
        let valid = (1..=3).contains(&digits.len())
            && digits.bytes().all(|byte| byte.is_ascii_digit())
            && (digits.len() == 3 || value.ends_with('+'));
        valid
            .then(|| digits.to_owned())
            .ok_or_else(|| Error::new("http_status_code", value, "an HTTP status (404, 4+)"))
    };
    let codes = values.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    Ok(any(codes, |view, code| {
        http(view.flow)
            .is_some_and(|http| http.code != 0 && http.code.to_string().starts_with(code))
    }))
}

/// HTTP method, in any case.
pub(super) fn method(values: Vec<String>) -> Option<Test> {
    any(values, |view, method| {
        http(view.flow).is_some_and(|http| http.method.eq_ignore_ascii_case(method))
    })
}

/// HTTP path, a regular expression.
pub(super) fn path(values: &[String]) -> Result<Option<Test>, Error> {
    Ok(any(patterns("http_path", values)?, |view, pattern| {
        http(view.flow).is_some_and(|http| pattern.is_match(path_of(&http.url)))
    }))
}

/// The path of a URL that may lack scheme and host.
fn path_of(url: &str) -> &str {
    let after_host = match url.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("", |slash| &rest[slash..]),
        None => url,
    };
    after_host.split(['?', '#']).next().unwrap_or_default()
}

/// HTTP URL, a regular expression.
pub(super) fn url(values: &[String]) -> Result<Option<Test>, Error> {
    Ok(any(patterns("http_url", values)?, |view, pattern| {
        http(view.flow).is_some_and(|http| pattern.is_match(&http.url))
    }))
}

/// DNS query, a regular expression.
pub(super) fn dns_query(values: &[String]) -> Result<Option<Test>, Error> {
    Ok(any(patterns("dns_query", values)?, |view, pattern| {
        dns(view.flow).is_some_and(|dns| pattern.is_match(&dns.query))
    }))
}

fn patterns(field: &'static str, values: &[String]) -> Result<Vec<Regex>, Error> {
    let compile = |value: &String| {
        Regex::new(value).map_err(|_| Error::new(field, value, "a regular expression"))
    };
    values.iter().map(compile).collect()
}
