//! What every controller of a workload has: a queue, a recorder, and two notes of what it wrote. None acts on a picture that
//! lacks its own writes (see [`super::freshness`]), so none makes anything twice.
//!
//! Pods are made in batches of 1, 2, 4, …; a batch with a failure is the last, so that a quota or a broken webhook is not
//! hit with hundreds of requests that must fail.

use std::fmt::Debug;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::cache::{Cache, Key};
use super::context::{Caches, Context};
use super::events::{Kind, Recorder};
use super::freshness::Freshness;
use super::owners::{controller_of, controller_reference};
use super::patch::{delete_params, post_params};
use super::queue::Queue;
use super::{Error, is_namespace_terminating, is_not_found, message_of};

/// Requests of one workload under way at a time; the client's own limit is shared by all controllers.
const REQUESTS_MAX: usize = 32;

/// A kind whose objects live in namespaces and that a cache holds.
pub trait Cached:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}
impl<K> Cached for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// See the module's description.
#[derive(Debug)]
pub struct Workload {
    /// Clients, caches and settings.
    pub context: Arc<Context>,
    /// Where the keys of the workload's objects wait.
    pub queue: Arc<Queue<Key>>,
    /// Tells users what happened.
    pub events: Recorder,
    /// What was written to the objects that the workload makes.
    pub fresh: Freshness,
    /// What was written to the workload's own objects.
    pub own: Freshness,
}

/// Whether a key can be planned for.
#[derive(Debug)]
pub enum Begin<O> {
    /// Its object is gone.
    Gone,
    /// The caches do not show yet what was written.
    Stale,
    /// Its object.
    Ready(Arc<O>),
}

/// A failure to make or delete pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// `FailedCreate` or `FailedDelete`.
    pub reason: &'static str,
    /// What the API said.
    pub message: String,
}

/// What failed, for the status and for the queue.
pub type Failed = (Failure, Error);

impl Workload {
    /// The frame of a controller that tells users what happens under the name `component`.
    pub fn new(context: Arc<Context>, component: &'static str) -> Self {
        Workload {
            events: context.events.for_component(component),
            queue: Arc::new(Queue::default()),
            fresh: Freshness::default(),
            own: Freshness::default(),
            context,
        }
    }

    /// Puts the key of each object that changes on the queue.
    pub fn listen_to<O: Cached>(&self, owners: &Cache<O>) {
        let keys = self.queue.clone();
        owners.on_change(move |change| {
            if let Some(owner) = change.sides().next() {
                keys.add(Key::of(&**owner));
            }
        });
    }

    /// Puts the key of the controller of each pod that changes on the queue, and of those that might adopt it.
    pub fn listen_to_pods<O: Cached>(&self, owners: &Arc<Cache<O>>, takes: fn(&O, &Pod) -> bool) {
        let (keys, owners) = (self.queue.clone(), owners.clone());
        self.context.caches.pods.on_change(move |change| {
            for pod in change.sides() {
                let namespace = pod.namespace().unwrap_or_default();
                match controller_of(&pod.metadata) {
                    Some(owner) if owner.kind == O::kind(&()) => keys.add(Key::new(namespace, owner.name.clone())),
                    Some(_) => {}
                    None if change.new.is_some() && !pod.labels().is_empty() => {
                        for owner in owners.in_namespace(&namespace) {
                            if takes(&owner, pod) {
                                keys.add(Key::of(&*owner));
                            }
                        }
                    }
                    None => {}
                }
            }
        });
    }

    /// Starts a round for a key: its object, once the caches show all that was written for it.
    pub fn begin<O: Cached, C: Cached>(&self, key: &Key, owners: &Cache<O>, children: &Cache<C>) -> Begin<O> {
        let Some(owner) = owners.get(key) else {
            self.fresh.forget(key);
            self.own.forget(key);
            return Begin::Gone;
        };
        let caught_up = self.fresh.caught_up(key, children) && self.own.caught_up(key, owners);
        if caught_up { Begin::Ready(owner) } else { Begin::Stale }
    }

    /// The caches.
    pub fn caches(&self) -> &Caches {
        &self.context.caches
    }

    /// The API of a kind in the key's namespace.
    pub fn api<K: Cached>(&self, key: &Key) -> Api<K> {
        Api::namespaced(self.context.client.clone(), &key.namespace)
    }

    /// Makes pods for `owner`.
    pub async fn create_pods<O: Cached>(&self, key: &Key, owner: &O, pods: Vec<Pod>) -> Result<(), Failed> {
        let api: Api<Pod> = self.api(key);
        let params = post_params();
        let mut left = pods.as_slice();
        let mut batch = 1;
        while !left.is_empty() {
            let (now, later) = left.split_at(batch.min(left.len()));
            let results: Vec<_> = futures::stream::iter(now.to_vec())
                .map(|pod| {
                    let (api, params) = (&api, &params);
                    async move { api.create(params, &pod).await }
                })
                .buffer_unordered(REQUESTS_MAX)
                .collect()
                .await;
            let mut failures = Vec::new();
            for result in results {
                match result {
                    Ok(pod) => {
                        let message = format!("Created pod: {}", pod.name_any());
                        self.fresh.wrote(key, &self.context.caches.pods, &pod);
                        self.events.event(owner, Kind::Normal, "SuccessfulCreate", message);
                    }
                    Err(error) if is_namespace_terminating(&error) => return Ok(()),
                    Err(error) => {
                        let message = format!("Error creating: {}", message_of(&error));
                        self.events.event(owner, Kind::Warning, "FailedCreate", message);
                        failures.push(error);
                    }
                }
            }
            failed("FailedCreate", failures, now.len())?;
            left = later;
            batch *= 2;
        }
        Ok(())
    }

    /// Deletes pods of `owner`.
    pub async fn delete_pods<O: Cached>(&self, key: &Key, owner: &O, pods: Vec<Arc<Pod>>) -> Result<(), Failed> {
        let api: Api<Pod> = self.api(key);
        let total = pods.len();
        let results: Vec<_> = futures::stream::iter(pods)
            .map(|pod| {
                let api = &api;
                async move {
                    let uid = pod.uid().unwrap_or_default();
                    let result = api.delete(&pod.name_any(), &delete_params(&uid)).await;
                    (pod, uid, result)
                }
            })
            .buffer_unordered(REQUESTS_MAX)
            .collect()
            .await;
        let mut failures = Vec::new();
        for (pod, uid, result) in results {
            match result {
                Ok(_) => {
                    let message = format!("Deleted pod: {}", pod.name_any());
                    self.fresh.deleted(key, &self.context.caches.pods, Key::of(&*pod), uid);
                    self.events.event(owner, Kind::Normal, "SuccessfulDelete", message);
                }
                Err(error) if is_not_found(&error) => {}
                Err(error) => {
                    let message = format!("Error deleting: {}", message_of(&error));
                    self.events.event(owner, Kind::Warning, "FailedDelete", message);
                    failures.push(error);
                }
            }
        }
        failed("FailedDelete", failures, total)
    }
}

fn failed(reason: &'static str, failures: Vec<kube::Error>, total: usize) -> Result<(), Failed> {
    let count = failures.len();
    let Some(first) = failures.into_iter().next() else {
        return Ok(());
    };
    let message = message_of(&first);
    let failure = Failure { reason, message: message.clone() };
    Err((failure, Error::Partial { failed: count, total, first: message }))
}

/// The pod that a template asks for, controlled by `owner`; its name starts with the owner's.
pub fn pod_of_template<O: Cached>(owner: &O, template: Option<&PodTemplateSpec>) -> Pod {
    let template = template.cloned().unwrap_or_default();
    let meta = template.metadata.unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", owner.name_any())),
            namespace: owner.namespace(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![controller_reference(owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}
