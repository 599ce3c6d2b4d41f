//! Agents asked over their sockets.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::JoinHandle;

use super::*;
use crate::sink::fixture::{at, pod_to_pod};
use crate::sink::observer::{self, Config, Observer};
use crate::sink::proto::node::DescribeResponse;

type Tested = anyhow::Result<()>;

/// An agent on a socket in a directory, with flows of these seconds.
async fn agent(
    directory: &Path,
    name: &str,
    seconds: &[u64],
) -> anyhow::Result<(Agent, Observer, JoinHandle<()>)> {
    let socket: PathBuf = directory.join(name);
    let config = Config {
        node: name.to_owned(),
        network: None,
        capacity: 64,
    };
    let observer = Observer::new(config, DescribeResponse::default);
    observer.push(seconds.iter().map(|second| {
        let mut flow = pod_to_pod();
        flow.time = at(*second);
        flow.node = name.into();
        Arc::new(flow)
    }));
    let listener = observer::bind(&socket).await?;
    let address = Agent::at(format!("unix://{}", socket.display()));
    let server = observer.clone();
    let task = tokio::spawn(async move {
        let mut closing = server.watch_closing();
        let shutdown = async move {
            // An error is an end as well.
            let _ = closing.wait_for(|closing| *closing).await;
        };
        if let Err(error) = observer::serve_unix(listener, &socket, server, shutdown).await {
            panic!("{error}");
        }
    });
    Ok((address, observer, task))
}

fn all() -> GetFlowsRequest {
    GetFlowsRequest {
        number: u64::MAX,
        ..GetFlowsRequest::default()
    }
}

#[tokio::test]
async fn several_agents_are_merged_by_time_and_one_may_fail() -> Tested {
    let directory = tempfile::tempdir()?;
    let (one, ..) = agent(directory.path(), "one", &[1, 4, 5]).await?;
    let (two, ..) = agent(directory.path(), "two", &[2, 3, 6]).await?;
    let gone = Agent::at(format!(
        "unix://{}",
        directory.path().join("gone").display()
    ));
    let responses = collect(open(&[one, gone.clone(), two], &all()).await?).await?;
    let order: Vec<_> = responses
        .iter()
        .map(|response| {
            (
                response.time.map_or(0, |time| time.seconds),
                &*response.node_name,
            )
        })
        .collect();
    assert_eq!(
        order,
        [
            (1, "one"),
            (2, "two"),
            (3, "two"),
            (4, "one"),
            (5, "one"),
            (6, "two")
        ]
    );
    let Err(error) = open(std::slice::from_ref(&gone), &all()).await else {
        panic!("nobody answered, yet no error");
    };
    let text = error.to_string();
    assert!(
        text.contains(&gone.to_string()) && text.contains("--server"),
        "{text}"
    );
    Ok(())
}

#[tokio::test]
async fn a_refused_filter_is_said_in_the_servers_words() -> Tested {
    let directory = tempfile::tempdir()?;
    let (address, ..) = agent(directory.path(), "one", &[]).await?;
    let mut request = all();
    request
        .whitelist
        .push(crate::sink::proto::flow::FlowFilter {
            source_port: vec!["ssh".to_owned()],
            ..Default::default()
        });
    let Err(error) = open(&[address], &request).await else {
        panic!("accepted")
    };
    assert_eq!(
        error.to_string(),
        "source_port: `ssh` is not a port (0 to 65535)"
    );
    Ok(())
}

#[tokio::test]
async fn a_stream_that_ends_leaves_the_others() -> Tested {
    let directory = tempfile::tempdir()?;
    let (one, first, task) = agent(directory.path(), "one", &[1]).await?;
    let (two, second, _) = agent(directory.path(), "two", &[2]).await?;
    let request = GetFlowsRequest {
        follow: true,
        ..all()
    };
    let mut streams = open(&[one, two], &request).await?;
    let mut nodes = Vec::new();
    while nodes.len() < 2 {
        nodes.extend(portion(&mut streams).await?);
    }
    assert_eq!(nodes, ["one", "two"]);
    first.close();
    task.await?;
    push(&second, "two", 3);
    let (nodes, news) = gather(&mut streams, 1).await?;
    assert_eq!(nodes, ["two"]);
    assert!(
        news.contains("/one: ") && news.contains("asked again"),
        "{news}"
    );
    // Another agent on the same socket, with flows by the time that it is asked: what is older than
    // the last flow of the first was shown or is not wanted.
    let (_, first, _) = agent(directory.path(), "one", &[1, 4]).await?;
    let (nodes, news) = gather(&mut streams, 1).await?;
    assert_eq!(nodes, ["one"]);
    assert!(news.ends_with("answers again"), "{news}");
    first.close();
    second.close();
    let (nodes, _) = gather(&mut streams, 1).await?;
    assert!(nodes.is_empty(), "{nodes:?}");
    Ok(())
}

/// An agent that was not there when the others were asked is shown once it is.
#[tokio::test]
async fn an_agent_that_comes_later_is_followed() -> Tested {
    let directory = tempfile::tempdir()?;
    let (one, ..) = agent(directory.path(), "one", &[1]).await?;
    let two = Agent::at(format!("unix://{}", directory.path().join("two").display()));
    let request = GetFlowsRequest {
        follow: true,
        ..all()
    };
    let mut streams = open(&[one, two], &request).await?;
    let (nodes, news) = gather(&mut streams, 1).await?;
    assert_eq!(nodes, ["one"]);
    assert!(news.contains("/two: no agent answers"), "{news}");
    let (_, second, _) = agent(directory.path(), "two", &[2]).await?;
    let (nodes, news) = gather(&mut streams, 1).await?;
    assert_eq!(nodes, ["two"]);
    assert!(news.ends_with("answers again"), "{news}");
    push(&second, "two", 3);
    assert_eq!(gather(&mut streams, 1).await?.0, ["two"]);
    Ok(())
}

/// Asked for what there is, an agent that ends or fails is not asked again.
#[tokio::test]
async fn what_is_not_followed_ends() -> Tested {
    let directory = tempfile::tempdir()?;
    let (one, ..) = agent(directory.path(), "one", &[1]).await?;
    let gone = Agent::at(format!("unix://{}", directory.path().join("no").display()));
    let until = GetFlowsRequest {
        follow: true,
        until: Some(at(2).into()),
        ..all()
    };
    for request in [all(), until] {
        let mut streams = open(&[one.clone(), gone.clone()], &request).await?;
        let (nodes, news) = gather(&mut streams, usize::MAX).await?;
        assert_eq!(nodes, ["one"]);
        assert!(news.contains("/no: no agent answers"), "{news}");
    }
    Ok(())
}

/// The nodes of the next flows, so many or all to the end, and what else was to be known until
/// then.
async fn gather(streams: &mut Streams, wanted: usize) -> anyhow::Result<(Vec<String>, String)> {
    let (mut nodes, mut news) = (Vec::new(), Vec::new());
    while nodes.len() < wanted {
        let Some(portion) = streams.portion().await? else {
            break;
        };
        nodes.extend(portion.responses.into_iter().map(|one| one.node_name));
        news.extend(portion.news);
    }
    Ok((nodes, news.join("; ")))
}

fn push(observer: &Observer, node: &str, second: u64) {
    let mut flow = pod_to_pod();
    flow.node = node.into();
    flow.time = at(second);
    observer.push([Arc::new(flow)]);
}

/// The nodes of what comes next.
async fn portion(streams: &mut Streams) -> anyhow::Result<Vec<String>> {
    let portion = streams.portion().await?.unwrap_or_default();
    assert!(portion.news.is_empty(), "{:?}", portion.news);
    let nodes = portion.responses.into_iter().map(|one| one.node_name);
    Ok(nodes.collect())
}

#[tokio::test]
async fn what_came_is_given_before_the_failure_of_the_last() -> Tested {
    let directory = tempfile::tempdir()?;
    let gone = Agent::at(format!(
        "unix://{}",
        directory.path().join("gone").display()
    ));
    let (one, ..) = agent(directory.path(), "one", &[1]).await?;
    let mut streams = open(&[gone, one], &all()).await?;
    let first = streams.portion().await?.unwrap_or_default();
    assert!(first.responses.is_empty() && first.news[0].contains("gone"));
    streams.failed = Some(anyhow!("the last one is gone"));
    assert_eq!(portion(&mut streams).await?, ["one"]);
    let Err(error) = streams.portion().await else {
        panic!("the failure is not told");
    };
    assert_eq!(error.to_string(), "the last one is gone");
    Ok(())
}
