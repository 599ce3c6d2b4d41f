//! What is watched, and how each watch begins.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::NamespaceResourceScope;
use kube::runtime::watcher::{self, Event, InitialListStrategy, watcher};
use kube::{Api, Client};

use super::config::{Config, Scope};
use super::cut::{Cut, Record};
use super::masquerade::{self, CONFIG_MAPS, MasqueradeRecord};
use super::services::Service;
use super::table::Change;
use super::tables::Update;
use super::trim::{PodRecord, SliceRecord};
use crate::flow::Node;

/// Objects asked for at once (the API's own clients use the same).
const PAGE: u32 = 500;

/// Changes, or why there are none.
pub(super) type Updates = BoxStream<'static, watcher::Result<Update>>;

/// Begins a watch anew, with a full list: as one stream with the changes after it, or in pages.
type Begin = Box<dyn Fn(InitialListStrategy) -> Updates + Send + Sync>;

/// One watch.
pub(super) struct Source {
    /// Its place in [`super::KINDS`].
    pub(super) kind: usize,
    /// Whether its list grows with the cluster.
    pub(super) is_wide: bool,
    /// Begins it.
    pub(super) begin: Begin,
}

/// Everything that an agent watches.
pub(super) fn sources(client: &Client, config: &Config) -> Vec<Source> {
    let node = &config.node_name;
    let pods: Api<Cut<PodRecord>> = Api::all(client.clone());
    let on_node = |how: &str| Some(format!("spec.nodeName{how}{node}"));
    let mut sources = vec![
        source(0, false, &pods, on_node("="), Update::Pod),
        source::<Service>(1, true, &Api::all(client.clone()), None, Update::Service),
        source::<SliceRecord>(2, true, &Api::all(client.clone()), None, Update::Slice),
        source::<Arc<Node>>(3, true, &Api::all(client.clone()), None, Update::Node),
    ];
    if config.scope == Scope::Cluster {
        sources.push(source(0, true, &pods, on_node("!="), Update::Peer));
    }
    // By name: nothing else of the namespace has to be read, nor be allowed to be.
    for (which, name) in CONFIG_MAPS.into_iter().enumerate() {
        let maps: Api<Cut<MasqueradeRecord>> = namespaced(client, masquerade::NAMESPACE);
        let update = move |change| Update::Masquerade(which, change);
        let fields = Some(format!("metadata.name={name}"));
        sources.push(source(4, false, &maps, fields, update));
    }
    sources
}

fn namespaced<T: Record>(client: &Client, namespace: &str) -> Api<Cut<T>>
where
    T::Kind: kube::Resource<Scope = NamespaceResourceScope>,
{
    Api::namespaced(client.clone(), namespace)
}

fn source<T: Record>(
    kind: usize,
    is_wide: bool,
    api: &Api<Cut<T>>,
    fields: Option<String>,
    update: impl Fn(Change<T>) -> Update + Copy + Send + Sync + 'static,
) -> Source {
    let api = api.clone();
    let begin = move |strategy| {
        let mut config = watcher::Config::default().page_size(PAGE);
        config.initial_list_strategy = strategy;
        config.field_selector.clone_from(&fields);
        let events = watcher(api.clone(), config);
        let updates = events.map(move |event| event.map(|event| update(change(event))));
        updates.boxed()
    };
    Source {
        kind,
        is_wide,
        begin: Box::new(begin),
    }
}

fn change<T>(event: Event<Cut<T>>) -> Change<T> {
    match event {
        Event::Init => Change::Begin,
        Event::InitApply(object) => Change::Listed(object.record),
        Event::InitDone => Change::Complete,
        Event::Apply(object) => Change::Applied(object.record),
        Event::Delete(object) => Change::Deleted(object.record),
    }
}
