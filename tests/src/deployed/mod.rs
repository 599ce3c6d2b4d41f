//! What `deploy/` installs, as kustomize renders it: so that tests run what users apply, and
//! nothing of it is written twice.

mod container;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize as _;
use serde_json::Value;

pub use container::{Image, PodAgent};

/// The kustomize inside older ones knows no `labels`.
const OLDEST_KUBECTL: u32 = 22;

/// Objects that an installation consists of.
#[derive(Clone, Debug)]
pub struct Deployed(Vec<Value>);

/// The folder `deploy` of this source tree.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

impl Deployed {
    /// Renders a folder of `deploy/`, the whole one if `overlay` is empty; none, said why, where
    /// kubectl cannot.
    ///
    /// # Errors
    /// There is no kubectl, or it refuses the folder.
    pub fn render(overlay: &str) -> Result<Option<Self>> {
        let minor = kubectl_minor()?;
        if minor < OLDEST_KUBECTL {
            println!("skipped: kubectl 1.{minor} cannot read deploy/kustomization.yaml");
            return Ok(None);
        }
        let folder = folder().join(overlay);
        let text = run(Command::new("kubectl").arg("kustomize").arg(&folder))?;
        let documents = serde_yaml_ng::Deserializer::from_str(&text);
        let objects = documents.map(Value::deserialize);
        Ok(Some(Self(objects.collect::<Result<_, _>>()?)))
    }

    /// All of them.
    pub fn objects(&self) -> &[Value] {
        &self.0
    }

    /// Those of a kind.
    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.0.iter().filter(move |object| object["kind"] == kind)
    }

    /// The agent's pods, as the DaemonSet describes them.
    ///
    /// # Errors
    /// There is no DaemonSet.
    pub fn pod(&self) -> Result<PodTemplate> {
        let daemonset = self.of_kind("DaemonSet").next().context("no DaemonSet")?;
        let spec = daemonset["spec"]["template"]["spec"].clone();
        let containers = spec["containers"].as_array().map_or(0, Vec::len);
        ensure!(containers == 1, "{containers} containers in a pod");
        let maps = self.of_kind("ConfigMap").cloned().collect();
        Ok(PodTemplate { spec, maps })
    }
}

/// A pod of the agent.
#[derive(Clone, Debug)]
pub struct PodTemplate {
    /// Its `spec`.
    pub spec: Value,
    /// ConfigMaps that it may mount.
    maps: Vec<Value>,
}

impl PodTemplate {
    /// The agent's container.
    pub fn container(&self) -> &Value {
        &self.spec["containers"][0]
    }

    /// What of root's rights it has, such as `NET_ADMIN`.
    pub fn capabilities(&self) -> Vec<&str> {
        texts(&self.container()["securityContext"]["capabilities"]["add"])
    }
}

/// What leaves a command these of root's rights and takes all others, for good (setpriv(1)).
pub fn with_only(capabilities: &[&str]) -> Vec<String> {
    let lower = capabilities.iter().map(|one| one.to_lowercase());
    let set = lower.fold("-all".to_owned(), |set, one| format!("{set},+{one}"));
    vec![
        "setpriv".to_owned(),
        "--no-new-privs".to_owned(),
        format!("--inh-caps={set}"),
        format!("--bounding-set={set}"),
    ]
}

/// What leaves a command the rights that the DaemonSet gives the agent, as its file says.
///
/// # Errors
/// The file cannot be read, or gives none.
pub fn as_deployed() -> Result<Vec<String>> {
    static RIGHTS: OnceLock<Vec<String>> = OnceLock::new();
    if let Some(rights) = RIGHTS.get() {
        return Ok(rights.clone());
    }
    let path = folder().join("base/daemonset.yaml");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let daemonset: Value = serde_yaml_ng::from_str(&text)?;
    let pod = Deployed(vec![daemonset]).pod()?;
    let capabilities = pod.capabilities();
    ensure!(!capabilities.is_empty(), "{}: no rights", path.display());
    Ok(RIGHTS.get_or_init(|| with_only(&capabilities)).clone())
}

/// The texts of a list.
pub fn texts(list: &Value) -> Vec<&str> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(Value::as_str).collect()
}

fn kubectl_minor() -> Result<u32> {
    let text = run(Command::new("kubectl").args(["version", "--client", "-o", "json"]))?;
    let version: Value = serde_json::from_str(&text)?;
    let minor = version["clientVersion"]["minor"].as_str().unwrap_or("0");
    Ok(minor.trim_end_matches('+').parse()?)
}

/// What a command prints.
fn run(command: &mut Command) -> Result<String> {
    let what = format!("{command:?}");
    let output = command
        .output()
        .with_context(|| format!("running {what}"))?;
    if !output.status.success() {
        bail!("{what}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}
