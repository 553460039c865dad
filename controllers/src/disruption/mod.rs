//! The PodDisruptionBudget controller: keeps how many pods of each budget may be disrupted now.
//!
//! Watches PodDisruptionBudgets and Pods, and of their controllers the sizes. Writes the budget's status, from which the API
//! server takes when a pod is evicted. What it decides is in [`plan`].

mod plan;

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use kube::discovery::ApiResource;
use kube::{Api, ResourceExt};

use self::plan::{Observed, needs_sizes, plan};
use crate::garbage_collector::Shared;
use crate::machinery::cache::{Change, Key};
use crate::machinery::context::{Caches, Context};
use crate::machinery::events::{Kind, Recorder};
use crate::machinery::objects::Matcher;
use crate::machinery::owners::controller_of;
use crate::machinery::patch::write_status;
use crate::machinery::queue::Queue;
use crate::machinery::runner::{Controller, Outcome};
use crate::machinery::{Error, is_not_found, pods};

/// See the module's description.
#[derive(Debug)]
pub struct DisruptionController {
    context: Arc<Context>,
    graph: Arc<Shared>,
    queue: Arc<Queue<Key>>,
    events: Recorder,
}

impl DisruptionController {
    /// The controller, listening to the shared caches.
    pub fn new(context: Arc<Context>, graph: Arc<Shared>) -> Arc<Self> {
        let queue = Arc::new(Queue::default());
        listen(&context.caches, &queue);
        let events = context.events.for_component("controllermanager");
        Arc::new(DisruptionController { context, graph, queue, events })
    }
}

fn selector(budget: &PodDisruptionBudget) -> Option<LabelSelector> {
    budget.spec.as_ref()?.selector.clone()
}

/// A budget without a selector takes no pod, one with an empty selector every pod.
fn takes(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let Some(selector) = selector(budget) else { return false };
    Matcher::new(&selector, String::new).is_ok_and(|matcher| matcher.is_empty() || matcher.takes(pod.labels()))
}

/// Whether a pod's change can change what its budget allows.
fn matters(change: &Change<'_, Pod>) -> bool {
    let (Some(old), Some(new)) = (change.old, change.new) else { return true };
    let seen = |pod: &Pod| {
        (pods::is_ready(pod), pod.metadata.deletion_timestamp.is_some(), pods::phase(pod).to_owned(), pod.uid())
    };
    seen(old) != seen(new)
        || old.labels() != new.labels()
        || old.metadata.owner_references != new.metadata.owner_references
}

fn listen(caches: &Caches, queue: &Arc<Queue<Key>>) {
    let keys = queue.clone();
    caches.disruption_budgets.on_change(move |change| {
        if let Some(budget) = change.sides().next() {
            keys.add(Key::of(&**budget));
        }
    });
    let (keys, budgets) = (queue.clone(), caches.disruption_budgets.clone());
    caches.pods.on_change(move |change| {
        let Some(pod) = change.sides().next().filter(|_| matters(change)) else { return };
        for budget in budgets.in_namespace(&pod.namespace().unwrap_or_default()) {
            if change.sides().any(|pod| takes(&budget, pod)) {
                keys.add(Key::of(&*budget));
            }
        }
    });
    macro_rules! on_resize {
        ($cache:ident) => {
            let (keys, budgets) = (queue.clone(), caches.disruption_budgets.clone());
            caches.$cache.on_change(move |change| {
                let size = |set: &_| crate::disruption::Sized::size(set);
                let Some(set) = change.sides().next() else { return };
                if change.old.map(|set| size(&**set)) != change.new.map(|set| size(&**set)) {
                    for budget in budgets.in_namespace(&set.namespace().unwrap_or_default()) {
                        keys.add(Key::of(&*budget));
                    }
                }
            });
        };
    }
    on_resize!(replica_sets);
    on_resize!(replication_controllers);
    on_resize!(deployments);
}

/// What has a wanted size.
trait Sized {
    fn size(&self) -> i32;
}

macro_rules! sized {
    ($($kind:ty),*) => {$(
        impl Sized for $kind {
            fn size(&self) -> i32 {
                self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
            }
        }
    )*};
}

sized!(
    k8s_openapi::api::apps::v1::ReplicaSet,
    k8s_openapi::api::apps::v1::Deployment,
    k8s_openapi::api::core::v1::ReplicationController
);

impl Controller for DisruptionController {
    type Key = Key;

    fn name(&self) -> &'static str {
        "disruption"
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let caches = &self.context.caches;
        let Some(budget) = caches.disruption_budgets.get(key) else {
            return Ok(Outcome::Done);
        };
        let mut taken = caches.pods.in_namespace(&key.namespace);
        taken.retain(|pod| takes(&budget, pod));
        let sizes = if needs_sizes(&budget) { self.sizes(key, &taken).await } else { Ok(HashMap::new()) };
        if let Err(why) = &sizes {
            let message = format!("Failed to calculate the number of expected pods: {why}");
            self.events.event(&*budget, Kind::Warning, "CalculateExpectedPodCountFailed", message);
        }
        if taken.is_empty() {
            self.events.event(&*budget, Kind::Normal, "NoPods", "No matching pods found".to_owned());
        }
        let observed = Observed { budget: &budget, pods: &taken, sizes: &sizes, now: Timestamp::now() };
        let (status, again) = plan(&observed);
        let api: Api<PodDisruptionBudget> = Api::namespaced(self.context.client.clone(), &key.namespace);
        // A disruption taken meanwhile makes this write fail, and the budget is looked at again.
        write_status(&api, &*budget, &budget.status.clone().unwrap_or_default(), &status).await?;
        Ok(again.map_or(Outcome::Done, Outcome::After))
    }
}

impl DisruptionController {
    /// The sizes of what controls the pods, by UID; or why one has none.
    async fn sizes(&self, key: &Key, pods: &[Arc<Pod>]) -> Result<HashMap<String, i32>, String> {
        let mut sizes = HashMap::new();
        for owner in pods.iter().filter_map(|pod| controller_of(&pod.metadata)) {
            if sizes.contains_key(&owner.uid) {
                continue;
            }
            let (uid, size) = self.size(key, owner).await?;
            // Several ReplicaSets of one Deployment are one controller of its size.
            sizes.insert(owner.uid.clone(), 0);
            sizes.insert(uid, size);
        }
        Ok(sizes)
    }

    /// The UID and size of a pod's topmost scalable controller.
    async fn size(&self, key: &Key, owner: &OwnerReference) -> Result<(String, i32), String> {
        let caches = &self.context.caches;
        let name = Key::new(key.namespace.clone(), owner.name.clone());
        if owner.kind == "ReplicaSet"
            && let Some(set) = caches.replica_sets.get(&name).filter(|set| set.uid().as_deref() == Some(&owner.uid))
        {
            let deployment =
                controller_of(&set.metadata).filter(|owner| owner.kind == "Deployment").and_then(|owner| {
                    let found = caches.deployments.get(&Key::new(key.namespace.clone(), owner.name.clone()))?;
                    (found.uid().as_deref() == Some(&owner.uid)).then_some(found)
                });
            return Ok(match deployment {
                Some(deployment) => (deployment.uid().unwrap_or_default(), deployment.size()),
                None => (owner.uid.clone(), set.size()),
            });
        }
        if owner.kind == "ReplicationController"
            && let Some(set) = caches.replication_controllers.get(&name)
            && set.uid().as_deref() == Some(&owner.uid)
        {
            return Ok((owner.uid.clone(), set.size()));
        }
        self.scale_of(key, owner).await.map(|size| (owner.uid.clone(), size))
    }

    /// The size of any other controller, which its scale subresource tells.
    async fn scale_of(&self, key: &Key, owner: &OwnerReference) -> Result<i32, String> {
        let unknown = || format!("{} does not implement the scale subresource", owner.kind);
        let resource: ApiResource = self.graph.resolve(owner).map(|served| served.resource).ok_or_else(unknown)?;
        let api: Api<kube::api::DynamicObject> =
            Api::namespaced_with(self.context.client.clone(), &key.namespace, &resource);
        match api.get_scale(&owner.name).await {
            Ok(scale) => Ok(scale.spec.and_then(|spec| spec.replicas).unwrap_or(0)),
            Err(error) if is_not_found(&error) => Err(unknown()),
            Err(error) => Err(error.to_string()),
        }
    }
}
