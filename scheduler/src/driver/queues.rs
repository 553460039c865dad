//! Queues as the watch decodes them, and how a pod names its own.

use std::collections::BTreeMap;

use k8s_openapi::ClusterResourceScope;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use super::facts::{meta, watched};
use super::state::State;
use crate::convert;
use crate::fair::QueueSpec;

/// The label by which a pod names its queue, and a namespace that of its pods that name none.
pub const QUEUE_LABEL: &str = "scheduling.gantry.io/queue";

/// A queue as the watch decodes it.
#[derive(Clone, Debug, Deserialize)]
pub struct WatchedQueue {
    #[serde(rename = "metadata", deserialize_with = "meta")]
    meta: ObjectMeta,
    #[serde(default)]
    spec: SpecView,
    #[serde(default)]
    status: StatusView,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct StatusView {
    used: Option<BTreeMap<String, Quantity>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct SpecView {
    parent: Option<String>,
    weight: Option<i32>,
    #[serde(default)]
    guarantee: Option<BTreeMap<String, Quantity>>,
    #[serde(default)]
    limit: Option<BTreeMap<String, Quantity>>,
}

watched!(WatchedQueue, "Queue", "queues", "scheduling.gantry.io", "v1alpha1", ClusterResourceScope);

impl WatchedQueue {
    /// Its name.
    pub(super) fn into_name(self) -> String {
        self.meta.name.unwrap_or_default()
    }
}

impl State {
    /// A list of all queues begins.
    pub fn queues_relist(&mut self) {
        self.known_queues.relist();
    }

    /// The list of all queues is complete.
    pub fn queues_listed(&mut self) {
        for name in self.known_queues.listed() {
            self.queue_gone(&name);
        }
    }

    /// A queue is new or has changed.
    pub fn queue_seen(&mut self, queue: WatchedQueue) {
        let WatchedQueue { meta, spec, status } = queue;
        let name = meta.name.unwrap_or_default();
        self.known_queues.saw(&name);
        self.told_used.insert(name.clone(), status.used.unwrap_or_default().into_keys().collect());
        let mut amounts = |listed: Option<BTreeMap<String, Quantity>>| {
            let listed = listed.unwrap_or_default().into_iter();
            listed
                .map(|(name, quantity)| (self.engine.resource(&name), convert::quantity::amount(&name, &quantity.0)))
                .collect()
        };
        let (guarantee, limit) = (amounts(spec.guarantee), amounts(spec.limit));
        let weight = spec.weight.and_then(|weight| u32::try_from(weight).ok()).unwrap_or(1).max(1);
        let parent = spec.parent.filter(|parent| !parent.is_empty());
        self.queue.fair.set(&name, Some(QueueSpec { parent, weight, guarantee, limit }));
    }

    /// A queue is gone.
    pub fn queue_gone(&mut self, name: &String) {
        self.known_queues.gone(name);
        self.told_used.remove(name);
        self.queue.fair.set(name, None);
    }
}
