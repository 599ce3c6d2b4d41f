//! The server through the kubectl found on PATH.

use std::process::{Output, Stdio};

use nodescope_tests::apiserver::ApiServer;
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::support::{TOKEN, cluster, soon};

/// kubectl with a kubeconfig and a home of its own.
struct Kubectl {
    home: TempDir,
}

impl Kubectl {
    /// None, and a line that says so, where there is no kubectl.
    async fn new(kubeconfig: &str) -> Option<Self> {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("kubeconfig"), kubeconfig).unwrap();
        let kubectl = Self { home };
        match kubectl.command("version --client").output().await {
            Ok(_) => Some(kubectl),
            Err(e) => {
                println!("skipped: cannot run kubectl: {e}");
                None
            }
        }
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new("kubectl");
        command
            .args(arguments.split_whitespace())
            .env("HOME", self.home.path())
            .env("KUBECONFIG", self.home.path().join("kubeconfig"))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    async fn output(&self, arguments: &str) -> Output {
        soon(arguments, self.command(arguments).output())
            .await
            .unwrap()
    }

    /// What it printed, a line each, the columns apart.
    async fn rows(&self, arguments: &str) -> Vec<Vec<String>> {
        let output = self.output(arguments).await;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {arguments}: {errors}");
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(columns)
            .collect()
    }
}

/// Columns are set apart by two blanks or more; headings have single ones inside.
fn columns(line: &str) -> Vec<String> {
    line.split("  ")
        .map(str::trim)
        .filter(|c| !c.is_empty())
        .map(str::to_owned)
        .collect()
}

async fn start() -> Option<(ApiServer, Kubectl)> {
    let server = cluster();
    let kubectl = Kubectl::new(&server.kubeconfig(&server.url())).await?;
    Some((server, kubectl))
}

/// Rows without their AGE column.
fn ageless(mut rows: Vec<Vec<String>>) -> Vec<Vec<String>> {
    let at = rows[0].iter().position(|c| c == "AGE").unwrap();
    for row in rows.iter_mut().filter(|r| r.len() > at) {
        row.remove(at);
    }
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn get_pods_wide() {
    let Some((_server, kubectl)) = start().await else {
        return;
    };
    let rows = ageless(kubectl.rows("get pods -A -o wide").await);
    let expected = [
        "NAMESPACE  NAME  READY  STATUS  RESTARTS  IP  NODE  NOMINATED NODE  READINESS GATES",
        "default  web-1  1/1  Running  0  10.244.0.4  node-1  <none>  <none>",
        "default  web-2  0/1  Running  0  10.244.1.4  node-2  <none>  <none>",
        "kube-system  coredns  0/1  Running  0  10.244.0.5  node-1  <none>  <none>",
    ];
    assert_eq!(rows, expected.map(columns));
    let chunked = kubectl
        .rows("get pods -A --chunk-size=1 --no-headers")
        .await;
    assert_eq!(chunked.len(), 3);
    let selected = "get pods -A -l app=web --field-selector spec.nodeName=node-2 -o name";
    assert_eq!(kubectl.rows(selected).await, [["pod/web-2"]]);
    let ip = "get pod web-1 -o jsonpath={.status.podIP}";
    assert_eq!(kubectl.rows(ip).await, [["10.244.0.4"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn get_services_and_nodes() {
    let Some((_server, kubectl)) = start().await else {
        return;
    };
    let rows = kubectl.rows("get svc,nodes").await;
    let blank = rows.iter().position(Vec::is_empty).unwrap();
    let expected = [
        "NAME  TYPE  CLUSTER-IP  EXTERNAL-IP  PORT(S)",
        "service/web  ClusterIP  10.0.0.10  <none>  80/TCP",
    ];
    assert_eq!(ageless(rows[..blank].to_vec()), expected.map(columns));
    let expected = [
        "NAME  STATUS  ROLES  VERSION",
        "node/node-1  Ready  agent  v1.32.4",
    ];
    assert_eq!(ageless(rows[blank + 1..].to_vec()), expected.map(columns));
    let wide = kubectl.rows("get nodes -o wide --no-headers").await;
    assert_eq!(
        wide[0][5..],
        [
            "10.224.0.4",
            "<none>",
            "Ubuntu",
            "6.1.0",
            "containerd://2.0"
        ]
    );
    let wide = kubectl.rows("get svc -o wide --no-headers").await;
    assert_eq!(wide[0].last().unwrap(), "app=web");
    for others in [
        "ns",
        "cm",
        "ep",
        "endpointslices",
        "netpol",
        "deploy",
        "ds",
        "rs",
        "all",
    ] {
        kubectl.rows(&format!("get {others} -A")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn get_pods_watch_sees_changes() {
    let Some((server, kubectl)) = start().await else {
        return;
    };
    let mut command = kubectl.command("get pods -w");
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    soon(
        "a watch",
        server
            .counters()
            .wait_until(|c| c.open_watches("pods") == 1),
    )
    .await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "late"},
                     "spec": {"containers": [{"name": "c"}]}});
    server.store().apply(pod).unwrap();
    let label = kubectl.rows("label pod web-2 seen=yes").await;
    assert_eq!(label, [["pod/web-2 labeled"]]);
    let mut seen = Vec::new();
    while seen.len() < 5 {
        let line = soon("a line", lines.next_line()).await.unwrap().unwrap();
        seen.push(columns(&line)[..3].join(" "));
    }
    let expected = [
        "NAME READY STATUS",
        "web-1 1/1 Running",
        "web-2 0/1 Running",
        "late 0/1 Pending",
        "web-2 0/1 Running",
    ];
    assert_eq!(seen, expected);
    child.kill().await.unwrap();
    soon(
        "no watch",
        server
            .counters()
            .wait_until(|c| c.open_watches("pods") == 0),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_and_refusals() {
    let Some((server, kubectl)) = start().await else {
        return;
    };
    kubectl.rows("annotate pod web-1 note=here").await;
    let pod = server.store().get("pod", "default", "web-1").unwrap();
    assert_eq!(pod["metadata"]["annotations"]["note"], "here");
    kubectl.rows("delete pod web-2").await;
    assert!(server.store().get("pod", "default", "web-2").is_none());
    let missing = kubectl.output("get pod web-2").await;
    let errors = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(
        errors.contains("(NotFound): pods \"web-2\" not found"),
        "{errors}"
    );

    let bad = server.kubeconfig(&server.url()).replace(TOKEN, "other");
    let Some(stranger) = Kubectl::new(&bad).await else {
        return;
    };
    let refused = stranger.output("get pods").await;
    let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
    // Newer kubectls put it in other words.
    let told = errors.contains("You must be logged in to the server");
    assert!(!refused.status.success() && told, "{errors}");
    assert!(server.counters().now().unauthorized() > 0);
}
