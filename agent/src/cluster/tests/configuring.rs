//! Kubeconfigs, good and bad, and an API that is not there.

use std::path::Path;
use std::time::Duration;

use super::super::{Config, Kubeconfig, start};
use super::Outcome;

fn config(path: &Path) -> Config {
    Config {
        kubeconfig: Kubeconfig::Path(path.to_owned()),
        node_name: "node-0".to_owned(),
        ..Config::default()
    }
}

/// What `start` says of a kubeconfig with this text.
async fn refusal(text: &str) -> Outcome<String> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), text)?;
    let Err(error) = start(&config(file.path())).await else {
        panic!("accepted: {text:?}")
    };
    let message = error.to_string();
    assert!(
        message.contains(&file.path().display().to_string()),
        "{message}"
    );
    assert!(
        message.contains("--kubeconfig") && !message.contains('\n'),
        "{message}"
    );
    Ok(message)
}

#[tokio::test]
async fn a_kubeconfig_that_is_none_is_refused_by_name() -> Outcome {
    for text in [
        "",
        "garbage",
        "{",
        "\u{0}\u{1}",
        "clusters: 7",
        "apiVersion: v1\nclusters: []\n",
    ] {
        println!("{}", refusal(text).await?);
    }
    let Err(error) = start(&config(Path::new("/nonexistent/kubeconfig"))).await else {
        panic!("accepted")
    };
    let message = error.to_string();
    assert!(
        message.starts_with("kubeconfig /nonexistent/kubeconfig: No such file"),
        "{message}"
    );
    Ok(())
}

#[test]
fn the_flag_says_where_the_api_is() {
    assert_eq!(Kubeconfig::discover(Some("none")), Kubeconfig::None);
    assert_eq!(
        Kubeconfig::discover(Some("/etc/k")),
        Kubeconfig::Path("/etc/k".into())
    );
}

#[tokio::test]
async fn no_api_is_no_error() -> Outcome {
    let cluster = start(&Config::default()).await?;
    assert!(!cluster.inventory().is_complete());
    assert_eq!(
        cluster
            .inventory()
            .counts()
            .map(|(_, count)| count)
            .sum::<usize>(),
        0
    );
    Ok(())
}

#[tokio::test]
async fn an_api_that_refuses_connections_is_counted_by_kind() -> Outcome {
    // A port that was free a moment ago, on the loopback.
    let port = std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port();
    let file = tempfile::NamedTempFile::new()?;
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: lab\n\
         clusters: [{{name: lab, cluster: {{server: 'http://127.0.0.1:{port}'}}}}]\n\
         contexts: [{{name: lab, context: {{cluster: lab, user: lab}}}}]\n\
         users: [{{name: lab, user: {{token: t}}}}]\n"
    );
    std::fs::write(file.path(), text)?;
    let cluster = start(&config(file.path())).await?;
    let errors = cluster.errors();
    let all_failed = async {
        while errors.counts().any(|(_, count)| count == 0) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), all_failed).await?;
    assert!(!cluster.inventory().is_complete());
    Ok(())
}
