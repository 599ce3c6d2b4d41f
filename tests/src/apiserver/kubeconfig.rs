//! The kubeconfig that kubectl and agents read.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::tls::SERVER_NAME;

/// A kubeconfig (YAML) for a server at a URL. With `https` it names the
/// authority, so that the server is verified whatever address it is reached at.
pub fn kubeconfig(server_url: &str, token: &str, authority: &str) -> String {
    let mut cluster = json!({"server": server_url});
    if server_url.starts_with("https:") {
        cluster["certificate-authority-data"] = STANDARD.encode(authority).into();
        cluster["tls-server-name"] = SERVER_NAME.into();
    }
    let config: Value = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": cluster}],
        "users": [{"name": "lab", "user": {"token": token}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        "current-context": "lab",
    });
    // A map of strings always has a YAML form; should it not, its JSON form is YAML as well.
    serde_yaml_ng::to_string(&config).unwrap_or_else(|_| config.to_string())
}
