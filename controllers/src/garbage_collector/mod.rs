//! The garbage collector: objects follow their owners.
//!
//! - Background: dependents of an owner that no longer exists are deleted.
//! - Foreground: an owner with the finalizer `foregroundDeletion` stays until the dependents that block it are gone.
//! - Orphan: an owner with the finalizer `orphan` stays until its dependents no longer name it.
//!
//! Owners match by UID. Nothing is deleted because of an owner that is merely unknown: the API is asked for the
//! owner itself, and its UID compared, before a dependent goes. The graph of owners is in [`graph`], the
//! decisions are in [`plan`], what feeds them is in [`monitor`].

pub mod counts;
mod graph;
mod monitor;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, Patch, Preconditions};
use kube::discovery::ApiResource;
use serde_json::{Value, json};

use self::counts::Counts;
use self::graph::{FOREGROUND, Graph, Node, ORPHAN};
use self::plan::{Need, Policy, Presence, Verdict, judge, need, presence};
use crate::machinery::context::Context;
use crate::machinery::discovery::Served;
use crate::machinery::events::{Kind, Recorder};
use crate::machinery::owners::release_patch;
use crate::machinery::patch::patch_params;
use crate::machinery::queue::Queue;
use crate::machinery::runner::{Controller, Outcome};
use crate::machinery::{Error, is_not_found};

/// What the feeds and the collector share.
#[derive(Debug, Default)]
pub struct Shared {
    graph: Mutex<Graph>,
    queue: Queue<String>,
    served: Mutex<Vec<Served>>,
    /// How many objects there are, for quotas.
    counts: Arc<Counts>,
    /// Every watched type has delivered its first list.
    complete: AtomicBool,
}

impl Shared {
    fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look_at(&self, uids: impl IntoIterator<Item = String>) {
        for uid in uids {
            self.queue.add(uid);
        }
    }

    fn observe(&self, uid: &str, node: Node) {
        if !uid.is_empty() {
            let (affected, new) = {
                let mut graph = self.graph();
                let new = graph.get(uid).is_none().then(|| node.clone());
                (graph.observe(uid, node), new)
            };
            if let Some(node) = new {
                self.counts.added(&node);
            }
            self.look_at(affected);
        }
    }

    fn remove(&self, uid: &str) {
        let (affected, gone) = {
            let mut graph = self.graph();
            let gone = graph.get(uid).cloned();
            (graph.remove(uid), gone)
        };
        if let Some(node) = gone {
            self.counts.removed(&node);
        }
        self.look_at(affected);
    }

    fn forget(&self, uid: &str) {
        let gone = {
            let mut graph = self.graph();
            let gone = graph.get(uid).cloned();
            graph.forget(uid);
            gone
        };
        if let Some(node) = gone {
            self.counts.removed(&node);
        }
    }

    fn set_served(&self, served: Vec<Served>) {
        *self.served.lock().unwrap_or_else(PoisonError::into_inner) = served;
    }

    fn has_served(&self) -> bool {
        let served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        !served.is_empty()
    }

    fn set_complete(&self, complete: bool) {
        self.complete.store(complete, Ordering::Release);
    }

    /// How many objects of each type there are, for quotas.
    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Whether every watched type has delivered its first list.
    pub fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// The served type that a reference names. Its version does not matter: any shows the same object.
    pub fn resolve(&self, reference: &OwnerReference) -> Option<Served> {
        let group = reference.api_version.rsplit_once('/').map_or("", |(group, _)| group);
        let served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        served.iter().find(|s| s.resource.group == group && s.resource.kind == reference.kind).cloned()
    }
}

/// See the module's description.
#[derive(Debug)]
pub struct GarbageCollector {
    context: Arc<Context>,
    shared: Arc<Shared>,
    events: Recorder,
}

impl GarbageCollector {
    /// The collector, fed by the shared caches, and the task that watches all other types.
    pub fn new(context: Arc<Context>) -> (Arc<Self>, impl Future<Output = ()> + Send) {
        let shared = Arc::new(Shared::default());
        let covered = monitor::feed_from_caches(&context.caches, &shared);
        let watching = monitor::keep_watching(
            context.client.clone(),
            context.watch_client.clone(),
            covered,
            shared.clone(),
            context.shutdown.clone(),
        );
        let collector =
            GarbageCollector { events: context.events.for_component("garbage-collector-controller"), shared, context };
        (Arc::new(collector), watching)
    }

    /// What it knows of all objects.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn api(&self, resource: &ApiResource, namespaced: bool, namespace: &str) -> Api<DynamicObject> {
        let client = self.context.client.clone();
        if namespaced { Api::namespaced_with(client, namespace, resource) } else { Api::all_with(client, resource) }
    }

    fn api_of(&self, node: &Node) -> Api<DynamicObject> {
        self.api(&node.kind.resource, node.kind.namespaced, &node.namespace)
    }

    /// The object's metadata as the API has it now; none if it is gone or another one has its name.
    async fn live(&self, uid: &str, node: &Node) -> Result<Option<ObjectMeta>, Error> {
        let live = self.api_of(node).get_metadata_opt(&node.name).await?;
        Ok(live.map(|object| object.metadata).filter(|meta| meta.uid.as_deref() == Some(uid)))
    }
}

impl Controller for GarbageCollector {
    type Key = String;

    fn name(&self) -> &'static str {
        "garbage-collector"
    }

    fn queue(&self) -> &Queue<String> {
        &self.shared.queue
    }

    async fn reconcile(&self, uid: &String) -> Result<Outcome, Error> {
        let (node, need) = {
            let graph = self.shared.graph();
            let Some(node) = graph.get(uid).cloned() else {
                return Ok(Outcome::Done);
            };
            (node, need(&graph, uid))
        };
        match need {
            Need::Nothing => {}
            Need::Examine => self.examine(uid, &node).await?,
            Need::Orphan { .. } | Need::Foreground { .. } if !self.shared.is_complete() => {
                // A dependent might be of a type whose first list is not in yet.
                return Err(Error::Retry("not all types are known yet"));
            }
            Need::Orphan { dependents } => {
                for dependent in dependents {
                    self.release(uid, &dependent).await?;
                }
                self.remove_finalizer(uid, &node, ORPHAN).await?;
            }
            Need::Foreground { blocking } if blocking.is_empty() => {
                self.remove_finalizer(uid, &node, FOREGROUND).await?;
            }
            Need::Foreground { blocking } => self.shared.look_at(blocking),
        }
        Ok(Outcome::Done)
    }
}

impl GarbageCollector {
    /// Looks at an object's owners, asking the API for those that the graph does not show, and acts.
    async fn examine(&self, uid: &str, node: &Node) -> Result<(), Error> {
        let mut owners = HashMap::new();
        for reference in &node.owners {
            let mut known = presence(&self.shared.graph(), node, reference);
            if known == Presence::Unknown {
                known = self.ask(uid, node, reference).await?;
            }
            owners.insert(reference.uid.clone(), known);
        }
        let verdict = judge(&self.shared.graph(), uid, node, &owners);
        if verdict == Verdict::Keep {
            return Ok(());
        }
        let Some(live) = self.live(uid, node).await? else {
            self.shared.remove(uid);
            return Ok(());
        };
        let fresh = Node::new(node.kind.clone(), &live);
        if fresh != *node {
            // The picture was old; the newer one is judged in another round.
            self.shared.observe(uid, fresh);
            self.shared.queue.add(uid.to_owned());
            return Err(Error::Retry("the object has changed"));
        }
        match verdict {
            Verdict::Keep => Ok(()),
            Verdict::Unlink(gone) => {
                let left: Vec<&OwnerReference> =
                    node.owners.iter().filter(|owner| !gone.contains(&owner.uid)).collect();
                self.patch_meta(node, &live, json!({"ownerReferences": left})).await
            }
            Verdict::Delete { policy, unblock } => {
                if unblock {
                    let mut owners = node.owners.clone();
                    for owner in &mut owners {
                        owner.block_owner_deletion = Some(false);
                    }
                    self.patch_meta(node, &live, json!({"ownerReferences": owners})).await?;
                    return Err(Error::Retry("deleted once it blocks nothing"));
                }
                self.delete(uid, node, &live, policy).await
            }
        }
    }

    async fn ask(&self, uid: &str, node: &Node, reference: &OwnerReference) -> Result<Presence, Error> {
        let Some(served) = self.shared.resolve(reference) else {
            return Err(Error::Retry("the owner's type is not served"));
        };
        if served.namespaced && !node.kind.namespaced {
            self.tell_impossible_owner(uid, node, reference);
            return Ok(Presence::Solid);
        }
        let api = self.api(&served.resource, served.namespaced, &node.namespace);
        let owner = api.get_metadata_opt(&reference.name).await?;
        let Some(meta) = owner.map(|owner| owner.metadata).filter(|meta| meta.uid.as_deref() == Some(&reference.uid))
        else {
            if self.shared.graph().get(&reference.uid).is_some() {
                // The owner exists elsewhere: the reference crosses namespaces, which never holds.
                self.tell_impossible_owner(uid, node, reference);
            } else {
                self.shared.graph().note_absent(&reference.uid);
            }
            return Ok(Presence::Absent);
        };
        let waits = meta.deletion_timestamp.is_some() && meta.finalizers.iter().flatten().any(|f| f == FOREGROUND);
        Ok(if waits { Presence::Waiting } else { Presence::Solid })
    }

    fn tell_impossible_owner(&self, uid: &str, node: &Node, reference: &OwnerReference) {
        let involved = ObjectReference {
            api_version: Some(node.kind.resource.api_version.clone()),
            kind: Some(node.kind.resource.kind.clone()),
            name: Some(node.name.clone()),
            namespace: (!node.namespace.is_empty()).then(|| node.namespace.clone()),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        };
        let message = format!(
            "ownerRef [{}/{}, namespace: {}, name: {}, uid: {}] does not exist in namespace \"{}\"",
            reference.api_version, reference.kind, node.namespace, reference.name, reference.uid, node.namespace
        );
        self.events.event_on(involved, Kind::Warning, "OwnerRefInvalidNamespace", message);
    }

    async fn delete(&self, uid: &str, node: &Node, live: &ObjectMeta, policy: Policy) -> Result<(), Error> {
        let params = match policy {
            Policy::Background => DeleteParams::background(),
            Policy::Foreground => DeleteParams::foreground(),
            Policy::Orphan => DeleteParams::orphan(),
        };
        let params = params.preconditions(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: live.resource_version.clone(),
        });
        tracing::debug!(
            kind = node.kind.resource.kind,
            namespace = node.namespace,
            name = node.name,
            ?policy,
            "deleting an object whose owners are gone"
        );
        match self.api_of(node).delete(&node.name, &params).await {
            Err(error) if !is_not_found(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Changes metadata, provided that the object is still as `live` shows it.
    async fn patch_meta(&self, node: &Node, live: &ObjectMeta, change: Value) -> Result<(), Error> {
        let mut metadata = change;
        metadata["resourceVersion"] = json!(live.resource_version);
        metadata["uid"] = json!(live.uid);
        let patch = json!({"metadata": metadata});
        let patched = self.api_of(node).patch_metadata(&node.name, &patch_params(), &Patch::Merge(&patch)).await;
        match patched {
            Err(error) if !is_not_found(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Makes a dependent forget its owner.
    async fn release(&self, owner: &str, dependent: &str) -> Result<(), Error> {
        let Some(node) = self.shared.graph().get(dependent).cloned() else {
            return Ok(());
        };
        let patch = release_patch(owner, dependent);
        let patched = self.api_of(&node).patch_metadata(&node.name, &patch_params(), &Patch::Strategic(&patch)).await;
        match patched {
            Ok(_) => Ok(()),
            Err(error) if is_not_found(&error) => Ok(()),
            // Another object has taken the name, or the reference is already gone.
            Err(kube::Error::Api(status)) if matches!(status.code, 409 | 422) => {
                match self.live(dependent, &node).await? {
                    Some(live) => self.release_by_merge(owner, &node, &live).await,
                    None => Ok(()),
                }
            }
            // Custom resources know no strategic merge.
            Err(kube::Error::Api(status)) if status.code == 415 => match self.live(dependent, &node).await? {
                Some(live) => self.release_by_merge(owner, &node, &live).await,
                None => Ok(()),
            },
            Err(error) => Err(error.into()),
        }
    }

    async fn release_by_merge(&self, owner: &str, node: &Node, live: &ObjectMeta) -> Result<(), Error> {
        let owners = live.owner_references.clone().unwrap_or_default();
        let left: Vec<_> = owners.iter().filter(|o| o.uid != owner).collect();
        if left.len() == owners.len() {
            return Ok(());
        }
        self.patch_meta(node, live, json!({"ownerReferences": left})).await
    }

    async fn remove_finalizer(&self, uid: &str, node: &Node, finalizer: &str) -> Result<(), Error> {
        let Some(live) = self.live(uid, node).await? else {
            self.shared.remove(uid);
            return Ok(());
        };
        let all = live.finalizers.clone().unwrap_or_default();
        let left: Vec<_> = all.iter().filter(|f| *f != finalizer).collect();
        if left.len() == all.len() {
            return Ok(());
        }
        self.patch_meta(node, &live, json!({"finalizers": left})).await
    }
}
