//! The ReplicaSet controller: keeps as many pods of a template as asked for.
//!
//! Watches ReplicaSets and Pods. Creates, deletes, adopts and releases Pods and writes the ReplicaSet's status.
//! What it decides is in [`plan`].
//!
//! It never acts on a picture that lacks its own writes (see [`crate::machinery::freshness`]), so it makes no pod
//! twice. Pods are made in batches of 1, 2, 4, …; a batch with a failure is the last, so that a quota or a broken
//! webhook is not hit with hundreds of requests that must fail.

mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt};

use self::plan::{Change, Failure};
use crate::machinery::cache::Key;
use crate::machinery::claim::claim;
use crate::machinery::context::{Caches, Context, STALE_RETRY};
use crate::machinery::events::{Kind, Recorder};
use crate::machinery::freshness::Freshness;
use crate::machinery::objects::Matcher;
use crate::machinery::owners::{controlled_by, controller_of};
use crate::machinery::patch::{delete_params, post_params, write_status};
use crate::machinery::queue::Queue;
use crate::machinery::runner::{Controller, Outcome};
use crate::machinery::{Error, is_namespace_terminating, is_not_found, message_of, pods};

/// Requests of one ReplicaSet under way at a time; the client's own limit is shared by all controllers.
const REQUESTS_MAX: usize = 32;

/// See the module's description.
#[derive(Debug)]
pub struct ReplicaSetController {
    context: Arc<Context>,
    queue: Arc<Queue<Key>>,
    events: Recorder,
    /// What was written to Pods.
    fresh: Freshness,
    /// What was written to the ReplicaSet itself.
    own: Freshness,
}

impl ReplicaSetController {
    /// The controller, listening to the shared caches.
    pub fn new(context: Arc<Context>) -> Arc<Self> {
        let queue = Arc::new(Queue::default());
        listen(&context.caches, &queue);
        Arc::new(ReplicaSetController {
            events: context.events.for_component("replicaset-controller"),
            fresh: Freshness::default(),
            own: Freshness::default(),
            queue,
            context,
        })
    }
}

fn listen(caches: &Caches, queue: &Arc<Queue<Key>>) {
    let keys = queue.clone();
    caches.replica_sets.on_change(move |change| {
        if let Some(set) = change.sides().next() {
            keys.add(Key::of(&**set));
        }
    });
    let (keys, sets) = (queue.clone(), caches.replica_sets.clone());
    caches.pods.on_change(move |change| {
        for pod in change.sides() {
            let namespace = pod.namespace().unwrap_or_default();
            match controller_of(&pod.metadata) {
                Some(owner) if owner.kind == "ReplicaSet" => {
                    keys.add(Key::new(namespace, owner.name.clone()));
                }
                Some(_) => {}
                None if change.new.is_some() && !pods::labels(pod).is_empty() => {
                    for set in sets.in_namespace(&namespace) {
                        if matcher(&set).is_ok_and(|matcher| matcher.takes(pod.labels())) {
                            keys.add(Key::of(&*set));
                        }
                    }
                }
                None => {}
            }
        }
    });
}

fn matcher(set: &ReplicaSet) -> Result<Matcher, Error> {
    let selector = set.spec.as_ref().map(|spec| spec.selector.clone()).unwrap_or_default();
    Matcher::new(&selector, || format!("ReplicaSet {}", Key::of(set)))
}

impl Controller for ReplicaSetController {
    type Key = Key;

    fn name(&self) -> &'static str {
        "replicaset"
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let caches = &self.context.caches;
        let Some(set) = caches.replica_sets.get(key) else {
            self.fresh.forget(key);
            self.own.forget(key);
            return Ok(Outcome::Done);
        };
        let caught_up = self.fresh.caught_up(key, &caches.pods) && self.own.caught_up(key, &caches.replica_sets);
        if !caught_up {
            return Ok(Outcome::After(STALE_RETRY));
        }
        let owned = claim(&self.context.client, &*set, &matcher(&set)?, &caches.pods).await?;
        let now = Timestamp::now();
        let related = self.related(&set, &owned);
        let change = plan::plan(&set, &owned, &related, now);
        let changes_pods = change != Change::None;
        let result = self.act(key, &set, change).await;
        // Pods that were just made or deleted come back as events, and the status is written then, once.
        if !changes_pods || result.is_err() {
            let failure = result.as_ref().err().map(|(failure, _)| failure);
            let status = plan::status(&set, &owned, failure, now);
            let before = set.status.clone().unwrap_or_default();
            let api: Api<ReplicaSet> = Api::namespaced(self.context.client.clone(), &key.namespace);
            if let Some(written) = write_status(&api, &set, &before, &status).await? {
                self.own.wrote(key, &caches.replica_sets, &written);
            }
        }
        result.map_err(|(_, error)| error)?;
        Ok(plan::next_available(&set, &owned, now).map_or(Outcome::Done, Outcome::After))
    }
}

type Failed = (Failure, Error);

impl ReplicaSetController {
    /// The pods of all ReplicaSets under the same owner, for telling which nodes are crowded.
    fn related(&self, set: &ReplicaSet, owned: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
        let caches = &self.context.caches;
        let Some(owner) = controller_of(&set.metadata) else {
            return owned.to_vec();
        };
        caches
            .replica_sets
            .indexed(&controlled_by(&owner.uid))
            .iter()
            .filter_map(|sibling| sibling.uid())
            .flat_map(|uid| caches.pods.indexed(&controlled_by(&uid)))
            .collect()
    }

    async fn act(&self, key: &Key, set: &ReplicaSet, change: Change) -> Result<(), Failed> {
        match change {
            Change::None => Ok(()),
            Change::Create(count) => self.create(key, set, count).await,
            Change::Delete(pods) => self.delete(key, set, pods).await,
        }
    }

    async fn create(&self, key: &Key, set: &ReplicaSet, count: usize) -> Result<(), Failed> {
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let pod = plan::new_pod(set);
        let params = post_params();
        let mut made = 0;
        let mut batch = 1;
        while made < count {
            let size = batch.min(count - made);
            let results: Vec<_> = futures::stream::iter(0..size)
                .map(|_| api.create(&params, &pod))
                .buffer_unordered(REQUESTS_MAX)
                .collect()
                .await;
            let mut failures = Vec::new();
            for result in results {
                match result {
                    Ok(pod) => {
                        let message = format!("Created pod: {}", pod.name_any());
                        self.fresh.wrote(key, &self.context.caches.pods, &pod);
                        self.events.event(set, Kind::Normal, "SuccessfulCreate", message);
                    }
                    Err(error) if is_namespace_terminating(&error) => return Ok(()),
                    Err(error) => {
                        let message = format!("Error creating: {}", message_of(&error));
                        self.events.event(set, Kind::Warning, "FailedCreate", message);
                        failures.push(error);
                    }
                }
            }
            failed("FailedCreate", failures, size)?;
            made += size;
            batch *= 2;
        }
        Ok(())
    }

    async fn delete(&self, key: &Key, set: &ReplicaSet, pods: Vec<Arc<Pod>>) -> Result<(), Failed> {
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &key.namespace);
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
                    self.events.event(set, Kind::Normal, "SuccessfulDelete", message);
                }
                Err(error) if is_not_found(&error) => {}
                Err(error) => {
                    let message = format!("Error deleting: {}", message_of(&error));
                    self.events.event(set, Kind::Warning, "FailedDelete", message);
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
    let error = Error::Partial { failed: count, total, first: message };
    Err((failure, error))
}
