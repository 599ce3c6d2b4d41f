//! Whether the agent's DaemonSet is still there.

use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use kube::Api;

use super::client::client;
use super::config::{Config, Error};
use super::failure::failure;

/// How long a stopping agent waits for the answer: a fraction of the time that the kubelet gives it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether nodescope is being uninstalled: its DaemonSet is gone or about to go, or the rights to
/// ask for it are. Who cannot tell says no: what stays behind can be removed later, and counts that
/// are gone are gone.
///
/// # Errors
/// As [`super::start`], for a kubeconfig that is none.
pub async fn is_uninstalled(config: &Config, namespace: &str, name: &str) -> Result<bool, Error> {
    let Some(client) = client(config).await? else {
        return Ok(false);
    };
    let daemonsets: Api<DaemonSet> = Api::namespaced(client, namespace);
    let answer = tokio::time::timeout(PATIENCE, daemonsets.get_metadata(name)).await;
    let unknown = |reason: &dyn std::fmt::Display| {
        tracing::warn!(
            %namespace, %name, %reason,
            "whether the DaemonSet is still there is not known: programs and tables stay"
        );
    };
    Ok(match answer {
        Ok(Ok(found)) => found.metadata.deletion_timestamp.is_some(),
        // `kubectl delete -k` removes the account and its rights with the rest.
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 401 | 403 | 404) => true,
        Ok(Err(error)) => {
            unknown(&failure(&error));
            false
        }
        Err(_) => {
            unknown(&"the API does not answer");
            false
        }
    })
}
