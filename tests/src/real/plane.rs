//! The real control plane as a lab uses it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use ipnet::Ipv4Net;
use serde::Deserialize;
use serde_json::{Value, json};

use super::assets::Assets;
use super::client::{ApiClient, collection};
use super::kubelet::Kubelet;
use super::plugin::PluginRules;
use super::pool::Keeper;
use super::proxy::Proxies;
use crate::apiserver::kinds;
use crate::lab::Netns;
use crate::lab::control_plane::{ControlPlane, Who};

/// The namespace and service account of the agent, as `deploy/` has them.
const AGENT: (&str, &str) = ("nodescope", "nodescope");

/// Kinds of `deploy/` that live in no namespace.
const CLUSTER_WIDE: [&str; 3] = ["Namespace", "ClusterRole", "ClusterRoleBinding"];

/// The minor version of Kubernetes 1 whose API server takes gRPC probes in pods.
const GRPC_PROBES_SINCE: u32 = 23;

/// Kinds whose `spec` stays as it is: of a pod almost everything, of a node its pod CIDR.
const FIXED: [&str; 2] = ["Pod", "Node"];

/// How long the agent's token is good for: longer than any lab.
const TOKEN_SECONDS: u32 = 24 * 3600;

/// A control plane that one lab has to itself.
pub struct RealControlPlane {
    // None only while it is dropped.
    keeper: Option<Keeper>,
    admin: ApiClient,
    agent_token: String,
    /// Whether pods may have probes by gRPC.
    grpc_probes: bool,
    /// Objects as they were last written, by path: the same again is not written again.
    written: Mutex<HashMap<String, Value>>,
    proxies: Proxies,
    plugin_rules: PluginRules,
    kubelets: Mutex<HashMap<Ipv4Addr, Kubelet>>,
}

impl RealControlPlane {
    /// Takes one with ClusterIPs of `services`, or starts it, and gives the agent the rights of `deploy/`.
    ///
    /// # Errors
    /// `KUBEBUILDER_ASSETS` is not set or its folder lacks a program, or a server does not start.
    pub fn take(services: Ipv4Net) -> Result<Self> {
        let assets = Assets::required()?;
        let keeper = Keeper::take(services)?;
        let admin = keeper.admin()?;
        for object in deployed_rights()? {
            admin.apply(object)?;
        }
        let agent_token = agent_token(&admin)?;
        let grpc_probes = minor_version(&admin)? >= GRPC_PROBES_SINCE;
        Ok(Self {
            keeper: Some(keeper),
            admin,
            agent_token,
            grpc_probes,
            written: Mutex::new(HashMap::new()),
            proxies: Proxies::new(assets.proxy),
            plugin_rules: PluginRules::default(),
            kubelets: Mutex::default(),
        })
    }

    /// A client that may do everything.
    pub fn admin(&self) -> &ApiClient {
        &self.admin
    }

    /// What the agent has asked the API server for until now, as verb, API group and resource.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn asked_by_agent(&self) -> Result<BTreeSet<(String, String, String)>> {
        let path = &self.keeper()?.announcement.audit;
        let text =
            std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        // The last line may be half written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut asked = BTreeSet::new();
        for line in whole.lines() {
            let event: Value = serde_json::from_str(line).context(path.display().to_string())?;
            let object = &event["objectRef"];
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            asked.insert((
                text(&event["verb"]),
                text(&object["apiGroup"]),
                text(&object["resource"]),
            ));
        }
        Ok(asked)
    }

    /// Takes the agent's account away, and with it every token that it had, and makes it anew: a
    /// token of that one.
    ///
    /// # Errors
    /// What the API server refuses.
    pub fn renew_agent_token(&self) -> Result<String> {
        let (namespace, name) = AGENT;
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}");
        self.admin.delete(&path)?;
        for object in deployed_rights()? {
            self.admin.apply(object)?;
        }
        agent_token(&self.admin)
    }

    /// Whether its API server takes gRPC probes in pods: where not, nobody learns of them.
    pub fn takes_grpc_probes(&self) -> bool {
        self.grpc_probes
    }

    /// The kube-proxies.
    pub(crate) fn proxies(&self) -> &Proxies {
        &self.proxies
    }

    /// The network plugin's rules on the nodes.
    pub(crate) fn plugin_rules(&self) -> &PluginRules {
        &self.plugin_rules
    }

    /// Lets the API server forward ports of pods on a node's network.
    ///
    /// # Errors
    /// The node's address cannot be listened on where the API server is.
    pub(crate) fn start_kubelet(&self, address: Ipv4Addr, node: Netns) -> Result<()> {
        let mut kubelets = self.kubelets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Vacant(free) = kubelets.entry(address) {
            free.insert(Kubelet::start(&self.keeper()?.control(), address, node)?);
        }
        Ok(())
    }

    fn keeper(&self) -> Result<&Keeper> {
        self.keeper.as_ref().context("the control plane is gone")
    }

    fn lock_written(&self) -> MutexGuard<'_, HashMap<String, Value>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The path of an object by its kind, as [`kinds::by_name`] takes it.
fn path_of_named(kind: &str, namespace: &str, name: &str) -> Result<String> {
    let kind = kinds::by_name(kind).with_context(|| format!("the lab knows no kind '{kind}'"))?;
    let namespace = Some(namespace).filter(|namespace| !namespace.is_empty());
    let collection = collection(&kind.api_version(), kind.kind, namespace);
    Ok(format!("{collection}/{name}"))
}

impl ControlPlane for RealControlPlane {
    fn apply(&self, mut object: Value) -> Result<()> {
        if object["kind"] == "Pod" && !self.grpc_probes {
            remove_grpc_probes(&mut object);
        }
        let path = super::client::path_of(&object)?;
        let before = self.lock_written().insert(path.clone(), object.clone());
        if before.as_ref() == Some(&object) {
            return Ok(());
        }
        // What a server lets nobody change is another object in the place of the first.
        let fixed = FIXED.iter().any(|kind| object["kind"] == *kind);
        if fixed && before.is_some_and(|before| before["spec"] != object["spec"]) {
            self.admin.delete(&path)?;
        }
        self.admin
            .apply(object)
            .with_context(|| format!("telling the API server of {path}"))
    }

    fn written(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let path = path_of_named(kind, namespace, name).ok()?;
        self.lock_written().get(&path).cloned()
    }

    fn delete(&self, kind: &str, namespace: &str, name: &str) -> Result<()> {
        let path = path_of_named(kind, namespace, name)?;
        self.lock_written().remove(&path);
        self.admin
            .delete(&path)
            .with_context(|| format!("removing {path} from the API server"))
    }

    fn address(&self) -> Result<SocketAddr> {
        Ok(self.keeper()?.announcement.address)
    }

    fn kubeconfig(&self, url: &str, who: Who) -> Result<String> {
        let credentials = &self.keeper()?.announcement.credentials;
        let token = match who {
            Who::Admin => &credentials.admin,
            Who::Agent => &self.agent_token,
            Who::Proxy => &credentials.proxy,
        };
        Ok(credentials.kubeconfig(url, token))
    }

    fn real(&self) -> Option<&RealControlPlane> {
        Some(self)
    }
}

impl Drop for RealControlPlane {
    fn drop(&mut self) {
        self.proxies.stop();
        let kubelets = self.kubelets.get_mut();
        kubelets.unwrap_or_else(PoisonError::into_inner).clear();
        if let Some(keeper) = self.keeper.take() {
            keeper.give_back();
        }
    }
}

/// The objects of `deploy/` that give the agent its rights, in the namespace that its
/// kustomization puts them in.
fn deployed_rights() -> Result<Vec<Value>> {
    let mut objects = Vec::new();
    for file in ["base/namespace.yaml", "base/rbac.yaml"] {
        let path = crate::deployed::folder().join(file);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("reading {}", path.display()))?;
        for document in serde_yaml_ng::Deserializer::from_str(&text) {
            let mut object = Value::deserialize(document)
                .with_context(|| format!("reading {}", path.display()))?;
            let kind = object["kind"].as_str().unwrap_or_default();
            // As the kustomization does: what names a namespace of its own keeps it.
            if !CLUSTER_WIDE.contains(&kind) && object["metadata"]["namespace"].is_null() {
                object["metadata"]["namespace"] = json!(AGENT.0);
            }
            objects.push(object);
        }
    }
    Ok(objects)
}

/// The 20 of Kubernetes 1.20.
fn minor_version(admin: &ApiClient) -> Result<u32> {
    let version = admin.get("/version")?.context("no version")?;
    let minor = version["minor"].as_str().unwrap_or_default();
    let digits = minor.trim_end_matches(|c: char| !c.is_ascii_digit());
    digits
        .parse()
        .with_context(|| format!("the API server's version: {version}"))
}

/// An older API server knows no gRPC, and refuses a probe that asks nothing. The kubelet's
/// stand-in probes all the same.
fn remove_grpc_probes(pod: &mut Value) {
    let containers = pod["spec"]["containers"].as_array_mut();
    for container in containers.into_iter().flatten() {
        if let Some(container) = container.as_object_mut() {
            container.retain(|field, value| !field.ends_with("Probe") || value["grpc"].is_null());
        }
    }
}

/// A token of the agent's service account, as the kubelet asks for one.
fn agent_token(admin: &ApiClient) -> Result<String> {
    let (namespace, name) = AGENT;
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"expirationSeconds": TOKEN_SECONDS},
    });
    let answer = admin.post(&path, &request)?;
    let token = answer["status"]["token"].as_str();
    Ok(token.context("the API server gave no token")?.to_owned())
}
