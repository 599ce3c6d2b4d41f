//! Objects cut down while they are read, as the watcher takes them.

use std::borrow::Cow;
use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::{Deserialize, DeserializeOwned, Deserializer};

use crate::flow::Node;

use super::masquerade::MasqueradeRecord;
use super::services::Service;
use super::trim::{self, PodRecord, SliceRecord};
use super::wire::{self, Meta};

/// What is kept of an object of a kind.
pub(super) trait Record: Clone + Debug + Send + 'static {
    /// The kind.
    type Kind: kube::Resource<DynamicType = ()>;
    /// What is read of it.
    type Wire: DeserializeOwned;

    /// Its metadata.
    fn meta(wire: &mut Self::Wire) -> &mut Meta;

    /// Cuts it down.
    fn cut(wire: Self::Wire) -> Self;
}

/// An object of which nothing but the record was ever in memory.
#[derive(Clone, Debug)]
pub(super) struct Cut<T> {
    /// Its version only: where a watch that ended goes on from.
    meta: ObjectMeta,
    pub(super) record: T,
}

impl<'de, T: Record> Deserialize<'de> for Cut<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut wire = T::Wire::deserialize(deserializer)?;
        let meta = ObjectMeta {
            resource_version: T::meta(&mut wire).resource_version.take(),
            ..ObjectMeta::default()
        };
        let record = T::cut(wire);
        Ok(Self { meta, record })
    }
}

impl<T: Record> kube::Resource for Cut<T> {
    type DynamicType = ();
    type Scope = <T::Kind as kube::Resource>::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        T::Kind::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        T::Kind::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        T::Kind::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        T::Kind::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

/// A record of a kind, what is read of it, and the function that cuts it down.
macro_rules! record {
    ($record:ty, $kind:ty, $wire:ty, $cut:path) => {
        impl Record for $record {
            type Kind = $kind;
            type Wire = $wire;

            fn meta(wire: &mut $wire) -> &mut Meta {
                &mut wire.metadata
            }

            fn cut(wire: $wire) -> Self {
                $cut(wire)
            }
        }
    };
}

record!(PodRecord, core::Pod, wire::Pod, trim::pod);
record!(Arc<Node>, core::Node, wire::Node, trim::node);
record!(Service, core::Service, wire::Service, trim::service);
record!(SliceRecord, EndpointSlice, wire::Slice, trim::slice);
record!(
    MasqueradeRecord,
    core::ConfigMap,
    wire::ConfigMap,
    trim::masquerade
);
