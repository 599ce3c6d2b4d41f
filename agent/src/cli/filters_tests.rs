//! Which flows the flags of `observe` let pass, through the server's own filters.

use anyhow::bail;
use clap::Parser;

use super::*;
use crate::sink::fixture::{masqueraded, ping, pod_to_pod, through_service};
use crate::sink::observer::convert::record;
use crate::sink::observer::filter::Filters;

type Tested = anyhow::Result<()>;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    filters: FlowFilters,
    #[arg(long)]
    node: Vec<String>,
}

fn request(line: &str) -> anyhow::Result<GetFlowsRequest> {
    let line = Line::try_parse_from(["observe"].into_iter().chain(line.split_whitespace()))?;
    let mut request = GetFlowsRequest::default();
    line.filters.of_nodes(&line.node).apply(&mut request);
    Ok(request)
}

/// Which of: to a pod, masqueraded, through a service, a ping.
fn which(line: &str) -> anyhow::Result<[bool; 4]> {
    let filters = Filters::compile(&request(line)?)?;
    let flows = [pod_to_pod(), masqueraded(), through_service(), ping()];
    Ok(flows.map(|flow| filters.pass(&record(&flow))))
}

#[test]
fn flags_about_either_end() -> Tested {
    for (line, wanted) in [
        ("", [true, true, true, true]),
        ("--pod shop/web", [true, true, true, true]),
        ("--pod shop/db", [true, false, true, false]),
        ("-n shop --pod db", [true, false, true, false]),
        ("-n shop", [true, true, true, true]),
        ("-n other", [false, false, false, false]),
        ("--pod shop/db --pod shop/web", [true, true, true, true]),
        ("--ip 10.224.0.4", [false, true, false, true]),
        ("--ip 10.0.0.10", [false, false, true, false]),
        ("--port 80", [false, false, true, false]),
        ("--port 60996", [false, true, false, false]),
        ("--label app=db", [true, false, true, false]),
        ("--service db -n shop", [false, false, true, false]),
        // The client's requests, though the port is at the other end.
        ("--pod shop/web --port 8080", [false, true, false, false]),
        ("--pod shop/db --port 8080", [false, false, false, false]),
        (
            "--pod shop/web --service shop/db",
            [false, false, true, false],
        ),
    ] {
        assert_eq!(which(line)?, wanted, "{line}");
    }
    Ok(())
}

#[test]
fn flags_about_one_end_and_the_whole() -> Tested {
    for (line, wanted) in [
        ("--from-pod shop/web", [true, true, true, false]),
        ("--to-pod shop/web", [false, false, false, true]),
        ("-n shop --to-pod web", [false, false, false, true]),
        ("--to-namespace shop", [true, false, true, true]),
        (
            "--from-ip 10.244.0.0/24 --to-port 5432",
            [true, false, true, false],
        ),
        (
            "--from-pod shop/web --ip 10.224.1.2",
            [false, true, false, false],
        ),
        (
            "--to-label app=db --from-label app=web",
            [true, false, true, false],
        ),
        ("--to-service shop/db", [false, false, true, false]),
        ("--protocol icmp", [false, false, false, true]),
        (
            "--protocol TCP --class pod-to-world",
            [false, true, false, false],
        ),
        (
            "--class pod-to-pod --class node-to-pod",
            [true, false, true, true],
        ),
        ("--snat", [false, true, false, false]),
        ("--snat=false", [true, false, true, true]),
        ("--verdict dropped", [false, false, false, false]),
        ("--verdict FORWARDED", [true, true, true, true]),
        ("--node node-*", [true, true, true, true]),
        ("--node other", [false, false, false, false]),
    ] {
        assert_eq!(which(line)?, wanted, "{line}");
    }
    Ok(())
}

#[test]
fn what_cannot_be_is_refused() -> Tested {
    for line in [
        "--class no-such",
        "--verdict maybe",
        "--snat maybe",
        "--pod a --from-pod b",
        "--ip 10.0.0.1 --to-ip 10.0.0.2",
        "--no-such-flag",
    ] {
        if request(line).is_ok() {
            bail!("accepted: {line}");
        }
    }
    Ok(())
}
