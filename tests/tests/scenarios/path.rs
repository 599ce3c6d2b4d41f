//! Scenarios 6 to 8 as `nodescope path` tells them: the nodes joined, and where it stops.

use anyhow::{Context, Result, ensure};
use nodescope_tests::lab::{Agent, Lab, Model};
use serde_json::Value;

use crate::common::{
    agent, between, closed, eventually, get, lab, models, number, of_model, one, way,
};

/// What `path` says of the newest connection that fits, asked of all these agents.
pub fn path(agents: &[&Agent], filters: &[&str]) -> Result<Value> {
    let (last, others) = agents.split_last().context("no agent")?;
    let servers: Vec<String> = others
        .iter()
        .map(|agent| format!("unix://{}", agent.socket().display()))
        .collect();
    let mut args = vec!["path", "-o", "json"];
    args.extend(filters);
    for server in &servers {
        args.extend(["--server", server]);
    }
    let output = last.cli(&args)?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(
        output.status.success(),
        "path: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_str(text.trim()).with_context(|| format!("path said {text:?}"))
}

/// As [`path`], once it is as `holds` wants it: the agents are not asked at the same moment, and
/// what is in a log may still be on its way to who asks.
pub fn path_when(
    agents: &[&Agent],
    filters: &[&str],
    holds: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let mut found = Value::Null;
    eventually(&format!("the path {filters:?}"), || {
        found = path(agents, filters)?;
        ensure!(holds(&found), "{found}");
        Ok(true)
    })?;
    Ok(found)
}

/// Whether a path was answered and has so many legs.
pub fn answered(path: &Value, legs: usize) -> bool {
    path["outcome"] == "answered" && path["legs"].as_array().is_some_and(|all| all.len() == legs)
}

/// The interfaces of a path's leg.
fn interfaces(leg: &Value) -> Vec<&str> {
    let hops = leg["hops"].as_array().into_iter().flatten();
    hops.filter_map(|hop| hop["interface"].as_str()).collect()
}

/// On one node: two pods, the bridge between them without a count.
#[test]
fn scenario_06_path_names_the_bridge_without_counts() -> Result<()> {
    for model in models(6) {
        let Some(lab) = of_model("p06", model)? else {
            return Ok(());
        };
        same_node(model, &lab)?;
    }
    Ok(())
}

fn same_node(model: Model, lab: &Lab) -> Result<()> {
    let agent = agent(lab, 0)?;
    let (web, web2) = (lab.pod("web")?, lab.pod("web2")?);
    let (from, to) = (web.ip().to_string(), web2.ip().to_string());
    get(&web.netns(), &format!("http://{to}:8080/"))?;
    closed(&agent, "web → web2", |record| {
        between(record, &from, &to, 8080)
    })?;
    let filters = ["--from-pod", &web.name(), "--to-ip", &to];
    let path = path_when(&[&agent], &filters, |path| {
        let hops = path["legs"][0]["hops"].as_array();
        let ends = hops.and_then(|hops| Some((hops.first()?, hops.last()?)));
        answered(path, 1) && ends.is_some_and(|(a, b)| a["packets"] == b["packets"])
    })?;
    let leg = &path["legs"][0];
    assert_eq!(
        interfaces(leg),
        way(model, web.host_interface(), web2.host_interface())
    );
    let hops = leg["hops"].as_array().context("no hops")?;
    if model == Model::Kubenet {
        assert_eq!(hops[1].get("packets"), None);
    }
    assert_eq!(leg["nat"]["kind"], "none");
    Ok(())
}

/// Over two nodes: one path of six hops, all with the same counts; asked of the logs as well.
#[test]
fn scenario_07_path_joins_the_legs_of_both_nodes() -> Result<()> {
    for model in models(7) {
        let Some(lab) = of_model("p07", model)? else {
            return Ok(());
        };
        both_nodes(model, &lab)?;
    }
    Ok(())
}

fn both_nodes(model: Model, lab: &Lab) -> Result<()> {
    let agents = [agent(lab, 0)?, agent(lab, 1)?];
    let (web, api) = (lab.pod("web")?, lab.pod("api")?);
    let (from, to) = (web.ip().to_string(), api.ip().to_string());
    let seen = get(&web.netns(), &format!("http://{to}:8080/"))?;
    for agent in &agents {
        closed(agent, "web → api", |record| {
            between(record, &from, &to, 8080)
        })?;
    }
    let both = [&agents[0], &agents[1]];
    let path = path_when(&both, &["--pod", &web.name()], |path| {
        let packets = |leg: usize| number(&path["legs"][leg]["hops"][0]["packets"]);
        answered(path, 2) && packets(0) == packets(1)
    })?;
    let legs = path["legs"].as_array().context("no legs")?;
    let [first, second] = [
        way(model, web.host_interface(), "eth0"),
        way(model, "eth0", api.host_interface()),
    ];
    assert_eq!(interfaces(&legs[0]), first);
    assert_eq!(interfaces(&legs[1]), second);
    let hops = || legs.iter().flat_map(|leg| leg["hops"].as_array()).flatten();
    for count in ["packets", "bytes", "reply_packets", "reply_bytes"] {
        let all: Vec<_> = hops().map(|hop| number(&hop[count])).collect();
        assert!(
            all.iter().all(|one| one.is_some() && *one == all[0]),
            "{count}: {all:?}"
        );
    }
    let peer = format!(
        "{}:{}",
        path["remote_sees"]["ip"].as_str().unwrap_or_default(),
        path["remote_sees"]["port"]
    );
    assert_eq!(seen["peer"], peer.as_str());
    Ok(())
}

/// A service whose backend is on the other node: joined by the tuple after translation.
#[test]
fn scenario_07_path_follows_a_service_to_its_backend() -> Result<()> {
    for model in models(7) {
        let Some(lab) = of_model("p07s", model)? else {
            return Ok(());
        };
        to_the_backend(model, &lab)?;
    }
    Ok(())
}

fn to_the_backend(model: Model, lab: &Lab) -> Result<()> {
    let agents = [agent(lab, 0)?, agent(lab, 1)?];
    let (web, api) = (lab.pod("web")?, lab.pod("api")?);
    let vip = lab.service("default", "api")?.cluster_ip.to_string();
    get(&web.netns(), &format!("http://{vip}/"))?;
    let (from, to) = (web.ip().to_string(), api.ip().to_string());
    closed(&agents[0], "web → service", |record| {
        between(record, &from, &vip, 80)
    })?;
    closed(&agents[1], "web → api", |record| {
        between(record, &from, &to, 8080)
    })?;
    let both = [&agents[0], &agents[1]];
    let path = path_when(&both, &["--service", "default/api"], |path| {
        answered(path, 2)
    })?;
    assert_eq!(path["service"], "default/api", "{path}");
    let legs = path["legs"].as_array().context("no legs")?;
    assert_eq!(legs[0]["nat"]["cause"], "service");
    assert_eq!(legs[0]["nat"]["translated"], legs[1]["nat"]["original"]);
    let last = way(model, "eth0", api.host_interface()).len() - 1;
    assert_eq!(
        legs[1]["hops"][last]["pod"],
        format!("default/{}", api.name())
    );
    Ok(())
}

/// The route to the other node's pods is gone: the SYN leaves by eth0, nobody there sees it.
#[test]
fn scenario_08_path_says_where_it_stopped_and_names_the_route_table() -> Result<()> {
    for model in models(8) {
        let Some(lab) = of_model("p08", model)? else {
            return Ok(());
        };
        // Without pod ranges the fabric knows each pod's address.
        let range = match model {
            Model::AzureCni => format!("{}/32", lab.pod("api")?.ip()),
            Model::Kubenet | Model::Overlay => "10.244.1.0/24".to_owned(),
        };
        route_missing(&lab, &range).with_context(|| format!("{model:?}"))?;
    }
    Ok(())
}

fn route_missing(lab: &Lab, range: &str) -> Result<()> {
    let agents = [agent(lab, 0)?, agent(lab, 1)?];
    let (web, api) = (lab.pod("web")?, lab.pod("api")?);
    let (from, to) = (web.ip().to_string(), api.ip().to_string());
    let witness = lab.tcpdump(&lab.node(1), &format!("host {from}"))?;
    lab.remove_route(range)?;
    let url = format!("http://{to}:8080/");
    let outcome = web.run(["curl", "-s", "--max-time", "1", &url])?;
    ensure!(outcome.success().is_err(), "answered without a route");
    one(&agents[0], "the SYN at eth0", |record| {
        between(record, &from, &to, 8080) && record.path().contains(&"eth0")
    })?;
    let both = [&agents[0], &agents[1]];
    let filters = ["--from-ip", &from, "--to-ip", &to];
    eventually("the path shows eth0", || {
        Ok(path(&both, &filters)?["stopped"]["interface"] == "eth0")
    })?;
    let answer = path(&both, &filters)?;
    assert!(witness.stop_all()?.is_empty(), "node 1 saw it after all");
    assert_eq!(answer["outcome"], "lost", "{answer}");
    assert_eq!(answer["stopped"]["reason"], "not-arrived");
    assert_eq!(
        answer["stopped"]["node"],
        lab.topology().nodes[0].name.as_str()
    );
    let detail = answer["stopped"]["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("route table"), "{detail}");
    assert!(detail.contains(&lab.topology().nodes[1].name), "{detail}");
    // Asked of the first node alone, it blames nobody that it did not look at.
    let alone = path(&both[..1], &filters)?;
    assert_eq!(alone["stopped"]["reason"], "next-node-not-asked", "{alone}");
    // The route is back: answered.
    lab.restore_route(range)?;
    get(&web.netns(), &url)?;
    eventually("the new connection is answered", || {
        Ok(path(&both, &filters)?["outcome"] == "answered")
    })
}

/// Nothing listens on the port: refused, by the pod.
#[test]
fn scenario_08_path_tells_refused_from_lost() -> Result<()> {
    let Some(lab) = lab("p08r")? else {
        return Ok(());
    };
    let agents = [agent(&lab, 0)?, agent(&lab, 1)?];
    let (web, api) = (lab.pod("web")?, lab.pod("api")?);
    let (from, to) = (web.ip().to_string(), api.ip().to_string());
    let outcome = web.run([
        "curl",
        "-s",
        "--max-time",
        "2",
        &format!("http://{to}:8081/"),
    ])?;
    ensure!(outcome.success().is_err(), "something listens on 8081");
    for agent in &agents {
        closed(agent, "the refused connection", |record| {
            between(record, &from, &to, 8081)
        })?;
    }
    let both = [&agents[0], &agents[1]];
    let answer = path_when(&both, &["--to-port", "8081"], |path| {
        path["outcome"] == "refused" && path["stopped"]["interface"] == api.host_interface()
    })?;
    assert_eq!(
        answer["stopped"]["interface"],
        api.host_interface(),
        "{answer}"
    );
    Ok(())
}
