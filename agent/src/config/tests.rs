//! What is said where, and which of it counts.

use std::error::Error as StdError;
use std::path::Path;
use std::time::Duration;

use clap::{CommandFactory, Parser};

use super::file::parse;
use super::{
    AgentArgs, AttachBy, Collector, Config, Error, FileError, KubeSource, LogTarget, MetricLabel,
    NatSource, OtlpProtocol, Surroundings,
};

type Outcome = Result<(), Box<dyn StdError>>;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    agent: AgentArgs,
}

fn flags(line: &str) -> Result<AgentArgs, clap::Error> {
    let words = std::iter::once("agent").chain(line.split_whitespace());
    Ok(Cli::try_parse_from(words)?.agent)
}

fn around() -> Surroundings {
    Surroundings {
        host_name: Some("node-0".to_owned()),
        ..Surroundings::default()
    }
}

fn file(text: &str) -> Result<AgentArgs, FileError> {
    parse(Path::new("nodescope.yaml"), text)
}

fn complaint<T>(result: Result<T, impl std::fmt::Display>) -> String {
    let Err(error) = result else {
        panic!("accepted")
    };
    error.to_string()
}

#[test]
fn defaults_are_those_of_the_documentation() -> Outcome {
    let config = Config::resolve(AgentArgs::default(), around())?;
    assert_eq!(config.node_name, "node-0");
    assert_eq!(config.kube, KubeSource::None);
    assert_eq!(config.max_connections, 65_536);
    assert_eq!(config.flow_interval, Duration::from_secs(5));
    assert_eq!(config.idle_timeout.tcp, Duration::from_secs(600));
    assert_eq!(config.idle_timeout.other, Duration::from_secs(60));
    assert_eq!(config.listen_metrics, Some("0.0.0.0:9817".parse()?));
    assert_eq!(config.socket, Path::new("/run/nodescope/agent.sock"));
    assert_eq!(config.hubble, None);
    assert_eq!(config.flow_log, None);
    assert_eq!(config.nat_source, NatSource::Auto);
    assert_eq!(
        config.bpffs.as_deref(),
        Some(Path::new("/sys/fs/bpf/nodescope"))
    );
    assert_eq!(config.attach, AttachBy::Auto);
    assert!(!config.detach && !config.detach_on_exit);
    assert_eq!(
        config.probe_sources,
        ["168.63.129.16".parse::<std::net::IpAddr>()?]
    );
    assert_eq!(config.metrics_labels.len(), 4);
    assert_eq!(config.metrics_max_series, 10_000);
    Ok(())
}

#[test]
fn a_flag_counts_over_the_file_and_the_file_over_the_default() -> Outcome {
    let said = flags("--max-connections 10 --interfaces veth*,eth0")?;
    let file = file("max-connections: 20\nflow-interval: 1s\ninterfaces: [azv*]\n")?;
    let config = Config::resolve(said.or(file), around())?;
    assert_eq!(config.max_connections, 10);
    assert_eq!(config.interfaces, ["veth*", "eth0"]);
    assert_eq!(config.flow_interval, Duration::from_secs(1));
    assert_eq!(config.metrics_max_series, 10_000);
    Ok(())
}

#[test]
fn every_flag_can_stand_in_the_file() -> Outcome {
    let args = file(
        "node-name: node-7\nkubeconfig: none\ninterfaces: ['veth*', cbr0]\n\
         exclude-interfaces: docker0\nmax-connections: 1024\nflow-interval: 500ms\n\
         idle-timeout: tcp=5m,other=30s\nlisten-metrics: off\nsocket: /tmp/agent.sock\n\
         listen-hubble: 0.0.0.0:4244\ntls-cert: a.pem\ntls-key: b.pem\ntls-client-ca: c.pem\n\
         insecure-listen: false\nflow-log: /var/log/flows.json\nflow-log-max-size: 10MiB\n\
         flow-log-max-files: 3\nflow-log-include: ['--namespace shop', --snat]\n\
         flow-log-exclude: --protocol icmp\nnat-source: off\ncapture-dns: true\n\
         otlp-endpoint: 'http://otel:4317'\notlp-protocol: http\notlp-ca: d.pem\n\
         probe-sources: [168.63.129.16, 10.0.0.1]\npod-cidr: 10.244.0.1/16\n\
         node-cidr: [10.224.0.0/16]\nservice-cidr: 10.0.0.0/16\n\
         non-masquerade-cidr: [10.244.0.0/16, 'fd00::/8']\n\
         metrics-labels: [source_pod, source_namespace]\nmetrics-max-series: 50\n\
         metrics-expiry: 90s\n\
         log-format: json\nlog-level: debug\n",
    )?;
    let config = Config::resolve(args, around())?;
    assert_eq!(config.node_name, "node-7");
    assert_eq!(config.exclude_interfaces, ["docker0"]);
    assert_eq!(config.idle_timeout.tcp, Duration::from_secs(300));
    assert_eq!(config.listen_metrics, None);
    assert_eq!(config.nat_source, NatSource::Off);
    assert!(config.capture_dns);
    assert_eq!(config.cidrs.pod, ["10.244.0.0/16".parse::<ipnet::IpNet>()?]);
    assert_eq!(config.cidrs.non_masquerade.len(), 2);
    let expected = [MetricLabel::SourceNamespace, MetricLabel::SourcePod];
    assert_eq!(config.metrics_labels, expected);
    assert_eq!(config.metrics_expiry, Duration::from_secs(90));
    let Some(hubble) = config.hubble else {
        panic!("no listener")
    };
    assert!(hubble.tls.is_some_and(|tls| tls.client_ca.is_some()));
    let Some(log) = config.flow_log else {
        panic!("no flow log")
    };
    assert_eq!(log.target, LogTarget::File("/var/log/flows.json".into()));
    assert_eq!((log.max_size, log.max_files), (10 << 20, 3));
    assert_eq!(log.include, ["--namespace shop", "--snat"]);
    assert_eq!(log.exclude, ["--protocol icmp"]);
    Ok(())
}

#[test]
fn every_flag_has_its_environment_variable() {
    let command = Cli::command();
    let flags = command
        .get_arguments()
        .filter_map(|arg| Some((arg.get_long()?, arg.get_env())));
    for (flag, variable) in flags.filter(|(flag, _)| *flag != "help") {
        let expected = format!("NODESCOPE_{}", flag.replace('-', "_").to_uppercase());
        assert_eq!(variable, Some(expected.as_ref()), "--{flag}");
    }
}

#[test]
fn a_file_may_be_empty() -> Outcome {
    file("")?;
    file("# nothing yet\n")?;
    Ok(())
}

#[test]
fn the_file_names_what_is_wrong_with_it() {
    for (text, words) in [
        ("max-connection: 5", "unknown key `max-connection`"),
        ("config: other.yaml", "unknown key `config`"),
        (
            "max-connections: many",
            "key `max-connections`: invalid value 'many'",
        ),
        ("max-connections: 0", "0 is not in 1..=16777216"),
        ("flow-interval: 5", "time unit needed"),
        (
            "nat-source: guess",
            "possible values: auto, skb, netlink, off",
        ),
        ("pod-cidr: {a: b}", "must be a word or a number"),
        ("interfaces: []", "the list is empty"),
        ("- interfaces", "not YAML of the form"),
        ("interfaces: [", "not YAML of the form"),
        ("socket:", "must be a word or a number"),
        ("log-level: [info, debug]", "key `log-level`"),
    ] {
        let said = complaint(file(text));
        assert!(said.contains(words), "{text:?} gave {said:?}");
        assert!(
            said.contains("nodescope.yaml") && !said.contains('\n'),
            "{said:?}"
        );
    }
}

#[test]
fn a_missing_file_is_named() {
    let args = AgentArgs {
        config: Some("/nonexistent.yaml".into()),
        ..AgentArgs::default()
    };
    let said = complaint(Config::load(args));
    assert!(
        said.contains("/nonexistent.yaml") && said.contains("--config"),
        "{said}"
    );
}

#[test]
fn wrong_values_are_wrong_usage() {
    for line in [
        "--nat-source guess",
        "--max-connections 0",
        "--max-connections 99999999",
        "--flow-interval 5",
        "--flow-interval 1ms",
        "--idle-timeout udp=5s",
        "--listen-metrics 9817",
        "--listen-hubble localhost",
        "--pod-cidr 10.244.0.0/33",
        "--flow-log-max-size 5",
        "--flow-log-max-size lots",
        "--metrics-labels source",
        "--metrics-max-series 0",
        "--metrics-expiry never",
        "--capture-dns=maybe",
        "--no-such-flag",
    ] {
        let Err(error) = flags(line) else {
            panic!("{line} was accepted")
        };
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

#[test]
fn the_api_is_found_in_the_documented_order() -> Outcome {
    let pod = Surroundings {
        in_cluster: true,
        kubeconfig: true,
        ..around()
    };
    let shell = Surroundings {
        kubeconfig: true,
        ..around()
    };
    let kube = |line: &str, around: &Surroundings| -> Result<KubeSource, Box<dyn StdError>> {
        Ok(Config::resolve(flags(line)?, around.clone())?.kube)
    };
    assert_eq!(kube("", &pod)?, KubeSource::InCluster);
    assert_eq!(kube("", &shell)?, KubeSource::Environment);
    assert_eq!(kube("--kubeconfig none", &pod)?, KubeSource::None);
    assert_eq!(
        kube("--kubeconfig k.yaml", &pod)?,
        KubeSource::File("k.yaml".into())
    );
    Ok(())
}

#[test]
fn the_node_name_is_found_in_the_documented_order() -> Outcome {
    let machine = Surroundings {
        node_name: Some("node-1".to_owned()),
        ..around()
    };
    let name = |line: &str| -> Result<String, Box<dyn StdError>> {
        Ok(Config::resolve(flags(line)?, machine.clone())?.node_name)
    };
    assert_eq!(name("--node-name node-2")?, "node-2");
    assert_eq!(name("")?, "node-1");
    let nameless = Config::resolve(AgentArgs::default(), Surroundings::default());
    assert!(matches!(nameless, Err(Error::NodeName)));
    Ok(())
}

#[test]
fn hubble_is_open_to_the_network_only_on_purpose() -> Outcome {
    let resolve = |line: &str| -> Result<Result<Config, Error>, clap::Error> {
        Ok(Config::resolve(flags(line)?, around()))
    };
    assert!(resolve("--listen-hubble 127.0.0.1:4244")?.is_ok());
    assert!(resolve("--listen-hubble 0.0.0.0:4244 --insecure-listen")?.is_ok());
    assert!(resolve("--listen-hubble off --insecure-listen")?.is_ok_and(|c| c.hubble.is_none()));
    let open = resolve("--listen-hubble 0.0.0.0:4244")?;
    assert!(matches!(open, Err(Error::InsecureListen(_))));
    let half = resolve("--listen-hubble 0.0.0.0:4244 --tls-key k.pem")?;
    assert!(complaint(half).contains("--tls-key is given without --tls-cert"));
    assert!(matches!(
        resolve("--tls-client-ca c.pem")?,
        Err(Error::ClientCaAlone)
    ));
    Ok(())
}

#[test]
fn what_outlives_the_agent_can_be_switched_off() -> Outcome {
    let config = Config::resolve(flags("--bpffs none --detach-on-exit")?, around())?;
    assert_eq!(config.bpffs, None);
    assert!(config.detach_on_exit);
    let said = file("bpffs: /sys/fs/bpf/other\nattach: clsact\n")?;
    let config = Config::resolve(said, around())?;
    assert_eq!(
        config.bpffs.as_deref(),
        Some(Path::new("/sys/fs/bpf/other"))
    );
    assert_eq!(config.attach, AttachBy::Clsact);
    assert!(complaint(flags("--bpffs some/where")).contains("--bpffs"));
    Ok(())
}

#[test]
fn a_collector_is_given_by_its_url() -> Outcome {
    let collector = |line: &str| -> Result<_, Box<dyn StdError>> {
        Ok(Config::resolve(flags(line)?, around())?.otlp)
    };
    assert_eq!(collector("")?, None);
    for (line, url, protocol, authorities) in [
        (
            "--otlp-endpoint http://otel:4317",
            "http://otel:4317",
            OtlpProtocol::Grpc,
            None,
        ),
        (
            "--otlp-endpoint https://[fd00::1]:4318/base --otlp-protocol http --otlp-ca /ca.pem",
            "https://[fd00::1]:4318/base",
            OtlpProtocol::Http,
            Some("/ca.pem".into()),
        ),
    ] {
        let wanted = Collector {
            url: url.to_owned(),
            protocol,
            authorities,
        };
        assert_eq!(collector(line)?, Some(wanted));
    }
    for url in [
        "otel:4317",
        "/otel",
        "unix:///otel",
        "http://",
        "ftp://otel",
    ] {
        let said = complaint(flags(&format!("--otlp-endpoint {url}")));
        assert!(said.contains("http://HOST:4317"), "{said}");
    }
    Ok(())
}
