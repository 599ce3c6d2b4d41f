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
    let mut flow = pod_to_pod();
    flow.node = "two".into();
    second.push([Arc::new(flow)]);
    assert_eq!(portion(&mut streams).await?, ["two"]);
    second.close();
    assert!(streams.portion().await?.is_none());
    Ok(())
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
