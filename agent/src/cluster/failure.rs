//! What went wrong with a request to the API, in a line that names the thing at fault.

use std::error::Error;

use kube::core::Status;

use super::config::reason;

/// What rustls says before why it does not take a certificate.
const CERTIFICATE: &str = "invalid peer certificate: ";

/// Why a request failed, on one line.
pub(super) fn failure(error: &(dyn Error + 'static)) -> String {
    let mut cause = Some(error);
    while let Some(one) = cause {
        let status = match one.downcast_ref::<kube::Error>() {
            Some(kube::Error::Api(status)) => Some(status),
            _ => one.downcast_ref::<Box<Status>>(),
        };
        if let Some(status) = status {
            return answered(status);
        }
        cause = one.source();
    }
    let text = reason(error);
    match text.split_once(CERTIFICATE) {
        Some((_, why)) => certificate(why),
        None => text,
    }
}

fn answered(status: &Status) -> String {
    let message = status.message.lines().next().unwrap_or_default();
    let mend = match status.code {
        401 => ": the token or certificate that the agent shows is not taken, or no longer",
        _ => "",
    };
    let (code, reason) = (status.code, status.reason.as_str());
    if message.is_empty() || message == reason {
        return format!("the API server answers {code} {reason}{mend}");
    }
    format!("the API server answers {code} {reason}: {message}{mend}")
}

fn certificate(why: &str) -> String {
    let mend = if why.contains("expired") || why.contains("not valid yet") {
        ": renew it, or set this node's clock"
    } else if why.contains("UnknownIssuer") || why.contains("BadSignature") {
        ": its authority is not the one in the kubeconfig or service account"
    } else {
        ""
    };
    // What follows are moments in seconds.
    let why = why.split(": verification time").next().unwrap_or(why);
    format!("the API server's certificate is not taken: {why}{mend}")
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher;

    use super::*;

    #[test]
    fn answers_are_told_by_code_and_message() {
        let status = |code, message: &str, reason: &str| {
            let status = Status::failure(message, reason).with_code(code);
            watcher::Error::InitialListFailed(kube::Error::Api(Box::new(status)))
        };
        assert_eq!(
            failure(&status(
                403,
                "pods is forbidden: User \"a\"\nmore",
                "Forbidden"
            )),
            "the API server answers 403 Forbidden: pods is forbidden: User \"a\""
        );
        let refused = failure(&status(401, "Unauthorized", "Unauthorized"));
        assert_eq!(
            refused,
            "the API server answers 401 Unauthorized: the token or certificate that the agent \
             shows is not taken, or no longer"
        );
        let status = Status::failure("too old", "Expired").with_code(410);
        assert_eq!(
            failure(&watcher::Error::WatchError(Box::new(status))),
            "the API server answers 410 Expired: too old"
        );
    }

    #[test]
    fn a_certificate_is_named_with_its_mend() {
        let said = |why: &str| {
            let inner = std::io::Error::other(format!("{CERTIFICATE}{why}"));
            let error = kube::Error::Service(Box::new(inner));
            failure(&watcher::Error::InitialListFailed(error))
        };
        let expired = said("certificate expired: verification time 2 (UNIX)");
        assert_eq!(
            expired,
            "the API server's certificate is not taken: certificate expired: renew it, or set this \
             node's clock"
        );
        assert!(said("UnknownIssuer").ends_with("service account"));
    }
}
