//! `nodescope agent`: the rooms, wired. What the kernel saw becomes flows, the cluster names
//! them, and every sink gets the same record.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use super::outlets::{self, Outlets};
use super::{flow_log, nat_source, probing, serving};
use crate::cluster::{self, Inventory, Local};
use crate::config::{
    AgentArgs, AttachBy, Config, KubeSource, LogFormat, MetricLabel, NatSource, Watch,
};
use crate::datapath::{Method, Pinning};
use crate::engine::{Engine, Intervals, Settings, Settle, Status};
use crate::flow::{Flow, Moment, Timeouts};
use crate::insight::drops::Losses;
use crate::insight::here::Here;
use crate::insight::nat::Translations;
use crate::insight::probes::Probes;
use crate::node::{self, InterfaceFilter, NodeView};
use crate::sink::describe::{Describer, NodeFacts};
use crate::sink::log::{Choice, FlowLog};
use crate::sink::observer::{self, Observer};
use crate::sink::prometheus::{FlowLabel, FlowLabels, Metrics, Options, Sources};
use crate::{datapath, engine, sink};

/// How often the kernel's table is drained: what a flow can be late by when its event was lost.
const DRAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// Runs the agent until it is told to stop.
///
/// # Errors
/// When the configuration is wrong, or something without which it cannot run is missing.
pub fn run(args: AgentArgs) -> anyhow::Result<ExitCode> {
    let config = match Config::load(args) {
        Ok(config) => config,
        Err(error) => {
            super::tell(&error);
            return Ok(ExitCode::from(2));
        }
    };
    let choice = match flow_log::choice(config.flow_log.as_ref()) {
        Ok(choice) => choice,
        Err(error) => {
            super::tell(&format_args!("{error:#}"));
            return Ok(ExitCode::from(2));
        }
    };
    log_to_stderr(&config);
    let detach = config.detach;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(async {
        match detach {
            true => super::detach::detach(&config).await,
            false => agent(config, choice).await,
        }
    });
    // A disk or a peer that hangs must not keep a stopped agent alive.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    outcome.map(|()| ExitCode::SUCCESS)
}

/// The agent's own log. The libraries beneath speak up at the level of failures only: what
/// matters of them the rooms say themselves, once per change.
fn log_to_stderr(config: &Config) {
    let level = LevelFilter::from(config.log_level);
    let filter = Targets::new()
        .with_default(level)
        .with_targets(QUIET.map(|target| (target, LevelFilter::ERROR.min(level))));
    let format = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let format = match config.log_format {
        LogFormat::Text => format.with_ansi(false).boxed(),
        LogFormat::Json => format.json().boxed(),
    };
    let result = tracing_subscriber::registry()
        .with(format.with_filter(filter))
        .try_init();
    if let Err(error) = result {
        super::tell(&format_args!("no log: {error}"));
    }
}

/// Libraries that say the same as the rooms, at every attempt.
const QUIET: [&str; 4] = ["kube_client", "kube_runtime", "hyper_util", "h2"];

async fn agent(config: Config, choice: Choice) -> anyhow::Result<()> {
    let node: Arc<str> = Arc::from(config.node_name.as_str());
    let stop = stop_on_signal()?;
    let watch = node::watch()
        .await
        .context("following the interfaces of the node")?;
    let filter = InterfaceFilter::new(&config.interfaces, &config.exclude_interfaces)?;
    for glob in filter.unmatched(&watch.view()) {
        tracing::warn!(%glob, "--interfaces matches no interface (yet): none of that name is seen");
    }
    let mut engine = Engine::load(settings(&config, &node, filter))?;
    nat_source::choose(&mut engine, config.nat_source)?;
    // What the load needed is needed no more.
    datapath::give_back();
    let _kernel_log = engine.datapath().forward_log()?;
    let cluster = cluster::start(&cluster_config(&config)).await?;

    let (status, statuses) = watch::channel(Arc::new(Status::default()));
    let describer = Describer::new(
        NodeFacts {
            name: node.to_string(),
            started: SystemTime::now(),
            api: config.kube != KubeSource::None,
            overrides: config.cidrs.clone(),
        },
        watch.subscribe(),
        statuses.clone(),
        cluster.shared(),
        cluster.errors(),
    );
    let connections = usize::try_from(config.max_connections).unwrap_or(usize::MAX);
    let translations = Translations::new(connections);
    let probes = Probes::default();
    let here = Here::new(
        &config.node_name,
        cluster.shared(),
        watch.subscribe(),
        translations.clone(),
        probes.clone(),
    );
    let observer = Observer::new(
        observer::Config {
            node: node.to_string(),
            network: serving::network(&config, &watch.view())?,
            capacity: observer::DEFAULT_CAPACITY,
        },
        move || describer.describe(),
    )
    .with_translations(translations.clone())
    .with_insights(here.clone())
    .with_agents(cluster.agents());
    let losses = Losses::default();
    let observer = observer
        .with_probes(probes.clone())
        .with_losses(losses.clone(), statuses.clone());
    let api = serving::start(&config, &observer, &stop).await?;
    let log = flow_log::open(config.flow_log.as_ref(), choice, engine.settle())?;
    let (log, writer) = log.unzip();
    let metrics = Arc::new(Metrics::new(&metric_options(&config))?);
    metrics
        .own()
        .set_build_info(env!("CARGO_PKG_VERSION"), &kernel_release());
    let (otlp, exporter) = outlets::otlp(config.otlp.as_ref(), &node, &metrics)?;
    let room = log.clone();
    let outlets = Outlets {
        observer,
        log,
        otlp,
        metrics: Arc::clone(&metrics),
    };
    let sources = Sources {
        statuses: statuses.clone(),
        inventory: cluster.shared(),
        errors: cluster.errors(),
        translations: translations.clone(),
        lost: outlets.lost(),
    };
    metrics.know_services(cluster.shared());
    tokio::spawn(sink::prometheus::feed(Arc::clone(&metrics), sources));
    if let Some(address) = config.listen_metrics {
        serve_metrics(address, Arc::clone(&metrics), statuses, stop.clone()).await?;
    }

    let (heads, ports) = engine.datapath().payload()?;
    let feed = probing::Feed {
        node: config.node_name.clone(),
        nodes: watch.subscribe(),
        inventory: cluster.shared(),
        sources: config.probe_sources.clone(),
        heads,
        ports,
        here: here.clone(),
        metrics: Arc::clone(&metrics),
    };
    tokio::spawn(probing::feed(probes.clone(), feed));
    tracing::info!(node = %node, socket = %config.socket.display(), "observing");
    let emit = emitter(
        watch.subscribe(),
        &config.node_name,
        cluster.shared(),
        Meaning {
            translations,
            probes,
            here,
            losses,
        },
        outlets,
    );
    let intervals = Intervals {
        drain: DRAIN.min(config.flow_interval),
        flow: config.flow_interval,
    };
    let outlet = Sinks {
        emit,
        room,
        settle: engine.settle(),
        unsettled: Vec::new(),
    };
    engine::run(engine, intervals, watch.subscribe(), status, stop, outlet).await?;
    tracing::info!("stopped");
    if let Some(writer) = writer {
        writer.finish().await;
    }
    if let Some(exporter) = exporter {
        exporter.finish().await;
    }
    drop(api);
    let _ = std::fs::remove_file(&config.socket);
    leave(&config).await
}

/// Takes what was left for the next agent away when there will be none.
async fn leave(config: &Config) -> anyhow::Result<()> {
    let Some(owner) = &config.installed_by else {
        return Ok(());
    };
    if config.detach_on_exit
        || !cluster::is_uninstalled(&cluster_config(config), &owner.namespace, &owner.name).await?
    {
        return Ok(());
    }
    tracing::info!("nodescope is being uninstalled: removing programs and tables");
    super::detach::detach(config).await
}

/// Everything behind the engine: what names a flow and hands it on, and the one sink that must
/// not lose any.
struct Sinks<E> {
    emit: E,
    room: Option<FlowLog>,
    settle: Settle,
    /// What is out without a log, where the log would say so.
    unsettled: Vec<Arc<Flow>>,
}

impl<E: FnMut(Flow) -> Arc<Flow> + Send> engine::Outlet for Sinks<E> {
    fn emit(&mut self, flow: Flow) {
        let flow = (self.emit)(flow);
        if self.room.is_none() {
            self.unsettled.push(flow);
        }
    }

    fn flush(&mut self) {
        self.settle.told(&self.unsettled);
        self.unsettled.clear();
    }

    fn room(&self) -> usize {
        self.room.as_ref().map_or(usize::MAX, FlowLog::room)
    }
}

/// The insights that a flow is shown to, in this order.
struct Meaning {
    translations: Translations,
    probes: Probes,
    here: Here,
    losses: Losses,
}

/// Names a flow and hands it to every sink.
fn emitter(
    mut nodes: watch::Receiver<Arc<NodeView>>,
    name: &str,
    inventory: Arc<ArcSwap<Inventory>>,
    meaning: Meaning,
    outlets: Outlets,
) -> impl FnMut(Flow) -> Arc<Flow> + Send + use<> {
    let name = name.to_owned();
    let here = move |view: &NodeView| (Local::new(&name, view), node::model(view, None).kind);
    let (mut local, mut model) = here(&nodes.borrow_and_update());
    move |mut flow| {
        if nodes.has_changed().unwrap_or(false) {
            (local, model) = here(&nodes.borrow_and_update());
        }
        let inventory = inventory.load();
        cluster::name(&mut flow, &inventory, &local);
        if flow.drop.is_none() {
            meaning
                .translations
                .observe(&mut flow, &inventory, &local, model);
            meaning
                .probes
                .annotate(&mut flow, &inventory, &local, Moment::now());
        }
        let flow = Arc::new(flow);
        meaning.here.observe(&flow, &inventory, &local);
        meaning.losses.observe(&flow);
        if let Some(outcome) = meaning.here.dns_outcome(&flow) {
            outlets.metrics.observe_dns(&outcome);
        }
        outlets.take(&flow);
        flow
    }
}

fn settings(config: &Config, node: &Arc<str>, filter: InterfaceFilter) -> Settings {
    let nanos =
        |duration: std::time::Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    Settings {
        node: Arc::clone(node),
        datapath: datapath::Settings {
            max_connections: config.max_connections,
            nat: matches!(config.nat_source, NatSource::Auto | NatSource::Skb),
            dns_questions: config.capture_dns,
            method: match config.attach {
                AttachBy::Auto => None,
                AttachBy::Tcx => Some(Method::Tcx),
                AttachBy::Clsact => Some(Method::Clsact),
            },
            pinning: config.bpffs.clone().map(|folder| Pinning {
                folder,
                keep: !config.detach_on_exit,
            }),
        },
        filter,
        timeouts: Timeouts {
            tcp: nanos(config.idle_timeout.tcp),
            other: nanos(config.idle_timeout.other),
            ..Timeouts::default()
        },
    }
}

fn cluster_config(config: &Config) -> cluster::Config {
    let kubeconfig = match &config.kube {
        KubeSource::InCluster => cluster::Kubeconfig::InCluster,
        KubeSource::Environment => cluster::Kubeconfig::discover(None),
        KubeSource::File(path) => cluster::Kubeconfig::Path(path.clone()),
        KubeSource::None => cluster::Kubeconfig::None,
    };
    cluster::Config {
        kubeconfig,
        node_name: config.node_name.clone(),
        scope: match config.watch {
            Watch::Cluster => cluster::Scope::Cluster,
            Watch::Node => cluster::Scope::Node,
        },
        overrides: cluster::Overrides {
            pod_cidrs: config.cidrs.pod.clone(),
            node_cidrs: config.cidrs.node.clone(),
            service_cidrs: config.cidrs.service.clone(),
            non_masquerade: config.cidrs.non_masquerade.clone(),
            probe_sources: config.probe_sources.clone(),
        },
        patience: cluster::Patience::default(),
    }
}

fn metric_options(config: &Config) -> Options {
    let label = |label: &MetricLabel| match label {
        MetricLabel::SourceNamespace => FlowLabel::SourceNamespace,
        MetricLabel::SourceWorkload => FlowLabel::SourceWorkload,
        MetricLabel::SourcePod => FlowLabel::SourcePod,
        MetricLabel::DestinationNamespace => FlowLabel::DestinationNamespace,
        MetricLabel::DestinationWorkload => FlowLabel::DestinationWorkload,
        MetricLabel::DestinationPod => FlowLabel::DestinationPod,
    };
    Options {
        labels: FlowLabels::new(config.metrics_labels.iter().map(label)),
        max_series: usize::try_from(config.metrics_max_series).unwrap_or(usize::MAX),
        expiry: config.metrics_expiry,
    }
}

/// Listens now, so that a taken address is an error at the start; serves until the stop.
async fn serve_metrics(
    address: std::net::SocketAddr,
    metrics: Arc<Metrics>,
    statuses: watch::Receiver<Arc<Status>>,
    mut stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let listener = sink::prometheus::bind(address).await?;
    let ready = move || {
        let status = statuses.borrow();
        if !status.started {
            return Err("the kernel side is not attached yet".to_owned());
        }
        status
            .interfaces
            .iter()
            .find_map(|one| one.attached.clone().err())
            .map_or(Ok(()), Err)
    };
    tokio::spawn(async move {
        let shutdown = async move {
            let _ = stop.wait_for(|stop| *stop).await;
        };
        if let Err(error) = sink::prometheus::serve(listener, metrics, ready, shutdown).await {
            tracing::error!(%error, "metrics are served no more");
        }
    });
    Ok(())
}

fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// Turns true at the first SIGTERM or SIGINT.
fn stop_on_signal() -> anyhow::Result<watch::Receiver<bool>> {
    let (sender, receiver) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        sender.send_replace(true);
        // Kept until the end of the process: a closed channel would say the same by accident.
        std::future::pending::<()>().await;
    });
    Ok(receiver)
}
